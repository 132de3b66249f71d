//! Each side of the evidence is corrupted in turn: every corruption has to be found, and named.

use end_to_end::Start;

use super::*;
use crate::{
    HELLO, SECOND,
    evidence::{Assignment, Deployment, Interface, Order, Witnessed},
};

const PRESS: &str = "north/press";
const OVEN: &str = "north/oven";
const KILN: &str = "south/kiln";

/// Runners by the node on which they live; the one of `PRESS` is the second of its document, the first was killed.
const PRESS_RUNNER: ProcessKey = (11, 1_011);
const KILLED_RUNNER: ProcessKey = (10, 1_010);
const SECOND_APP_RUNNER: ProcessKey = (12, 1_012);
const KILN_RUNNER: ProcessKey = (20, 1_020);

fn content(app: &'static str, greeting: &str, nodes: &[&str]) -> Content {
    let nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
    Content { app, version: "1.0.0", greeting: greeting.to_owned(), nodes }
}

fn sent(reason: &str, assignment: &str, wish: Wish, answer: Answer) -> Sent {
    Sent { reason: reason.to_owned(), assignment: assignment.to_owned(), wish, forbidden: false, answer }
}

fn accepted(order: &str, revision: u64) -> Answer {
    Answer::Accepted { order: order.to_owned(), revision }
}

fn update(from: u64, to: Content) -> Wish {
    Wish::Update { from: Some(from), to }
}

fn commit(order: &str, assignment: &str, reason: &str) -> Commit {
    Commit { order: order.to_owned(), assignment: assignment.to_owned(), reason: reason.to_owned() }
}

fn ledger() -> Vec<Sent> {
    let unknown = || Answer::Unknown("the connection was lost".to_owned());
    let hello = |greeting: &str, nodes: &[&str]| content(HELLO, greeting, nodes);
    let second = |greeting: &str, nodes: &[&str]| content(SECOND, greeting, nodes);
    vec![
        sent("created", "ada-1", Wish::Create(hello("ada 1", &[PRESS])), accepted("o1", 1)),
        sent("updated", "ada-1", update(1, hello("ada 2", &[PRESS, KILN])), accepted("o2", 2)),
        sent("unknown and there", "ada-1", update(2, hello("ada 3", &[PRESS])), unknown()),
        sent("too late", "ada-1", update(2, hello("ada 3", &[PRESS])), Answer::Refused(412)),
        sent("shared", "shared-1", Wish::Create(second("cleo 1", &[OVEN])), accepted("o4", 1)),
        sent("taken away", "shared-1", Wish::Remove { from: 1 }, accepted("o5", 2)),
        sent("shared again", "shared-2", Wish::Create(second("dora 1", &[PRESS])), accepted("o6", 1)),
        sent("unknown and lost", "shared-2", update(1, second("dora 2", &[OVEN])), unknown()),
        sent("not sent", "shared-2", Wish::Remove { from: 1 }, Answer::NotSent),
        Sent {
            forbidden: true,
            ..sent("forbidden", "ada-never-1", Wish::Create(hello("ada 4", &[PRESS])), Answer::Refused(422))
        },
    ]
}

fn document(app: &str, greeting: &str) -> Vec<u8> {
    format!("spec:\n  applicationId: {app}\n  parameters:\n    greeting:\n      value: {greeting}\n").into_bytes()
}

fn assignment_file(name: &str, revision: u64, state: &str, greeting: &str) -> (String, Vec<u8>) {
    let text = format!("name: {name}\nrevision: {revision}\nstate: {state}\nparameters:\n  greeting: {greeting}\n");
    (fanned_out("assignments", name), text.into_bytes())
}

/// A site's repository with these documents, and the head that sums them up.
fn site(name: &str, documents: &[(&str, &str, Vec<u8>)], commits: Vec<Commit>) -> Site {
    let path = |assignment: &str, node: &str| document_path(node, &deployment_id(assignment, node));
    let files = documents.iter().map(|(assignment, node, bytes)| (path(assignment, node), bytes.clone())).collect();
    let mut site = Site { repository: Repository { commits, files, unsound: None }, in_force: Some(4) };
    sum_up(name, &mut site);
    site
}

