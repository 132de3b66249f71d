//! node-capabilities: which sites, clients and nodes there are, what they can do, and whether they are heard.
//!
//! The service is the only writer of its database. It adds sites and nodes, and replaces and revokes their keys, as ordered: one
//! transaction holds its rows and the outbox rows, for `fleet.git` and for the client's repository, whose signed head admits a
//! node at its site; a site may log in when Git has it. It reads `state.*.node.*.capabilities` and `state.*.health` of the hub's
//! STATE, and answers `svc.node-capabilities.create-site`, `.replace-site-key`, `.revoke-site-key` and `.sites`, `.create-node`,
//! `.replace-node-key`, `.revoke-node-key` and `.nodes`, and `.members`. It keeps nothing in memory that the database does not
//! hold, so it may die at any time.

#![allow(missing_docs, reason = "only the program that starts the service sees its items, and most names say enough")]

mod config;
mod consume;
mod decode;
mod domain;
mod error;
mod git;
mod handler;
mod store;

use std::sync::Arc;

use ::store::Database;
use anyhow::Context;
use bus::{Bus, ServiceEndpoints, ServiceName};
pub use config::Config;
use outbox::Outbox;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{handler::Registrar, store::Store};

/// Works until shutdown. Then it takes no further orders, finishes those in hand, and only after that ends what they
/// depend on.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let database = Database::open(&config.database).await?;
    let tenant = config.base.tenant.clone();
    let store = Store::open(database.clone(), tenant.clone()).await.context("preparing the database of nodes")?;
    let outbox = Outbox::open(ServiceName::NodeCapabilities, database).await?;
    let bus = config.base.connect().await?;
    let Some(()) = shutdown.run_until_cancelled(bus.connected()).await else { return Ok(()) };
    let (joined, joins) = mpsc::channel(1);
    let registrar = Arc::new(Registrar {
        store: store.clone(),
        outbox: outbox.clone(),
        joined,
        hub_url: config.hub_url,
        minter_url: config.minter_url,
        root_key: config.root_key,
        root_certificates: config.root_certificates,
        issuer: config.issuer,
    });
    let endpoints = answer(&bus, &registrar).await?;
    let orders_ended = CancellationToken::new();
    let orders = async {
        shutdown.cancelled().await;
        let stopped = endpoints.stop().await;
        orders_ended.cancel();
        stopped
    };
    tokio::try_join!(
        orders,
        outbox.run(bus.clone(), orders_ended.clone()),
        handler::evaluate(bus.clone(), tenant, joins, orders_ended.clone()),
        consume::observe(bus, store, config.base.readiness, orders_ended.clone()),
    )?;
    Ok(())
}

async fn answer(bus: &Bus, registrar: &Arc<Registrar>) -> anyhow::Result<ServiceEndpoints<Registrar>> {
    let mut endpoints = bus.register(ServiceName::NodeCapabilities, registrar.clone()).await?;
    endpoints.verb("create-site", Registrar::create_site).await?;
    endpoints.verb("create-node", Registrar::create_node).await?;
    endpoints.verb("replace-site-key", Registrar::replace_site_key).await?;
    endpoints.verb("replace-node-key", Registrar::replace_node_key).await?;
    endpoints.verb("revoke-site-key", Registrar::revoke_site_key).await?;
    endpoints.verb("revoke-node-key", Registrar::revoke_node_key).await?;
    endpoints.verb("sites", Registrar::sites).await?;
    endpoints.verb("nodes", Registrar::nodes).await?;
    endpoints.verb("node", Registrar::one_node).await?;
    endpoints.verb("members", Registrar::members).await?;
    Ok(endpoints)
}
