//! Rows become commits.

use std::{fs::OpenOptions, io::Write, os::unix::fs::OpenOptionsExt, path::PathBuf, process::Command};

use api::HandledRequest;
use bus::{Bus, Outgoing, ServiceName, Subject, User, proto, streams};
use futures::StreamExt;
use git_state::{Manifest, Repository};
use identity::{SigningKey, trust};
use margo::{RepositoryName, TenantName};
use testkit::{NatsServer, Running, start_traces, wait_for};

use crate::stage::Stage;

const PRESS: &str = "00000000-0000-4000-8000-000000000001";

struct World {
    server: NatsServer,
    stage: Stage,
    source: Bus,
    operator: Bus,
}

fn role(service: ServiceName) -> User {
    User::Central(service)
}

impl World {
    async fn new() -> Self {
        start_traces();
        let roles = [ServiceName::GitWriter, ServiceName::DeploymentRegistry].map(role);
        let server = NatsServer::start(&roles).await;
        let source = server.connect_central(ServiceName::DeploymentRegistry).await;
        let operator = server.operator().await;
        Self { server, stage: Stage::new(), source, operator }
    }

    /// The repositories that are not signed with the key and the KEYS of now.
    fn outdated(&self, signing: &SigningKey) -> Vec<RepositoryName> {
        let [keys, signature] = ["KEYS", "KEYS.sig"].map(|name| std::fs::read(self.path(name)).unwrap());
        let (folder, tenant) = (self.path("repositories"), TenantName::default());
        git_writer::outdated(&folder, &tenant, &signing.public(), &keys, &signature).unwrap()
    }

    async fn wait_until_signed(&self, signing: &SigningKey) {
        wait_for("all repositories to be signed", async || match self.outdated(signing) {
            left if left.is_empty() => Ok(()),
            left => Err(left),
        })
        .await;
    }

    fn path(&self, name: &str) -> PathBuf {
        self.stage.path(name)
    }

    async fn ready(&self) -> Running {
        let running = self.start();
        running.ready().await;
        running
    }

    fn start(&self) -> Running {
        self.stage.start(&self.server, &[])
    }

    /// Publishes rows in one batch, as an outbox does.
    async fn publish(&self, rows: Vec<(RepositoryName, proto::GitWrite)>) {
        let parts = rows.into_iter().flat_map(|(name, write)| {
            bus::into_parts(bus::encode(&write)).into_iter().map(move |(headers, payload)| Outgoing {
                subject: Subject::git_write(SOURCE, &name),
                headers,
                payload,
            })
        });
        self.source.publish_batch(parts.collect()).await.unwrap();
    }

    async fn handled(&self, name: &RepositoryName) -> Result<api::Handled, api::Problem> {
        let request = HandledRequest { repository: name.to_string() };
        self.source.call(&Subject::service(ServiceName::GitWriter, "handled"), &request, None).await
    }

    async fn wait_until_handled(&self, name: &RepositoryName, number: u64) {
        wait_for("rows to be handled", async || match self.handled(name).await {
            Ok(handled) if handled.handled.get("deployment-registry") == Some(&number) => Ok(()),
            other => Err(other),
        })
        .await;
    }

    async fn refusals(&self) -> Vec<api::Refusal> {
        self.operator.call(&Subject::service(ServiceName::GitWriter, "refusals"), &(), None).await.unwrap()
    }

    async fn open(&self, name: &RepositoryName) -> Repository {
        Repository::open(&self.path("repositories"), &TenantName::default(), name).unwrap().unwrap()
    }

