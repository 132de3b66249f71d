//! The decisions of a pass: which steps are due, what statuses follow, when to look again. Pure: no clock, no disk, no
//! runtime. The reconciler looks, asks here, and acts.

use std::collections::{BTreeMap, BTreeSet};

use margo::{DeploymentId, ManifestVersion, State};
use runtime::{Observed, WorkloadId};
use tokio::time::Instant;

use crate::{
    attempt::Attempts,
    desired::{Deployment, Desired},
    plan::{Found, Placed, Step, Wishes, may_start, plan},
    resolve::{Launch, Resolution, Resolved, each, find},
    status::{ComponentStatus, DeploymentStatus, Facts, Failure, Obstacle, Statuses, UNREADABLE, judge, last_known},
};

/// What was observed at the last look, by workload and name of the runtime. Of a runtime that cannot be observed it is
/// what was observed last.
pub type Actual = BTreeMap<(WorkloadId, &'static str), Observed>;

/// Why a runtime shows nothing now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blindness {
    /// The first look is under way.
    NotLookedYet,
    /// The last look failed, for this reason.
    Failed(String),
}

/// Runtimes that show nothing now, by name.
pub type Blind = BTreeMap<&'static str, Blindness>;

/// Everything that the decisions of a pass depend on.
pub struct Look<'a> {
    /// The desired state in force.
    pub desired: &'a Desired,
    /// How each of its components is run.
    pub resolution: &'a Resolution,
    pub actual: &'a Actual,
    /// Where nothing can be observed.
    pub blind: &'a Blind,
    /// What this life of the agent has tried.
    pub attempts: &'a Attempts,
    pub now: Instant,
    /// Whether runtimes may still be taking up what an earlier life of the agent started. Until then such a workload
    /// counts as it was, and a restart of the agent makes no history.
    pub taking_up: bool,
}

impl Look<'_> {
    /// The wanted revision of a component, when its runtime has that one.
    fn seen(&self, resolved: &Resolved) -> Option<&Observed> {
        let of_this = |observed: &&Observed| observed.id == resolved.id && observed.digest == resolved.digest;
        match &resolved.launch {
            Ok(launch) => self.actual.get(&(resolved.id.clone(), launch.runtime)).filter(of_this),
            Err(_) => self.anywhere(&resolved.id).find(of_this),
        }
    }

    /// What any runtime has of a workload.
    fn anywhere(&self, id: &WorkloadId) -> impl Iterator<Item = &Observed> {
        self.actual.values().filter(move |observed| observed.id == *id)
    }

    /// Whether everything that a component waits for is there (DEV-26).
    fn turn(&self, id: &WorkloadId) -> bool {
        let Some(deployment) = self.desired.deployments.get(&id.deployment) else { return false };
        let Ok(content) = &deployment.in_force().content else { return false };
        may_start(&content.components, &id.component, |name| {
            let other = WorkloadId { deployment: id.deployment, component: name.clone() };
            let digest = find(self.resolution, &other)?.digest;
            let seen = self.anywhere(&other).find(|observed| observed.digest == digest);
            seen.map(|observed| observed.condition.is_up())
        })
    }

    /// Whether a workload is to go. While the document in force cannot be read, nobody knows what it wants.
    fn is_leaving(&self, id: &WorkloadId) -> bool {
        match self.desired.deployments.get(&id.deployment) {
            Some(deployment) if deployment.in_force().content.is_err() => false,
            _ => find(self.resolution, id).is_none(),
        }
    }

    /// Whether a component still has to be prepared.
    fn is_unprepared(&self, id: &WorkloadId) -> bool {
        find(self.resolution, id).is_some_and(|resolved| !self.attempts.is_prepared(id, resolved.digest))
    }
}

