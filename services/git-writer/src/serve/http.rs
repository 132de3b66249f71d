//! Git's smart HTTP protocol, the half of it that reads.

use std::{
    error::Error,
    io::{self, Read},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use api::Problem;
use axum::{
    Router,
    body::Body,
    extract::{Path, Query, State},
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
use tokio::{fs::File, task::spawn_blocking};
use tokio_util::io::ReaderStream;
use tracing::warn;

use super::{
    access::Access,
    queues::{Place, Queues},
    upload_pack::{Failed, Question, UploadPack},
};
use crate::{git, metrics};

/// The longest request, as it comes and unpacked. A client that has 10,000 commits of its own names fewer than 1,000 of them.
const LONGEST: usize = 1 << 20;
const LONGEST_UNPACKED: u64 = 4 << 20;

/// How long an answer may take its reader. Whoever reads nothing of one is given up by the listener much sooner.
const LONGEST_ANSWER: Duration = Duration::from_secs(4 * 3600);

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
        .with_state(repositories)
}

/// A request that may be made.
struct Admitted {
    path: PathBuf,
    place: Place,
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
    let answered = async {
        match asked.service.as_deref() {
            Some(SERVICE) => {
                let admitted = repositories.admit(&named, &headers).await?;
                repositories.answer(admitted, &headers, Question::Refs).await
            }
            Some("git-receive-pack") => Err(read_only()),
            Some(_) | None => Err(Problem::new(403, "only git's smart protocol is spoken here: use git 2.18 or later")),
        }
    };
    counted(answered.await)
}

async fn wants(
    State(repositories): State<Arc<Repositories>>,
    Path(named): Path<Named>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let answered = async {
        // Nothing is read of a body before it is known whose it is.
        let admitted = repositories.admit(&named, &headers).await?;
        let body = axum::body::to_bytes(body, LONGEST).await.map_err(|error| unread(&error))?;
        let encoding = headers.get(header::CONTENT_ENCODING).cloned();
        let body = spawn_blocking(move || unpacked(encoding.as_ref(), body)).await;
        let question = Question::Wants(body.map_err(|_panicked| Problem::internal())??);
        repositories.answer(admitted, &headers, question).await
    };
    counted(answered.await)
}

async fn no_push() -> Response {
    counted(Err(read_only()))
}

fn read_only() -> Problem {
    Problem::new(403, "the repositories are read-only here: what is wanted is ordered by REST")
}

/// Why a body was not read.
fn unread(error: &axum::Error) -> Problem {
    if error.source().is_some_and(|cause| cause.is::<http_body_util::LengthLimitError>()) {
        return Problem::new(413, format!("the body has more than {LONGEST} bytes"));
    }
    Problem::bad_request(format!("the body cannot be read: {error}"))
}

/// Unpacks the body, if it is packed.
fn unpacked(encoding: Option<&HeaderValue>, body: Bytes) -> Result<Bytes, Problem> {
    match encoding.map(HeaderValue::as_bytes) {
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
    /// Takes the place of a request, if it may be made.
    async fn admit(&self, named: &Named, headers: &HeaderMap) -> Result<Admitted, Problem> {
        let token = token(headers).ok_or_else(unknown_token)?;
        let holder = self.access.holder(&token).await?.ok_or_else(unknown_token)?;
        // Whether there is such a repository is not said to whom it is not for.
        let repository = self.repository(named).filter(|repository| holder.may_read(repository));
        let path = repository.map(|repository| layout::repository(&self.folder, self.access.tenant(), &repository));
        let path = path.filter(|path| path.exists());
        let path = path.ok_or_else(|| Problem::not_found("there is no such repository for this token"))?;
        let place = self.queues.enter(&holder);
        let place = place.ok_or_else(|| Problem::new(429, "too many requests with this token are in work"))?;
        Ok(Admitted { path, place })
    }

    async fn answer(&self, admitted: Admitted, headers: &HeaderMap, question: Question) -> Result<Response, Problem> {
        let Admitted { path, place } = admitted;
        let version_2 = headers.get("git-protocol").is_some_and(|value| value.as_bytes() == b"version=2");
        let (kind, preface) = match &question {
            Question::Refs if version_2 => ("advertisement", ""),
            Question::Refs => ("advertisement", "001e# service=git-upload-pack\n0000"),
            Question::Wants(_) => ("result", ""),
        };
        let answer =
            self.upload_pack.answer(&place, &path, version_2, question).await.map_err(|failed| match failed {
                Failed::Refused(words) => Problem::bad_request(format!("git refuses the request: {words}")),
                Failed::NoRoom | Failed::Ended(_) | Failed::Git(git::Failed::TooLong(_)) => {
                    warn!(error = &failed as &dyn std::error::Error, path = %path.display(), "not served");
                    Problem::unavailable(failed.to_string())
                }
                Failed::Git(git::Failed::Io(_)) | Failed::Io(_) => {
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

/// Sends the file. The place is taken until that has ended, one way or the other, or has taken too long.
fn response(kind: &str, preface: &'static str, answer: std::fs::File, place: Place) -> Response {
    let rest = ReaderStream::with_capacity(File::from_std(answer), PIECE);
    let preface = futures::stream::iter((!preface.is_empty()).then(|| Ok(Bytes::from_static(preface.as_bytes()))));
    let until = Instant::now() + LONGEST_ANSWER;
    let body = preface.chain(rest).map(move |piece| {
        let _held = &place;
        if Instant::now() > until { Err(io::ErrorKind::TimedOut.into()) } else { piece }
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

    #[test]
    fn the_token_is_the_password_or_a_bearer_token() {
        let of = |value: &str| token(&HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]));
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
        let [gzip, brotli] = ["gzip", "br"].map(HeaderValue::from_static);
        let (gzip, brotli) = (Some(&gzip), Some(&brotli));
        assert_eq!(unpacked(gzip, packed(LONGEST_UNPACKED)).unwrap().len() as u64, LONGEST_UNPACKED);
        assert_eq!(unpacked(gzip, packed(LONGEST_UNPACKED + 1)).unwrap_err().status, 413);
        assert_eq!(unpacked(gzip, Bytes::from_static(b"no gzip")).unwrap_err().status, 400);
        assert_eq!(unpacked(brotli, Bytes::new()).unwrap_err().status, 415);
    }
}
