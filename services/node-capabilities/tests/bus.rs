//! The whole service on a real NATS server, with the users and permissions of production.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{collections::BTreeMap, sync::LazyLock, time::Duration};

use api::{
    CreateNode, CreateSite, KeyRevoked, Node, NodeAdmitted, NodeState, Problem, Reachability, ReplaceKeyRequest,
    ReplaceNodeKey, ReplaceSiteKey, RevokeKeyRequest, Site, SiteAdmitted,
};
use async_nats::jetstream::consumer::pull;
use bus::{Bus, Call, Outgoing, ServiceName, Subject, User, bootstrap, proto, streams};
use futures::{Stream, StreamExt};
use git_state::layout::{ClientFile, NodeFile, SiteFile};
use identity::{
    certificates::{Issuer, SiteRequest},
    nats::generate,
};
use margo::{ClientName, Identity, NodeId, UserNkey};
use node_capabilities::Config;
use prost::Message;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use store::Location;
use tempfile::TempDir;
use testkit::{Certificates, NatsServer, Running, ada, connect, on_each_database, wait_for};
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(60);

fn plant() -> ClientName {
    "plant".parse().unwrap()
}

fn press() -> NodeId {
    "plant/press".parse().unwrap()
}

fn nkey(key: &UserNkey) -> Identity {
    Identity::Nkey(key.clone())
}

/// The services at the hub that these tests play, and the one that they test.
fn services() -> Vec<User> {
    let services = [
        ServiceName::NodeCapabilities,
        ServiceName::ApiGateway,
        ServiceName::StatusCollector,
        ServiceName::GitWriter,
        ServiceName::DeploymentRegistry,
    ];
    services.map(User::Central).to_vec()
}

/// The authority of the hub.
static CERTIFICATES: LazyLock<Certificates> = LazyLock::new(Certificates::default);

fn start(server: &NatsServer, database: &Location) -> Running {
    let login = server.login(&User::Central(ServiceName::NodeCapabilities));
    Running::start(ServiceName::NodeCapabilities, login, |base, shutdown| {
        let config = Config {
            base,
            database: database.clone(),
            hub_url: server.url(),
            root_key: "ssh-ed25519 AAAA".into(),
            minter_url: "http://hub:8083".into(),
            root_certificates: CERTIFICATES.root(),
            issuer: CERTIFICATES.issuer(),
        };
        node_capabilities::run(config, shutdown)
    })
}

/// The service, its server, the owner of the streams and the gateway that asks.
struct Stage {
    server: NatsServer,
    _folder: Option<TempDir>,
    database: Location,
    service: Running,
    gateway: Bus,
    collector: Bus,
}

impl Stage {
    async fn set() -> Self {
        let folder = TempDir::new().unwrap();
        let database = Location::File(folder.path().join("node-capabilities.sqlite"));
        Self { _folder: Some(folder), ..Self::on(database).await }
    }

    async fn on(database: Location) -> Self {
        // Nobody takes writes yet.
        let mut wanted = bootstrap::of_the_hub();
        wanted.retain(|wanted| wanted.stream.name != streams::GIT_WRITES);
        let server = NatsServer::start_keeping(&services(), wanted).await;
        let gateway = server.connect_central(ServiceName::ApiGateway).await;
        let collector = server.operator().await;
        let service = start(&server, &database);
        service.ready().await;
        Self { server, _folder: None, database, service, gateway, collector }
    }

    async fn ask<T: serde::Serialize, R: DeserializeOwned>(&self, verb: &str, body: &T) -> Result<R, Problem> {
        self.gateway.call(&Subject::service(ServiceName::NodeCapabilities, verb), body, Some(&ada())).await
    }

    async fn add_site(&self, key: &UserNkey) -> Result<SiteAdmitted, Problem> {
        let site = CreateSite {
            name: "plant".parse().unwrap(),
            identity: Identity::Nkey(key.clone()),
            certificate_request: None,
            reason: None,
        };
        self.ask("create-site", &site).await
    }

    async fn add_node(&self, name: NodeId, key: &UserNkey) -> Result<NodeAdmitted, Problem> {
        let node = CreateNode {
            name,
            identity: Identity::Nkey(key.clone()),
            device_id: None,
            reason: Some("a second press".into()),
        };
        self.ask("create-node", &node).await
    }

