//! A client that pulls artifacts by digest.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use margo::Digest;
use reqwest::{
    Response, StatusCode, Url,
    header::{ACCEPT, RETRY_AFTER},
    redirect::Policy,
};
use rustls::ClientConfig;

use crate::{ContentStore, Descriptor, MAX_MANIFEST, RepositoryName, StoreError, media};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest pause between two pieces of an answer. It is longer than a site's fetcher holds a request back while
/// it pulls from the hub.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a connection may rest. A pull uses one for all of its requests.
const IDLE: Duration = Duration::from_secs(1);

/// The pause that is reported when the server says "later" without saying when.
const RETRY_DELAY: Duration = Duration::from_secs(5);

/// The longest wait that a server can ask for. Whatever it says, somebody who waits for an artifact looks again within
/// minutes, and the time can be added to any clock.
const LONGEST_DELAY: Duration = Duration::from_secs(300);

/// The text is not the address of a store.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not the address of a store: http:// or https://, a host and a port")]
pub struct InvalidAddress(String);

/// An artifact was not pulled. What came before the failure stays in the store, verified, and is not pulled again.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The store does not accept the token, or no longer accepts it.
    #[error("the store does not accept the token")]
    Unauthorized,
    /// The store does not have the content with this digest.
    #[error("the store does not have {0}")]
    Absent(Digest),
    /// The store cannot answer now and may do so after this time.
    #[error("the store asks to try again in {} s", .0.as_secs())]
    Later(Duration),
    /// The store gave an answer that the read API does not have. Redirects are among them, because the token is for
    /// one host only.
    #[error("the store answers {status} for {digest}")]
    Status {
        /// The HTTP status of the answer.
        status: StatusCode,
        /// The digest that was asked for.
        digest: Digest,
    },
    /// The connection failed, or ended before the whole answer was there.
    #[error("reading from the store")]
    Transport(#[from] reqwest::Error),
    /// The content does not have the digest that was asked for, or the disk failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A client that reads from one store with one token.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    token: String,
}

impl Client {
    /// Makes a client of the store at this base URL, which does not include `/v2`. `tls` says which certificates are
    /// believed at an `https://` address; without it they are those that the operating system trusts.
    pub fn new(base: &str, token: impl Into<String>, tls: Option<&Arc<ClientConfig>>) -> Result<Self, InvalidAddress> {
        let invalid = || InvalidAddress(base.to_owned());
        let mut url = Url::parse(base).map_err(|_| invalid())?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(invalid());
        }
        // Without the slash, joining would replace the last segment of the path.
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        let mut http = reqwest::Client::builder();
        if let Some(tls) = tls {
            http = http.tls_backend_preconfigured((**tls).clone());
        }
        let http = http
            .redirect(Policy::none())
            // The token must not go to whatever the environment calls a proxy.
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            // All behind one address share the places of a listener, so a client that has pulled leaves its place.
            .pool_idle_timeout(IDLE)
            .build()
            .map_err(|_| invalid())?;
        Ok(Self { http, base: url, token: token.into() })
    }

    /// Pulls a manifest and everything that the manifest names, verifies it, and has `name` hold it in `store`. It
    /// returns how many bytes crossed the network; content that is there already is not pulled again.
    pub async fn pull(&self, store: &ContentStore, name: &RepositoryName, digest: &Digest) -> Result<u64, PullError> {
        let mut pulled = self.pull_manifest(store, name, digest).await?;
        let manifest = store.manifest(digest).await?;
        for Descriptor { digest, size, .. } in manifest.blobs() {
            pulled += self.pull_blob(store, name, digest, *size).await?;
        }
        store.link(name, digest).await?;
        Ok(pulled)
    }

    /// Pulls a manifest alone, verified. Returns how many bytes crossed the network; none when it is in the store already.
    /// Whoever reads only a part of an artifact pulls its manifest, chooses, and pulls the blobs chosen.
    pub async fn pull_manifest(
        &self,
        store: &ContentStore,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<u64, PullError> {
        if store.contains(digest) {
            return Ok(0);
        }
        self.fetch(store, name, "manifests", digest, MAX_MANIFEST).await
    }

    /// Pulls one blob of at most `size` bytes, verified. Returns how many bytes crossed the network; none when it is in
    /// the store already.
    pub async fn pull_blob(
        &self,
        store: &ContentStore,
        name: &RepositoryName,
        digest: &Digest,
        size: u64,
    ) -> Result<u64, PullError> {
        if store.contains(digest) {
            return Ok(0);
        }
        self.fetch(store, name, "blobs", digest, size).await
    }

    async fn fetch(
        &self,
        store: &ContentStore,
        name: &RepositoryName,
        kind: &str,
        digest: &Digest,
        limit: u64,
    ) -> Result<u64, PullError> {
        let response = self.get(name, kind, digest).await?;
        let mut writer = store.writer(limit).await?;
        let mut size = 0;
        let mut content = std::pin::pin!(content(response));
        while let Some(bytes) = content.next().await {
            let bytes = bytes?;
            size += bytes.len() as u64;
            writer.write(&bytes).await?;
        }
        writer.finish(digest).await?;
        Ok(size)
    }

    async fn get(&self, name: &RepositoryName, kind: &str, digest: &Digest) -> Result<Response, PullError> {
        let path = format!("v2/{name}/{kind}/{digest}");
        let url = self.base.join(&path).expect("names and digests are made of URL characters");
        let response = self.http.get(url).bearer_auth(&self.token).header(ACCEPT, media::MANIFEST).send().await?;
        match response.status() {
            StatusCode::OK => Ok(response),
            StatusCode::UNAUTHORIZED => Err(PullError::Unauthorized),
            StatusCode::NOT_FOUND => Err(PullError::Absent(*digest)),
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
                Err(PullError::Later(seconds.map_or(RETRY_DELAY, Duration::from_secs).min(LONGEST_DELAY)))
            }
            status => Err(PullError::Status { status, digest: *digest }),
        }
    }
}

/// Reads the body of an answer piece by piece. The stream ends after the first error.
fn content(response: Response) -> impl Stream<Item = Result<Bytes, reqwest::Error>> {
    stream::try_unfold(response, |mut response| async { Ok(response.chunk().await?.map(|bytes| (bytes, response))) })
}
