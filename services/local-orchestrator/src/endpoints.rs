//! What other services of the site ask for.

use std::{error::Error, sync::Arc};

use api::{Problem, StoreAccess};
use bus::{ServiceName, SiteVerb, Subject};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    adoption::{Adopted, wanted},
    files,
    site::Site,
};

/// Answers until shutdown.
pub async fn run(site: Arc<Site>, adopted: Adopted, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut service = site.bus.register(ServiceName::LocalOrchestrator).await?;
    let asking = site.clone();
    service.verb("store", move |_: bus::Call<()>| store(asking.clone())).await?;
    service
        .verb("artifacts", move |_: bus::Call<()>| {
            let adopted = adopted.clone();
            async move {
                files::blocking(move || wanted(&adopted)).await.map_err(|error| {
                    warn!(error = &error as &dyn Error, "reading what is in force");
                    Problem::internal()
                })
            }
        })
        .await?;
    shutdown.cancelled().await;
    service.stop().await
}

/// Where the platform's artifacts are: the hub knows.
async fn store(site: Arc<Site>) -> Result<StoreAccess, Problem> {
    let subject = Subject::Site(site.client.clone(), SiteVerb::Store);
    site.hub.call(&subject, &(), Some(ServiceName::LocalOrchestrator.as_str())).await
}
