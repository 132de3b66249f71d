//! `PUT /uploads/<id>`: the tar of an image layout becomes an application.

use std::{
    io::{self, ErrorKind},
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use api::{App, AppContent, Problem};
use axum::{
    Json, Router,
    body::{Body, BodyDataStream},
    extract::{Path, State},
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
    routing::put,
};
use bus::trace;
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use margo::MAX_DOCUMENT;
use oci::{
    ContentStore, MAX_ARTIFACT,
    layout::{StagedLayout, unpack},
    media,
};
use prometheus::{IntCounterVec, register_int_counter_vec};
use tokio::time::timeout_at;
use tokio_util::io::{StreamReader, SyncIoBridge};
use tracing::{Instrument, field::Empty, info, info_span};
use uuid::Uuid;

use crate::{
    domain::{self, Listed, Upload},
    error::UploadError,
    store::{Added, Catalogue},
    tickets::{Admitted, Tickets},
};

/// Silence after which an upload is given up: it holds one of few places.
const IDLE: Duration = Duration::from_secs(30);

/// For an upload in all: 1 GiB at 300 kB/s.
const LONGEST: Duration = Duration::from_secs(3_600);

static UPLOADS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!("edgewright_app_registry_uploads_total", "Uploads by HTTP status", &["status"])
        .expect("the metric is registered once")
});

/// What an upload needs. Cheap to clone.
#[derive(Clone)]
pub struct Uploads {
    tickets: Arc<Tickets>,
    catalogue: Catalogue,
    content: ContentStore,
}

impl Uploads {
    /// Uploads into this catalogue and this store.
    pub fn new(tickets: Arc<Tickets>, catalogue: Catalogue, content: ContentStore) -> Self {
        Self { tickets, catalogue, content }
    }

    /// The route.
    pub fn router(self) -> Router {
        Router::new().route("/uploads/{id}", put(upload)).with_state(self)
    }

    /// Checks an upload whole, then keeps it: content, then the row with its commit. Each step may be repeated.
    async fn take(&self, admitted: &Admitted, body: Body) -> Result<(StatusCode, App), UploadError> {
        let (layout, upload) = self.stage(body).await?;
        let app = upload.app(&admitted.actor, jiff::Timestamp::now().to_string());
        let taken = || UploadError::Taken(app.id.clone(), app.version.clone());
        let content = AppContent { app: app.clone(), description: upload.text.clone(), lock: upload.lock.clone() };
        if self.catalogue.look(&content).await? == Added::Taken {
            return Err(taken());
        }
        // Also when it is in the catalogue: the store may have lost it.
        layout.move_into(&self.content, &upload.manifests).await?;
        let commit = upload.commit(&admitted.actor, Uuid::now_v7(), trace::current_id());
        match self.catalogue.add(&content, commit).await? {
            Added::New => {
                info!(app = %app.id, version = %app.version, digest = %app.digest, actor = admitted.actor, "app added");
                Ok((StatusCode::CREATED, app))
            }
            Added::Same(held) => Ok((StatusCode::OK, held)),
            Added::Taken => Err(taken()),
        }
    }

    async fn stage(&self, body: Body) -> Result<(StagedLayout, Upload), UploadError> {
        let content = self.content.clone();
        let mut archive =
            SyncIoBridge::new(StreamReader::new(Box::pin(limited(body.into_data_stream(), MAX_ARTIFACT))));
        let staged = tokio::task::spawn_blocking(move || {
            let staged = unpack(&mut archive, &content, MAX_ARTIFACT).map_err(UploadError::from).and_then(read);
            // To the end, also of a refused upload: who still sends would not see the answer. What breaks on the way has
            // broken `unpack` already, or concerns only what comes after the archive.
            let _ = io::copy(&mut archive, &mut io::sink());
            staged
        });
        staged.await?
    }
}

/// Reads what the staged layout says, and checks it. Blocks.
fn read(layout: StagedLayout) -> Result<(StagedLayout, Upload), UploadError> {
    let mut listed = Vec::new();
    for descriptor in &layout.index().manifests {
        let reference = domain::reference(descriptor)?;
        listed.push(Listed { reference, digest: descriptor.digest, manifest: layout.manifest(&descriptor.digest)? });
    }
    let (package, description) = domain::package(&listed)?;
    let text = layout.read(&description.digest, MAX_DOCUMENT as u64)?;
    let file = description.annotations.get(media::TITLE).map_or("margo.yaml", String::as_str);
    let upload = domain::check(&listed, package, file, text)?;
    Ok((layout, upload))
}