/// Writes the head that the documents of a site have.
fn sum_up(name: &str, site: &mut Site) {
    let files = &mut site.repository.files;
    let nodes: Vec<_> = files.keys().filter_map(|path| Some(entry(path)?.0)).collect();
    for node in nodes {
        files.insert(format!("{}/VERSION", node_folder(node.as_str())), b"4\n".to_vec());
    }
    let list = list(files).unwrap();
    let (tenant, client) = (TenantName::default(), name.parse().unwrap());
    let head = Head { tenant, client, version: 4.try_into().unwrap(), list: list.digest() };
    files.insert("head".to_owned(), head.to_bytes());
}

fn listed(name: &str, revision: u64, state: &str, greeting: &str) -> Assignment {
    let parameters = BTreeMap::from([("greeting".to_owned(), greeting.to_owned())]);
    Assignment { name: name.to_owned(), revision, state: state.to_owned(), parameters }
}

fn deployment(assignment: &str, node: &str, document: Option<Vec<u8>>) -> Deployment {
    Deployment {
        id: deployment_id(assignment, node),
        assignment: assignment.to_owned(),
        node: node.to_owned(),
        state: if document.is_some() { "installed" } else { "removed" }.to_owned(),
        digest: document.map(|bytes| Digest::of(&bytes).to_string()),
    }
}

fn start(assignment: &str, node: &str, (pid, kernel_start): ProcessKey, document: &[u8]) -> Start {
    let workload = format!("{}.hello", deployment_id(assignment, node));
    Start { workload, pid, kernel_start, digest: Digest::of(document).to_string() }
}

fn node(answers: [Option<&str>; 2], runners: &[(&str, ProcessKey)], name: &str, starts: Vec<Start>) -> Node {
    let runner = |(assignment, process): &(&str, ProcessKey)| LivingRunner {
        deployment: deployment_id(assignment, name),
        process: *process,
    };
    let answers = answers.map(|answer| answer.map(|greeting| format!("{greeting} from Edgewright\n")));
    Node {
        answers: crate::PORTS.into_iter().zip(answers).collect(),
        runners: runners.iter().map(runner).collect(),
        starts,
    }
}

/// A campaign in which every promise was kept.
fn evidence() -> Evidence {
    let [ada, dora] = [document(HELLO, "ada 3"), document(SECOND, "dora 1")];
    let fleet_commits = vec![
        commit("o1", "ada-1", "created"),
        commit("o4", "shared-1", "shared"),
        commit("o2", "ada-1", "updated"),
        commit("o5", "shared-1", "taken away"),
        commit("o3", "ada-1", "unknown and there"),
        commit("o6", "shared-2", "shared again"),
    ];
    let mut files = BTreeMap::from([
        assignment_file("ada-1", 3, "active", "ada 3"),
        assignment_file("shared-1", 2, "removed", "cleo 1"),
        assignment_file("shared-2", 1, "active", "dora 1"),
    ]);
    for name in ["ada-1", "shared-2"] {
        files.insert(fanned_out("placements", name), b"nodes".to_vec());
    }
    let order = |commit: &Commit, revision| Order {
        id: commit.order.clone(),
        assignment: commit.assignment.clone(),
        revision,
        reason: commit.reason.clone(),
        committed: true,
    };
    let orders = fleet_commits.iter().zip([1, 1, 2, 2, 3, 1]).map(|(commit, revision)| order(commit, revision));
    let interface = Interface {
        assignments: vec![
            listed("ada-1", 3, "active", "ada 3"),
            listed("shared-1", 2, "removed", "cleo 1"),
            listed("shared-2", 1, "active", "dora 1"),
        ],
        orders: orders.collect(),
        deployments: vec![
            deployment("ada-1", PRESS, Some(ada.clone())),
            deployment("ada-1", KILN, Some(ada.clone())),
            deployment("shared-1", OVEN, None),
            deployment("shared-2", PRESS, Some(dora.clone())),
        ],
    };
    let south_commits = vec![fleet_commits[2].clone(), fleet_commits[4].clone()];
    let north = [("ada-1", PRESS, ada.clone()), ("shared-2", PRESS, dora.clone())];
    let press_starts = vec![
        start("ada-1", PRESS, (9, 1_009), &document(HELLO, "ada 2")),
        start("ada-1", PRESS, KILLED_RUNNER, &ada),
        start("ada-1", PRESS, PRESS_RUNNER, &ada),
        start("shared-2", PRESS, SECOND_APP_RUNNER, &dora),
    ];
    let press_runners = [("ada-1", PRESS_RUNNER), ("shared-2", SECOND_APP_RUNNER)];
    let nodes = BTreeMap::from([
        (PRESS.to_owned(), node([Some("ada 3"), Some("dora 1")], &press_runners, PRESS, press_starts)),
        (OVEN.to_owned(), node([None, None], &[], OVEN, vec![])),
        (
            KILN.to_owned(),
            node([Some("ada 3"), None], &[("ada-1", KILN_RUNNER)], KILN, vec![start("ada-1", KILN, KILN_RUNNER, &ada)]),
        ),
    ]);
    Evidence {
        ledger: ledger(),
        sites: BTreeMap::from([
            ("north".to_owned(), site("north", &north, fleet_commits.clone())),
            ("south".to_owned(), site("south", &[("ada-1", KILN, ada)], south_commits)),
        ]),
        fleet: Repository { commits: fleet_commits, files, unsound: None },
        interface,
        nodes,
        witnessed: Witnessed { killed_runners: BTreeSet::from([KILLED_RUNNER]), ..Witnessed::default() },
    }
}

