//! `edgewright`: every central and site service as a subcommand that runs as its own process, and `edgewright up`, which
//! runs all of them in one process, still meeting only over the two NATS servers.

mod arguments;
mod certificates;
mod children;
mod downloads;
mod folder;
mod hub;
mod signing_keys;
mod site;
mod supervise;
mod up;

use std::process::ExitCode;

use anyhow::Context;
use arguments::{Arguments, Command, ServiceCommand};
use bus::Tier;
use clap::Parser;
use folder::Folder;
use identity::plaintext::Plaintext;
use process::{shutdown_token, telemetry, within_grace};
use service::{Health, health};

fn main() -> ExitCode {
    disk::keep_files_private();
    process::keep_little_memory_of_a_service();
    let arguments = Arguments::parse();
    let result =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime").and_then(
            |runtime| {
                // The exporter of traces blocks its thread, so it must neither start nor end inside the runtime.
                let _telemetry = telemetry::init(arguments.command.program(), &arguments.telemetry)?;
                rustls::crypto::aws_lc_rs::default_provider()
                    .install_default()
                    .map_err(|_| anyhow::anyhow!("another TLS provider is installed already"))?;
                runtime.block_on(run(&arguments))
            },
        );
    result.unwrap_or_else(|error| {
        eprintln!("edgewright: {error:#}");
        ExitCode::FAILURE
    })
}

async fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let health = Health::default();
    let shutdown = shutdown_token()?;
    let plaintext = Plaintext::allowed(arguments.allow_plaintext);
    let checks = match arguments.health {
        None => None,
        Some(listen) => {
            let tls = arguments.health_tls()?;
            plaintext.check_listener("--health (with --health-certificate and --health-key)", listen, tls.is_some())?;
            Some(tokio::spawn(health::serve(listen, tls, health.clone(), shutdown.clone())))
        }
    };
    let otlp = arguments.telemetry.otlp_endpoint.as_deref();
    let database = arguments.database()?;
    let mut code = ExitCode::SUCCESS;
    let work = async {
        match &arguments.command {
            Command::Init(args) => hub::init(&args.data, &args.settings(plaintext), plaintext).map(drop),
            Command::InitSite(args) => {
                site::init(&args.data, &args.credentials, &args.settings(plaintext), plaintext).map(drop)
            }
            Command::Hub(args) => {
                let hub = hub::init(&args.init.data, &args.init.settings(plaintext), plaintext)?;
                hub::run(&hub.with_database(database), &args.nats_server, &health, &shutdown).await
            }
            Command::Up(args) => {
                code = up::run(args, plaintext, database, &arguments.telemetry, &health, &shutdown).await?;
                Ok(())
            }
            Command::Site(args) => {
                let site = site::init(&args.data, &args.credentials, &args.settings(plaintext), plaintext)?;
                site::run(&site, &args.nats_server, otlp, &health, &shutdown).await
            }
            Command::Reader(args) => hub::add_reader(&args.data, &args.name, &args.credentials, plaintext),
            Command::RotateKey(args) => {
                let key = signing_keys::rotate(&Folder::open(&args.data))?;
                println!("new signing key {key}\nrestart git-writer");
                Ok(())
            }
            Command::RevokeKeys(args) => {
                let revoked = signing_keys::revoke(&Folder::open(&args.data.data), args.anyway)?;
                println!("{revoked} keys revoked\nrestart git-writer");
                Ok(())
            }
            Command::Service(ServiceCommand { service, data }) => match service.service().tier {
                Tier::Hub => hub::run_one(*service, &data.data, plaintext, database, &health, &shutdown).await,
                Tier::Site => site::run_one(*service, &data.data, plaintext, otlp, &health, &shutdown).await,
            },
        }
    };
    let result = within_grace(work, &shutdown).await;
    shutdown.cancel();
    if let Some(checks) = checks {
        checks.await.context("serving health checks")??;
    }
    result.map(|()| code)
}
