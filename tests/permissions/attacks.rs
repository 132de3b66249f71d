//! What a hostile client tries: pure data, made from the enums of subjects and users.

use async_nats::HeaderMap;
use bus::{CallId, NodeVerb, SiteVerb, Subject, Tier, User};

use crate::users::{
    CONSUMERS, May, everybody, expected, expected_elsewhere, kept_there, other, oven, press, requests, subjects,
};

/// The header that names the attack, so that whatever is heard can be laid at somebody's door. Nobody reads it.
pub const ATTACK: &str = "Attack";

/// A subject, and what the user may do with it.
#[derive(Clone, Debug)]
pub struct Target {
    pub subject: String,
    pub may: May,
}

/// One message that a hostile client sends.
#[derive(Clone, Debug)]
pub struct Shot {
    /// What is tried, for whoever reads a failure.
    pub name: String,
    pub subject: String,
    pub reply: Option<String>,
    pub headers: Vec<(&'static str, &'static str)>,
}

impl Shot {
    pub fn headers(&self, number: usize) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ATTACK, number.to_string());
        self.headers.iter().for_each(|(name, value)| headers.insert(*name, *value));
        headers
    }
}

/// Headers by which a message does more than to be a message, and those that a program of ours might believe.
const HEADERS: [(&str, &[(&str, &str)]); 19] = [
    ("a plain message", &[]),
    ("an open batch", &[("Nats-Batch-Id", "hostile"), ("Nats-Batch-Sequence", "1")]),
    ("a batch", &[("Nats-Batch-Id", "whole"), ("Nats-Batch-Sequence", "1"), ("Nats-Batch-Commit", "1")]),
    ("a roll-up of the subject", &[("Nats-Rollup", "sub")]),
    ("a roll-up of the stream", &[("Nats-Rollup", "all")]),
    ("a time to live", &[("Nats-TTL", "1s")]),
    ("a message id", &[("Nats-Msg-Id", "1")]),
    ("an expected stream", &[("Nats-Expected-Stream", "STATE")]),
    ("an expected sequence", &[("Nats-Expected-Last-Sequence", "0")]),
    ("an expected sequence of the subject", &[("Nats-Expected-Last-Subject-Sequence", "0")]),
    ("an expected message id", &[("Nats-Expected-Last-Msg-Id", "1")]),
    ("a schedule", &[("Nats-Schedule", "@at 2000-01-01T00:00:00Z"), ("Nats-Schedule-Target", "desired.other.head")]),
    (
        "a schedule that repeats",
        &[("Nats-Schedule", "@every 1s"), ("Nats-Schedule-Target", "git.write.git-writer.fleet")],
    ),
    ("a counter", &[("Nats-Incr", "+1")]),
    ("a trace to elsewhere", &[("Nats-Trace-Dest", "call.other.press.ping")]),
    (
        "a trace to the server's interface",
        &[("Nats-Trace-Dest", "$JS.API.STREAM.PURGE.OTHER"), ("Nats-Trace-Only", "true")],
    ),
    ("a forged actor", &[("Edgewright-Actor", "admin")]),
    ("a forged caller", &[("Edgewright-Caller", r#"{"tenant":"default","name":"admin","roles":["admin"]}"#)]),
    ("a promise of more", &[("Edgewright-More", "1000")]),
];

/// The server's own interfaces, as far as the user may not use them.
fn server_interfaces(user: &User) -> Vec<String> {
    let mut all = Vec::new();
    for stream in ["DESIRED", "STATE", "EVENTS", "GIT_WRITES", "DEAD_LETTERS"] {
        let of_streams = [
            "CREATE",
            "UPDATE",
            "DELETE",
            "PURGE",
            "MSG.DELETE",
            "RESTORE",
            "LEADER.STEPDOWN",
            "PEER.REMOVE",
            "MSG.GET",
            "SNAPSHOT",
            "INFO",
        ];
        all.extend(of_streams.map(|api| format!("$JS.API.STREAM.{api}.{stream}")));
        // These belong to the stream as a whole, and those below to one consumer of it.
        let of_consumers =
            ["CREATE", "DURABLE.CREATE", "DELETE", "INFO", "NAMES", "LIST", "MSG.NEXT", "UNPIN", "PAUSE", "RESET"];
        all.extend(of_consumers.map(|api| format!("$JS.API.CONSUMER.{api}.{stream}")));
        all.push(format!("$JS.API.DIRECT.GET.{stream}"));
        for consumer in CONSUMERS {
            all.push(format!("$JS.ACK._._.{stream}.{consumer}.1.1.1.1.0"));
            all.push(format!("$JS.ACK.{stream}.{consumer}.1.1.1.1.0"));
            all.push(format!("$JS.FC.{stream}.{consumer}.1"));
            for api in of_consumers {
                all.push(format!("$JS.API.CONSUMER.{api}.{stream}.{consumer}"));
                all.push(format!("$JS.API.CONSUMER.{api}.{stream}.{consumer}.>"));
            }
        }
        for node in [press(), oven(), other()] {
            all.push(format!("$JS.API.DIRECT.GET.{stream}.{}", kept_there(stream, node)));
        }
    }
    let may = requests(user);
    all.retain(|request| !may.contains(request));
    let of_nobody = [
        "$JS.API.INFO",
        "$JS.API.STREAM.NAMES",
        "$JS.API.STREAM.LIST",
        "$JS.API.STREAM.CREATE.HOSTILE",
        "$JS.API.STREAM.TEMPLATE.CREATE.HOSTILE",
        "$JS.API.ACCOUNT.PURGE.A",
        "$JS.API.META.LEADER.STEPDOWN",
        "$JS.API.SERVER.REMOVE",
        "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.STATE.reader",
        "$SYS.REQ.SERVER.PING",
        "$SYS.REQ.SERVER.PING.VARZ",
        "$SYS.REQ.USER.INFO",
        "$SYS.ACCOUNT.A.CONNECT",
        "$KV.bucket.key",
        "$O.bucket.C.chunk",
        "$NRG.V.GROUP",
        "_R_.reply",
        "nobody",
    ];
    all.extend(of_nobody.map(str::to_owned));
    all
}

/// An inbox of everybody at this server, and of those that are not there themselves.
fn inboxes(tier: Tier) -> Vec<String> {
    let mut users = everybody(tier);
    users.extend([User::Site(other().client), User::Node(oven()), User::Node(other())]);
    let mut all: Vec<_> = users.iter().map(|user| format!("{}.abc", user.inbox_prefix())).collect();
    all.push("_INBOX.abc".to_owned());
    all.sort();
    all.dedup();
    all
}

/// Every subject that there is at this server, with what the user may do with it.
pub fn targets(tier: Tier, user: &User) -> Vec<Target> {
    let platform = subjects().into_iter().map(|subject| {
        let may = expected(user, &subject);
        Target { subject: subject.to_string(), may }
    });
    let discovery = ["$SRV.PING", "$SRV.INFO.git-writer", "$SRV.STATS"].map(str::to_owned);
    let elsewhere = inboxes(tier).into_iter().chain(discovery).map(|subject| {
        let may = expected_elsewhere(user, &subject);
        Target { subject, may }
    });
    let server = server_interfaces(user).into_iter();
    let server = server.map(|subject| Target { subject, may: May { publish: false, subscribe: false } });
    platform.chain(elsewhere).chain(server).collect()
}

/// Every subject with every kind of header.
pub fn publishes(targets: &[Target]) -> Vec<Shot> {
    let shots = |target: &Target| {
        let subject = target.subject.clone();
        HEADERS.map(|(name, headers)| Shot {
            name: name.to_owned(),
            subject: subject.clone(),
            reply: None,
            headers: headers.to_vec(),
        })
    };
    targets.iter().flat_map(shots).collect()
}

/// Asks whose answer shall go to somebody else: to every subject but the own inboxes, and to what only looks like an own one.
/// They are asked of those who answer the tier below, and of the server itself.
pub fn forged_asks(user: &User, targets: &[Target]) -> Vec<Shot> {
    let inbox = user.inbox_prefix();
    let mut replies: Vec<_> = targets.iter().map(|target| target.subject.clone()).collect();
    replies.retain(|reply| !reply.starts_with(&format!("{inbox}.")) && !reply.contains('>'));
    let looks_like_one =
        ["", ".", "..a", ".a..b", ".a.", ".*", ".>", ".a.*", ".a.b.c.d", ".a-b", ".a_b", ".$JS", "x.a", ".\u{e4}"];
    replies.extend(looks_like_one.map(|rest| format!("{inbox}{rest}")));
    let mut asked = own_asks(user);
    asked.extend(
        ["$JS.API.DIRECT.GET.STATE.state.plant.node.press.status", "$JS.API.CONSUMER.MSG.NEXT.STATE.reader"]
            .map(str::to_owned),
    );
    let shot = |subject: &String, reply: &String| Shot {
        name: format!("an ask whose answer shall go to {reply:?}"),
        subject: subject.clone(),
        reply: Some(reply.clone()),
        headers: Vec::new(),
    };
    asked.iter().flat_map(|subject| replies.iter().map(move |reply| shot(subject, reply))).collect()
}

/// What the member may ask.
pub fn own_asks(user: &User) -> Vec<String> {
    // Whoever hears parts of answers knows the calls that they belong to; the server does not.
    let call: CallId = "0".repeat(32).parse().unwrap();
    let asks: Vec<_> = match user {
        User::Site(client) => {
            let asks = SiteVerb::ALL.iter().map(|verb| Subject::Site(client.clone(), *verb));
            asks.chain([Subject::SitePart(client.clone(), call)]).collect()
        }
        User::Node(node) => {
            let asks = NodeVerb::ALL.iter().map(|verb| Subject::Node(node.clone(), *verb));
            asks.chain([Subject::NodePart(node.clone(), call)]).collect()
        }
        _ => Vec::new(),
    };
    asks.iter().map(Subject::to_string).collect()
}

/// What is subscribed: every subject by itself, and wildcards that take in what no single subject shows.
pub fn subscriptions(tier: Tier, targets: &[Target]) -> Vec<String> {
    let mut all: Vec<_> = targets.iter().map(|target| target.subject.clone()).collect();
    let wildcards = [
        ">",
        "*",
        "*.>",
        "*.*",
        "*.*.>",
        "*.*.*",
        "*.*.*.*",
        "*.*.*.*.*",
        "*.plant.>",
        "*.plant.node.*",
        "desired.>",
        "desired.plant.>",
        "changed.>",
        "changed.*.>",
        "changed.plant.>",
        "changed.plant.node.*",
        "changed.*.node.press",
        "state.>",
        "event.>",
        "site.>",
        "site.*.report",
        "site.plant.>",
        "node.>",
        "node.*.*.report",
        "node.plant.>",
        "node.plant.press.>",
        "node.plant.*.report",
        "call.>",
        "call.*.*.ping",
        "call.plant.>",
        "call.plant.*.ping",
        "call.*.press.>",
        "git.>",
        "git.write.>",
        "git.committed.>",
        "svc.>",
        "svc.*.>",
        "svc.git-writer.>",
        "_INBOX.>",
        "_INBOX_svc.>",
        "_INBOX_svc.*.>",
        "_INBOX_site.>",
        "_INBOX_site.*.>",
        "_INBOX_site.other.>",
        "_INBOX_site.plant.>",
        "_INBOX_node.>",
        "_INBOX_node.*.>",
        "_INBOX_node.plant.>",
        "_INBOX_node.plant.*.>",
        "_INBOX_node.plant.oven.>",
        "_INBOX_node.other.press.>",
        "$SYS.>",
        "$JS.>",
        "$JS.API.>",
        "$JS.ACK.>",
        "$JS.EVENT.>",
        "$SRV.>",
        "_R_.>",
        "$*.>",
    ];
    all.extend(wildcards.map(str::to_owned));
    for user in everybody(tier) {
        all.push(format!("{}.>", user.inbox_prefix()));
        all.push(format!("{}.*", user.inbox_prefix()));
    }
    all.sort();
    all.dedup();
    all
}

/// Whose inboxes a front of this tier may write when nothing but the server stands in its way.
pub fn inboxes_below(tier: Tier) -> &'static str {
    match tier {
        Tier::Hub => "_INBOX_site.",
        Tier::Site => "_INBOX_node.",
    }
}
