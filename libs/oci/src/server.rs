//! The read part of OCI Distribution over a [`ContentStore`]: `GET` and `HEAD` of manifests and blobs, by digest only.
//! Blobs are also served from a byte on, so that a download goes on where it was cut.

use std::{
    io::{ErrorKind, SeekFrom},
    sync::Arc,
    time::Duration,
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, State},
    http::{
        HeaderMap, HeaderName, StatusCode,
        header::{
            ACCEPT_RANGES, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE, RETRY_AFTER,
            WWW_AUTHENTICATE,
        },
    },
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::{Bytes, BytesMut};
use futures::{Stream, stream};
use margo::Digest;
use serde_json::json;
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt},
    sync::Semaphore,
};
use tracing::error;

use crate::{ContentStore, RepositoryName, StoreError, digest::Digester, store::blocking};

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// The size of the pieces in which blobs are sent.
const CHUNK: usize = 64 << 10;

/// Whether a manifest that is not in the store can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// The manifest is in the store now.
    Here,
    /// The store does not know the manifest.
    Absent,
    /// The manifest is known and not here yet; it is worth trying again after this time.
    Later(Duration),
}

/// Whether somebody may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Whoever has the token may read.
    Admitted,
    /// The token opens nothing.
    Refused,
    /// Nobody knows now; it is worth trying again after this time.
    Later(Duration),
}

impl Admission {
    /// What an answer to the question means. Without an answer it is worth asking again after this time.
    pub fn of<E>(admitted: Result<bool, E>, again: Duration) -> Self {
        match admitted {
            Ok(true) => Self::Admitted,
            Ok(false) => Self::Refused,
            Err(_) => Self::Later(again),
        }
    }
}

/// The decisions in which the stores of the platform differ.
pub trait Policy: Clone + Send + Sync + 'static {
    /// Tells whether whoever presents this bearer token may read.
    fn admit(&self, token: &str) -> impl Future<Output = Admission> + Send;

    /// Tries to bring a manifest that `name` does not hold into the store, and tells what became of it.
    fn provide(&self, name: &RepositoryName, digest: &Digest) -> impl Future<Output = Availability> + Send;
}

/// Returns the routes under `/v2/`.
pub fn router<P: Policy>(store: ContentStore, policy: P) -> Router {
    Router::new().route("/v2/", get(version::<P>)).route("/v2/{*path}", get(content::<P>)).with_state(ReadApi {
        store,
        policy,
        checks: Arc::new(Semaphore::new(1)),
    })
}

#[derive(Clone)]
struct ReadApi<P> {
    store: ContentStore,
    policy: P,
    /// One blob at a time is read for nothing but to be digested.
    checks: Arc<Semaphore>,
}

/// A request that gets no content is answered with this, in the form that OCI Distribution gives to errors.
#[derive(Debug)]
enum ErrorResponse {
    Unauthorized,
    /// The path is none that is served, or names a tag.
    Unsupported,
    Invalid(&'static str, String),
    ManifestUnknown(Digest),
    BlobUnknown(Digest),
    Later(Duration),
    Internal,
}

impl IntoResponse for ErrorResponse {
    fn into_response(self) -> Response {
        let (status, code, message) = match &self {
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "a valid bearer token is required".into()),
            Self::Unsupported => {
                let message = "only /v2/<name>/manifests/<digest> and /v2/<name>/blobs/<digest> are served".into();
                (StatusCode::NOT_FOUND, "UNSUPPORTED", message)
            }
            Self::Invalid(code, message) => (StatusCode::BAD_REQUEST, *code, message.clone()),
            Self::ManifestUnknown(digest) => {
                (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", format!("the repository does not hold manifest {digest}"))
            }
            Self::BlobUnknown(digest) => {
                (StatusCode::NOT_FOUND, "BLOB_UNKNOWN", format!("the repository does not hold blob {digest}"))
            }
            Self::Later(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", "the artifact is not here yet; try again".into())
            }
            Self::Internal => {
                (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", "the request failed; the log has the cause".into())
            }
        };
        let body = json!({ "errors": [{ "code": code, "message": message }] });
        let mut response = (status, Json(body)).into_response();
        match self {
            Self::Unauthorized => {
                let challenge = axum::http::HeaderValue::from_static("Bearer");
                response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            }
            Self::Later(after) => {
                response.headers_mut().insert(RETRY_AFTER, after.as_secs().max(1).into());
            }
            _ => {}
        }
        response
    }
}

impl From<StoreError> for ErrorResponse {
    fn from(cause: StoreError) -> Self {
        error!(error = &cause as &dyn std::error::Error, "content not served");
        Self::Internal
    }
}

impl<P: Policy> ReadApi<P> {
    async fn admit(&self, headers: &HeaderMap) -> Result<(), ErrorResponse> {
        let token = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        match self.policy.admit(token.ok_or(ErrorResponse::Unauthorized)?).await {
            Admission::Admitted => Ok(()),
            Admission::Refused => Err(ErrorResponse::Unauthorized),
            Admission::Later(after) => Err(ErrorResponse::Later(after)),
        }
    }

