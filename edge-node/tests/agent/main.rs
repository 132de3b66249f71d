//! The agent on a real NATS server with the permissions of production.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod agent;
mod double;
mod site;
#[path = "../../src/testing.rs"]
mod testing;

use std::{collections::BTreeMap, fs, sync::Arc};

use agent::Agent;
use axum::{Router, extract::Path as UrlPath, routing::get};
use bus::proto;
use double::Double;
use edge_node::SpanBuffer;
use margo::{Digest, State};
use oci::media;
use runtime::Condition;
use site::{Answers, Site};
use tempfile::TempDir;
use testing::{deployment, entry, node};
use testkit::wait_for;

/// A site, a node's disk, its runtime and its agent.
async fn start() -> (Site, TempDir, Arc<Double>, Agent) {
    let site = Site::start().await;
    let (data, runtime) = (TempDir::new().unwrap(), Double::new());
    let agent = Agent::start(&site, data.path(), &runtime, SpanBuffer::default());
    (site, data, runtime, agent)
}

/// The same with one deployment that runs at version 1.
async fn start_with_hello() -> (Site, TempDir, Arc<Double>, Agent, proto::DesiredDeployment) {
    let (site, data, runtime, agent) = start().await;
    let hello = entry(&deployment("hello", site.artifact(b"component").await));
    site.desire(1, vec![hello.clone()]).await;
    site.state(1, State::Installed).await;
    (site, data, runtime, agent, hello)
}

fn refusals(report: &proto::ReportRequest) -> Vec<&str> {
    report.status.iter().flat_map(|status| &status.refusals).map(|refusal| refusal.reason.as_str()).collect()
}

/// The incarnations with which the node registered, each once: on a busy machine an answer may come too late.
fn registered(site: &Site) -> Vec<u64> {
    let mut incarnations = site.registrations();
    incarnations.dedup();
    incarnations
}

