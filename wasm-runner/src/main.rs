//! wasm-runner: one process, one WebAssembly component that answers HTTP.
//!
//! Its agent starts it with a specification ([`Spec`]) and supervises it (`libs/runtime-wasm`, where the files in the
//! workload's folder and the control socket are described). It gives every request a fresh instance of the component,
//! with limits on memory, time and number, so that whatever a request does ends with it. It opens the workload's
//! port and no other; the component reaches nothing but its environment, its log and the clock.
//!
//! With `--wait` it does everything that takes time before it disturbs anybody: it loads its component, says `ready` over
//! its stdout, which is then a socket, and waits for `go`. Only then does it count as started.

mod artifact;
mod compile;
mod control;
mod guest;
mod limits;
mod log;
mod server;
mod start;
mod ticker;

use std::{fs, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use clap::Parser;
use runtime_wasm::{
    ProcessId,
    spec::{LOG, LastWords, Spec},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    control::Control,
    guest::Guest,
    log::Log,
    server::Server,
    start::{Channel, StartError},
};

/// An answer at the control socket takes well below a millisecond; nobody waits longer for who does not read it.
const LAST_ANSWER: Duration = Duration::from_millis(100);

/// Runs one WebAssembly component that answers HTTP (wasi:http/incoming-handler, WASI 0.2).
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

fn main() -> ExitCode {
    disk::keep_files_private();
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = error.downcast_ref::<StartError>().map_or("failed", StartError::code).to_owned();
            eprintln!("{}", LastWords { code, message: format!("{error:#}") });
            ExitCode::FAILURE
        }
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
    let guest = Guest::new(&engine, &component, &spec, log.clone())?;
    // One thread: small, and enough for a service on an edge node. The epochs of `ticker` keep a busy request from
    // holding up the others and the control socket.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the async runtime")?;
    if let Some(channel) = &mut channel {
        if !channel.wait() {
            return Ok(());
        }
        // The runner of before may have begun a new file meanwhile.
        log.reopen()?;
    }
    start::record(&spec)?;
    runtime.block_on(serve(spec, guest, channel))
}

async fn serve(spec: Spec, guest: Guest, channel: Option<Channel>) -> anyhow::Result<()> {
    let (stop, gave_way) = (CancellationToken::new(), CancellationToken::new());
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let socket = start::bind(spec.listen)?;
    start::log_start(&spec)?;
    let server = Server::listen(socket, spec.listen, Arc::new(guest), &spec)?;
    let conversations = TaskTracker::new();
    let control = Control {
        process: ProcessId::own().context("reading /proc/self/stat")?,
        digest: spec.digest,
        listen: server.address()?,
        counters: server.counters(),
        stop: stop.clone(),
        gave_way: gave_way.clone(),
        conversations: conversations.clone(),
    };
    let control = control.listen(&spec.folder)?;
    if let Some(mut channel) = channel {
        channel.listening();
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
        start::give_way(&spec);
        gave_way.cancel();
    };
    tokio::select! {
        result = server.run(&stop, give_way) => result?,
        result = control => result?,
        () = signalled => {}
    }
    // An agent that asked this runner to stop has its answer by then.
    conversations.close();
    let _in_time = timeout(LAST_ANSWER, conversations.wait()).await;
    Ok(())
}
