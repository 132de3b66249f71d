//! A site around one node: a real NATS server, its streams, and the test in the place of the LO and the oci-fetcher.

use std::sync::{Arc, Mutex, MutexGuard};

use bus::{Bus, CallId, CallVerb, Front, NodeVerb, Pattern, Rules, Subject, User, calls, proto};
use margo::{ClientName, Digest, State};
use oci::{
    ArtifactManifest, ContentStore, Descriptor, RepositoryName, media,
    server::{Admission, Availability, Policy},
};
use prost::Message;
use tempfile::TempDir;
use testkit::{NatsServer, wait_for};
use tokio::{net::TcpListener, task::JoinSet};

use crate::testing;

pub const TOKEN: &str = "a token";

pub struct Site {
    pub nats: NatsServer,
    pub bus: Bus,
    front: Front,
    pub artifacts: ContentStore,
    shared: Arc<Mutex<Shared>>,
    _folder: TempDir,
    _tasks: JoinSet<()>,
}

/// What the site answers, and what it heard.
struct Shared {
    incarnation: u64,
    artifacts_url: String,
    state_stream: String,
    /// What is desired of the node: the version, the message, and the trace of the order.
    desired: Option<(u64, bytes::Bytes, String)>,
    answers: Answers,
    registrations: Vec<u64>,
    reports: Vec<proto::ReportRequest>,
    /// Parts of answers to calls, as they came.
    parts: Vec<(CallId, proto::CallPart)>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Answers {
    Stored,
    /// The report is stored, but its transitions are not: EVENTS is full.
    EventsFull,
    Silence,
    Refused,
    /// The site cannot decide registrations yet.
    NotReady,
}

#[derive(Clone)]
struct Open;

impl Policy for Open {
    async fn admit(&self, token: &str) -> Admission {
        if token == TOKEN { Admission::Admitted } else { Admission::Refused }
    }

    async fn provide(&self, _name: &RepositoryName, _digest: &Digest) -> Availability {
        Availability::Absent
    }
}

fn plant() -> ClientName {
    testing::node().client
}

impl Site {
    pub async fn start() -> Self {
        let local = User::LocalOrchestrator(plant());
        let front = User::LocalFront(plant());
        let nats = NatsServer::start(&[local.clone(), front.clone(), User::Node(testing::node())]).await;
        let front = Front::connect(&nats.login(&front), |_| {}).await.unwrap();
        let bus = nats.connect(&local).await;
        let folder = TempDir::new().unwrap();
        let artifacts = ContentStore::open(folder.path()).await.unwrap();
        let mut tasks = JoinSet::new();
        let artifacts_url = serve(&mut tasks, oci::server::router(artifacts.clone(), Open)).await;
        let shared = Arc::new(Mutex::new(Shared {
            incarnation: 3,
            artifacts_url,
            state_stream: "first".to_owned(),
            desired: None,
            answers: Answers::Stored,
            registrations: Vec::new(),
            reports: Vec::new(),
            parts: Vec::new(),
        }));
        let site = Self { nats, bus, front, artifacts, shared, _folder: folder, _tasks: tasks };
        site.answer().await
    }

    async fn answer(mut self) -> Self {
        let rules = Rules { longest: 8 << 20, ..Rules::SMALL };
        let asks = |verb| self.front.asks(Pattern::Nodes(plant(), verb), rules);
        let mut registrations = asks(NodeVerb::Register).await.unwrap();
        let mut reports = asks(NodeVerb::Report).await.unwrap();
        let mut desires = asks(NodeVerb::Desired).await.unwrap();
        let mut parts = self.front.asks(Pattern::NodeParts(plant()), calls::PARTS).await.unwrap();
        self.front.reachable().await;
        let shared = self.shared.clone();
        self._tasks.spawn(async move {
            loop {
                let (ask, answer) = tokio::select! {
                    Some(ask) = registrations.next() => {
                        let asked = proto::RegisterRequest::decode(ask.payload.clone()).unwrap();
                        (ask, Some(shared.lock().unwrap().register(asked.incarnation)))
                    }
                    Some(ask) = desires.next() => {
                        let asked = proto::NodeDesiredAsk::decode(ask.payload.clone()).unwrap();
                        (ask, Some(shared.lock().unwrap().desired(asked.held)))
                    }
                    Some(ask) = parts.next() => {
                        let (_, id) = calls::sender(&ask).expect("a node sent it");
                        let part = proto::CallPart::decode(ask.payload.clone()).unwrap();
                        shared.lock().unwrap().parts.push((id.clone(), part));
                        let outcome = proto::CallPartOutcome::Taken.into();
                        (ask, Some(proto::CallPartAnswer { outcome }.encode_to_vec()))
                    }
                    Some(ask) = reports.next() => {
                        let report = proto::ReportRequest::decode(ask.payload.clone()).unwrap();
                        (ask, shared.lock().unwrap().report(report))
                    }
                };
                if let Some(answer) = answer {
                    ask.answer(answer.into()).await;
                }
            }
        });
        self
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap()
    }