/// The body, as long as its sender keeps size and pace.
fn limited(body: BodyDataStream, limit: u64) -> impl Stream<Item = io::Result<Bytes>> {
    let end = tokio::time::Instant::now() + LONGEST;
    stream::try_unfold((body, 0), move |(mut body, passed)| async move {
        let next = timeout_at(end.min(tokio::time::Instant::now() + IDLE), body.next()).await;
        let next = next.map_err(|_| io::Error::new(ErrorKind::TimedOut, "the upload was too slow"))?;
        let Some(bytes) = next.transpose().map_err(io::Error::other)? else { return Ok(None) };
        let passed = passed + bytes.len() as u64;
        if passed > limit {
            return Err(too_large(limit));
        }
        Ok(Some((bytes, (body, passed))))
    })
}

fn too_large(limit: u64) -> io::Error {
    io::Error::new(ErrorKind::FileTooLarge, format!("an upload has at most {limit} bytes"))
}

async fn upload(State(uploads): State<Uploads>, Path(id): Path<Uuid>, headers: HeaderMap, body: Body) -> Response {
    let span = info_span!("upload", %id, trace_id = Empty);
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match header(trace::TRACEPARENT) {
        Some(traceparent) => trace::continue_from_text(&span, traceparent),
        None => trace::continue_from(&span, None),
    }
    let token = header(AUTHORIZATION.as_str()).and_then(|value| value.strip_prefix("Bearer "));
    let length = header(CONTENT_LENGTH.as_str()).and_then(|value| value.parse::<u64>().ok());
    let answer = async {
        let admitted = token.and_then(|token| uploads.tickets.take(id, token, Instant::now()));
        let admitted =
            admitted.ok_or_else(|| Problem::new(401, "this upload has no valid ticket: ask for a new one"))?;
        if length.is_some_and(|length| length > MAX_ARTIFACT) {
            return Err(Problem::new(413, too_large(MAX_ARTIFACT).to_string()));
        }
        uploads.take(&admitted, body).await.map_err(|error| {
            let problem = error.problem();
            info!(actor = admitted.actor, status = problem.status, %problem, "upload refused");
            problem
        })
    };
    let response = match answer.instrument(span).await {
        Ok((status, app)) => (status, Json(app)).into_response(),
        Err(problem) => refused(&problem),
    };
    UPLOADS.with_label_values(&[response.status().as_str()]).inc();
    response
}

fn refused(problem: &Problem) -> Response {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, Json(problem)).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn last_error(body: Body, limit: u64) -> io::Error {
        let pieces: Vec<_> = limited(body.into_data_stream(), limit).collect().await;
        pieces.into_iter().last().unwrap().unwrap_err()
    }

    #[tokio::test]
    async fn an_upload_that_grows_too_large_ends_there() {
        let pieces = stream::iter([Ok::<_, io::Error>(Bytes::from_static(b"12345")), Ok(Bytes::from_static(b"678"))]);
        let error = last_error(Body::from_stream(pieces), 7).await;
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
        let problem = UploadError::from(oci::layout::LayoutError::Read(error)).problem();
        assert_eq!(problem.status, 413);
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_that_falls_silent_is_given_up() {
        let begin = tokio::time::Instant::now();
        let silent = stream::iter([Ok::<_, io::Error>(Bytes::from_static(b"1"))]).chain(stream::pending());
        let error = last_error(Body::from_stream(silent), 7).await;
        assert_eq!((error.kind(), begin.elapsed().as_secs()), (ErrorKind::TimedOut, IDLE.as_secs()));
        assert_eq!(UploadError::from(oci::layout::LayoutError::Read(error)).problem().status, 408);
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_that_trickles_is_given_up_in_the_end() {
        let begin = tokio::time::Instant::now();
        let trickle = stream::repeat(()).then(|()| async {
            tokio::time::sleep(IDLE / 2).await;
            Ok::<_, io::Error>(Bytes::from_static(b"1"))
        });
        let error = last_error(Body::from_stream(trickle), u64::MAX).await;
        assert_eq!((error.kind(), begin.elapsed().as_secs()), (ErrorKind::TimedOut, LONGEST.as_secs()));
    }
}
