//! The place of one workload: what is in force, what was seen, and whose turn it is to change it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
};

use margo::Digest;
use runtime::{Condition, WorkloadId};
use tokio::{sync::Notify, time::Instant};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    condition::{Change, Ends},
    folder::{Folder, InForce},
};

/// The place of one workload.
pub struct Slot {
    pub id: WorkloadId,
    /// What Compose calls the project.
    pub project: String,
    pub folder: Folder,
    /// Held by whoever changes the workload, so that two calls for it come one after the other.
    pub turn: Arc<tokio::sync::Mutex<Turn>>,
    /// Told when the supervisor is to look.
    pub wake: Notify,
    view: Mutex<View>,
    change: AtomicU8,
}

/// What only the holder of the turn knows.
#[derive(Default)]
pub struct Turn {
    pub supervisor: Option<AbortOnDropHandle<()>>,
    /// Whether the workload was removed while somebody waited for a turn.
    pub is_removed: bool,
}

/// What is known of a workload. Nothing is in force while it is only being prepared.
#[derive(Default)]
pub struct View {
    pub in_force: Option<InForce>,
    /// How often containers were started again since the workload was applied.
    pub restarts: u32,
    /// Why what is in force could not be applied.
    pub failure: Option<Condition>,
    /// By the name of the container.
    pub ends: BTreeMap<String, Ends>,
    /// The names of containers of the revision in force that ran for a while: no more than it has containers.
    pub settled: BTreeSet<String>,
    /// The images of the revision that is being prepared, or was.
    pub preparing: BTreeSet<String>,
}

/// As long as this lives, the workload is shown as being changed.
pub struct Changing<'a>(&'a AtomicU8);

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.0.store(Change::None as u8, Ordering::Release);
    }
}

impl Slot {
    pub fn new(id: &WorkloadId, folder: Folder) -> Self {
        Self {
            id: id.clone(),
            project: project(id),
            folder,
            turn: Arc::default(),
            wake: Notify::new(),
            view: Mutex::default(),
            change: AtomicU8::new(Change::None as u8),
        }
    }

    pub fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what is in force.
    pub fn in_force(&self) -> Option<InForce> {
        self.view().in_force.clone()
    }

    /// Takes note of what is in force from now on. What was before another revision counts no more.
    pub fn set_in_force(&self, in_force: InForce) {
        let mut view = self.view();
        let before = view.in_force.as_ref().map(|before| before.revision.digest);
        if before != Some(in_force.revision.digest) {
            *view = View::default();
        }
        view.in_force = Some(in_force);
    }

    /// Returns what is being done to the workload. Only the holder of the turn changes that.
    pub fn change(&self) -> Change {
        match self.change.load(Ordering::Acquire) {
            1 => Change::Applying,
            2 => Change::Stopping,
            _ => Change::None,
        }
    }

    /// Says what is being done from now on, until the value is dropped.
    pub fn changing(&self, change: Change) -> Changing<'_> {
        self.change.store(change as u8, Ordering::Release);
        Changing(&self.change)
    }

    /// Takes note of what happened to a container.
    pub fn happened(&self, action: &str, container: &str, revision: Option<&str>, now: Instant) {
        let mut view = self.view();
        let service = container.rsplit_once('-').map_or(container, |(service, _)| service);
        let expected = view.in_force.as_ref().and_then(|it| it.revision.services.get(service));
        let (is_expected, is_job) =
            expected.map_or((false, false), |spec| (revision == Some(spec.revision.as_str()), spec.is_job));
        // One that is replaced or stopped by us ends as it should.
        if !is_expected || (action == "die" && self.change() == Change::Stopping) {
            return;
        }
        match action {
            "start" => view.ends.entry(container.to_owned()).or_default().started(now),
            "die" if !is_job => {
                view.restarts = view.restarts.saturating_add(1);
                view.ends.entry(container.to_owned()).or_default().ended(now);
            }
            _ => {}
        }
    }
}

/// What Compose calls the project of a workload: the same in every life of the agent and of the node, and another one for every
/// other workload, as long as nobody finds two texts with the same 80 bits of a digest.
fn project(id: &WorkloadId) -> String {
    let hash = Digest::of(id.to_string().as_bytes()).hex();
    let name: String = id.component.as_str().chars().take(24).collect();
    format!("ew-{}-{}", &hash[..20], name.trim_end_matches('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn project_names_of_two_workloads_never_meet_and_compose_takes_them() {
        let project = |deployment: &str, component: &str| {
            super::project(&WorkloadId {
                deployment: deployment.parse().unwrap(),
                component: component.parse().unwrap(),
            })
        };
        let (one, other) = ("9db79949-86fb-5e45-910d-8a83dd7391cc", "9db79949-86fb-5e45-910d-8a83dd7391cd");
        let long = "a".repeat(62);
        let names = [
            project(one, "web"),
            project(other, "web"),
            project(one, "web-1"),
            project(one, &long),
            project(one, &format!("{long}b")),
        ];
        let different: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(different.len(), names.len(), "{names:?}");
        let is_taken = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        assert!(names.iter().all(|name| name.bytes().all(is_taken) && name.len() <= 50), "{names:?}");
        assert_eq!(project(one, "web"), names[0]);
    }
}
