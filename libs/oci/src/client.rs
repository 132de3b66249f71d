//! A client that pulls artifacts by digest.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{StreamExt, TryStreamExt, stream};
use margo::Digest;
use process::Backoff;
use reqwest::{
    Response, StatusCode, Url,
    header::{ACCEPT, CONTENT_RANGE, HeaderMap, RANGE},
    redirect::Policy,
};
use rustls::ClientConfig;
use tokio::time::sleep;

use crate::{
    ArtifactManifest, ContentStore, Download, MAX_MANIFEST, RepositoryName, StoreError,
    pull_error::{InvalidAddress, PullError},
};
#[cfg(feature = "registry")]
use crate::{login::Login, pace::Pace};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest pause between two pieces of an answer. It is longer than a site's fetcher holds a request back while
/// it pulls from the hub.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a connection may rest. A pull uses one for all of its requests.
const IDLE: Duration = Duration::from_secs(1);

/// The pauses after a connection that broke. Whoever called has longer ones for a server that is away.
const RESUME: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));

/// A connection that brought so much of a blob counts as a success, although it broke. A server that ends every
/// connection after a few bytes is given up all the same.
const PROGRESS: u64 = 64 << 10;

/// What the manifest may be. Registries that have it in several forms choose by this.
const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

/// How much a client may pull, and how hard it tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest artifact that is pulled, all its blobs together, in bytes.
    pub artifact: u64,
    /// How many bytes stay free on the disk. What would leave less is not pulled.
    pub reserve: u64,
    /// How many blobs of one artifact are pulled at once.
    pub parallel: usize,
    /// How many connections in a row may break within one blob without bringing 64 KiB of it.
    pub attempts: u32,
}

impl Default for Limits {
    /// 64 GiB, larger than the images of field devices that we know; a reserve of 128 MiB, of which a node needs a part
    /// for what it is ordered and for its reports; three blobs at once, which hides the pauses of one; three attempts.
    fn default() -> Self {
        Self { artifact: 64 << 30, reserve: 128 << 20, parallel: 3, attempts: 3 }
    }
}

/// What opens the store.
#[derive(Clone)]
enum Access {
    /// The same bearer token for every request.
    Token(String),
    /// Whatever the registry asks for.
    #[cfg(feature = "registry")]
    Login(Arc<Login>),
}

/// A client that reads from one store.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    access: Access,
    limits: Limits,
    #[cfg(feature = "registry")]
    pace: Option<Arc<Pace>>,
}

/// One thing that a repository has.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub name: &'a RepositoryName,
    /// `manifests`, `blobs` or `referrers`.
    pub kind: &'static str,
    pub digest: &'a Digest,
}

impl Client {
    /// Makes a client of the store at this base URL, which does not include `/v2`. `tls` says which certificates are
    /// believed at an `https://` address; without it they are those that the operating system trusts. Redirects are not
    /// followed.
    pub fn new(base: &str, token: impl Into<String>, tls: Option<&Arc<ClientConfig>>) -> Result<Self, InvalidAddress> {
        let (http, base) = connection(base, tls)?;
        Ok(Self::with(http, base, Access::Token(token.into())))
    }

    /// Makes a client of a registry that asks for a login, or of one that everybody may read.
    #[cfg(feature = "registry")]
    pub(crate) fn with_login(http: reqwest::Client, base: Url, login: Login) -> Self {
        Self::with(http, base, Access::Login(Arc::new(login)))
    }

    fn with(http: reqwest::Client, base: Url, access: Access) -> Self {
        let limits = Limits::default();
        Self {
            http,
            base,
            access,
            limits,
            #[cfg(feature = "registry")]
            pace: None,
        }
    }

    #[cfg(feature = "registry")]
    pub(crate) fn base(&self) -> &Url {
        &self.base
    }

