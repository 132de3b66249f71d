use super::*;

fn component(name: &str, state: State) -> ComponentStatus {
    let failure = (state == State::Failed).then(|| Failure::new("exited", name, "status 1"));
    ComponentStatus { name: name.parse().unwrap(), state, failure, endpoint: None }
}

fn deployment(states: &[State]) -> DeploymentStatus {
    let components = states.iter().enumerate().map(|(at, state)| component(&format!("c{at}"), *state));
    DeploymentStatus {
        name: "hello".to_owned(),
        digest: Digest::of(b"one"),
        adopted: ManifestVersion::FIRST,
        components: components.collect(),
    }
}

fn statuses(deployment: DeploymentStatus) -> Statuses {
    Statuses::from([("9db79949-86fb-5e45-910d-8a83dd7391cc".parse().unwrap(), deployment)])
}

fn told(before: &Statuses, after: &Statuses) -> Vec<(Option<String>, State)> {
    changes(before, after).into_iter().map(|it| (it.component.map(|name| name.to_string()), it.state)).collect()
}

fn facts<'a>(condition: Option<&'a Condition>, obstacle: Option<&'a Obstacle>) -> Facts<'a> {
    Facts { condition, obstacle, turn: true, overdue: false }
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
fn a_removal_counts_with_the_version_that_ordered_it() {
    let version = |number: u64| ManifestVersion::try_from(number).unwrap();
    let removing = deployment(&[State::Installed, State::Failed]).leaving(version(4), |name| name.as_str() == "c0");
    assert_eq!((removing.state(), removing.adopted), (State::Removing, version(4)));
    assert_eq!(removing.failure(), None);
    let removed = removing.leaving(version(9), |_| false);
    assert_eq!((removed.state(), removed.adopted), (State::Removed, version(4)));
}

#[test]
fn what_the_runtime_shows_decides_before_what_was_tried() {
    let starting = Condition::Starting;
    let failed = Condition::Failed { code: "exited".to_owned(), message: String::new() };
    let running = Condition::Running { endpoint: Some("http://127.0.0.1:8080/".to_owned()) };
    let obstacle = |lasting| Obstacle { code: "fetch-failed", message: String::new(), lasting };
    let code = |code: &str| Some(code.to_owned());
    assert_eq!(judged(&facts(Some(&running), Some(&obstacle(true)))), (State::Installed, None));
    assert_eq!(judged(&facts(Some(&failed), None)), (State::Failed, code("exited")));
    assert_eq!(judged(&facts(Some(&starting), None)), (State::Installing, None));
    assert_eq!(judged(&facts(None, Some(&obstacle(false)))), (State::Installing, code("fetch-failed")));
    assert_eq!(judged(&facts(None, Some(&obstacle(true)))), (State::Failed, code("fetch-failed")));
    assert_eq!(judged(&facts(None, None)), (State::Installing, None));
    for (obstacle, expected) in [
        (None, (State::Pending, None)),
        (Some(obstacle(false)), (State::Pending, None)),
        (Some(obstacle(true)), (State::Failed, code("fetch-failed"))),
    ] {
        assert_eq!(judged(&Facts { turn: false, ..facts(None, obstacle.as_ref()) }), expected);
    }
}

#[test]
fn dev_26_time_that_elapsed_is_a_failure_until_it_runs() {
    let (starting, running) = (Condition::Starting, Condition::Running { endpoint: None });
    let overdue = |condition| Facts { overdue: true, ..facts(Some(condition), None) };
    assert_eq!(judged(&overdue(&starting)), (State::Failed, Some("timeout".to_owned())));
    assert_eq!(judged(&overdue(&running)), (State::Installed, None));
}

#[test]
fn words_of_a_workload_are_cut() {
    assert_eq!(Failure::new("exited", "c", &"ä".repeat(10_000)).message.chars().count(), MAX_MESSAGE);
}
