//! What the credentials of a central service open at the hub, for one who has taken the service over: every subject of the
//! platform, both directions. What is expected is written here by hand. What they open of JetStream's interface stands in
//! `libs/bus/tests/bootstrap.rs`, with what no rights can refuse: see `docs/operations.md`, "When a central service is taken over".

use std::collections::{BTreeMap, BTreeSet};

use bus::{
    Bus, CallId, CallVerb, NodeVerb, ServiceName, SiteVerb, Subject, Tier, User,
    bootstrap::{self, Wanted},
    streams,
};
use testkit::{NatsServer, wait_for};

use crate::{client::Client, users::press};

/// Every verb that some service of the hub answers, and one that none does.
const VERBS: [&str; 33] = [
    "access",
    "token",
    "get",
    "list",
    "upload",
    "create",
    "deployment",
    "deployments",
    "orders",
    "remove",
    "update",
    "refusals",
    "create-node",
    "create-site",
    "nodes",
    "sites",
    "members",
    "node",
    "replace-node-key",
    "replace-site-key",
    "revoke-node-key",
    "revoke-site-key",
    "dead-letters",
    "history",
    "status",
    "evaluate",
    "handled",
    "streams",
    "renew-stream",
    "key",
    "logins",
    "purge",
    "x",
];

/// All subjects that a service could be tempted by.
fn subjects() -> Vec<String> {
    let (node, client) = (press(), press().client);
    let mut all: Vec<Subject> = Subject::one_of_each(&node);
    // The name of a call is made up anew each time.
    all.retain(|subject| !matches!(subject, Subject::SitePart(..) | Subject::NodePart(..)));
    let call: CallId = "0".repeat(32).parse().unwrap();
    all.extend([Subject::SitePart(client.clone(), call.clone()), Subject::NodePart(node.clone(), call)]);
    for service in ServiceName::ALL {
        all.push(Subject::GitWriteFleet(*service));
        all.push(Subject::GitWriteClient(*service, client.clone()));
        all.extend(VERBS.map(|verb| Subject::service(*service, verb)));
    }
    all.extend(SiteVerb::ALL.iter().map(|verb| Subject::Site(client.clone(), *verb)));
    all.extend(NodeVerb::ALL.iter().map(|verb| Subject::Node(node.clone(), *verb)));
    all.extend(CallVerb::ALL.iter().map(|verb| Subject::Call(node.clone(), *verb)));
    let mut all: BTreeSet<String> = all.iter().map(Subject::to_string).collect();
    all.extend(
        ["$SRV.STATS", "$SRV.PING", "$SRV.INFO", "$SYS.REQ.SERVER.PING", "$SYS.REQ.CLAIMS.UPDATE"].map(str::to_owned),
    );
    all.extend(
        ["_INBOX_site.plant.a", "_INBOX_node.plant.press.a", "_INBOX.minter.a", "_INBOX.bootstrap.a"]
            .map(str::to_owned),
    );
    all.extend(["$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.a", "$JS.EVENT.ADVISORY.API", "x"].map(str::to_owned));
    all.extend(ServiceName::ALL.iter().map(|service| format!("_INBOX_svc.{service}.a")));
    all.into_iter().collect()
}

