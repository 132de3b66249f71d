use runtime::WorkloadId;

use super::*;

fn component(name: &str, state: State) -> ComponentStatus {
    let failure = (state == State::Failed).then(|| Failure::new("exited", name, "status 1"));
    let name = name.parse().unwrap();
    ComponentStatus { name, state, failure, endpoint: None, restarts: 0, parts: Vec::new(), runtime: None }
}

fn deployment(states: &[State]) -> DeploymentStatus {
    let components = states.iter().enumerate().map(|(at, state)| component(&format!("c{at}"), *state));
    DeploymentStatus {
        name: "hello".to_owned(),
        digest: Digest::of(b"one"),
        adopted: ManifestVersion::FIRST,
        components: components.collect(),
        refused: None,
        was_installed: false,
    }
}

fn statuses(deployment: DeploymentStatus) -> Statuses {
    Statuses::from([("9db79949-86fb-5e45-910d-8a83dd7391cc".parse().unwrap(), deployment)])
}

fn told(before: &Statuses, after: &Statuses) -> Vec<(Option<String>, State)> {
    transitions(before, after).into_iter().map(|it| (it.component.map(|name| name.to_string()), it.state)).collect()
}

fn seen(condition: Condition) -> Observed {
    let id = WorkloadId {
        deployment: "9db79949-86fb-5e45-910d-8a83dd7391cc".parse().unwrap(),
        component: "c".parse().unwrap(),
    };
    Observed::whole(id, Digest::of(b"one"), condition)
}

fn facts<'a>(seen: Option<&'a Observed>, obstacle: Option<&'a Obstacle>) -> Facts<'a> {
    Facts { seen, obstacle, turn: true, overdue: false, was: None }
}

fn judged(facts: &Facts<'_>) -> (State, Option<String>) {
    let status = judge(&"c".parse().unwrap(), facts);
    (status.state, status.failure.map(|failure| failure.code))
}

#[test]
fn dev_20_and_22_the_worst_component_decides_and_the_deployment_is_the_source() {
    let status = deployment(&[State::Installed, State::Failed, State::Installing]);
    assert_eq!(status.state(), State::Failed);
    assert_eq!(status.failure().unwrap().source, "hello");
    assert_eq!(status.components[1].failure.as_ref().unwrap().source, "c1");
    assert_eq!(deployment(&[State::Installed, State::Pending]).failure(), None);
}

#[test]
fn dev_19_every_change_is_told_once() {
    use State::*;
    let [begun, done] = [&[Installing, Pending], &[Installed, Installed]].map(|states| statuses(deployment(states)));
    let all = [(Some("c0".to_owned()), Installing), (Some("c1".to_owned()), Pending), (None, Installing)];
    assert_eq!(told(&Statuses::new(), &begun), all);
    assert_eq!(told(&begun, &begun), []);
    let half = statuses(deployment(&[Installed, Installing]));
    assert_eq!(told(&begun, &half), [(Some("c0".to_owned()), Installed), (Some("c1".to_owned()), Installing)]);
    assert_eq!(told(&half, &done), [(Some("c1".to_owned()), Installed), (None, Installed)]);
    let again = statuses(DeploymentStatus { digest: Digest::of(b"two"), ..deployment(&[Installed]) });
    assert_eq!(told(&done, &again), [(Some("c0".to_owned()), Installed), (None, Installed)]);
}

#[test]
fn another_message_of_the_same_failure_is_no_change() {
    let before = deployment(&[State::Failed]);
    let mut after = before.clone();
    after.components[0].failure.as_mut().unwrap().message = "status 2".to_owned();
    assert_eq!(told(&statuses(before.clone()), &statuses(after.clone())), []);
    after.components[0].failure.as_mut().unwrap().code = "memory".to_owned();
    assert_eq!(told(&statuses(before), &statuses(after)).len(), 2);
}

#[test]
fn an_update_that_was_undone_is_failed_though_what_runs_is_fine() {
    let before = Digest::of(b"before");
    let blame = |source: &str| Failure { runs: Some(before), ..Failure::new("exited", source, "status 1") };
    let mut undone = deployment(&[State::Installed, State::Installed]);
    undone.refuse(&blame("c1"));
    let states = |status: &DeploymentStatus| status.components.iter().map(|it| it.state).collect::<Vec<_>>();
    assert_eq!((undone.state(), states(&undone)), (State::Failed, vec![State::Installed, State::Failed]));
    assert_eq!(undone.failure(), Some(blame("hello")));
    // The component that failed is not part of what runs again.
    let mut undone = deployment(&[State::Installed]);
    undone.refuse(&blame("new"));
    assert_eq!(undone.components[1].failure, Some(blame("new")));
    // Nobody is to blame when the document itself was the reason.
    let mut unreadable = deployment(&[State::Installed]);
    unreadable.refuse(&Failure { runs: Some(before), ..Failure::new(UNREADABLE, "c0", "spec: missing") });
    assert_eq!((unreadable.state(), states(&unreadable)), (State::Failed, vec![State::Installed]));
    let removing = undone.leaving(ManifestVersion::FIRST, |_| Some(None));
    assert_eq!((removing.state(), removing.failure()), (State::Removing, None));
}

