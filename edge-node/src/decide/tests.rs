use std::{io, sync::Arc, time::Duration};

use margo::{ApplicationDeployment, Digest, State};
use proptest::prelude::*;
use runtime::{Condition, RuntimeError};

use super::*;
use crate::{
    attempt::StepError,
    desired::{Content, Deployment, Revision, WayBack},
    resolve::{Offered, resolve},
    status::UNKNOWN,
    testing,
};

const OFFERED: &[Offered] = &[("null", margo::ProfileType::Custom), ("other", margo::ProfileType::Custom)];

/// Everything that a look borrows.
#[derive(Debug)]
struct World {
    desired: Desired,
    resolution: Resolution,
    actual: Actual,
    blind: Blind,
    attempts: Attempts,
    now: Instant,
    taking_up: bool,
}

impl World {
    fn wanting(documents: &[ApplicationDeployment]) -> Self {
        let deployment = |content: &ApplicationDeployment| {
            let wanted = revision(content);
            (content.id, Deployment { wanted, adopted: ManifestVersion::FIRST, way_back: None })
        };
        let desired =
            Desired { version: ManifestVersion::FIRST, deployments: documents.iter().map(deployment).collect() };
        Self {
            resolution: resolve(&desired, OFFERED, None, None),
            desired,
            actual: Actual::new(),
            blind: Blind::new(),
            attempts: Attempts::default(),
            now: Instant::now(),
            taking_up: false,
        }
    }

    fn look(&self) -> Look<'_> {
        Look {
            desired: &self.desired,
            resolution: &self.resolution,
            actual: &self.actual,
            blind: &self.blind,
            attempts: &self.attempts,
            now: self.now,
            taking_up: self.taking_up,
        }
    }

    fn due(&self) -> Vec<Step> {
        due(&self.look(), |_| false)
    }

    fn statuses(&self, before: &Statuses) -> Statuses {
        statuses(&self.look(), before, |_| None)
    }

    fn only(&self, before: &Statuses) -> ComponentStatus {
        self.statuses(before).into_values().next().unwrap().components.remove(0)
    }

    /// The digest with which a component is wanted.
    fn digest(&self, id: &WorkloadId) -> Option<Digest> {
        find(&self.resolution, id).map(|resolved| resolved.digest)
    }

    /// Gives a deployment, which changed, this way back.
    fn give_way_back(&mut self, installed: &ApplicationDeployment, refused: Option<Failure>) {
        let way_back = WayBack { installed: revision(installed), refused };
        self.desired.deployments.get_mut(&installed.id).unwrap().way_back = Some(way_back);
        self.resolution = resolve(&self.desired, OFFERED, None, None);
    }

    /// Shows a component as it is wanted.
    fn show(&mut self, id: &WorkloadId, condition: Condition) {
        let digest = self.digest(id).unwrap();
        self.actual.insert((id.clone(), "null"), Observed::whole(id.clone(), digest, condition));
    }

    fn fail(&mut self, id: &WorkloadId, error: RuntimeError) {
        let digest = self.digest(id);
        self.attempts.failed(id, digest, &StepError::Runtime(error), self.now);
    }
}

fn revision(content: &ApplicationDeployment) -> Arc<Revision> {
    let document = content.to_yaml();
    let digest = Digest::of(&document);
    Arc::new(Revision { digest, document: String::from_utf8(document).unwrap(), content: Ok(Content::of(content)) })
}

fn document(name: &str) -> ApplicationDeployment {
    testing::deployment(name, Digest::of(b"manifest"))
}

fn id(document: &ApplicationDeployment) -> WorkloadId {
    WorkloadId { deployment: document.id, component: "hello".parse().unwrap() }
}

/// A document with two components, of which the second waits for the first.
fn two_components() -> (ApplicationDeployment, [WorkloadId; 2]) {
    let mut two = document("two");
    let mut second = two.spec.profile.components[0].clone();
    second.name = "also".parse().unwrap();
    two.spec.profile.components.push(second);
    let manifest = Digest::of(b"manifest");
    let lock = serde_json::json!({ "lock": { "components": { "hello": manifest, "also": manifest } } });
    two.spec.extensions.insert("x-edgewright-extensions".to_owned(), lock);
    let ids = ["hello", "also"].map(|name| WorkloadId { deployment: two.id, component: name.parse().unwrap() });
    (two, ids)
}

