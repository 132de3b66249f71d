//! An outbox on a real server; the test plays git-writer.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use api::{Handled, HandledRequest};
use async_nats::jetstream::consumer::{DeliverPolicy, pull::OrderedConfig};
use bus::{
    Assembler, Bus, Call, Repository, Role, ServiceEndpoints, ServiceName, proto,
    proto::{ClientChange, FleetChange, GitWrite, PutDeployment, git_write::Change},
    streams,
};
use futures::StreamExt;
use outbox::Outbox;
use sqlx::SqlitePool;
use tempfile::TempDir;
use testkit::{NatsServer, wait_for};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const SOURCE: ServiceName = ServiceName::DeploymentRegistry;

fn plant() -> Repository {
    Repository::Client("plant".parse().unwrap())
}

fn write() -> GitWrite {
    GitWrite { author: "ada".into(), change: Some(Change::Fleet(FleetChange::default())), ..GitWrite::default() }
}

/// A source: a database with an outbox in it.
struct Source {
    folder: TempDir,
    pool: SqlitePool,
    outbox: Outbox,
}

impl Source {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (pool, outbox) = open(&folder).await;
        Self { folder, pool, outbox }
    }

    /// The process died and was started again.
    async fn reborn(self) -> Self {
        self.pool.close().await;
        let (pool, outbox) = open(&self.folder).await;
        Self { pool, outbox, ..self }
    }

    /// One transaction with a row for each of these repositories.
    async fn order(&self, repositories: &[Repository]) -> Vec<u64> {
        let mut tx = self.pool.begin().await.unwrap();
        let mut numbers = Vec::new();
        for repository in repositories {
            numbers.push(self.outbox.append(&mut tx, repository, write()).await.unwrap());
        }
        tx.commit().await.unwrap();
        self.outbox.wake();
        numbers
    }

    fn publish(&self, bus: &Bus) -> Publishing {
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(self.outbox.clone().run(bus.clone(), shutdown.clone()));
        Publishing { shutdown, task }
    }

    async fn wait_until_closed(&self, repository: &Repository, number: u64) {
        wait_for(&format!("{repository} to be closed up to {number}"), async || {
            let closed = self.outbox.closed().await.unwrap();
            if self.outbox.is_closed(repository, number).await.unwrap() { Ok(()) } else { Err(closed) }
        })
        .await;
    }
}

async fn open(folder: &TempDir) -> (SqlitePool, Outbox) {
    let pool = store::open(&folder.path().join("source.sqlite")).await.unwrap();
    let outbox = Outbox::open(SOURCE, pool.clone()).await.unwrap();
    (pool, outbox)
}

struct Publishing {
    shutdown: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Publishing {
    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }
}

/// What git-writer promises to its sources: handles a number when it is the next one, ignores all others.
#[derive(Clone)]
struct GitWriter {
    bus: Bus,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    handled: BTreeMap<Repository, u64>,
    /// Every write that came, also an ignored one, with its trace.
    writes: Vec<(Repository, GitWrite, Option<String>)>,
    asked: u64,
}

#[derive(Clone, Copy, PartialEq)]
enum Announce {
    Yes,
    No,
}

impl GitWriter {
    async fn new(server: &NatsServer) -> Self {
        Self { bus: connect(server, ServiceName::GitWriter).await, seen: Arc::default() }
    }

    /// After a restart of the server, the connection may have to be made again first.
    async fn create_stream(&self) {
        wait_for("the stream to be created", async || {
            self.bus.jetstream().create_stream(streams::git_writes()).await.map(drop)
        })
        .await;
    }

    /// How many messages wait in the stream.
    async fn waiting(&self) -> u64 {
        self.bus.jetstream().get_stream(streams::GIT_WRITES).await.unwrap().cached_info().state.messages
    }

