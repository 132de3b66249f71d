//! What a site's key is worth at the hub.

use async_nats::HeaderMap;
use bus::{
    Bus, CallId, SiteVerb, Subject,
    proto::{self, Outcome},
    report::{PROTOCOL, new_session, wrap},
    streams,
};
use bytes::Bytes;
use margo::{ClientName, Digest};
use prost::Message as _;
use testkit::wait_for;
use tokio_util::task::AbortOnDropHandle;

use crate::world::{Listener, hostile, login_of_new_site, order, plant, platform, site_login};

/// Subjects on which nobody says anything while nobody orders anything: whoever is heard there was made to speak by an attacker.
const QUIET: [&str; 30] = [
    "$JS.API.STREAM.DELETE.EVENTS",
    "$JS.API.STREAM.DELETE.GIT_WRITES",
    "$JS.API.STREAM.PURGE.STATE",
    "$JS.API.STREAM.MSG.DELETE.GIT_WRITES",
    "$JS.API.CONSUMER.DELETE.STATE.status-collector",
    "$JS.API.STREAM.MSG.DELETE.DESIRED",
    "desired.plant.head",
    "desired.depot.head",
    "desired.depot.node.crane",
    "changed.depot.head",
    "changed.depot.node.crane",
    "state.depot.node.crane.capabilities",
    "event.depot.node.crane",
    "git.write.deployment-registry.fleet",
    "git.write.node-capabilities.fleet",
    "git.write.node-capabilities.client.depot",
    "git.committed.fleet",
    "svc.deployment-registry.remove",
    "svc.git-writer.forged",
    "call.depot.crane.ping",
    "call.plant.press.ping",
    "call.depot.crane.restart",
    "call.plant.press.retry",
    "site.depot.positions",
    "_INBOX_site.depot.forged",
    "_INBOX_site.plantx.forged",
    "_INBOX_site._git-observer.forged",
    "_INBOX_svc.git-writer.forged",
    "_INBOX_svc.deployment-registry.forged",
    "$SRV.PING.forged",
];

/// A request of each kind that the hub would answer.
fn asks() -> Vec<(Subject, Bytes)> {
    let body = |verb: SiteVerb| match verb {
        SiteVerb::Store => "null".into(),
        SiteVerb::Desired => proto::DesiredAsk { protocol: PROTOCOL, ..Default::default() }.encode_to_vec().into(),
        SiteVerb::Report => window(Vec::new()).encode_to_vec().into(),
        SiteVerb::Positions => {
            proto::PositionsRequest { protocol: PROTOCOL, ..Default::default() }.encode_to_vec().into()
        }
    };
    let asks = SiteVerb::ALL.iter().map(|verb| (Subject::Site(plant(), *verb), body(*verb)));
    // A part of the answer to a call that nobody made.
    let part = (Subject::SitePart(plant(), CallId::random()), proto::CallPart::default().encode_to_vec().into());
    asks.chain([part]).collect()
}

fn window(messages: Vec<proto::WindowMessage>) -> proto::Window {
    proto::Window { protocol: PROTOCOL, session: new_session(), number: 1, messages, ..Default::default() }
}

