//! wasm-runner: one process, one WebAssembly component that answers HTTP.
//!
//! Its agent starts it with a specification ([`Spec`]) and supervises it (`libs/runtime-wasm`, where the files in the
//! workload's folder and the control socket are described). It gives every request a fresh instance of the component,
//! with limits on memory, time and number, so that whatever a request does ends with it. It opens the workload's
//! port and no other; the component reaches nothing but its environment, its log and the clock.

mod artifact;
mod control;
mod guest;
mod limits;
mod log;
mod server;
mod start;
mod ticker;

use std::{fs, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context;
use clap::Parser;
use runtime_wasm::{
    ProcessId,
    spec::{LOG, LastWords, Spec},
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{control::Control, guest::Guest, log::Log, server::Server, start::StartError};

/// Runs one WebAssembly component that answers HTTP (wasi:http/incoming-handler, WASI 0.2).
#[derive(Parser)]
#[command(version)]
struct Args {
    /// What to run: the JSON file that the agent writes into the workload's folder.
    #[arg(long)]
    spec: PathBuf,
    /// Only compile the component into the node's cache. The runner starts itself with this, so that the memory that
    /// compiling takes is given back.
    #[arg(long)]
    compile: bool,
}

fn main() -> ExitCode {
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
    if args.compile {
        return artifact::compile(&spec);
    }
    start::record(&spec)?;
    let engine = artifact::engine()?;
    let component = artifact::load(&engine, &spec, &args.spec)?;
    let log = Log::open(spec.folder.join(LOG))?;
    let guest = Guest::new(&engine, &component, &spec, log)?;
    // One thread: small, and enough for a service on an edge node. The epochs of `ticker` keep a busy request from
    // holding up the others and the control socket.
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the async runtime")?
        .block_on(serve(spec, guest))
}

async fn serve(spec: Spec, guest: Guest) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let socket = start::bind(spec.listen)?;
    start::log_start(&spec)?;
    let server = Server::listen(socket, spec.listen, Arc::new(guest), &spec)?;
    let control = Control {
        process: ProcessId::own().context("reading /proc/self/stat")?,
        digest: spec.digest,
        listen: server.address()?,
        counters: server.counters(),
        stop: stop.clone(),
    };
    let control = control.listen(&spec.folder)?;
    let signalled = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        result = server.run(&stop) => result,
        result = control => result,
        () = signalled => Ok(()),
    }
}
