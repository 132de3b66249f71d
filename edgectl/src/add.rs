//! Adding applications to the catalogue, and sites and nodes to the fleet.

use std::{
    io::{self, IsTerminal},
    path::Path,
};

use api::{App, CreateNode, CreateSite};
use futures::TryStreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use margo::{DeviceId, NodeId, SiteName};
use reqwest::{Method, header};
use tokio_util::io::ReaderStream;

use crate::{
    args::SiteAddresses,
    client::Client,
    failure::Failure,
    images,
    key::{Key, Kind},
    output::{Format, print},
    tables,
};

/// Packs an application's folder and uploads the archive; a bar on a terminal shows how far the upload is.
pub(crate) async fn app(
    client: &Client,
    folder: &Path,
    docker_config: Option<&Path>,
    format: Format,
) -> Result<(), Failure> {
    let attempt = format!("adding the app in {}", folder.display());
    let failed = |error: anyhow::Error| Failure::Failed(format!("{attempt}: {error:#}"));
    let tar = tempfile::NamedTempFile::new().map_err(|error| failed(error.into()))?;
    let scratch = tempfile::TempDir::new().map_err(|error| failed(error.into()))?;
    let pulled = images::pull(folder, docker_config, scratch.path()).await.map_err(failed)?;
    let (from, to) = (folder.to_owned(), tar.path().to_owned());
    let packed = tokio::task::spawn_blocking(move || oci::layout::pack_with(&from, Some(&pulled), &to)).await;
    let packed = packed.expect("packing does not panic").map_err(|error| failed(error.into()))?;
    eprintln!("packed {}@{}: {} bytes", packed.app, packed.version, packed.size);

    let file = tokio::fs::File::open(tar.path()).await.map_err(|error| failed(error.into()))?;
    let bar = upload_bar(packed.size);
    let progress = bar.clone();
    let stream = ReaderStream::new(file).inspect_ok(move |chunk| progress.inc(chunk.len() as u64));
    let request = client
        .request(Method::POST, "apps")
        .header(header::CONTENT_TYPE, "application/x-tar")
        .header(header::CONTENT_LENGTH, packed.size)
        .body(reqwest::Body::wrap_stream(stream));
    let added = client.send::<App>(&attempt, request).await;
    bar.finish_and_clear();
    let added = added?;
    print(format, &added.json, || tables::apps(std::slice::from_ref(&added.body)))
}

fn upload_bar(size: u64) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("uploading {wide_bar} {bytes}/{total_bytes} {eta}");
    ProgressBar::new(size).with_style(style.expect("the template is fixed"))
}

/// Adds a site and writes its credentials file. The key pair is made here; only the public key is sent.
pub(crate) async fn site(client: &Client, name: &SiteName, file: &Path, format: Format) -> Result<(), Failure> {
    let key = Key::make(file, name.as_str(), Kind::Site)?;
    let body = CreateSite {
        name: name.clone(),
        identity: key.identity(),
        certificate_request: key.certificate_request()?,
        reason: None,
    };
    let request = client.request(Method::POST, "sites").json(&body);
    let attempt = format!("adding the site {name}");
    key.admit_site(client, &attempt, request, format).await
}

/// Adds a node and writes its credentials file. The key pair is made here; only the public key is sent.
pub(crate) async fn node(
    client: &Client,
    name: &NodeId,
    file: &Path,
    addresses: SiteAddresses,
    device_id: Option<DeviceId>,
    format: Format,
) -> Result<(), Failure> {
    let key = Key::make(file, &name.to_string(), Kind::Node)?;
    let body = CreateNode { name: name.clone(), identity: key.identity(), device_id, reason: None };
    let request = client.request(Method::POST, "nodes").json(&body);
    let attempt = format!("adding the node {name}");
    key.admit_node(client, &attempt, request, addresses, format).await
}
