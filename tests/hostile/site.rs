//! What a node's key is worth at its site.

use async_nats::HeaderMap;
use bus::{
    Bus, CallId, NodeVerb, Subject, proto,
    report::{MAX_COUNTER, MAX_DEPLOYMENTS, MAX_REPORT, PROTOCOL},
    streams,
};
use bytes::Bytes;
use identity::tls::Peer;
use margo::{Digest, NodeId};
use prost::Message as _;
use testkit::wait_for;
use tokio_util::task::AbortOnDropHandle;

use crate::world::{Listener, ghost, ghost_login, hostile, http, login_of_new_node, order, platform};

/// Subjects on which nobody says anything while nobody orders anything.
const QUIET: [&str; 21] = [
    "$JS.API.STREAM.DELETE.STATE",
    "$JS.API.STREAM.DELETE.EVENTS",
    "$JS.API.STREAM.PURGE.DESIRED",
    "$JS.API.STREAM.MSG.DELETE.DESIRED",
    "$JS.API.CONSUMER.DELETE.EVENTS.relay",
    "desired.plant.head",
    "desired.plant.node.oven",
    "desired.plant.node.ghost",
    "changed.plant.head",
    "changed.plant.node.oven",
    "state.plant.node.oven.capabilities",
    "event.plant.node.oven",
    "call.plant.oven.ping",
    "call.plant.oven.restart",
    "node.plant.oven.register",
    "svc.local-orchestrator.forged",
    "svc.oci-fetcher.forged",
    "_INBOX_node.plant.oven.forged",
    "_INBOX_node._local-orchestrator.forged",
    "_INBOX_svc.local-orchestrator.forged",
    "$SRV.PING.forged",
];

fn ask(verb: NodeVerb) -> Subject {
    Subject::Node(ghost(), verb)
}