/// What is found when the good evidence is changed like this.
fn found(corrupt: impl FnOnce(&mut Evidence)) -> Vec<Finding> {
    let mut evidence = evidence();
    corrupt(&mut evidence);
    check(&evidence)
}

/// Looks for one finding among those that a corruption causes.
#[track_caller]
fn names(finding: &Finding, corrupt: impl FnOnce(&mut Evidence)) {
    let found = found(corrupt);
    assert!(found.contains(finding), "{finding:?} is not among {found:#?}");
}

fn north(evidence: &mut Evidence) -> &mut Repository {
    &mut evidence.sites.get_mut("north").unwrap().repository
}

fn press(evidence: &mut Evidence) -> &mut Node {
    evidence.nodes.get_mut(PRESS).unwrap()
}

fn ada_on_press() -> String {
    document_path(PRESS, &deployment_id("ada-1", PRESS))
}

#[test]
fn nothing_is_found_in_a_campaign_without_a_fault() {
    assert_eq!(check(&evidence()), []);
}

#[test]
fn an_accepted_order_that_is_missing_or_doubled_in_git() {
    let missing = Finding::NotCommitted { reason: "updated".to_owned() };
    names(&missing, |evidence| evidence.fleet.commits.retain(|commit| commit.reason != "updated"));
    let twice = |place: &str| Finding::CommittedTwice { place: place.to_owned(), reason: "created".to_owned() };
    let again = || commit("o1", "ada-1", "created");
    names(&twice(FLEET), |evidence| evidence.fleet.commits.push(again()));
    assert_eq!(found(|evidence| north(evidence).commits.push(again())), [twice("north")]);
}

#[test]
fn an_order_without_an_answer_that_is_there_twice_or_in_part() {
    let reason = || "unknown and there".to_owned();
    let again = || commit("o3", "ada-1", "unknown and there");
    names(&Finding::CommittedTwice { place: FLEET.to_owned(), reason: reason() }, |evidence| {
        evidence.fleet.commits.push(again());
    });
    let in_part = found(|evidence| north(evidence).commits.retain(|commit| commit.order != "o3"));
    assert_eq!(in_part, [Finding::NotWhole { place: "north".to_owned(), reason: reason() }]);
    // The other way round: a site has it, the fleet does not.
    let reason = "unknown and lost".to_owned();
    let stray = found(|evidence| north(evidence).commits.push(commit("o7", "shared-2", "unknown and lost")));
    assert_eq!(stray, [Finding::Stray { place: "north".to_owned(), reason }]);
}

#[test]
fn a_commit_in_the_repository_of_a_site_that_the_order_is_not_about() {
    let stray = Finding::Stray { place: "south".to_owned(), reason: "shared again".to_owned() };
    let found = found(|evidence| {
        let south = evidence.sites.get_mut("south").unwrap();
        south.repository.commits.push(commit("o6", "shared-2", "shared again"));
    });
    assert_eq!(found, [stray]);
}

