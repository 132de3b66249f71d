//! A command: one instance of the component, which runs from its beginning to its end (`wasi:cli/run`).

use std::{
    pin::Pin,
    task::{Context as TaskContext, Poll},
};

use runtime_wasm::spec::Spec;
use wasmtime::{Engine, component::Component};
use wasmtime_wasi::{I32Exit, p2::bindings::CommandPre};

use crate::{
    host::{Host, State, linker},
    log::Log,
    start::StartError,
    ticker::Ticker,
};

/// What a command may hold of the runner's things at once. It lives longer than a request, and may have many files open.
const MAX_HANDLES: usize = 1024;

/// A command that is ready to run.
pub struct Command {
    prepared: CommandPre<State>,
    host: Host,
    ticker: Ticker,
}

/// Why a command did not do what it was to do.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It ended by itself and said that it failed. WASI 0.2 knows no other numbers: a program that ends with 3 ends with 1 there.
    #[error("the command ended with a failure")]
    Ended,
    /// It trapped, or there is no memory left for it.
    #[error("the command failed: {0:#}")]
    Failed(wasmtime::Error),
}

impl Command {
    /// Links the component; it does not run yet.
    pub fn new(engine: &Engine, component: &Component, spec: &Spec, log: Log) -> anyhow::Result<Self> {
        let prepared = linker(engine)?
            .instantiate_pre(component)
            .and_then(CommandPre::new)
            .map_err(|error| StartError::Artifact(format!("the component cannot run as wasi:cli/run: {error:#}")))?;
        Ok(Self { prepared, host: Host::new(spec, log)?, ticker: Ticker::start(engine.clone())? })
    }

    /// Runs until the command ends. A command is told nothing when it is to stop: WASI 0.2 has no signals, so whoever drops this
    /// ends it where it stands.
    pub async fn run(&self) -> Result<(), CommandError> {
        let run = async {
            let mut store = self.host.store(self.prepared.engine(), MAX_HANDLES)?;
            let instance = self.prepared.instantiate_async(&mut store).await?;
            instance.wasi_cli_run().call_run(&mut store).await
        };
        let ended = match (Computing { ticker: &self.ticker, work: Box::pin(run) }).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(())) => Err(CommandError::Ended),
            Err(error) => match error.downcast_ref::<I32Exit>() {
                Some(I32Exit(0)) => Ok(()),
                Some(I32Exit(_)) => Err(CommandError::Ended),
                None => Err(CommandError::Failed(error)),
            },
        };
        ended.inspect_err(|error| self.host.log(&format!("wasm-runner: {error}\n")))
    }
}

/// Work that counts as such while it computes. A command waits most of its life, for the time or for a peer, and the ticker
/// sleeps as long as that.
struct Computing<'a, F> {
    ticker: &'a Ticker,
    work: Pin<Box<F>>,
}

impl<F: Future> Future for Computing<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<F::Output> {
        let _in_work = self.ticker.begin();
        self.work.as_mut().poll(context)
    }
}