fn start(id: &WorkloadId) -> Step {
    Step::Start { id: id.clone(), leaves: vec![] }
}

const UP: Condition = Condition::Running { endpoint: None };

fn busy() -> RuntimeError {
    RuntimeError::Io { attempt: "starting".to_owned(), source: io::Error::other("busy") }
}

#[test]
fn dev_26_a_component_is_due_when_those_before_it_are_up() {
    let (document, [first, second]) = two_components();
    let mut world = World::wanting(&[document]);
    assert_eq!(world.due(), [start(&first)]);
    world.show(&first, Condition::Starting);
    assert_eq!(world.due(), []);
    for up in [UP, Condition::Completed] {
        world.show(&first, up);
        assert_eq!(world.due(), [start(&second)]);
    }
}

#[test]
fn a_deployment_with_a_worker_gets_no_second_one_and_holds_up_nobody() {
    let (one, other) = (document("one"), document("other"));
    let world = World::wanting(&[one.clone(), other.clone()]);
    assert_eq!(due(&world.look(), |deployment| *deployment == one.id), [start(&id(&other))]);
}

#[test]
fn what_failed_is_due_again_after_its_pause_and_what_can_never_run_is_not() {
    let document = document("hello");
    let mut world = World::wanting(std::slice::from_ref(&document));
    world.fail(&id(&document), busy());
    assert_eq!(world.due(), []);
    let again = wake(&world.look(), std::iter::empty(), world.now + Duration::from_secs(60));
    assert!(again > world.now && again < world.now + Duration::from_secs(60));
    world.now = again;
    assert_eq!(world.due(), [start(&id(&document))]);
    world.fail(&id(&document), RuntimeError::Invalid("no port".to_owned()));
    world.now += Duration::from_secs(3_600);
    assert_eq!(world.due(), []);
}

#[test]
fn a_component_that_cannot_be_resolved_leaves_what_runs_alone_and_says_why() {
    let document = document("hello");
    let mut world = World::wanting(std::slice::from_ref(&document));
    world.actual.insert((id(&document), "null"), Observed::whole(id(&document), Digest::of(b"before"), UP));
    world.resolution = resolve(&world.desired, &[], None, None);
    assert_eq!(world.due(), []);
    let status = world.only(&Statuses::new());
    assert_eq!((status.state, status.failure.unwrap().code.as_str()), (State::Failed, "unsupported"));
}

#[test]
fn dev_24_a_node_that_satisfies_no_rule_runs_nothing_of_the_document_and_says_why() {
    let mut choosy = document("hello");
    let rule = |key: &str| serde_json::json!({ "labelSelector": { "matchExpressions": [{ "key": key, "operator": "Exists" }] } });
    let rules = serde_json::json!({ "eligibilityRules": [rule("line"), rule("hall")] });
    choosy.spec.profile.device_constraints = Some(serde_json::from_value(rules).unwrap());
    let mut world = World::wanting(std::slice::from_ref(&choosy));
    let mut seen_as = |device: Option<serde_json::Value>| {
        world.resolution = resolve(&world.desired, OFFERED, device.as_ref(), None);
        let status = world.only(&Statuses::new());
        (world.due().len(), status.state, status.failure.map(|failure| failure.code))
    };
    let code = |code: &str| Some(code.to_owned());
    assert_eq!(seen_as(None), (0, State::Installing, code("not-described")));
    let device = |label: &str| Some(serde_json::json!({ "properties": {}, "labels": { label: "7" } }));
    assert_eq!(seen_as(device("press")), (0, State::Failed, code("not-eligible")));
    assert_eq!(seen_as(device("hall")), (1, State::Installing, None));
}

