//! What other services of the site ask for.

use std::{
    error::Error,
    sync::{Arc, Mutex, PoisonError},
};

use api::{Problem, StoreAccess, WantedArtifacts};
use bus::{Call, ServiceName, SiteVerb, Subject};
use service::Readiness;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    down::{Artifacts, InForce},
    site::Site,
};

/// What the endpoints of the local orchestrator answer from.
struct Answers {
    site: Arc<Site>,
    in_force: watch::Receiver<Option<Arc<InForce>>>,
    artifacts: Mutex<Artifacts>,
}

/// Answers `svc.local-orchestrator.store` and `.artifacts` at the site until shutdown. The site is ready when others
/// reach them: the other parts have begun by then.
pub async fn run(
    site: Arc<Site>,
    in_force: watch::Receiver<Option<Arc<InForce>>>,
    readiness: Readiness,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let bus = site.bus.clone();
    let answers = Answers { site, in_force, artifacts: Mutex::default() };
    let mut service = bus.register(ServiceName::LocalOrchestrator, Arc::new(answers)).await?;
    service.verb("store", store).await?;
    service.verb("artifacts", artifacts).await?;
    if let Some(()) = shutdown.run_until_cancelled(service.reachable()).await {
        readiness.ready();
    }
    shutdown.cancelled().await;
    service.stop().await
}

/// Where the platform's artifacts are: the hub knows.
async fn store(answers: Arc<Answers>, _: Call<()>) -> Result<StoreAccess, Problem> {
    let subject = Subject::Site(answers.site.client.clone(), SiteVerb::Store);
    answers.site.hub.call(&subject, &(), None).await
}

/// The artifacts that the deployments in force are made of.
async fn artifacts(answers: Arc<Answers>, _: Call<()>) -> Result<WantedArtifacts, Problem> {
    let Some(in_force) = answers.in_force.borrow().clone() else { return Ok(WantedArtifacts::default()) };
    let wanted = move || answers.artifacts.lock().unwrap_or_else(PoisonError::into_inner).wanted(&in_force);
    disk::blocking(wanted).await.map_err(|error| {
        warn!(error = &error as &dyn Error, "reading what is in force");
        Problem::internal()
    })
}
