//! The agent on a real NATS server with the permissions of production.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod agent;
mod operations;
mod site;
#[path = "../../src/testing.rs"]
mod testing;
mod way_back;

use std::{collections::BTreeMap, fs, sync::Arc, time::Duration};

use agent::{Agent, null};
use axum::{Router, extract::Path as UrlPath, routing::get};
use bus::proto;
use edge_node::SpanBuffer;
use margo::{Digest, ParameterValue, State};
use oci::media;
use runtime::{Condition, Part, Workload, WorkloadId};
use runtime_null::{Deed, NullRuntime, Settings};
use site::{Answers, Site};
use tempfile::TempDir;
use testing::{deployment, entry};
use testkit::wait_for;

/// A site, a node's disk, its runtime and its agent.
async fn start() -> (Site, TempDir, Arc<NullRuntime>, Agent) {
    let site = Site::start().await;
    let (data, runtime) = (TempDir::new().unwrap(), null());
    let agent = Agent::start(&site, data.path(), &runtime, SpanBuffer::default());
    (site, data, runtime, agent)
}

/// The same with one deployment that runs at version 1.
async fn start_with_hello() -> (Site, TempDir, Arc<NullRuntime>, Agent, proto::DesiredDeployment) {
    let (site, data, runtime, agent) = start().await;
    let hello = entry(&deployment("hello", site.artifact(b"component").await));
    site.desire(1, vec![hello.clone()]).await;
    site.state(1, State::Installed).await;
    (site, data, runtime, agent, hello)
}

