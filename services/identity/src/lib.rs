//! identity: mints the logins of sites at the hub's NATS server, and revokes them; makes the hub's streams and consumers.
//!
//! The service owns the keys of the hub's server: its operator, its accounts and the key that signs sites. It reads
//! `clients/*.yaml` of `fleet.git`, again on each `git.committed.fleet`, on each new connection and every minute. From these
//! files alone follows who may log in, and which keys never may again. It answers `GET /v1/jwt/<public key>` over HTTP, pushes
//! what is revoked to the server, ends the connections that a key has beyond three, and answers `svc.identity.logins` and
//! `svc.identity.key`.
//! `libs/minter` does that; the local orchestrator does the same for its nodes.
//!
//! It is also the hub's bootstrap ([`bus::bootstrap`]): on a connection that may do nothing else it makes streams and consumers
//! and keeps them, at the start, on each new connection, every five seconds, and when a service asks `svc.identity.streams` or
//! `svc.identity.renew-stream`.
//!
//! It keeps nothing but the file of accounts that the server's configuration includes, so it may die at any time. Who has a
//! login needs nothing of it before a third of the login's life is over.

#![allow(missing_docs, reason = "only the program that starts the service sees its items, and most names say enough")]

mod config;
mod consume;
mod domain;
mod git;
mod handler;

use std::sync::Arc;

use anyhow::Context;
use bus::{Bootstrap, Bus, Members, ServiceName, Subject, bootstrap};
use minter::{Minter, Settings};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

pub use config::Config;

use crate::{consume::Told, git::Fleet, handler::Answers};

/// Works until shutdown. Fails when it cannot listen on `config.listen`.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let listener = TcpListener::bind(config.listen).await;
    let listener = listener.with_context(|| format!("listening on {} for sites that want a login", config.listen))?;
    run_on(listener, config, shutdown).await
}

/// Works until shutdown on a listener that is open already; `config.listen` is not used.
pub async fn run_on(listener: TcpListener, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let (bus, minting) = (config.base.connect().await?, Bus::connect(&config.minter).await?);
    let making = Bus::connect(&config.bootstrap).await?;
    config.base.readiness.also_needs(&making);
    let readers = config.authority.clone();
    let bootstrap =
        Bootstrap::new(making, bootstrap::of_the_hub()).with_readers(Arc::new(move || Ok(readers.readers()?)));
    let bootstrap = Arc::new(bootstrap);
    let (roll, rolls) = watch::channel(None);
    let (keys, keys_told) = watch::channel(None);
    let settings = Settings {
        authority: config.authority,
        members: Members::Sites,
        services: config.services,
        life: Some(config.life),
        server: "hub".to_owned(),
    };
    let minter = Minter::new(settings, rolls);
    let answers = Arc::new(Answers { minter: minter.clone(), bootstrap: bootstrap.clone(), keys: keys_told });
    // Subscribed before the first look, so that no commit falls between the two.
    let signals = bus.subscribe(Subject::GitCommittedFleet).await?;
    let mut endpoints = bus.register(ServiceName::Identity, answers).await?;
    endpoints.verb("logins", Answers::logins).await?;
    endpoints.verb("streams", Answers::streams).await?;
    endpoints.verb("renew-stream", Answers::renew_stream).await?;
    endpoints.verb("key", Answers::key).await?;
    let fleet = Fleet { folder: config.repositories, tenant: config.base.tenant };
    tokio::try_join!(
        service::http::serve(listener, config.tls, minter.router(), shutdown.clone()),
        minter.run(minting, shutdown.clone()),
        bootstrap.run(&shutdown),
        consume::run(fleet, bus, signals, Told { roll, keys }, config.base.readiness, shutdown.clone()),
    )?;
    endpoints.stop().await
}
