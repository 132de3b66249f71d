//! Routes to applications: the catalogue, and uploads on their way through to app-registry, which owns both.

use std::{
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use api::{App, AppContent, AppRef, Problem, UploadTicket};
use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use bus::{ServiceName, trace};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http::{HeaderMap, StatusCode, header};
use margo::{AppId, AppVersion};
use tracing::warn;

use service::ProblemResponse;

use crate::{
    Gateway,
    access::Authenticated,
    edge::is_problem,
    extract::{FromPath, require_media_type},
};

const TAR: &str = "application/x-tar";

/// The largest upload, in bytes.
const MAX_UPLOAD: u64 = 1 << 30;

/// How long an upload may send nothing before it is given up: it holds one of few places.
const IDLE: Duration = Duration::from_secs(30);

/// List the catalogue
#[utoipa::path(get, path = "/apps", tag = "apps", security(("token" = ["viewer"])), responses((status = 200, body = Vec<App>)))]
pub(crate) async fn list_apps(
    State(gateway): State<Arc<Gateway>>,
    Authenticated(caller): Authenticated,
) -> Result<Json<Vec<App>>, ProblemResponse> {
    gateway.ask(ServiceName::AppRegistry, "list", &(), &caller).await.map(Json)
}

/// One application with its description
#[utoipa::path(
    get, path = "/apps/{id}/{version}", tag = "apps", security(("token" = ["viewer"])),
    params(("id" = String, Path), ("version" = String, Path)),
    responses((status = 200, body = AppContent)),
)]
pub(crate) async fn get_app(
    State(gateway): State<Arc<Gateway>>,
    Authenticated(caller): Authenticated,
    FromPath((id, version)): FromPath<(AppId, AppVersion)>,
) -> Result<Json<AppContent>, ProblemResponse> {
    gateway.ask(ServiceName::AppRegistry, "get", &AppRef { id, version }, &caller).await.map(Json)
}

/// Add an application
///
/// The body is a tar of an OCI image layout with the Margo package and its components, at most 1 GiB.
#[utoipa::path(
    post, path = "/apps", tag = "apps", security(("token" = ["publisher"])),
    request_body(content_type = "application/x-tar", description = "Tar of an OCI image layout."),
    responses(
        (status = 201, body = App),
        (status = 200, body = App, description = "The same was in the catalogue already."),
    ),
)]
pub(crate) async fn add_app(
    State(gateway): State<Arc<Gateway>>,
    Authenticated(caller): Authenticated,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ProblemResponse> {
    require_media_type(&headers, TAR)?;
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > MAX_UPLOAD) {
        return Err(Fault::TooLarge.into());
    }
    let ticket: UploadTicket = gateway.ask(ServiceName::AppRegistry, "upload", &(), &caller).await?;
    let fault = Arc::new(OnceLock::new());
    let body = reqwest::Body::wrap_stream(metered(body.into_data_stream(), fault.clone()));
    let mut request = gateway.http.put(&ticket.url).bearer_auth(&ticket.token).header(header::CONTENT_TYPE, TAR);
    if let Some(length) = length {
        request = request.header(header::CONTENT_LENGTH, length);
    }
    if let Some(traceparent) = trace::current_text() {
        request = request.header(trace::TRACEPARENT, traceparent);
    }
    let answer = request.body(body).send().await;
    // When the caller broke the upload off or sent too much, app-registry only saw half an upload, and its answer is
    // about that.
    if let Some(fault) = fault.get() {
        return Err((*fault).into());
    }
    match answer {
        Ok(answer) => pass_on(answer).await,
        Err(error) => {
            warn!(error = &error as &dyn std::error::Error, "app-registry did not take an upload");
            Err(Problem::unavailable("app-registry cannot be reached; nothing was added, try again").into())
        }
    }
}

/// What the caller did wrong, so that an upload was given up half way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The body is larger than the largest upload.
    TooLarge,
    /// Nothing came for too long.
    Idle,
    /// The connection ended in the middle of the body.
    Broken,
}

impl From<Fault> for ProblemResponse {
    fn from(fault: Fault) -> Self {
        let seconds = IDLE.as_secs();
        match fault {
            Fault::TooLarge => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "an upload has at most 1 GiB; nothing was added")
            }
            Fault::Idle => {
                Self::new(StatusCode::REQUEST_TIMEOUT, format!("no data came for {seconds} s; nothing was added"))
            }
            Fault::Broken => Problem::bad_request("the upload was cut off; nothing was added").into(),
        }
    }
}

/// Passes the bytes of a body on as long as the caller keeps size and pace. Then an error breaks the upload to
/// app-registry off, and `fault` tells why.
fn metered<E>(
    body: impl Stream<Item = Result<Bytes, E>> + Send + Unpin + 'static,
    fault: Arc<OnceLock<Fault>>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static
where
    E: Send + 'static,
{
    stream::try_unfold((body, 0), move |(mut body, passed)| {
        let fault = fault.clone();
        async move {
            let found = match tokio::time::timeout(IDLE, body.next()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(chunk))) => {
                    let passed = passed + chunk.len() as u64;
                    if passed <= MAX_UPLOAD {
                        return Ok(Some((chunk, (body, passed))));
                    }
                    Fault::TooLarge
                }
                Ok(Some(Err(_))) => Fault::Broken,
                Err(_) => Fault::Idle,
            };
            let found = fault.get_or_init(|| found);
            Err(io::Error::other(format!("upload given up: {found:?}")))
        }
    })
}

/// Hands the answer of app-registry to the caller if it is a success or a problem. Any other answer is a fault between
/// the two services, about which the caller only learns that nothing was added.
async fn pass_on(answer: reqwest::Response) -> Result<Response, ProblemResponse> {
    let status = answer.status();
    let ours = status.is_success() || is_problem(answer.headers());
    // With 401, app-registry did not take the ticket that it had given to us a moment ago.
    if !ours || status == StatusCode::UNAUTHORIZED {
        warn!(%status, "app-registry did not take an upload");
        return Err(Problem::unavailable("app-registry did not take the upload; nothing was added, try again").into());
    }
    let content_type = answer.headers().get(header::CONTENT_TYPE).cloned();
    let body = answer.bytes().await.map_err(|error| {
        warn!(error = &error as &dyn std::error::Error, "the answer to an upload was cut off");
        Problem::unavailable("the answer of app-registry was cut off; look at the list of applications")
    })?;
    let mut response = (status, body).into_response();
    if let Some(content_type) = content_type {
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_upload_that_grows_too_large_ends_there() {
        let fault = Arc::new(OnceLock::new());
        // The same 64 MiB again and again: only their length counts.
        let chunk = Bytes::from(vec![0; 64 << 20]);
        let endless = stream::repeat_with(move || Ok::<_, io::Error>(chunk.clone()));
        let passed: Vec<_> = metered(endless, fault.clone()).collect().await;
        assert_eq!(passed.iter().filter(|chunk| chunk.is_ok()).count(), 16);
        assert!(passed.last().unwrap().is_err());
        assert_eq!(fault.get(), Some(&Fault::TooLarge));
    }

    #[tokio::test]
    async fn an_upload_that_breaks_says_so() {
        let fault = Arc::new(OnceLock::new());
        let broken = stream::iter([Ok(Bytes::from_static(b"x")), Err(io::Error::other("gone"))]);
        assert!(metered(broken, fault.clone()).collect::<Vec<_>>().await.last().unwrap().is_err());
        assert_eq!(fault.get(), Some(&Fault::Broken));
    }
}
