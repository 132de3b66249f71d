//! Requests on the bus: tickets for uploads, the catalogue, and what sites need to read the store.

use std::{sync::Arc, time::Instant};

use api::{App, AppContent, AppRef, Problem, StoreAccess, UploadTicket};
use bus::{Bus, Call, Subject};
use identity::random_token;
use service::TokenSecret;

use crate::{error::catalogue_problem, store::Catalogue, tickets::Tickets};

/// What the endpoints of app-registry answer from.
pub struct Handler {
    pub tickets: Arc<Tickets>,
    pub catalogue: Catalogue,
    pub store: Store,
}

/// The platform's OCI store, as sites are told of it.
pub struct Store {
    /// Where it is served. Uploads go to the same URL, each with a token of its own.
    pub url: String,
    pub secret: TokenSecret,
    pub bus: Bus,
    /// Where the keys of sites are asked for.
    pub minter: Subject,
}

impl Handler {
    /// Answers `upload` with a ticket. Fails with 429 when too many uploads are expected or in work.
    pub async fn upload(self: Arc<Self>, call: Call<()>) -> Result<UploadTicket, Problem> {
        let token = random_token().map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "no ticket");
            Problem::internal()
        })?;
        let ticket = self.tickets.issue(&call.caller()?.name, token, Instant::now());
        let ticket = ticket.ok_or_else(|| Problem::new(429, "too many uploads at once; try again in a minute"))?;
        Ok(UploadTicket { url: format!("{}/uploads/{}", self.store.url, ticket.id), token: ticket.token })
    }

    /// Answers `list` with the whole catalogue.
    pub async fn list(self: Arc<Self>, _: Call<()>) -> Result<Vec<App>, Problem> {
        self.catalogue.list().await.map_err(|error| catalogue_problem(&error))
    }

    /// Answers `get` with an application and its documents.
    pub async fn get(self: Arc<Self>, call: Call<AppRef>) -> Result<AppContent, Problem> {
        let app = call.body;
        let found = self.catalogue.get(&app).await.map_err(|error| catalogue_problem(&error))?;
        found.ok_or_else(|| Problem::not_found(format!("no app {} {} in the catalogue", app.id, app.version)))
    }

    /// Answers `site.*.store` with where the platform's store is, and with the site's token for reading it.
    pub async fn store(self: Arc<Self>, call: Call<()>) -> Result<StoreAccess, Problem> {
        let Subject::Site(client, _) = &call.subject else { return Err(Problem::internal()) };
        let Store { url, secret, bus, minter } = &self.store;
        let key = service::key_of(bus, minter, client.as_str()).await?;
        let key = key.ok_or_else(|| Problem::unavailable("nobody knows the site's key yet; try again"))?;
        Ok(StoreAccess { url: url.clone(), token: secret.token(client.as_str(), &key) })
    }
}
