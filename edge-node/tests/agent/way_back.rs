//! An update that fails: the revision that was installed last runs again, and the one that failed is left alone.

use std::{sync::Arc, time::Duration};

use axum::{Router, extract::Path as UrlPath, routing::get};
use bus::proto;
use edge_node::SpanBuffer;
use margo::{ApplicationDeployment, Digest, State};
use oci::media;
use runtime::{Call, Condition, Runtime};
use runtime_null::{Deed, NullRuntime, Settings};
use testkit::wait_for;

use crate::{
    Agent, deployment, entry, in_runtime,
    site::{self, Site},
    start_with_hello, status, workload_id,
};

/// An update of `hello` whose artifact holds this.
async fn update(site: &Site, content: &[u8]) -> (ApplicationDeployment, Digest) {
    let manifest = site.artifact(content).await;
    (deployment("hello", manifest), manifest)
}

fn failed() -> Condition {
    Condition::Failed { code: "exited".to_owned(), message: "status 1".to_owned() }
}

/// The digests of all that was prepared or started, and whether it was started.
fn tried(runtime: &NullRuntime) -> Vec<(Digest, bool)> {
    let deeds = runtime.deeds().into_iter();
    deeds
        .filter_map(|deed| match deed {
            Deed::Prepared(_, digest) => Some((digest, false)),
            Deed::Started(_, digest) => Some((digest, true)),
            Deed::GivenUp(_) | Deed::Stopped(_) => None,
        })
        .collect()
}

/// Waits until the node says that this update was undone, and that the other document runs again.
async fn undone(site: &Site, update: &proto::DesiredDeployment, runs: &str) -> proto::DeploymentStatus {
    let id = update.id.parse().unwrap();
    status(site, "the update to be undone", id, |it| {
        let failure = it.failure.as_ref().is_some_and(|failure| failure.runs == runs);
        it.digest == update.digest && it.state() == proto::State::Failed && failure
    })
    .await
}

/// Waits until the runtime shows the artifact with this content, and nothing else.
async fn runs(runtime: &NullRuntime, content: &[u8]) {
    wait_for("the revision before to run", async || {
        let workloads = runtime.running();
        match workloads.as_slice() {
            [only] if crate::content(only) == content => Ok(()),
            _ => Err(format!("{workloads:?}")),
        }
    })
    .await;
}

/// Where an update of the null runtime fails.
enum Step {
    Resolve,
    Fetch,
    Load,
    Create,
    Start,
    Health,
    Timeout,
}

#[tokio::test]
async fn a_failed_update_restores_the_last_installed_revision_at_every_step() {
    for step in [Step::Resolve, Step::Fetch, Step::Load, Step::Create, Step::Start, Step::Health, Step::Timeout] {
        let (mut site, data, runtime, agent, hello) = start_with_hello().await;
        let (mut bad, manifest) = update(&site, b"bad component").await;
        let code = match step {
            Step::Resolve => {
                bad = in_runtime("hello", "jvm", manifest);
                "unsupported"
            }
            Step::Fetch => {
                serve_another_content(&mut site, b"worse component").await;
                bad = deployment("hello", Digest::of(&site::manifest(b"worse component")));
                // The agent learns of the other store when it registers again.
                site.nats.kill().await;
                site.nats.restart().await;
                "digest-mismatch"
            }
            Step::Load => {
                runtime.set_unpreparable(manifest, "no component");
                "invalid"
            }
            Step::Create => {
                runtime.set_next_of(manifest, Err("no such setting".to_owned()));
                "invalid"
            }
            Step::Start => {
                runtime.set_settings(Settings { start_delay: Duration::from_secs(3_600), ..Settings::default() });
                bad.spec.profile.components[0].properties.timeout = Some("0m1s".to_owned());
                "timeout"
            }
            Step::Health => {
                runtime.set_next_of(manifest, Ok(failed()));
                "exited"
            }
            Step::Timeout => {
                runtime.set_next_of(manifest, Ok(Condition::Starting));
                bad.spec.profile.components[0].properties.timeout = Some("0m1s".to_owned());
                "timeout"
            }
        };
        let bad = entry(&bad);
        site.desire(2, vec![bad.clone()]).await;
        let told = undone(&site, &bad, &hello.digest).await;
        assert_eq!(told.failure.unwrap().code, code);
        assert_eq!(told.adopted_manifest_version, 2);
        assert_eq!((told.components.len(), told.components[0].state()), (1, proto::State::Failed));
        runs(&runtime, b"component").await;

        // Neither a restart nor an order for something else tries it again.
        runtime.set_settings(Settings::default());
        let before = tried(&runtime);
        let reports = site.reports().len();
        agent.stop().await.unwrap();
        let agent = Agent::start(&site, data.path(), &runtime, SpanBuffer::default());
        site.report_after(reports, "a report of the next life", |_| true).await;
        let other = in_runtime("other", "null", Digest::of(&site::manifest(b"component")));
        site.desire(3, vec![bad.clone(), entry(&other)]).await;
        status(&site, "the other one to be installed", other.id, |it| it.state() == proto::State::Installed).await;
        let after = tried(&runtime);
        let of_other = runtime.workloads().into_iter().find(|it| it.id == workload_id(&other)).unwrap().digest;
        let again: Vec<_> = after[before.len()..].iter().filter(|(digest, _)| *digest != of_other).collect();
        assert!(again.is_empty(), "{code}: {again:?}");
        undone(&site, &bad, &hello.digest).await;

        // Another revision ends it, and so does the removal.
        site.desire(4, vec![]).await;
        status(&site, "everything to be removed", hello.id.parse().unwrap(), |it| it.state() == proto::State::Removed)
            .await;
        wait_for("nothing to be left", async || match runtime.components() {
            components if components.is_empty() => Ok(()),
            components => Err(components),
        })
        .await;
        agent.stop().await.unwrap();
    }
}