/// What the only layer of a workload's artifact holds.
fn content(workload: &Workload) -> Vec<u8> {
    fs::read(workload.content.path(&workload.artifact.manifest.layers[0].digest)).unwrap()
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
    let starts = runtime.workloads();
    assert_eq!(starts.len(), 1);
    assert_eq!(starts[0].values, BTreeMap::from([("GREETING".to_owned(), ParameterValue::Integer(120))]));
    assert_eq!(starts[0].environment(), BTreeMap::from([("GREETING".to_owned(), "120".to_owned())]));
    assert_eq!(starts[0].settings, serde_json::json!({ "http": { "port": 8080 } }));
    assert_eq!(content(&starts[0]), b"component");

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
    let document = &reports[0].capabilities.as_ref().expect("they come first").document;
    let document: serde_json::Value = serde_json::from_slice(document).unwrap();
    assert_eq!(document["properties"]["id"], "plant/press");
    assert_eq!(reports.iter().filter(|report| report.capabilities.is_some()).count(), 1);
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
    assert_eq!((runtime.components(), runtime.starts()), (vec!["hello".to_owned()], 1));
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_message_that_does_not_decode_is_refused_and_the_next_one_counts() {
    let (site, _data, _runtime, agent, hello) = start_with_hello().await;
    site.publish_bytes(99, "garbage".into(), "").await;
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
    let rebooted = null();
    let agent = Agent::start(&site, data.path(), &rebooted, SpanBuffer::default());
    wait_for("the workload to be started", async || match rebooted.starts() {
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
    runtime.show(&Condition::Starting);
    let agent = Agent::start(&site, data.path(), &runtime, SpanBuffer::default());
    site.report_after(before, "a report of the new agent", |_| true).await;
    runtime.show(&Condition::Running { endpoint: Some("http://127.0.0.1:8080/".to_owned()) });
    agent.stop().await.unwrap();
    assert_eq!(runtime.starts(), 1);
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
    runtime.show(&Condition::Failed { code: "exited".to_owned(), message: "status 1".to_owned() });
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
    runtime.show(&Condition::Failed { code: "exited".to_owned(), message: "status 1".to_owned() });
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
    runtime.show(&Condition::Failed { code: "exited".to_owned(), message: "status 1".to_owned() });
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
    let starts = runtime.workloads();
    assert_eq!(starts.len(), 2);
    assert_eq!(content(&starts[1]), b"another component");
    let deed = |at: usize| (starts[at].id.clone(), starts[at].digest);
    let [(id, first), (_, second)] = [deed(0), deed(1)];
    let deeds = runtime.deeds();
    // The new revision is prepared while the old one still runs.
    let expected = [
        Deed::Prepared(id.clone(), first),
        Deed::Started(id.clone(), first),
        Deed::Prepared(id.clone(), second),
        Deed::Stopped(id.clone()),
        Deed::Started(id, second),
    ];
    assert_eq!(deeds, expected);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_revision_that_is_withdrawn_before_it_starts_is_given_up() {
    let (site, _data, runtime, agent, hello) = start_with_hello().await;
    runtime.set_settings(Settings { failing_starts: usize::MAX, ..Settings::default() });
    let update = entry(&deployment("hello", site.artifact(b"another component").await));
    site.desire(2, vec![update.clone()]).await;
    let id = runtime.workloads()[0].id.clone();
    wait_for("the update to be prepared", async || match runtime.deeds() {
        deeds if deeds.len() == 3 && matches!(&deeds[2], Deed::Prepared(prepared, _) if *prepared == id) => Ok(()),
        deeds => Err(deeds),
    })
    .await;
    site.desire(3, vec![hello]).await;
    wait_for("the update to be given up", async || match runtime.deeds() {
        deeds if deeds.last() == Some(&Deed::GivenUp(id.clone())) => Ok(()),
        deeds => Err(deeds),
    })
    .await;
    site.state(3, State::Installed).await;
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
    let (data, runtime) = (TempDir::new().unwrap(), null());
    let agent = Agent::start(&site, data.path(), &runtime, SpanBuffer::default());
    site.desire(1, vec![entry(&deployment("hello", digest))]).await;
    let failure = site.state(1, State::Failed).await.failure.unwrap();
    assert_eq!((failure.code.as_str(), failure.source.as_str()), ("digest-mismatch", "hello"));
    assert_eq!(runtime.starts(), 0);
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

    runtime.set_next(Err("x-edgewright-extensions: http.port is missing".to_owned()));
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
    runtime.set_next(Ok(Condition::Starting));
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
    runtime.set_next(Ok(running.clone()));
    runtime.show(&running);
    site.state(1, State::Installed).await;
    let order: Vec<_> = runtime.workloads().iter().map(|start| start.id.component.to_string()).collect();
    assert_eq!(order, ["hello", "also"]);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_node_that_its_site_refuses_goes_on_and_says_so_at_the_end() {
    let (site, data, _runtime, agent, _hello) = start_with_hello().await;
    agent.stop().await.unwrap();
    site.answers(Answers::Refused);
    let rebooted = null();
    let agent = Agent::start(&site, data.path(), &rebooted, SpanBuffer::default());
    wait_for("the refused registration and the start", async || {
        let seen = (site.registrations().len(), rebooted.starts());
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
    let (data, runtime) = (TempDir::new().unwrap(), null());
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

/// A deployment of this name for the runtime of this name.
fn in_runtime(name: &str, runtime: &str, manifest: Digest) -> margo::ApplicationDeployment {
    let mut document = deployment(name, manifest);
    document
        .spec
        .profile
        .extensions
        .insert("x-edgewright-extensions".to_owned(), serde_json::json!({ "runtime": runtime }));
    document
}

fn workload_id(document: &margo::ApplicationDeployment) -> WorkloadId {
    WorkloadId { deployment: document.id, component: "hello".parse().unwrap() }
}

/// Two runtimes, which profiles choose as `one` and `other`.
fn two_runtimes() -> [Arc<NullRuntime>; 2] {
    ["one", "other"].map(|name| Arc::new(NullRuntime::new(Settings { name, ..Settings::default() })))
}

/// Waits until the node says this of a deployment.
async fn status(
    site: &Site,
    what: &str,
    id: margo::DeploymentId,
    wanted: impl Fn(&proto::DeploymentStatus) -> bool,
) -> proto::DeploymentStatus {
    let of_this = |report: &proto::ReportRequest| {
        let deployments = report.status.iter().flat_map(|status| &status.deployments);
        deployments.into_iter().find(|status| status.id == id.to_string() && wanted(status)).cloned()
    };
    let report = site.report_after(0, what, |report| of_this(report).is_some()).await;
    of_this(&report).unwrap()
}

async fn started(runtime: &NullRuntime, what: &str, id: &WorkloadId) {
    wait_for(what, async || {
        let workloads = runtime.workloads();
        if workloads.iter().any(|workload| workload.id == *id) { Ok(()) } else { Err(runtime.deeds()) }
    })
    .await;
}

#[tokio::test]
async fn a_slow_start_delays_no_other_deployment() {
    let site = Site::start().await;
    let (data, [slow, quick]) = (TempDir::new().unwrap(), two_runtimes());
    slow.set_settings(Settings { start_delay: Duration::from_secs(3_600), ..Settings::default() });
    let agent = Agent::with(&site, data.path(), &[&slow, &quick], SpanBuffer::default());
    let manifest = site.artifact(b"component").await;
    let [stuck, fine] = [in_runtime("stuck", "one", manifest), in_runtime("fine", "other", manifest)];
    site.desire(1, vec![entry(&stuck)]).await;
    wait_for("the slow start to be under way", async || match slow.begun() {
        1 => Ok(()),
        begun => Err(begun),
    })
    .await;
    site.desire(2, vec![entry(&stuck), entry(&fine)]).await;
    status(&site, "the other deployment to be installed", fine.id, |it| it.state() == proto::State::Installed).await;
    // Nor in the same runtime.
    slow.set_settings(Settings::default());
    let third = in_runtime("third", "one", manifest);
    site.desire(3, vec![entry(&stuck), entry(&fine), entry(&third)]).await;
    status(&site, "a third one to be installed", third.id, |it| it.state() == proto::State::Installed).await;
    assert_eq!(slow.components().len(), 1, "the first start is still under way");
    drop(agent);
}

#[tokio::test]
async fn a_runtime_that_cannot_be_observed_leaves_the_others_alone() {
    let site = Site::start().await;
    let (data, [blind, seeing]) = (TempDir::new().unwrap(), two_runtimes());
    let agent = Agent::with(&site, data.path(), &[&blind, &seeing], SpanBuffer::default());
    let manifest = site.artifact(b"component").await;
    let [hidden, seen] = [in_runtime("hidden", "one", manifest), in_runtime("seen", "other", manifest)];
    site.desire(1, vec![entry(&hidden)]).await;
    status(&site, "the first one to be installed", hidden.id, |it| it.state() == proto::State::Installed).await;

    blind.set_blind(true);
    let unknown = status(&site, "the first one to be unknown", hidden.id, |it| {
        it.components[0].failure.as_ref().is_some_and(|failure| failure.code == "unknown")
    });
    assert_eq!(unknown.await.state(), proto::State::Installed, "as it was seen last");
    let deeds = blind.deeds();
    let mut changed = hidden.clone();
    changed.metadata.labels.insert("revision".to_owned(), "2".to_owned());
    site.desire(2, vec![entry(&changed), entry(&seen)]).await;
    status(&site, "the other one to be installed", seen.id, |it| it.state() == proto::State::Installed).await;
    site.desire(3, vec![entry(&seen)]).await;
    status(&site, "the first one to be leaving", hidden.id, |it| it.state() == proto::State::Removing).await;
    let unprepared: Vec<_> = blind.deeds().into_iter().filter(|deed| !matches!(deed, Deed::Prepared(..))).collect();
    let before: Vec<_> = deeds.into_iter().filter(|deed| !matches!(deed, Deed::Prepared(..))).collect();
    assert_eq!(unprepared, before, "nothing is started or stopped on a guess");

    blind.set_blind(false);
    status(&site, "the first one to be removed", hidden.id, |it| it.state() == proto::State::Removed).await;
    assert!(blind.components().is_empty());
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_deadline_ends_a_start_and_is_reported() {
    let (site, _data, runtime, agent) = start().await;
    runtime.set_settings(Settings { start_delay: Duration::from_secs(3_600), ..Settings::default() });
    let mut impatient = deployment("hello", site.artifact(b"component").await);
    impatient.spec.profile.components[0].properties.timeout = Some("0m1s".to_owned());
    site.desire(1, vec![entry(&impatient)]).await;
    let failed = status(&site, "the deadline to be reported", impatient.id, |it| {
        it.failure.as_ref().is_some_and(|failure| failure.message.contains("did not end within 1s"))
    })
    .await;
    assert_eq!(failed.state(), proto::State::Failed);
    let failure = failed.failure.unwrap();
    assert_eq!(failure.code, "timeout");
    assert!(failure.message.contains("waiting as the settings say"), "{}", failure.message);
    // It is tried again.
    runtime.set_settings(Settings::default());
    site.state(1, State::Installed).await;
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_revision_that_cannot_be_resolved_leaves_the_running_one_alone() {
    let (site, _data, runtime, agent, _hello) = start_with_hello().await;
    let manifest = site.artifact(b"component").await;
    let foreign = in_runtime("hello", "jvm", manifest);
    site.desire(2, vec![entry(&foreign)]).await;
    let failure = site.state(2, State::Failed).await.failure.unwrap();
    assert_eq!(failure.code, "unsupported");
    assert_eq!(runtime.components(), ["hello"]);
    // Nor does one whose artifact is not there.
    let missing = deployment("hello", Digest::of(b"nowhere"));
    site.desire(3, vec![entry(&missing)]).await;
    status(&site, "the missing artifact to be reported", missing.id, |it| {
        it.failure.as_ref().is_some_and(|failure| failure.code == "fetch-failed")
    })
    .await;
    assert_eq!((runtime.components(), runtime.starts()), (vec!["hello".to_owned()], 1));
    site.desire(4, vec![]).await;
    site.state(4, State::Removed).await;
    assert!(runtime.components().is_empty());
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_start_waits_for_the_removal_that_frees_its_port() {
    let (site, _data, runtime, agent, _hello) = start_with_hello().await;
    runtime.set_settings(Settings { stop_delay: Duration::from_millis(300), ..Settings::default() });
    let other = deployment("other", site.artifact(b"component").await);
    site.desire(2, vec![entry(&other)]).await;
    status(&site, "the other one to be installed", other.id, |it| it.state() == proto::State::Installed).await;
    let deeds = runtime.deeds();
    let at = |wanted: &dyn Fn(&Deed) -> bool| deeds.iter().position(wanted);
    let stopped = at(&|deed| matches!(deed, Deed::Stopped(_)));
    let begun = at(&|deed| matches!(deed, Deed::Started(id, _) if *id == workload_id(&other)));
    assert!(stopped.is_some() && stopped < begun, "{deeds:?}");
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_move_to_another_runtime_is_prepared_before_the_old_one_stops() {
    let site = Site::start().await;
    let (data, [one, other]) = (TempDir::new().unwrap(), two_runtimes());
    let agent = Agent::with(&site, data.path(), &[&one, &other], SpanBuffer::default());
    let manifest = site.artifact(b"component").await;
    let (here, there) = (in_runtime("hello", "one", manifest), in_runtime("hello", "other", manifest));
    site.desire(1, vec![entry(&here)]).await;
    started(&one, "the first start", &workload_id(&here)).await;
    site.state(1, State::Installed).await;
    // What cannot be prepared moves nothing.
    other.set_settings(Settings { prepare_delay: Duration::from_millis(300), ..Settings::default() });
    site.desire(2, vec![entry(&there)]).await;
    wait_for("the preparation", async || match other.deeds() {
        deeds if deeds.is_empty() => {
            assert_eq!(one.components(), ["hello"], "the old one runs until the new one is prepared");
            Err(deeds)
        }
        _ => Ok(()),
    })
    .await;
    site.state(2, State::Installed).await;
    assert!(one.components().is_empty());
    assert_eq!(other.components(), ["hello"]);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn restarts_completion_and_parts_appear_in_the_status() {
    let (site, _data, runtime, agent, hello) = start_with_hello().await;
    let id: margo::DeploymentId = hello.id.parse().unwrap();
    runtime.count_restart();
    status(&site, "the restart", id, |it| it.components[0].restarts == 1).await;
    let parts = [
        Part { name: "web".to_owned(), condition: Condition::Running { endpoint: Some("http://127.0.0.1:1/".into()) } },
        Part { name: "db".to_owned(), condition: Condition::Starting },
    ];
    runtime.show_parts(&parts);
    let shown = status(&site, "the parts", id, |it| it.components[0].parts.len() == 2).await;
    let shown: Vec<_> = shown.components[0].parts.iter().map(|it| (it.name.as_str(), it.state())).collect();
    assert_eq!(shown, [("web", proto::State::Installed), ("db", proto::State::Installing)]);
    runtime.show(&Condition::Unknown { reason: "the engine hangs".to_owned() });
    status(&site, "the workload to be unknown", id, |it| {
        it.components[0].failure.as_ref().is_some_and(|failure| failure.message == "the engine hangs")
    })
    .await;
    runtime.show(&Condition::Completed);
    status(&site, "the completion", id, |it| {
        it.state() == proto::State::Installed
            && it.components[0].failure.is_none()
            && it.components[0].endpoint.is_empty()
    })
    .await;
    assert_eq!(runtime.starts(), 1);
    agent.stop().await.unwrap();
}

#[test]
fn a_data_folder_has_one_agent() {
    let data = TempDir::new().unwrap();
    let _held = edge_node::lock(data.path()).unwrap();
    let error = edge_node::lock(data.path()).unwrap_err();
    assert!(error.to_string().contains("another edge-node uses the data folder"), "{error:#}");
}
