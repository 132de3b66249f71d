//! From what is to what shall be. Pure: the reconciler asks, and acts.

use std::collections::BTreeMap;

use margo::{ComponentName, DeployedComponent, Digest};
use runtime::WorkloadId;

/// A workload of this revision in this runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Name of the runtime.
    pub runtime: String,
    /// sha256 of the deployment's document.
    pub digest: Digest,
}

/// Workloads and where they are.
pub type Workloads = BTreeMap<WorkloadId, Placed>;

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// This runtime shall no longer run it.
    Stop {
        /// Name of the runtime.
        runtime: String,
        /// Which one.
        id: WorkloadId,
    },
    /// This runtime shall run it, in place of an older revision if it has one: what runs is stopped only when its
    /// successor is at hand.
    Start(WorkloadId),
}

/// What takes this node from `actual` to `desired`. Stops first: they free ports that starts want. Starts come sorted
/// by deployment; within one the order is that of the document, which [`may_start`] keeps.
pub fn plan(desired: &Workloads, actual: &Workloads) -> Vec<Action> {
    let leaves =
        |id: &WorkloadId, placed: &Placed| desired.get(id).is_none_or(|wanted| wanted.runtime != placed.runtime);
    let stops = actual
        .iter()
        .filter(|(id, placed)| leaves(id, placed))
        .map(|(id, placed)| Action::Stop { runtime: placed.runtime.clone(), id: id.clone() });
    let starts =
        desired.iter().filter(|(id, wanted)| actual.get(id) != Some(wanted)).map(|(id, _)| Action::Start(id.clone()));
    stops.chain(starts).collect()
}

/// Whether a component's turn has come (DEV-26): each one before it has been started, and runs unless the document says
/// not to wait for it. `runs` is none for one that has not been started.
pub fn may_start(
    components: &[DeployedComponent],
    name: &ComponentName,
    runs: impl Fn(&ComponentName) -> Option<bool>,
) -> bool {
    let waits = |component: &DeployedComponent| component.properties.wait != Some(false);
    components
        .iter()
        .take_while(|component| component.name != *name)
        .all(|component| runs(&component.name).is_some_and(|runs| runs || !waits(component)))
}

#[cfg(test)]
mod tests {
    use margo::{ComponentProperties, DeploymentId};
    use proptest::prelude::*;

    use super::*;

    fn id(deployment: u8, component: u8) -> WorkloadId {
        WorkloadId {
            deployment: format!("00000000-0000-4000-8000-0000000000{deployment:02x}").parse::<DeploymentId>().unwrap(),
            component: format!("c{component}").parse().unwrap(),
        }
    }

    fn any_workloads() -> impl Strategy<Value = Workloads> {
        let placed = (0..2u8, 0..3u8)
            .prop_map(|(runtime, digest)| Placed { runtime: format!("r{runtime}"), digest: Digest::of(&[digest]) });
        proptest::collection::btree_map((0..4u8, 0..3u8).prop_map(|(d, c)| id(d, c)), placed, 0..12)
    }

    fn carry_out(plan: &[Action], desired: &Workloads, mut actual: Workloads) -> Workloads {
        for action in plan {
            match action {
                Action::Stop { id, runtime } => {
                    let stopped = actual.remove(id).expect("only what is there is stopped");
                    assert_eq!(stopped.runtime, *runtime);
                }
                Action::Start(id) => {
                    actual.insert(id.clone(), desired[id].clone());
                }
            }
        }
        actual
    }

    proptest! {
        #[test]
        fn one_pass_reaches_the_desired_state_and_the_next_rests(desired in any_workloads(), actual in any_workloads()) {
            let reached = carry_out(&plan(&desired, &actual), &desired, actual);
            prop_assert_eq!(&reached, &desired);
            prop_assert_eq!(plan(&desired, &reached), vec![]);
        }

        #[test]
        fn stops_come_first(desired in any_workloads(), actual in any_workloads()) {
            let plan = plan(&desired, &actual);
            prop_assert!(plan.is_sorted_by_key(|action| matches!(action, Action::Start(_))));
        }

        #[test]
        fn what_runs_as_desired_is_left_untouched(desired in any_workloads(), actual in any_workloads()) {
            let as_desired = |id: &WorkloadId| actual.contains_key(id) && desired.get(id) == actual.get(id);
            for action in plan(&desired, &actual) {
                let (Action::Stop { id, .. } | Action::Start(id)) = action;
                prop_assert!(!as_desired(&id));
            }
        }
    }

    fn component(name: &str, wait: Option<bool>) -> DeployedComponent {
        DeployedComponent {
            name: name.parse().unwrap(),
            properties: ComponentProperties {
                repository: format!("oci://edgewright.local/{name}"),
                revision: "1.0.0".to_owned(),
                wait,
                timeout: None,
            },
            extensions: BTreeMap::new(),
        }
    }

    #[test]
    fn dev_26_a_component_waits_for_those_before_it_unless_told_otherwise() {
        let components = [component("a", None), component("b", Some(false)), component("c", Some(true))];
        let [a, b, c] = ["a", "b", "c"].map(|name| name.parse::<ComponentName>().unwrap());
        let runs = |running: &ComponentName, name: &ComponentName| Some(running == name);
        assert!(may_start(&components, &a, |_| None));
        assert!(!may_start(&components, &b, |_| Some(false)));
        assert!(may_start(&components, &b, |name| runs(&a, name)));
        assert!(may_start(&components, &c, |name| runs(&a, name)));
        assert!(!may_start(&components, &c, |name| runs(&b, name)));
        assert!(!may_start(&components, &c, |name| (*name == a).then_some(true)), "b has not been started");
    }
}