#[test]
fn nothing_is_done_and_nothing_is_claimed_where_nothing_can_be_observed() {
    let document = document("hello");
    let mut world = World::wanting(std::slice::from_ref(&document));
    world.show(&id(&document), UP);
    let installed = world.statuses(&Statuses::new());
    world.blind.insert("null", Blindness::Failed("the engine is gone".to_owned()));
    world.actual.clear();
    assert_eq!(world.due(), []);
    let status = world.only(&installed);
    assert_eq!((status.state, status.failure.unwrap().code.as_str()), (State::Installed, UNKNOWN));

    // Before the first look has ended there is nothing to say either, and no reason to say so.
    world.blind.insert("null", Blindness::NotLookedYet);
    assert_eq!(world.statuses(&installed), installed);

    // What is to go is not taken for gone.
    let nothing = World { blind: world.blind, ..World::wanting(&[]) };
    assert_eq!(nothing.only(&installed).state, State::Removing);
}

#[test]
fn while_one_runtime_is_blind_a_removal_from_another_one_is_shown() {
    let document = document("hello");
    let mut world = World::wanting(std::slice::from_ref(&document));
    world.show(&id(&document), UP);
    let installed = world.statuses(&Statuses::new());
    let blind = |name| Blind::from([(name, Blindness::Failed("the engine is gone".to_owned()))]);
    let gone = |name| World { blind: blind(name), ..World::wanting(&[]) };
    assert_eq!(gone("other").only(&installed).state, State::Removed);
    let removing = gone("null").statuses(&installed);
    assert_eq!(gone("null").only(&removing).state, State::Removing);
    assert_eq!(gone("other").only(&removing).state, State::Removed, "it is still known who ran it");
    // An agent before this one did not record who ran it: then nobody may be blind.
    let mut unknown = installed;
    unknown.values_mut().flat_map(|status| &mut status.components).for_each(|component| component.runtime = None);
    assert_eq!(gone("other").only(&unknown).state, State::Removing);
}

#[test]
fn a_restart_of_the_agent_makes_no_history_while_runtimes_take_up_what_they_find() {
    let document = document("hello");
    let mut world = World::wanting(std::slice::from_ref(&document));
    world.show(&id(&document), UP);
    let installed = world.statuses(&Statuses::new());
    world.show(&id(&document), Condition::Starting);
    world.taking_up = true;
    assert_eq!(world.statuses(&installed), installed);
    world.taking_up = false;
    assert_eq!(world.only(&installed).state, State::Installing);
}

#[test]
fn a_start_waits_for_ports_of_what_is_to_go_unless_that_does_not_go() {
    let (going, staying) = (document("going"), document("staying"));
    let mut world = World::wanting(&[staying]);
    let holding = Observed { ports: BTreeSet::from([8080]), ..Observed::whole(id(&going), Digest::of(b"x"), UP) };
    world.actual.insert((id(&going), "null"), holding);
    assert!(waits_for_ports(&world.look(), &BTreeSet::from([8080])));
    assert!(!waits_for_ports(&world.look(), &BTreeSet::from([8081])));
    world.fail(&id(&going), busy());
    assert!(!waits_for_ports(&world.look(), &BTreeSet::from([8080])));
}

/// Another revision of a document: every component has another artifact.
fn changed(before: &ApplicationDeployment) -> ApplicationDeployment {
    let mut after = before.clone();
    let lock = before.lock().unwrap();
    let components: BTreeMap<_, _> = lock.components.into_keys().map(|name| (name, Digest::of(b"new"))).collect();
    let lock = serde_json::json!({ "lock": { "components": components } });
    after.spec.extensions.insert("x-edgewright-extensions".to_owned(), lock);
    after
}

#[test]
fn an_update_of_several_components_touches_nothing_before_all_of_them_are_prepared() {
    let (before, ids) = two_components();
    let after = changed(&before);
    let mut world = World::wanting(std::slice::from_ref(&before));
    ids.iter().for_each(|id| world.show(id, UP));
    let running = world.actual.clone();
    let mut world = World { actual: running, ..World::wanting(std::slice::from_ref(&after)) };
    // Without a way back it is a start like any other.
    assert_eq!(world.due(), [start(&ids[0])]);
    world.give_way_back(&before, None);
    let prepare = |id: &WorkloadId| Step::Prepare { id: id.clone() };
    let mut both: Vec<_> = ids.iter().map(prepare).collect();
    both.sort();
    assert_eq!(world.due(), both);
    world.attempts.prepared(&ids[1], world.digest(&ids[1]).unwrap());
    assert_eq!(world.due(), [prepare(&ids[0])]);
    world.attempts.prepared(&ids[0], world.digest(&ids[0]).unwrap());
    assert_eq!(world.due(), [start(&ids[0])]);
}