/// Returns the steps whose time has come. Deployments of `busy` have a worker, or what it did is not observed yet.
///
/// An update that changes several components touches what runs only when all that it starts is prepared. One that changes a
/// single component needs no step for that: its start prepares it first.
pub fn due(look: &Look<'_>, busy: impl Fn(&DeploymentId) -> bool) -> Vec<Step> {
    let wish = |resolved: &Resolved| {
        let placed = |launch: &Launch| Placed { runtime: launch.runtime, digest: resolved.digest };
        (resolved.id.clone(), resolved.launch.as_ref().ok().map(placed))
    };
    let wishes: Wishes = each(look.resolution).map(wish).collect();
    let known = |(id, _): &(WorkloadId, &'static str)| wishes.contains_key(id) || look.is_leaving(id);
    let found = look.actual.iter().filter(|(key, _)| known(key));
    let found: Found = found.map(|(key, observed)| (key.clone(), observed.digest)).collect();
    let blind: BTreeSet<_> = look.blind.keys().copied().collect();
    let mut steps = plan(&wishes, &found, &blind);
    let unready = unready(look, &steps);
    steps.retain_mut(|step| {
        let id = step.id().clone();
        let is_its_turn = match step {
            Step::Start { .. } | Step::Stop { .. } if unready.contains(&id.deployment) => {
                let is_to_be_prepared = matches!(step, Step::Start { .. }) && look.is_unprepared(&id);
                *step = Step::Prepare { id: id.clone() };
                is_to_be_prepared
            }
            Step::Stop { .. } | Step::Prepare { .. } => true,
            Step::Start { .. } => look.turn(&id),
        };
        is_its_turn && !busy(&id.deployment) && look.attempts.may_try(&id, look.now)
    });
    steps
}

/// The updates of several components of which not everything is prepared yet.
fn unready(look: &Look<'_>, steps: &[Step]) -> BTreeSet<DeploymentId> {
    let mut steps_of: BTreeMap<DeploymentId, (usize, bool)> = BTreeMap::new();
    for step in steps {
        let (count, unprepared) = steps_of.entry(step.id().deployment).or_default();
        *count += 1;
        *unprepared |= matches!(step, Step::Start { .. }) && look.is_unprepared(step.id());
    }
    let is_on_trial = |id: &DeploymentId| look.desired.deployments.get(id).is_some_and(Deployment::is_on_trial);
    let unready = steps_of.into_iter().filter(|(id, (count, unprepared))| *count > 1 && *unprepared && is_on_trial(id));
    unready.map(|(id, _)| id).collect()
}

/// What became of an update.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It is installed: the way back is needed no more.
    Installed,
    /// It failed, for this reason: the way back is taken.
    Refused(Failure),
}

/// Returns what has become of updates that were on trial, by what these statuses say.
pub fn verdicts(desired: &Desired, statuses: &Statuses) -> BTreeMap<DeploymentId, Verdict> {
    let verdict = |(id, deployment): (&DeploymentId, &Deployment)| {
        let (way_back, status) = (deployment.way_back.as_ref()?, statuses.get(id)?);
        if !deployment.is_on_trial() {
            return None;
        }
        if status.was_installed {
            return Some((*id, Verdict::Installed));
        }
        if status.state() != State::Failed {
            return None;
        }
        // The component that failed is the source, so that it can be shown.
        let worst = status.components.iter().find(|component| component.state == State::Failed);
        let failure = worst.and_then(|component| component.failure.clone()).or_else(|| status.failure())?;
        let message = format!("{}; the revision that was installed before runs again", failure.message);
        let runs = Some(way_back.installed.digest);
        Some((*id, Verdict::Refused(Failure { runs, ..Failure::new(failure.code, failure.source, &message) })))
    };
    desired.deployments.iter().filter_map(verdict).collect()
}

/// Whether a start that wants these ports has to wait, because a workload that is to be removed still holds one of them.
/// A removal that does not succeed is waited for no longer: the start then finds out by itself.
pub fn waits_for_ports(look: &Look<'_>, ports: &BTreeSet<u16>) -> bool {
    look.actual.values().any(|observed| {
        look.is_leaving(&observed.id)
            && look.attempts.obstacle(&observed.id).is_none()
            && !observed.ports.is_disjoint(ports)
    })
}

