//! What agent and runner say to each other: the specification, the record, the start, the control socket, the last words.

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf, time::Duration};

use margo::{Destination, Digest, Restart, Size};
use runtime::WorkloadId;
use serde::{Deserialize, Serialize};

use crate::ProcessId;

/// The file in the folder of a workload that holds the [`Spec`] in force. The agent writes it.
pub const SPEC: &str = "spec.json";
/// The file in the folder of a workload that holds the [`Spec`] of a revision that is prepared and not in force yet.
pub const NEXT: &str = "next.json";
/// The file in the folder of a workload that holds the [`Record`]. The runner writes it.
pub const RECORD: &str = "runner.json";
/// The control socket in the folder of a workload.
pub const CONTROL: &str = "control";
/// The file in the folder of a workload that has a line for each start.
pub const STARTS: &str = "starts.log";
/// The file in the folder of a workload with what the component writes to its stdout and stderr.
pub const LOG: &str = "log";
/// The file that [`LOG`] became when it was full.
pub const FULL_LOG: &str = "log.1";
/// The folder in the folder of a workload that a component sees as [`DATA_IN_COMPONENT`], if its package asks for it.
pub const DATA: &str = "data";
/// The path by which a component knows its data folder.
pub const DATA_IN_COMPONENT: &str = "/data";
/// The file in the folder of a workload with the digest of the revision whose command has done what it was to do. The
/// runner writes it before it ends, so it does not matter whether an agent sees the end.
pub const DONE: &str = "done";

/// What a runner that was started with `--wait` writes to its stdout, which is a socket, when it could answer at once.
pub const READY: &str = "ready";
/// What the agent then sends to have the runner take over, with the listening socket of the workload's port when the agent
/// has it. A runner whose socket ends before that ends too, so that none
/// is left behind when the agent dies.
pub const GO: &str = "go";
/// What the runner writes when it takes requests or its command runs. With it goes the listening socket, if there is one.
pub const LISTENING: &str = "listening";

/// The code of the [`LastWords`] of a runner whose component is not the one that was ordered, or no component at all.
pub const ARTIFACT: &str = "artifact";

/// How long a runner that is told to end may go on working on the requests it has.
pub const GRACE: Duration = Duration::from_secs(8);

/// What a runner shall run. Written by the agent, read once by the runner when it starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// The workload that this is a revision of.
    pub workload: WorkloadId,
    /// The digest of all that the component is made of, by which the agent knows this revision.
    pub digest: Digest,
    /// The file of the component.
    pub artifact: PathBuf,
    /// The sha256 of that file, which the runner compares before it loads the file.
    pub artifact_digest: Digest,
    /// The sha256 of the component that ran before this one, to which a failed update goes back.
    #[serde(default)]
    pub before: Option<Digest>,
    /// The component's environment: all that it gets from outside.
    pub environment: BTreeMap<String, String>,
    /// The address on which the workload answers. `None` when it is a command, which answers nothing.
    pub listen: Option<SocketAddr>,
    /// What becomes of a command that has ended.
    pub restart: Restart,
    /// The size of the data folder. `None` when the component has none.
    pub data: Option<Size>,
    /// Where the component may connect to.
    pub egress: Vec<Destination>,
    /// The collector of telemetry that the component is told of in its environment.
    #[serde(default)]
    pub collector: Option<CollectorSpec>,
    /// Bytes of linear memory and of tables that all requests in work may hold together.
    pub memory_limit: u64,
    /// How long one request may take.
    pub request_timeout: Duration,
    /// How many requests may be in work; one more is answered with 503.
    pub max_requests: usize,
    /// What compiling the component may take.
    #[serde(default)]
    pub compiling: CompileLimits,
    /// Where this node keeps compiled components.
    pub cache: PathBuf,
    /// The file with the key by which this node knows what it compiled itself.
    pub cache_key: PathBuf,
    /// The folder of the workload.
    pub folder: PathBuf,
}

impl Spec {
    /// Returns the component to which an update from this revision to that component goes back when it fails.
    pub fn way_back(&self, next: Digest) -> Option<Digest> {
        if next == self.artifact_digest { self.before } else { Some(self.artifact_digest) }
    }
}

