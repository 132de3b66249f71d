//! What a process takes in memory for what it is sent.

use bus::{
    Bus, CallId, NodeVerb, SiteVerb, Subject, proto,
    report::{MAX_REPORT, MAX_WINDOW, PROTOCOL, new_session},
};
use bytes::Bytes;
use margo::{ClientName, NodeId};
use prost::Message as _;
use testkit::wait_for;

use crate::world::{forget_memory, hostile, login_of_new_node, login_of_new_site, most_memory, platform};

/// The most that a process of ours may take beyond what it has: a part of what one message of 8 MiB with empty entries once
/// took, and enough for all that may wait in its queues.
const MOST: u64 = 128 << 20;

/// The same for a NATS server, which holds up to 64 MiB for each connection that does not read as fast as others send.
const MOST_OF_A_SERVER: u64 = 384 << 20;

/// This many bytes of entries of nothing in the field of this number.
fn empty_entries(field: u8, bytes: usize) -> Bytes {
    [field << 3 | 2, 0].repeat(bytes / 2).into()
}

/// The same within a message in another field.
fn within(outer: u8, field: u8, bytes: usize) -> Bytes {
    let inner = empty_entries(field, bytes - 8);
    let mut all = vec![outer << 3 | 2];
    prost::encoding::encode_varint(inner.len() as u64, &mut all);
    all.extend(inner);
    all.into()
}

async fn send(bus: &Bus, subject: &Subject, inbox: &str, bodies: &[Bytes]) {
    for body in bodies.iter().cycle().take(200) {
        bus.client().publish_with_reply(subject.to_string(), inbox.to_owned(), body.clone()).await.unwrap();
        bus.client().flush().await.unwrap();
    }
}

/// Sends on until the process answers a proper ask, which comes after all the others.
async fn answered(bus: &Bus, subject: &Subject, body: Bytes) {
    wait_for(&format!("{subject} to be answered after all that"), async || {
        let answer = bus.request(subject, async_nats::HeaderMap::new(), body.clone()).await;
        answer.map(drop).map_err(|problem| format!("{problem:?}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_sites_and_nodes_send_never_takes_much_memory() {
    let mut platform = platform().await;
    let names = [
        "plant.local-orchestrator",
        "plant.nats",
        "status-collector",
        "git-observer",
        "app-registry",
        "api-gateway",
        "hub-nats",
    ];
    let pids = names.map(|name| platform.process(name).id());
    pids.into_iter().for_each(forget_memory);
    let before = pids.map(most_memory);

    let flooder: NodeId = "plant/hungry".parse().unwrap();
    let node = hostile(&login_of_new_node(&platform, &flooder).await).await;
    let reports = [
        empty_entries(5, MAX_REPORT),
        within(1, 4, MAX_REPORT),
        within(1, 5, MAX_REPORT),
        within(3, 3, MAX_REPORT),
        // As long as the server lets through: too long for a report, so nobody looks into it.
        empty_entries(5, (1 << 20) - 256),
        within(3, 3, (1 << 20) - 256),
    ];
    let asks = NodeVerb::ALL.iter().map(|verb| Subject::Node(flooder.clone(), *verb));
    for ask in asks.chain([Subject::NodePart(flooder.clone(), CallId::random())]) {
        send(&node, &ask, "_INBOX_node.plant.hungry.flood", &reports).await;
    }
    answered(&node, &Subject::Node(flooder, NodeVerb::Report), Bytes::new()).await;

    let flooder: ClientName = "hungry-site".parse().unwrap();
    let site = hostile(&login_of_new_site(&platform, &flooder).await).await;
    let head = proto::Window { protocol: PROTOCOL, session: new_session(), number: 1, ..Default::default() };
    let head = head.encode_to_vec();
    let windows = [
        [&head[..], &empty_entries(6, MAX_WINDOW - 128)].concat().into(),
        empty_entries(6, MAX_WINDOW),
        within(6, 3, MAX_WINDOW),
        empty_entries(4, 64 << 10),
        within(4, 4, 64 << 10),
        empty_entries(6, (1 << 20) - 256),
        // A list in a list in a list, as far as it goes.
        Bytes::from("[".repeat(4 << 10)),
    ];
    let asks = SiteVerb::ALL.iter().map(|verb| Subject::Site(flooder.clone(), *verb));
    for ask in asks.chain([Subject::SitePart(flooder.clone(), CallId::random())]) {
        send(&site, &ask, "_INBOX_site.hungry-site.flood", &windows).await;
    }
    let ask_for = |verb| Subject::Site(flooder.clone(), verb);
    answered(&site, &ask_for(SiteVerb::Store), "null".into()).await;
    let window = proto::Window { protocol: PROTOCOL, session: new_session(), number: 1, ..Default::default() };
    answered(&site, &ask_for(SiteVerb::Report), window.encode_to_vec().into()).await;
    let ask = proto::DesiredAsk { protocol: PROTOCOL, ..Default::default() };
    answered(&site, &ask_for(SiteVerb::Desired), ask.encode_to_vec().into()).await;

    for ((name, pid), before) in names.iter().zip(pids).zip(before) {
        let more = most_memory(pid).saturating_sub(before);
        println!("{name}: {} MiB, and then {} MiB more", before >> 20, more >> 20);
        let most = if name.ends_with("nats") { MOST_OF_A_SERVER } else { MOST };
        assert!(more < most, "{name} took {} MiB more than {} MiB", more >> 20, before >> 20);
    }
}
