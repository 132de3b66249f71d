//! `PUT /uploads/<id>`: the tar of an OCI image layout becomes an application.

use std::{
    io::{self, ErrorKind},
    sync::Arc,
    time::{Duration, Instant},
};

use api::{App, AppContent, Problem};
use axum::{
    Json, Router,
    body::{Body, BodyDataStream},
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header::CONTENT_LENGTH},
    response::{IntoResponse, Response},
    routing::put,
};
use bus::trace;
use bytes::Bytes;
use compose::{Archive, ComposeFile, MAX_ARCHIVE};
use futures::{Stream, StreamExt, stream};
use margo::{LockedImage, MAX_DOCUMENT};
use oci::{
    ContentStore, MAX_ARTIFACT, MAX_MANIFEST,
    layout::{StagedLayout, platform_of, unpack},
    media,
};
use outbox::OrderHeader;
use process::chain;
use service::{ProblemResponse, bearer};
use tokio::time::timeout_at;
use tokio_util::io::{StreamReader, SyncIoBridge};
use tracing::{Instrument, field::Empty, info, info_span};
use uuid::Uuid;

use crate::{
    domain::{self, Contents, Listed, ListedArchive, ListedImage, Upload},
    error::UploadError,
    git, metrics,
    store::{Added, Catalogue},
    tickets::{Admitted, Tickets},
};

/// How long an upload may send nothing before it is given up: it holds one of few places.
const IDLE: Duration = Duration::from_secs(30);

/// The longest time for a whole upload: 1 GiB at 300 kB/s.
const LONGEST: Duration = Duration::from_secs(3_600);

/// What uploads share. Cheap to clone.
#[derive(Clone)]
pub struct Uploads {
    tickets: Arc<Tickets>,
    catalogue: Catalogue,
    content: ContentStore,
}

impl Uploads {
    pub fn new(tickets: Arc<Tickets>, catalogue: Catalogue, content: ContentStore) -> Self {
        Self { tickets, catalogue, content }
    }

    pub fn router(self) -> Router {
        Router::new().route("/uploads/{id}", put(upload)).with_state(self)
    }

    /// Checks an upload whole, then keeps it: first its content, then its row of the catalogue with the commit. Each
    /// step may be repeated, so the same upload again completes what a crash has left. 201 tells that the application
    /// was added, 200 that it was there with the same content.
    async fn take(&self, admitted: &Admitted, body: Body) -> Result<(StatusCode, App), UploadError> {
        let (layout, upload) = self.stage(body).await?;
        let order = OrderHeader::new(admitted.caller.clone(), None);
        let app = upload.app(&order);
        let taken = || UploadError::Taken(app.id.clone(), app.version.clone());
        let (lock, images) = (upload.lock.clone(), upload.images.clone());
        let content = AppContent { app: app.clone(), description: upload.text.clone(), lock, images };
        if self.catalogue.look(&content).await? == Added::Taken {
            return Err(taken());
        }
        // The content is kept also when the application is in the catalogue already: the store may have lost it.
        layout.move_into(&self.content, &upload.manifests).await?;
        match self.catalogue.add(&content, git::add_app(&upload, &order)).await? {
            Added::New => {
                info!(app = %app.id, version = %app.version, digest = %app.digest, caller = %admitted.caller, "app added");
                Ok((StatusCode::CREATED, app))
            }
            Added::Same(held) => Ok((StatusCode::OK, held)),
            Added::Taken => Err(taken()),
        }
    }

    /// Unpacks the body into the store's staging and checks what it holds. Nothing of it counts yet; what is not moved
    /// into the store is removed again.
    async fn stage(&self, body: Body) -> Result<(StagedLayout, Upload), UploadError> {
        let content = self.content.clone();
        let mut archive =
            SyncIoBridge::new(StreamReader::new(Box::pin(limited(body.into_data_stream(), MAX_ARTIFACT))));
        let staged = tokio::task::spawn_blocking(move || {
            let staged = unpack(&mut archive, &content, MAX_ARTIFACT).map_err(UploadError::from).and_then(read);
            // The body is read to its end, also that of a refused upload: a sender that is still sending would not see
            // the answer. An error on the way is left out: it has made `unpack` fail, or is only about what follows the
            // archive.
            let _ = io::copy(&mut archive, &mut io::sink());
            staged
        });
        staged.await?
    }
}

/// Reads index, manifests and description of a staged layout, and checks them. Blocks.
fn read(layout: StagedLayout) -> Result<(StagedLayout, Upload), UploadError> {
    let mut contents = Contents::default();
    for descriptor in &layout.index().manifests {
        let (digest, manifest) = (descriptor.digest, layout.manifest(&descriptor.digest)?);
        if let Some(name) = descriptor.annotations.get(media::IMAGE) {
            let id = manifest.config.digest;
            let platform = platform_of(&layout.read(&id, MAX_MANIFEST)?);
            let rule =
                || UploadError::rule(format!("index.json: manifest {digest}"), "its config must name a platform");
            let locked = LockedImage { manifest: digest, id };
            contents.images.push(ListedImage { name: name.clone(), platform: platform.ok_or_else(rule)?, locked });
            continue;
        }
        let reference = domain::reference(descriptor)?;
        if let (Some(media::COMPOSE_ARTIFACT), [layer]) = (manifest.artifact_type.as_deref(), &manifest.layers[..]) {
            let wrong = |rule: String| UploadError::rule(format!("component {reference}"), rule);
            let archive = Archive::read(&layout.read(&layer.digest, MAX_ARCHIVE)?[..]);
            let Archive { compose, files } = archive.map_err(|error| wrong(chain(&error)))?;
            let file = ComposeFile::parse(&compose).map_err(|error| wrong(format!("compose.yaml: {error}")))?;
            contents.archives.insert(digest, ListedArchive { file, files });
        }
        contents.listed.push(Listed { reference, digest, manifest });
    }
    let (package, description) = domain::package(&contents.listed)?;
    let text = layout.read(&description.digest, MAX_DOCUMENT as u64)?;
    let file = description.annotations.get(media::TITLE).map_or("margo.yaml", String::as_str);
    let upload = domain::check(&contents, package, file, text)?;
    Ok((layout, upload))
}

/// Passes the bytes of a body on. Fails when there are more than `limit`, and when the sender is silent or takes too
/// long.
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
    let token = bearer(&headers);
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
            info!(caller = %admitted.caller, status = problem.status, %problem, "upload refused");
            problem
        })
    };
    let response = match answer.instrument(span).await {
        Ok((status, app)) => (status, Json(app)).into_response(),
        Err(problem) => ProblemResponse::from(problem).into_response(),
    };
    metrics::UPLOADS.with_label_values(&[response.status().as_str()]).inc();
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