    async fn replace_site_key(&self, key: &UserNkey) -> Result<SiteAdmitted, Problem> {
        let (identity, reason) = (nkey(key), Some("stolen".to_owned()));
        let replace = ReplaceSiteKey { identity, certificate_request: None, reason };
        self.ask("replace-site-key", &ReplaceKeyRequest { name: "plant", replace }).await
    }

    async fn replace_node_key(&self, key: &UserNkey) -> Result<NodeAdmitted, Problem> {
        let replace = ReplaceNodeKey { identity: nkey(key), reason: Some("stolen".to_owned()) };
        self.ask("replace-node-key", &ReplaceKeyRequest { name: press(), replace }).await
    }

    async fn revoke_site_key(&self) -> Result<KeyRevoked, Problem> {
        self.ask("revoke-site-key", &RevokeKeyRequest { name: "plant", reason: None }).await
    }

    async fn revoke_node_key(&self) -> Result<KeyRevoked, Problem> {
        self.ask("revoke-node-key", &RevokeKeyRequest { name: press(), reason: None }).await
    }

    async fn nodes(&self) -> Vec<Node> {
        self.ask("nodes", &()).await.unwrap()
    }

    async fn sites(&self) -> Vec<Site> {
        self.ask("sites", &()).await.unwrap()
    }

    /// The site, connected.
    async fn site(&mut self) -> Bus {
        connect(&self.server.admit(&User::Site(plant()))).await
    }

    /// A site with one node, connected.
    async fn with_a_site(&mut self) -> Bus {
        self.add_site(&generate().1).await.unwrap();
        self.add_node(press(), &generate().1).await.unwrap();
        self.site().await
    }
}

async fn next<T>(stream: &mut (impl Stream<Item = T> + Unpin)) -> T {
    tokio::time::timeout(PATIENCE, stream.next()).await.expect("something arrives").expect("the stream goes on")
}

async fn read(owner: &Bus, stream: &str) -> pull::Stream {
    let stream = owner.jetstream().get_stream(stream).await.unwrap();
    let config = pull::Config { durable_name: Some("test".into()), ..pull::Config::default() };
    stream.create_consumer(config).await.unwrap().messages().await.unwrap()
}

async fn next_write(writes: &mut pull::Stream) -> proto::GitWrite {
    next_write_to(writes, Subject::GitWriteFleet(ServiceName::NodeCapabilities)).await
}

async fn next_write_to(writes: &mut pull::Stream, subject: Subject) -> proto::GitWrite {
    let message = next(writes).await.unwrap();
    assert_eq!(message.subject.as_str(), subject.to_string());
    message.ack().await.unwrap();
    bus::decode(&message.payload).unwrap()
}

/// The next write for the repository of the site.
async fn next_change(writes: &mut pull::Stream) -> (proto::GitWrite, proto::ClientChange) {
    let write = next_write_to(writes, Subject::GitWriteClient(ServiceName::NodeCapabilities, plant())).await;
    let Some(proto::git_write::Change::Client(change)) = write.change.clone() else { panic!("no change of a client") };
    (write, change)
}

fn trailers(write: &proto::GitWrite) -> BTreeMap<&str, &str> {
    write.trailers.iter().map(|trailer| (trailer.key.as_str(), trailer.value.as_str())).collect()
}

fn file<T: DeserializeOwned>(write: &proto::GitWrite, path: &str) -> T {
    let Some(proto::git_write::Change::Fleet(change)) = &write.change else { panic!("no change of fleet.git") };
    let file = change.files.iter().find(|file| file.path == path).unwrap_or_else(|| panic!("no {path}: {change:?}"));
    serde_saphyr::from_slice(file.content.as_ref().unwrap()).unwrap()
}

#[tokio::test]
async fn a_new_site_is_told_where_it_logs_in_and_whom_it_believes() {
    let stage = Stage::set().await;
    let (_, key) = generate();
    let created = stage.add_site(&key).await.unwrap();
    assert_eq!((created.hub, created.minter.as_str()), (stage.server.url(), "http://hub:8083"));
    assert_eq!(created.root_key, "ssh-ed25519 AAAA");
    assert_eq!(stage.sites().await[0].identity, Some(Identity::Nkey(key)));
    stage.service.stop().await;
}

