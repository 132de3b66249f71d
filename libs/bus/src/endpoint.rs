//! Endpoints of services: typed requests with JSON bodies, which the NATS service API makes discoverable
//! (`$SRV.*`).

use std::{error::Error, sync::Arc, time::Duration};

use anyhow::Context as _;
use api::Problem;
use async_nats::service::{Service, ServiceExt, endpoint::Endpoint as NatsEndpoint};
use bytes::Bytes;
use futures::StreamExt;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{sync::Semaphore, task::JoinSet};
use tracing::{Instrument, info_span, warn};

use crate::{Bus, Caller, Pattern, ServiceName, Subject, connection::CALLER, inbox, trace};

/// How many requests of one endpoint are in work at once; more wait in the subscription. A service's store has
/// fewer connections, so more would not be faster.
pub(crate) const CONCURRENCY: usize = 64;

/// The pause before a server is asked again that has not answered whether it passes requests on.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// How long [`ServiceEndpoints::stop`] waits for requests in work.
const GRACE: Duration = Duration::from_secs(5);

/// One request to a service.
pub struct Call<T> {
    /// The subject on which the request came.
    pub subject: Subject,
    /// The body of the request, read from JSON.
    pub body: T,
    /// The caller on whose behalf the request is made. It is `None` when nobody is named, as where the subject says
    /// who asks.
    pub caller: Option<Caller>,
}

impl<T> Call<T> {
    /// Returns the caller of a request that changes something. It fails when nobody is named, because every change has
    /// a "who".
    pub fn caller(&self) -> Result<&Caller, Problem> {
        self.caller.as_ref().ok_or_else(|| Problem::bad_request(format!("{} does not say who asks", self.subject)))
    }
}

/// A service on the bus with its endpoints. All its handlers share the state `S`.
pub struct ServiceEndpoints<S> {
    bus: Bus,
    name: ServiceName,
    state: Arc<S>,
    service: Service,
    loops: JoinSet<()>,
}

impl Bus {
    /// Waits until the server has taken in every subscription that was begun. A lost connection is waited for.
    pub(crate) async fn reachable(&self) {
        loop {
            self.connected().await;
            match self.settled().await {
                Ok(()) => return,
                Err(error) => warn!(user = %self.user(), error = format!("{error:#}"), "not reachable yet"),
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// Registers a service in the NATS service API. Every handler is then a plain function of `state` and the request.
    pub async fn register<S: Send + Sync + 'static>(
        &self,
        name: ServiceName,
        state: Arc<S>,
    ) -> anyhow::Result<ServiceEndpoints<S>> {
        let service = self
            .client()
            .service_builder()
            .start(name.as_str(), env!("CARGO_PKG_VERSION"))
            .await
            .map_err(anyhow::Error::from_boxed)
            .with_context(|| format!("registering {name} on the bus"))?;
        Ok(ServiceEndpoints { bus: self.clone(), name, state, service, loops: JoinSet::new() })
    }
}

impl<S: Send + Sync + 'static> ServiceEndpoints<S> {
    /// Answers `svc.<this service>.<verb>` with this handler.
    pub async fn verb<T, R, F, Fut>(&mut self, verb: &str, handler: F) -> anyhow::Result<()>
    where
        T: DeserializeOwned + Send + 'static,
        R: Serialize + Send + 'static,
        F: Fn(Arc<S>, Call<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, Problem>> + Send + 'static,
    {
        self.answer(verb, Subject::service(self.name, verb), handler).await
    }

    /// Answers every subject of a pattern with this handler. `name` is the endpoint's name in discovery.
    pub async fn answer<T, R, F, Fut>(
        &mut self,
        name: &str,
        pattern: impl Into<Pattern>,
        handler: F,
    ) -> anyhow::Result<()>
    where
        T: DeserializeOwned + Send + 'static,
        R: Serialize + Send + 'static,
        F: Fn(Arc<S>, Call<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, Problem>> + Send + 'static,
    {
        let pattern = pattern.into();
        let endpoint = self.service.endpoint_builder().name(name).add(pattern.to_string()).await;
        let endpoint = endpoint.map_err(anyhow::Error::from_boxed).with_context(|| format!("answering {pattern}"))?;
        let state = self.state.clone();
        let handler = move |call| handler(state.clone(), call);
        self.loops.spawn(serve(endpoint, Arc::new(handler), self.bus.clone()));
        Ok(())
    }

    /// Waits until the server passes requests on to every endpoint that was added. Only then may a service say that it
    /// is ready: before, whoever asks is told that nobody answers. A lost connection is waited for.
    pub async fn reachable(&self) {
        self.bus.reachable().await;
    }

    /// Takes no further requests, finishes those in work within a grace period, and leaves the bus.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.service.stop().await.map_err(anyhow::Error::from_boxed).context("leaving the bus")?;
        let finished = async { while self.loops.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, finished).await.is_err() {
            warn!(service = %self.name, "requests in work were dropped at the end of the grace period");
        }
        if self.bus.is_connected() {
            // From here on, whoever asks is told at once that nobody answers.
            self.bus.settled().await?;
        }
        Ok(())
    }
}

/// Refuses an answer that is larger than the server takes. It would be lost, and look like silence to whoever
/// asked.
pub(crate) fn fits(body: Vec<u8>, largest: usize) -> Result<Vec<u8>, Problem> {
    if body.len() > largest {
        let detail =
            format!("the answer has {} bytes, more than the bus carries ({largest}); ask for less", body.len());
        return Err(Problem::new(413, detail));
    }
    Ok(body)
}

async fn serve<T, R, F, Fut>(mut endpoint: NatsEndpoint, handler: Arc<F>, bus: Bus)
where
    T: DeserializeOwned + Send + 'static,
    R: Serialize + Send + 'static,
    F: Fn(Call<T>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R, Problem>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CONCURRENCY));
    let mut requests = JoinSet::new();
    while let Some(request) = endpoint.next().await {
        // Whoever asks chooses the subject of the answer, which is published with the rights of whoever answers.
        if !request.message.reply.as_deref().is_some_and(inbox::is_of_a_service) {
            warn!(subject = %request.message.subject, "a request was dropped: its answer would go to no service");
            continue;
        }
        let place = places.clone().acquire_owned().await.expect("nobody closes this semaphore");
        let (handler, bus) = (handler.clone(), bus.clone());
        while requests.try_join_next().is_some() {}
        requests.spawn(async move {
            let span = info_span!("request", subject = %request.message.subject, trace_id = tracing::field::Empty);
            trace::continue_from(&span, request.message.headers.as_ref());
            let answer = answer_one(&request.message, &*handler).instrument(span).await;
            // The limit is looked up now, because it is not known before the first connection.
            let answer = answer.and_then(|body| fits(body, bus.client().server_info().max_payload));
            let answer = match answer {
                Ok(body) => request.respond(Ok(body.into())).await,
                Err(problem) => respond_problem(&request, &problem).await,
            };
            if let Err(error) = answer {
                warn!(subject = %request.message.subject, error = &error as &dyn Error, "answer not sent");
            }
            drop(place);
        });
    }
    while requests.join_next().await.is_some() {}
}

