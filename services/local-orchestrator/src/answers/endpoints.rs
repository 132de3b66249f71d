//! What other services of the site ask for.

use std::{
    collections::BTreeSet,
    error::Error,
    sync::{Arc, Mutex, PoisonError},
};

use api::{IsWanted, KeyAsked, KeyInForce, Problem, StoreAccess, WantedArtifact, WantedArtifacts};
use bus::{Call, ServiceName, SiteVerb, Subject};
use margo::{Identity, NodeName};
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

/// Answers `svc.local-orchestrator.store`, `.artifacts`, `.artifact` and `.key` at the site until shutdown. The site is ready
/// when others reach them: the other parts have begun by then.
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
    service.verb("artifact", artifact).await?;
    service.verb("key", key).await?;
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
    let wanted = wanted(answers).await?;
    Ok(WantedArtifacts { artifacts: wanted.iter().cloned().collect() })
}

/// Whether one artifact is among them, whichever registry has it: the node that asks for it knows its name at the site.
async fn artifact(answers: Arc<Answers>, call: Call<WantedArtifact>) -> Result<IsWanted, Problem> {
    let WantedArtifact { name, digest, registry: _ } = call.body;
    // The registry comes last in the order, so what is asked for stands at the begin of this range, if anywhere.
    let first = WantedArtifact { name, digest, registry: None };
    let wanted = wanted(answers).await?;
    let found = wanted.range::<WantedArtifact, _>(&first..).next();
    Ok(IsWanted { wanted: found.is_some_and(|found| found.name == first.name && found.digest == first.digest) })
}

async fn wanted(answers: Arc<Answers>) -> Result<Arc<BTreeSet<WantedArtifact>>, Problem> {
    let Some(in_force) = answers.in_force.borrow().clone() else { return Ok(Arc::default()) };
    let wanted = move || answers.artifacts.lock().unwrap_or_else(PoisonError::into_inner).wanted(&in_force);
    disk::blocking(wanted).await.map_err(|error| {
        warn!(error = &error as &dyn Error, "reading what is in force");
        Problem::internal()
    })
}

/// The key by which a node logs in.
async fn key(answers: Arc<Answers>, call: Call<KeyAsked>) -> Result<KeyInForce, Problem> {
    let in_force = answers.in_force.borrow().clone();
    let in_force = in_force.ok_or_else(|| Problem::unavailable("nothing is in force yet; try again"))?;
    let node: Option<NodeName> = call.body.name.parse().ok();
    let identity = node.and_then(|node| in_force.identities.get(&node)?.identity.clone());
    Ok(KeyInForce { key: identity.map(|Identity::Nkey(key)| key) })
}