    async fn git(&self, name: &RepositoryName, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .arg("-C")
            .arg(self.open(name).await.path())
            .args(["-c", "user.name=mallory", "-c", "user.email=mallory@example.com"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Commits what no source ordered, as somebody who has the disk. Returns the commit before.
    async fn put_foreign_commit(&self, name: &RepositoryName, branch: &str) -> String {
        let good = self.git(name, &["rev-parse", branch]).await;
        let tree = format!("{branch}^{{tree}}");
        let foreign = self.git(name, &["commit-tree", &tree, "-p", branch, "-m", "mine"]).await;
        self.move_branch(name, branch, &foreign).await;
        good
    }

    async fn move_branch(&self, name: &RepositoryName, branch: &str, to: &str) {
        self.git(name, &["update-ref", &format!("refs/heads/{branch}"), to.trim()]).await;
    }

    async fn wait_until_the_log_is_empty(&self) {
        wait_for("the log to be empty", async || {
            let stream = self.operator.jetstream().get_stream(streams::GIT_WRITES).await.unwrap();
            if stream.cached_info().state.messages == 0 { Ok(()) } else { Err(stream.cached_info().state.clone()) }
        })
        .await;
    }

    /// Subjects of a repository's commits, oldest first.
    async fn log(&self, name: &RepositoryName) -> Vec<String> {
        self.git(name, &["log", "--reverse", "--format=%s"]).await.lines().map(str::to_owned).collect()
    }
}

fn client(name: &str) -> RepositoryName {
    RepositoryName::Client(name.parse().unwrap())
}

fn plant() -> RepositoryName {
    client("plant")
}

/// The service in whose place these tests order.
const SOURCE: ServiceName = ServiceName::DeploymentRegistry;

fn row(number: u64, change: proto::git_write::Change) -> proto::GitWrite {
    let trailers = vec![proto::Trailer { key: "Order".into(), value: format!("order-{number}") }];
    let subject = format!("row {number}");
    proto::GitWrite { number, author: "ada".into(), subject, trailers, change: Some(change), follows_fleet: 0 }
}

fn assignment(number: u64) -> (RepositoryName, proto::GitWrite) {
    let path = "assignments/hello.yaml".to_owned();
    let files = vec![proto::FileChange { path, content: Some(format!("revision: {number}\n").into()) }];
    (RepositoryName::Fleet, row(number, proto::git_write::Change::Fleet(proto::FleetChange { files })))
}

fn deployment(number: u64, document: impl Into<Vec<u8>>) -> (RepositoryName, proto::GitWrite) {
    let put = proto::PutDeployment {
        node: "press".into(),
        deployment: PRESS.into(),
        document: document.into().into(),
        summary: "{}".into(),
    };
    let change = proto::ClientChange { puts: vec![put], ..Default::default() };
    (plant(), row(number, proto::git_write::Change::Client(change)))
}

/// A client's row that follows from a row of the fleet.
fn following(name: &str, number: u64, follows_fleet: u64) -> (RepositoryName, proto::GitWrite) {
    let (_, write) = deployment(number, format!("id: {number}"));
    (client(name), proto::GitWrite { follows_fleet, ..write })
}

#[tokio::test]
async fn rows_become_signed_commits_that_say_how_far_they_are() {
    let world = World::new().await;
    let mut announced = world.source.subscribe(bus::Pattern::GitCommitted).await.unwrap();
    world.source.settled().await.unwrap();
    let running = world.ready().await;
    world.publish(vec![assignment(1), deployment(1, "id: a"), deployment(2, "id: b")]).await;

    let fleet = announced.next().await.unwrap();
    assert_eq!(fleet.subject.as_str(), "git.committed.fleet");
    let client = announced.next().await.unwrap();
    let committed: proto::GitCommitted = bus::decode(&client.payload).unwrap();
    let repository = world.open(&plant()).await;
    let tip = repository.tip().unwrap().unwrap();
    assert_eq!((committed.commit, committed.manifest_version), (tip.to_string(), 2));
    assert_eq!(committed.handled["deployment-registry"], 2);

    let root = world.stage.root.public();
    let files = repository.files(tip).unwrap();
    let keys = trust::verify_keys(&root, &TenantName::default(), 1, &files["KEYS"], &files["KEYS.sig"]).unwrap();
    repository.verify(tip, &keys).unwrap();
    let head = trust::verify_head(&keys, &"plant".parse().unwrap(), &files["head"], &files["head.sig"]).unwrap();
    let manifest = Manifest::read(&files).unwrap();
    assert_eq!((head.version.get(), head.list), (2, manifest.list().digest()));
    assert_eq!(files[&format!("nodes/84/press/{PRESS}.yaml")], b"id: b");

    let trailers: Vec<_> = repository.message(tip).unwrap().trailers().map(|(key, _)| key.to_owned()).collect();
    assert_eq!(trailers, ["Order", "Manifest-Version", "Traceparent", "Handled"]);
    for name in [RepositoryName::Fleet, plant()] {
        let log = world.git(&name, &["log", "--show-signature", "--format=%an"]).await;
        assert!(log.contains("ada"), "{log}");
        assert_eq!(world.git(&name, &["log", "--format=%G?"]).await.replace(['\n', 'G'], ""), "");
        assert_eq!(world.git(&name, &["fsck", "--strict", "--no-progress"]).await, "");
    }
    running.stop().await;
}

#[tokio::test]
async fn the_trace_of_a_row_goes_on_in_its_commit() {
    let world = World::new().await;
    let running = world.ready().await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let (name, write) = deployment(1, "id: a");
    let mut message = Outgoing::new(Subject::git_write(SOURCE, &name), bus::encode(&write));
    message.headers.insert("traceparent", format!("00-{trace}-00f067aa0ba902b7-01").as_str());
    world.source.publish_batch(vec![message]).await.unwrap();
    world.wait_until_handled(&plant(), 1).await;
    let repository = world.open(&plant()).await;
    let message = repository.message(repository.tip().unwrap().unwrap()).unwrap();
    let carried = message.trailer("Traceparent").unwrap();
    assert!(carried.contains(trace) && !carried.contains("00f067aa0ba902b7"), "{carried}");
    running.stop().await;
}

#[tokio::test]
async fn every_number_is_committed_once_and_in_order_through_restarts_repeats_and_gaps() {
    let world = World::new().await;
    let running = world.ready().await;
    world.publish(vec![deployment(1, "1"), deployment(2, "2")]).await;
    world.wait_until_handled(&plant(), 2).await;
    running.stop().await;

    // While it is away: a repeat, the next, and one behind a gap.
    world.publish(vec![deployment(2, "2"), deployment(3, "3"), deployment(5, "5")]).await;
    let running = world.ready().await;
    world.wait_until_handled(&plant(), 3).await;
    world.publish(vec![deployment(4, "4"), deployment(5, "5"), deployment(1, "1")]).await;
    world.wait_until_handled(&plant(), 5).await;
    let expected: Vec<_> = (1..=5).map(|number| format!("row {number}")).collect();
    assert_eq!(world.log(&plant()).await, expected);

    // A process that died before it purged finds all of it again.
    world.publish((1..=5).map(|number| deployment(number, number.to_string())).collect()).await;
    world.publish(vec![deployment(6, "6")]).await;
    world.wait_until_handled(&plant(), 6).await;
    assert_eq!(world.log(&plant()).await.len(), 6);
    running.stop().await;
}

#[tokio::test]
async fn what_stands_in_git_already_is_announced_again() {
    let world = World::new().await;
    let running = world.ready().await;
    world.publish(vec![deployment(1, "1")]).await;
    world.wait_until_handled(&plant(), 1).await;
    running.stop().await;
    // As it is after a death between the move of the branch and the announcement: the row is still in the log.
    world.publish(vec![deployment(1, "1")]).await;
    let mut announced = world.source.subscribe(bus::Pattern::GitCommitted).await.unwrap();
    world.source.settled().await.unwrap();
    let running = world.ready().await;
    let committed: proto::GitCommitted = bus::decode(&announced.next().await.unwrap().payload).unwrap();
    assert_eq!((committed.handled["deployment-registry"], committed.manifest_version), (1, 1));
    running.stop().await;
}

#[tokio::test]
async fn many_rows_are_committed_together_and_then_purged() {
    let world = World::new().await;
    let running = world.ready().await;
    let rows = 150;
    let batch = (1..=rows).flat_map(|number| [assignment(number), deployment(number, number.to_string())]);
    world.publish(batch.collect()).await;
    world.wait_until_handled(&plant(), rows).await;
    world.wait_until_handled(&RepositoryName::Fleet, rows).await;
    let expected: Vec<_> = (1..=rows).map(|number| format!("row {number}")).collect();
    assert_eq!(world.log(&plant()).await, expected);
    assert_eq!(world.log(&RepositoryName::Fleet).await, expected);
    running.stop().await;

    let running = world.ready().await;
    world.publish(vec![assignment(rows + 1)]).await;
    world.wait_until_the_log_is_empty().await;
    running.stop().await;
}

#[tokio::test]
async fn a_large_row_comes_in_parts() {
    let world = World::new().await;
    let running = world.ready().await;
    // Random bytes do not shrink.
    let mut document = Vec::new();
    while document.len() < 2 << 20 {
        document.extend_from_slice(margo::Digest::of(&document.len().to_le_bytes()).hex().as_bytes());
    }
    world.publish(vec![deployment(1, document.clone())]).await;
    world.wait_until_handled(&plant(), 1).await;
    let repository = world.open(&plant()).await;
    let tip = repository.tip().unwrap().unwrap();
    assert_eq!(repository.file(tip, &format!("nodes/84/press/{PRESS}.yaml")).unwrap().unwrap(), document);
    running.stop().await;
}

#[tokio::test]
async fn a_message_that_cannot_be_read_is_listed_and_the_next_goes_on() {
    let world = World::new().await;
    let running = world.ready().await;
    let garbage = Outgoing::new(Subject::git_write(SOURCE, &plant()), "no write".into());
    world.source.publish_batch(vec![garbage]).await.unwrap();
    world.publish(vec![deployment(1, "1")]).await;
    world.wait_until_handled(&plant(), 1).await;
    let refusals = world.refusals().await;
    assert_eq!(refusals.len(), 1, "{refusals:?}");
    assert_eq!(refusals[0].subject, "git.write.deployment-registry.client.plant");
    running.stop().await;
}

#[tokio::test]
async fn a_repository_that_cannot_be_written_stands_still_and_the_others_go_on() {
    let world = World::new().await;
    let running = world.ready().await;
    world.publish(vec![deployment(1, "1")]).await;
    world.wait_until_handled(&plant(), 1).await;
    let good = world.put_foreign_commit(&plant(), "desired").await;
    world.publish(vec![deployment(2, "2"), assignment(1)]).await;
    world.wait_until_handled(&RepositoryName::Fleet, 1).await;
    let stalled = wait_for("the refusal", async || world.refusals().await.pop().ok_or("none")).await;
    assert_eq!(stalled.subject, "clients/plant");
    assert!(stalled.reason.contains("is not signed"), "{stalled:?}");
    assert!(!running.is_ready());
    assert_eq!(world.handled(&plant()).await.unwrap_err().status, 503);
    // What waits for it is in memory, and its source has it too.
    world.wait_until_the_log_is_empty().await;

    world.move_branch(&plant(), "desired", &good).await;
    world.wait_until_handled(&plant(), 2).await;
    wait_for("it to be ready", async || if running.is_ready() { Ok(()) } else { Err(world.refusals().await) }).await;
    assert_eq!(world.log(&plant()).await, ["row 1", "row 2"]);
    running.stop().await;
}

#[tokio::test]
async fn a_client_is_committed_only_after_what_it_follows_from() {
    let world = World::new().await;
    let running = world.ready().await;
    world.publish(vec![assignment(1), following("plant", 1, 1)]).await;
    world.wait_until_handled(&plant(), 1).await;
    let good = world.put_foreign_commit(&RepositoryName::Fleet, "main").await;

    // In one group, and the fleet's part fails; what follows from nothing that is missing goes on.
    let clients =
        [following("plant", 2, 2), following("port", 1, 2), following("oven", 1, 1), following("depot", 1, 0)];
    world.publish([assignment(2)].into_iter().chain(clients).collect()).await;
    world.wait_until_handled(&client("depot"), 1).await;
    world.wait_until_handled(&client("oven"), 1).await;
    let refusal = wait_for("the refusal", async || world.refusals().await.pop().ok_or("none")).await;
    assert_eq!(refusal.subject, "fleet");
    assert_eq!(world.refusals().await.len(), 1, "only the fleet stands still; the others wait for it");
    // Behind in time, and before the fleet goes on.
    world.publish(vec![following("plant", 3, 2), following("depot", 2, 0)]).await;
    world.wait_until_handled(&client("depot"), 2).await;
    assert_eq!(world.log(&plant()).await, ["row 1"]);

    world.move_branch(&RepositoryName::Fleet, "main", &good).await;
    world.wait_until_handled(&plant(), 3).await;
    world.wait_until_handled(&client("port"), 1).await;
    assert_eq!(world.log(&RepositoryName::Fleet).await, ["row 1", "row 2"]);

    // A client's row that comes first waits for the fleet's, which may come much later.
    world.publish(vec![following("plant", 4, 3)]).await;
    world.wait_until_the_log_is_empty().await;
    assert_eq!(world.log(&plant()).await.len(), 3);
    world.publish(vec![assignment(3)]).await;
    world.wait_until_handled(&plant(), 4).await;
    running.stop().await;
}

#[tokio::test]
async fn how_far_others_are_is_answered_at_once_while_a_group_takes_long() {
    let world = World::new().await;
    let running = world.ready().await;
    let slow = client("slow");
    world.publish(vec![deployment(1, "1"), following("slow", 1, 0), assignment(1)]).await;
    world.wait_until_handled(&slow, 1).await;
    world.wait_until_handled(&plant(), 1).await;
    world.wait_until_the_log_is_empty().await;
    running.stop().await;

    // Whoever opens the repository now waits for whoever writes into its configuration.
    let config = world.open(&slow).await.path().join("config");
    let (content, pipe) = (std::fs::read(&config).unwrap(), config.with_extension("pipe"));
    std::fs::remove_file(&config).unwrap();
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    std::fs::hard_link(&pipe, &config).unwrap();
    let running = world.ready().await;
    world.publish(vec![assignment(2)]).await;
    world.wait_until_handled(&RepositoryName::Fleet, 2).await;
    world.publish(vec![following("slow", 2, 0)]).await;
    const NONBLOCK: i32 = 0o4000;
    let mut writer = wait_for("the group to be in work", async || {
        OpenOptions::new().write(true).custom_flags(NONBLOCK).open(&pipe).map_err(|error| error.to_string())
    })
    .await;

    let handled = async |name: &RepositoryName| {
        let answer = world.handled(name).await;
        answer.map(|handled| handled.handled["deployment-registry"]).map_err(|problem| problem.status)
    };
    assert_eq!(handled(&RepositoryName::Fleet).await, Ok(2));
    assert_eq!(handled(&plant()).await, Ok(1), "not used since the start");
    assert_eq!(handled(&slow).await, Err(503), "it is in work");
    assert!(world.handled(&client("new")).await.unwrap().handled.is_empty());

    std::fs::write(config.with_extension("new"), &content).unwrap();
    std::fs::rename(config.with_extension("new"), &config).unwrap();
    writer.write_all(&content).unwrap();
    drop(writer);
    world.wait_until_handled(&slow, 2).await;
    running.stop().await;
}

#[tokio::test]
async fn a_key_is_replaced_and_revoked_while_orders_go_on_and_no_repository_stands_still() {
    let world = World::new().await;
    let [old, new] = ["old", "new"].map(|name| SigningKey::generate(name).unwrap());
    world.stage.put_keys(2, &old, &[]);
    let running = world.ready().await;
    let quiet: Vec<_> = (0..40).map(|at| format!("quiet-{at}")).collect();
    world
        .publish(quiet.iter().map(|name| following(name, 1, 0)).chain([assignment(1), deployment(1, "1")]).collect())
        .await;
    for name in &quiet {
        world.wait_until_handled(&client(name), 1).await;
    }
    world.wait_until_handled(&plant(), 1).await;
    running.stop().await;

    let mut number = 1;
    // Of the fleet only the signature counts: it carries no KEYS.
    for (number_of_keys, others, outdated) in [(3, vec![&old], 42), (4, vec![], 41)] {
        let keys = world.stage.put_keys(number_of_keys, &new, &others);
        assert_eq!(world.outdated(&new).len(), outdated);
        let running = world.ready().await;
        // Orders go on meanwhile.
        for _ in 0..20 {
            number += 1;
            world.publish(vec![assignment(number), deployment(number, number.to_string())]).await;
            world.wait_until_handled(&plant(), number).await;
        }
        world.wait_until_signed(&new).await;
        wait_for("nothing to be left", async || match world.refusals().await {
            none if none.is_empty() => Ok(()),
            refusals => Err(refusals),
        })
        .await;
        assert!(running.is_ready());
        // A site that has slept until now follows.
        let repository = world.open(&client("quiet-7")).await;
        let tip = repository.tip().unwrap().unwrap();
        let files = repository.files(tip).unwrap();
        let (root, tenant) = (world.stage.root.public(), TenantName::default());
        let believed = trust::verify_keys(&root, &tenant, 2, &files["KEYS"], &files["KEYS.sig"]).unwrap();
        assert_eq!(believed, keys);
        let head =
            trust::verify_head(&believed, &"quiet-7".parse().unwrap(), &files["head"], &files["head.sig"]).unwrap();
        assert_eq!(head.list, Manifest::read(&files).unwrap().list().digest());
        assert_eq!(world.handled(&client("quiet-7")).await.unwrap().handled["deployment-registry"], 1);
        running.stop().await;
    }

    // The old key is worth nothing any more, and everything goes on.
    let running = world.ready().await;
    world.publish(quiet.iter().map(|name| following(name, 2, 0)).collect()).await;
    for name in &quiet {
        world.wait_until_handled(&client(name), 2).await;
    }
    assert_eq!(world.log(&client("quiet-7")).await.len(), 4, "two orders, and signed anew twice");
    running.stop().await;
}

#[tokio::test]
async fn what_a_revoked_key_has_signed_is_named_before_and_stands_still_after() {
    let world = World::new().await;
    let [old, new] = ["old", "new"].map(|name| SigningKey::generate(name).unwrap());
    world.stage.put_keys(2, &old, &[]);
    let running = world.ready().await;
    world.publish(vec![deployment(1, "1")]).await;
    world.wait_until_handled(&plant(), 1).await;
    running.stop().await;
    world.stage.put_keys(3, &new, &[]);
    assert_eq!(world.outdated(&new), [plant()]);
    let running = world.start();
    let subject = Subject::service(ServiceName::GitWriter, "refusals");
    let refusals = wait_for("the refusals", async || {
        match world.operator.call::<_, Vec<api::Refusal>>(&subject, &(), None).await {
            Ok(both) if both.len() == 2 => Ok(both),
            other => Err(other),
        }
    })
    .await;
    assert_eq!((refusals[0].subject.as_str(), refusals[1].subject.as_str()), ("clients/plant", "KEYS"));
    running.stop().await;
}

#[tokio::test]
async fn a_row_that_is_impossible_stops_its_repository_and_not_what_came_before() {
    let world = World::new().await;
    let running = world.ready().await;
    let (fleet, mut impossible) = assignment(2);
    let files = vec![proto::FileChange { path: "assignments/../../etc/passwd".into(), content: Some("x".into()) }];
    impossible.change = Some(proto::git_write::Change::Fleet(proto::FleetChange { files }));
    world.publish(vec![assignment(1), (fleet, impossible), assignment(3), deployment(1, "1")]).await;
    world.wait_until_handled(&plant(), 1).await;
    world.wait_until_handled(&RepositoryName::Fleet, 1).await;
    let refusal = wait_for("the refusal", async || world.refusals().await.pop().ok_or("none")).await;
    assert!(refusal.reason.contains("row 2 of deployment-registry") && refusal.reason.contains("path"), "{refusal:?}");
    running.stop().await;
}

#[tokio::test]
async fn the_log_and_its_server_may_be_lost() {
    let mut world = World::new().await;
    let running = world.ready().await;
    world.publish(vec![deployment(1, "1")]).await;
    world.wait_until_handled(&plant(), 1).await;
    world.server.kill().await;
    world.server.restart().await;
    world.source.connected().await;
    wait_for("the row to be published", async || {
        let (name, write) = deployment(2, "2");
        world.source.publish_batch(vec![Outgoing::new(Subject::git_write(SOURCE, &name), bus::encode(&write))]).await
    })
    .await;
    world.wait_until_handled(&plant(), 2).await;

    let owner = world.server.operator().await;
    owner.jetstream().delete_stream(streams::GIT_WRITES).await.unwrap();
    wait_for("the log to be there again", async || {
        let (name, write) = deployment(3, "3");
        world.source.publish_batch(vec![Outgoing::new(Subject::git_write(SOURCE, &name), bus::encode(&write))]).await
    })
    .await;
    world.wait_until_handled(&plant(), 3).await;
    assert_eq!(world.log(&plant()).await, ["row 1", "row 2", "row 3"]);
    running.stop().await;
}
