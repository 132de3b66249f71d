//! status-collector: what nodes report of their deployments, now and before.
//!
//! The service is the only writer of the hub's streams STATE and EVENTS: sites ask it on `site.*.report` to store what they and
//! their nodes report, and on `site.*.positions` where their nodes stand (`writer`). It asks node-capabilities which nodes exist.
//!
//! It is also the only writer of its database (current status, history, refusals), which it makes from
//! `state.*.node.*.status` and `event.>`, and from which it answers `svc.status-collector.list`, `.history` and `.refusals`
//! (`consume`); `.dead-letters` counts what no service could handle. It acknowledges to sites what the streams hold and to the
//! streams what the database holds, so it may die at any time; what it knows besides it asks for again. Only the budgets of sites
//! begin full again.

#![allow(missing_docs, reason = "only the program that starts the service sees its items, and most names say enough")]

mod batch;
mod budget;
mod config;
mod consume;
mod decode;
mod domain;
mod error;
mod handler;
mod members;
mod metrics;
mod positions;
mod store;
mod turns;
mod window;
mod writer;

use std::sync::Arc;

use ::store::Database;
use anyhow::Context;
use bus::{Bus, Known, ServiceEndpoints, ServiceName, streams};
pub use config::Config;
use tokio_util::sync::CancellationToken;

use crate::{consume::collect, handler::Answers, store::Store, writer::Writer};

/// Collects and answers until shutdown. A batch in hand is finished first; what is not acknowledged comes again at the next
/// start.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let Config { base, database } = config;
    let database = Database::open(&database).await?;
    let store = Store::open(database, base.tenant.clone()).await.context("preparing the database of statuses")?;
    let (bus, front) = (base.connect().await?, base.connect_front().await?);
    let [state, events] = [known(&store, streams::STATE).await?, known(&store, streams::EVENTS).await?];
    let writer = Writer::new(bus.clone(), state, events);
    let Some(()) = shutdown.run_until_cancelled(bus.connected()).await else { return Ok(()) };
    let endpoints = answer(&bus, &store).await?;
    let collecting = async {
        let collect = || collect(&bus, &store, &writer, &base.readiness, &shutdown);
        service::reopening("reports of nodes", &bus, &base.readiness, &shutdown, collect).await;
        endpoints.stop().await
    };
    let writing = writer.clone().run(&front, &shutdown);
    tokio::try_join!(writing, collecting)?;
    Ok(())
}

/// What the copy in the database says of a stream.
async fn known(store: &Store, stream: &'static str) -> anyhow::Result<Known> {
    let copied = store.copied(stream).await.with_context(|| format!("reading how far {stream} was copied"))?;
    Ok(copied.map(|copied| Known { id: copied.id, sequence: copied.sequence }).unwrap_or_default())
}

/// Registers the service on the bus; it answers from the database until the returned endpoints are stopped.
async fn answer(bus: &Bus, store: &Store) -> anyhow::Result<ServiceEndpoints<Answers>> {
    let answers = Arc::new(Answers { bus: bus.clone(), store: store.clone() });
    let mut endpoints = bus.register(ServiceName::StatusCollector, answers).await?;
    endpoints.verb("list", Answers::list).await?;
    endpoints.verb("status", Answers::status).await?;
    endpoints.verb("history", Answers::history).await?;
    endpoints.verb("refusals", Answers::refusals).await?;
    endpoints.verb("dead-letters", Answers::dead_letters).await?;
    Ok(endpoints)
}
