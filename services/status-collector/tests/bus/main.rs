//! The whole service on a real NATS server, with the users and permissions of production.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use api::{ActualDeployment, HistoryEntry, HistoryOf, Member, Members, NodeState, Refusal, Targets};
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use bus::{
    Bus, Call, Outgoing, ServiceEndpoints, ServiceName, SiteVerb, Subject, User, proto,
    report::{self, PROTOCOL},
    streams,
};
use futures::StreamExt;
use margo::{Digest, NodeId, State};
use prost::Message;
use status_collector::Config;
use store::Location;
use tempfile::TempDir;
use testkit::{NatsServer, Proxy, Running, on_each_database, wait_for};

mod windows;

const HELLO: &str = "9db79949-86fb-5e45-910d-8a83dd7391cc";
const OTHER: &str = "00000000-0000-4000-8000-000000000001";

fn node() -> NodeId {
    "plant/press".parse().unwrap()
}

/// The service, its server, the site that reports and the gateway that asks.
struct Stage {
    server: NatsServer,
    _folder: Option<TempDir>,
    database: Location,
    service: Running,
    site: Bus,
    gateway: Bus,
    nodes: Nodes,
}

/// node-capabilities in these tests: it knows the nodes that stand here.
#[derive(Clone)]
struct Nodes {
    known: Arc<Mutex<BTreeSet<NodeId>>>,
    _endpoints: Arc<ServiceEndpoints<Mutex<BTreeSet<NodeId>>>>,
}

impl Nodes {
    async fn start(server: &NatsServer) -> Self {
        let bus = server.connect_central(ServiceName::NodeCapabilities).await;
        let known =
            Arc::new(Mutex::new(["plant/press", "plant/saw", "loud/press"].map(|it| it.parse().unwrap()).into()));
        let mut endpoints = bus.register(ServiceName::NodeCapabilities, known.clone()).await.unwrap();
        let members = async |known: Arc<Mutex<BTreeSet<NodeId>>>, call: Call<Targets>| {
            let known = known.lock().unwrap();
            let asked = call.body.nodes.into_iter().filter(|node| known.contains(node));
            let member = |name: NodeId| Member { device_id: (&name).into(), name, state: NodeState::Active };
            Ok(Members { sites: vec![], nodes: asked.map(member).collect() })
        };
        endpoints.verb("members", members).await.unwrap();
        endpoints.reachable().await;
        Self { known, _endpoints: Arc::new(endpoints) }
    }
}

fn start(server: &NatsServer, database: &Location) -> Running {
    let (back, front) = (server.login(&collector()), server.login(&front()));
    Running::start_with_front(ServiceName::StatusCollector, back, front, |base, shutdown| {
        status_collector::run(Config { base, database: database.clone() }, shutdown)
    })
}

fn collector() -> User {
    User::Central(ServiceName::StatusCollector)
}

fn front() -> User {
    User::Front(ServiceName::StatusCollector)
}

fn capabilities() -> User {
    User::Central(ServiceName::NodeCapabilities)
}

fn site() -> User {
    User::Site(node().client)
}

fn gateway() -> User {
    User::Central(ServiceName::ApiGateway)
}

impl Stage {
    async fn set() -> Self {
        let folder = TempDir::new().unwrap();
        let database = Location::File(folder.path().join("status-collector.sqlite"));
        Self { _folder: Some(folder), ..Self::on(database).await }
    }

    async fn on(database: Location) -> Self {
        let loud = User::Site("loud".parse().unwrap());
        let server = NatsServer::start(&[collector(), front(), capabilities(), site(), loud, gateway()]).await;
        let nodes = Nodes::start(&server).await;
        let service = start(&server, &database);
        service.ready().await;
        let (site, gateway) = (server.connect(&site()).await, server.connect(&gateway()).await);
        Self { server, _folder: None, database, service, site, gateway, nodes }
    }

    /// Brings a status to the hub. After a restart of the server, the connection may have to be made again first; a
    /// status that came twice is the same as one.
    async fn report(&self, status: proto::NodeStatus) {
        wait_for("the status to be stored", async || {
            let message = report::wrap(&Subject::Status(node()), status.encode_to_vec().into(), String::new()).unwrap();
            match windows::ask(&self.site, &windows::window(vec![message])).await {
                Ok(answer) if answer.not_stored.is_empty() && answer.refused.is_empty() => Ok(()),
                other => Err(other),
            }
        })
        .await;
    }

    async fn transitions(&self, incarnation: u64, transitions: Vec<proto::Transition>) {
        let events = proto::NodeEvents { incarnation, sequence: 1, transitions, lost: 0, generation: 0 };
        let message = report::wrap(&Subject::Event(node()), events.encode_to_vec().into(), String::new()).unwrap();
        let answer = windows::ask(&self.site, &windows::window(vec![message])).await.unwrap();
        assert!(answer.not_stored.is_empty(), "{answer:?}");
    }

