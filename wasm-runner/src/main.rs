//! wasm-runner: one process, one WebAssembly component, which answers HTTP or is a command.
//!
//! Its agent starts it with a specification ([`Spec`]) and supervises it (`libs/runtime-wasm`, where the files in the
//! workload's folder and the control socket are described). A service gets a fresh instance of the component for every request,
//! with limits on memory, time and number, so that whatever a request does ends with it; a command is one instance. The
//! runner opens the workload's port and no other; the component reaches its environment, its log, the clock, and what its
//! package asks for (`host`).
//!
//! With `--wait` it does everything that takes time before it disturbs anybody: it loads its component, says `ready` over
//! its stdout, which is then a socket, and waits for `go`. Only then does it count as started.

mod artifact;
mod command;
mod compile;
mod control;
mod data;
mod egress;
mod guest;
mod host;
mod limits;
mod log;
mod server;
mod start;
mod ticker;
mod tls;

use std::{
    fs,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, Weak},
    time::Duration,
};

use anyhow::Context;
use clap::Parser;
use margo::Restart;
use runtime_wasm::{
    ProcessId,
    spec::{DONE, LOG, LastWords, Spec},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    command::{Command, CommandError},
    control::{Control, ControlSocket},
    guest::Guest,
    log::Log,
    server::Server,
    start::{Channel, Port, StartError, Told},
};

/// Whoever has connected to the control socket gets an answer, which takes well below a millisecond; nobody waits longer for who
/// does not ask or does not leave. It is less than what an agent waits beyond [`GRACE`](runtime_wasm::spec::GRACE).
const LAST_ANSWER: Duration = Duration::from_secs(1);

/// After so many tasks the runtime looks for events and timers: after each. A computing request is a task that is always ready and
/// takes a whole tick of the `ticker`; with tokio's own 61 everybody else, the request's timeout included, would wait for 61 ticks.
const EVENT_INTERVAL: u32 = 1;

/// Threads for files and names, which block. A component that keeps all of them busy holds up itself.
const BLOCKING_THREADS: usize = 8;

/// Runs one WebAssembly component (WASI 0.2) that answers HTTP (wasi:http/incoming-handler) or is a command (wasi:cli/run).
#[derive(Parser)]
#[command(version)]
struct Args {
    /// What to run: the JSON file that the agent writes into the workload's folder.
    #[arg(long)]
    spec: PathBuf,
    /// Only compile the component into the node's cache, for the runner with this process id, and end with that runner. The
    /// runner starts itself with this.
    #[arg(long, value_name = "PID")]
    compile_for: Option<u32>,
    /// Load the component, say so on stdout, and go on only when told to. Stdout must be a socket.
    #[arg(long)]
    wait: bool,
}

/// The component, ready to run.
enum Work {
    Service(Guest, SocketAddr),
    Command(Command),
}

fn main() -> ExitCode {
    disk::keep_files_private();
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = code(&error).to_owned();
            eprintln!("{}", LastWords { code, message: format!("{error:#}") });
            ExitCode::FAILURE
        }
    }
}