#[tokio::test]
async fn a_site_gets_the_intermediate_that_it_asks_for() {
    let stage = Stage::set().await;
    let (_, key) = generate();
    let request = SiteRequest::generate().unwrap();
    let site = |request: &str| CreateSite {
        name: "plant".parse().unwrap(),
        identity: Identity::Nkey(key.clone()),
        certificate_request: Some(request.to_owned()),
        reason: None,
    };
    let refused = stage.ask::<_, SiteAdmitted>("create-site", &site("a request")).await.unwrap_err();
    let detail = refused.detail.clone().unwrap();
    assert!(refused.status == 422 && detail.contains("certificateRequest"), "{refused:?}");
    assert!(stage.sites().await.is_empty());

    let created: SiteAdmitted = stage.ask("create-site", &site(&request.request)).await.unwrap();
    assert_eq!(created.root_certificates, CERTIFICATES.root());
    let origin = "the answer";
    Issuer::parse(&created.certificate.unwrap(), &request.key, origin).unwrap();
    // The answer was lost: the same request is answered with a certificate again.
    let again: SiteAdmitted = stage.ask("create-site", &site(&request.request)).await.unwrap();
    Issuer::parse(&again.certificate.unwrap(), &request.key, origin).unwrap();
    // Its nodes are told whom to believe.
    let node = stage.add_node(press(), &generate().1).await.unwrap();
    assert_eq!(node.root_certificates, CERTIFICATES.root());
    stage.service.stop().await;
}

#[tokio::test]
async fn deployments_are_evaluated_for_a_new_node() {
    let stage = Stage::set().await;
    let registry = stage.server.connect_central(ServiceName::DeploymentRegistry).await;
    let (evaluated, mut evaluations) = mpsc::channel(8);
    let mut endpoints = registry.register(ServiceName::DeploymentRegistry, std::sync::Arc::new(())).await.unwrap();
    let evaluate = move |_, call: Call<()>| {
        let evaluated = evaluated.clone();
        async move { evaluated.send(call.caller.unwrap().name.to_string()).await.map_err(|_| Problem::internal()) }
    };
    endpoints.verb("evaluate", evaluate).await.unwrap();
    endpoints.reachable().await;

    stage.add_site(&generate().1).await.unwrap();
    stage.add_node(press(), &generate().1).await.unwrap();
    let actor = tokio::time::timeout(PATIENCE, evaluations.recv()).await.unwrap();
    assert_eq!(actor.as_deref(), Some("node-capabilities"));
    stage.service.stop().await;
}

#[tokio::test]
async fn names_and_keys_are_never_used_again() {
    let stage = Stage::set().await;
    let (key, other) = (generate().1, generate().1);
    assert_eq!(stage.add_node(press(), &other).await.unwrap_err().status, 404);
    let wrong = serde_json::json!({ "name": "plant", "identity": { "nkey": "SUNOKEY" } });
    let invalid = stage.ask::<_, SiteAdmitted>("create-site", &wrong).await.unwrap_err();
    assert!(invalid.status == 400 && !invalid.to_string().contains("SUNOKEY"), "{invalid}");

    stage.add_site(&key).await.unwrap();
    assert_eq!(stage.add_site(&other).await.unwrap_err().status, 409);
    assert_eq!(stage.add_node(press(), &key).await.unwrap_err().status, 409);
    stage.add_node(press(), &other).await.unwrap();
    assert_eq!(stage.add_node(press(), &generate().1).await.unwrap_err().status, 409);
    assert_eq!(stage.add_node("plant/saw".parse().unwrap(), &other).await.unwrap_err().status, 409);
    assert_eq!(stage.sites().await[0].nodes, 1);
    stage.service.stop().await;
}

