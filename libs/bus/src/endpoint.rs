//! Service endpoints: typed requests with JSON bodies, discoverable through the NATS service API (`$SRV.*`).

use std::{error::Error, sync::Arc, time::Duration};

use anyhow::Context as _;
use api::Problem;
use async_nats::service::{Service, ServiceExt, endpoint::Endpoint as NatsEndpoint};
use futures::StreamExt;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{sync::Semaphore, task::JoinSet};
use tracing::{Instrument, info_span, warn};

use crate::{Bus, Pattern, ServiceName, Subject, connection::ACTOR, trace};

/// Requests of one endpoint in work at once; more wait in the subscription. A service's store has fewer connections.
const CONCURRENCY: usize = 64;

/// How long `stop` waits for requests in work.
const GRACE: Duration = Duration::from_secs(5);

/// One request.
pub struct Call<T> {
    /// The subject it came on.
    pub subject: Subject,
    /// Its body.
    pub body: T,
    /// On whose behalf: the name of a token, or a service.
    pub actor: String,
}

/// A service on the bus and its endpoints.
pub struct ServiceEndpoints {
    bus: Bus,
    name: ServiceName,
    service: Service,
    loops: JoinSet<()>,
}

impl Bus {
    /// Registers a service in the NATS service API.
    pub async fn register(&self, name: ServiceName) -> anyhow::Result<ServiceEndpoints> {
        let service = self
            .client()
            .service_builder()
            .start(name.as_str(), env!("CARGO_PKG_VERSION"))
            .await
            .map_err(anyhow::Error::from_boxed)
            .with_context(|| format!("registering {name} on the bus"))?;
        Ok(ServiceEndpoints { bus: self.clone(), name, service, loops: JoinSet::new() })
    }
}

impl ServiceEndpoints {
    /// Answers `svc.<this service>.<verb>`.
    pub async fn verb<T, R, F, Fut>(&mut self, verb: &str, handler: F) -> anyhow::Result<()>
    where
        T: DeserializeOwned + Send + 'static,
        R: Serialize + Send + 'static,
        F: Fn(Call<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, Problem>> + Send + 'static,
    {
        self.answer(verb, Subject::service(self.name, verb), handler).await
    }

    /// Answers every subject of a pattern.
    pub async fn answer<T, R, F, Fut>(
        &mut self,
        name: &str,
        pattern: impl Into<Pattern>,
        handler: F,
    ) -> anyhow::Result<()>
    where
        T: DeserializeOwned + Send + 'static,
        R: Serialize + Send + 'static,
        F: Fn(Call<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, Problem>> + Send + 'static,
    {
        let pattern = pattern.into();
        let endpoint = self.service.endpoint_builder().name(name).add(pattern.to_string()).await;
        let endpoint = endpoint.map_err(anyhow::Error::from_boxed).with_context(|| format!("answering {pattern}"))?;
        self.loops.spawn(serve(endpoint, Arc::new(handler), self.bus.clone()));
        Ok(())
    }

    /// Takes no further requests, finishes those in work within a grace period, and deregisters.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.service.stop().await.map_err(anyhow::Error::from_boxed).context("leaving the bus")?;
        let finished = async { while self.loops.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, finished).await.is_err() {
            warn!(service = %self.name, "requests in work were dropped at the end of the grace period");
        }
        if self.bus.is_connected() {
            // From here on whoever asks is told at once that nobody answers.
            self.bus.settled().await?;
        }
        Ok(())
    }
}

/// A larger answer than the server takes would be lost, and look like silence to whoever asked.
fn fits(body: Vec<u8>, largest: usize) -> Result<Vec<u8>, Problem> {
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
        let place = places.clone().acquire_owned().await.expect("nobody closes this semaphore");
        let (handler, bus) = (handler.clone(), bus.clone());
        while requests.try_join_next().is_some() {}
        requests.spawn(async move {
            let span = info_span!("request", subject = %request.message.subject, trace_id = tracing::field::Empty);
            trace::continue_from(&span, request.message.headers.as_ref());
            let answer = answer_one(&request.message, &*handler).instrument(span).await;
            // Asked now: before the first connection the server's limit is not known.
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

/// A refusal carries the whole problem as its body; the headers are those of the NATS service API.
async fn respond_problem(
    request: &async_nats::service::Request,
    problem: &Problem,
) -> Result<(), async_nats::PublishError> {
    let mut headers = async_nats::HeaderMap::new();
    headers.insert(async_nats::service::NATS_SERVICE_ERROR, problem.title.as_str());
    headers.insert(async_nats::service::NATS_SERVICE_ERROR_CODE, problem.status.to_string().as_str());
    let body = serde_json::to_vec(problem).expect("a problem is strings and numbers");
    request.respond_with_headers(Ok(body.into()), headers).await
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
    let body = if message.payload.is_empty() { b"null".as_slice() } else { &message.payload };
    let body =
        serde_json::from_slice(body).map_err(|error| Problem::bad_request(format!("body of {subject}: {error}")))?;
    let headers = message.headers.as_ref();
    let actor = headers.and_then(|headers| headers.get(ACTOR)).map_or("unknown", async_nats::HeaderValue::as_str);
    let answer = handler(Call { subject, body, actor: actor.to_owned() }).await?;
    serde_json::to_vec(&answer).map_err(|error| {
        warn!(error = &error as &dyn Error, "answer not serialised");
        Problem::internal()
    })
}