#[test]
fn a_refused_or_unsent_order_that_left_something() {
    for reason in ["too late", "not sent", "forbidden"] {
        let present = |place: &str| Finding::RefusedButPresent { place: place.to_owned(), reason: reason.to_owned() };
        names(&present(FLEET), |evidence| evidence.fleet.commits.push(commit("o9", "ada-1", reason)));
        names(&present("north"), |evidence| north(evidence).commits.push(commit("o9", "ada-1", reason)));
        names(&present(INTERFACE), |evidence| evidence.interface.orders[0].reason = reason.to_owned());
    }
}

#[test]
fn a_forbidden_order_that_was_accepted() {
    let forbidden = Finding::ForbiddenButAccepted { reason: "forbidden".to_owned() };
    names(&forbidden, |evidence| evidence.ledger[9].answer = accepted("o9", 1));
    // Its answer was lost: then it may not be there either.
    names(&forbidden, |evidence| {
        evidence.ledger[9].answer = Answer::Unknown("504".to_owned());
        evidence.fleet.commits.push(commit("o9", "ada-never-1", "forbidden"));
    });
}

#[test]
fn a_commit_that_nobody_ordered() {
    let nobody = Finding::NobodySent { place: FLEET.to_owned(), reason: "mallory".to_owned() };
    names(&nobody, |evidence| evidence.fleet.commits.push(commit("o9", "ada-1", "mallory")));
}

#[test]
fn a_commit_that_is_not_as_it_was_answered() {
    let differs =
        |reason: &str, found: &str| Finding::NotAsAnswered { reason: reason.to_owned(), found: found.to_owned() };
    names(&differs("created", "order o8"), |evidence| evidence.fleet.commits[0].order = "o8".to_owned());
    names(&differs("created", "assignment ada-2"), |evidence| {
        evidence.fleet.commits[0].assignment = "ada-2".to_owned();
    });
    names(&differs("updated", "revision 2"), |evidence| evidence.ledger[1].answer = accepted("o2", 3));
}

#[test]
fn an_order_that_was_carried_out_on_another_revision_than_it_named() {
    let wrong = |reason: &str| Finding::WrongPredecessor { reason: reason.to_owned() };
    names(&wrong("updated"), |evidence| {
        evidence.ledger[1].wish = update(7, content(HELLO, "ada 2", &[PRESS, KILN]));
    });
    // Two commits that changed places.
    names(&wrong("created"), |evidence| evidence.fleet.commits.swap(0, 2));
    // After the removal nothing may come.
    names(&wrong("shared"), |evidence| evidence.fleet.commits.swap(1, 3));
}

#[test]
fn a_wrong_last_wish_in_the_files_of_the_fleet() {
    let old = [
        assignment_file("ada-1", 3, "active", "ada 2"),
        assignment_file("ada-1", 2, "active", "ada 3"),
        assignment_file("ada-1", 3, "removed", "ada 3"),
        assignment_file("ada-2", 3, "active", "ada 3"),
    ];
    for (_, bytes) in old {
        let path = fanned_out("assignments", "ada-1");
        let wrong = Finding::WrongFile { path: path.clone(), found: String::from_utf8(bytes.clone()).unwrap() };
        assert_eq!(found(|evidence| drop(evidence.fleet.files.insert(path, bytes))), [wrong]);
    }
    for path in [fanned_out("assignments", "shared-1"), fanned_out("placements", "ada-1")] {
        let found = found(|evidence| drop(evidence.fleet.files.remove(&path)));
        assert!(matches!(found.as_slice(), [Finding::WrongFile { path: named, .. }] if *named == path), "{found:?}");
    }
    for path in [fanned_out("assignments", "mallory"), fanned_out("placements", "shared-1")] {
        let found = found(|evidence| drop(evidence.fleet.files.insert(path.clone(), vec![])));
        assert!(matches!(found.as_slice(), [Finding::WrongFile { path: named, .. }] if *named == path), "{found:?}");
    }
}