    async fn manifest(&self, name: RepositoryName, digest: Digest) -> Result<Response, ErrorResponse> {
        if !self.store.holds(&name, &digest).await? {
            match self.policy.provide(&name, &digest).await {
                Availability::Here => {}
                Availability::Absent => return Err(ErrorResponse::ManifestUnknown(digest)),
                Availability::Later(after) => return Err(ErrorResponse::Later(after)),
            }
        }
        let store = self.store.clone();
        let (manifest, bytes) = blocking(move || store.read_any_manifest(&digest)).await?;
        let headers = [(CONTENT_TYPE, manifest.media_type().to_owned()), (CONTENT_DIGEST, digest.to_string())];
        Ok((headers, bytes).into_response())
    }

    async fn blob(
        &self,
        name: RepositoryName,
        digest: Digest,
        range: Option<RequestedRange>,
    ) -> Result<Response, ErrorResponse> {
        if !self.store.may_read_blob(&name, &digest) {
            return Err(ErrorResponse::BlobUnknown(digest));
        }
        let failed = |error| StoreError::io(format!("opening {digest}"))(error);
        let mut file = File::open(self.store.path(&digest)).await.map_err(|error| match error.kind() {
            ErrorKind::NotFound => ErrorResponse::BlobUnknown(digest),
            _ => failed(error).into(),
        })?;
        let size = file.metadata().await.map_err(failed)?.len();
        let headers = |length: u64| {
            [
                (CONTENT_TYPE, "application/octet-stream".to_owned()),
                (CONTENT_LENGTH, length.to_string()),
                (CONTENT_DIGEST, digest.to_string()),
                (ACCEPT_RANGES, "bytes".to_owned()),
            ]
        };
        let Some(RequestedRange { first, last }) = range else {
            let body = Body::from_stream(verified(self.store.clone(), digest, file, size));
            return Ok((headers(size), body).into_response());
        };
        if first >= size {
            let whole = [(CONTENT_RANGE, format!("bytes */{size}"))];
            return Ok((StatusCode::RANGE_NOT_SATISFIABLE, whole).into_response());
        }
        let last = last.map_or(size - 1, |last| last.min(size - 1));
        file.seek(SeekFrom::Start(first)).await.map_err(failed)?;
        let part = [(CONTENT_RANGE, format!("bytes {first}-{last}/{size}"))];
        let body = Body::from_stream(self.unverified(digest, file, last - first + 1, last + 1 == size));
        Ok((StatusCode::PARTIAL_CONTENT, headers(last - first + 1), part, body).into_response())
    }

    /// Sends a part of a blob. Whoever puts the parts together verifies the whole. So that damaged content does not stay,
    /// although it is only ever read in parts, the whole is digested here too after its last part has gone out.
    fn unverified(
        &self,
        digest: Digest,
        file: File,
        length: u64,
        is_end: bool,
    ) -> impl Stream<Item = Result<Bytes, StoreError>> + use<P> {
        let (store, checks) = (self.store.clone(), self.checks.clone());
        stream::try_unfold((file, length), move |(mut file, left)| {
            let (store, checks) = (store.clone(), checks.clone());
            async move {
                if left == 0 {
                    return Ok(None);
                }
                let mut chunk = BytesMut::with_capacity(CHUNK.min(usize::try_from(left).unwrap_or(CHUNK)));
                let failed = StoreError::io(format!("reading {digest}"));
                (&mut file).take(left).read_buf(&mut chunk).await.map_err(failed)?;
                let left = left - chunk.len() as u64;
                if is_end && left == 0 {
                    // When another is being checked, this one is left to the next time.
                    if let Ok(place) = checks.try_acquire_owned() {
                        tokio::spawn(async move {
                            let _place = place;
                            if let Err(error) = store.verified_path(&digest).await {
                                error!(%digest, error = &error as &dyn std::error::Error, "content is damaged");
                            }
                        });
                    }
                }
                if chunk.is_empty() {
                    return Err(StoreError::io(format!("reading {digest}"))(ErrorKind::UnexpectedEof.into()));
                }
                Ok(Some((chunk.freeze(), (file, left))))
            }
        })
    }
}

/// The bytes of a blob that are asked for: from the first on, up to the last where one is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RequestedRange {
    first: u64,
    last: Option<u64>,
}

impl RequestedRange {
    /// Reads `Range`. Anything else than one range that begins somewhere counts as none, and all is sent: HTTP leaves that
    /// to the server.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let (first, last) = headers.get(RANGE)?.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')?;
        let first = first.parse().ok()?;
        let last = if last.is_empty() { None } else { Some(last.parse().ok()?) };
        last.is_none_or(|last| last >= first).then_some(Self { first, last })
    }
}