    async fn work(&self, announce: Announce) -> ServiceEndpoints {
        let mut service = self.bus.register(ServiceName::GitWriter).await.unwrap();
        let seen = self.seen.clone();
        let handled = move |call: Call<HandledRequest>| {
            let mut seen = seen.lock().unwrap();
            seen.asked += 1;
            let number = seen.handled.get(&call.body.repository.parse().unwrap()).copied();
            let handled = number.map(|number| (SOURCE.to_string(), number)).into_iter().collect();
            std::future::ready(Ok(Handled { commit: None, handled }))
        };
        service.verb("handled", handled).await.unwrap();
        tokio::spawn(self.clone().read(announce));
        service
    }

    async fn read(self, announce: Announce) {
        let stream = self.bus.jetstream().get_stream(streams::GIT_WRITES).await.unwrap();
        let config = OrderedConfig { deliver_policy: DeliverPolicy::All, ..OrderedConfig::default() };
        let mut messages = stream.create_consumer(config).await.unwrap().messages().await.unwrap();
        let mut assembler = Assembler::default();
        while let Some(message) = messages.next().await {
            let message = message.unwrap().message;
            let trace = message.headers.as_ref().and_then(|it| it.get(bus::trace::TRACEPARENT));
            let trace = trace.map(ToString::to_string);
            let Some(payload) = assembler.take(message.headers.as_ref(), message.payload).unwrap() else { continue };
            let write: GitWrite = bus::decode(&payload).unwrap();
            let repository = Repository::of(&message.subject.parse().unwrap()).unwrap();
            let handled = {
                let mut seen = self.seen.lock().unwrap();
                let handled = seen.handled.entry(repository.clone()).or_default();
                *handled = if write.number == *handled + 1 { write.number } else { *handled };
                let handled = *handled;
                seen.writes.push((repository.clone(), write, trace));
                handled
            };
            if announce == Announce::Yes {
                let committed = proto::GitCommitted {
                    handled: BTreeMap::from([(SOURCE.to_string(), handled)]),
                    ..proto::GitCommitted::default()
                };
                self.bus.signal(&repository.committed_subject(), bus::encode(&committed)).await.unwrap();
            }
        }
    }

    fn numbers(&self) -> Vec<(Repository, u64)> {
        self.seen.lock().unwrap().writes.iter().map(|(it, write, _)| (it.clone(), write.number)).collect()
    }
}

async fn connect(server: &NatsServer, service: ServiceName) -> Bus {
    let bus = Bus::connect(&server.endpoint(&Role::Central(service))).await.unwrap();
    bus.connected().await;
    bus
}

async fn server() -> NatsServer {
    NatsServer::start(&[Role::Central(SOURCE), Role::Central(ServiceName::GitWriter)]).await
}

#[tokio::test]
async fn rows_reach_git_in_order_with_source_number_and_trace_and_are_closed() {
    let telemetry = service::args::TelemetryArgs {
        log: "off,[order]=info".into(),
        log_format: service::args::LogFormat::Text,
        otlp_endpoint: None,
    };
    let _telemetry = service::telemetry::init("outbox-test", &telemetry).unwrap();
    let server = server().await;
    let (git, source) = (GitWriter::new(&server).await, Source::new().await);
    git.create_stream().await;
    let _service = git.work(Announce::Yes).await;
    let publishing = source.publish(&connect(&server, SOURCE).await);

    let span = tracing::info_span!("order");
    let trace = span.in_scope(|| bus::trace::current_text().unwrap());
    {
        use tracing::Instrument;
        source.order(&[Repository::Fleet, plant()]).instrument(span).await;
    }
    source.order(&[Repository::Fleet]).await;
    source.wait_until_closed(&Repository::Fleet, 2).await;
    source.wait_until_closed(&plant(), 1).await;

    assert_eq!(git.numbers(), [(Repository::Fleet, 1), (plant(), 1), (Repository::Fleet, 2)]);
    for (_, write, found) in &git.seen.lock().unwrap().writes[..2] {
        assert_eq!((write.source.as_str(), found.as_ref()), ("deployment-registry", Some(&trace)));
    }
    assert!(!source.outbox.is_closed(&Repository::Fleet, 3).await.unwrap());
    publishing.stop().await;
}

