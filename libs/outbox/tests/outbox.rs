//! An outbox on a real server; the test plays git-writer.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use api::{Handled, HandledRequest, Problem};
use async_nats::jetstream::consumer::{DeliverPolicy, pull::OrderedConfig};
use bus::{
    Assembler, Bus, Call, ServiceEndpoints, ServiceName, User, proto,
    proto::{ClientChange, FleetChange, GitWrite, PutDeployment, git_write::Change},
    streams,
};
use futures::StreamExt;
use margo::RepositoryName;
use outbox::Outbox;
use store::{Database, Location, Table};
use testkit::{NatsServer, on_each_database, wait_for};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const SOURCE: ServiceName = ServiceName::DeploymentRegistry;

/// Tables of the outbox that the tests look into.
static ANY: Table = Table::new("outbox", &[]);

fn client(name: &str) -> RepositoryName {
    RepositoryName::Client(name.parse().unwrap())
}

fn plant() -> RepositoryName {
    client("plant")
}

fn write() -> GitWrite {
    GitWrite { author: "ada".into(), change: Some(Change::Fleet(FleetChange::default())), ..GitWrite::default() }
}

/// A source: a database with an outbox in it.
struct Source {
    location: Location,
    database: Database,
    outbox: Outbox,
}

impl Source {
    async fn open(location: &Location) -> Self {
        let database = Database::open(location).await.unwrap();
        let outbox = Outbox::open(SOURCE, database.clone()).await.unwrap();
        Self { location: location.clone(), database, outbox }
    }

    /// The process died and was started again.
    async fn reborn(self) -> Self {
        self.database.close().await;
        Self::open(&self.location).await
    }