/// Sends a problem as the answer.
async fn respond_problem(
    request: &async_nats::service::Request,
    problem: &Problem,
) -> Result<(), async_nats::PublishError> {
    let (headers, body) = problem_headers(problem);
    request.respond_with_headers(Ok(body), headers).await
}

/// A problem as an answer. The body is the whole problem; the headers are those of the NATS service API.
pub(crate) fn problem_headers(problem: &Problem) -> (async_nats::HeaderMap, Bytes) {
    let mut headers = async_nats::HeaderMap::new();
    headers.insert(async_nats::service::NATS_SERVICE_ERROR, problem.title.as_str());
    headers.insert(async_nats::service::NATS_SERVICE_ERROR_CODE, problem.status.to_string().as_str());
    let body = serde_json::to_vec(problem).expect("a problem is strings and numbers");
    (headers, body.into())
}

async fn answer_one<T, R, F, Fut>(message: &async_nats::Message, handler: &F) -> Result<Vec<u8>, Problem>
where
    T: DeserializeOwned,
    R: Serialize,
    F: Fn(Call<T>) -> Fut,
    Fut: Future<Output = Result<R, Problem>>,
{
    let subject: Subject =
        message.subject.parse().map_err(|error: crate::InvalidSubject| Problem::bad_request(error.to_string()))?;
    let header = message.headers.as_ref().and_then(|headers| headers.get(CALLER));
    let caller = match header {
        None => None,
        Some(header) => {
            let malformed = || Problem::bad_request(format!("the header {CALLER} of {subject} is no caller"));
            Some(Caller::from_header(header.as_str()).ok_or_else(malformed)?)
        }
    };
    answer_body(subject, &message.payload, caller, handler).await
}

/// Reads the body of a request, handles it, and returns the body of the answer.
pub(crate) async fn answer_body<T, R, F, Fut>(
    subject: Subject,
    payload: &[u8],
    caller: Option<Caller>,
    handler: F,
) -> Result<Vec<u8>, Problem>
where
    T: DeserializeOwned,
    R: Serialize,
    F: FnOnce(Call<T>) -> Fut,
    Fut: Future<Output = Result<R, Problem>>,
{
    let body = if payload.is_empty() { b"null".as_slice() } else { payload };
    let body =
        serde_json::from_slice(body).map_err(|error| Problem::bad_request(format!("body of {subject}: {error}")))?;
    let answer = handler(Call { subject, body, caller }).await?;
    serde_json::to_vec(&answer).map_err(|error| {
        warn!(error = &error as &dyn Error, "answer not serialised");
        Problem::internal()
    })
}