/// What a service may publish, beside answers to other services.
fn may_publish(service: ServiceName) -> Vec<&'static str> {
    match service {
        ServiceName::GitWriter => vec![
            "git.committed.fleet",
            "git.committed.client.plant",
            "svc.api-gateway.token",
            "svc.identity.key",
            "svc.identity.streams",
        ],
        ServiceName::GitObserver => {
            vec!["desired.plant.head", "desired.plant.node.press", "changed.plant.head", "svc.identity.streams"]
        }
        ServiceName::StatusCollector => vec![
            "state.plant.node.press.status",
            "state.plant.node.press.capabilities",
            "state.plant.health",
            "event.plant.node.press",
            "svc.node-capabilities.members",
            "svc.identity.renew-stream",
            "svc.identity.streams",
        ],
        ServiceName::NodeCapabilities => vec![
            "git.write.node-capabilities.fleet",
            "git.write.node-capabilities.client.plant",
            "svc.git-writer.handled",
            "svc.deployment-registry.evaluate",
            "svc.identity.streams",
        ],
        ServiceName::AppRegistry => {
            vec!["git.write.app-registry.fleet", "svc.git-writer.handled", "svc.identity.key"]
        }
        ServiceName::DeploymentRegistry => vec![
            "git.write.deployment-registry.fleet",
            "git.write.deployment-registry.client.plant",
            "svc.git-writer.handled",
            "svc.app-registry.get",
            "svc.node-capabilities.members",
        ],
        ServiceName::ApiGateway => vec![
            "svc.app-registry.get",
            "svc.app-registry.list",
            "svc.app-registry.upload",
            "svc.deployment-registry.create",
            "svc.deployment-registry.deployment",
            "svc.deployment-registry.deployments",
            "svc.deployment-registry.get",
            "svc.deployment-registry.list",
            "svc.deployment-registry.orders",
            "svc.deployment-registry.remove",
            "svc.deployment-registry.update",
            "svc.git-observer.refusals",
            "svc.git-writer.access",
            "svc.git-writer.refusals",
            "svc.identity.logins",
            "svc.node-capabilities.create-node",
            "svc.node-capabilities.create-site",
            "svc.node-capabilities.members",
            "svc.node-capabilities.node",
            "svc.node-capabilities.nodes",
            "svc.node-capabilities.replace-node-key",
            "svc.node-capabilities.replace-site-key",
            "svc.node-capabilities.revoke-node-key",
            "svc.node-capabilities.revoke-site-key",
            "svc.node-capabilities.sites",
            "svc.status-collector.dead-letters",
            "svc.status-collector.history",
            "svc.status-collector.list",
            "svc.status-collector.refusals",
            "svc.status-collector.status",
            "$SRV.STATS",
            "call.plant.press.logs",
            "call.plant.press.ping",
            "call.plant.press.restart",
            "call.plant.press.retry",
        ],
        ServiceName::Identity => vec![],
        ServiceName::LocalOrchestrator | ServiceName::OciFetcher => panic!("{service} does not connect to the hub"),
    }
}

/// What a service may hear, beside requests to itself, discovery, and its own inbox.
fn may_hear(service: ServiceName) -> Vec<&'static str> {
    match service {
        ServiceName::GitObserver | ServiceName::NodeCapabilities | ServiceName::DeploymentRegistry => {
            vec!["git.committed.fleet", "git.committed.client.plant"]
        }
        ServiceName::AppRegistry | ServiceName::Identity => vec!["git.committed.fleet"],
        ServiceName::GitWriter | ServiceName::StatusCollector | ServiceName::ApiGateway => vec![],
        ServiceName::LocalOrchestrator | ServiceName::OciFetcher => panic!("{service} does not connect to the hub"),
    }
}

/// Which requests of sites a service answers; the name of a call is any.
fn answers(service: ServiceName) -> &'static [&'static str] {
    match service {
        ServiceName::GitObserver => &["site.plant.desired"],
        ServiceName::StatusCollector => &["site.plant.report", "site.plant.positions"],
        ServiceName::AppRegistry => &["site.plant.store"],
        ServiceName::ApiGateway => &["site.plant.part.00000000000000000000000000000000"],
        _ => &[],
    }
}

fn sorted(subjects: impl IntoIterator<Item = impl Into<String>>) -> Vec<String> {
    let subjects: BTreeSet<String> = subjects.into_iter().map(Into::into).collect();
    subjects.into_iter().collect()
}

#[tokio::test]
async fn a_central_service_s_credentials_open_what_its_work_needs_and_nothing_else() {
    let services: Vec<_> = ServiceName::at(Tier::Hub).collect();
    let fronts = services.iter().copied().filter(|service| service.has_front());
    let users: Vec<_> = services.iter().copied().map(User::Central).chain(fronts.map(User::Front)).collect();
    let server = NatsServer::start(&users).await;
    let subjects = subjects();
    assert!(subjects.len() > 250, "only {} subjects", subjects.len());
    for service in services {
        let client = Client::connect(&server.login(&User::Central(service))).await;
        let inboxes = ServiceName::ALL.iter().map(|service| format!("_INBOX_svc.{service}.a"));
        let expected = sorted(may_publish(service).into_iter().map(str::to_owned).chain(inboxes));
        assert_eq!(client.publishable(&subjects).await, expected, "{service} publishes");

        let own = subjects.iter().filter(|subject| subject.starts_with(&format!("svc.{service}."))).cloned();
        let own = own.chain([format!("_INBOX_svc.{service}.a")]);
        let found = ["$SRV.STATS", "$SRV.PING", "$SRV.INFO"].map(str::to_owned);
        let expected = sorted(may_hear(service).into_iter().map(str::to_owned).chain(own).chain(found));
        assert_eq!(client.subscribable(&subjects).await, expected, "{service} hears");

        assert_eq!(service.has_front(), !answers(service).is_empty(), "{service}");
        if service.has_front() {
            let front = Client::connect(&server.login(&User::Front(service))).await;
            assert_eq!(front.publishable(&subjects).await, ["_INBOX_site.plant.a"], "the front of {service} publishes");
            assert_eq!(front.subscribable(&subjects).await, sorted(answers(service).iter().copied()), "{service}");
        }
    }
}

