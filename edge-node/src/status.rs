//! States of deployments and their components, and the transitions between two looks. Pure.

use std::{borrow::Cow, collections::BTreeMap};

use bus::proto;
use margo::{ComponentName, DeploymentId, Digest, ManifestVersion, State};
use runtime::{Condition, Observed, Part};
use serde::{Deserialize, Serialize};

/// A workload's own words may be long; this is enough to see what is wrong, and keeps spool and reports small.
const MAX_MESSAGE: usize = 500;

/// Parts of one component that are told; the site takes no more. A larger component is judged by all its parts.
const MAX_PARTS: usize = 100;

/// Why something is not as ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// A stable word, such as `digest-mismatch`.
    pub code: String,
    /// The name of the deployment or of the component (DEV-22).
    pub source: String,
    pub message: String,
    /// The digest of the revision that runs again, when this is why an update was undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runs: Option<Digest>,
}

impl Failure {
    /// A failure whose message is cut to what a report carries.
    pub fn new(code: impl Into<String>, source: impl Into<String>, message: &str) -> Self {
        let message = message.chars().take(MAX_MESSAGE).collect();
        Self { code: code.into(), source: source.into(), message, runs: None }
    }
}

/// The code of a failure that says that a runtime cannot tell how something is.
pub const UNKNOWN: &str = "unknown";

/// The code of a failure that says that this version of the agent cannot read a document. No component is to blame.
pub const UNREADABLE: &str = "unreadable";

/// What keeps a component from running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// A stable word, as in [`Failure`].
    pub code: Cow<'static, str>,
    pub message: String,
    severity: Severity,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Severity {
    Passing,
    Failing,
    Lasting,
}

impl Obstacle {
    /// An obstacle that is expected to go away, such as a site that is not reached. The component counts as on its way.
    pub fn passing(code: impl Into<Cow<'static, str>>, message: impl ToString) -> Self {
        Self { code: code.into(), message: message.to_string(), severity: Severity::Passing }
    }

    /// An obstacle that makes the component count as failed while it is tried again.
    pub fn failing(code: impl Into<Cow<'static, str>>, message: impl ToString) -> Self {
        Self { severity: Severity::Failing, ..Self::passing(code, message) }
    }

    /// An obstacle that only another document or artifact ends: nothing is tried again before.
    pub fn lasting(code: impl Into<Cow<'static, str>>, message: impl ToString) -> Self {
        Self { severity: Severity::Lasting, ..Self::passing(code, message) }
    }

    /// Whether only another document or artifact ends it.
    pub fn is_lasting(&self) -> bool {
        self.severity == Severity::Lasting
    }
}

/// How one part of a component is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartStatus {
    /// The name that the runtime knows the part by.
    pub name: String,
    pub state: State,
    /// Why the part is not installed, when that has a reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
}

/// The status of one component, as reports carry it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentStatus {
    pub name: ComponentName,
    pub state: State,
    /// Why the component is not installed, when that has a reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// How often the runtime had to start the component again since it was applied.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub restarts: u32,
    /// What the component is made of; empty when it is one thing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<PartStatus>,
    /// The name of the runtime that was to run it, as far as there was one. While another one cannot be observed, this one still
    /// tells whether the component is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// The status of one deployment, as reports carry it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentStatus {
    /// The name in the metadata of the document.
    pub name: String,
    /// The revision that this is about.
    pub digest: Digest,
    /// The version with which that revision, or the removal, was adopted (DEV-21).
    pub adopted: ManifestVersion,
    /// The components in the order of the document in force, exactly one each (DEV-20).
    pub components: Vec<ComponentStatus>,
    /// Why this revision does not run as a whole: its document cannot be read, or it failed and the one before runs again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Failure>,
    /// Whether this revision has been installed, however it is now. The next one has a way back to it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub was_installed: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

/// All deployments that there is something to say about.
pub type Statuses = BTreeMap<DeploymentId, DeploymentStatus>;

impl ComponentStatus {
    /// The status of a component of which nothing but its state is to be told.
    fn bare(name: &ComponentName, state: State) -> Self {
        Self { name: name.clone(), state, failure: None, endpoint: None, restarts: 0, parts: Vec::new(), runtime: None }
    }
}

impl DeploymentStatus {
    /// Returns the state of the most severe component (DEV-20).
    pub fn state(&self) -> State {
        let whole = self.refused.as_ref().map(|_| State::Failed);
        State::worst(self.components.iter().map(|component| component.state).chain(whole))
    }