    /// Reads something. Nobody answers while the service subscribes again after a restart of the server.
    async fn ask<T: serde::Serialize, R: serde::de::DeserializeOwned>(&self, verb: &str, body: &T) -> R {
        let subject = Subject::service(ServiceName::StatusCollector, verb);
        wait_for(&format!("an answer to {subject}"), async || self.gateway.call(&subject, body, None).await).await
    }

    async fn list(&self) -> Vec<ActualDeployment> {
        self.ask("list", &()).await
    }

    async fn history(&self, id: &str) -> Vec<HistoryEntry> {
        self.ask("history", &HistoryOf { id: id.parse().unwrap(), node: Some(node()) }).await
    }

    async fn states_become(&self, wanted: &[(&str, State)]) {
        wait_for("the deployments to be as reported", async || {
            let list = self.list().await;
            let states: Vec<_> = list.iter().map(|actual| (actual.id.to_string(), actual.state)).collect();
            let same = states.iter().map(|(id, state)| (id.as_str(), *state)).eq(wanted.iter().copied());
            if same { Ok(()) } else { Err(states) }
        })
        .await;
    }

    async fn history_becomes(&self, id: &str, wanted: &[u64]) {
        wait_for("the history to be complete", async || {
            let history = self.history(id).await;
            let versions: Vec<_> = history.iter().map(|entry| entry.adopted_manifest_version).collect();
            if versions == wanted { Ok(()) } else { Err(versions) }
        })
        .await;
    }
}

fn status(incarnation: u64, sequence: u64, deployments: &[(&str, proto::State)]) -> proto::NodeStatus {
    let deployment = |(id, state): &(&str, proto::State)| proto::DeploymentStatus {
        id: (*id).to_owned(),
        digest: Digest::of(b"document").to_string(),
        adopted_manifest_version: 1,
        state: (*state).into(),
        failure: None,
        components: vec![proto::ComponentStatus {
            name: "hello".into(),
            state: (*state).into(),
            failure: None,
            endpoint: "http://127.0.0.1:8080/".into(),
            ..Default::default()
        }],
    };
    proto::NodeStatus {
        incarnation,
        sequence,
        version: 1,
        deployments: deployments.iter().map(deployment).collect(),
        refusals: vec![],
        time: 1_000_000_000,
        agent: "0.1.0".into(),
        generation: 0,
    }
}

/// Its number stands in `adopted_manifest_version` too, where the history shows it.
fn transition(number: u64, deployment: &str) -> proto::Transition {
    proto::Transition {
        number,
        deployment: deployment.into(),
        digest: Digest::of(b"document").to_string(),
        component: String::new(),
        state: proto::State::Installing.into(),
        failure: None,
        adopted_manifest_version: number,
        time: 1,
    }
}

#[tokio::test]
async fn the_newest_whole_status_of_a_node_is_what_is() {
    use proto::State::{Installed, Installing};
    let stage = Stage::set().await;
    stage.report(status(1, 1, &[(OTHER, Installing), (HELLO, Installing)])).await;
    stage.states_become(&[(OTHER, State::Installing), (HELLO, State::Installing)]).await;
    // Absent from a newer status: gone. An overtaken one changes nothing, wherever the bus had it so long.
    stage.report(status(1, 3, &[(HELLO, Installed)])).await;
    stage.states_become(&[(HELLO, State::Installed)]).await;
    let overtaken = windows::status("press", 1, 2);
    let answer = windows::ask(&stage.site, &windows::window(vec![overtaken])).await.unwrap();
    assert_eq!(answer.not_stored[0].outcome(), proto::Outcome::Never);
    stage.report(status(2, 1, &[(OTHER, Installed)])).await;
    stage.states_become(&[(OTHER, State::Installed)]).await;
    let list = stage.list().await;
    assert_eq!(list[0].node, node());
    assert_eq!(list[0].components[0].endpoint.as_deref(), Some("http://127.0.0.1:8080/"));
    assert_eq!(list[0].reported_at, "1970-01-01T00:00:01Z");
    stage.service.stop().await;
}

#[tokio::test]
async fn history_is_complete_without_doubles_and_ends_at_its_limit() {
    let stage = Stage::set().await;
    stage.transitions(1, vec![transition(1, HELLO), transition(2, HELLO)]).await;
    stage.transitions(1, vec![transition(1, HELLO), transition(2, HELLO), transition(3, OTHER)]).await;
    stage.history_becomes(OTHER, &[3]).await;
    stage.history_becomes(HELLO, &[1, 2]).await;
    // A node that began anew counts anew.
    stage.transitions(2, (1..=250).map(|number| transition(number, HELLO)).collect()).await;
    stage.history_becomes(HELLO, &(51..=250).collect::<Vec<_>>()).await;
    stage.service.stop().await;
}

