//! A service: a fresh instance of the component for every request (`wasi:http/incoming-handler`).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hyper::{Request, Response, body::Incoming};
use runtime_wasm::spec::Spec;
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::timeout,
};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use wasmtime::{Engine, component::Component};
use wasmtime_wasi_http::{
    WasiHttpView,
    p2::{
        bindings::{
            ProxyPre,
            http::types::{ErrorCode, Scheme},
        },
        body::HyperOutgoingBody,
    },
};

use crate::{
    host::{Host, State, linker},
    log::Log,
    start::StartError,
    ticker::Ticker,
};

/// What one request may hold of the runner's things at once: bodies, streams, lists of headers.
const MAX_HANDLES: usize = 256;

/// A component that is ready to answer.
pub struct Guest {
    prepared: ProxyPre<State>,
    host: Host,
    ticker: Ticker,
    request_timeout: Duration,
    instances: TaskTracker,
    counters: Arc<Counters>,
}

/// Counters that the control socket shows.
#[derive(Default)]
pub struct Counters {
    /// Requests that the runner took.
    pub requests: AtomicU64,
    /// Those among them that the component failed to answer, or to answer whole.
    pub failures: AtomicU64,
    /// Those it refused because too many were in work.
    pub refused: AtomicU64,
    /// Nanoseconds in which it made instances.
    pub instantiating: AtomicU64,
}

type Answer = Result<Response<HyperOutgoingBody>, ErrorCode>;

/// Why a request was not answered by the component.
#[derive(Debug, thiserror::Error)]
pub enum HandleError {
    /// The request took longer than it may.
    #[error("the request took longer than {0:?}")]
    Timeout(Duration),
    /// It trapped, or there is no memory left for it.
    #[error("the component failed: {0:#}")]
    Failed(wasmtime::Error),
    /// It returned without an answer.
    #[error("the component returned without an answer")]
    NoAnswer,
    /// It answered with an error code.
    #[error("the component answered with the error {0:?}")]
    Answered(ErrorCode),
}

impl From<wasmtime::Error> for HandleError {
    fn from(error: wasmtime::Error) -> Self {
        Self::Failed(error)
    }
}

impl Guest {
    /// Links the component; it does not run yet.
    pub fn new(engine: &Engine, component: &Component, spec: &Spec, log: Log) -> anyhow::Result<Self> {
        let prepared = linker(engine)?.instantiate_pre(component).and_then(ProxyPre::new).map_err(|error| {
            StartError::Artifact(format!("the component cannot run as wasi:http/incoming-handler: {error:#}"))
        })?;
        Ok(Self {
            prepared,
            host: Host::new(spec, log)?,
            ticker: Ticker::start(engine.clone())?,
            request_timeout: spec.request_timeout,
            instances: TaskTracker::new(),
            counters: Arc::default(),
        })
    }

    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// The component's answer. It may go on writing the body after this has returned: the request is in work, and
    /// `permit` is held, until its instance has ended.
    pub async fn answer(
        self: &Arc<Self>,
        request: Request<Incoming>,
        permit: OwnedSemaphorePermit,
    ) -> Result<Response<HyperOutgoingBody>, HandleError> {
        self.counters.requests.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        let guest = self.clone();
        // Dropped with this future when the client leaves before it has an answer.
        let instance = AbortOnDropHandle::new(self.instances.spawn(async move {
            let _permit = permit;
            let ended = timeout(guest.request_timeout, guest.run(request, sender)).await;
            let ended = ended.unwrap_or(Err(HandleError::Timeout(guest.request_timeout)));
            // Here and not below: it may fail long after it has answered.
            ended.inspect_err(|error| guest.failed(error))
        }));
        let error = match receiver.await {
            Ok(Ok(response)) => {
                instance.detach();
                return Ok(response);
            }
            Ok(Err(code)) => HandleError::Answered(code),
            Err(_dropped) => match instance.await {
                Ok(Ok(())) => HandleError::NoAnswer,
                Ok(Err(error)) => return Err(error),
                Err(panicked) => HandleError::Failed(wasmtime::Error::new(panicked)),
            },
        };
        self.failed(&error);
        Err(error)
    }

    /// Returns when no request is in work any more.
    pub async fn idle(&self) {
        self.instances.close();
        self.instances.wait().await;
    }

    async fn run(&self, request: Request<Incoming>, answer: oneshot::Sender<Answer>) -> Result<(), HandleError> {
        let _in_work = self.ticker.begin();
        let begin = Instant::now();
        let mut store = self.host.store(self.prepared.engine(), MAX_HANDLES)?;
        let instance = self.prepared.instantiate_async(&mut store).await?;
        let took = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.counters.instantiating.fetch_add(took, Ordering::Relaxed);
        let request = store.data_mut().http().new_incoming_request(Scheme::Http, request)?;
        let answer = store.data_mut().http().new_response_outparam(answer)?;
        instance.wasi_http_incoming_handler().call_handle(&mut store, request, answer).await?;
        Ok(())
    }

    fn failed(&self, error: &HandleError) {
        self.counters.failures.fetch_add(1, Ordering::Relaxed);
        self.host.log(&format!("wasm-runner: {error}\n"));
    }
}
