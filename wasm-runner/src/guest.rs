//! The component: a fresh instance for every request, and what it may reach.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hyper::{Request, Response, body::Incoming};
use runtime_wasm::spec::Spec;
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::timeout,
};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use wasmtime::{
    Engine, Store,
    component::{Component, Linker, ResourceTable},
};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
    p2::{
        bindings::{
            ProxyPre,
            http::types::{ErrorCode, Scheme},
        },
        body::HyperOutgoingBody,
    },
};

use crate::{
    limits::{Memory, Share},
    log::Log,
    start::StartError,
    ticker::Ticker,
};

/// What one request may hold of the runner's things at once: bodies, streams, lists of headers. They take the runner's own
/// memory, which no limit of the component counts.
const MAX_HANDLES: usize = 256;
/// Bytes of one list of headers: as much as common servers accept.
const MAX_FIELDS: usize = 16 << 10;

/// A component that is ready to answer.
pub struct Guest {
    prepared: ProxyPre<State>,
    environment: Vec<(String, String)>,
    memory: Memory,
    log: Log,
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

/// What one instance of the component reaches.
struct State {
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    egress: NoEgress,
    share: Share,
}

/// Requests to the outside are denied: nothing can allow them yet.
struct NoEgress;

type Sent = wasmtime_wasi_http::Result<(Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>)>;

impl WasiHttpHooks for NoEgress {
    fn send_request(
        &mut self,
        _request: Request<WasiBody>,
        _options: Option<RequestOptions>,
        _processed: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        Box::new(async { Err(Error::HttpRequestDenied) })
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.egress }
    }
}

impl Guest {
    /// Links the component; it does not run yet.
    pub fn new(engine: &Engine, component: &Component, spec: &Spec, log: Log) -> anyhow::Result<Self> {
        let mut linker = Linker::new(engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
        let prepared = linker.instantiate_pre(component).and_then(ProxyPre::new).map_err(|error| {
            StartError::Artifact(format!("the component cannot run as wasi:http/incoming-handler: {error:#}"))
        })?;
        Ok(Self {
            prepared,
            environment: spec.environment.clone().into_iter().collect(),
            memory: Memory::new(spec.memory_limit),
            log,
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
        let (mut table, mut http) = (ResourceTable::new(), WasiHttpCtx::new());
        table.set_max_capacity(MAX_HANDLES);
        http.set_field_size_limit(MAX_FIELDS);
        let state = State {
            table,
            wasi: WasiCtx::builder().envs(&self.environment).stdout(self.log.clone()).stderr(self.log.clone()).build(),
            http,
            egress: NoEgress,
            share: self.memory.share(),
        };
        let mut store = Store::new(self.prepared.engine(), state);
        store.limiter(|state| &mut state.share);
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        let request = store.data_mut().http().new_incoming_request(Scheme::Http, request)?;
        let answer = store.data_mut().http().new_response_outparam(answer)?;
        let instance = self.prepared.instantiate_async(&mut store).await?;
        instance.wasi_http_incoming_handler().call_handle(&mut store, request, answer).await?;
        Ok(())
    }

    fn failed(&self, error: &HandleError) {
        self.counters.failures.fetch_add(1, Ordering::Relaxed);
        self.log.write(format!("wasm-runner: {error}\n").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Empty};

    use super::*;

    #[tokio::test]
    async fn a_component_sends_no_request_to_the_outside() {
        let body = Empty::new().map_err(|never: std::convert::Infallible| match never {}).boxed_unsync();
        let request = Request::builder().uri("http://127.0.0.1/").body(body).unwrap();
        let sent = Box::into_pin(NoEgress.send_request(request, None, Box::new(async { Ok(()) }))).await;
        assert!(matches!(sent.err(), Some(Error::HttpRequestDenied)));
    }
}