#[tokio::test]
async fn a_large_row_travels_in_parts_between_others() {
    let server = server().await;
    let (git, source) = (GitWriter::new(&server).await, Source::new().await);
    git.create_stream().await;
    // Hashes do not compress.
    let document: Vec<u8> =
        (0..200_000u32).flat_map(|at| margo::Digest::of(&at.to_le_bytes()).hex().into_bytes()).collect();
    let put = PutDeployment { document: document.clone().into(), ..PutDeployment::default() };
    let large = GitWrite { change: Some(Change::Client(ClientChange { puts: vec![put], removes: vec![] })), ..write() };
    source.order(&[plant()]).await;
    let mut tx = source.pool.begin().await.unwrap();
    source.outbox.append(&mut tx, &plant(), large).await.unwrap();
    tx.commit().await.unwrap();
    source.order(&[plant()]).await;

    let _service = git.work(Announce::Yes).await;
    let publishing = source.publish(&connect(&server, SOURCE).await);
    source.wait_until_closed(&plant(), 3).await;
    let Some(Change::Client(change)) = git.seen.lock().unwrap().writes[1].1.change.clone() else {
        panic!("a client's")
    };
    assert!(change.puts[0].document == document);
    assert!(git.waiting().await > 3, "the large one was divided");
    publishing.stop().await;
}

#[tokio::test]
async fn a_write_that_git_writer_could_not_decode_is_not_appended() {
    let source = Source::new().await;
    let put = PutDeployment { document: vec![0; outbox::MAX_WRITE].into(), ..PutDeployment::default() };
    let change = Some(Change::Client(ClientChange { puts: vec![put], removes: vec![] }));
    let too_large = GitWrite { change, ..write() };
    assert!(!Outbox::fits(&too_large));
    let mut tx = source.pool.begin().await.unwrap();
    assert!(source.outbox.append(&mut tx, &plant(), too_large).await.is_err());
    assert_eq!(source.outbox.append(&mut tx, &plant(), write()).await.unwrap(), 1);
}

#[tokio::test]
async fn numbers_have_no_gaps_whatever_is_concurrent_or_rolled_back() {
    let source = Arc::new(Source::new().await);
    let tasks = (0..60).map(|at| {
        let source = source.clone();
        tokio::spawn(async move {
            let mut tx = source.pool.begin().await.unwrap();
            let number = source.outbox.append(&mut tx, &Repository::Fleet, write()).await.unwrap();
            if at % 3 == 0 {
                tx.rollback().await.unwrap();
                return None;
            }
            tx.commit().await.unwrap();
            Some(number)
        })
    });
    let mut numbers: Vec<u64> = futures::future::join_all(tasks).await.into_iter().filter_map(Result::unwrap).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=40).collect::<Vec<_>>());
    assert_eq!(source.order(&[plant()]).await, [1], "every repository has its own numbers");
}

#[tokio::test]
async fn what_was_committed_before_a_crash_is_published_after_it_and_numbers_go_on() {
    let server = server().await;
    let (git, source) = (GitWriter::new(&server).await, Source::new().await);
    git.create_stream().await;
    source.order(&[Repository::Fleet, plant()]).await;
    let source = source.reborn().await;
    let _service = git.work(Announce::Yes).await;
    let publishing = source.publish(&connect(&server, SOURCE).await);
    source.wait_until_closed(&plant(), 1).await;
    publishing.stop().await;

    let source = source.reborn().await;
    assert_eq!(source.order(&[plant()]).await, [2], "also when all rows were closed and deleted");
    assert!(source.outbox.is_closed(&plant(), 1).await.unwrap());
}