#[tokio::test]
async fn the_bootstrap_s_credentials_open_no_subject_of_the_platform() {
    let server = NatsServer::start(&[]).await;
    let client = Client::connect(&server.login(&User::Bootstrap)).await;
    let subjects = subjects();
    assert_eq!(client.publishable(&subjects).await, Vec::<String>::new());
    assert_eq!(client.subscribable(&subjects).await, ["_INBOX.bootstrap.a"]);
}

/// What there is of the hub's streams (with the number of their messages) and of their consumers (with 0). Who is made anew has
/// another name here.
async fn held(operator: &Bus) -> BTreeMap<String, u64> {
    let mut held = BTreeMap::new();
    for Wanted { stream, consumers } in bootstrap::of_the_hub() {
        let name = stream.name;
        let Ok(stream) = operator.jetstream().get_stream(&name).await else { continue };
        let found = stream.cached_info();
        let config = serde_json::to_value(&found.config).unwrap();
        held.insert(format!("{name} of {} {config}", found.created), found.state.messages);
        for consumer in consumers {
            let consumer = consumer.durable_name.unwrap();
            let Ok(found) = stream.consumer_info(&consumer).await else { continue };
            let config = serde_json::to_value(&found.config).unwrap();
            held.insert(format!("{name} {consumer} of {} {config}", found.created), 0);
        }
    }
    held
}

