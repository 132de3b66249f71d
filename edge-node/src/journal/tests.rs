use margo::Digest;
use tempfile::TempDir;

use super::*;
use crate::status::{ComponentStatus, DeploymentStatus};

fn version(number: u64) -> ManifestVersion {
    ManifestVersion::try_from(number).unwrap()
}

fn open(folder: &TempDir) -> Journal {
    Journal::open(&folder.path().join("journal")).unwrap()
}

fn component(state: State) -> ComponentStatus {
    let name = "hello".parse().unwrap();
    ComponentStatus { name, state, failure: None, endpoint: None, restarts: 0, parts: Vec::new(), runtime: None }
}

fn record(journal: &Journal, state: State) {
    let status = DeploymentStatus {
        name: "hello".to_owned(),
        digest: Digest::of(b"one"),
        adopted: version(1),
        components: vec![component(state)],
        refused: None,
        was_installed: state == State::Installed,
    };
    let id = "9db79949-86fb-5e45-910d-8a83dd7391cc".parse().unwrap();
    journal.record(version(1), Statuses::from([(id, status)]), None);
}

fn stored(stream: &str) -> proto::ReportAnswer {
    proto::ReportAnswer { stored: true, events_stored: true, state_stream: stream.to_owned(), ..Default::default() }
}

fn position(draft: &Draft) -> (u64, u64) {
    let status = draft.request.status.as_ref().unwrap();
    (status.incarnation, status.sequence)
}

fn numbers(draft: &Draft) -> Vec<u64> {
    draft.request.events.iter().flat_map(|events| &events.transitions).map(|it| it.number).collect()
}

#[test]
fn sequences_rise_and_never_come_again_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let mut last = 0;
    for _ in 0..3 {
        let journal = open(&folder);
        for _ in 0..BLOCK + 7 {
            let (_, sequence) = position(&journal.draft("s").unwrap());
            assert!(sequence > last);
            last = sequence;
        }
    }
}

#[test]
fn an_incarnation_is_kept_and_the_site_may_give_any_other() {
    let folder = TempDir::new().unwrap();
    open(&folder).set_incarnation(7).unwrap();
    let journal = open(&folder);
    assert_eq!(journal.incarnation(), 7);
    // A copied disk, or one that made a number up.
    journal.set_incarnation(6).unwrap();
    assert_eq!(position(&journal.draft("s").unwrap()).0, 6);
    assert_eq!(open(&folder).incarnation(), 6);
}

#[test]
fn what_is_stored_is_told_no_more_and_the_rest_again() {
    let folder = TempDir::new().unwrap();
    let journal = open(&folder);
    record(&journal, State::Installing);
    let unanswered = journal.draft("s").unwrap();
    assert_eq!(numbers(&unanswered), [1, 2]);
    record(&journal, State::Installed);
    let draft = journal.draft("s").unwrap();
    assert_eq!(numbers(&draft), [1, 2, 3, 4]);
    record(&journal, State::Failed);
    journal.settle(&draft, &stored("s"));
    assert!(journal.is_due("s"));
    let draft = journal.draft("s").unwrap();
    assert_eq!(numbers(&draft), [5, 6]);
    journal.settle(&draft, &stored("s"));
    assert!(!journal.is_due("s"));
}

#[test]
fn a_site_whose_events_are_full_still_gets_the_status() {
    let folder = TempDir::new().unwrap();
    let journal = open(&folder);
    record(&journal, State::Installed);
    let draft = journal.draft("s").unwrap();
    journal.settle(&draft, &proto::ReportAnswer { events_stored: false, ..stored("s") });
    assert!(journal.is_due("s"));
    assert_eq!(numbers(&journal.draft("s").unwrap()), [1, 2]);
}

#[test]
fn a_new_stream_gets_status_and_capabilities_whole() {
    let folder = TempDir::new().unwrap();
    let journal = open(&folder);
    journal.describe(b"{}".to_vec());
    record(&journal, State::Installed);
    let draft = journal.draft("s").unwrap();
    assert!(draft.request.capabilities.is_some());
    journal.settle(&draft, &stored("s"));
    assert!(!journal.is_due("s"));
    assert!(journal.draft("s").unwrap().request.capabilities.is_none());

    assert!(journal.is_due("t"));
    let draft = journal.draft("t").unwrap();
    assert!(draft.request.capabilities.is_some());
    assert_eq!(draft.request.status.as_ref().unwrap().deployments.len(), 1);

    // The stream was made anew between the draft and the answer.
    let draft = journal.draft("s").unwrap();
    journal.settle(&draft, &stored("t"));
    assert!(journal.is_due("t"));
    assert!(journal.draft("t").unwrap().request.capabilities.is_some());
}