/// Has the site's store serve another content under the digest of this one.
async fn serve_another_content(site: &mut Site, content: &'static [u8]) {
    let answer = move |UrlPath(path): UrlPath<String>| async move {
        let components = [content, b"component"];
        let manifests = components.map(site::manifest);
        let wanted = |bytes: &[u8]| path.ends_with(&Digest::of(bytes).to_string());
        if let Some(manifest) = manifests.into_iter().find(|manifest| wanted(manifest)) {
            return manifest;
        }
        if wanted(media::EMPTY_CONFIG) {
            return media::EMPTY_CONFIG.to_vec();
        }
        if wanted(b"component") { b"component".to_vec() } else { b"w0rse component".to_vec() }
    };
    site.serve_instead(Router::new().route("/v2/{*path}", get(answer))).await;
}

#[tokio::test]
async fn another_revision_is_tried_after_a_refused_one_and_goes_back_to_the_same() {
    let (site, _data, runtime, agent, hello) = start_with_hello().await;
    for version in 2..4_u64 {
        let (bad, manifest) = update(&site, format!("bad {version}").as_bytes()).await;
        runtime.set_next_of(manifest, Ok(failed()));
        let bad = entry(&bad);
        site.desire(version, vec![bad.clone()]).await;
        undone(&site, &bad, &hello.digest).await;
        runs(&runtime, b"component").await;
    }
    let (good, _) = update(&site, b"good").await;
    site.desire(4, vec![entry(&good)]).await;
    site.state(4, State::Installed).await;
    runs(&runtime, b"good").await;
    // Back by an order to what ran before is no failure.
    site.desire(5, vec![hello]).await;
    site.state(5, State::Installed).await;
    runs(&runtime, b"component").await;
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn what_fails_after_it_was_installed_does_not_go_back() {
    let (site, data, runtime, agent, _hello) = start_with_hello().await;
    let (good, _) = update(&site, b"good").await;
    site.desire(2, vec![entry(&good)]).await;
    site.state(2, State::Installed).await;
    agent.stop().await.unwrap();
    runtime.show(&failed());
    let agent = Agent::start(&site, data.path(), &runtime, SpanBuffer::default());
    let told = site.state(2, State::Failed).await;
    assert_eq!(told.failure.unwrap().runs, "");
    runs(&runtime, b"good").await;
    assert_eq!(runtime.starts(), 2);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_package_that_says_so_is_left_as_it_failed() {
    let (site, _data, runtime, agent, _hello) = start_with_hello().await;
    let (mut bad, manifest) = update(&site, b"bad").await;
    runtime.set_next_of(manifest, Ok(failed()));
    let ours = serde_json::json!({ "runtime": "null", "failedUpdate": "leave" });
    bad.spec.profile.extensions.insert("x-edgewright-extensions".to_owned(), ours);
    site.desire(2, vec![entry(&bad)]).await;
    assert_eq!(site.state(2, State::Failed).await.failure.unwrap().runs, "");
    runs(&runtime, b"bad").await;
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_site_that_is_away_is_no_failure_of_the_update() {
    let (site, _data, runtime, agent, _hello) = start_with_hello().await;
    let manifest = Digest::of(&site::manifest(b"late"));
    let mut late = deployment("hello", manifest);
    late.spec.profile.components[0].properties.timeout = Some("0m1s".to_owned());
    site.desire(2, vec![entry(&late)]).await;
    let asked_in_vain =
        |it: &proto::DeploymentStatus| it.failure.as_ref().is_some_and(|failure| failure.code == "fetch-failed");
    let told = status(&site, "the missing artifact to be told", late.id, asked_in_vain).await;
    assert_eq!(told.state(), proto::State::Installing);
    runs(&runtime, b"component").await;
    site.artifact(b"late").await;
    site.state(2, State::Installed).await;
    agent.stop().await.unwrap();
}

/// A document with a second component beside `hello`; each has an artifact of its own.
fn two(hello: Digest, also: Digest) -> ApplicationDeployment {
    let mut two = deployment("hello", hello);
    let mut second = two.spec.profile.components[0].clone();
    second.name = "also".parse().unwrap();
    second.extensions.insert("x-edgewright-extensions".to_owned(), serde_json::json!({ "http": { "port": 8081 } }));
    two.spec.profile.components.push(second);
    let lock = serde_json::json!({ "lock": { "components": { "hello": hello, "also": also } } });
    two.spec.extensions.insert("x-edgewright-extensions".to_owned(), lock);
    two
}

#[tokio::test]
async fn a_component_that_did_not_change_is_not_restarted() {
    let (site, _data, runtime, agent, _hello) = start_with_hello().await;
    let manifest = site.artifact(b"component").await;
    for (version, also) in [(2, b"one"), (3, b"two")] {
        let document = two(manifest, site.artifact(also).await);
        site.desire(version, vec![entry(&document)]).await;
        site.state(version, State::Installed).await;
    }
    let components: Vec<_> = runtime.workloads().iter().map(|it| it.id.component.to_string()).collect();
    assert_eq!(components, ["hello", "also", "also"]);
    // Nor is it when a component beside it goes, and when only words about it change.
    let mut patient = deployment("hello", manifest);
    patient.spec.profile.components[0].properties.timeout = Some("9m0s".to_owned());
    site.desire(4, vec![entry(&patient)]).await;
    wait_for("the second component to go", async || match runtime.components() {
        components if components == ["hello"] => Ok(()),
        components => Err(components),
    })
    .await;
    site.state(4, State::Installed).await;
    assert_eq!(runtime.starts(), 3);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn components_that_were_updated_go_back_when_a_later_one_fails() {
    let (site, _data, runtime, agent) = crate::start().await;
    let [one, other] = [site.artifact(b"hello 1").await, site.artifact(b"also 1").await];
    let before = entry(&two(one, other));
    site.desire(1, vec![before.clone()]).await;
    site.state(1, State::Installed).await;
    let [one, other] = [site.artifact(b"hello 2").await, site.artifact(b"also 2").await];
    runtime.set_next_of(other, Ok(failed()));
    let after = entry(&two(one, other));
    site.desire(2, vec![after.clone()]).await;
    let told = undone(&site, &after, &before.digest).await;
    assert_eq!(told.components.len(), 2);
    wait_for("both to be as before", async || {
        let mut contents: Vec<_> = runtime.running().iter().map(crate::content).collect();
        contents.sort();
        if contents == [b"also 1", b"hello 1".as_slice()] { Ok(()) } else { Err(contents) }
    })
    .await;
    // Everything was prepared before anything stopped.
    let deeds = runtime.deeds();
    let first_stop = deeds.iter().position(|deed| matches!(deed, Deed::Stopped(_))).unwrap();
    let prepared = deeds[..first_stop].iter().filter(|deed| matches!(deed, Deed::Prepared(..))).count();
    assert_eq!(prepared, 4, "{deeds:?}");
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_document_that_cannot_be_read_fails_alone_and_what_it_ran_goes_on() {
    let (site, _data, runtime, agent, hello) = start_with_hello().await;
    let document = "id: of-tomorrow\n";
    let unreadable = proto::DesiredDeployment {
        digest: Digest::of(document.as_bytes()).to_string(),
        document: document.into(),
        ..hello.clone()
    };
    let never_readable =
        proto::DesiredDeployment { id: deployment("never", Digest::of(b"x")).id.to_string(), ..unreadable.clone() };
    let other = in_runtime("other", "null", site.artifact(b"component").await);
    site.desire(2, vec![unreadable.clone(), never_readable.clone(), entry(&other)]).await;
    status(&site, "the other one to be installed", other.id, |it| it.state() == proto::State::Installed).await;
    let told = undone(&site, &unreadable, &hello.digest).await;
    assert_eq!(told.failure.unwrap().code, "unreadable");
    let never = never_readable.id.parse().unwrap();
    status(&site, "the unknown one to fail", never, |it| it.state() == proto::State::Failed).await;
    assert_eq!(runtime.components().len(), 2);
    assert_eq!(runtime.starts(), 2, "what ran was left alone");
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn an_agent_that_cannot_read_what_runs_leaves_it_alone() {
    let (site, data, runtime, agent, hello) = start_with_hello().await;
    agent.stop().await.unwrap();
    // As an older version of the agent may find it after a newer one.
    let file = data.path().join("desired.json");
    let document = "id: of-tomorrow\n";
    let text = std::fs::read_to_string(&file).unwrap();
    let mut on_disk: serde_json::Value = serde_json::from_str(&text).unwrap();
    on_disk["deployments"][0]["document"] = document.into();
    on_disk["deployments"][0]["digest"] = Digest::of(document.as_bytes()).to_string().into();
    std::fs::write(&file, on_disk.to_string()).unwrap();
    let agent = Agent::start(&site, data.path(), &runtime, SpanBuffer::default());
    let id = hello.id.parse().unwrap();
    status(&site, "the document to be refused", id, |it| {
        it.failure.as_ref().is_some_and(|failure| failure.code == "unreadable")
    })
    .await;
    assert_eq!((runtime.components(), runtime.deeds().len()), (vec!["hello".to_owned()], 2));
    site.desire(2, vec![hello]).await;
    site.state(2, State::Installed).await;
    assert_eq!(runtime.starts(), 1);
    agent.stop().await.unwrap();
}

/// A runtime that has the one workload of another one as an older agent had started it: that one knew workloads by the digest of
/// their document.
async fn of_an_older_agent(
    runtime: &NullRuntime,
    hello: &proto::DesiredDeployment,
    settings: Settings,
) -> Arc<NullRuntime> {
    let older = Arc::new(NullRuntime::new(settings));
    let mut workload = runtime.workloads().remove(0);
    workload.digest = hello.digest.parse().unwrap();
    older.apply(workload, Call::within(Duration::from_secs(60))).await.unwrap();
    older
}

#[tokio::test]
async fn an_order_that_comes_before_the_agent_has_seen_what_runs_restarts_nothing_and_has_a_way_back() {
    let (site, data, runtime, agent, hello) = start_with_hello().await;
    agent.stop().await.unwrap();
    // Of what the older agent recorded, nothing can be read.
    std::fs::remove_dir_all(data.path().join("journal")).unwrap();
    let slow = Settings { look_delay: Duration::from_millis(500), ..Settings::default() };
    let older = of_an_older_agent(&runtime, &hello, slow).await;
    let mut patient = deployment("hello", site.artifact(b"component").await);
    patient.spec.profile.components[0].properties.timeout = Some("9m0s".to_owned());
    site.desire(2, vec![entry(&patient)]).await;
    let agent = Agent::start(&site, data.path(), &older, SpanBuffer::default());
    site.state(2, State::Installed).await;
    assert_eq!(older.starts(), 1, "its component is the same");
    agent.stop().await.unwrap();

    // The same with an order that fails.
    let (site, data, runtime, agent, hello) = start_with_hello().await;
    agent.stop().await.unwrap();
    std::fs::remove_dir_all(data.path().join("journal")).unwrap();
    let slow = Settings { look_delay: Duration::from_millis(500), ..Settings::default() };
    let older = of_an_older_agent(&runtime, &hello, slow).await;
    let (bad, manifest) = update(&site, b"bad").await;
    older.set_next_of(manifest, Ok(failed()));
    let bad = entry(&bad);
    site.desire(2, vec![bad.clone()]).await;
    let agent = Agent::start(&site, data.path(), &older, SpanBuffer::default());
    undone(&site, &bad, &hello.digest).await;
    runs(&older, b"component").await;
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_workload_that_an_older_agent_started_is_not_started_anew() {
    let (site, data, runtime, agent, hello) = start_with_hello().await;
    agent.stop().await.unwrap();
    let older = of_an_older_agent(&runtime, &hello, Settings::default()).await;
    let agent = Agent::start(&site, data.path(), &older, SpanBuffer::default());
    // It has seen what runs before the next order comes.
    older.count_restart();
    let id = hello.id.parse().unwrap();
    status(&site, "the restart", id, |it| it.components.first().is_some_and(|it| it.restarts == 1)).await;
    let manifest = site.artifact(b"component").await;
    let mut patient = deployment("hello", manifest);
    patient.spec.profile.components[0].properties.timeout = Some("9m0s".to_owned());
    site.desire(2, vec![entry(&patient)]).await;
    site.state(2, State::Installed).await;
    assert_eq!(older.starts(), 1);
    agent.stop().await.unwrap();
}