/// A request of each kind that the site would answer, and that changes nothing of the node.
fn asks() -> Vec<(Subject, Bytes)> {
    let body = |verb: NodeVerb| match verb {
        // No node has had so many lives.
        NodeVerb::Register => proto::RegisterRequest { incarnation: u64::MAX, sequence: 1 }.encode_to_vec(),
        NodeVerb::Desired => proto::NodeDesiredAsk { protocol: PROTOCOL, held: 0 }.encode_to_vec(),
        // It has no status.
        NodeVerb::Report => proto::ReportRequest::default().encode_to_vec(),
        NodeVerb::Alive => Vec::new(),
    };
    let asks = NodeVerb::ALL.iter().map(|verb| (ask(*verb), body(*verb).into()));
    // A part of the answer to a call that nobody made.
    let part = (Subject::NodePart(ghost(), CallId::random()), proto::CallPart::default().encode_to_vec().into());
    asks.chain([part]).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_s_key_opens_nothing_of_its_site_but_its_own_asks() {
    let platform = platform().await;
    let node = hostile(&ghost_login(&platform).await).await;
    let mut listener = Listener::at(&platform, "plant").await;
    let names = [streams::DESIRED, streams::STATE, streams::EVENTS];
    let mut before = Vec::new();
    for name in names {
        before.push(listener.stream(name).await);
    }
    listener.heard().await;

    let send = async |subject: &str, reply: &str, body: &Bytes| {
        for header in ["Edgewright-Actor", "Nats-Rollup", "Nats-Batch-Commit"] {
            let mut headers = HeaderMap::new();
            headers.insert(header, "all");
            let (subject, reply, body) = (subject.to_owned(), reply.to_owned(), body.clone());
            node.client().publish_with_reply_and_headers(subject, reply, headers, body).await.unwrap();
        }
    };
    let forged =
        proto::DesiredNode { version: 1 << 50, client: "plant".into(), node: "oven".into(), ..Default::default() };
    for subject in QUIET {
        for body in [Bytes::new(), bus::encode(&forged)] {
            send(subject, "_INBOX_node.plant.ghost.forged", &body).await;
        }
        for (ask, body) in asks() {
            send(&ask.to_string(), subject, &body).await;
        }
        for api in ["$JS.API.DIRECT.GET.STATE.state.plant.node.ghost.status", "$JS.API.CONSUMER.MSG.NEXT.EVENTS.relay"]
        {
            send(api, subject, &Bytes::new()).await;
        }
    }
    for (ask, body) in asks().into_iter().filter(|(ask, _)| *ask != self::ask(NodeVerb::Alive)) {
        let answer = node.request(&ask, HeaderMap::new(), body).await;
        answer.unwrap_or_else(|problem| panic!("{ask} is not answered: {problem:?}"));
    }
    let mut heard = listener.heard_of(&node, &ask(NodeVerb::Alive).to_string()).await;

    for (name, (made, messages, last)) in names.iter().zip(before) {
        let now = listener.stream(name).await;
        assert_eq!(now.0, made, "{name}");
        // A status comes at any time, and what was sent on leaves EVENTS.
        assert!(now.2 >= last, "{name}");
        assert!(*name != streams::DESIRED || (now.1, now.2) == (messages, last), "{name}");
    }
    // What the server was asked about streams before, it has answered before it said what they are.
    heard.extend(listener.heard().await);
    let forged: Vec<_> = heard.iter().map(|message| message.subject.as_str()).filter(|it| QUIET.contains(it)).collect();
    assert!(forged.is_empty(), "somebody spoke on {forged:?}");
    order(&platform, "plants", "oven", "after-the-node").await;
}

/// Asks and reports as fast as the server takes them, each as long as it may be.
fn flood(node: &Bus, id: NodeId) -> AbortOnDropHandle<()> {
    let node = node.clone();
    let reports = [
        // As many entries of nothing as fit.
        Bytes::from([0x22, 0].repeat((MAX_REPORT - 8) / 2)),
        Bytes::from(vec![0xff; MAX_REPORT]),
        Bytes::from(vec![0; 1 << 19]),
    ];
    AbortOnDropHandle::new(tokio::spawn(async move {
        for report in reports.iter().cycle() {
            for verb in NodeVerb::ALL {
                let body = if *verb == NodeVerb::Report { report.clone() } else { Bytes::from(vec![0xff; 1 << 10]) };
                let subject = Subject::Node(id.clone(), *verb).to_string();
                let inbox = "_INBOX_node.plant.busy.flood".to_owned();
                node.client().publish_with_reply(subject, inbox, body).await.unwrap();
            }
            node.client().flush().await.unwrap();
        }
    }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_floods_its_site_holds_up_no_other() {
    let platform = platform().await;
    let flooder: NodeId = "plant/busy".parse().unwrap();
    let node = hostile(&login_of_new_node(&platform, &flooder).await).await;
    let flood = flood(&node, flooder);
    for round in 0..3 {
        order(&platform, "plants", "press", &format!("beside-a-busy-node-{round}")).await;
    }
    assert!(!flood.is_finished(), "the flood went on all the time");
}

/// What the site tells the ghost, whose present life begins anew. What was sent before may still be in work, and then one more
/// ask is one too many.
pub async fn register(node: &Bus) -> proto::RegisterAnswer {
    let body = proto::RegisterRequest { incarnation: 0, sequence: 0 }.encode_to_vec();
    wait_for("the site to register the node", async || {
        let answer = node.request(&ask(NodeVerb::Register), HeaderMap::new(), body.clone().into()).await;
        let answer = answer.map_err(|problem| format!("{problem:?}"))?;
        let answer = proto::RegisterAnswer::decode(answer.payload).unwrap();
        if answer.incarnation > 0 { Ok(answer) } else { Err(format!("{answer:?}")) }
    })
    .await
}

/// A report, and what its sender would like to get through with it.
fn reports(incarnation: u64) -> Vec<(&'static str, proto::ReportRequest)> {
    let digest = Digest::of(b"").to_string();
    let status = |sequence| proto::NodeStatus { incarnation, sequence, ..Default::default() };
    let of = |status: proto::NodeStatus| proto::ReportRequest { status: Some(status), ..Default::default() };
    let deployments = |count: usize| {
        let deployment = |number: usize| proto::DeploymentStatus {
            id: format!("00000000-0000-4000-8000-{number:012}"),
            digest: digest.clone(),
            state: proto::State::Installed.into(),
            ..Default::default()
        };
        (0..count).map(deployment).collect::<Vec<_>>()
    };
    let events = |count: u64, first: u64| {
        let transition = |number: u64| proto::Transition {
            number,
            deployment: "00000000-0000-4000-8000-000000000001".into(),
            state: proto::State::Installed.into(),
            ..Default::default()
        };
        let transitions = (first..first + count).map(transition).collect();
        let events = proto::NodeEvents { incarnation, sequence: 1, transitions, ..Default::default() };
        proto::ReportRequest { events: Some(events), ..of(status(1)) }
    };
    let strange = proto::DeploymentStatus { state: 99, ..deployments(1).remove(0) };
    let nameless = proto::DeploymentStatus { id: "../../fleet".into(), ..deployments(1).remove(0) };
    let capabilities = |document: String| {
        let capabilities =
            proto::NodeCapabilities { incarnation, sequence: 1, document: document.into(), generation: 0 };
        proto::ReportRequest { capabilities: Some(capabilities), ..of(status(1)) }
    };
    vec![
        ("sequence 0", of(status(0))),
        ("a sequence that no number of JSON holds", of(status(MAX_COUNTER + 1))),
        ("the highest sequence of all", of(status(u64::MAX))),
        ("incarnation 0", of(proto::NodeStatus { incarnation: 0, ..status(1) })),
        ("a life that never began", of(proto::NodeStatus { incarnation: incarnation + 1, ..status(1) })),
        ("no status", proto::ReportRequest { status: None, ..events(1, 1) }),
        ("a deployment too many", of(proto::NodeStatus { deployments: deployments(MAX_DEPLOYMENTS + 1), ..status(1) })),
        ("a state that nobody knows", of(proto::NodeStatus { deployments: vec![strange], ..status(1) })),
        ("a deployment that is a path", of(proto::NodeStatus { deployments: vec![nameless], ..status(1) })),
        ("2,001 transitions", events(2_001, 1)),
        ("transition 0", events(1, 0)),
        ("a transition that no number of JSON holds", events(1, MAX_COUNTER + 1)),
        ("capabilities that are no JSON", capabilities("{".into())),
        ("capabilities of many levels", capabilities("[".repeat(30_000))),
        ("long capabilities", capabilities(format!("\"{}\"", "x".repeat(100_000)))),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_site_stores_of_a_hostile_node_the_hub_stores_too() {
    let platform = platform().await;
    let node = hostile(&ghost_login(&platform).await).await;
    let listener = Listener::at(&platform, "hub").await;
    let dead = dead_letters(&listener).await;
    let incarnation = register(&node).await.incarnation;
    let report = async |report: &proto::ReportRequest| {
        let answer = node.request(&ask(NodeVerb::Report), HeaderMap::new(), report.encode_to_vec().into()).await;
        proto::ReportAnswer::decode(answer.unwrap().payload).unwrap()
    };
    for (name, hostile) in reports(incarnation) {
        let answer = report(&hostile).await;
        assert!(!answer.stored && !answer.refused.is_empty(), "{name}: {answer:?}");
    }
    // The capabilities of another device are nobody's, so they are not passed on. The report is stored without them.
    let document = r#"{"properties":{"id":"plant/oven"}}"#.into();
    let capabilities = proto::NodeCapabilities { incarnation, sequence: 1, document, generation: 0 };
    let status = proto::NodeStatus { incarnation, sequence: 1, ..Default::default() };
    let of_another =
        proto::ReportRequest { status: Some(status), capabilities: Some(capabilities), ..Default::default() };
    assert!(report(&of_another).await.stored);
    // As much as a report may have, and strange in every way that is allowed.
    let deployment = |number: usize| proto::DeploymentStatus {
        id: format!("00000000-0000-4000-8000-{number:012}"),
        digest: Digest::of(b"").to_string(),
        state: proto::State::Failed.into(),
        failure: Some(proto::Failure {
            code: "\n\u{1b}[2J".into(),
            source: "../..".into(),
            message: "\0".repeat(90),
            ..Default::default()
        }),
        ..Default::default()
    };
    let status = proto::NodeStatus {
        incarnation,
        sequence: MAX_COUNTER,
        deployments: (0..MAX_DEPLOYMENTS).map(deployment).collect(),
        time: u64::MAX,
        agent: "\u{1b}]0;".repeat(500),
        generation: u64::MAX,
        ..Default::default()
    };
    let answer = report(&proto::ReportRequest { status: Some(status), ..Default::default() }).await;
    assert!(answer.stored, "{answer:?}");
    let stream = listener.bus.jetstream().get_stream_no_info(streams::STATE).await.unwrap();
    wait_for("the hub to have the report", async || {
        let subject = Subject::Status(ghost()).to_string();
        let held = stream.direct_get_last_for_subject(subject).await.map_err(|error| error.to_string())?;
        let held = bus::report::status(&held.payload).map_err(|error| error.to_string())?;
        let found = (held.position.incarnation, held.position.sequence, held.position.generation);
        if found == (incarnation, MAX_COUNTER, 0) { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    // Its queue is empty again and nothing of it died on the way; the reports of others went with it.
    order(&platform, "plants", "press", "after-strange-reports").await;
    assert_eq!(dead_letters(&listener).await, dead);
}

/// The server's notices of messages that nobody could handle. A value that was replaced before a reader had acknowledged it is
/// among the server's notices too, and was handled by whoever read the newer one.
async fn dead_letters(listener: &Listener) -> Vec<String> {
    let stream = listener.bus.jetstream().get_stream(streams::DEAD_LETTERS).await.unwrap();
    let state = &stream.cached_info().state;
    let mut letters = Vec::new();
    for sequence in state.first_sequence.max(1)..=state.last_sequence {
        let letter = stream.get_raw_message(sequence).await.unwrap().payload;
        letters.push(String::from_utf8_lossy(&letter).into_owned());
    }
    letters.retain(|letter| !letter.contains("Unacknowledged message was deleted"));
    letters
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn artifacts_that_nobody_wants_are_asked_for_in_vain_and_hold_up_nobody() {
    let platform = platform().await;
    let node = hostile(&ghost_login(&platform).await).await;
    let access = register(&node).await;
    let http = http(&platform, &Peer::Site("plant".parse().unwrap()));
    let asking = (0..4).map(|asker: u32| {
        let (http, access) = (http.clone(), access.clone());
        AbortOnDropHandle::new(tokio::spawn(async move {
            for number in 0_u32.. {
                let digest = Digest::of(&[asker.to_be_bytes(), number.to_be_bytes()].concat());
                let url = format!("{}/v2/hello/manifests/{digest}", access.artifacts_url);
                let answer = http.get(&url).bearer_auth(&access.artifacts_token).send().await.unwrap();
                assert_eq!(answer.status(), reqwest::StatusCode::NOT_FOUND);
            }
        }))
    });
    let asking: Vec<_> = asking.collect();
    order(&platform, "plants", "press", "beside-vain-asks").await;
    assert!(asking.iter().all(|asker| !asker.is_finished()), "an asker got another answer");
}