/// Whether all is still there, and no stream has fewer messages. They may be more: whoever attacks may write, too.
fn is_whole(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> Result<(), String> {
    let less = |(name, messages): &(&String, &u64)| after.get(*name).is_none_or(|now| now < *messages);
    before.iter().find(less).map_or(Ok(()), |(name, messages)| Err(format!("{name}: {messages} before, {after:#?}")))
}

/// Requests of JetStream's interface, to which a forged answer could be one: those that take something away for good, and those
/// after which the bootstrap makes anew what is gone.
fn harmful() -> (Vec<String>, Vec<String>) {
    let (mut silent, mut noticed) = (Vec::new(), Vec::new());
    for Wanted { stream, consumers } in bootstrap::of_the_hub() {
        let name = stream.name;
        // Whoever has written there keeps what is not committed, and sends it again.
        let apis = ["PURGE", "MSG.DELETE", "UPDATE", "CREATE", "RESTORE"];
        let apis = if name == streams::GIT_WRITES { &apis[1..] } else { &apis[..] };
        silent.extend(apis.iter().map(|api| format!("$JS.API.STREAM.{api}.{name}")));
        noticed.push(format!("$JS.API.STREAM.DELETE.{name}"));
        for consumer in consumers {
            let consumer = consumer.durable_name.unwrap();
            let apis = ["CREATE", "DURABLE.CREATE", "PAUSE"];
            silent.extend(apis.map(|api| format!("$JS.API.CONSUMER.{api}.{name}.{consumer}")));
            noticed.push(format!("$JS.API.CONSUMER.DELETE.{name}.{consumer}"));
        }
    }
    (silent, noticed)
}

/// A request of a service whose answer goes where the service says, and whether that answer has no body, which is what a
/// request to delete looks like.
struct Attack {
    service: ServiceName,
    /// The stream that answers. It has to live while others are attacked.
    stream: &'static str,
    subject: &'static str,
    opens_a_batch: bool,
    deletes: bool,
}

const fn attack(service: ServiceName, stream: &'static str, subject: &'static str, deletes: bool) -> Attack {
    Attack { service, stream, subject, opens_a_batch: false, deletes }
}

const fn open_batch(service: ServiceName, subject: &'static str) -> Attack {
    Attack { service, stream: streams::GIT_WRITES, subject, opens_a_batch: true, deletes: true }
}

const ATTACKS: [Attack; 14] = [
    attack(ServiceName::AppRegistry, streams::GIT_WRITES, "git.write.app-registry.fleet", false),
    open_batch(ServiceName::AppRegistry, "git.write.app-registry.fleet"),
    open_batch(ServiceName::DeploymentRegistry, "git.write.deployment-registry.client.plant"),
    open_batch(ServiceName::NodeCapabilities, "git.write.node-capabilities.fleet"),
    attack(ServiceName::NodeCapabilities, streams::STATE, "$JS.API.CONSUMER.MSG.NEXT.STATE.node-capabilities", true),
    attack(ServiceName::NodeCapabilities, streams::STATE, "$JS.API.CONSUMER.INFO.STATE.node-capabilities", false),
    attack(ServiceName::StatusCollector, streams::EVENTS, "event.plant.node.press", false),
    attack(ServiceName::StatusCollector, streams::EVENTS, "$JS.API.CONSUMER.MSG.NEXT.EVENTS.status-collector", true),
    attack(ServiceName::StatusCollector, streams::STATE, "$JS.API.STREAM.MSG.GET.STATE", false),
    attack(ServiceName::StatusCollector, streams::STATE, "$JS.API.DIRECT.GET.STATE.nothing", true),
    attack(ServiceName::GitObserver, streams::DESIRED, "$JS.API.DIRECT.GET.DESIRED.nothing", true),
    attack(ServiceName::GitObserver, streams::DESIRED, "$JS.API.STREAM.INFO.DESIRED", false),
    attack(ServiceName::GitWriter, streams::GIT_WRITES, "$JS.API.CONSUMER.MSG.NEXT.GIT_WRITES.git-writer", true),
    attack(ServiceName::GitWriter, streams::GIT_WRITES, "$JS.API.CONSUMER.RESET.GIT_WRITES.git-writer", false),
];

/// The rights of a service do not reach as far as the answers to its requests: the server publishes these where the request
/// says. The manual tells what follows from that; this test tells when it is another thing than the manual says.
#[tokio::test]
async fn a_forged_answer_takes_nothing_away_that_does_not_come_back() {
    let services: Vec<_> = ServiceName::at(Tier::Hub).map(User::Central).collect();
    let server = NatsServer::start_bare(&services).await;
    let keeper = bus::Bootstrap::new(server.connect(&User::Bootstrap).await, bootstrap::of_the_hub());
    let operator = server.operator().await;
    let (silent, noticed) = harmful();
    for Attack { service, stream, subject, opens_a_batch, deletes } in ATTACKS {
        for Wanted { stream, .. } in bootstrap::of_the_hub() {
            // Absent before the first attack.
            operator.jetstream().delete_stream(&stream.name).await.ok();
        }
        keeper.keep().await.unwrap();
        for subject in
            ["desired.plant.head", "state.plant.health", "event.plant.node.press", "git.write.node-capabilities.fleet"]
        {
            operator.jetstream().publish(subject, "one".into()).await.unwrap().await.unwrap();
        }
        let client = Client::connect(&server.login(&User::Central(service))).await;
        let send = async |replies: &[String]| {
            for reply in replies {
                let mut headers = async_nats::HeaderMap::new();
                if opens_a_batch {
                    headers.insert("Nats-Batch-Id", reply.as_str().split_at(8).1);
                    headers.insert("Nats-Batch-Sequence", "1");
                }
                let body = if subject.starts_with("$JS") { "{" } else { "one" };
                client
                    .client
                    .publish_with_reply_and_headers(subject, reply.clone(), headers, body.into())
                    .await
                    .unwrap();
            }
            client.hear_refusals().await;
            assert!(
                !client.refused.lock().unwrap().iter().any(|text| text.contains(&subject.to_lowercase())),
                "{subject}"
            );
        };
        let before = held(&operator).await;
        send(&silent).await;
        is_whole(&before, &held(&operator).await).unwrap_or_else(|less| panic!("{service} by {subject}: {less}"));
        let others: Vec<_> = noticed.iter().filter(|reply| !reply.contains(stream)).cloned().collect();
        send(&others).await;
        if deletes {
            let gone = async || {
                let there: Vec<_> =
                    held(&operator).await.into_keys().filter(|name| !name.starts_with(stream)).collect();
                if there.is_empty() { Ok(()) } else { Err(there) }
            };
            wait_for(&format!("what {service} can delete by {subject} to be gone"), gone).await;
        } else {
            is_whole(&before, &held(&operator).await).unwrap_or_else(|less| panic!("{service} by {subject}: {less}"));
        }
    }
}