/// The collector of telemetry of this node, as far as a runner has to do with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectorSpec {
    /// Where the component may connect to beside what its package names.
    pub destinations: Vec<Destination>,
    /// The folder with the certificate by which the collector is known. The component sees it as
    /// [`runtime::CERTIFICATE_FOLDER`]. Without it, the collector is known as every other server is.
    pub certificate: Option<PathBuf>,
}

/// What compiling one component may take. A component that needs more is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompileLimits {
    /// Bytes of memory that the compiler may hold.
    pub memory: u64,
    /// The time that processors may spend on it, in whole seconds: what is left over counts as one more.
    pub processor_time: Duration,
    /// How long it may take on a node that has other work to do.
    pub time: Duration,
}

impl Default for CompileLimits {
    /// A component of 30 MiB, an interpreter with its library, takes some hundred MiB and half a minute.
    fn default() -> Self {
        Self { memory: 1 << 30, processor_time: Duration::from_secs(120), time: Duration::from_secs(300) }
    }
}

/// The process that holds the workload's lock and port, and the revision that it was started for. A runner writes the
/// record when it takes over and removes it before it gives the lock up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The process of the runner.
    pub process: ProcessId,
    /// The digest in the specification that the runner has read.
    pub digest: Digest,
}

/// A line that the agent sends to the control socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Command {
    /// Asks how the runner is.
    Status,
    /// Asks for the listening socket, which goes with the answer as long as the runner has it.
    Port,
    /// Tells the runner to take no more requests, to finish those in work and to end. It answers when the port and the
    /// lock are free for the next one.
    Stop,
}

/// The line with which the runner answers each command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Whether the runner takes requests.
    pub state: RunnerState,
    /// The process that answers. What it has used, the kernel tells whoever asks.
    #[serde(flatten)]
    pub process: ProcessId,
    /// The digest in the specification that the runner has read.
    pub digest: Digest,
    /// The address on which the workload answers, if it does.
    pub listen: Option<SocketAddr>,
    /// Requests that the runner took since it started.
    pub requests: u64,
    /// Those among them that the component failed to answer.
    pub failures: u64,
    /// Requests that the runner refused because too many were in work.
    pub refused: u64,
    /// How long it took to make the instances for the requests, one for each.
    #[serde(default)]
    pub instantiating: Duration,
}

/// Whether a runner takes requests. One that is not so far has no control socket yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunnerState {
    /// The runner takes requests and answers them.
    Running,
    /// The runner finishes the requests in work, then it ends.
    Stopping,
}

/// Why a runner ended: the last line it writes to stderr, `error[code]: message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastWords {
    /// A stable word, such as `address-in-use`.
    pub code: String,
    /// The reason in words for people.
    pub message: String,
}

impl LastWords {
    /// Finds the last words in what a runner wrote to stderr; returns `None` when it died without a word of its own.
    pub fn find(stderr: &str) -> Option<Self> {
        let (code, message) = stderr.lines().rev().find_map(|line| line.strip_prefix("error[")?.split_once("]: "))?;
        Some(Self { code: code.to_owned(), message: message.to_owned() })
    }
}

impl fmt::Display for LastWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One line, or `find` would cut it.
        write!(f, "error[{}]: {}", self.code, self.message.replace(['\n', '\r'], " "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_of_a_runner_are_found_behind_other_output() {
        let words = LastWords { code: "address-in-use".into(), message: "listening on 127.0.0.1:1:\nin use".into() };
        let found = LastWords::find(&format!("a library's warning\n{words}\nnote: a backtrace\n"));
        assert_eq!(found, Some(LastWords { message: "listening on 127.0.0.1:1: in use".into(), ..words }));
        assert_eq!(LastWords::find("thread 'main' panicked\n"), None);
    }

    #[test]
    fn a_command_is_one_small_object() {
        assert_eq!(serde_json::to_string(&Command::Status).unwrap(), r#"{"command":"status"}"#);
    }
}