    /// Changes the limits.
    pub fn limited(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Has everything that is pulled wait for its time. Clients that share a pace share its rate.
    #[cfg(feature = "registry")]
    pub fn paced(mut self, pace: Option<Arc<Pace>>) -> Self {
        self.pace = pace;
        self
    }

    /// Pulls a manifest and everything that the manifest names, verifies it, and has `name` hold it in `store`. It
    /// returns how many bytes crossed the network; content that is there already is not pulled again.
    pub async fn pull(&self, store: &ContentStore, name: &RepositoryName, digest: &Digest) -> Result<u64, PullError> {
        self.pull_as(store, name, name, digest).await
    }

    /// Pulls an artifact like [`Client::pull`], but has another name hold it in `store` than it has where it comes from.
    pub(crate) async fn pull_as(
        &self,
        store: &ContentStore,
        name: &RepositoryName,
        held_as: &RepositoryName,
        digest: &Digest,
    ) -> Result<u64, PullError> {
        let manifest_bytes = self.pull_manifest(store, name, digest).await?;
        let manifest = store.manifest(digest).await?;
        let blob_bytes = self.pull_blobs(store, name, &manifest).await?;
        store.link(held_as, digest).await?;
        Ok(manifest_bytes + blob_bytes)
    }

    async fn pull_blobs(
        &self,
        store: &ContentStore,
        name: &RepositoryName,
        manifest: &ArtifactManifest,
    ) -> Result<u64, PullError> {
        if manifest.size() > self.limits.artifact {
            return Err(StoreError::TooLarge { limit: self.limits.artifact }.into());
        }
        let missing: BTreeMap<_, _> = manifest
            .blobs()
            .filter(|blob| !store.contains(&blob.digest))
            .map(|blob| (blob.digest, blob.size))
            .collect();
        // Seen for all of them before the first comes: a disk that has no place for the last is not filled with the others.
        store.make_room(missing.clone().into_iter().collect(), self.limits.reserve).await?;
        stream::iter(missing)
            .map(|(digest, size)| async move { self.pull_blob(store, name, &digest, size).await })
            .buffer_unordered(self.limits.parallel.max(1))
            .try_fold(0, |sum, bytes| std::future::ready(Ok(sum + bytes)))
            .await
    }

    /// Pulls a manifest or an index alone, verified. Returns how many bytes crossed the network; none when it is in the
    /// store already. Whoever reads only a part of an artifact pulls its manifest, chooses, and pulls the blobs chosen.
    pub async fn pull_manifest(
        &self,
        store: &ContentStore,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<u64, PullError> {
        self.fetch(store, Asked { name, kind: "manifests", digest }, MAX_MANIFEST).await
    }

    /// Pulls one blob of at most `size` bytes, verified. Returns how many bytes crossed the network; none when it is in
    /// the store already. A blob that was begun before is gone on with.
    pub async fn pull_blob(
        &self,
        store: &ContentStore,
        name: &RepositoryName,
        digest: &Digest,
        size: u64,
    ) -> Result<u64, PullError> {
        self.fetch(store, Asked { name, kind: "blobs", digest }, size).await
    }

    async fn fetch(&self, store: &ContentStore, asked: Asked<'_>, limit: u64) -> Result<u64, PullError> {
        let Some(mut download) = store.download(asked.digest, limit).await? else { return Ok(0) };
        let (mut received, mut failures, mut pauses, mut furthest) = (0, 0, RESUME, download.held());
        // What an earlier attempt left may be damaged, or come from a server that lied: that is no reason to fail, once.
        let mut doubtful = download.held() > 0;
        loop {
            let error = match self.go_on(&mut download, asked, &mut received).await {
                Ok(()) => match download.finish().await {
                    Ok(()) => return Ok(received),
                    Err(StoreError::WrongDigest { .. }) if doubtful => {
                        doubtful = false;
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                },
                Err(error) => error,
            };
            if download.held() >= furthest + PROGRESS {
                (failures, pauses, furthest) = (0, RESUME, download.held());
            }
            failures += 1;
            if !error.is_passing() || failures >= self.limits.attempts {
                return Err(error);
            }
            tracing::debug!(digest = %asked.digest, held = download.held(), error = &error as &dyn std::error::Error, "going on");
            sleep(pauses.pause()).await;
        }
    }

    /// Asks for what is missing of a download, and writes it. Returns when the whole content is there.
    async fn go_on(&self, download: &mut Download, asked: Asked<'_>, received: &mut u64) -> Result<(), PullError> {
        let held = download.held();
        let mut response = self.get(asked, held).await?;
        let size = match response.status() {
            StatusCode::RANGE_NOT_SATISFIABLE => {
                // All was there already, and only the end of the process kept it from being verified.
                if content_range(response.headers()).is_some_and(|(_, size)| size == Some(held)) {
                    return Ok(());
                }
                download.restart().await?;
                return Err(PullError::Status { status: response.status(), digest: *asked.digest });
            }
            StatusCode::PARTIAL_CONTENT => match content_range(response.headers()) {
                Some((first, size)) if first == held => size,
                _ => {
                    download.restart().await?;
                    return Err(PullError::Status { status: StatusCode::RANGE_NOT_SATISFIABLE, digest: *asked.digest });
                }
            },
            // A server that does not know ranges sends all.
            _ => {
                if held > 0 {
                    download.restart().await?;
                }
                response.content_length()
            }
        };
        download.make_room(size.unwrap_or(download.limit()), self.limits.reserve).await?;
        while let Some(bytes) = response.chunk().await? {
            #[cfg(feature = "registry")]
            if let Some(pace) = &self.pace {
                pace.take(bytes.len()).await;
            }
            *received += bytes.len() as u64;
            download.write(&bytes).await?;
        }
        Ok(())
    }

    async fn get(&self, asked: Asked<'_>, from: u64) -> Result<Response, PullError> {
        let Asked { name, kind, digest } = asked;
        let response = self.ask(name, &format!("v2/{name}/{kind}/{digest}"), from).await?;
        match response.status() {
            StatusCode::OK => Ok(response),
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE if from > 0 => Ok(response),
            status => Err(PullError::of(status, response.headers(), digest)),
        }
    }

    /// Asks for a path below the base, from this byte on, and logs in where that is asked for.
    #[cfg_attr(not(feature = "registry"), expect(unused_variables, reason = "a login alone is for a repository"))]
    pub(crate) async fn ask(&self, name: &RepositoryName, path: &str, from: u64) -> Result<Response, PullError> {
        let url = self.base.join(path).expect("names and digests are made of URL characters");
        match &self.access {
            Access::Token(token) => {
                let request = request(&self.http, url, from);
                Ok(request.bearer_auth(token).send().await?)
            }
            #[cfg(feature = "registry")]
            Access::Login(login) => login.send(name, url, |url| request(&self.http, url, from)).await,
        }
    }
}

fn request(http: &reqwest::Client, url: Url, from: u64) -> reqwest::RequestBuilder {
    let request = http.get(url).header(ACCEPT, MANIFESTS);
    if from == 0 { request } else { request.header(RANGE, format!("bytes={from}-")) }
}

/// Makes what connects to the store at this base URL.
pub(crate) fn connection(
    base: &str,
    tls: Option<&Arc<ClientConfig>>,
) -> Result<(reqwest::Client, Url), InvalidAddress> {
    let invalid = || InvalidAddress(base.to_owned());
    let mut url = Url::parse(base).map_err(|_| invalid())?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(invalid());
    }
    // Without the slash, joining would replace the last segment of the path.
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    let http = match tls {
        Some(tls) => reqwest::Client::builder().tls_backend_preconfigured((**tls).clone()),
        None => reqwest::Client::builder().tls_version_min(reqwest::tls::Version::TLS_1_3),
    };
    let http = http
        // The library would take a token along to another port of the same host.
        .redirect(Policy::none())
        // The token must not go to whatever the environment calls a proxy.
        .no_proxy()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        // All behind one address share the places of a listener, so a client that has pulled leaves its place.
        .pool_idle_timeout(IDLE)
        .build()
        .map_err(|_| invalid())?;
    Ok((http, url))
}

/// Returns the first byte of a part and the size of the whole, as far as `Content-Range` says: `bytes 5-9/10`, or
/// `bytes */10` when there is no such part.
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let (range, size) = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?.split_once('/')?;
    let size = if size == "*" { None } else { Some(size.parse().ok()?) };
    let first = if range == "*" { u64::MAX } else { range.split_once('-')?.0.parse().ok()? };
    Some((first, size))
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn the_range_of_an_answer_is_read_strictly() {
        for (text, range) in [
            ("bytes 5-9/10", Some((5, Some(10)))),
            ("bytes 5-9/*", Some((5, None))),
            ("bytes */10", Some((u64::MAX, Some(10)))),
            ("bytes 5/10", None),
            ("bytes -9/10", None),
            ("items 5-9/10", None),
            ("bytes 5-9", None),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_RANGE, HeaderValue::from_static(text))]);
            assert_eq!(content_range(&headers), range, "{text}");
        }
    }
}