#[test]
fn a_document_of_a_site_that_is_old_missing_or_unwished() {
    let wrong = Finding::WrongDocument { site: "north".to_owned(), path: ada_on_press() };
    names(&wrong, |evidence| {
        north(evidence).files.insert(ada_on_press(), document(HELLO, "ada 2"));
        sum_up("north", evidence.sites.get_mut("north").unwrap());
    });
    names(&wrong, |evidence| {
        north(evidence).files.insert(ada_on_press(), document(SECOND, "ada 3"));
    });
    names(&wrong, |evidence| drop(north(evidence).files.remove(&ada_on_press())));
    let path = document_path(OVEN, &deployment_id("shared-1", OVEN));
    let unwanted = Finding::UnwantedDocument { site: "north".to_owned(), path: path.clone() };
    let found = found(|evidence| {
        north(evidence).files.insert(path, document(SECOND, "cleo 1"));
        sum_up("north", evidence.sites.get_mut("north").unwrap());
    });
    assert_eq!(found, [unwanted]);
}

#[test]
fn a_head_that_is_not_the_summary_or_is_not_in_force() {
    let wrong = Finding::WrongHead { site: "north".to_owned() };
    let removed = found(|evidence| drop(north(evidence).files.remove("head")));
    let south = |evidence: &mut Evidence| evidence.sites["south"].repository.files["head"].clone();
    let of_another = found(|evidence| {
        let head = south(evidence);
        north(evidence).files.insert("head".to_owned(), head);
    });
    let wrong = [wrong];
    assert_eq!((removed.as_slice(), of_another.as_slice()), (&wrong[..], &wrong[..]));
    for in_force in [None, Some(3)] {
        let expected = Finding::NotInForce { site: "north".to_owned(), expected: 4, found: in_force };
        assert_eq!(found(|evidence| evidence.sites.get_mut("north").unwrap().in_force = in_force), [expected]);
    }
}

#[test]
fn an_interface_that_answers_something_else_than_git_holds() {
    type Corrupt = fn(&mut Interface);
    let corruptions: [(&str, Corrupt); 9] = [
        ("ada-1", |interface| interface.assignments[0].revision = 2),
        ("ada-1", |interface| interface.assignments[0].state = "removed".to_owned()),
        ("ada-1", |interface| interface.assignments[0].parameters.clear()),
        ("ada-1", |interface| drop(interface.assignments.remove(0))),
        ("ada-1", |interface| interface.assignments.push(interface.assignments[0].clone())),
        ("mallory", |interface| interface.assignments.push(listed("mallory", 1, "active", "x"))),
        ("created", |interface| interface.orders[0].committed = false),
        ("created", |interface| interface.orders[0].revision = 2),
        ("created", |interface| interface.orders.push(interface.orders[0].clone())),
    ];
    for (number, (expected, corrupt)) in corruptions.into_iter().enumerate() {
        let found = found(|evidence| corrupt(&mut evidence.interface));
        assert!(
            matches!(found.as_slice(), [Finding::WrongAnswer { about, .. }] if about == expected),
            "corruption {number}: {found:?}"
        );
    }
}

#[test]
fn a_deployment_that_is_missing_not_settled_or_of_another_document() {
    let about = format!("deployment of ada-1 on {PRESS}");
    let is_wrong = |found: &[Finding]| {
        found.iter().any(|finding| matches!(finding, Finding::WrongAnswer { about: named, .. } if *named == about))
    };
    assert!(is_wrong(&found(|evidence| drop(evidence.interface.deployments.remove(0)))));
    let other = Some(Digest::of(b"another document").to_string());
    assert!(is_wrong(&found(|evidence| evidence.interface.deployments[0].digest = other)));
    let unsettled = |assignment: &str, node: &str, state: &str| Finding::NotSettled {
        assignment: assignment.to_owned(),
        node: node.to_owned(),
        state: state.to_owned(),
    };
    let failed = found(|evidence| evidence.interface.deployments[0].state = "failed".to_owned());
    assert_eq!(failed, [unsettled("ada-1", PRESS, "failed")]);
    let removing = found(|evidence| evidence.interface.deployments[2].state = "removing".to_owned());
    assert_eq!(removing, [unsettled("shared-1", OVEN, "removing")]);
}