#[test]
fn a_component_that_has_not_changed_is_left_alone_also_when_an_older_agent_started_it() {
    let (before, ids) = two_components();
    let mut after = before.clone();
    after.spec.profile.components.pop();
    let mut world = World::wanting(std::slice::from_ref(&before));
    ids.iter().for_each(|id| world.show(id, UP));
    let world = World { actual: world.actual, ..World::wanting(std::slice::from_ref(&after)) };
    assert_eq!(world.due(), [Step::Stop { id: ids[1].clone(), runtime: "null" }]);

    let deployment = &world.desired.deployments[&after.id];
    let of_the_document = Digest::of(&after.to_yaml());
    let known = |digest| crate::component_digest::known_as(Some(deployment), &ids[0], digest);
    assert_eq!(Some(known(of_the_document)), world.digest(&ids[0]));
    assert_eq!(known(Digest::of(b"other")), Digest::of(b"other"));
}

#[test]
fn an_update_that_fails_takes_its_way_back_and_one_that_is_installed_needs_none() {
    let before = document("hello");
    let after = changed(&before);
    let mut world = World::wanting(std::slice::from_ref(&after));
    world.give_way_back(&before, None);
    let verdict = |world: &World| verdicts(&world.desired, &world.statuses(&Statuses::new())).remove(&before.id);
    assert_eq!(verdict(&world), None, "it is on its way");
    world.fail(&id(&after), busy());
    assert_eq!(verdict(&world), None, "what may pass is no failure");
    world.show(&id(&after), UP);
    assert_eq!(verdict(&world), Some(Verdict::Installed));
    world.show(&id(&after), Condition::Failed { code: "exited".to_owned(), message: "status 1".to_owned() });
    let Some(Verdict::Refused(failure)) = verdict(&world) else { panic!("it failed") };
    assert_eq!((&*failure.code, &*failure.source), ("exited", "hello"));
    assert_eq!(failure.runs, Some(Digest::of(&before.to_yaml())));
    let installed = world
        .statuses(&Statuses::new())
        .into_iter()
        .map(|(id, status)| (id, DeploymentStatus { was_installed: true, ..status }));
    let later = world.statuses(&installed.collect());
    assert_eq!(
        verdicts(&world.desired, &later).remove(&before.id),
        Some(Verdict::Installed),
        "it failed after it was installed"
    );

    // Refused, the revision before is in force, and what failed is still told.
    world.give_way_back(&before, Some(failure.clone()));
    world.attempts = Attempts::default();
    assert_eq!(verdict(&world), None);
    assert_eq!(world.due(), [start(&id(&before))]);
    world.show(&id(&before), UP);
    assert_eq!(world.due(), []);
    let status = world.statuses(&Statuses::new()).remove(&before.id).unwrap();
    assert_eq!((status.digest, status.state()), (Digest::of(&after.to_yaml()), State::Failed));
    assert_eq!(status.failure().unwrap().runs, failure.runs);
}

#[test]
fn what_an_older_agent_recorded_as_installed_was_installed_whatever_is_seen_now() {
    let document = document("hello");
    let mut world = World::wanting(std::slice::from_ref(&document));
    world.show(&id(&document), UP);
    let recorded = |world: &World| -> Statuses {
        let forget = |(id, status)| (id, DeploymentStatus { was_installed: false, ..status });
        world.statuses(&Statuses::new()).into_iter().map(forget).collect()
    };
    let before = recorded(&world);
    // What it had started cannot be read.
    world.actual.clear();
    assert!(world.statuses(&before)[&document.id].was_installed);
    let before = recorded(&world);
    assert!(!world.statuses(&before)[&document.id].was_installed, "it was on its way");
}