#[tokio::test]
async fn an_order_that_was_answered_reaches_git_even_if_the_service_died_before_publishing() {
    on_each_database(async |location| {
        let stage = Stage::on(location).await;
        let (site_key, node_key) = (generate().1, generate().1);
        // Nobody takes the writes yet, so the service dies with both rows open.
        let site = stage.add_site(&site_key).await.unwrap();
        let node = stage.add_node(press(), &node_key).await.unwrap();
        stage.service.kill().await;

        let git_writer = stage.server.operator().await;
        git_writer.jetstream().create_stream(streams::git_writes()).await.unwrap();
        let mut writes = read(&git_writer, streams::GIT_WRITES).await;
        let service = start(&stage.server, &stage.database);

        let write = next_write(&mut writes).await;
        assert_eq!((write.number, write.author.as_str()), (1, "ada"));
        assert_eq!(trailers(&write)["Order"], site.order);
        assert_eq!(trailers(&write)["Requested-By"], "ada");
        assert!(!trailers(&write).contains_key("Reason"));
        assert_eq!(file::<SiteFile>(&write, "sites/plant.yaml").orchestrator, plant());
        assert_eq!(file::<ClientFile>(&write, "clients/plant.yaml").identity, Some(Identity::Nkey(site_key)));
        // Both orders were open, so they come together, and what concerns the fleet first.
        let write = next_write(&mut writes).await;
        assert_eq!((write.number, write.subject.as_str()), (2, "add node plant/press"));
        assert_eq!(trailers(&write)["Order"], node.order);
        assert_eq!(trailers(&write)["Reason"], "a second press");
        let node: NodeFile = file(&write, "nodes/plant/press.yaml");
        assert_eq!(
            (node.device_id.as_str(), node.identity, node.state),
            ("plant/press", Some(Identity::Nkey(node_key.clone())), NodeState::Active)
        );
        // The first version of a client is empty, and there before anybody asks.
        let (write, change) = next_change(&mut writes).await;
        assert_eq!((write.number, write.follows_fleet, change), (1, 1, proto::ClientChange::default()));
        assert_eq!(trailers(&write)["Order"], site.order);
        let (write, change) = next_change(&mut writes).await;
        assert_eq!((write.number, write.follows_fleet, change.nodes.len()), (2, 2, 1));
        let identity = margo::NodeIdentity::parse(&change.nodes[0].identity).unwrap();
        assert_eq!(identity.identity, Some(Identity::Nkey(node_key)));
        assert_eq!((change.nodes[0].node.as_str(), identity.device.as_str()), ("press", "plant/press"));
        service.stop().await;
    })
    .await;
}

/// Site and node, each with its first key, and what Git was told of it passed over.
async fn with_keys(stage: &Stage) -> (UserNkey, UserNkey, pull::Stream) {
    let git_writer = stage.server.operator().await;
    git_writer.jetstream().create_stream(streams::git_writes()).await.unwrap();
    let mut writes = read(&git_writer, streams::GIT_WRITES).await;
    let (site, node) = (generate().1, generate().1);
    stage.add_site(&site).await.unwrap();
    stage.add_node(press(), &node).await.unwrap();
    for _ in 0..2 {
        next_write(&mut writes).await;
        next_change(&mut writes).await;
    }
    (site, node, writes)
}

#[tokio::test]
async fn a_key_of_a_site_is_replaced_and_revoked_in_git_and_each_time_by_one_order() {
    let stage = Stage::set().await;
    let (first, _, mut writes) = with_keys(&stage).await;
    let second = generate().1;
    let mut next_file = async || {
        let write = next_write(&mut writes).await;
        let Some(proto::git_write::Change::Fleet(change)) = &write.change else { panic!("no change of fleet.git") };
        assert_eq!(change.files.len(), 1);
        let client: ClientFile = file(&write, "clients/plant.yaml");
        (write, client)
    };

    let order = stage.replace_site_key(&second).await.unwrap().order;
    let (write, client) = next_file().await;
    assert_eq!((write.subject.as_str(), write.author.as_str()), ("replace-key site plant", "ada"));
    assert_eq!((trailers(&write)["Order"], trailers(&write)["Reason"]), (order.as_str(), "stolen"));
    assert!(trailers(&write).contains_key("Requested-At") && trailers(&write)["Requested-By"] == "ada");
    assert_eq!((client.identity, client.former_keys), (Some(nkey(&second)), vec![nkey(&first)]));
    assert_eq!(client.state, NodeState::Active);

    let revoked = stage.revoke_site_key().await.unwrap();
    let (write, client) = next_file().await;
    assert_eq!((write.subject.as_str(), trailers(&write)["Order"]), ("revoke-key site plant", revoked.order.as_str()));
    assert_eq!((client.identity, &client.former_keys), (None, &revoked.former_keys));
    assert_eq!(revoked.former_keys, [nkey(&first), nkey(&second)]);
    let site = stage.sites().await.remove(0);
    assert_eq!((site.identity, site.former_keys), (None, revoked.former_keys));

    // Given again it changes nothing; then another key brings the site back.
    assert_eq!(stage.revoke_site_key().await.unwrap().former_keys.len(), 2);
    assert_eq!(next_file().await.1.former_keys.len(), 2);
    let third = generate().1;
    stage.replace_site_key(&third).await.unwrap();
    let client = next_file().await.1;
    assert_eq!((client.identity, client.former_keys), (Some(nkey(&third)), vec![nkey(&first), nkey(&second)]));
    stage.service.stop().await;
}

