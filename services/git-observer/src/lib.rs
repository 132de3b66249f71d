//! git-observer: the only writer of the stream DESIRED at the hub.
//!
//! The head that is on the bus is its only cursor: it is compared with the tip of the client's repository
//! at the start, on every new connection, on `git.committed.…` and every hour; the site is told by `changed.<client>.head`,
//! and the difference is published. Nothing is published that the tenant's root key does not vouch for. A tip that is refused
//! is listed at `svc.git-observer.refusals`, and what was published before stays. Answers `site.*.desired` from the commit.
//!
//! A stream that somebody deleted or changed is filled again once the bootstrap has made it: everything in it comes from the
//! repositories.

#![allow(
    missing_docs,
    reason = "nobody outside the workspace sees this crate; a doc comment is written where it says more than the name"
)]

mod agenda;
mod answers;
mod budget;
mod config;
mod consume;
mod domain;
mod hand;
mod handler;
mod hub;
mod look;
mod metrics;
mod observer;
mod places;
mod publish;
mod refusals;
mod snapshot;
mod store;

use std::sync::Arc;

use anyhow::Context;
use bus::{Pattern, ServiceName, SiteVerb};
use identity::PublicKey;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

pub use crate::config::Config;
use crate::{consume::Loop, hub::Hub, observer::Observer, refusals::Refusals, store::Store};

/// Clients that a site asked about and that are not looked at yet. When the queue is full, the next one asks again.
const WANTED: usize = 64;

/// Keeps the stream DESIRED at the hub equal to the repositories until shutdown. Fails when the root key cannot be
/// read; a lost hub is waited for.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let root = PublicKey::parse(&config.root_key).context("reading the root key")?;
    let (bus, front) = (config.base.connect().await?, config.base.connect_front().await?);
    let store = Store { folder: config.repositories, tenant: config.base.tenant };
    let refusals = Refusals::default();
    let hub = Hub::new(bus.clone());
    let (wanted, wants) = mpsc::channel(WANTED);

    // Subscribed before the first look, so that no commit falls between the two.
    let signals = bus.subscribe(Pattern::GitCommitted).await?;
    let mut endpoints = bus.register(ServiceName::GitObserver, Arc::new(refusals.clone())).await?;
    endpoints.verb("refusals", handler::refusals).await?;
    let asks = front.asks(Pattern::Sites(SiteVerb::Desired), answers::RULES).await?;

    let (keys, snapshots, hand, places) = Default::default();
    let observer = Arc::new(Observer { hub, store, root, refusals, keys, snapshots, hand, wanted, places });
    let _answers = AbortOnDropHandle::new(tokio::spawn(answers::answer(observer.clone(), asks)));
    Loop::new(observer, bus, config.base.readiness).run(signals, wants, &shutdown).await?;
    endpoints.stop().await
}
