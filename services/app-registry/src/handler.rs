//! Requests on the bus.

use std::{error::Error, sync::Arc, time::Instant};

use api::{App, AppContent, AppRef, Problem, StoreAccess, UploadTicket};
use bus::{Bus, Call, Pattern, ServiceEndpoints, ServiceName, SiteVerb};
use tracing::error;

use crate::{store::Catalogue, tickets::Tickets};

/// What the endpoints share.
pub struct Handler {
    /// For uploads.
    pub tickets: Arc<Tickets>,
    /// What is there.
    pub catalogue: Catalogue,
    /// What sites are told; its URL is also that of uploads.
    pub access: StoreAccess,
}

/// Answers `svc.app-registry.…` and `site.*.store`.
pub async fn register(bus: &Bus, handler: Handler) -> anyhow::Result<ServiceEndpoints> {
    let handler = Arc::new(handler);
    let mut endpoints = bus.register(ServiceName::AppRegistry).await?;
    let it = handler.clone();
    endpoints.verb("upload", move |call: Call<()>| std::future::ready(it.upload(&call.actor))).await?;
    let it = handler.clone();
    endpoints
        .verb("list", move |_: Call<()>| {
            let it = it.clone();
            async move { it.list().await }
        })
        .await?;
    let it = handler.clone();
    endpoints
        .verb("get", move |call: Call<AppRef>| {
            let it = it.clone();
            async move { it.get(&call.body).await }
        })
        .await?;
    let store = move |_: Call<()>| std::future::ready(Ok::<_, Problem>(handler.access.clone()));
    endpoints.answer("store", Pattern::Sites(SiteVerb::Store), store).await?;
    Ok(endpoints)
}

impl Handler {
    fn upload(&self, actor: &str) -> Result<UploadTicket, Problem> {
        let ticket = self.tickets.issue(actor, Instant::now());
        let ticket = ticket.ok_or_else(|| Problem::new(429, "too many uploads at once; try again in a minute"))?;
        Ok(UploadTicket { url: format!("{}/uploads/{}", self.access.url, ticket.id), token: ticket.token })
    }

    async fn list(&self) -> Result<Vec<App>, Problem> {
        self.catalogue.list().await.map_err(failed)
    }

    async fn get(&self, app: &AppRef) -> Result<AppContent, Problem> {
        let found = self.catalogue.get(app).await.map_err(failed)?;
        found.ok_or_else(|| Problem::not_found(format!("no app {} {} in the catalogue", app.id, app.version)))
    }
}

fn failed(cause: sqlx::Error) -> Problem {
    error!(error = &cause as &dyn Error, "catalogue not read");
    Problem::internal()
}