#[tokio::test]
async fn refusals_of_nodes_are_shown_as_their_newest_report_has_them() {
    let stage = Stage::set().await;
    let refusal =
        |reason: &str| proto::Refusal { subject: "desired.plant.node.press".into(), reason: reason.into(), time: 5 };
    let refused = |sequence, reasons: &[&str]| proto::NodeStatus {
        refusals: reasons.iter().copied().map(refusal).collect(),
        ..status(1, sequence, &[])
    };
    for (sequence, reasons) in [(1, ["a digest does not match"].as_slice()), (2, &["version 3 is older", "and again"])]
    {
        stage.report(refused(sequence, reasons)).await;
        wait_for("the refusals of the newest report", async || {
            let refusals: Vec<Refusal> = stage.ask("refusals", &()).await;
            let wanted = reasons.iter().map(|reason| format!("node {} says: {reason}", node()));
            let same = refusals.iter().map(|refusal| refusal.reason.clone()).eq(wanted);
            if same { Ok(()) } else { Err(refusals) }
        })
        .await;
    }
    stage.service.stop().await;
}

#[tokio::test]
async fn a_malformed_report_is_a_dead_letter_and_blocks_nobody() {
    let stage = Stage::set().await;
    let broken = [
        Outgoing::new(Subject::Status(node()), "not a report".into()),
        Outgoing::new(Subject::Event(node()), proto::NodeEvents::default().encode_to_vec().into()),
    ];
    // Nobody but this service writes there; the bytes come from another version of it.
    let owner = stage.server.connect(&collector()).await;
    for message in broken {
        owner.publish_batch(vec![message]).await.unwrap();
    }
    let letters = dead_letters(&stage.server, 2).await;
    assert!(letters.iter().any(|letter| letter.contains("decoding the report")), "{letters:?}");
    assert!(letters.iter().any(|letter| letter.contains("incarnation: must be at least 1")), "{letters:?}");
    stage.report(status(1, 1, &[(HELLO, proto::State::Installed)])).await;
    stage.states_become(&[(HELLO, State::Installed)]).await;
    stage.service.stop().await;
}

/// The first advisories, as the owner of the stream reads them.
async fn dead_letters(server: &NatsServer, count: usize) -> Vec<String> {
    let bus = server.connect(&collector()).await;
    let stream = bus.jetstream().get_stream(streams::DEAD_LETTERS).await.unwrap();
    let config = pull::Config { deliver_policy: DeliverPolicy::All, ..pull::Config::default() };
    let consumer = stream.create_consumer(pull::Config { name: Some("test".into()), ..config }).await.unwrap();
    let messages = consumer.messages().await.unwrap().take(count);
    let texts = messages.map(|message| String::from_utf8_lossy(&message.unwrap().payload).into_owned());
    tokio::time::timeout(Duration::from_secs(60), texts.collect()).await.expect("dead letters arrive")
}

#[tokio::test]
async fn what_was_stored_survives_the_service_and_what_came_meanwhile_is_taken_up() {
    use proto::State::{Installed, Installing};
    on_each_database(async |location| {
        let stage = Stage::on(location).await;
        stage.report(status(1, 1, &[(HELLO, Installing)])).await;
        stage.states_become(&[(HELLO, State::Installing)]).await;
        let Stage { server, _folder, database, service, site, gateway, nodes } = stage;
        service.stop().await;
        let message =
            Outgoing::new(Subject::Status(node()), status(1, 2, &[(HELLO, Installed)]).encode_to_vec().into());
        server.connect(&collector()).await.publish_batch(vec![message]).await.unwrap();
        let service = start(&server, &database);
        service.ready().await;
        let stage = Stage { server, _folder, database, service, site, gateway, nodes };
        stage.states_become(&[(HELLO, State::Installed)]).await;
        stage.service.stop().await;
    })
    .await;
}

#[tokio::test]
async fn deleted_streams_come_back_and_reports_with_them() {
    let stage = Stage::set().await;
    let owner = stage.server.connect(&collector()).await;
    for name in [streams::STATE, streams::EVENTS, streams::DEAD_LETTERS] {
        let before = owner.jetstream().get_stream(name).await.unwrap();
        owner.jetstream().delete_stream(name).await.unwrap();
        wait_for("the stream to be made again", async || {
            let again = owner.jetstream().get_stream(name).await.map_err(|error| error.to_string())?;
            let ids = [&before, &again].map(|stream| streams::id(&stream.cached_info().config).to_owned());
            if ids[0] != ids[1] && !ids[1].is_empty() { Ok(()) } else { Err(format!("{ids:?}")) }
        })
        .await;
    }
    stage.report(status(1, 1, &[(HELLO, proto::State::Installed)])).await;
    stage.states_become(&[(HELLO, State::Installed)]).await;
    stage.transitions(1, vec![transition(1, HELLO)]).await;
    stage.history_becomes(HELLO, &[1]).await;
    stage.service.stop().await;
}

#[tokio::test]
async fn the_service_outlives_a_power_cut_of_the_server() {
    let mut stage = Stage::set().await;
    stage.server.kill().await;
    stage.server.restart().await;
    stage.report(status(1, 1, &[(HELLO, proto::State::Installed)])).await;
    stage.states_become(&[(HELLO, State::Installed)]).await;
    stage.service.stop().await;
}