    /// Runs statements as somebody else who has the database open.
    async fn run_sql(&self, statement: &'static str) {
        let mut tx = self.database.begin().await.unwrap();
        ANY.query(statement).execute(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// One transaction with a row for each of these repositories, none of which follows from another one.
    async fn order(&self, repositories: &[RepositoryName]) -> Vec<u64> {
        let writes = repositories.iter().map(|repository| vec![(repository.clone(), write())]);
        self.commit(writes.collect()).await
    }

    /// One transaction with these orders.
    async fn commit(&self, orders: Vec<Vec<(RepositoryName, GitWrite)>>) -> Vec<u64> {
        let mut tx = self.database.begin().await.unwrap();
        let mut appended = Vec::new();
        for writes in orders {
            appended.extend(self.outbox.append_all(&mut tx, writes).await.unwrap());
        }
        tx.commit().await.unwrap();
        self.outbox.wake(&appended);
        appended.into_iter().map(|(_, number)| number).collect()
    }

    async fn closed(&self, repository: &RepositoryName) -> u64 {
        let closed = self.outbox.closed(&BTreeSet::from([repository.clone()])).await.unwrap();
        closed.get(repository).copied().unwrap_or(0)
    }

    fn publish(&self, bus: &Bus) -> Publishing {
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(self.outbox.clone().run(bus.clone(), shutdown.clone()));
        Publishing { shutdown, task }
    }

    async fn wait_until_closed(&self, repository: &RepositoryName, number: u64) {
        wait_for(&format!("{repository} to be closed up to {number}"), async || match self.closed(repository).await {
            closed if closed >= number => Ok(()),
            closed => Err(closed),
        })
        .await;
    }
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
    handled: BTreeMap<RepositoryName, u64>,
    /// Every write that came, also an ignored one, with its trace.
    writes: Vec<(RepositoryName, GitWrite, Option<String>)>,
    /// Repositories that cannot be written: their rows are lost here.
    stand_still: BTreeSet<RepositoryName>,
    /// Repositories that cannot be read.
    unreadable: BTreeSet<RepositoryName>,
    /// Repositories on a disk that does not answer.
    hang: BTreeSet<RepositoryName>,
}

#[derive(Clone, Copy, PartialEq)]
enum Announce {
    Yes,
    No,
}

impl GitWriter {
    async fn new(server: &NatsServer) -> Self {
        Self { bus: server.operator().await, seen: Arc::default() }
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

    async fn work(&self, announce: Announce) -> ServiceEndpoints<()> {
        let mut service = self.bus.register(ServiceName::GitWriter, std::sync::Arc::new(())).await.unwrap();
        let seen = self.seen.clone();
        let handled = move |_, call: Call<HandledRequest>| {
            let repository: RepositoryName = call.body.repository.parse().unwrap();
            let seen = seen.lock().unwrap();
            let (hangs, unreadable) = (seen.hang.contains(&repository), seen.unreadable.contains(&repository));
            let number = seen.handled.get(&repository).copied();
            let handled = number.map(|number| (SOURCE.to_string(), number)).into_iter().collect();
            async move {
                match (hangs, unreadable) {
                    (true, _) => std::future::pending().await,
                    (false, true) => Err(Problem::unavailable("it cannot be read")),
                    (false, false) => Ok(Handled { commit: None, handled }),
                }
            }
        };
        service.verb("handled", handled).await.unwrap();
        service.reachable().await;
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
            let repository = message.subject.parse::<bus::Subject>().unwrap().repository().unwrap();
            let handled = {
                let mut seen = self.seen.lock().unwrap();
                let stands_still = seen.stand_still.contains(&repository);
                let handled = seen.handled.entry(repository.clone()).or_default();
                *handled = if write.number == *handled + 1 && !stands_still { write.number } else { *handled };
                let handled = *handled;
                seen.writes.push((repository.clone(), write, trace));
                handled
            };
            if announce == Announce::Yes {
                let committed = proto::GitCommitted {
                    handled: BTreeMap::from([(SOURCE.to_string(), handled)]),
                    ..proto::GitCommitted::default()
                };
                self.bus.signal(&bus::Subject::git_committed(&repository), bus::encode(&committed)).await.unwrap();
            }
        }
    }

    fn numbers(&self) -> Vec<(RepositoryName, u64)> {
        self.seen.lock().unwrap().writes.iter().map(|(it, write, _)| (it.clone(), write.number)).collect()
    }

    fn numbers_of(&self, repository: &RepositoryName) -> Vec<u64> {
        self.numbers().into_iter().filter(|(it, _)| it == repository).map(|(_, number)| number).collect()
    }
}

async fn server() -> NatsServer {
    NatsServer::start_bare(&[User::Central(SOURCE)]).await
}

#[tokio::test]
async fn rows_reach_git_in_order_with_source_number_and_trace_and_are_closed() {
    let telemetry = process::args::TelemetryArgs {
        log: "off,[order]=info".into(),
        log_format: process::args::LogFormat::Text,
        otlp_endpoint: None,
    };
    let _telemetry = process::telemetry::init("outbox-test", &telemetry).unwrap();
    on_each_database(async |location| {
        let server = server().await;
        let (git, source) = (GitWriter::new(&server).await, Source::open(&location).await);
        git.create_stream().await;
        let _service = git.work(Announce::Yes).await;
        let publishing = source.publish(&server.connect_central(SOURCE).await);

        let span = tracing::info_span!("order");
        let trace = span.in_scope(|| bus::trace::current_text().unwrap());
        {
            use tracing::Instrument;
            source.order(&[RepositoryName::Fleet, plant()]).instrument(span).await;
        }
        source.order(&[RepositoryName::Fleet]).await;
        source.wait_until_closed(&RepositoryName::Fleet, 2).await;
        source.wait_until_closed(&plant(), 1).await;

        assert_eq!((git.numbers_of(&RepositoryName::Fleet), git.numbers_of(&plant())), (vec![1, 2], vec![1]));
        let seen = std::mem::take(&mut git.seen.lock().unwrap().writes);
        assert!(
            seen.iter().filter(|(_, write, _)| write.number == 1).all(|(_, _, found)| *found == Some(trace.clone()))
        );
        assert_eq!(source.closed(&RepositoryName::Fleet).await, 2);
        publishing.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_large_row_travels_in_parts_between_others() {
    on_each_database(async |location| {
        let server = server().await;
        let (git, source) = (GitWriter::new(&server).await, Source::open(&location).await);
        git.create_stream().await;
        // Hashes do not compress.
        let document: Vec<u8> =
            (0..200_000u32).flat_map(|at| margo::Digest::of(&at.to_le_bytes()).hex().into_bytes()).collect();
        let put = PutDeployment { document: document.clone().into(), ..PutDeployment::default() };
        let large = GitWrite {
            change: Some(Change::Client(ClientChange { puts: vec![put], ..Default::default() })),
            ..write()
        };
        source.order(&[plant()]).await;
        source.commit(vec![vec![(plant(), large)]]).await;
        source.order(&[plant()]).await;

        let _service = git.work(Announce::Yes).await;
        let publishing = source.publish(&server.connect_central(SOURCE).await);
        source.wait_until_closed(&plant(), 3).await;
        let Some(Change::Client(change)) = git.seen.lock().unwrap().writes[1].1.change.clone() else {
            panic!("a client's")
        };
        assert!(change.puts[0].document == document);
        assert!(git.waiting().await > 3, "the large one was divided");
        publishing.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_write_that_git_writer_could_not_decode_is_not_appended() {
    on_each_database(async |location| {
        let source = Source::open(&location).await;
        let put = PutDeployment { document: vec![0; outbox::MAX_WRITE].into(), ..PutDeployment::default() };
        let change = Some(Change::Client(ClientChange { puts: vec![put], ..Default::default() }));
        let too_large = GitWrite { change, ..write() };
        assert!(!Outbox::fits(&too_large));
        let mut tx = source.database.begin().await.unwrap();
        assert!(source.outbox.append_all(&mut tx, vec![(plant(), too_large)]).await.is_err());
        assert_eq!(source.outbox.append_all(&mut tx, vec![(plant(), write())]).await.unwrap(), [(plant(), 1)]);
    })
    .await;
}

#[tokio::test]
async fn numbers_have_no_gaps_whatever_is_concurrent_or_rolled_back() {
    on_each_database(async |location| {
        let source = Arc::new(Source::open(&location).await);
        let tasks = (0..60).map(|at| {
            let source = source.clone();
            tokio::spawn(async move {
                let mut tx = source.database.begin().await.unwrap();
                let writes = vec![(RepositoryName::Fleet, write())];
                let number = source.outbox.append_all(&mut tx, writes).await.unwrap()[0].1;
                if at % 3 == 0 {
                    drop(tx);
                    return None;
                }
                tx.commit().await.unwrap();
                Some(number)
            })
        });
        let mut numbers: Vec<u64> =
            futures::future::join_all(tasks).await.into_iter().filter_map(Result::unwrap).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=40).collect::<Vec<_>>());
        assert_eq!(source.order(&[plant()]).await, [1], "every repository has its own numbers");
    })
    .await;
}

#[tokio::test]
async fn what_was_committed_before_a_crash_is_published_after_it_and_numbers_go_on() {
    on_each_database(async |location| {
        let server = server().await;
        let (git, source) = (GitWriter::new(&server).await, Source::open(&location).await);
        git.create_stream().await;
        source.order(&[RepositoryName::Fleet, plant()]).await;
        let source = source.reborn().await;
        let _service = git.work(Announce::Yes).await;
        let publishing = source.publish(&server.connect_central(SOURCE).await);
        source.wait_until_closed(&plant(), 1).await;
        publishing.stop().await;

        let source = source.reborn().await;
        assert_eq!(source.order(&[plant()]).await, [2], "also when all rows were closed and deleted");
        assert_eq!(source.closed(&plant()).await, 1);
    })
    .await;
}

#[tokio::test]
async fn without_a_server_or_a_stream_rows_wait_and_then_go_in_order() {
    on_each_database(async |location| {
        let mut server = server().await;
        let (git, source) = (GitWriter::new(&server).await, Source::open(&location).await);
        let bus = server.connect_central(SOURCE).await;
        let publishing = source.publish(&bus);
        source.order(&[RepositoryName::Fleet]).await;
        server.kill().await;
        wait_for("the loss to be noticed", async || if bus.is_connected() { Err("connected") } else { Ok(()) }).await;
        source.order(&[RepositoryName::Fleet, RepositoryName::Fleet]).await;
        server.restart().await;
        git.bus.connected().await;
        git.create_stream().await;
        let _service = git.work(Announce::Yes).await;
        source.wait_until_closed(&RepositoryName::Fleet, 3).await;
        assert_eq!(git.numbers().first(), Some(&(RepositoryName::Fleet, 1)));
        publishing.stop().await;
    })
    .await;
}

#[tokio::test]
async fn announcements_may_get_lost_git_writer_is_asked() {
    on_each_database(async |location| {
        let server = server().await;
        let (git, source) = (GitWriter::new(&server).await, Source::open(&location).await);
        git.create_stream().await;
        let _service = git.work(Announce::No).await;
        let publishing = source.publish(&server.connect_central(SOURCE).await);
        source.order(&[RepositoryName::Fleet, plant()]).await;
        source.wait_until_closed(&RepositoryName::Fleet, 1).await;
        source.wait_until_closed(&plant(), 1).await;
        assert_eq!(
            git.numbers(),
            [(RepositoryName::Fleet, 1), (plant(), 1)],
            "nothing is published twice without a reason"
        );
        publishing.stop().await;
    })
    .await;
}

#[tokio::test]
async fn what_the_stream_lost_is_published_again_in_order() {
    on_each_database(async |location| {
        let server = server().await;
        let (git, source) = (GitWriter::new(&server).await, Source::open(&location).await);
        git.create_stream().await;
        let publishing = source.publish(&server.connect_central(SOURCE).await);
        source.order(&[RepositoryName::Fleet, plant(), plant()]).await;
        wait_for("the rows to be published", async || match git.waiting().await {
            3 => Ok(()),
            other => Err(other),
        })
        .await;
        git.bus.jetstream().get_stream(streams::GIT_WRITES).await.unwrap().purge().await.unwrap();
        let _service = git.work(Announce::Yes).await;
        source.wait_until_closed(&RepositoryName::Fleet, 1).await;
        source.wait_until_closed(&plant(), 2).await;
        assert_eq!(git.numbers().len(), 3);
        publishing.stop().await;
    })
    .await;
}

#[tokio::test]
async fn numbers_that_this_database_never_gave_close_nothing_and_nothing_goes_after_them() {
    on_each_database(async |location| {
        let server = server().await;
        let (git, source) = (GitWriter::new(&server).await, Source::open(&location).await);
        git.create_stream().await;
        // Git is ahead: the database was replaced by an older one.
        git.seen.lock().unwrap().handled.insert(RepositoryName::Fleet, 2);
        let _service = git.work(Announce::Yes).await;
        let bus = server.connect_central(SOURCE).await;
        let publishing = source.publish(&bus);
        source.order(&[RepositoryName::Fleet, plant()]).await;
        source.wait_until_closed(&plant(), 1).await;
        wait_for("the announcement of numbers never given", async || {
            let sql = "SELECT foreign_numbers FROM outbox_repositories WHERE repository = 'fleet'";
            let found = ANY.query(sql).fetch_one(&source.database).await.unwrap().flag("foreign_numbers").unwrap();
            if found { Ok(()) } else { Err(git.numbers()) }
        })
        .await;
        publishing.stop().await;

        // The next life knows it, too: number 3 would be taken for the next one.
        let source = source.reborn().await;
        let publishing = source.publish(&bus);
        assert_eq!(source.order(&[RepositoryName::Fleet, RepositoryName::Fleet, plant()]).await, [2, 3, 2]);
        source.wait_until_closed(&plant(), 2).await;
        assert_eq!(source.closed(&RepositoryName::Fleet).await, 0);
        assert_eq!(git.numbers(), [(RepositoryName::Fleet, 1), (plant(), 1), (plant(), 2)]);
        publishing.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_database_that_fails_for_a_while_stops_nothing_for_good() {
    on_each_database(async |location| {
        let server = server().await;
        let (git, source) = (GitWriter::new(&server).await, Source::open(&location).await);
        git.create_stream().await;
        source.order(&[RepositoryName::Fleet]).await;
        source.run_sql("ALTER TABLE outbox_rows RENAME TO hidden").await;
        let _service = git.work(Announce::Yes).await;
        let publishing = source.publish(&server.connect_central(SOURCE).await);
        let failures = || {
            let families = prometheus::gather();
            let family = families.iter().find(|family| family.name() == "edgewright_outbox_failures_total");
            family.map_or(0.0, |family| family.get_metric().iter().map(|metric| metric.get_counter().get_value()).sum())
        };
        let before = failures();
        wait_for("attempts that fail", async || match failures() - before {
            enough if enough >= 2.0 => Ok(()),
            few => Err(few),
        })
        .await;
        assert_eq!(git.numbers(), []);
        source.run_sql("ALTER TABLE hidden RENAME TO outbox_rows").await;
        source.wait_until_closed(&RepositoryName::Fleet, 1).await;

        // Published and not to be closed: what Git shows is not forgotten.
        source.run_sql("ALTER TABLE outbox_repositories RENAME COLUMN closed TO hidden").await;
        source.order(&[RepositoryName::Fleet]).await;
        wait_for("the second row in Git", async || match git.numbers() {
            numbers if numbers.contains(&(RepositoryName::Fleet, 2)) => Ok(()),
            numbers => Err(numbers),
        })
        .await;
        let before = failures();
        wait_for("an attempt to close that fails", async || match failures() - before {
            enough if enough >= 1.0 => Ok(()),
            few => Err(few),
        })
        .await;
        source.run_sql("ALTER TABLE outbox_repositories RENAME COLUMN hidden TO closed").await;
        source.wait_until_closed(&RepositoryName::Fleet, 2).await;
        publishing.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_client_s_row_says_which_one_of_the_fleet_it_follows_from_and_goes_after_it() {
    on_each_database(async |location| {
        let server = server().await;
        let (git, source) = (GitWriter::new(&server).await, Source::open(&location).await);
        git.create_stream().await;
        source.order(&[RepositoryName::Fleet]).await;
        source.commit(vec![vec![(plant(), write()), (RepositoryName::Fleet, write())]]).await;
        let _service = git.work(Announce::Yes).await;
        let publishing = source.publish(&server.connect_central(SOURCE).await);
        source.wait_until_closed(&plant(), 1).await;
        let seen: Vec<_> = {
            let seen = git.seen.lock().unwrap();
            seen.writes.iter().map(|(name, write, _)| (name.clone(), write.number, write.follows_fleet)).collect()
        };
        assert_eq!(seen, [(RepositoryName::Fleet, 1, 0), (RepositoryName::Fleet, 2, 0), (plant(), 1, 2)]);
        publishing.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_transaction_that_commits_late_is_neither_skipped_nor_refused() {
    on_each_database(async |location| {
        let server = server().await;
        let (git, source) = (GitWriter::new(&server).await, Source::open(&location).await);
        git.create_stream().await;
        let _service = git.work(Announce::Yes).await;
        let publishing = source.publish(&server.connect_central(SOURCE).await);

        // Another process, for one process's transactions take turns. It numbers its row first and ends last.
        let other = Source::open(&location).await;
        let mut late = other.database.begin().await.unwrap();
        let appended = other.outbox.append_all(&mut late, vec![(plant(), write())]).await.unwrap();
        let port = client("port");
        let (outbox, database, name) = (source.outbox.clone(), source.database.clone(), port.clone());
        let early = tokio::spawn(async move {
            let mut tx = database.begin().await.unwrap();
            let appended = outbox.append_all(&mut tx, vec![(name, write())]).await.unwrap();
            tx.commit().await.unwrap();
            outbox.wake(&appended);
        });
        // SQLite has one writer, which the second one waits for. On PostgreSQL it is published before the first has ended.
        if let Location::Schema { .. } = &location {
            source.wait_until_closed(&port, 1).await;
        }
        late.commit().await.unwrap();
        source.outbox.wake(&appended);
        early.await.unwrap();
        source.wait_until_closed(&plant(), 1).await;
        source.wait_until_closed(&port, 1).await;
        publishing.stop().await;
    })
    .await;
}

#[tokio::test]
async fn one_repository_that_stands_still_fills_no_log_and_holds_up_none_of_a_thousand() {
    on_each_database(async |location| {
        let server = server().await;
        let (git, source) = (GitWriter::new(&server).await, Source::open(&location).await);
        git.create_stream().await;
        let still = client("a-still");
        git.seen.lock().unwrap().stand_still.insert(still.clone());
        let large = |seed: u32| {
            // Hashes do not compress.
            let document: Vec<u8> = (0..32_768u32)
                .flat_map(|at| margo::Digest::of(&(at + seed * 32_768).to_le_bytes()).hex().into_bytes())
                .collect();
            let put = PutDeployment { document: document.into(), ..PutDeployment::default() };
            let change = Some(Change::Client(ClientChange { puts: vec![put], ..Default::default() }));
            vec![(still.clone(), GitWrite { change, ..write() })]
        };
        // More than 30 MiB when compressed; 24 MiB are the most that may be on their way.
        let rows = 30;
        source.commit((0..rows).map(large).collect()).await;
        let clients: Vec<_> = (0..1_000).map(|at| client(&format!("plant-{at}"))).collect();
        let all = || clients.iter().map(|name| (name.clone(), write())).collect::<Vec<_>>();
        source.commit(vec![all()]).await;

        let _service = git.work(Announce::Yes).await;
        let publishing = source.publish(&server.connect_central(SOURCE).await);
        source.commit(vec![all(), all()]).await;
        for client in &clients {
            source.wait_until_closed(client, 3).await;
        }
        let seen = git.numbers_of(&still);
        assert!(!seen.is_empty() && seen.iter().collect::<BTreeSet<_>>().len() < rows as usize, "{seen:?}");
        assert_eq!(source.closed(&still).await, 0);

        git.seen.lock().unwrap().stand_still.clear();
        source.wait_until_closed(&still, rows.into()).await;
        publishing.stop().await;
    })
    .await;
}

#[tokio::test]
async fn who_cannot_be_read_or_does_not_answer_keeps_nothing_from_the_others() {
    on_each_database(async |location| {
        let server = server().await;
        let (git, source) = (GitWriter::new(&server).await, Source::open(&location).await);
        git.create_stream().await;
        let (hangs, unreadable) = (client("a-hangs"), client("a-unreadable"));
        git.seen.lock().unwrap().hang.insert(hangs.clone());
        git.seen.lock().unwrap().unreadable.insert(unreadable.clone());
        let others: Vec<_> = (0..100).map(|at| client(&format!("plant-{at}"))).collect();
        let all: Vec<_> = [&hangs, &unreadable].into_iter().chain(&others).cloned().collect();
        let _service = git.work(Announce::No).await;
        let publishing = source.publish(&server.connect_central(SOURCE).await);
        source.order(&all).await;
        for other in &others {
            source.wait_until_closed(other, 1).await;
        }
        git.seen.lock().unwrap().unreadable.clear();
        source.wait_until_closed(&unreadable, 1).await;
        assert_eq!(source.closed(&hangs).await, 0);
        publishing.stop().await;
    })
    .await;
}
