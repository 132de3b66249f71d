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

    /// How it ended, when it has ended.
    pub fn exit(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("waiting for a child")
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
        living(self.pid).is_some_and(|(_, kernel_start)| kernel_start == self.kernel_start)
    }
}

/// The parent of the process that has this number now, and when the kernel started it; `None` when there is no such
/// process, or only its exit status.
fn living(pid: i32) -> Option<(i32, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit(") ").next()?.split(' ');
    // After the program's name come state and parent, fields 3 and 4 of the whole line; the start is field 22.
    let (state, parent) = (fields.next()?, fields.next()?.parse().ok()?);
    let kernel_start = fields.nth(17)?.parse().ok()?;
    (state != "Z").then_some((parent, kernel_start))
}

/// A wasm-runner that serves, or is about to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runner {
    /// Its process id.
    pub pid: i32,
    /// When the kernel started it, in ticks since the machine's start.
    pub kernel_start: u64,
    /// The folder of its workload.
    pub folder: PathBuf,
}

impl Runner {
    /// Whether that very process still runs. A process that has given its memory back counts as ended: it closes its
    /// files after that, and with them the lock of its workload.
    pub fn is_alive(&self) -> bool {
        runner(self.pid).is_some_and(|(_, runner)| runner == *self)
    }

    /// Ends it without warning.
    pub fn kill(&self) {
        if self.is_alive()
            && let Some(pid) = Pid::from_raw(self.pid)
        {
            // It may have ended since.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// All wasm-runners whose workload has its folder somewhere under this one, as the kernel lists them: also those that
/// have not noted their start yet. The processes are looked at one after another, so two of them need not have run at the
/// same moment.
pub fn runners(folder: &Path) -> Vec<Runner> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|process| process.file_name().to_str()?.parse().ok());
    let found: Vec<_> = pids.filter_map(runner).filter(|(_, runner)| runner.folder.starts_with(folder)).collect();
    // Between its fork and its exec, a runner's compiler looks like the runner.
    let is_child = |parent: &i32| found.iter().any(|(_, runner)| runner.pid == *parent);
    found.iter().filter(|(parent, _)| !is_child(parent)).map(|(_, runner)| runner.clone()).collect()
}

/// The wasm-runner that has this process id, and its parent; `None` for other programs, also for one that compiles.
fn runner(pid: i32) -> Option<(i32, Runner)> {
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let arguments: Vec<_> = command.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    let [program, option, spec, _end] = arguments.as_slice() else { return None };
    let is_runner = Path::new(program.as_ref()).file_name().is_some_and(|name| name == "wasm-runner");
    let folder = Path::new(spec.as_ref()).parent().filter(|_| is_runner && option == "--spec")?.to_owned();
    let (parent, kernel_start) = living(pid)?;
    Some((parent, Runner { pid, kernel_start, folder }))
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
