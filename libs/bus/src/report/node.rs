//! What a node says: its status, its transitions, what it can do.

use api::{ActualComponent, Failure};
use jiff::Timestamp;
use margo::{DeploymentId, DeviceId, Digest, State};
use serde_json::Value;

use super::{
    Malformed, Position,
    limits::{
        MAX_CAPABILITIES, MAX_COMPONENTS, MAX_COUNTER, MAX_DEPLOYMENTS, MAX_REFUSALS, MAX_TRANSITIONS, at_most,
        counter, decode, field, parse, position, shown, text,
    },
};
use crate::proto;

/// All deployments of a node as the node sees them. One that is missing is gone.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// Which of the node's reports this is.
    pub position: Position,
    /// The deployments that the node has; none is listed twice.
    pub deployments: Vec<Deployment>,
    /// What the node did not accept, newest last.
    pub refusals: Vec<Refusal>,
    /// When the node said this, by its own clock.
    pub time: Timestamp,
}

/// One deployment as its node sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Deployment {
    /// The deployment that the node speaks of.
    pub id: DeploymentId,
    /// The digest of the document that this is about.
    pub digest: Digest,
    /// Manifest version whose revision of this deployment the node holds.
    pub adopted_manifest_version: u64,
    /// The state of the deployment as a whole.
    pub state: State,
    /// Why the deployment failed, if it did.
    pub failure: Option<Failure>,
    /// The parts that the deployment consists of.
    pub components: Vec<ActualComponent>,
}

/// Something that a node or a site did not accept, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What was refused, such as `desired.plant.node.press`.
    pub subject: String,
    /// The reason in words for people, at most 4,000 characters.
    pub reason: String,
    /// The clock of whoever refused.
    pub time: Timestamp,
}

/// What changed on a node in one pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Events {
    /// The report that carried them.
    pub position: Position,
    /// In the order in which they happened.
    pub transitions: Vec<Transition>,
    /// How many transitions the node had to drop because its spool was full.
    pub lost: u64,
}

/// One change of the state of a deployment or of one of its components.
#[derive(Clone, Debug, PartialEq)]
pub struct Transition {
    /// Unique within the incarnation, and rising.
    pub number: u64,
    /// The deployment that changed, as a whole or in one component.
    pub deployment: DeploymentId,
    /// The digest of the document that this is about.
    pub digest: Digest,
    /// Which component changed; `None` for the deployment as a whole.
    pub component: Option<String>,
    /// The state that was reached.
    pub state: State,
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
    /// Manifest version whose revision of this deployment the node held.
    pub adopted_manifest_version: u64,
    /// When the state was reached, by the node's own clock.
    pub time: Timestamp,
}

/// What a node can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Which of the node's reports this is.
    pub position: Position,
    /// The device that the document names. Whoever knows the node's device compares.
    pub device: DeviceId,
    /// A Margo DeviceCapabilitiesManifest, checked, as the node sent it.
    pub document: String,
}

/// Reads and checks what a node publishes on `state.<client>.node.<node>.status`.
pub fn status(payload: &[u8]) -> Result<Status, Malformed> {
    decode::<proto::NodeStatus>(payload)?.try_into()
}

/// Reads and checks what a node publishes on `event.<client>.node.<node>`.
pub fn events(payload: &[u8]) -> Result<Events, Malformed> {
    decode::<proto::NodeEvents>(payload)?.try_into()
}

/// Reads and checks what a node publishes on `state.<client>.node.<node>.capabilities`.
pub fn capabilities(payload: &[u8]) -> Result<Capabilities, Malformed> {
    let raw: proto::NodeCapabilities = decode(payload)?;
    let (device, document) = document(&raw.document).map_err(|rule| field("document", rule))?;
    Ok(Capabilities { position: position(raw.generation, raw.incarnation, raw.sequence)?, device, document })
}

impl TryFrom<proto::NodeStatus> for Status {
    type Error = Malformed;

    fn try_from(raw: proto::NodeStatus) -> Result<Self, Malformed> {
        at_most("deployments", raw.deployments.len(), MAX_DEPLOYMENTS)?;
        let deployments: Vec<_> = raw.deployments.into_iter().enumerate().map(deployment).collect::<Result<_, _>>()?;
        let mut ids: Vec<_> = deployments.iter().map(|deployment| deployment.id).collect();
        ids.sort_unstable();
        if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(field("deployments", format!("{} is listed twice", pair[0])));
        }
        Ok(Self {
            position: position(raw.generation, raw.incarnation, raw.sequence)?,
            deployments,
            refusals: refusals(raw.refusals),
            time: shown(raw.time),
        })
    }
}

impl TryFrom<proto::NodeEvents> for Events {
    type Error = Malformed;

    fn try_from(raw: proto::NodeEvents) -> Result<Self, Malformed> {
        at_most("transitions", raw.transitions.len(), MAX_TRANSITIONS)?;
        Ok(Self {
            position: position(raw.generation, raw.incarnation, raw.sequence)?,
            transitions: raw.transitions.into_iter().enumerate().map(transition).collect::<Result<_, _>>()?,
            lost: raw.lost,
        })
    }
}

