//! What agent and runner say to each other: the specification, the record, the control socket, the last words.

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf, time::Duration};

use margo::Digest;
use runtime::WorkloadId;
use serde::{Deserialize, Serialize};

use crate::ProcessId;

/// In the folder of a workload: the [`Spec`], written by the agent.
pub const SPEC: &str = "spec.json";
/// In the folder of a workload: the [`Record`], written by the runner.
pub const RECORD: &str = "runner.json";
/// In the folder of a workload: the control socket.
pub const CONTROL: &str = "control";
/// In the folder of a workload: a line for each start.
pub const STARTS: &str = "starts.log";
/// In the folder of a workload: what the component writes to its stdout and stderr.
pub const LOG: &str = "log";

/// How long a runner that shall end may work on the requests it has.
pub const GRACE: Duration = Duration::from_secs(8);

/// What a runner shall run. Written by the agent, read once by the runner when it starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// Which workload this is.
    pub workload: WorkloadId,
    /// sha256 of the deployment's document.
    pub digest: Digest,
    /// The component.
    pub artifact: PathBuf,
    /// sha256 of that file.
    pub artifact_digest: Digest,
    /// The component's environment: all that it gets from outside.
    pub environment: BTreeMap<String, String>,
    /// Where it answers.
    pub listen: SocketAddr,
    /// Bytes of linear memory that all requests in work may hold together.
    pub memory_limit: u64,
    /// How long one request may take.
    pub request_timeout: Duration,
    /// How many requests may be in work; one more is answered with 503.
    pub max_requests: usize,
    /// Where this node keeps compiled components.
    pub cache: PathBuf,
    /// The folder of the workload.
    pub folder: PathBuf,
}

/// Which process runs the workload, and for which document it was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The runner.
    pub process: ProcessId,
    /// Of the specification it read.
    pub digest: Digest,
}

/// One line to the control socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Command {
    /// How are you?
    Status,
    /// Take no more requests, finish those in work, end.
    Stop,
}

/// The line that answers each command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Whether it takes requests.
    pub state: RunnerState,
    /// Which process this is.
    #[serde(flatten)]
    pub process: ProcessId,
    /// Of the document it was started for.
    pub digest: Digest,
    /// Where it answers.
    pub listen: SocketAddr,
    /// Requests it took since it started.
    pub requests: u64,
    /// Those among them that the component failed to answer.
    pub failures: u64,
    /// Those it refused because too many were in work.
    pub refused: u64,
    /// Bytes of memory of the process, shared pages by their share (PSS), where the kernel says it.
    pub memory: Option<u64>,
}

/// Whether a runner takes requests. One that is not so far has no control socket yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunnerState {
    /// It does.
    Running,
    /// It finishes the requests in work, then it ends.
    Stopping,
}

/// Why a runner ended: the last line it writes to stderr, `error[code]: message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastWords {
    /// A stable word, such as `address-in-use`.
    pub code: String,
    /// For people.
    pub message: String,
}

impl LastWords {
    /// From what a runner wrote to stderr; `None` when it died without a word of its own.
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
