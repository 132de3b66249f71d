//! git-observer: the only writer of the stream DESIRED at the hub.
//!
//! Owns the stream and one durable consumer for each client. The head that is on the bus is its only cursor: it is
//! compared with the tip of the client's repository at the start, on every new connection, on `git.committed.…` and
//! every hour, and the difference is published. Nothing is published that the tenant's root key does not vouch for. A
//! tip that is refused is listed at `svc.git-observer.refusals`, and what was published before stays. Answers
//! `site.*.resync`.
//!
//! A stream that somebody deleted or changed is made and filled again: everything in it comes from the repositories.

#![allow(
    missing_docs,
    reason = "nobody outside the workspace sees this crate; a doc comment is written where it says more than the name"
)]

mod agenda;
mod config;
mod consume;
mod domain;
mod handler;
mod hub;
mod look;
mod metrics;
mod refusals;
mod store;

use std::sync::Arc;

use anyhow::Context;
use bus::{Pattern, ServiceName, SiteVerb};
use identity::PublicKey;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use crate::config::Config;
use crate::{consume::Loop, handler::Answers, hub::Hub, look::Observer, refusals::Refusals, store::Store};

/// Sites that asked for a resync and are not looked at yet. When the queue is full, the next one waits for its answer.
const RESYNCS: usize = 64;

/// Keeps the stream DESIRED at the hub equal to the repositories until shutdown. Fails when the root key cannot be
/// read; a lost hub is waited for.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let root = PublicKey::parse(&config.root_key).context("reading the root key")?;
    let (bus, front) = (config.base.connect().await?, config.base.connect_front().await?);
    let store = Store { folder: config.repositories, tenant: config.base.tenant };
    let refusals = Refusals::default();
    let hub = Hub::new(bus.clone());
    let (resynced, resyncs) = mpsc::channel(RESYNCS);

    // Subscribed before the first look, so that no commit falls between the two.
    let signals = bus.subscribe(Pattern::GitCommitted).await?;
    let answers = Arc::new(Answers { hub: hub.clone(), store: store.clone(), refusals: refusals.clone(), resynced });
    let mut endpoints = bus.register(ServiceName::GitObserver, answers.clone()).await?;
    endpoints.verb("refusals", Answers::refusals).await?;
    let _sites = front.answer(Pattern::Sites(SiteVerb::Resync), answers, Answers::resync).await?;

    let observer = Observer { hub, store, root, refusals, keys: Default::default() };
    Loop::new(observer, bus, config.base.readiness).run(signals, resyncs, &shutdown).await?;
    endpoints.stop().await
}
