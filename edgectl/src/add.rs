//! Adding applications to the catalogue, and sites and nodes to the fleet.

use std::{
    fs,
    io::{self, IsTerminal},
    path::{Path, PathBuf},
};

use api::{App, CreateNode, CreateSite, NodeCreated, SiteCreated};
use futures::TryStreamExt;
use identity::{
    certificates::SiteRequest,
    credentials::{self, NodeCredentials, SiteCredentials, SiteTls},
};
use indicatif::{ProgressBar, ProgressStyle};
use margo::{DeviceId, Identity, NodeId, SiteName, TenantName, UserNkey};
use reqwest::{Method, header};
use serde::{Deserialize, Serialize};
use tokio_util::io::ReaderStream;

use crate::{
    args::SiteAddresses,
    client::Client,
    failure::Failure,
    output::{Format, print},
    tables,
};

/// Packs an application's folder and uploads the archive; a bar on a terminal shows how far the upload is.
pub(crate) async fn app(client: &Client, folder: &Path, format: Format) -> Result<(), Failure> {
    let attempt = format!("adding the app in {}", folder.display());
    let failed = |error: anyhow::Error| Failure::Failed(format!("{attempt}: {error:#}"));
    let tar = tempfile::NamedTempFile::new().map_err(|error| failed(error.into()))?;
    let (from, to) = (folder.to_owned(), tar.path().to_owned());
    let packed = tokio::task::spawn_blocking(move || oci::layout::pack(&from, &to)).await;
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
    let request = key.tls.as_deref().map(SiteRequest::for_key).transpose();
    let request = request.map_err(|error| Failure::file("reading the key of certificates in", &key.pending, error))?;
    let body = CreateSite {
        name: name.clone(),
        identity: Identity::Nkey(key.public.clone()),
        certificate_request: request.map(|request| request.request),
        reason: None,
    };
    let request = client.request(Method::POST, "sites").json(&body);
    let attempt = format!("adding the site {name}");
    let created = client.order::<SiteCreated>(&attempt, request).await.map_err(|failure| key.not_added(failure))?;
    let credentials = SiteCredentials {
        tenant: TenantName::default(),
        site: created.body.name.clone(),
        hub: created.body.hub.clone(),
        minter: created.body.minter.clone(),
        seed: key.seed.clone(),
        root_key: created.body.root_key.clone(),
        tls: created.body.certificate.clone().zip(key.tls.clone()).map(|(certificate, key)| SiteTls {
            root_certificates: created.body.root_certificates.clone(),
            certificate,
            key,
        }),
    };
    key.keep_as(&credentials)?;
    print(format, &created.json, || tables::site_created(&created.body, &file.display().to_string()))
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
    let body = CreateNode { name: name.clone(), identity: Identity::Nkey(key.public.clone()), device_id, reason: None };
    let request = client.request(Method::POST, "nodes").json(&body);
    let attempt = format!("adding the node {name}");
    let created = client.order::<NodeCreated>(&attempt, request).await.map_err(|failure| key.not_added(failure))?;
    let SiteAddresses { server, minter } = addresses;
    let credentials = NodeCredentials {
        node: name.clone(),
        server,
        minter,
        seed: key.seed.clone(),
        root_certificates: Some(created.body.root_certificates.clone()),
    };
    key.keep_as(&credentials)?;
    print(format, &created.json, || tables::node_created(&created.body, &file.display().to_string()))
}

/// A key pair that is on disk before the platform hears of it. `FILE.pending` holds it until the credentials file `FILE`
/// does, so a lost answer costs nothing: the same command asks again with the same key, and the platform gives the same
/// answer to the same key.
struct Key {
    file: PathBuf,
    pending: PathBuf,
    seed: String,
    public: UserNkey,
    /// The key of a site's intermediate certificate in PEM form.
    tls: Option<String>,
    /// Whether an earlier attempt made the key. Its answer was lost, so the key may be in force.
    resumed: bool,
}

/// A key that may not be in force yet, as it stands in `FILE.pending` until the platform has answered.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pending {
    name: String,
    seed: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tls: Option<String>,
}

