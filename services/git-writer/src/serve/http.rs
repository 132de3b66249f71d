//! Git's smart HTTP protocol, the half of it that reads.

use std::{io::Read, path::PathBuf, sync::Arc};

use api::Problem;
use axum::{
    Router,
    body::Body,
    extract::{DefaultBodyLimit, Path, Query, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use futures::StreamExt;
use git_state::layout;
use http::{HeaderMap, HeaderValue, header};
use margo::RepositoryName;
use serde::Deserialize;
use service::{ProblemResponse, bearer};
use tokio::fs::File;
use tokio_util::io::ReaderStream;
use tracing::warn;

use super::{
    access::Access,
    queues::{Place, Queues},
    upload_pack::{Failed, Question, UploadPack},
};
use crate::metrics;

/// The longest request, as it comes and unpacked. A client that has 10,000 commits of its own names fewer than 1,000 of them.
const LONGEST: usize = 1 << 20;
const LONGEST_UNPACKED: u64 = 4 << 20;

/// What is sent at a time.
const PIECE: usize = 64 << 10;

/// The one service that is offered.
const SERVICE: &str = "git-upload-pack";

/// What the answers are made from.
pub struct Repositories {
    pub folder: PathBuf,
    pub access: Arc<Access>,
    pub queues: Queues,
    pub upload_pack: UploadPack,
}

/// Routes below the base URL, laid out as the folder of the repositories is.
pub fn router(repositories: Arc<Repositories>) -> Router {
    Router::new()
        .route("/{tenant}/fleet.git/info/refs", get(refs))
        .route("/{tenant}/fleet.git/git-upload-pack", post(wants))
        .route("/{tenant}/fleet.git/git-receive-pack", post(no_push))
        .route("/{tenant}/clients/{client}/info/refs", get(refs))
        .route("/{tenant}/clients/{client}/git-upload-pack", post(wants))
        .route("/{tenant}/clients/{client}/git-receive-pack", post(no_push))
        .layer(DefaultBodyLimit::max(LONGEST))
        .with_state(repositories)
}

/// Which repository a path means.
#[derive(Deserialize)]
struct Named {
    tenant: String,
    client: Option<String>,
}

#[derive(Deserialize)]
struct Asked {
    service: Option<String>,
}

async fn refs(
    State(repositories): State<Arc<Repositories>>,
    Path(named): Path<Named>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Response {
    let answered = match asked.service.as_deref() {
        Some(SERVICE) => repositories.answer(named, &headers, Question::Refs).await,
        Some("git-receive-pack") => Err(read_only()),
        Some(_) | None => Err(Problem::new(403, "only git's smart protocol is spoken here: use git 2.18 or later")),
    };
    counted(answered)
}

async fn wants(
    State(repositories): State<Arc<Repositories>>,
    Path(named): Path<Named>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let answered = async {
        let body = unpacked(&headers, body)?;
        repositories.answer(named, &headers, Question::Wants(body)).await
    };
    counted(answered.await)
}

async fn no_push() -> Response {
    counted(Err(read_only()))
}

fn read_only() -> Problem {
    Problem::new(403, "the repositories are read-only here: what is wanted is ordered by REST")
}

/// Unpacks the body, if it is packed.
fn unpacked(headers: &HeaderMap, body: Bytes) -> Result<Bytes, Problem> {
    match headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity") => return Ok(body),
        Some(b"gzip" | b"x-gzip") => {}
        Some(_) => return Err(Problem::new(415, "Content-Encoding: only gzip is understood")),
    }
    let mut unpacked = Vec::new();
    let read = MultiGzDecoder::new(&*body).take(LONGEST_UNPACKED + 1).read_to_end(&mut unpacked);
    read.map_err(|error| Problem::bad_request(format!("the body is no gzip: {error}")))?;
    if unpacked.len() as u64 > LONGEST_UNPACKED {
        return Err(Problem::new(413, format!("the body has more than {LONGEST_UNPACKED} bytes when it is unpacked")));
    }
    Ok(unpacked.into())
}

impl Repositories {
    async fn answer(&self, named: Named, headers: &HeaderMap, question: Question) -> Result<Response, Problem> {
        let token = token(headers).ok_or_else(unknown_token)?;
        let holder = self.access.holder(&token).await?.ok_or_else(unknown_token)?;
        // Whether there is such a repository is not said to whom it is not for.
        let repository = self.repository(&named).filter(|repository| holder.may_read(repository));
        let path = repository.map(|repository| layout::repository(&self.folder, self.access.tenant(), &repository));
        let path = path.filter(|path| path.exists());
        let path = path.ok_or_else(|| Problem::not_found("there is no such repository for this token"))?;
        let place = self.queues.enter(&holder);
        let place = place.ok_or_else(|| Problem::new(429, "too many requests with this token are in work"))?;
        let version_2 = headers.get("git-protocol").is_some_and(|value| value.as_bytes() == b"version=2");
        let (kind, preface) = match &question {
            Question::Refs if version_2 => ("advertisement", ""),
            Question::Refs => ("advertisement", "001e# service=git-upload-pack\n0000"),
            Question::Wants(_) => ("result", ""),
        };
        let answer =
            self.upload_pack.answer(&place, &path, version_2, question).await.map_err(|failed| match failed {
                Failed::Refused(words) => Problem::bad_request(format!("git refuses the request: {words}")),
                Failed::TooLong => Problem::unavailable(failed.to_string()),
                Failed::Io(_) => {
                    warn!(error = &failed as &dyn std::error::Error, path = %path.display(), "not served");
                    Problem::internal()
                }
            })?;
        Ok(response(kind, preface, answer, place))
    }

    fn repository(&self, named: &Named) -> Option<RepositoryName> {
        if named.tenant != self.access.tenant().as_str() {
            return None;
        }
        match &named.client {
            None => Some(RepositoryName::Fleet),
            Some(client) => Some(RepositoryName::Client(client.strip_suffix(".git")?.parse().ok()?)),
        }
    }
}

/// Sends the file. The place is taken until that has ended, one way or the other.
fn response(kind: &str, preface: &'static str, answer: std::fs::File, place: Place) -> Response {
    let rest = ReaderStream::with_capacity(File::from_std(answer), PIECE);
    let preface = futures::stream::iter((!preface.is_empty()).then(|| Ok(Bytes::from_static(preface.as_bytes()))));
    let body = preface.chain(rest).map(move |piece| {
        let _held = &place;
        piece
    });
    let content_type = format!("application/x-{SERVICE}-{kind}");
    let headers = [(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, "no-cache".to_owned())];
    (headers, Body::from_stream(body)).into_response()
}

/// The token of a request: the password that git sends, or a bearer token.
fn token(headers: &HeaderMap) -> Option<String> {
    if let Some(token) = bearer(headers) {
        return Some(token.to_owned());
    }
    let (scheme, credentials) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let credentials = data_encoding::BASE64.decode(credentials.trim().as_bytes()).ok()?;
    let (_, password) = std::str::from_utf8(&credentials).ok()?.split_once(':')?;
    Some(password.to_owned())
}

fn unknown_token() -> Problem {
    Problem::new(401, "a valid token is required: git sends it as the password, with any user name")
}

fn counted(answered: Result<Response, Problem>) -> Response {
    let response = answered.unwrap_or_else(|problem| {
        let challenge = problem.status == 401;
        let mut response = ProblemResponse::from(problem).into_response();
        if challenge {
            let basic = HeaderValue::from_static("Basic realm=\"edgewright\", charset=\"UTF-8\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, basic);
        }
        response
    });
    metrics::SERVED.with_label_values(&[response.status().as_str()]).inc();
    response
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn the_token_is_the_password_or_a_bearer_token() {
        let of = |value: &str| token(&headers(header::AUTHORIZATION, value));
        assert_eq!(of("Bearer abc").as_deref(), Some("abc"));
        // printf 'git:abc:d' | base64
        assert_eq!(of("Basic Z2l0OmFiYzpk").as_deref(), Some("abc:d"));
        for wrong in ["Basic ###", "Basic Z2l0", "Digest abc", "abc"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
        assert_eq!(token(&HeaderMap::new()), None);
    }

    #[test]
    fn a_body_that_grows_without_end_is_refused() {
        let packed = |bytes: u64| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            std::io::copy(&mut std::io::repeat(7).take(bytes), &mut encoder).unwrap();
            encoder.flush().unwrap();
            Bytes::from(encoder.finish().unwrap())
        };
        let gzip = headers(header::CONTENT_ENCODING, "gzip");
        assert_eq!(unpacked(&gzip, packed(LONGEST_UNPACKED)).unwrap().len() as u64, LONGEST_UNPACKED);
        assert_eq!(unpacked(&gzip, packed(LONGEST_UNPACKED + 1)).unwrap_err().status, 413);
        assert_eq!(unpacked(&gzip, Bytes::from_static(b"no gzip")).unwrap_err().status, 400);
        assert_eq!(unpacked(&headers(header::CONTENT_ENCODING, "br"), Bytes::new()).unwrap_err().status, 415);
    }
}
