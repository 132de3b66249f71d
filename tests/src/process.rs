//! Programs as children of a test.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use testkit::wait_for;

/// A program that `cargo build --workspace` made.
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a program has a path");
    let folder = own.parent().expect("a program lies in a folder");
    // A test lies in target/<profile>/deps, one below the programs; a program lies beside them.
    let folder = if folder.ends_with("deps") { folder.parent().expect("deps lies in a folder") } else { folder };
    let path = folder.join(name);
    assert!(path.exists(), "{} is missing: run `cargo build --workspace` first (`make test` does)", path.display());
    path
}

/// A running program. It is killed with this value.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program; its output goes to `<folder>/<name>.log`.
    pub fn start(name: &str, folder: &Path, command: &mut Command) -> Self {
        let log = folder.join(format!("{name}.log"));
        let file = fs::File::options().create(true).append(true).open(&log).expect("a log file");
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a log file"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("starting {name}: {error}"));
        Self { name: name.to_owned(), child, log }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a process id is not zero");
        kill_process(pid, signal).unwrap_or_else(|error| panic!("signalling {}: {error}", self.name));
    }

    /// Ends it without warning.
    pub fn kill(&mut self) {
        self.child.kill().expect("killing a child");
        self.child.wait().expect("waiting for a child");
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let (name, log) = (self.name.clone(), self.log.clone());
        wait_for(&format!("{name} to end"), async || {
            let status = self.child.try_wait().expect("waiting for a child");
            status.ok_or_else(|| last_lines(&log))
        })
        .await
    }

    /// Waits until it stands still at its stop point.
    pub async fn stopped(&mut self) {
        let stat = format!("/proc/{}/stat", self.child.id());
        let (name, log) = (self.name.clone(), self.log.clone());
        wait_for(&format!("{name} to reach its stop point"), async || {
            let stat = fs::read_to_string(&stat).map_err(|error| error.to_string())?;
            // After the program's name, which stands in parentheses and may hold anything.
            let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
            if state == Some('T') { Ok(()) } else { Err(last_lines(&log)) }
        })
        .await;
    }

    /// What it wrote.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.name, last_lines(&self.log));
        }
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The end of a log.
pub fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}

/// Runs a program to its end.
pub fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("running {command:?}: {error}"))
}

/// Kills every wasm-runner whose start was noted under this folder and that still runs: they outlive their agent.
pub fn kill_runners(folder: &Path) {
    for line in starts(folder) {
        if line.is_alive()
            && let Some(pid) = Pid::from_raw(line.pid)
        {
            // It may have ended since.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// One line that a wasm-runner wrote before it listened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// Its process id.
    pub pid: i32,
    /// When the kernel started it, in ticks since the machine's start: with the id, this names one process for ever.
    pub kernel_start: u64,
    /// The deployment's document for which it was started.
    pub digest: String,
}

impl Start {
    /// Whether that very process still runs: the same number may be another's by now, the start time is not.
    pub fn is_alive(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        let fields = stat.rsplit(") ").next().unwrap_or_default();
        let state = fields.split(' ').next().unwrap_or_default();
        // Field 22 of the whole line; the first after the name is field 3.
        let start = fields.split(' ').nth(19).and_then(|field| field.parse::<u64>().ok());
        start == Some(self.kernel_start) && state != "Z"
    }
}

/// All starts that were noted anywhere under a folder.
pub fn starts(folder: &Path) -> Vec<Start> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|name| name == "starts.log") {
                let text = fs::read_to_string(&path).unwrap_or_default();
                found.extend(text.lines().filter_map(|line| {
                    let mut fields = line.split(' ');
                    Some(Start {
                        pid: fields.next()?.parse().ok()?,
                        kernel_start: fields.next()?.parse().ok()?,
                        digest: fields.next()?.to_owned(),
                    })
                }));
            }
        }
    }
    found
}
