//! States of deployments and their components, and what changed between two looks. Pure.

use std::collections::BTreeMap;

use bus::proto;
use margo::{ComponentName, DeploymentId, Digest, ManifestVersion, State};
use runtime::Condition;
use serde::{Deserialize, Serialize};

/// A workload's own words may be long; this is enough to see what is wrong, and keeps spool and reports small.
const MAX_MESSAGE: usize = 500;

/// Why something is not as ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// A stable word, such as `digest-mismatch`.
    pub code: String,
    /// Name of the deployment or of the component (DEV-22).
    pub source: String,
    /// For people.
    pub message: String,
}

impl Failure {
    /// With a message cut to what a report carries.
    pub fn new(code: impl Into<String>, source: impl Into<String>, message: &str) -> Self {
        Self { code: code.into(), source: source.into(), message: message.chars().take(MAX_MESSAGE).collect() }
    }
}

/// What keeps a component from running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// A stable word.
    pub code: &'static str,
    /// For people.
    pub message: String,
    /// Whether it ends only with another document or artifact.
    pub lasting: bool,
}

/// How one component is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentStatus {
    /// Its name.
    pub name: ComponentName,
    /// Its state.
    pub state: State,
    /// Why it is not installed, when that has a reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Where it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
}

/// How one deployment is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentStatus {
    /// The name in its metadata.
    pub name: String,
    /// Which revision this is about.
    pub digest: Digest,
    /// The version with which that revision, or the removal, was adopted (DEV-21).
    pub adopted: ManifestVersion,
    /// In the order of the document, exactly one each (DEV-20).
    pub components: Vec<ComponentStatus>,
}

/// All deployments that there is something to say about.
pub type Statuses = BTreeMap<DeploymentId, DeploymentStatus>;

impl DeploymentStatus {
    /// The state of the most severe component (DEV-20).
    pub fn state(&self) -> State {
        State::worst(self.components.iter().map(|component| component.state))
    }

    /// Why the most severe component is as it is.
    pub fn failure(&self) -> Option<Failure> {
        let state = self.state();
        let worst = self.components.iter().find(|component| component.state == state && component.failure.is_some())?;
        let failure = worst.failure.as_ref()?;
        Some(Failure { source: self.name.clone(), ..failure.clone() })
    }

    /// The status of a deployment that shall no longer be: `there` tells which components still are.
    pub fn leaving(&self, adopted: ManifestVersion, there: impl Fn(&ComponentName) -> bool) -> Self {
        let components = self.components.iter().map(|component| ComponentStatus {
            name: component.name.clone(),
            state: if there(&component.name) { State::Removing } else { State::Removed },
            failure: None,
            endpoint: None,
        });
        // Once it is leaving, a later version does not change with which one that was ordered.
        let was_leaving = matches!(self.state(), State::Removing | State::Removed);
        let adopted = if was_leaving { self.adopted } else { adopted };
        Self { adopted, components: components.collect(), ..self.clone() }
    }
}

/// All that decides the status of a component that shall run.
pub struct Facts<'a> {
    /// How its wanted revision is, when the runtime has it.
    pub condition: Option<&'a Condition>,
    /// What the last attempt to start it met.
    pub obstacle: Option<&'a Obstacle>,
    /// Whether those before it run.
    pub turn: bool,
    /// Whether the time that the document grants has elapsed.
    pub overdue: bool,
}

/// How a component that shall run is.
pub fn judge(name: &ComponentName, facts: &Facts<'_>) -> ComponentStatus {
    let failure = |code: &str, message: &str| Some(Failure::new(code, name.as_str(), message));
    let (state, failure, endpoint) = match (facts.condition, facts.obstacle) {
        (Some(Condition::Running { endpoint }), _) => (State::Installed, None, endpoint.clone()),
        (Some(Condition::Failed { code, message }), _) => (State::Failed, failure(code, message), None),
        (Some(Condition::Starting), _) if facts.overdue => {
            (State::Failed, failure("timeout", "it did not run within the time that the document grants"), None)
        }
        (Some(Condition::Starting), _) => (State::Installing, None, None),
        (None, Some(obstacle)) if obstacle.lasting => (State::Failed, failure(obstacle.code, &obstacle.message), None),
        (None, Some(obstacle)) if facts.turn => (State::Installing, failure(obstacle.code, &obstacle.message), None),
        (None, None) if facts.turn => (State::Installing, None, None),
        (None, _) => (State::Pending, None, None),
    };
    ComponentStatus { name: name.clone(), state, failure, endpoint }
}

/// One change of state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Of which deployment.
    pub deployment: DeploymentId,
    /// Of which revision.
    pub digest: Digest,
    /// Of which component; none: of the deployment as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<ComponentName>,
    /// To which state.
    pub state: State,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// The version with which the revision was adopted.
    pub adopted: ManifestVersion,
}

/// Every change between two looks (DEV-19). Another message or endpoint alone is none: the status carries it.
pub fn changes(before: &Statuses, after: &Statuses) -> Vec<Change> {
    let mut changes = Vec::new();
    for (id, now) in after {
        let was = before.get(id);
        let differs = |was: Option<(State, Option<&Failure>)>, state: State, failure: Option<&Failure>| {
            let code = |failure: Option<&Failure>| failure.map(|failure| failure.code.clone());
            was.is_none_or(|(old, reason)| (old, code(reason)) != (state, code(failure)))
        };
        let same_revision = was.filter(|was| was.digest == now.digest);
        let change = |component: Option<ComponentName>, state: State, failure: Option<Failure>| Change {
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
                changes.push(change(Some(component.name.clone()), component.state, component.failure.clone()));
            }
        }
        let failure_before = same_revision.and_then(DeploymentStatus::failure);
        let was = same_revision.map(|was| (was.state(), failure_before.as_ref()));
        if differs(was, now.state(), now.failure().as_ref()) {
            changes.push(change(None, now.state(), now.failure()));
        }
    }
    changes
}

/// A state as reports carry it.
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
        let Failure { code, source, message } = failure.clone();
        Self { code, source, message }
    }
}

/// A deployment's status as reports carry it.
pub fn to_proto(id: &DeploymentId, status: &DeploymentStatus) -> proto::DeploymentStatus {
    let components = status.components.iter().map(|component| proto::ComponentStatus {
        name: component.name.to_string(),
        state: state_to_proto(component.state),
        failure: component.failure.as_ref().map(Into::into),
        endpoint: component.endpoint.clone().unwrap_or_default(),
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