#[tokio::test]
async fn without_a_server_or_a_stream_rows_wait_and_then_go_in_order() {
    let mut server = server().await;
    let (git, source) = (GitWriter::new(&server).await, Source::new().await);
    let bus = connect(&server, SOURCE).await;
    let publishing = source.publish(&bus);
    source.order(&[Repository::Fleet]).await;
    server.kill().await;
    wait_for("the loss to be noticed", async || if bus.is_connected() { Err("connected") } else { Ok(()) }).await;
    source.order(&[Repository::Fleet, Repository::Fleet]).await;
    server.restart().await;
    git.create_stream().await;
    let _service = git.work(Announce::Yes).await;
    source.wait_until_closed(&Repository::Fleet, 3).await;
    assert_eq!(git.numbers().first(), Some(&(Repository::Fleet, 1)));
    publishing.stop().await;
}

#[tokio::test]
async fn announcements_may_get_lost_git_writer_is_asked() {
    let server = server().await;
    let (git, source) = (GitWriter::new(&server).await, Source::new().await);
    git.create_stream().await;
    let _service = git.work(Announce::No).await;
    let publishing = source.publish(&connect(&server, SOURCE).await);
    source.order(&[Repository::Fleet, plant()]).await;
    source.wait_until_closed(&Repository::Fleet, 1).await;
    source.wait_until_closed(&plant(), 1).await;
    assert_eq!(git.numbers(), [(Repository::Fleet, 1), (plant(), 1)], "nothing is published twice without a reason");
    publishing.stop().await;
}

#[tokio::test]
async fn what_the_stream_lost_is_published_again_in_order() {
    let server = server().await;
    let (git, source) = (GitWriter::new(&server).await, Source::new().await);
    git.create_stream().await;
    let publishing = source.publish(&connect(&server, SOURCE).await);
    source.order(&[Repository::Fleet, plant(), plant()]).await;
    wait_for("the rows to be published", async || match git.waiting().await {
        3 => Ok(()),
        other => Err(other),
    })
    .await;
    git.bus.jetstream().get_stream(streams::GIT_WRITES).await.unwrap().purge().await.unwrap();
    let _service = git.work(Announce::Yes).await;
    source.wait_until_closed(&Repository::Fleet, 1).await;
    source.wait_until_closed(&plant(), 2).await;
    assert_eq!(git.numbers().len(), 3);
    publishing.stop().await;
}

#[tokio::test]
async fn numbers_that_this_database_never_gave_close_nothing_and_nothing_goes_after_them() {
    let server = server().await;
    let (git, source) = (GitWriter::new(&server).await, Source::new().await);
    git.create_stream().await;
    // Git is ahead: the database was replaced by an older one.
    git.seen.lock().unwrap().handled.insert(Repository::Fleet, 2);
    let _service = git.work(Announce::Yes).await;
    let bus = connect(&server, SOURCE).await;
    let publishing = source.publish(&bus);
    source.order(&[Repository::Fleet, plant()]).await;
    source.wait_until_closed(&plant(), 1).await;
    wait_for("the announcement of numbers never given", async || {
        let sql = "SELECT foreign_numbers FROM outbox_repositories WHERE repository = 'fleet'";
        let found: bool = sqlx::query_scalar(sql).fetch_one(&source.pool).await.unwrap();
        if found { Ok(()) } else { Err(git.numbers()) }
    })
    .await;
    publishing.stop().await;

    // The next life knows it, too: number 3 would be taken for the next one.
    let source = source.reborn().await;
    let publishing = source.publish(&bus);
    assert_eq!(source.order(&[Repository::Fleet, Repository::Fleet, plant()]).await, [2, 3, 2]);
    source.wait_until_closed(&plant(), 2).await;
    assert!(!source.outbox.is_closed(&Repository::Fleet, 1).await.unwrap());
    assert_eq!(git.numbers(), [(Repository::Fleet, 1), (plant(), 1), (plant(), 2)]);
    publishing.stop().await;
}