#[test]
fn a_removal_counts_with_the_version_that_ordered_it() {
    let version = |number: u64| ManifestVersion::try_from(number).unwrap();
    let removing = deployment(&[State::Installed, State::Failed])
        .leaving(version(4), |component| (component.name.as_str() == "c0").then_some(None));
    assert_eq!((removing.state(), removing.adopted), (State::Removing, version(4)));
    assert_eq!(removing.failure(), None);
    let removed = removing.leaving(version(9), |_| None);
    assert_eq!((removed.state(), removed.adopted), (State::Removed, version(4)));
}

#[test]
fn dev_19_a_removal_that_does_not_succeed_has_a_reason() {
    let stuck = Obstacle::failing("timeout", "stopping did not end within 120s");
    let removing = deployment(&[State::Installed]).leaving(ManifestVersion::FIRST, |_| Some(Some(&stuck)));
    assert_eq!(removing.state(), State::Removing);
    assert_eq!(removing.failure().unwrap().code, "timeout");
}

#[test]
fn what_the_runtime_shows_decides_before_what_was_tried() {
    let starting = seen(Condition::Starting);
    let failed = seen(Condition::Failed { code: "exited".to_owned(), message: String::new() });
    let running = seen(Condition::Running { endpoint: Some("http://127.0.0.1:8080/".to_owned()) });
    let completed = seen(Condition::Completed);
    let [passing, failing, lasting] =
        [Obstacle::passing("fetch-failed", ""), Obstacle::failing("timeout", ""), Obstacle::lasting("invalid", "")];
    let code = |code: &str| Some(code.to_owned());
    assert_eq!(judged(&facts(Some(&running), Some(&lasting))), (State::Installed, None));
    assert_eq!(judged(&facts(Some(&completed), None)), (State::Installed, None));
    assert_eq!(judged(&facts(Some(&failed), None)), (State::Failed, code("exited")));
    assert_eq!(judged(&facts(Some(&starting), None)), (State::Installing, None));
    assert_eq!(judged(&facts(None, Some(&passing))), (State::Installing, code("fetch-failed")));
    assert_eq!(judged(&facts(None, Some(&failing))), (State::Failed, code("timeout")));
    assert_eq!(judged(&facts(None, Some(&lasting))), (State::Failed, code("invalid")));
    assert_eq!(judged(&facts(None, None)), (State::Installing, None));
    for (obstacle, expected) in [
        (None, (State::Pending, None)),
        (Some(passing), (State::Pending, None)),
        (Some(lasting), (State::Failed, code("invalid"))),
    ] {
        assert_eq!(judged(&Facts { turn: false, ..facts(None, obstacle.as_ref()) }), expected);
    }
}

#[test]
fn what_nobody_can_tell_is_as_it_was_with_that_reason() {
    let unknown = seen(Condition::Unknown { reason: "the engine does not answer".to_owned() });
    let was = ComponentStatus { endpoint: Some("http://127.0.0.1/".to_owned()), ..component("c", State::Installed) };
    let status = judge(&"c".parse().unwrap(), &Facts { was: Some(&was), ..facts(Some(&unknown), None) });
    assert_eq!((status.state, status.endpoint), (State::Installed, was.endpoint));
    let failure = status.failure.unwrap();
    assert_eq!((failure.code.as_str(), failure.message.as_str()), (UNKNOWN, "the engine does not answer"));
    assert_eq!(judged(&facts(Some(&unknown), None)).0, State::Installing);
}

#[test]
fn restarts_and_parts_are_shown_and_are_no_transitions() {
    let id = seen(Condition::Starting).id;
    let parts = vec![
        Part {
            name: "web".to_owned(),
            condition: Condition::Running { endpoint: Some("http://127.0.0.1/".to_owned()) },
        },
        Part { name: "setup".to_owned(), condition: Condition::Completed },
    ];
    let observed = Observed { restarts: 3, ..Observed::of_parts(id, Digest::of(b"one"), parts) };
    let status = judge(&"c".parse().unwrap(), &facts(Some(&observed), None));
    assert_eq!((status.state, status.restarts), (State::Installed, 3));
    let shown: Vec<_> = status.parts.iter().map(|part| (part.name.as_str(), part.state)).collect();
    assert_eq!(shown, [("web", State::Installed), ("setup", State::Installed)]);
    assert_eq!(status.parts[0].endpoint.as_deref(), Some("http://127.0.0.1/"));

    let before = statuses(DeploymentStatus { components: vec![status.clone()], ..deployment(&[]) });
    let more = ComponentStatus { restarts: 4, ..status };
    assert_eq!(told(&before, &statuses(DeploymentStatus { components: vec![more], ..deployment(&[]) })), []);
}

#[test]
fn dev_26_time_that_elapsed_is_a_failure_until_it_runs() {
    let (starting, running) = (seen(Condition::Starting), seen(Condition::Running { endpoint: None }));
    let overdue = |seen| Facts { overdue: true, ..facts(seen, None) };
    assert_eq!(judged(&overdue(Some(&starting))), (State::Failed, Some("timeout".to_owned())));
    assert_eq!(judged(&overdue(Some(&running))), (State::Installed, None));
    assert_eq!(judged(&overdue(None)), (State::Failed, Some("timeout".to_owned())), "not applied in time");
}

#[test]
fn words_of_a_workload_are_cut() {
    assert_eq!(Failure::new("exited", "c", &"ä".repeat(10_000)).message.chars().count(), MAX_MESSAGE);
}