#[test]
fn what_is_removed_is_told_until_it_is_stored() {
    let folder = TempDir::new().unwrap();
    let journal = open(&folder);
    record(&journal, State::Removing);
    let earlier = journal.draft("s").unwrap();
    record(&journal, State::Removed);
    journal.settle(&earlier, &stored("s"));
    let journal = open(&folder);
    let draft = journal.draft("s").unwrap();
    assert_eq!(draft.request.status.as_ref().unwrap().deployments[0].state(), proto::State::Removed);
    journal.settle(&draft, &stored("s"));
    assert!(!journal.is_due("s"));
    assert!(open(&folder).draft("s").unwrap().request.status.unwrap().deployments.is_empty());
}

#[test]
fn a_removal_that_is_stored_is_not_brought_back_by_a_look_from_before() {
    let folder = TempDir::new().unwrap();
    let journal = open(&folder);
    record(&journal, State::Removing);
    record(&journal, State::Removed);
    let seen = journal.recorded();
    let draft = journal.draft("s").unwrap();
    journal.settle(&draft, &stored("s"));
    assert!(journal.recorded().statuses.is_empty());
    journal.record(version(2), seen.statuses.as_ref().clone(), None);
    assert!(journal.recorded().statuses.is_empty());
    assert_eq!(journal.waiting(), 0);
}

#[test]
fn a_restart_makes_no_history() {
    let folder = TempDir::new().unwrap();
    let journal = open(&folder);
    record(&journal, State::Installed);
    let draft = journal.draft("s").unwrap();
    journal.settle(&draft, &stored("s"));
    let journal = open(&folder);
    record(&journal, State::Installed);
    assert_eq!(journal.waiting(), 0);
}

#[test]
fn refusals_are_listed_once_each_and_the_last_twenty() {
    let folder = TempDir::new().unwrap();
    let journal = open(&folder);
    for number in 0..25 {
        journal.refuse("desired".to_owned(), &format!("reason {number}"), None);
        journal.refuse("desired".to_owned(), &format!("reason {number}"), None);
    }
    let refusals = open(&folder).draft("s").unwrap().request.status.unwrap().refusals;
    assert_eq!(refusals.len(), REFUSALS);
    assert_eq!((refusals[0].reason.as_str(), refusals[19].reason.as_str()), ("reason 5", "reason 24"));
}

#[test]
fn a_damaged_journal_is_a_lost_disk() {
    let folder = TempDir::new().unwrap();
    open(&folder).set_incarnation(7).unwrap();
    for file in ["identity.json", "status.json", "transitions.jsonl"] {
        fs::write(folder.path().join("journal").join(file), b"{\"incar").unwrap();
        assert_eq!(open(&folder).incarnation(), 0, "{file}");
        open(&folder).set_incarnation(7).unwrap();
    }
}

#[test]
fn what_workloads_use_goes_with_the_next_report_and_is_no_news_a_moment_after_one() {
    let folder = TempDir::new().unwrap();
    let journal = open(&folder);
    record(&journal, State::Installed);
    let draft = journal.draft("s").unwrap();
    journal.settle(&draft, &stored("s"));
    let id = WorkloadId {
        deployment: "9db79949-86fb-5e45-910d-8a83dd7391cc".parse().unwrap(),
        component: "hello".parse().unwrap(),
    };
    let stats = runtime::Stats { cpu_time: Some(std::time::Duration::from_millis(1_500)), memory: Some(2 << 20) };
    assert!(!journal.is_due("s"));
    journal.measured(Usage::from([(id, stats)]));
    assert!(!journal.is_due("s"));
    let status = journal.draft("s").unwrap().request.status.unwrap();
    let component = &status.deployments[0].components[0];
    assert_eq!((component.cpu_milliseconds, component.memory_bytes), (Some(1_500), Some(2 << 20)));
}

#[test]
fn a_call_stands_in_the_history_of_its_deployment_with_whoever_made_it() {
    let folder = TempDir::new().unwrap();
    let journal = open(&folder);
    record(&journal, State::Installed);
    let id = "9db79949-86fb-5e45-910d-8a83dd7391cc".parse().unwrap();
    let component = "hello".parse().unwrap();
    assert!(journal.note_call(&id, Some(&component), "restart", "restart by ada").unwrap());
    let told = open(&folder).draft("s").unwrap().request.events.unwrap().transitions.pop().unwrap();
    let failure = told.failure.clone().unwrap();
    assert_eq!((told.component.as_str(), told.state()), ("hello", proto::State::Installed));
    assert_eq!((failure.code.as_str(), failure.message.as_str()), ("restart", "restart by ada"));
    let nobody = "9db79949-86fb-5e45-910d-8a83dd7391cd".parse().unwrap();
    assert!(!journal.note_call(&nobody, None, "retry", "retry by ada").unwrap());
}
