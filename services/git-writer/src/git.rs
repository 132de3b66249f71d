//! Stock git as a child: it serves, repacks and pushes.
//!
//! Git starts further processes. All of them form one group, which ends with whoever waits for it, so that nobody who hangs up leaves
//! work behind.

use std::{
    io,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::{
    io::Errno,
    process::{Pid, Signal, kill_process_group},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, copy, sink},
    process::Command,
    time::timeout,
};
use tracing::debug;

/// How much is kept of what git writes into each of its outputs. The rest is read and dropped, for some of it may be the words of a
/// foreign server.
const KEPT: u64 = 64 << 10;

/// What one command may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long it may work.
    pub patience: Duration,
    /// How many bytes of memory each of its processes may have for itself. Files that it maps are not counted.
    pub memory: u64,
    /// The longest file that it may write, in bytes.
    pub file: Option<u64>,
    /// How much it gives way to others, as `nice` has it.
    pub niceness: i32,
}

/// What a command that has ended has said.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    /// The begin of its standard output, if that is a pipe.
    pub told: Vec<u8>,
    /// The begin of what it wrote for people.
    pub words: String,
}

/// Why it is not known how a command ends.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    #[error("git has worked for {0:?} and was ended")]
    TooLong(Duration),
    #[error("git cannot be run")]
    Io(#[from] io::Error),
}

/// Sets the limits and becomes the command, so that nothing of it runs before they hold: memory in KiB, the length of a file in
/// pieces of 512 bytes, as POSIX has it, or nothing, and the niceness. A limit that cannot be set is lower already.
const LIMITED: &str = r#"ulimit -d "$1"; [ -z "$2" ] || ulimit -f "$2"; nice=$3; shift 3; exec nice -n "$nice" "$@""#;

/// A command of git within limits that knows of the machine only where its programs are, and what is named in `inherited`: neither
/// the machine's nor anybody's own configuration counts.
pub fn command(settings: &[&str], inherited: &[&str], limits: Limits) -> Command {
    let mut command = Command::new("sh");
    let file = limits.file.map(|bytes| (bytes / 512).to_string()).unwrap_or_default();
    command.args([
        "-c",
        LIMITED,
        "sh",
        &(limits.memory / 1024).to_string(),
        &file,
        &limits.niceness.to_string(),
        "git",
    ]);
    command.env_clear().env("LC_ALL", "C").env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    command.env("GIT_TERMINAL_PROMPT", "0");
    for name in ["PATH"].iter().chain(inherited) {
        #[expect(clippy::disallowed_methods, reason = "it is handed on to a child, and means nothing here")]
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.args(settings.iter().flat_map(|setting| ["-c", setting]));
    command
}

/// Runs a command to its end, with this on its standard input. All of its processes are ended when the command ends, when it takes
/// too long, and when this is dropped.
pub async fn run(mut command: Command, patience: Duration, input: &[u8]) -> Result<Ended, Failed> {
    command.process_group(0).kill_on_drop(true);
    command.stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() }).stderr(Stdio::piped());
    timeout(patience, ended(command, input)).await.map_err(|_| Failed::TooLong(patience))?
}

async fn ended(mut command: Command, input: &[u8]) -> Result<Ended, Failed> {
    let mut child = command.spawn()?;
    let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed())).map(Group);
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let written = async {
        if let Some(mut stdin) = stdin {
            // A process that has seen enough closes its end; its exit code tells whether that was right.
            let _ = stdin.write_all(input).await;
        }
    };
    let status = async {
        let status = child.wait().await;
        // What it leaves behind would hold its outputs open.
        drop(group);
        status
    };
    let ((), told, words, status) = tokio::join!(written, begin(stdout), begin(stderr), status);
    let words = String::from_utf8_lossy(&words?).trim().to_owned();
    Ok(Ended { status: status?, told: told?, words })
}

/// The begin of what comes; the rest is read, too, for its writer would wait otherwise.
async fn begin(from: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut begin = Vec::new();
    if let Some(mut from) = from {
        (&mut from).take(KEPT).read_to_end(&mut begin).await?;
        copy(&mut from, &mut sink()).await?;
    }
    Ok(begin)
}

/// The processes of one command. They are ended when this is dropped.
struct Group(Pid);

impl Drop for Group {
    fn drop(&mut self) {
        match kill_process_group(self.0, Signal::KILL) {
            // Nobody is left.
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => debug!(%error, "processes of git were not ended"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rustix::process::test_kill_process;

    use super::*;

    const LIMITS: Limits = Limits { patience: Duration::from_secs(60), memory: 1 << 30, file: None, niceness: 0 };

    /// A command that runs a script, as git runs its helpers.
    fn script(text: &str, limits: Limits) -> Command {
        let mut command = command(&[], &[], limits);
        command.args(["-c", &format!("alias.run=!{text}"), "run"]);
        command.stdout(Stdio::piped());
        command
    }

    /// Waits until a script has written the id of a process, and returns that.
    fn process(file: &Path) -> Pid {
        loop {
            if let Ok(text) = std::fs::read_to_string(file)
                && let Some(id) = text.strip_suffix('\n')
            {
                return Pid::from_raw(id.parse().unwrap()).unwrap();
            }
            std::thread::yield_now();
        }
    }

    /// Waits until there is no such process, or it only waits for somebody to ask how it ended.
    fn gone(process: Pid) {
        let stat = format!("/proc/{}/stat", process.as_raw_nonzero());
        while test_kill_process(process).is_ok()
            && std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "))
        {
            std::thread::yield_now();
        }
    }

    #[tokio::test]
    async fn all_processes_of_a_command_end_with_whoever_waits_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("id");
        let text = format!("sleep 1000 & echo $! >{}; wait", file.display());
        let running = tokio::spawn(async move { run(script(&text, LIMITS), LIMITS.patience, b"").await });
        let process = tokio::task::spawn_blocking(move || process(&file)).await.unwrap();
        running.abort();
        tokio::task::spawn_blocking(move || gone(process)).await.unwrap();
    }

    #[tokio::test]
    async fn what_a_command_leaves_behind_ends_with_it_and_one_that_takes_too_long_is_ended() {
        let ended = run(script("echo told; sleep 1000 & exit 3", LIMITS), LIMITS.patience, b"").await.unwrap();
        assert_eq!((ended.status.code(), &*ended.told), (Some(3), &b"told\n"[..]));
        let short = Duration::from_millis(1);
        assert!(matches!(run(script("sleep 1000", LIMITS), short, b"").await, Err(Failed::TooLong(_))));
    }

    #[tokio::test]
    async fn of_endless_words_the_begin_is_kept() {
        let ended =
            run(script("head -c 1000000 /dev/zero | tee /dev/stderr", LIMITS), LIMITS.patience, b"").await.unwrap();
        assert!(ended.status.success());
        assert_eq!((ended.told.len() as u64, ended.words.len() as u64), (KEPT, KEPT));
    }

    #[tokio::test]
    async fn a_command_has_limits_of_its_own() {
        let limits = Limits { memory: 32 << 20, file: Some(1 << 20), niceness: 5, ..LIMITS };
        let ended = run(script("ulimit -d; ulimit -f; nice", limits), limits.patience, b"").await.unwrap();
        // In KiB and, as POSIX has it, in pieces of 512 bytes.
        assert_eq!(String::from_utf8_lossy(&ended.told), "32768\n2048\n5\n", "{}", ended.words);
    }
}
