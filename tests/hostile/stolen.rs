//! What a stolen key of one node costs its site and the hub, when it is used as far as it goes.

use std::fs;

use async_nats::HeaderMap;
use bus::{
    Bus, NodeVerb, Subject, proto,
    report::{MAX_DEPLOYMENTS, MAX_REPORT},
    streams,
};
use end_to_end::Platform;
use margo::Digest;
use prost::Message as _;
use serde_json::Value;
use testkit::wait_for;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    site::register,
    world::{Listener, ghost, ghost_login, hostile, order, platform},
};

/// A report that is well formed and nearly as long as one may be.
fn longest(incarnation: u64, sequence: u64) -> proto::ReportRequest {
    let room = (MAX_REPORT - 1_024) / MAX_DEPLOYMENTS - 150;
    let deployment = |number: usize| proto::DeploymentStatus {
        id: format!("00000000-0000-4000-8000-{number:012}"),
        digest: Digest::of(b"").to_string(),
        state: proto::State::Failed.into(),
        failure: Some(proto::Failure { message: "x".repeat(room), ..Default::default() }),
        ..Default::default()
    };
    let deployments = (0..MAX_DEPLOYMENTS).map(deployment).collect();
    let status = proto::NodeStatus { incarnation, sequence, deployments, ..Default::default() };
    proto::ReportRequest { status: Some(status), ..Default::default() }
}

/// Reports without pause, each report the next one and as long as it may be.
fn report_on(node: &Bus, incarnation: u64) -> AbortOnDropHandle<()> {
    let node = node.clone();
    AbortOnDropHandle::new(tokio::spawn(async move {
        for sequence in 1.. {
            let body = longest(incarnation, sequence).encode_to_vec();
            let subject = Subject::Node(ghost(), NodeVerb::Report);
            // Some are answered, others are over its budget or its share.
            let _ = node.request(&subject, HeaderMap::new(), body.into()).await;
        }
    }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_reports_as_much_as_it_may_holds_up_no_other() {
    let platform = platform().await;
    let node = hostile(&ghost_login(&platform).await).await;
    let incarnation = register(&node).await.incarnation;
    let flood = report_on(&node, incarnation);
    for round in 0..3 {
        order(&platform, "plants", "press", &format!("beside-long-reports-{round}")).await;
    }
    assert!(!flood.is_finished(), "the flood went on all the time");
}

/// The deployment on the node of the other site, as people see it.
fn of_the_crane(platform: &Platform) -> Value {
    let list = platform.edgectl_ok(&["co", "list", "deployments", "-o", "json"]);
    let list: Vec<Value> = serde_json::from_str(&list).unwrap();
    list.into_iter().find(|deployment| deployment["node"] == "depot/crane").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_says_of_the_deployments_of_others_is_shown_to_nobody() {
    let platform = platform().await;
    order(&platform, "cranes", "crane", "before-the-forgery").await;
    let before = of_the_crane(&platform);
    assert_eq!(before["state"], "installed", "{before}");
    let node = hostile(&ghost_login(&platform).await).await;
    let incarnation = register(&node).await.incarnation;
    let forged = proto::DeploymentStatus {
        id: before["id"].as_str().unwrap().to_owned(),
        digest: before["digest"].as_str().unwrap().to_owned(),
        state: proto::State::Failed.into(),
        failure: Some(proto::Failure { message: "send it back".to_owned(), ..Default::default() }),
        ..Default::default()
    };
    let status = proto::NodeStatus { incarnation, sequence: 1, deployments: vec![forged], ..Default::default() };
    let body = proto::ReportRequest { status: Some(status), ..Default::default() }.encode_to_vec();
    let answer = node.request(&Subject::Node(ghost(), NodeVerb::Report), HeaderMap::new(), body.into()).await.unwrap();
    assert!(proto::ReportAnswer::decode(answer.payload).unwrap().stored);
    let stream = Listener::at(&platform, "hub").await.bus.jetstream().get_stream_no_info(streams::STATE).await.unwrap();
    wait_for("the hub to have the report", async || {
        let held = stream.direct_get_last_for_subject(Subject::Status(ghost()).to_string()).await;
        let held = bus::report::status(&held.map_err(|error| error.to_string())?.payload).unwrap();
        if held.position.incarnation == incarnation { Ok(()) } else { Err(format!("{:?}", held.position)) }
    })
    .await;
    // What the press reports after that is copied after that.
    order(&platform, "plants", "press", "after-the-forgery").await;
    let after = of_the_crane(&platform);
    assert_eq!((&after["state"], &after["actual"]["node"]), (&before["state"], &before["node"]), "{after}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_may_not_do_fills_no_log() {
    let platform = platform().await;
    let node = hostile(&ghost_login(&platform).await).await;
    let logs = platform.site("plant").join("nats");
    for _ in 0..400_000 {
        node.client().publish("desired.plant.head", "x".into()).await.unwrap();
    }
    order(&platform, "plants", "press", "after-many-violations").await;
    let logs: Vec<_> = fs::read_dir(logs).unwrap().map(|entry| entry.unwrap().path()).collect();
    let logs = logs.iter().filter(|path| path.file_name().unwrap().to_string_lossy().contains("log"));
    let bytes: u64 =
        logs.chain([&platform.folder().join("plant.nats.log")]).map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!((16 << 20..=70 << 20).contains(&bytes), "{bytes} bytes of logs");
}