    pub fn answers(&self, answers: Answers) {
        self.lock().answers = answers;
    }

    /// Has the site answer as after it made its STATE stream anew: under another identity.
    pub fn new_state_stream(&self, id: &str) {
        self.lock().state_stream = id.to_owned();
    }

    /// Serves artifacts by this router from now on, at another URL, which registrations are answered with.
    pub async fn serve_instead(&mut self, router: axum::Router) {
        let url = serve(&mut self._tasks, router).await;
        self.lock().artifacts_url = url;
    }

    /// The incarnations with which the node registered.
    pub fn registrations(&self) -> Vec<u64> {
        self.lock().registrations.clone()
    }

    pub fn reports(&self) -> Vec<proto::ReportRequest> {
        self.lock().reports.clone()
    }

    pub fn statuses(&self) -> Vec<proto::NodeStatus> {
        self.reports().into_iter().filter_map(|report| report.status).collect()
    }

    /// All transitions so far, each once.
    pub fn transitions(&self) -> Vec<proto::Transition> {
        let events = self.reports().into_iter().filter_map(|report| report.events);
        let mut transitions: Vec<_> = events.flat_map(|events| events.transitions).collect();
        transitions.sort_by_key(|transition| transition.number);
        transitions.dedup();
        transitions
    }

    /// Waits for a report that is as wanted, from the first one on or from `after` that many.
    pub async fn report_after(
        &self,
        after: usize,
        what: &str,
        wanted: impl Fn(&proto::ReportRequest) -> bool,
    ) -> proto::ReportRequest {
        wait_for(what, async || {
            let reports = self.reports();
            let found = reports.iter().skip(after).find(|report| wanted(report)).cloned();
            found.ok_or_else(|| reports.into_iter().next_back())
        })
        .await
    }

    /// Waits until the node says that its only deployment is in this state at this version.
    pub async fn state(&self, version: u64, state: State) -> proto::DeploymentStatus {
        let wanted = state.as_str();
        let is =
            |it: &proto::DeploymentStatus| it.state().as_str_name().eq_ignore_ascii_case(&format!("state_{wanted}"));
        let report = self.report_after(0, wanted, |report| {
            let status = report.status.as_ref().unwrap();
            status.version == version && status.deployments.len() == 1 && is(&status.deployments[0])
        });
        report.await.status.unwrap().deployments.remove(0)
    }

    /// Calls the node as the hub does, and returns its whole answer, or why it failed.
    pub async fn call(&self, verb: CallVerb, deployment: &str, component: &str, lines: u32) -> Result<String, String> {
        let id = CallId::random();
        let (deployment, component, actor) = (deployment.to_owned(), component.to_owned(), "ada".to_owned());
        let call = proto::Call { id: id.to_string(), deployment, component, lines, actor };
        let subject = Subject::Call(testing::node(), verb);
        self.bus.signal(&subject, call.encode_to_vec().into()).await.unwrap();
        wait_for("the last part of an answer", async || {
            let parts: Vec<_> =
                self.lock().parts.iter().filter(|(of, _)| *of == id).map(|(_, part)| part.clone()).collect();
            let Some(last) = parts.last().filter(|part| part.last) else { return Err(format!("{parts:?}")) };
            if !last.failed.is_empty() {
                return Ok(Err(last.failed.clone()));
            }
            let bytes: Vec<u8> = parts.iter().flat_map(|part| part.body.to_vec()).collect();
            Ok(Ok(String::from_utf8(bytes).unwrap()))
        })
        .await
    }