#[tokio::test]
async fn an_order_is_fetched_started_and_reported() {
    let (site, _data, runtime, agent, hello) = start_with_hello().await;
    let starts = runtime.starts();
    assert_eq!(starts.len(), 1);
    assert_eq!(starts[0].environment, BTreeMap::from([("GREETING".to_owned(), "120".to_owned())]));
    assert_eq!(starts[0].settings, serde_json::json!({ "http": { "port": 8080 } }));
    assert_eq!(fs::read(&starts[0].artifact).unwrap(), b"component");
    assert_eq!(starts[0].artifact_digest, Digest::of(b"component"));

    let status = site.state(1, State::Installed).await;
    assert_eq!((status.id, status.digest, status.adopted_manifest_version), (hello.id, hello.digest, 1));
    assert_eq!(status.components[0].endpoint, "http://127.0.0.1:8080/");
    let transitions = site.transitions();
    assert!(transitions.iter().enumerate().all(|(at, it)| it.number == at as u64 + 1), "{transitions:?}");
    assert_eq!(transitions.last().unwrap().state(), proto::State::Installed);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn dev_09_capabilities_come_with_the_first_report_and_not_again() {
    let (site, _data, _runtime, agent, _hello) = start_with_hello().await;
    let reports = site.reports();
    let document = &reports.iter().find_map(|(report, _)| report.capabilities.as_ref()).unwrap().document;
    let document: serde_json::Value = serde_json::from_slice(document).unwrap();
    assert_eq!(document["properties"]["id"], "plant/press");
    assert_eq!(reports.iter().filter(|(report, _)| report.capabilities.is_some()).count(), 1);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn dev_14_and_15_what_may_not_be_is_refused_visibly_and_the_last_state_stays() {
    let (site, _data, runtime, agent, hello) = start_with_hello().await;
    site.desire(2, vec![hello.clone()]).await;
    site.state(2, State::Installed).await;

    site.desire(1, vec![]).await;
    site.report_after(0, "the older version to be refused", |report| {
        refusals(report).iter().any(|reason| reason.contains("version 1 is older than version 2"))
    })
    .await;
    let wrong = proto::DesiredDeployment { digest: Digest::of(b"wrong").to_string(), ..hello.clone() };
    site.desire(3, vec![wrong]).await;
    site.report_after(0, "the wrong digest to be refused", |report| {
        refusals(report).iter().any(|reason| reason.contains("has the digest"))
    })
    .await;
    assert_eq!(site.statuses().last().unwrap().version, 2);
    assert_eq!((runtime.components(), runtime.starts().len()), (vec!["hello".to_owned()], 1));
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_message_that_does_not_decode_is_refused_and_the_next_one_counts() {
    let (site, _data, _runtime, agent, hello) = start_with_hello().await;
    let garbage = bus::Outgoing::new(bus::Subject::DesiredNode(node()), "garbage".into());
    site.bus.publish_batch(vec![garbage]).await.unwrap();
    site.report_after(0, "the garbage to be refused", |report| {
        refusals(report).iter().any(|reason| reason.contains("does not decode"))
    })
    .await;
    site.desire(2, vec![hello]).await;
    site.state(2, State::Installed).await;
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_node_that_boots_without_a_network_runs_what_its_disk_says() {
    let (mut site, data, _runtime, agent, _hello) = start_with_hello().await;
    agent.stop().await.unwrap();
    site.nats.kill().await;
    let rebooted = Double::new();
    let agent = Agent::start(&site, data.path(), &rebooted, SpanBuffer::default());
    wait_for("the workload to be started", async || match rebooted.starts().len() {
        1 => Ok(()),
        other => Err(other),
    })
    .await;
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_restart_of_the_agent_leaves_workloads_alone_and_makes_no_history() {
    let (site, data, runtime, agent, _hello) = start_with_hello().await;
    agent.stop().await.unwrap();
    let (told, before) = (site.transitions(), site.reports().len());
    // As a runtime shows a workload that it has not asked yet.
    runtime.set(&Condition::Starting);
    let agent = Agent::start(&site, data.path(), &runtime, SpanBuffer::default());
    site.report_after(before, "a report of the new agent", |_| true).await;
    runtime.set(&Condition::Running { endpoint: Some("http://127.0.0.1:8080/".to_owned()) });
    agent.stop().await.unwrap();
    assert_eq!(runtime.starts().len(), 1);
    assert_eq!(site.transitions(), told);
    assert_eq!(registered(&site), [0, 3]);
    assert!(site.statuses().iter().all(|status| status.incarnation == 3));
    assert!(site.statuses().is_sorted_by(|one, other| one.sequence < other.sequence));
}

#[tokio::test]
async fn a_report_that_was_not_answered_is_sent_again() {
    let (site, _data, runtime, agent, _hello) = start_with_hello().await;
    site.answers(Answers::Silence);
    let before = site.reports().len();
    runtime.set(&Condition::Failed { code: "exited".to_owned(), message: "status 1".to_owned() });
    let first = site.report_after(before, "a report that nobody answers", |_| true).await;
    site.answers(Answers::Stored);
    let again = site.report_after(before + 1, "the same once more", |_| true).await;
    assert_eq!(again.events.unwrap().transitions, first.events.unwrap().transitions);
    assert!(again.status.unwrap().sequence > first.status.unwrap().sequence);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn transitions_wait_while_the_site_has_no_room_for_them() {
    let (site, _data, runtime, agent, _hello) = start_with_hello().await;
    site.answers(Answers::EventsFull);
    let before = site.reports().len();
    runtime.set(&Condition::Failed { code: "exited".to_owned(), message: "status 1".to_owned() });
    let first = site.report_after(before, "a report", |_| true).await.events.unwrap();
    let again = site.report_after(before + 1, "another", |report| report.events.is_some()).await.events.unwrap();
    assert_eq!(again.transitions, first.transitions);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_new_state_stream_gets_everything() {
    let (site, _data, runtime, agent, _hello) = start_with_hello().await;
    let before = site.reports().len();
    site.new_state_stream("second");
    runtime.set(&Condition::Failed { code: "exited".to_owned(), message: "status 1".to_owned() });
    let whole = site.report_after(before, "capabilities", |report| report.capabilities.is_some()).await;
    assert_eq!(whole.status.unwrap().deployments.len(), 1);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn what_is_removed_stays_in_the_status_until_that_is_stored() {
    let (site, _data, runtime, agent, hello) = start_with_hello().await;
    site.answers(Answers::Silence);
    site.desire(2, vec![]).await;
    let removed = site.state(2, State::Removed).await;
    assert_eq!((removed.digest, removed.adopted_manifest_version), (hello.digest, 2));
    assert!(runtime.components().is_empty());
    let before = site.reports().len();
    site.answers(Answers::Stored);
    let stored = site.report_after(before, "the removal once more", |_| true).await;
    assert_eq!(stored.status.unwrap().deployments.len(), 1);
    site.desire(3, vec![]).await;
    site.report_after(before, "a status without it", |report| {
        report.status.as_ref().is_some_and(|status| status.version == 3 && status.deployments.is_empty())
    })
    .await;
    let states: Vec<_> = site.transitions().iter().map(proto::Transition::state).collect();
    assert!(states.contains(&proto::State::Removing) && states.contains(&proto::State::Removed), "{states:?}");
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn an_update_replaces_the_workload() {
    let (site, _data, runtime, agent, _hello) = start_with_hello().await;
    let update = entry(&deployment("hello", site.artifact(b"another component").await));
    site.desire(2, vec![update.clone()]).await;
    let status = site.state(2, State::Installed).await;
    assert_eq!((status.digest, status.adopted_manifest_version), (update.digest, 2));
    let starts = runtime.starts();
    assert_eq!(starts.len(), 2);
    assert_eq!(fs::read(&starts[1].artifact).unwrap(), b"another component");
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn an_artifact_that_is_not_there_yet_is_waited_for() {
    let (site, _data, _runtime, agent) = start().await;
    let manifest = Digest::of(&site::manifest(b"late component"));
    site.desire(1, vec![entry(&deployment("hello", manifest))]).await;
    site.report_after(0, "the reason", |report| {
        let deployments = report.status.iter().flat_map(|status| &status.deployments);
        deployments.filter_map(|it| it.failure.as_ref()).any(|failure| failure.code == "fetch-failed")
    })
    .await;
    assert!(site.statuses().iter().flat_map(|it| &it.deployments).all(|it| it.state() == proto::State::Installing));
    site.artifact(b"late component").await;
    site.state(1, State::Installed).await;
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn dev_28_an_artifact_with_another_content_is_never_started() {
    let mut site = Site::start().await;
    let manifest = site::manifest(b"component");
    let digest = Digest::of(&manifest);
    let answer = move |UrlPath(path): UrlPath<String>| async move {
        match path {
            path if path.contains("/manifests/") => manifest,
            path if path.ends_with(&Digest::of(media::EMPTY_CONFIG).to_string()) => media::EMPTY_CONFIG.to_vec(),
            _ => b"c0mponent".to_vec(),
        }
    };
    site.serve_instead(Router::new().route("/v2/{*path}", get(answer))).await;
    let (data, runtime) = (TempDir::new().unwrap(), Double::new());
    let agent = Agent::start(&site, data.path(), &runtime, SpanBuffer::default());
    site.desire(1, vec![entry(&deployment("hello", digest))]).await;
    let failure = site.state(1, State::Failed).await.failure.unwrap();
    assert_eq!((failure.code.as_str(), failure.source.as_str()), ("digest-mismatch", "hello"));
    assert!(runtime.starts().is_empty());
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn what_this_node_cannot_run_fails_with_its_reason() {
    let (site, _data, runtime, agent) = start().await;
    let mut foreign = deployment("hello", site.artifact(b"component").await);
    foreign
        .spec
        .profile
        .extensions
        .insert("x-edgewright-extensions".to_owned(), serde_json::json!({ "runtime": "jvm" }));
    site.desire(1, vec![entry(&foreign)]).await;
    assert_eq!(site.state(1, State::Failed).await.failure.unwrap().code, "unsupported");

    runtime.next(Err("x-edgewright-extensions: http.port is missing".to_owned()));
    site.desire(2, vec![entry(&deployment("hello", site.artifact(b"component").await))]).await;
    let failure = site.state(2, State::Failed).await.failure.unwrap();
    assert_eq!(failure.code, "invalid");
    assert!(failure.message.contains("http.port"), "{}", failure.message);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn dev_26_the_next_component_starts_when_the_one_before_runs() {
    let (site, _data, runtime, agent) = start().await;
    let manifest = site.artifact(b"component").await;
    let mut two = deployment("hello", manifest);
    let mut second = two.spec.profile.components[0].clone();
    second.name = "also".parse().unwrap();
    two.spec.profile.components.push(second);
    let lock = serde_json::json!({ "lock": { "components": { "hello": manifest, "also": manifest } } });
    two.spec.extensions.insert("x-edgewright-extensions".to_owned(), lock);
    runtime.next(Ok(Condition::Starting));
    site.desire(1, vec![entry(&two)]).await;
    let status = site.state(1, State::Installing).await;
    let states: Vec<_> = status.components.iter().map(|it| (it.name.as_str(), it.state())).collect();
    assert_eq!(states, [("hello", proto::State::Installing), ("also", proto::State::Pending)]);
    let running = Condition::Running { endpoint: None };
    wait_for("the first one to be started", async || match runtime.components() {
        components if components == ["hello"] => Ok(()),
        other => Err(other),
    })
    .await;
    runtime.next(Ok(running.clone()));
    runtime.set(&running);
    site.state(1, State::Installed).await;
    let order: Vec<_> = runtime.starts().iter().map(|start| start.id.component.to_string()).collect();
    assert_eq!(order, ["hello", "also"]);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_node_that_its_site_refuses_goes_on_and_says_so_at_the_end() {
    let (site, data, _runtime, agent, _hello) = start_with_hello().await;
    agent.stop().await.unwrap();
    site.answers(Answers::Refused);
    let rebooted = Double::new();
    let agent = Agent::start(&site, data.path(), &rebooted, SpanBuffer::default());
    wait_for("the refused registration and the start", async || {
        let seen = (site.registrations().len(), rebooted.starts().len());
        if seen.0 >= 3 && seen.1 == 1 { Ok(()) } else { Err(seen) }
    })
    .await;
    let error = agent.stop().await.unwrap_err();
    assert!(error.to_string().contains("the site refuses this node: incarnation 3 is over"), "{error:#}");
}

#[tokio::test]
async fn a_site_that_is_not_ready_is_asked_again() {
    let site = Site::start().await;
    site.answers(Answers::NotReady);
    let (data, runtime) = (TempDir::new().unwrap(), Double::new());
    let agent = Agent::start(&site, data.path(), &runtime, SpanBuffer::default());
    wait_for("the node to ask again", async || match site.registrations().len() {
        0 | 1 => Err("has not asked twice"),
        _ => Ok(()),
    })
    .await;
    assert!(site.reports().is_empty());
    site.answers(Answers::Stored);
    site.report_after(0, "a report", |report| report.status.as_ref().unwrap().incarnation == 3).await;
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_site_that_was_away_is_found_again() {
    let (mut site, _data, _runtime, agent, hello) = start_with_hello().await;
    site.nats.kill().await;
    site.nats.restart().await;
    site.desire(2, vec![hello]).await;
    site.state(2, State::Installed).await;
    assert_eq!(registered(&site), [0, 3]);
    agent.stop().await.unwrap();
}

#[test]
fn a_data_folder_has_one_agent() {
    let data = TempDir::new().unwrap();
    let _held = edge_node::lock(data.path()).unwrap();
    let error = edge_node::lock(data.path()).unwrap_err();
    assert!(error.to_string().contains("another edge-node uses the data folder"), "{error:#}");
}
