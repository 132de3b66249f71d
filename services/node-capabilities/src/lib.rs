//! Node capabilities: which sites, clients and nodes there are, what they can do, and whether they are heard.
//!
//! The only writer of its database and of the hub's list of users. Adds sites and nodes as ordered: in one transaction
//! its rows and an outbox row for `fleet.git`; then the hub admits the site, or the site is told to admit the node. Reads
//! `state.*.node.*.capabilities` and `state.*.health` of the hub's STATE. Answers `svc.node-capabilities.create-site`,
//! `.sites`, `.create-node`, `.nodes`, and `site.*.nodes`. Keeps nothing in memory that the database does not hold, so it
//! may die at any time.

mod config;
mod decode;
mod domain;
mod error;
mod fleet;
mod handler;
mod observe;
mod store;
mod users;

use std::sync::Arc;

use anyhow::Context;
use api::Problem;
use bus::{Bus, Call, Pattern, ServiceEndpoints, ServiceName, SiteVerb};
pub use config::Config;
use outbox::Outbox;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{handler::Registrar, store::Store, users::HubUsers};

/// Works until shutdown: takes no further orders, finishes those in hand, then ends the rest.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let pool = ::store::open(&config.database).await?;
    let store = Store::open(pool.clone(), config.tenant).await.context("preparing the database of nodes")?;
    let outbox = Outbox::open(ServiceName::NodeCapabilities, pool).await?;
    let (bus, reloader) = (Bus::connect(&config.bus).await?, Bus::connect(&config.reloader).await?);
    config.readiness.needs(&bus);
    let reloader_key = identity::nats::public_key(&config.reloader.seed).context("reading the reloader's seed")?;
    tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        () = bus.connected() => {}
    }
    let (joined, joins) = mpsc::channel(1);
    let registrar = Arc::new(Registrar {
        users: HubUsers::new(store.clone(), reloader, config.users_file, config.service_users),
        store: store.clone(),
        outbox: outbox.clone(),
        reloader_key,
        bus: bus.clone(),
        joined,
        hub_url: config.hub_url,
        root_key: config.root_key,
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
        registrar.users.keep(orders_ended.clone()),
        outbox.run(bus.clone(), orders_ended.clone()),
        handler::evaluate(bus.clone(), joins, orders_ended.clone()),
        observe::observe(bus, store, config.readiness, orders_ended.clone()),
    )?;
    Ok(())
}

async fn answer(bus: &Bus, registrar: &Arc<Registrar>) -> anyhow::Result<ServiceEndpoints> {
    let mut endpoints = bus.register(ServiceName::NodeCapabilities).await?;
    let it = registrar.clone();
    let create_site = move |call| {
        let registrar = it.clone();
        async move { registrar.create_site(call).await }
    };
    endpoints.verb("create-site", create_site).await?;
    let it = registrar.clone();
    let create_node = move |call| {
        let registrar = it.clone();
        async move { registrar.create_node(call).await }
    };
    endpoints.verb("create-node", create_node).await?;
    let it = registrar.clone();
    let sites = move |_: Call<()>| {
        let registrar = it.clone();
        async move { registrar.store.sites().await.map_err(Problem::from) }
    };
    endpoints.verb("sites", sites).await?;
    let it = registrar.clone();
    let nodes = move |_: Call<()>| {
        let registrar = it.clone();
        async move { registrar.store.nodes().await.map_err(Problem::from) }
    };
    endpoints.verb("nodes", nodes).await?;
    let it = registrar.clone();
    let admitted = move |call| {
        let registrar = it.clone();
        async move { registrar.admitted(call).await }
    };
    endpoints.answer("admitted", Pattern::Sites(SiteVerb::Nodes), admitted).await?;
    Ok(endpoints)
}