fn deployment((at, raw): (usize, proto::DeploymentStatus)) -> Result<Deployment, Malformed> {
    let path = |name: &str| format!("deployments[{at}].{name}");
    at_most(path("components"), raw.components.len(), MAX_COMPONENTS)?;
    let component = |(number, raw): (usize, proto::ComponentStatus)| {
        // Nobody reads them yet; the limit counts from the first report that carries some.
        at_most(path(&format!("components[{number}].parts")), raw.parts.len(), MAX_COMPONENTS)?;
        Ok(ActualComponent {
            state: state(path(&format!("components[{number}].state")), raw.state)?,
            name: text(raw.name),
            failure: raw.failure.map(failure),
            endpoint: unless_empty(raw.endpoint),
            restarts: raw.restarts,
            cpu_milliseconds: raw.cpu_milliseconds.map(|count| count.min(MAX_COUNTER)),
            memory_bytes: raw.memory_bytes.map(|count| count.min(MAX_COUNTER)),
        })
    };
    Ok(Deployment {
        id: parse(path("id"), &raw.id)?,
        digest: parse(path("digest"), &raw.digest)?,
        adopted_manifest_version: counter(path("adopted_manifest_version"), raw.adopted_manifest_version)?,
        state: state(path("state"), raw.state)?,
        failure: raw.failure.map(failure),
        components: raw.components.into_iter().enumerate().map(component).collect::<Result<_, Malformed>>()?,
    })
}

fn transition((at, raw): (usize, proto::Transition)) -> Result<Transition, Malformed> {
    let path = |name: &str| format!("transitions[{at}].{name}");
    Ok(Transition {
        number: counter(path("number"), raw.number)?,
        deployment: parse(path("deployment"), &raw.deployment)?,
        digest: parse(path("digest"), &raw.digest)?,
        component: unless_empty(raw.component),
        state: state(path("state"), raw.state)?,
        failure: raw.failure.map(failure),
        adopted_manifest_version: counter(path("adopted_manifest_version"), raw.adopted_manifest_version)?,
        time: shown(raw.time),
    })
}

/// Keeps the newest refusals, [`MAX_REFUSALS`] at most. A longer list is shortened and not refused: the rest of the
/// report matters more.
pub(super) fn refusals(raw: Vec<proto::Refusal>) -> Vec<Refusal> {
    let beyond = raw.len().saturating_sub(MAX_REFUSALS);
    let newest = raw.into_iter().skip(beyond);
    newest.map(|raw| Refusal { subject: text(raw.subject), reason: text(raw.reason), time: shown(raw.time) }).collect()
}

fn failure(raw: proto::Failure) -> Failure {
    let runs = unless_empty(raw.runs);
    Failure { code: text(raw.code), source: text(raw.source), message: text(raw.message), runs }
}

/// Unspecified or unknown is malformed: to guess a state would be worse than to keep the last one.
fn state(path: String, raw: i32) -> Result<State, Malformed> {
    match proto::State::try_from(raw) {
        Ok(proto::State::Pending) => Ok(State::Pending),
        Ok(proto::State::Installing) => Ok(State::Installing),
        Ok(proto::State::Installed) => Ok(State::Installed),
        Ok(proto::State::Failed) => Ok(State::Failed),
        Ok(proto::State::Removing) => Ok(State::Removing),
        Ok(proto::State::Removed) => Ok(State::Removed),
        Ok(proto::State::Unspecified) | Err(_) => Err(field(path, format!("{raw} is no state"))),
    }
}

fn unless_empty(raw: String) -> Option<String> {
    Some(text(raw)).filter(|text| !text.is_empty())
}

/// Checks a Margo DeviceCapabilitiesManifest as far as the platform relies on it. What it does not know, it keeps and
/// never refuses: extensions (WFM-16), and runtimes and deployment types, which count as `custom` (WFM-15).
fn document(document: &[u8]) -> Result<(DeviceId, String), String> {
    if document.len() > MAX_CAPABILITIES {
        return Err(format!("larger than {MAX_CAPABILITIES} bytes"));
    }
    let text = std::str::from_utf8(document).map_err(|error| error.to_string())?;
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let Value::String(id) = &value["properties"]["id"] else { return Err("properties.id: must be a text".to_owned()) };
    let device = id.parse().map_err(|error: margo::InvalidId| format!("properties.id: {error}"))?;
    for field in ["supportedRuntimes", "supportedDeploymentTypes"] {
        match &value["properties"][field] {
            Value::Null => {}
            Value::Array(names) if names.iter().all(Value::is_string) => {}
            _ => return Err(format!("properties.{field}: must be a list of names")),
        }
    }
    Ok((device, text.to_owned()))
}

#[cfg(test)]
mod tests;