/// A stable word for the kind of failure.
fn code(error: &anyhow::Error) -> &'static str {
    match (error.downcast_ref::<StartError>(), error.downcast_ref::<CommandError>()) {
        (Some(error), _) => error.code(),
        (None, Some(_)) => "exited",
        (None, None) => "failed",
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let read = || format!("reading the specification {}", args.spec.display());
    let spec: Spec = serde_json::from_slice(&fs::read(&args.spec).with_context(read)?).with_context(read)?;
    if let Some(runner) = args.compile_for {
        compile::limit_this_process(&spec.compiling, runner)?;
        return artifact::compile(&spec);
    }
    let mut channel = args.wait.then(Channel::of_stdout).transpose()?;
    let engine = artifact::engine()?;
    let component = artifact::load(&engine, &spec, &args.spec, channel.as_ref())?;
    let log = Log::open(spec.folder.join(LOG))?;
    let work = match spec.listen {
        Some(listen) => Work::Service(Guest::new(&engine, &component, &spec, log.clone())?, listen),
        None => Work::Command(Command::new(&engine, &component, &spec, log.clone())?),
    };
    // One thread: small, and enough for a service on an edge node. The epochs of `ticker` keep a busy request from
    // holding up the others and the control socket.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .event_interval(EVENT_INTERVAL)
        .build()
        .context("starting the async runtime")?;
    let mut handed = None;
    if let Some(channel) = &mut channel {
        let Told::Go(port) = channel.wait() else { return Ok(()) };
        handed = port;
        // The runner of before may have begun a new file meanwhile.
        log.reopen()?;
    }
    start::record(&spec)?;
    let ended = runtime.block_on(go(&spec, work, channel, handed));
    // A thread that waits for a disk or for DNS is not waited for.
    runtime.shutdown_background();
    ended
}

/// Takes over: from here on this runner is the workload, until it ends or is told to.
async fn go(spec: &Spec, work: Work, channel: Option<Channel>, handed: Option<OwnedFd>) -> anyhow::Result<()> {
    let (stop, gave_way) = (CancellationToken::new(), CancellationToken::new());
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let mut control = Control {
        process: ProcessId::own().context("reading /proc/self/stat")?,
        digest: spec.digest,
        listen: None,
        port: Weak::new(),
        counters: Arc::default(),
        stop: stop.clone(),
        gave_way: gave_way.clone(),
        conversations: TaskTracker::new(),
    };
    let running = match work {
        Work::Service(guest, address) => {
            let port = Port::take(address, handed)?;
            start::log_start(spec)?;
            let server = Server::new(port.listen(address)?, Arc::new(guest), spec);
            control.listen = Some(server.address()?);
            control.port = Arc::downgrade(server.port());
            control.counters = server.counters();
            Running::Service(server)
        }
        Work::Command(command) => {
            start::log_start(spec)?;
            Running::Command(command)
        }
    };
    let socket = ControlSocket::open(&spec.folder)?;
    if let Some(mut channel) = channel {
        channel.listening(running.port());
    }
    let signalled = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
        std::future::pending::<()>().await;
    };
    let give_way = || {
        start::give_way(spec);
        gave_way.cancel();
    };
    let ended = tokio::select! {
        ended = running.run(spec, &stop, give_way) => ended,
        ended = socket.answer(&control) => ended,
        () = signalled => Ok(()),
    };
    // A socket that fails here has nobody left to tell.
    if socket.answer_the_last(&control).is_ok() {
        let _in_time = timeout(LAST_ANSWER, control.ended()).await;
    }
    ended
}

/// The component at work.
enum Running {
    Service(Server),
    Command(Command),
}

impl Running {
    fn port(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Service(server) => Some(server.port().as_fd()),
            Self::Command(_) => None,
        }
    }

    /// Works until `stop`, a command also until its own end, and calls `give_way` when the next runner may take over.
    async fn run(self, spec: &Spec, stop: &CancellationToken, give_way: impl FnOnce()) -> anyhow::Result<()> {
        let command = match self {
            Self::Service(server) => return server.run(stop, give_way).await,
            Self::Command(command) => command,
        };
        let ended = tokio::select! {
            biased;
            () = stop.cancelled() => None,
            ended = command.run() => Some(ended),
        };
        // Before the lock is free: whoever has it then knows that nothing is left to be done.
        if matches!(ended, Some(Ok(()))) && spec.restart == Restart::OnFailure {
            let path = spec.folder.join(DONE);
            let written = disk::write_private(&path, spec.digest.to_string().as_bytes());
            written.with_context(|| format!("writing {}", path.display()))?;
        }
        give_way();
        ended.unwrap_or(Ok(())).map_err(Into::into)
    }
}