#[tokio::test]
async fn a_key_of_a_node_is_replaced_and_revoked_also_under_the_signed_head() {
    let stage = Stage::set().await;
    let (_, first, mut writes) = with_keys(&stage).await;
    let second = generate().1;
    let mut next_node = async |subject: &str| {
        let write = next_write(&mut writes).await;
        assert_eq!(write.subject, subject);
        let node: NodeFile = file(&write, "nodes/plant/press.yaml");
        let (write, change) = next_change(&mut writes).await;
        assert_eq!((write.subject.as_str(), change.nodes.len()), (subject, 1));
        let identity = margo::NodeIdentity::parse(&change.nodes[0].identity).unwrap();
        assert_eq!((&identity.identity, &identity.former), (&node.identity, &node.former));
        assert_eq!((identity.device.as_str(), node.state), ("plant/press", NodeState::Active));
        identity
    };

    stage.replace_node_key(&second).await.unwrap();
    let replaced = next_node("replace-key node plant/press").await;
    assert_eq!((replaced.identity.clone(), replaced.former.clone()), (Some(nkey(&second)), vec![nkey(&first)]));
    assert_eq!(replaced.generation(), 1);
    // The answer was lost: the same order again is answered again, and says the same.
    stage.replace_node_key(&second).await.unwrap();
    assert_eq!(next_node("replace-key node plant/press").await, replaced);
    // So is the order that added the node, which must not bring the former key back.
    stage.add_node(press(), &second).await.unwrap();
    assert_eq!(next_node("add node plant/press").await, replaced);
    assert_eq!(stage.add_node(press(), &first).await.unwrap_err().status, 409);

    stage.revoke_node_key().await.unwrap();
    let revoked = next_node("revoke-key node plant/press").await;
    assert_eq!((revoked.identity, revoked.former), (None, vec![nkey(&first), nkey(&second)]));
    let node = stage.nodes().await.remove(0);
    assert_eq!((node.identity, node.former_keys.len(), node.state), (None, 2, NodeState::Active));
    stage.replace_node_key(&generate().1).await.unwrap();
    assert_eq!(next_node("replace-key node plant/press").await.generation(), 2);
    stage.service.stop().await;
}

#[tokio::test]
async fn a_key_that_is_or_was_in_force_is_never_accepted_for_anybody() {
    on_each_database(async |location| {
        let stage = Stage::on(location).await;
        let [site, node, second, other] = std::array::from_fn(|_| generate().1);
        stage.add_site(&site).await.unwrap();
        assert_eq!(stage.replace_node_key(&second).await.unwrap_err().status, 404);
        stage.add_node(press(), &node).await.unwrap();
        stage.add_node("plant/saw".parse().unwrap(), &other).await.unwrap();
        stage.replace_node_key(&second).await.unwrap();
        for (key, told) in [
            (&site, "identity: is that of site plant;"),
            (&other, "identity: is that of node plant/saw;"),
            (&node, "identity: is that of node plant/press, for which it was revoked;"),
        ] {
            let refused = stage.replace_node_key(key).await.unwrap_err();
            let detail = refused.detail.unwrap();
            assert!(
                refused.status == 409 && detail.starts_with(told) && detail.contains("never used again"),
                "{detail}"
            );
        }
        for key in [&node, &second, &other] {
            assert_eq!(stage.replace_site_key(key).await.unwrap_err().status, 409);
        }
        for key in [&node, &site] {
            assert_eq!(stage.add_node("plant/lathe".parse().unwrap(), key).await.unwrap_err().status, 409);
            let port = json!({ "name": "port", "identity": { "nkey": key.as_str() } });
            assert_eq!(stage.ask::<_, SiteAdmitted>("create-site", &port).await.unwrap_err().status, 409);
        }
        // Nothing of what was refused is kept.
        let nodes = stage.nodes().await;
        assert_eq!((nodes.len(), &nodes[0].identity), (2, &Some(nkey(&second))));
        let site_now = stage.sites().await.remove(0);
        assert_eq!((site_now.identity, site_now.former_keys), (Some(nkey(&site)), vec![]));
        let unknown = RevokeKeyRequest { name: "nowhere", reason: None };
        assert_eq!(stage.ask::<_, KeyRevoked>("revoke-site-key", &unknown).await.unwrap_err().status, 404);
        let why = RevokeKeyRequest { name: "plant", reason: Some("two\nlines".to_owned()) };
        let refused = stage.ask::<_, KeyRevoked>("revoke-site-key", &why).await.unwrap_err();
        assert_eq!(refused.errors[0].field, "reason");
        stage.service.stop().await;
    })
    .await;
}