/// Answers the version check of OCI Distribution: the API is here, and the caller may read.
async fn version<P: Policy>(
    State(api): State<ReadApi<P>>,
    headers: HeaderMap,
) -> Result<Json<serde_json::Value>, ErrorResponse> {
    api.admit(&headers).await?;
    Ok(Json(json!({})))
}

async fn content<P: Policy>(
    State(api): State<ReadApi<P>>,
    Path(path): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ErrorResponse> {
    api.admit(&headers).await?;
    let (rest, digest) = path.rsplit_once('/').ok_or(ErrorResponse::Unsupported)?;
    let (name, kind) = rest.rsplit_once('/').ok_or(ErrorResponse::Unsupported)?;
    if !matches!(kind, "manifests" | "blobs") {
        return Err(ErrorResponse::Unsupported);
    }
    let name = name
        .parse()
        .map_err(|error: crate::InvalidReference| ErrorResponse::Invalid("NAME_INVALID", error.to_string()))?;
    let digest = digest
        .parse()
        .map_err(|error: margo::InvalidDigest| ErrorResponse::Invalid("DIGEST_INVALID", error.to_string()))?;
    if kind == "manifests" {
        api.manifest(name, digest).await
    } else {
        api.blob(name, digest, RequestedRange::of(&headers)).await
    }
}

struct Reading {
    store: ContentStore,
    digest: Digest,
    file: File,
    left: u64,
    digester: Digester,
}

/// Sends a blob piece by piece and digests it on the way. The last piece of a damaged blob is held back, so that
/// nobody takes the blob for whole; the blob is removed, so that it is pulled anew.
fn verified(
    store: ContentStore,
    digest: Digest,
    file: File,
    size: u64,
) -> impl Stream<Item = Result<Bytes, StoreError>> {
    let reading = Reading { store, digest, file, left: size, digester: Digester::default() };
    stream::try_unfold(reading, |mut reading| async {
        if reading.left == 0 {
            return Ok(None);
        }
        let mut chunk = BytesMut::with_capacity(CHUNK);
        let failed = StoreError::io(format!("reading {}", reading.digest));
        let count = reading.file.read_buf(&mut chunk).await.map_err(failed)? as u64;
        reading.digester.update(&chunk);
        reading.left = reading.left.saturating_sub(count);
        if reading.left == 0 || count == 0 {
            let found = std::mem::take(&mut reading.digester).finish();
            if found != reading.digest {
                error!(digest = %reading.digest, %found, "damaged content removed from the store");
                reading.store.discard(&reading.digest)?;
                return Err(StoreError::WrongDigest { wanted: reading.digest, found });
            }
        }
        Ok(Some((chunk.freeze(), reading)))
    })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn one_range_that_begins_somewhere_is_served() {
        for (text, range) in [
            ("bytes=5-", Some((5, None))),
            ("bytes=0-0", Some((0, Some(0)))),
            ("bytes=5-9", Some((5, Some(9)))),
            ("bytes=-5", None),
            ("bytes=9-5", None),
            ("bytes=1-2,5-9", None),
            ("items=5-", None),
            ("bytes=99999999999999999999-", None),
        ] {
            let headers = HeaderMap::from_iter([(RANGE, HeaderValue::from_static(text))]);
            let expected = range.map(|(first, last)| RequestedRange { first, last });
            assert_eq!(RequestedRange::of(&headers), expected, "{text}");
        }
    }
}
