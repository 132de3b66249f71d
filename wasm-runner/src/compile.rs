//! Compiling in a child process: within limits, and never longer than somebody waits for it.
//!
//! The runner, which may live for months, so never holds the compiler's memory (about 15 MiB), and a component that
//! breaks the compiler breaks only that. The child limits itself before it looks at the component: whoever wrote the
//! component has no say in that. It is killed with its runner, and a runner whose agent has gone kills it.

use std::{
    env,
    io::Read,
    os::{fd::AsFd, unix::process::ExitStatusExt},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use runtime_wasm::spec::{ARTIFACT, CompileLimits, LastWords};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{
        Pid, PidfdFlags, Resource, Rlimit, Signal, getppid, getrlimit, pidfd_open, set_parent_process_death_signal,
        setrlimit,
    },
};

use crate::start::{Channel, StartError};

/// From the signal that says that the processor time is over until the kernel kills without a word.
const LAST_SECONDS: u64 = 5;
/// Last words are one line; a panic writes some more.
const MAX_STDERR: u64 = 64 * 1024;
/// What the standard library writes when memory is not given, just before it aborts.
const NO_MEMORY: &str = "memory allocation of ";

/// Holds this process to the limits, and has it killed when the runner with this process id ends.
pub fn limit_this_process(limits: &CompileLimits, runner: u32) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("tying this process to its runner")?;
    // It may have ended before.
    let parent = getppid().map(|parent| parent.as_raw_nonzero().get().unsigned_abs());
    ensure!(parent == Some(runner), "the runner {runner} has ended");
    let seconds = whole_seconds(limits.processor_time);
    // Of memory that can be written to, not of addresses: allocators reserve many of those for each processor.
    limit(Resource::Data, limits.memory, limits.memory)?;
    limit(Resource::Cpu, seconds, seconds.saturating_add(LAST_SECONDS))?;
    // The specification in memory has the parameters of the workload.
    limit(Resource::Core, 0, 0)
}

fn limit(resource: Resource, current: u64, maximum: u64) -> anyhow::Result<()> {
    // Where the operator allows less, nobody may have more.
    let allowed = getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let limit = Rlimit { current: Some(current.min(allowed)), maximum: Some(maximum.min(allowed)) };
    setrlimit(resource, limit).with_context(|| format!("limiting {resource:?}"))
}

fn whole_seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0))
}

/// Compiles the component of this specification into the cache, in a child process. The thread that calls this has to be
/// one that lives as long as the runner: the child is killed when that thread ends.
pub fn in_child(limits: &CompileLimits, spec_file: &Path, agent: Option<&Channel>) -> anyhow::Result<()> {
    let mut child = Command::new(env::current_exe().context("finding this program")?)
        .arg("--compile-for")
        .arg(std::process::id().to_string())
        .arg("--spec")
        .arg(spec_file)
        // Not the runner's own stdin and stdout: these are the lock of the workload and the agent's socket.
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting the compiler")?;
    let awaited = wait(&child, limits.time, agent);
    if !matches!(awaited, Ok(Awaited::Ended)) {
        // It is gone already, or goes now.
        let _ended = child.kill();
    }
    let status = child.wait().context("waiting for the compiler")?;
    match awaited? {
        Awaited::Ended if status.success() => Ok(()),
        Awaited::Ended => Err(why(status, &stderr(&mut child), limits)),
        Awaited::Overdue => bail!("compiling the component did not end within {:?}", limits.time),
        Awaited::AgentGone => bail!("compiling the component: nobody waits for it any more"),
    }
}

/// What came first.
enum Awaited {
    Ended,
    Overdue,
    AgentGone,
}

fn wait(child: &Child, limit: Duration, agent: Option<&Channel>) -> anyhow::Result<Awaited> {
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).context("watching the compiler")?;
    let deadline = Instant::now() + limit;
    loop {
        let mut watched = vec![PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
        watched.extend(agent.map(|agent| PollFd::from_borrowed_fd(agent.socket(), PollFlags::RDHUP)));
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).context("waiting for the compiler")?;
        match poll(&mut watched, Some(&left)) {
            Ok(0) => return Ok(Awaited::Overdue),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("waiting for the compiler"),
            Ok(_) if watched[0].revents().is_empty() => return Ok(Awaited::AgentGone),
            Ok(_) => return Ok(Awaited::Ended),
        }
    }
}

fn stderr(child: &mut Child) -> String {
    let mut bytes = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        // What cannot be read is missing in a message, and no more.
        let _read = stderr.take(MAX_STDERR).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Why a compiler failed. What lies with the component stays so; anything else may pass.
fn why(status: ExitStatus, stderr: &str, limits: &CompileLimits) -> anyhow::Error {
    let CompileLimits { memory, processor_time, .. } = limits;
    if status.signal() == Some(Signal::XCPU.as_raw()) {
        let message = format!("compiling the component takes more than {processor_time:?} of processor time");
        return StartError::Artifact(message).into();
    }
    if status.signal() == Some(Signal::ABORT.as_raw()) && stderr.contains(NO_MEMORY) {
        let message = format!("compiling the component takes more than {} MiB of memory", memory >> 20);
        return StartError::Artifact(message).into();
    }
    match LastWords::find(stderr) {
        Some(LastWords { code, message }) if code == ARTIFACT => StartError::Artifact(message).into(),
        Some(LastWords { message, .. }) => anyhow::anyhow!("compiling the component: {message}"),
        None => anyhow::anyhow!("compiling the component: {status}"),
    }
}
