//! Programs that run as children of a test, and the runners that their agents leave behind.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use testkit::wait_for;

/// The path of a program that `cargo build --workspace` made in the target folder of this test.
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a program has a path");
    let folder = own.parent().expect("a program lies in a folder");
    // A test lies in target/<profile>/deps, one below the programs; a program lies beside them.
    let folder = if folder.ends_with("deps") { folder.parent().expect("deps lies in a folder") } else { folder };
    let path = folder.join(name);
    assert!(path.exists(), "{} is missing: run `cargo build --workspace` first (`make test` does)", path.display());
    path
}

/// A running program, which is killed when this value is dropped.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program. What it writes is appended to `<folder>/<name>.log`.
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

    /// The process id, which the kernel gives to nobody else while this value lives.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the process, which must still be there.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a process id is not zero");
        kill_process(pid, signal).unwrap_or_else(|error| panic!("signalling {}: {error}", self.name));
    }

    /// Sends SIGKILL to the program and waits for its end.
    pub fn kill(&mut self) {
        self.child.kill().expect("killing a child");
        self.child.wait().expect("waiting for a child");
    }

    /// How it ended, when it has ended.
    pub fn exit(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("waiting for a child")
    }

    /// Waits until the program has ended by itself, and returns how.
    pub async fn ended(&mut self) -> ExitStatus {
        let (name, log) = (self.name.clone(), self.log.clone());
        wait_for(&format!("{name} to end"), async || {
            let status = self.child.try_wait().expect("waiting for a child");
            status.ok_or_else(|| last_lines(&log))
        })
        .await
    }

    /// Waits until the program stands still at its stop point.
    pub async fn stopped(&mut self) {
        let stat = format!("/proc/{}/stat", self.child.id());
        let (name, log) = (self.name.clone(), self.log.clone());
        wait_for(&format!("{name} to reach its stop point"), async || {
            let stat = fs::read_to_string(&stat).map_err(|error| error.to_string())?;
            // The state follows the program's name, which stands in parentheses and may hold anything.
            let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
            if state == Some('T') { Ok(()) } else { Err(last_lines(&log)) }
        })
        .await;
    }

    /// All that the program wrote, also in earlier runs with the same name and folder.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.name, last_lines(&self.log));
        }
        // Both fail when the program has ended by itself, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last 25 lines of a log, for messages; empty when there is no log.
pub fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}

/// Runs a program to its end and returns what it wrote.
pub fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("running {command:?}: {error}"))
}

/// Kills every wasm-runner whose start was noted under this folder and that still runs: they outlive their agent.
pub fn kill_runners(folder: &Path) {
    for line in starts(folder) {
        if line.is_alive()
            && let Some(pid) = Pid::from_raw(line.pid)
        {
            // The runner may have ended since, and then there is nobody to kill.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// A start of a wasm-runner, as it noted it in `starts.log` before it listened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The name of the workload's folder: deployment and component with a dot between them.
    pub workload: String,
    /// The process id of the runner.
    pub pid: i32,
    /// When the kernel started the process, in ticks since the machine's start. Together with the id this names one process
    /// for ever.
    pub kernel_start: u64,
    /// The digest of the component's revision for which the runner was started.
    pub digest: String,
}

impl Start {
    /// Whether that very process still runs. Its id may be another's by now, but then the start time differs.
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

/// A wasm-runner that serves, or one that was started by itself and is about to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runner {
    /// The process id, which another process may have after this one has ended.
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

    /// Kills the process with SIGKILL, unless it has ended already.
    pub fn kill(&self) {
        if self.is_alive()
            && let Some(pid) = Pid::from_raw(self.pid)
        {
            // It may have ended since.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// All wasm-runners that serve and whose workload has its folder somewhere under this one, as the kernel lists them. The
/// processes are looked at one after another, so two of them need not have run at the same moment.
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
    let (program, prepared, spec) = match arguments.as_slice() {
        [program, option, spec, _end] if option == "--spec" => (program, false, spec),
        [program, wait, option, spec, _end] if wait == "--wait" && option == "--spec" => (program, true, spec),
        _ => return None,
    };
    let is_runner = Path::new(program.as_ref()).file_name().is_some_and(|name| name == "wasm-runner");
    let folder = Path::new(spec.as_ref()).parent().filter(|_| is_runner)?.to_owned();
    // Beside the runner that serves there may be one that was prepared and waits, and one that has given up its port and
    // finishes its last requests.
    if prepared && !listens(pid) {
        return None;
    }
    let (parent, kernel_start) = living(pid)?;
    Some((parent, Runner { pid, kernel_start, folder }))
}

/// Whether a process has a TCP port open.
fn listens(pid: i32) -> bool {
    let sockets: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|descriptor| fs::read_link(descriptor.path()).ok()?.to_str().map(str::to_owned))
        .filter_map(|target| Some(target.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
    table.lines().any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        // The fourth field is the state, of which 0A is LISTEN; the tenth is the socket's inode.
        fields.get(3) == Some(&"0A") && fields.get(9).is_some_and(|inode| sockets.iter().any(|socket| socket == inode))
    })
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
                let workload = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
                found.extend(text.lines().filter_map(|line| {
                    let mut fields = line.split(' ');
                    Some(Start {
                        workload: workload.clone(),
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