/// Returns the statuses that follow from a look, of everything that shall run and of what is still to go. `fetching` tells
/// what the fetch of a component's artifact met last.
pub fn statuses<'a>(
    look: &Look<'a>,
    before: &Statuses,
    fetching: impl Fn(&WorkloadId) -> Option<&'a Obstacle>,
) -> Statuses {
    let mut after = Statuses::new();
    for (id, deployment) in &look.desired.deployments {
        let was = before.get(id).filter(|was| was.digest == deployment.wanted.digest);
        // How components were while another revision was in force says nothing of this one.
        let same = was.filter(|was| was.refused.is_some() == deployment.refused().is_some());
        let components = look.resolution.get(id).into_iter().flat_map(|it| it.iter()).map(|resolved| {
            let was = same.and_then(|was| was.components.iter().find(|it| it.name == resolved.id.component));
            let status = component(look, resolved, was, fetching(&resolved.id));
            let runtime = resolved.launch.as_ref().ok().map(|launch| launch.runtime.to_owned());
            let known = || was.and_then(|was| was.runtime.clone());
            ComponentStatus { runtime: runtime.or_else(known), ..status }
        });
        let in_force = &deployment.in_force().content;
        let name = match (in_force, before.get(id)) {
            (Ok(content), _) => content.name.clone(),
            (Err(_), Some(before)) => before.name.clone(),
            (Err(_), None) => id.to_string(),
        };
        let mut status = DeploymentStatus {
            name,
            digest: deployment.wanted.digest,
            adopted: deployment.adopted,
            components: components.collect(),
            refused: None,
            // An agent from before there were ways back recorded no more than the state.
            was_installed: was.is_some_and(|was| was.was_installed || was.state() == State::Installed),
        };
        match (deployment.refused(), in_force) {
            (Some(failure), _) => {
                status.was_installed = false;
                status.refuse(failure);
            }
            (None, Err(reason)) => status.refused = Some(Failure::new(UNREADABLE, &*status.name, reason)),
            (None, Ok(_)) => status.was_installed |= status.state() == State::Installed,
        }
        after.insert(*id, status);
    }
    let version: ManifestVersion = look.desired.version;
    for (id, was) in before.iter().filter(|(id, _)| !look.desired.deployments.contains_key(id)) {
        let there = |component: &ComponentStatus| {
            let workload = WorkloadId { deployment: *id, component: component.name.clone() };
            let is_there = look.anywhere(&workload).next().is_some()
                || component.state != State::Removed && might_be_unseen(look, component);
            is_there.then(|| look.attempts.obstacle(&workload))
        };
        after.insert(*id, was.leaving(version, there));
    }
    after
}

/// Whether a component may be where nothing can be seen: its runtime is blind. Of one that an older agent recorded the runtime is
/// not known, and then each runtime has to be seen.
fn might_be_unseen(look: &Look<'_>, component: &ComponentStatus) -> bool {
    match &component.runtime {
        Some(name) => look.blind.contains_key(name.as_str()),
        None => !look.blind.is_empty(),
    }
}

fn component(
    look: &Look<'_>,
    resolved: &Resolved,
    was: Option<&ComponentStatus>,
    fetching: Option<&Obstacle>,
) -> ComponentStatus {
    let name = &resolved.id.component;
    let turn = look.turn(&resolved.id);
    let (obstacle, timeout) = match &resolved.launch {
        Err(obstacle) => (Some(obstacle), None),
        Ok(launch) => (look.attempts.obstacle(&resolved.id).or(fetching), launch.timeout),
    };
    let overdue = look.attempts.is_overdue(&resolved.id, timeout, look.now);
    let facts = Facts { seen: look.seen(resolved), obstacle, turn, overdue, was };
    let runtime = resolved.launch.as_ref().ok().map(|launch| launch.runtime);
    match runtime.and_then(|runtime| look.blind.get(runtime)) {
        Some(Blindness::NotLookedYet) => return last_known(name, &facts),
        Some(Blindness::Failed(reason)) => {
            let condition = runtime::Condition::Unknown { reason: reason.clone() };
            let unknown = Observed::whole(resolved.id.clone(), resolved.digest, condition);
            return judge(name, &Facts { seen: Some(&unknown), ..facts });
        }
        None => {}
    }
    let is_starting = facts.seen.is_some_and(|seen| seen.condition == runtime::Condition::Starting);
    match was {
        Some(was) if is_starting && look.taking_up && !look.attempts.is_applied(&resolved.id) => was.clone(),
        _ => judge(name, &facts),
    }
}

/// Returns when to look again though nobody calls: at the next retry or deadline after the last look, since what was due
/// then has been tried, and at the latest at `latest`.
pub fn wake(look: &Look<'_>, retries: impl Iterator<Item = Instant>, latest: Instant) -> Instant {
    let deadlines = each(look.resolution).filter_map(|resolved| {
        let launch = resolved.launch.as_ref().ok()?;
        look.attempts.deadline(&resolved.id, launch.timeout?)
    });
    let times = look.attempts.retries().chain(retries).chain(deadlines).filter(|time| *time > look.now);
    times.fold(latest, Instant::min)
}

#[cfg(test)]
#[path = "decide/tests.rs"]
mod tests;
