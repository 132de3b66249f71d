//! What an operator asks of a node, or has it do at once.

use bus::{CallVerb, proto};
use margo::State;
use runtime::Condition;
use runtime_null::Deed;
use testkit::wait_for;

use crate::{deployment, entry, site::Site, start_with_hello};

/// Waits until the history of a deployment says that this was done, and by whom.
async fn told(site: &Site, code: &str) -> proto::Transition {
    wait_for("the history to say who had it done", async || {
        let transitions = site.transitions();
        let of_code = |it: &&proto::Transition| it.failure.as_ref().is_some_and(|failure| failure.code == code);
        transitions.iter().find(of_code).cloned().ok_or(transitions.clone())
    })
    .await
}

#[tokio::test]
async fn a_log_is_read_from_the_runtime_that_has_the_workload() {
    let (site, _data, _runtime, agent, hello) = start_with_hello().await;
    assert_eq!(site.call(CallVerb::Ping, "", "", 0).await.unwrap(), "");
    let log = site.call(CallVerb::Logs, &hello.id, "hello", 10).await.unwrap();
    assert!(log.starts_with("started for sha256:") && log.ends_with('\n'), "{log}");
    assert_eq!(site.call(CallVerb::Logs, &hello.id, "hello", 0).await.unwrap(), "");
    let unknown = site.call(CallVerb::Logs, &hello.id, "other", 10).await.unwrap_err();
    assert!(unknown.contains("nothing of it runs here"), "{unknown}");
    let nameless = site.call(CallVerb::Logs, "", "", 10).await.unwrap_err();
    assert!(nameless.contains("names no component"), "{nameless}");
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_restart_starts_the_same_revision_again_and_the_history_says_who_had_it_done() {
    let (site, _data, runtime, agent, hello) = start_with_hello().await;
    site.call(CallVerb::Restart, &hello.id, "", 0).await.unwrap();
    let deeds = runtime.deeds();
    assert!(matches!(&deeds[1..], [Deed::Started(_, one), Deed::Stopped(_), Deed::Started(_, other)] if one == other));
    let told = told(&site, "restart").await;
    assert_eq!((told.deployment, told.failure.unwrap().message.as_str()), (hello.id.clone(), "restart by ada"));
    for (deployment, component) in [(hello.id.as_str(), "other"), (deployment_of_nobody().as_str(), "")] {
        let refused = site.call(CallVerb::Restart, deployment, component, 0).await.unwrap_err();
        assert!(refused.contains("nothing of it runs here"), "{refused}");
    }
    assert_eq!(runtime.starts(), 2);
    agent.stop().await.unwrap();
}

fn deployment_of_nobody() -> String {
    deployment("nobody", margo::Digest::of(b"nothing")).id.to_string()
}

#[tokio::test]
async fn a_retry_tries_a_refused_revision_again() {
    let (site, _data, runtime, agent, hello) = start_with_hello().await;
    let manifest = site.artifact(b"moody component").await;
    let failed = Condition::Failed { code: "exited".to_owned(), message: "status 1".to_owned() };
    runtime.set_next_of(manifest, Ok(failed));
    let update = entry(&deployment("hello", manifest));
    site.desire(2, vec![update.clone()]).await;
    site.report_after(0, "the update to be undone", |report| {
        let deployments = report.status.iter().flat_map(|status| &status.deployments);
        deployments.filter_map(|it| it.failure.as_ref()).any(|failure| failure.runs == hello.digest)
    })
    .await;
    runtime.set_next_of(manifest, Ok(Condition::Running { endpoint: None }));
    let before = site.reports().len();
    site.call(CallVerb::Retry, &hello.id, "", 0).await.unwrap();
    site.report_after(before, "the update to be installed", |report| {
        let deployments = report.status.iter().flat_map(|status| &status.deployments);
        deployments.into_iter().any(|it| it.digest == update.digest && it.state() == proto::State::Installed)
    })
    .await;
    assert_eq!(told(&site, "retry").await.failure.unwrap().message, "retry by ada");
    assert_eq!(crate::content(&runtime.running()[0]), b"moody component");
    let refused = site.call(CallVerb::Retry, &deployment_of_nobody(), "", 0).await.unwrap_err();
    assert!(refused.contains("no such deployment"), "{refused}");
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_retry_tries_again_what_could_never_run_as_it_was() {
    let (site, _data, runtime, agent) = crate::start().await;
    runtime.set_next(Err("the licence is missing".to_owned()));
    let hello = entry(&deployment("hello", site.artifact(b"component").await));
    site.desire(1, vec![hello.clone()]).await;
    site.state(1, State::Failed).await;
    runtime.set_next(Ok(Condition::Running { endpoint: None }));
    site.call(CallVerb::Retry, &hello.id, "", 0).await.unwrap();
    site.state(1, State::Installed).await;
    agent.stop().await.unwrap();
}