    /// Desires this of the node from now on, as the LO does.
    pub async fn desire(&self, version: u64, deployments: Vec<proto::DesiredDeployment>) {
        self.publish(&testing::message(version, deployments), "").await;
    }

    pub async fn publish(&self, message: &proto::DesiredNode, traceparent: &str) {
        self.publish_bytes(message.version, bus::encode(message), traceparent).await;
    }

    /// Answers the node's asks with these bytes, in this trace, unless it has this version.
    pub async fn publish_bytes(&self, version: u64, message: bytes::Bytes, traceparent: &str) {
        self.lock().desired = Some((version, message, traceparent.to_owned()));
        // After a restart of the server, the connection may have to be made again first.
        self.bus.connected().await;
        self.bus.signal(&Subject::ChangedNode(testing::node()), bytes::Bytes::new()).await.unwrap();
    }

    /// Puts a WebAssembly artifact `hello` into the site's store; gives the digest of its manifest.
    pub async fn artifact(&self, content: &[u8]) -> Digest {
        let manifest = manifest(content);
        for bytes in [content, media::EMPTY_CONFIG, &manifest] {
            self.artifacts.put(bytes).await.unwrap();
        }
        self.artifacts.link(&"hello".parse().unwrap(), &Digest::of(&manifest)).await.unwrap();
        Digest::of(&manifest)
    }
}

pub fn manifest(content: &[u8]) -> Vec<u8> {
    ArtifactManifest::artifact(media::WASM_ARTIFACT, vec![Descriptor::of(media::WASM, content)]).to_json()
}

async fn serve(tasks: &mut JoinSet<()>, router: axum::Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tasks.spawn(async { axum::serve(listener, router).await.unwrap() });
    url
}

impl Shared {
    fn desired(&self, held: u64) -> Vec<u8> {
        let outcome = |outcome: proto::DesiredOutcome| proto::NodeDesiredAnswer {
            outcome: outcome.into(),
            ..proto::NodeDesiredAnswer::default()
        };
        let answer = match &self.desired {
            None => outcome(proto::DesiredOutcome::Nothing),
            Some((version, ..)) if *version == held => outcome(proto::DesiredOutcome::Held),
            Some((_, message, traceparent)) => proto::NodeDesiredAnswer {
                message: message.clone(),
                traceparent: traceparent.clone(),
                ..outcome(proto::DesiredOutcome::Found)
            },
        };
        answer.encode_to_vec()
    }

    fn register(&mut self, incarnation: u64) -> Vec<u8> {
        self.registrations.push(incarnation);
        let accepted = proto::RegisterAnswer {
            incarnation: self.incarnation,
            state_stream: self.state_stream.clone(),
            not_ready: false,
            refused: String::new(),
            artifacts_url: self.artifacts_url.clone(),
            artifacts_token: TOKEN.to_owned(),
        };
        let answer = match self.answers {
            Answers::Refused => {
                proto::RegisterAnswer { refused: "incarnation 3 is over".to_owned(), ..Default::default() }
            }
            Answers::NotReady => proto::RegisterAnswer { not_ready: true, ..Default::default() },
            Answers::Stored | Answers::EventsFull | Answers::Silence => accepted,
        };
        answer.encode_to_vec()
    }

    fn report(&mut self, report: proto::ReportRequest) -> Option<Vec<u8>> {
        self.reports.push(report);
        let stored = proto::ReportAnswer {
            stored: true,
            events_stored: true,
            state_stream: self.state_stream.clone(),
            ..Default::default()
        };
        let answer = match self.answers {
            Answers::Stored => stored,
            Answers::EventsFull => proto::ReportAnswer { events_stored: false, ..stored },
            Answers::Refused => proto::ReportAnswer { refused: "no".to_owned(), stored: false, ..stored },
            Answers::Silence | Answers::NotReady => return None,
        };
        Some(answer.encode_to_vec())
    }
}