#[test]
fn a_document_that_cannot_be_read_leaves_what_runs_alone_and_fails() {
    let document = document("hello");
    let mut world = World::wanting(std::slice::from_ref(&document));
    world.show(&id(&document), UP);
    let wanted = &mut world.desired.deployments.get_mut(&document.id).unwrap().wanted;
    Arc::make_mut(wanted).content = Err("spec: missing".to_owned());
    world.resolution = resolve(&world.desired, OFFERED, None, None);
    assert_eq!(world.due(), []);
    assert!(!waits_for_ports(&world.look(), &BTreeSet::from([8080])));
    let status = world.statuses(&Statuses::new()).remove(&document.id).unwrap();
    assert_eq!((status.state(), &*status.failure().unwrap().code), (State::Failed, UNREADABLE));
    assert!(!status.was_installed);
}

fn any_condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        Just(UP),
        Just(Condition::Completed),
        Just(Condition::Starting),
        Just(Condition::Unknown { reason: "x".to_owned() }),
        Just(Condition::Failed { code: "exited".to_owned(), message: "status 1".to_owned() }),
    ]
}

/// A world with three deployments, each shown in some way, or not at all, by either runtime, with or without failures.
fn any_world() -> impl Strategy<Value = World> {
    let shown = proptest::option::of((any_condition(), any::<bool>(), any::<bool>()));
    let one = (any::<bool>(), shown, proptest::option::of(any::<bool>()));
    (proptest::collection::vec(one, 3), any::<bool>(), any::<bool>()).prop_map(|(all, blind, taking_up)| {
        let documents: Vec<_> = ["a", "b", "c"].map(document).into();
        let wanted: Vec<_> =
            documents.iter().zip(&all).filter(|(_, (wanted, ..))| *wanted).map(|(it, _)| it.clone()).collect();
        let mut world = World { taking_up, ..World::wanting(&wanted) };
        for (document, (wanted, shown, failed)) in documents.iter().zip(all) {
            if let Some((condition, is_current, in_other)) = shown {
                let component = &document.spec.profile.components[0];
                let current = crate::component_digest::of(document, component);
                let digest = if is_current { current } else { Digest::of(b"before") };
                let runtime = if in_other { "other" } else { "null" };
                world.actual.insert((id(document), runtime), Observed::whole(id(document), digest, condition));
            }
            match failed {
                Some(true) if wanted => world.fail(&id(document), RuntimeError::Invalid("x".to_owned())),
                Some(_) => world.fail(&id(document), busy()),
                None => {}
            }
        }
        if blind {
            world.blind.insert("other", Blindness::Failed("x".to_owned()));
        }
        world
    })
}

proptest! {
    #[test]
    fn statuses_of_an_unchanged_world_do_not_change(world in any_world()) {
        let first = world.statuses(&Statuses::new());
        prop_assert_eq!(world.statuses(&first), first);
    }

    #[test]
    fn every_wanted_deployment_has_a_status_with_each_component_once(world in any_world()) {
        let statuses = world.statuses(&Statuses::new());
        prop_assert!(statuses.keys().eq(world.desired.deployments.keys()));
        for (id, status) in &statuses {
            let names: Vec<_> = world.resolution[id].iter().map(|it| it.id.component.clone()).collect();
            let shown: Vec<_> = status.components.iter().map(|it| it.name.clone()).collect();
            prop_assert_eq!(names, shown);
        }
    }

    #[test]
    fn installed_is_only_what_was_seen_to_be_up_for_this_document(world in any_world()) {
        for (id, status) in world.statuses(&Statuses::new()) {
            if status.state() == State::Installed {
                let is_up = |observed: &Observed| observed.id.deployment == id
                    && world.digest(&observed.id) == Some(observed.digest) && observed.condition.is_up();
                prop_assert!(world.actual.values().any(is_up));
            }
        }
    }

    #[test]
    fn what_is_due_was_not_tried_a_moment_ago_and_the_next_look_is_later(world in any_world()) {
        prop_assert!(world.due().iter().all(|step| world.attempts.may_try(step.id(), world.now)));
        let latest = world.now + Duration::from_secs(30);
        let next = wake(&world.look(), [world.now].into_iter(), latest);
        prop_assert!(next > world.now && next <= latest);
    }
}
