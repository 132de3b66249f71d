//! From what is to what shall be. Pure: the reconciler asks, and acts.

use std::collections::{BTreeMap, BTreeSet};

use margo::{ComponentName, Digest};
use runtime::WorkloadId;

use crate::desired::Place;

/// Where a workload shall run, and for which document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The name of the runtime.
    pub runtime: &'static str,
    /// The digest of what the component is made of.
    pub digest: Digest,
}

/// Where each workload shall run; `None` for one that is wanted and cannot be resolved.
pub type Wishes = BTreeMap<WorkloadId, Option<Placed>>;

/// The digest of what each workload is made of, by the runtime that has it. More than one runtime may have a workload when a
/// move was cut short.
pub type Found = BTreeMap<(WorkloadId, &'static str), Digest>;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// This runtime shall no longer run the workload.
    Stop {
        id: WorkloadId,
        /// The name of the runtime.
        runtime: &'static str,
    },
    /// The runtime shall get the workload ready beside what runs. Only an update of several components has this step.
    Prepare { id: WorkloadId },
    /// The runtime that the document names shall run the workload, in place of an older revision if it has one. What runs
    /// is stopped only when its successor is prepared.
    Start {
        id: WorkloadId,
        /// The names of other runtimes that have it: they stop it between the preparation and the start.
        leaves: Vec<&'static str>,
    },
}

impl Step {
    /// The workload that this step is about.
    pub fn id(&self) -> &WorkloadId {
        let (Self::Stop { id, .. } | Self::Prepare { id } | Self::Start { id, .. }) = self;
        id
    }
}

/// Plans what takes this node from what was found to what is wished, stops first: they free ports that starts want. Starts
/// come sorted by deployment; within one the order is that of the document, which [`may_start`] keeps.
///
/// A workload that is wanted and cannot be resolved is left as it is. Nothing is started or stopped in a runtime of
/// `blind`: what it runs is not known, so every step there would be a guess.
pub fn plan(wishes: &Wishes, found: &Found, blind: &BTreeSet<&'static str>) -> Vec<Step> {
    let elsewhere = |id: &WorkloadId, wanted: &'static str| -> Vec<&'static str> {
        let of_this = found.keys().filter(|(other, runtime)| other == id && *runtime != wanted);
        of_this.map(|(_, runtime)| *runtime).collect()
    };
    let mut steps = Vec::new();
    for (id, runtime) in found.keys() {
        let leaves = match wishes.get(id) {
            None => true,
            Some(None) => false,
            // It was moved, and the move was cut short. While it does not run where it shall, the start takes it away.
            Some(Some(wish)) => {
                *runtime != wish.runtime && found.get(&(id.clone(), wish.runtime)) == Some(&wish.digest)
            }
        };
        if leaves && !blind.contains(runtime) {
            steps.push(Step::Stop { id: id.clone(), runtime });
        }
    }
    for (id, wish) in wishes {
        let Some(wish) = wish else { continue };
        if found.get(&(id.clone(), wish.runtime)) == Some(&wish.digest) {
            continue;
        }
        let leaves = elsewhere(id, wish.runtime);
        if !blind.contains(wish.runtime) && !leaves.iter().any(|runtime| blind.contains(runtime)) {
            steps.push(Step::Start { id: id.clone(), leaves });
        }
    }
    steps
}

/// Whether a component's turn has come (DEV-26): each one before it has been started, and is up unless the document says
/// not to wait for it. `is_up` is none for one that has not been started.
pub fn may_start(components: &[Place], name: &ComponentName, is_up: impl Fn(&ComponentName) -> Option<bool>) -> bool {
    components
        .iter()
        .take_while(|component| component.name != *name)
        .all(|component| is_up(&component.name).is_some_and(|is_up| is_up || !component.is_awaited))
}

#[cfg(test)]
mod tests {
    use margo::{ComponentProperties, DeployedComponent, DeploymentId};
    use proptest::prelude::*;

    use super::*;

    const RUNTIMES: [&str; 2] = ["r0", "r1"];

    fn id(deployment: u8, component: u8) -> WorkloadId {
        WorkloadId {
            deployment: format!("00000000-0000-4000-8000-0000000000{deployment:02x}").parse::<DeploymentId>().unwrap(),
            component: format!("c{component}").parse().unwrap(),
        }
    }

    fn any_id() -> impl Strategy<Value = WorkloadId> {
        (0..4u8, 0..3u8).prop_map(|(deployment, component)| id(deployment, component))
    }

    fn any_wishes() -> impl Strategy<Value = Wishes> {
        let placed = (0..2usize, 0..3u8)
            .prop_map(|(runtime, digest)| Placed { runtime: RUNTIMES[runtime], digest: Digest::of(&[digest]) });
        proptest::collection::btree_map(any_id(), proptest::option::weighted(0.8, placed), 0..12)
    }