    /// Returns why the most severe component, or the deployment as a whole, is as it is.
    pub fn failure(&self) -> Option<Failure> {
        if let Some(failure) = &self.refused {
            return Some(Failure { source: self.name.clone(), ..failure.clone() });
        }
        let state = self.state();
        let worst = self.components.iter().find(|component| component.state == state && component.failure.is_some())?;
        let failure = worst.failure.as_ref()?;
        Some(Failure { source: self.name.clone(), ..failure.clone() })
    }

    /// Returns the status of a deployment that shall no longer be. `there` tells which components still are, and what
    /// keeps each of them from going (DEV-19).
    pub fn leaving<'a>(
        &self,
        adopted: ManifestVersion,
        there: impl Fn(&ComponentStatus) -> Option<Option<&'a Obstacle>>,
    ) -> Self {
        let components = self.components.iter().map(|component| {
            let (state, obstacle) = match there(component) {
                Some(obstacle) => (State::Removing, obstacle),
                None => (State::Removed, None),
            };
            let failure = obstacle.map(|it| Failure::new(it.code.clone(), component.name.as_str(), &it.message));
            let runtime = component.runtime.clone();
            ComponentStatus { failure, runtime, ..ComponentStatus::bare(&component.name, state) }
        });
        // Once it is leaving, a later version does not change with which one that was ordered.
        let was_leaving = matches!(self.state(), State::Removing | State::Removed);
        let adopted = if was_leaving { self.adopted } else { adopted };
        Self { adopted, components: components.collect(), refused: None, ..self.clone() }
    }

    /// Names what made the node go back to the revision before: the component that failed, which may run again by now, is shown
    /// as failed for that reason.
    pub fn refuse(&mut self, failure: &Failure) {
        self.refused = Some(failure.clone());
        let blamed = failure.source.parse::<ComponentName>().ok().filter(|_| failure.code != UNREADABLE);
        let Some(name) = blamed else { return };
        let shown = self.components.iter_mut().find(|component| component.name == name);
        match shown {
            Some(component) => (component.state, component.failure) = (State::Failed, Some(failure.clone())),
            // The revision before does not have it.
            None => {
                let failure = Some(failure.clone());
                self.components.push(ComponentStatus { failure, ..ComponentStatus::bare(&name, State::Failed) });
            }
        }
    }
}

/// All that decides the status of a component that shall run.
pub struct Facts<'a> {
    /// What the runtime shows of the wanted revision; `None` when it does not have that one.
    pub seen: Option<&'a Observed>,
    /// What the last attempt to start the component met.
    pub obstacle: Option<&'a Obstacle>,
    /// Whether the components before it are up.
    pub turn: bool,
    /// Whether the time that the document grants has elapsed.
    pub overdue: bool,
    /// How the same revision was at the last look.
    pub was: Option<&'a ComponentStatus>,
}

/// Judges how a component that shall run is.
pub fn judge(name: &ComponentName, facts: &Facts<'_>) -> ComponentStatus {
    let failure = |code: &str, message: &str| Some(Failure::new(code, name.as_str(), message));
    let late = || failure("timeout", "it did not run within the time that the document grants");
    let condition = facts.seen.map(|seen| &seen.condition);
    let (state, failure, endpoint) = match (condition, facts.obstacle) {
        (Some(Condition::Running { endpoint }), _) => (State::Installed, None, endpoint.clone()),
        (Some(Condition::Completed), _) => (State::Installed, None, None),
        (Some(Condition::Failed { code, message }), _) => (State::Failed, failure(code, message), None),
        (Some(Condition::Unknown { reason }), _) => {
            return ComponentStatus { failure: failure(UNKNOWN, reason), ..last_known(name, facts) };
        }
        (Some(Condition::Starting), _) if facts.overdue => (State::Failed, late(), None),
        (Some(Condition::Starting), _) => (State::Installing, None, None),
        (None, Some(obstacle)) => {
            let state = match obstacle.severity {
                Severity::Lasting | Severity::Failing => State::Failed,
                Severity::Passing if !facts.turn => State::Pending,
                Severity::Passing if facts.overdue => State::Failed,
                Severity::Passing => State::Installing,
            };
            let shown = if state == State::Pending { None } else { failure(&obstacle.code, &obstacle.message) };
            (state, shown, None)
        }
        (None, None) if facts.turn && facts.overdue => (State::Failed, late(), None),
        (None, None) if facts.turn => (State::Installing, None, None),
        (None, None) => (State::Pending, None, None),
    };
    let restarts = facts.seen.map_or(0, |seen| seen.restarts);
    let parts = facts.seen.iter().flat_map(|seen| &seen.parts).take(MAX_PARTS).map(part).collect();
    ComponentStatus { name: name.clone(), state, failure, endpoint, restarts, parts, runtime: None }
}

