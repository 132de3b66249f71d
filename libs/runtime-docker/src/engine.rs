//! Docker Engine over its Unix socket.
//!
//! `bollard` brings the requests and the answers, not the transport: its own would link an HTTP server. Each request has a
//! connection of its own, which costs nothing over a Unix socket and leaves no pool to keep.

use std::{collections::HashMap, io, path::PathBuf, sync::Mutex, sync::PoisonError};

use bollard::{
    API_DEFAULT_VERSION, BollardRequest, Docker,
    errors::Error,
    models::{ContainerSummary, EventMessage},
    query_parameters::{EventsOptionsBuilder, ListContainersOptionsBuilder, LogsOptionsBuilder},
};
use futures::{Stream, StreamExt};
use hyper::{
    Uri,
    client::conn::http1::handshake,
    header::{HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use runtime::RuntimeError;
use tokio::net::UnixStream;

/// The longest time until the engine begins to answer, in seconds: as long as a preparation, since loading an image of
/// gigabytes is one request. Callers that cannot wait so long have limits of their own.
const ANSWER: u64 = 600;

/// The label of everything that is ours: the id of the agent's data folder.
pub const AGENT: &str = "dev.edgewright.agent";
/// The label with the id of the deployment.
pub const DEPLOYMENT: &str = "dev.edgewright.deployment";
/// The label with the name of the component.
pub const COMPONENT: &str = "dev.edgewright.component";
/// The label that tells one revision of a service from another.
pub const REVISION: &str = "dev.edgewright.revision";
/// The label with which Compose names the service.
pub const SERVICE: &str = "com.docker.compose.service";
/// The label with which Compose numbers the containers of a service.
pub const NUMBER: &str = "com.docker.compose.container-number";

/// Events after which a workload may be another. Health checks alone make many others.
const EVENTS: [&str; 7] = ["start", "die", "destroy", "health_status", "pause", "unpause", "oom"];

/// The engine of this host.
pub struct Engine {
    socket: PathBuf,
    /// A client that has found out which version the engine speaks.
    negotiated: Mutex<Option<Docker>>,
}

impl Engine {
    /// The engine behind this socket. Nothing is asked of it yet.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket, negotiated: Mutex::default() }
    }

    /// Returns a client that speaks the engine's version. Fails when the engine does not answer.
    pub async fn client(&self) -> Result<Docker, RuntimeError> {
        if let Some(docker) = self.negotiated.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Ok(docker);
        }
        let docker = connect(self.socket.clone()).map_err(failed("connecting to Docker Engine"))?;
        let docker = docker.negotiate_version().await.map_err(failed("asking Docker Engine for its version"))?;
        *self.negotiated.lock().unwrap_or_else(PoisonError::into_inner) = Some(docker.clone());
        Ok(docker)
    }

    /// Asks the engine whether it is there. The version is negotiated anew, since the engine may be another one by now.
    pub async fn ping(&self) -> Result<(), RuntimeError> {
        *self.negotiated.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.client().await.map(|_| ())
    }

    /// Lists the containers with these labels, whatever their state.
    pub async fn containers(&self, labels: Vec<String>) -> Result<Vec<ContainerSummary>, RuntimeError> {
        let filters = HashMap::from([("label".to_owned(), labels)]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let listed = self.client().await?.list_containers(Some(options)).await;
        listed.map_err(failed("listing containers"))
    }

    /// Returns what happens from now on to containers with this label.
    pub async fn events(&self, label: String) -> Result<impl Stream<Item = Result<EventMessage, Error>>, RuntimeError> {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let filters = HashMap::from([
            ("type".to_owned(), words(&["container"])),
            ("event".to_owned(), words(&EVENTS)),
            ("label".to_owned(), vec![label]),
        ]);
        let options = EventsOptionsBuilder::new().filters(&filters).build();
        Ok(self.client().await?.events(Some(options)))
    }

    /// Returns the last lines of a container, each with its time before it, oldest first.
    pub async fn lines(&self, container: &str, lines: usize) -> Result<Vec<String>, RuntimeError> {
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).timestamps(true).tail(&lines.to_string());
        let client = self.client().await?;
        let mut logs = std::pin::pin!(client.logs(container, Some(options.build())));
        let mut text = Vec::new();
        while let Some(piece) = logs.next().await {
            text.extend_from_slice(&piece.map_err(failed("reading the log of a container"))?.into_bytes());
            // A line may be as long as its writer likes. What is read is bounded all the same.
            if text.len() > MAX_LOG {
                text.drain(..text.len() - MAX_LOG / 2);
            }
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        let all: Vec<_> = text.lines().map(str::to_owned).collect();
        Ok(all[all.len().saturating_sub(lines)..].to_vec())
    }
}

/// The most bytes of a log that are held at once.
const MAX_LOG: usize = 512 << 10;

fn connect(socket: PathBuf) -> Result<Docker, Error> {
    let transport = move |request: BollardRequest| {
        let socket = socket.clone();
        async move {
            let stream = UnixStream::connect(&socket).await?;
            let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
            // Ends with the answer, or when nobody reads that any more.
            tokio::spawn(connection);
            let (mut parts, body) = request.into_parts();
            let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
            parts.uri = path.parse::<Uri>()?;
            parts.headers.insert(HOST, HeaderValue::from_static("docker"));
            Ok(sender.send_request(BollardRequest::from_parts(parts, body)).await?)
        }
    };
    Docker::connect_with_custom_transport(transport, Some("http://docker"), ANSWER, API_DEFAULT_VERSION)
}

/// Whether the engine says that there is no such thing.
pub fn is_absent(error: &Error) -> bool {
    matches!(error, Error::DockerResponseServerError { status_code: 404, .. })
}

/// Whether the engine says that the thing is in use, or is so already.
pub fn is_conflict(error: &Error) -> bool {
    matches!(error, Error::DockerResponseServerError { status_code: 304 | 409, .. })
}

/// An error of the engine as one of a runtime.
pub fn failed(attempt: impl Into<String>) -> impl FnOnce(Error) -> RuntimeError {
    let attempt = attempt.into();
    |error| match error {
        Error::IOError { err } => RuntimeError::Io { attempt, source: err },
        error => RuntimeError::Io { attempt, source: io::Error::other(error) },
    }
}