/// Sends each of these, once with every header by which it might count for more than it is.
async fn shoot(bus: &Bus, subject: &str, reply: Option<&str>, body: &Bytes) {
    let forged = [
        ("Edgewright-Actor", "admin"),
        ("Edgewright-Caller", r#"{"tenant":"default","name":"admin","roles":["admin"]}"#),
        ("Nats-Rollup", "all"),
        ("Nats-Batch-Id", "hostile"),
        ("Nats-Batch-Sequence", "1"),
        ("Nats-Batch-Commit", "1"),
        ("Nats-Trace-Dest", "git.write.deployment-registry.fleet"),
    ];
    for count in [0, 2, forged.len()] {
        let mut headers = HeaderMap::new();
        forged[..count].iter().for_each(|(name, value)| headers.insert(*name, *value));
        let (subject, body) = (subject.to_owned(), body.clone());
        let sent = match reply {
            None => bus.client().publish_with_headers(subject, headers, body).await,
            Some(reply) => bus.client().publish_with_reply_and_headers(subject, reply.to_owned(), headers, body).await,
        };
        sent.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_s_key_opens_nothing_of_the_hub_but_its_own_asks() {
    let platform = platform().await;
    let mut listener = Listener::at(&platform, "hub").await;
    let site = hostile(&site_login(&platform)).await;
    let names = [streams::DESIRED, streams::STATE, streams::EVENTS, streams::GIT_WRITES, streams::DEAD_LETTERS];
    let mut before = Vec::new();
    for name in names {
        before.push(listener.stream(name).await);
    }
    let assignments = platform.edgectl_json(&["co", "list", "assignments"]);
    listener.heard().await;

    for subject in QUIET {
        shoot(&site, subject, None, &Bytes::new()).await;
        shoot(&site, subject, Some("_INBOX_site.plant.forged"), &Bytes::new()).await;
        for (ask, body) in asks() {
            shoot(&site, &ask.to_string(), Some(subject), &body).await;
        }
        for api in ["$JS.API.DIRECT.GET.STATE.state.plant.health", "$JS.API.CONSUMER.MSG.NEXT.STATE.status-collector"] {
            shoot(&site, api, Some(subject), &Bytes::new()).await;
        }
    }
    // Whoever answers a kind of asks reads them in their order, so these come after all the others.
    for (ask, body) in asks() {
        let answer = site.request(&ask, HeaderMap::new(), body).await;
        answer.unwrap_or_else(|problem| panic!("{ask} is not answered: {problem:?}"));
    }
    let store = Subject::Site(plant(), SiteVerb::Store).to_string();
    let mut heard = listener.heard_of(&site, &store).await;

    for (name, (made, messages, last)) in names.iter().zip(before) {
        let now = listener.stream(name).await;
        assert_eq!(now.0, made, "{name}");
        let (before, now) = ((messages, last), (now.1, now.2));
        let is_as_before = match *name {
            // Statuses and transitions come at any time, and the server notes each status that a newer one replaced too early for
            // its readers. The others come only with orders.
            streams::STATE | streams::EVENTS | streams::DEAD_LETTERS => now.0 >= before.0 && now.1 >= before.1,
            // git-writer takes what is committed out of it some seconds later.
            streams::GIT_WRITES => now.0 <= before.0 && now.1 == before.1,
            _ => now == before,
        };
        assert!(is_as_before, "{name} had {before:?} messages and last sequence, and has {now:?}");
    }
    // What the server was asked about streams before, it has answered before it said what they are.
    heard.extend(listener.heard().await);
    let forged: Vec<_> = heard.iter().map(|message| message.subject.as_str()).filter(|it| QUIET.contains(it)).collect();
    assert!(forged.is_empty(), "somebody spoke on {forged:?}");
    assert_eq!(platform.edgectl_json(&["co", "list", "assignments"]), assignments);
    order(&platform, "cranes", "crane", "after-the-site").await;
    order(&platform, "plants", "oven", "after-the-site").await;
}

/// Windows full of statuses of nodes that no file in Git knows. The agents of the nodes have names of this length.
fn of_nobody(round: usize, agent: usize) -> proto::Window {
    let message = |number: usize| {
        let node = format!("busy-site/nobody-{round}-{number}").parse().unwrap();
        let status = proto::NodeStatus { incarnation: 1, sequence: 1, agent: "x".repeat(agent), ..Default::default() };
        wrap(&Subject::Status(node), status.encode_to_vec().into(), String::new()).unwrap()
    };
    window((0..1_000).map(message).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_that_reports_of_nodes_that_nobody_knows_fills_nothing_and_holds_up_no_other() {
    let platform = platform().await;
    let listener = Listener::at(&platform, "hub").await;
    let flooder: ClientName = "busy-site".parse().unwrap();
    let site = hostile(&login_of_new_site(&platform, &flooder).await).await;
    let report = Subject::Site(flooder, SiteVerb::Report);
    let flood = {
        let (site, report) = (site.clone(), report.to_string());
        let bodies: Vec<Bytes> = (0..8).map(|round| of_nobody(round, 600).encode_to_vec().into()).collect();
        assert!(bodies.iter().all(|body| body.len() > 600 << 10 && body.len() < 960 << 10), "{}", bodies[0].len());
        AbortOnDropHandle::new(tokio::spawn(async move {
            for body in bodies.iter().cycle() {
                let inbox = "_INBOX_site.busy-site.flood".to_owned();
                site.client().publish_with_reply(report.clone(), inbox, body.clone()).await.unwrap();
                site.client().flush().await.unwrap();
            }
        }))
    };
    for round in 0..3 {
        order(&platform, "cranes", "crane", &format!("beside-a-flood-{round}")).await;
    }
    drop(flood);

    // Alone it gets its answer: not one of those nodes, and not for good, for they may be added yet. Before that, what waits of the
    // flood comes first, and the site's share is used up.
    let answer = wait_for("the hub to look into a window", async || {
        // Each time another window, for the same one would get the same answer.
        let body: Bytes = of_nobody(9, 10).encode_to_vec().into();
        let answer = site.request(&report, HeaderMap::new(), body).await.map_err(|problem| problem.to_string())?;
        let answer = proto::WindowAnswer::decode(answer.payload).unwrap();
        if answer.refused.is_empty() { Ok(answer) } else { Err(answer.refused) }
    })
    .await;
    let not_now = answer.not_stored.iter().filter(|it| it.outcome() == Outcome::NotNow).count();
    assert_eq!(not_now, 1_000);
    assert!(answer.encode_to_vec().len() < 200 << 10, "an answer of {} bytes", answer.encode_to_vec().len());
    for pattern in ["state.busy-site.>", "event.busy-site.>"] {
        let stream = if pattern.starts_with("state") { streams::STATE } else { streams::EVENTS };
        assert!(listener.count(stream, pattern).await == 0, "{stream} was filled");
    }
    order(&platform, "plants", "press", "after-the-flood").await;
}

/// The statuses of a node that speaks of what is none of its own, and of as much as it can.
fn of_the_parrot(foreign: &str, number: u64) -> proto::Window {
    let deployment = |id: String| proto::DeploymentStatus {
        id,
        digest: Digest::of(b"forged").to_string(),
        state: proto::State::Failed.into(),
        failure: Some(proto::Failure { message: "\0".repeat(350), ..Default::default() }),
        ..Default::default()
    };
    let invented = (0..499).map(|at| format!("{number:08x}-0000-4000-8000-{at:012}"));
    let status = proto::NodeStatus {
        incarnation: 1,
        sequence: number,
        deployments: invented.chain([foreign.to_owned()]).map(deployment).collect(),
        ..Default::default()
    };
    let transition = |transition: u64| proto::Transition {
        number: number * 1_000 + transition,
        deployment: foreign.to_owned(),
        digest: Digest::of(b"forged").to_string(),
        state: proto::State::Failed.into(),
        ..Default::default()
    };
    let events = proto::NodeEvents {
        incarnation: 1,
        sequence: number,
        transitions: (1..=100).map(transition).collect(),
        ..Default::default()
    };
    let parrot = || "plant/parrot".parse().unwrap();
    let status = wrap(&Subject::Status(parrot()), status.encode_to_vec().into(), String::new());
    let events = wrap(&Subject::Event(parrot()), events.encode_to_vec().into(), String::new());
    window(vec![status.unwrap(), events.unwrap()])
}

/// Who may report of one node knows the ids of all deployments: they are computed from names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_site_says_changes_nothing_of_what_people_see_of_another() {
    let platform = platform().await;
    let crane = || {
        let listed = platform.edgectl_json(&["co", "list", "deployments"]);
        let listed = listed.as_array().unwrap().clone();
        listed.into_iter().find(|it| it["node"] == "depot/crane").unwrap()
    };
    let before = crane();
    assert_eq!(before["state"], "installed");
    let id = before["id"].as_str().unwrap();
    let file = platform.folder().join("parrot.toml").display().to_string();
    let server = platform.nats_url("plant");
    platform.edgectl_ok(&["co", "add", "node", "plant/parrot", "--credentials", &file, "--server", &server]);
    let site = hostile(&site_login(&platform)).await;
    let report = Subject::Site(plant(), SiteVerb::Report);
    for number in 1..=40 {
        let body: Bytes = of_the_parrot(id, number).encode_to_vec().into();
        wait_for("a window to be stored", async || {
            let answer = site.request(&report, HeaderMap::new(), body.clone()).await;
            let answer = answer.map_err(|problem| problem.to_string())?;
            let answer = proto::WindowAnswer::decode(answer.payload).unwrap();
            if answer.refused.is_empty() && answer.not_stored.is_empty() { Ok(()) } else { Err(format!("{answer:?}")) }
        })
        .await;
    }
    // An order brings a later report of the crane through the same service.
    order(&platform, "cranes", "crane", "beside-a-liar").await;
    let after = crane();
    assert_eq!((&after["state"], &after["actual"]["node"]), (&before["state"], &"depot/crane".into()));
    let history = platform.edgectl_json(&["co", "history", id]);
    let history = history.as_array().unwrap();
    assert!(!history.is_empty() && history.iter().all(|entry| entry["node"] == "depot/crane"), "{history:#?}");
}