fn capabilities(sequence: u64, document: &Value) -> Outgoing {
    let document = document.to_string().into();
    let message = proto::NodeCapabilities { incarnation: 1, sequence, document, generation: 0 };
    Outgoing::new(Subject::Capabilities(press()), message.encode_to_vec().into())
}

fn health(version: u64, reachability: proto::Reachability) -> Outgoing {
    let node = proto::NodeHealth { node: "press".into(), reachability: reachability.into(), since: 1_000_000_000 };
    let refusal = proto::Refusal { subject: "desired.plant.head".into(), reason: "an older version".into(), time: 1 };
    let message = proto::SiteHealth {
        nodes: vec![node],
        adopted_manifest_version: version,
        refusals: vec![refusal],
        time: 2_000_000_000,
        ..Default::default()
    };
    Outgoing::new(Subject::Health(plant()), message.encode_to_vec().into())
}

#[tokio::test]
async fn what_a_site_says_of_itself_and_its_nodes_is_shown() {
    let mut stage = Stage::set().await;
    stage.with_a_site().await;
    let silent = &stage.nodes().await[0];
    assert_eq!((silent.state, silent.reachability), (NodeState::Active, Reachability::Unknown));
    assert_eq!((silent.device_id.as_str(), &silent.capabilities), ("plant/press", &None));

    let newest = json!({ "properties": { "id": "plant/press", "supportedRuntimes": ["custom"] } });
    let overtaken = json!({ "properties": { "id": "plant/press" } });
    for message in [
        capabilities(2, &newest),
        capabilities(1, &overtaken),
        health(7, proto::Reachability::Reachable),
        health(8, proto::Reachability::Unreachable),
    ] {
        stage.collector.publish_batch(vec![message]).await.unwrap();
    }
    wait_for("the site's last word", async || {
        let site = stage.sites().await.remove(0);
        if site.adopted_manifest_version == Some(8) { Ok(()) } else { Err(site) }
    })
    .await;
    let site = &stage.sites().await[0];
    assert_eq!(site.last_seen.as_deref(), Some("1970-01-01T00:00:02Z"));
    assert_eq!(site.refusals[0].reason, "an older version");
    let node = &stage.nodes().await[0];
    assert_eq!((node.reachability, node.since.as_deref()), (Reachability::Unreachable, Some("1970-01-01T00:00:01Z")));
    assert_ne!(node.capabilities, None);
    stage.service.stop().await;
}

#[tokio::test]
async fn a_malformed_report_is_a_dead_letter_and_blocks_nobody() {
    let mut stage = Stage::set().await;
    stage.with_a_site().await;
    let mut letters = read(&stage.collector, streams::DEAD_LETTERS).await;
    let stranger = Subject::Capabilities("plant/stranger".parse().unwrap());
    let document = json!({ "properties": { "id": "plant/stranger" } });
    for (message, reason) in [
        (Outgoing::new(Subject::Health(plant()), "no health".into()), "decoding the report"),
        (capabilities(1, &json!({ "properties": { "id": "plant/saw" } })), "properties.id: must be"),
        (Outgoing { subject: stranger, ..capabilities(1, &document) }, "node plant/stranger does not exist"),
    ] {
        stage.collector.publish_batch(vec![message]).await.unwrap();
        let letter = String::from_utf8_lossy(&next(&mut letters).await.unwrap().payload).into_owned();
        assert!(letter.contains(reason), "{letter}");
    }
    stage.collector.publish_batch(vec![health(1, proto::Reachability::Reachable)]).await.unwrap();
    wait_for("the report after them", async || {
        let node = stage.nodes().await.remove(0);
        if node.reachability == Reachability::Reachable { Ok(()) } else { Err(node) }
    })
    .await;
    stage.service.stop().await;
}