/// Returns the status of a component of which nothing can be said now: how it was, or that it is on its way.
pub fn last_known(name: &ComponentName, facts: &Facts<'_>) -> ComponentStatus {
    let state = if facts.turn { State::Installing } else { State::Pending };
    facts.was.cloned().unwrap_or_else(|| ComponentStatus::bare(name, state))
}

fn part(part: &Part) -> PartStatus {
    let failure = |code: &str, message: &str| Some(Failure::new(code, part.name.as_str(), message));
    let (state, failure, endpoint) = match &part.condition {
        Condition::Running { endpoint } => (State::Installed, None, endpoint.clone()),
        Condition::Completed => (State::Installed, None, None),
        Condition::Starting => (State::Installing, None, None),
        Condition::Unknown { reason } => (State::Installing, failure(UNKNOWN, reason), None),
        Condition::Failed { code, message } => (State::Failed, failure(code, message), None),
    };
    PartStatus { name: part.name.chars().take(MAX_MESSAGE).collect(), state, failure, endpoint }
}

/// A deployment or a component went from one state to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    pub deployment: DeploymentId,
    /// The revision that the new state is about.
    pub digest: Digest,
    /// The component; `None` for the deployment as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<ComponentName>,
    pub state: State,
    /// Why it is in this state, when that has a reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// The version with which the revision was adopted.
    pub adopted: ManifestVersion,
}

/// Returns every transition between two looks (DEV-19). Another message, endpoint or count of restarts alone is none: the
/// status carries it.
pub fn transitions(before: &Statuses, after: &Statuses) -> Vec<Transition> {
    let mut transitions = Vec::new();
    for (id, now) in after {
        let was = before.get(id);
        let differs = |was: Option<(State, Option<&Failure>)>, state: State, failure: Option<&Failure>| {
            let code = |failure: Option<&Failure>| failure.map(|failure| failure.code.clone());
            was.is_none_or(|(old, reason)| (old, code(reason)) != (state, code(failure)))
        };
        let same_revision = was.filter(|was| was.digest == now.digest);
        let transition = |component: Option<ComponentName>, state: State, failure: Option<Failure>| Transition {
            deployment: *id,
            digest: now.digest,
            component,
            state,
            failure,
            adopted: now.adopted,
        };
        for component in &now.components {
            let was = same_revision.and_then(|was| was.components.iter().find(|it| it.name == component.name));
            let was = was.map(|was| (was.state, was.failure.as_ref()));
            if differs(was, component.state, component.failure.as_ref()) {
                transitions.push(transition(Some(component.name.clone()), component.state, component.failure.clone()));
            }
        }
        let failure_before = same_revision.and_then(DeploymentStatus::failure);
        let was = same_revision.map(|was| (was.state(), failure_before.as_ref()));
        if differs(was, now.state(), now.failure().as_ref()) {
            transitions.push(transition(None, now.state(), now.failure()));
        }
    }
    transitions
}

/// Returns a state as reports carry it.
pub fn state_to_proto(state: State) -> i32 {
    let state = match state {
        State::Pending => proto::State::Pending,
        State::Installing => proto::State::Installing,
        State::Installed => proto::State::Installed,
        State::Failed => proto::State::Failed,
        State::Removing => proto::State::Removing,
        State::Removed => proto::State::Removed,
    };
    state.into()
}

impl From<&Failure> for proto::Failure {
    fn from(failure: &Failure) -> Self {
        let Failure { code, source, message, runs } = failure.clone();
        Self { code, source, message, runs: runs.map(|digest| digest.to_string()).unwrap_or_default() }
    }
}

fn part_to_proto(part: &PartStatus) -> proto::PartStatus {
    proto::PartStatus {
        name: part.name.clone(),
        state: state_to_proto(part.state),
        failure: part.failure.as_ref().map(Into::into),
        endpoint: part.endpoint.clone().unwrap_or_default(),
    }
}

/// Returns a deployment's status as reports carry it.
pub fn to_proto(id: &DeploymentId, status: &DeploymentStatus) -> proto::DeploymentStatus {
    let components = status.components.iter().map(|component| proto::ComponentStatus {
        name: component.name.to_string(),
        state: state_to_proto(component.state),
        failure: component.failure.as_ref().map(Into::into),
        endpoint: component.endpoint.clone().unwrap_or_default(),
        restarts: component.restarts,
        parts: component.parts.iter().map(part_to_proto).collect(),
        cpu_milliseconds: None,
        memory_bytes: None,
    });
    proto::DeploymentStatus {
        id: id.to_string(),
        digest: status.digest.to_string(),
        adopted_manifest_version: status.adopted.get(),
        state: state_to_proto(status.state()),
        failure: status.failure().as_ref().map(Into::into),
        components: components.collect(),
    }
}

#[cfg(test)]
#[path = "status/tests.rs"]
mod tests;