    fn any_found() -> impl Strategy<Value = Found> {
        let key = (any_id(), 0..2usize).prop_map(|(id, runtime)| (id, RUNTIMES[runtime]));
        proptest::collection::btree_map(key, (0..3u8).prop_map(|digest| Digest::of(&[digest])), 0..12)
    }

    fn any_blind() -> impl Strategy<Value = BTreeSet<&'static str>> {
        proptest::collection::btree_set(proptest::sample::select(RUNTIMES.to_vec()), 0..=2)
    }

    fn carry_out(plan: &[Step], wishes: &Wishes, mut found: Found) -> Found {
        for step in plan {
            match step {
                Step::Stop { id, runtime } => {
                    found.remove(&(id.clone(), *runtime)).expect("only what is there is stopped");
                }
                Step::Prepare { .. } => panic!("a plan is about what runs"),
                Step::Start { id, leaves } => {
                    for runtime in leaves {
                        found.remove(&(id.clone(), *runtime)).expect("only what is there is left");
                    }
                    let wish = wishes[id].expect("only what is resolved is started");
                    found.insert((id.clone(), wish.runtime), wish.digest);
                }
            }
        }
        found
    }

    proptest! {
        #[test]
        fn one_pass_reaches_what_is_wished_and_the_next_rests(wishes in any_wishes(), found in any_found()) {
            let none = BTreeSet::new();
            let reached = carry_out(&plan(&wishes, &found, &none), &wishes, found.clone());
            for (id, wish) in &wishes {
                let runs: Found = reached.iter().filter(|((other, _), _)| other == id).map(|(k, v)| (k.clone(), *v)).collect();
                match wish {
                    Some(wish) => {
                        prop_assert_eq!(runs, Found::from([((id.clone(), wish.runtime), wish.digest)]));
                    }
                    None => {
                        let before: Found = found.iter().filter(|((other, _), _)| other == id).map(|(k, v)| (k.clone(), *v)).collect();
                        prop_assert_eq!(runs, before, "what cannot be resolved is left as it is");
                    }
                }
            }
            prop_assert!(reached.keys().all(|(id, _)| wishes.contains_key(id)));
            prop_assert_eq!(plan(&wishes, &reached, &none), vec![]);
        }

        #[test]
        fn stops_come_first(wishes in any_wishes(), found in any_found()) {
            let plan = plan(&wishes, &found, &BTreeSet::new());
            let stops_first = plan.is_sorted_by_key(|step| matches!(step, Step::Start { .. }));
            prop_assert!(stops_first);
        }

        #[test]
        fn what_runs_as_wished_is_left_untouched(wishes in any_wishes(), found in any_found()) {
            for step in plan(&wishes, &found, &BTreeSet::new()) {
                if let Step::Start { id, .. } = step {
                    let wish = wishes[&id].unwrap();
                    prop_assert_ne!(found.get(&(id, wish.runtime)), Some(&wish.digest));
                }
            }
        }

        #[test]
        fn a_blind_runtime_is_never_touched_and_changes_nothing_for_the_others(
            wishes in any_wishes(), found in any_found(), blind in any_blind(),
        ) {
            let (seeing, plan) = (plan(&wishes, &found, &BTreeSet::new()), plan(&wishes, &found, &blind));
            let touches = |step: &Step| match step {
                Step::Stop { runtime, .. } => blind.contains(runtime),
                Step::Prepare { .. } => false,
                Step::Start { id, leaves } => {
                    blind.contains(wishes[id].unwrap().runtime) || leaves.iter().any(|runtime| blind.contains(runtime))
                }
            };
            prop_assert!(!plan.iter().any(touches));
            let expected: Vec<_> = seeing.into_iter().filter(|step| !touches(step)).collect();
            prop_assert_eq!(plan, expected);
        }
    }

    fn component(name: &str, wait: Option<bool>) -> Place {
        Place::of(&DeployedComponent {
            name: name.parse().unwrap(),
            properties: ComponentProperties {
                repository: format!("oci://edgewright.local/{name}"),
                revision: "1.0.0".to_owned(),
                wait,
                timeout: None,
            },
            extensions: BTreeMap::new(),
        })
    }

    #[test]
    fn dev_26_a_component_waits_for_those_before_it_unless_told_otherwise() {
        let components = [component("a", None), component("b", Some(false)), component("c", Some(true))];
        let [a, b, c] = ["a", "b", "c"].map(|name| name.parse::<ComponentName>().unwrap());
        let is_up = |up: &ComponentName, name: &ComponentName| Some(up == name);
        assert!(may_start(&components, &a, |_| None));
        assert!(!may_start(&components, &b, |_| Some(false)));
        assert!(may_start(&components, &b, |name| is_up(&a, name)));
        assert!(may_start(&components, &c, |name| is_up(&a, name)));
        assert!(!may_start(&components, &c, |name| is_up(&b, name)));
        assert!(!may_start(&components, &c, |name| (*name == a).then_some(true)), "b has not been started");
    }
}
