//! edgectl operates the platform from a terminal. `edgectl co …` speaks to the REST interface of the Central Orchestrator,
//! `edgectl lo …` to that of a site's Local Orchestrator.
//!
//! Tables for people, `-o json` for programs (exactly what the interface answered); progress and errors go to stderr.
//! Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 unreachable, 4 timed out waiting.
//!
//! [`context`] is public: `edgewright up` writes the file that says where the platform is.

mod add;
mod args;
mod client;
pub mod context;
mod failure;
mod images;
mod key;
mod order;
mod output;
mod parameters;
mod replace;
mod tables;
mod wait;

use std::process::ExitCode;

use api::{Done, Pinged, WorkloadCall};
use clap::Parser;
use margo::NodeId;
use reqwest::{Method, RequestBuilder};
use serde::de::DeserializeOwned;

use crate::{
    args::{Add, Args, Co, Command, Connection, List, Lo, LoStatus, ReplaceKey, RevokeKey, Show},
    client::Client,
    failure::Failure,
    output::{Format, print},
};

/// Does what the command line says, and gives the exit code. Answers go to stdout, all else to stderr.
pub async fn run() -> ExitCode {
    // This fails only when a provider is installed already, and then it is the same one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let args = Args::parse();
    let done = match args.command {
        Command::Co(command) => co(command, &args.connection, args.output).await,
        Command::Lo(Lo::Status(status)) => lo_status(&status, &args.connection, args.output).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("edgectl: {}", output::escaped_lines(&failure.to_string()));
            ExitCode::from(failure.exit_code())
        }
    }
}

async fn co(command: Co, connection: &Connection, format: Format) -> Result<(), Failure> {
    let client = connection.client()?;
    match command {
        Co::Status => show(&client, "asking for the status", "status", format, tables::platform).await,
        Co::Add(Add::App { folder, docker_config }) => {
            add::app(&client, &folder, docker_config.as_deref(), format).await
        }
        Co::Add(Add::Site { name, credentials }) => add::site(&client, &name, &credentials, format).await,
        Co::Add(Add::Node { name, credentials, addresses, device_id }) => {
            let addresses = connection.site_addresses(&name, addresses)?;
            add::node(&client, &name, &credentials, addresses, device_id, format).await
        }
        Co::ReplaceKey(ReplaceKey::Site { name, credentials, reason }) => {
            replace::site(&client, &name, &credentials, reason, format).await
        }
        Co::ReplaceKey(ReplaceKey::Node { name, credentials, addresses, reason }) => {
            let addresses = connection.site_addresses(&name, addresses)?;
            replace::node(&client, &name, &credentials, addresses, reason, format).await
        }
        Co::RevokeKey(RevokeKey::Site { name, reason }) => {
            let attempt = format!("revoking the key of the site {name}");
            replace::revoke(&client, &attempt, &format!("sites/{name}/key"), reason, format).await
        }
        Co::RevokeKey(RevokeKey::Node { name, reason }) => {
            let attempt = format!("revoking the key of the node {name}");
            replace::revoke(&client, &attempt, &format!("nodes/{name}/key"), reason, format).await
        }
        Co::List(List::Apps) => list(&client, "apps", format, tables::apps).await,
        Co::List(List::Sites) => list(&client, "sites", format, tables::sites).await,
        Co::List(List::Nodes) => list(&client, "nodes", format, tables::nodes).await,
        Co::List(List::Assignments) => list(&client, "assignments", format, tables::assignments).await,
        Co::List(List::Deployments) => list(&client, "deployments", format, tables::deployments).await,
        Co::List(List::Orders) => list(&client, "orders", format, tables::orders).await,
        Co::Show(Show::Assignment { name }) => {
            let attempt = format!("showing the assignment {name}");
            show(&client, &attempt, &format!("assignments/{name}"), format, tables::assignment).await
        }
        Co::Show(Show::Deployment { id }) => {
            let attempt = format!("showing the deployment {id}");
            show(&client, &attempt, &format!("deployments/{id}"), format, tables::deployment).await
        }
        Co::History { deployment } => {
            let attempt = format!("showing the history of the deployment {deployment}");
            let path = format!("deployments/{deployment}/history");
            show(&client, &attempt, &path, format, |entries: &Vec<_>| tables::history(entries)).await
        }
        Co::Repository { site } => {
            let attempt = format!("asking for the repository of the site {site}");
            show(&client, &attempt, &format!("sites/{site}/repository"), format, tables::repository).await
        }
        Co::Ping { node } => ping(&client, &node, format).await,
        Co::Logs { deployment, component, lines } => {
            let component = component.map(|component| format!("&component={component}")).unwrap_or_default();
            let path = format!("deployments/{deployment}/logs?lines={lines}{component}");
            show(&client, &format!("reading the log of {deployment}"), &path, format, tables::logs).await
        }
        Co::Restart { deployment, component } => {
            let request = client.request(Method::POST, &format!("deployments/{deployment}/restart"));
            let request = request.json(&WorkloadCall { component });
            done(&client, &format!("restarting {deployment}"), request, "has started it again", format).await
        }
        Co::Retry { deployment } => {
            let request = client.request(Method::POST, &format!("deployments/{deployment}/retry"));
            done(&client, &format!("having {deployment} tried again"), request, "tries it again", format).await
        }
        Co::Deploy(deploy) => order::deploy(&client, deploy, format).await,
        Co::Update(update) => order::update(&client, update, format).await,
        Co::Remove(remove) => order::remove(&client, remove, format).await,
    }
}

async fn ping(client: &Client, node: &NodeId, format: Format) -> Result<(), Failure> {
    let request = client.request(Method::POST, &format!("nodes/{node}/ping"));
    let answer = client.order::<Pinged>(&format!("asking the node {node}"), request).await?;
    print(format, &answer.json, || format!("{node} answered after {} ms\n", answer.body.milliseconds))
}

/// Has a node do something, and says that it did.
async fn done(
    client: &Client,
    attempt: &str,
    request: RequestBuilder,
    what: &str,
    format: Format,
) -> Result<(), Failure> {
    let answer = client.order::<Done>(attempt, request).await?;
    print(format, &answer.json, || format!("{} {what}\n", answer.body.node))
}

/// Asks for all things of a kind, such as `sites`, and shows them as a table or as JSON.
async fn list<T: DeserializeOwned>(
    client: &Client,
    kind: &str,
    format: Format,
    table: impl FnOnce(&[T]) -> String,
) -> Result<(), Failure> {
    show(client, &format!("listing the {kind}"), kind, format, |things: &Vec<T>| table(things)).await
}

/// Asks for what is at `path` and shows it as a table or as JSON.
async fn show<T: DeserializeOwned>(
    client: &Client,
    attempt: &str,
    path: &str,
    format: Format,
    table: impl FnOnce(&T) -> String,
) -> Result<(), Failure> {
    let answer = client.get::<T>(attempt, path).await?;
    print(format, &answer.json, || table(&answer.body))
}

async fn lo_status(status: &LoStatus, connection: &Connection, format: Format) -> Result<(), Failure> {
    let client = connection.site_client(status)?;
    show(&client, "asking the site for its status", "status", format, tables::site).await
}