#[test]
fn a_status_that_claims_installed_though_the_workload_does_not_answer_so() {
    for answer in [None, Some("ada 2 from Edgewright\n".to_owned()), Some("busy".to_owned())] {
        let (assignment, node) = ("ada-1".to_owned(), PRESS.to_owned());
        let claims = Finding::ClaimsInstalled { assignment, node, found: answer.clone() };
        assert_eq!(found(|evidence| drop(press(evidence).answers.insert(8080, answer))), [claims]);
    }
}

#[test]
fn something_that_answers_where_nothing_is_wished() {
    let answer = "cleo 1 from Edgewright".to_owned();
    let expected = Finding::AnswersUnasked { node: OVEN.to_owned(), port: 8081, found: answer.clone() };
    let found = found(|evidence| {
        evidence.nodes.get_mut(OVEN).unwrap().answers.insert(8081, Some(answer));
    });
    assert_eq!(found, [expected]);
}

#[test]
fn a_second_runner_none_or_one_of_another_document() {
    let wrong = |found: &[ProcessKey]| Finding::WrongRunners {
        node: PRESS.to_owned(),
        deployment: deployment_id("ada-1", PRESS),
        found: found.to_vec(),
    };
    let another = |process| LivingRunner { deployment: deployment_id("ada-1", PRESS), process };
    let second = found(|evidence| press(evidence).runners.push(another((99, 1_099))));
    assert_eq!(second, [wrong(&[PRESS_RUNNER, (99, 1_099)])]);
    assert_eq!(found(|evidence| drop(press(evidence).runners.remove(0))), [wrong(&[])]);
    // The runner of the document before, still alive.
    let old = found(|evidence| press(evidence).runners[0].process = (9, 1_009));
    assert_eq!(old, [wrong(&[(9, 1_009)])]);
    // The same number, but another process.
    let reused = found(|evidence| press(evidence).runners[0].process = (PRESS_RUNNER.0, 1));
    assert_eq!(reused, [wrong(&[(PRESS_RUNNER.0, 1)])]);
}

#[test]
fn a_runner_that_nobody_wishes() {
    let runner = LivingRunner { deployment: deployment_id("shared-1", OVEN), process: (99, 1_099) };
    let unwanted = Finding::UnwantedRunner { node: OVEN.to_owned(), runner: runner.clone() };
    assert_eq!(found(|evidence| evidence.nodes.get_mut(OVEN).unwrap().runners.push(runner)), [unwanted]);
}

#[test]
fn a_workload_that_was_started_again_without_a_reason() {
    let again = |before, greeting: &str| Finding::StartedAgain {
        node: PRESS.to_owned(),
        digest: Digest::of(&document(HELLO, greeting)).to_string(),
        before,
    };
    let not_killed = found(|evidence| evidence.witnessed.killed_runners.clear());
    assert_eq!(not_killed, [again(KILLED_RUNNER, "ada 3")]);
    // The document before the last one comes back, and goes again.
    let came_back = found(|evidence| {
        press(evidence).starts.insert(2, start("ada-1", PRESS, (98, 1_098), &document(HELLO, "ada 2")));
    });
    assert_eq!(came_back, [again((9, 1_009), "ada 2")]);
}

#[test]
fn two_runners_of_one_workload_that_were_seen_at_the_same_moment() {
    let runners = (PRESS_RUNNER, (99, 1_099));
    let two = Finding::TwoRunners { folder: "press/workload".to_owned(), runners };
    let found = found(|evidence| evidence.witnessed.doubles.extend([("press/workload".to_owned(), runners)]));
    assert_eq!(found, [two]);
}

#[test]
fn a_repository_that_is_unsound_and_a_process_that_ended_by_itself() {
    let complaint = "error: object corrupt or missing".to_owned();
    for place in [FLEET, "north"] {
        let unsound = Finding::Unsound { place: place.to_owned(), complaint: complaint.clone() };
        let found = found(|evidence| {
            let repository = if place == FLEET { &mut evidence.fleet } else { north(evidence) };
            repository.unsound = Some(complaint.clone());
        });
        assert_eq!(found, [unsound]);
    }
    let (process, how) = ("git-writer".to_owned(), "exit status: 1".to_owned());
    let ended = Finding::EndedByItself { process: process.clone(), how: how.clone() };
    assert_eq!(found(|evidence| evidence.witnessed.ended.push((process, how))), [ended]);
}