/// What a key pair is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A site, which also has an intermediate certificate and so a key for that.
    Site,
    /// A node.
    Node,
}

impl Key {
    /// Takes up the key of an earlier attempt for the same name, or makes one and saves it. Fails when `file` exists, or when
    /// the pending key is that of another name.
    fn make(file: &Path, name: &str, kind: Kind) -> Result<Self, Failure> {
        if fs::symlink_metadata(file).is_ok() {
            let next = "name another file, or move this one away";
            return Err(Failure::Usage(format!("{} exists and is never overwritten\n  next: {next}", file.display())));
        }
        let mut pending = file.as_os_str().to_owned();
        pending.push(".pending");
        let (file, pending) = (file.to_owned(), PathBuf::from(pending));
        if fs::symlink_metadata(&pending).is_err() {
            let (seed, public) = identity::nats::generate();
            let tls = (kind == Kind::Site).then(SiteRequest::generate).transpose();
            let tls = tls.map_err(|error| Failure::Failed(format!("making a key for certificates: {error}")))?;
            let tls = tls.map(|request| request.key);
            let content = Pending { name: name.to_owned(), seed: seed.clone(), tls: tls.clone() };
            credentials::save(&pending, &content).map_err(|error| Failure::Failed(process::chain(&error)))?;
            return Ok(Self { file, pending, seed, public, tls, resumed: false });
        }
        let held: Pending = credentials::load(&pending).map_err(|error| Failure::Usage(process::chain(&error)))?;
        if held.name != name {
            let path = pending.display();
            return Err(Failure::Usage(format!(
                "{path} holds the key of {}, whose adding did not end\n  next: finish that first, or name another file",
                held.name
            )));
        }
        let public = identity::nats::public_key(&held.seed)
            .map_err(|error| Failure::file("reading the key in", &pending, error))?;
        Ok(Self { file, pending, seed: held.seed, public, tls: held.tls, resumed: true })
    }

    /// Called when the platform has refused the key, or when that is not known. Deletes a key that cannot be in force, and
    /// keeps any other for the next attempt.
    fn not_added(&self, failure: Failure) -> Failure {
        if !failure.is_open() && !self.resumed {
            // The key is of no use to anybody. If the file stays, the next attempt uses its key.
            let _ = fs::remove_file(&self.pending);
            return failure;
        }
        eprintln!("its key is kept in {}; the same command again goes on with it", self.pending.display());
        failure
    }

    /// Writes the credentials file, then deletes the pending one.
    fn keep_as(&self, credentials: &impl Serialize) -> Result<(), Failure> {
        credentials::save(&self.file, credentials).map_err(|error| Failure::Failed(process::chain(&error)))?;
        fs::remove_file(&self.pending).map_err(|error| Failure::file("removing", &self.pending, error))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use api::Problem;

    use super::*;

    fn refused(status: u16) -> Failure {
        Failure::refused("adding", Problem::new(status, "no"))
    }

    #[test]
    fn a_key_is_on_disk_before_it_is_used_and_lasts_until_its_file_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("press");
        let first = Key::make(&file, "plant/press", Kind::Node).unwrap();
        assert_eq!(fs::metadata(&first.pending).unwrap().permissions().mode() & 0o777, 0o600);
        first.not_added(refused(504));
        let again = Key::make(&file, "plant/press", Kind::Node).unwrap();
        assert_eq!((again.public.clone(), again.resumed), (first.public, true));
        assert!(Key::make(&file, "plant/oven", Kind::Node).is_err());
        // The first attempt may have come through: its key is kept, whatever is said to the second.
        again.not_added(refused(403));
        assert!(again.pending.exists());
        again.keep_as(&Pending { name: String::new(), seed: again.seed.clone(), tls: None }).unwrap();
        assert!(!again.pending.exists());
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(Key::make(&file, "plant/press", Kind::Node), Err(Failure::Usage(_))));
    }

    #[test]
    fn a_refusal_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let key = Key::make(&folder.path().join("press"), "plant/press", Kind::Node).unwrap();
        key.not_added(refused(409));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
