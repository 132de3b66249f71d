//! Orders: what they mean for an assignment and its deployments. No async, no bus, no database, no clock.

use std::collections::{BTreeMap, BTreeSet};

use api::{AppContent, AppRef, AssignmentSpec, AssignmentState, FieldError, NodeState, Targets};
use margo::{
    ApplicationDeployment, ApplicationDescription, AssignmentName, DeploymentId, Digest, Lock, NodeId, ParameterValue,
    SiteName, TenantName,
};
use uuid::Uuid;

/// Targets of one assignment; also what one order may make of documents within the time of a request.
const MAX_TARGETS: usize = 10_000;
/// Values that an order may give, and their size as JSON: they stand in the document of every node.
const MAX_PARAMETERS: usize = 1_000;
const MAX_PARAMETER_BYTES: usize = 256 << 10;
/// A name of a parameter or a profile.
const MAX_NAME: usize = 200;
/// A reason is one line of the audit.
const MAX_REASON: usize = 500;
/// Wrong targets named one by one; a list of 10,000 typing errors helps nobody.
const MAX_ERRORS: usize = 100;

/// A standing wish and what follows from it.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    /// Never renamed, never reused.
    pub name: AssignmentName,
    /// Rises by one with every change of what is meant. Placing it on nodes that join changes nothing of that: else
    /// every update would be stale while nodes boot.
    pub revision: u64,
    /// Whether it stands.
    pub state: AssignmentState,
    /// What it means. The profile is always there, the targets are sorted.
    pub spec: AssignmentSpec,
    /// Where it was placed.
    pub deployments: BTreeMap<NodeId, Deployment>,
}

/// An assignment on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// The same for ever, whatever its content is.
    pub id: DeploymentId,
    /// Which application.
    pub app: AppRef,
    /// In which profile.
    pub profile: String,
    /// Revision of the assignment that it follows from.
    pub revision: u64,
    /// The order that it follows from.
    pub order: Uuid,
    /// Of its document; nothing when it is to be removed.
    pub digest: Option<Digest>,
}

/// What an order does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderKind {
    /// A person brings an assignment into the world.
    Create,
    /// A person changes what it means.
    Update,
    /// A person takes it away.
    Remove,
    /// The system puts it on nodes that came to match.
    Place,
}

impl OrderKind {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Remove => "remove",
            Self::Place => "place",
        }
    }
}

/// Who orders, when, why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// UUIDv7.
    pub id: Uuid,
    /// The name of a token, or this service.
    pub requested_by: String,
    /// RFC 3339, for people.
    pub requested_at: String,
    /// Why, in a person's words.
    pub reason: Option<String>,
    /// The trace it belongs to.
    pub trace: Option<String>,
}

/// All that an order changes. It happens whole or not at all.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// By whom and why.
    pub order: Order,
    /// What it does.
    pub kind: OrderKind,
    /// What made the system order it.
    pub caused_by: Option<String>,
    /// The revision that must still be held; nothing when the assignment must not exist yet.
    pub from: Option<u64>,
    /// The assignment after it.
    pub assignment: Assignment,
    /// New documents.
    pub puts: BTreeMap<NodeId, Put>,
    /// Nodes that lose it.
    pub removes: BTreeSet<NodeId>,
}

impl Change {
    fn new(kind: OrderKind, order: Order, from: Option<u64>, assignment: Assignment) -> Self {
        let (puts, removes) = Default::default();
        Self { order, kind, caused_by: None, from, assignment, puts, removes }
    }
}

/// A new document for a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// Exact bytes of the ApplicationDeployment.
    pub document: Vec<u8>,
    /// Of the application's package, for readers.
    pub package: Digest,
}

/// What is meant, checked against the application: documents can be made of it.
#[derive(Debug)]
pub struct Wish {
    spec: AssignmentSpec,
    description: ApplicationDescription,
    lock: Lock,
    package: Digest,
    in_force: BTreeMap<String, ParameterValue>,
}

/// Sites and nodes as node-capabilities knows them.
#[derive(Debug, Default)]
pub struct Fleet {
    /// Every node with its life as ordered.
    pub nodes: BTreeMap<NodeId, NodeState>,
    /// Every site.
    pub sites: BTreeSet<SiteName>,
}

fn error(field: impl Into<String>, message: impl Into<String>) -> FieldError {
    FieldError { field: field.into(), message: message.into() }
}

/// Checks what needs no knowledge of applications and nodes.
pub fn check_limits(spec: &AssignmentSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let targets = spec.targets.nodes.len() + spec.targets.sites.len();
    if targets == 0 {
        errors.push(error("targets", "at least one node or site"));
    }
    if targets > MAX_TARGETS {
        errors.push(error("targets", format!("at most {MAX_TARGETS} nodes and sites, not {targets}")));
    }
    if spec.parameters.len() > MAX_PARAMETERS {
        errors.push(error("parameters", format!("at most {MAX_PARAMETERS}, not {}", spec.parameters.len())));
    }
    let bytes = serde_json::to_vec(&spec.parameters).map_or(usize::MAX, |json| json.len());
    if bytes > MAX_PARAMETER_BYTES {
        errors.push(error("parameters", format!("at most {MAX_PARAMETER_BYTES} bytes in all")));
    }
    if spec.parameters.keys().any(|name| name.len() > MAX_NAME) {
        errors.push(error("parameters", format!("names of at most {MAX_NAME} bytes")));
    }
    if spec.profile.as_ref().is_some_and(|profile| profile.len() > MAX_NAME) {
        errors.push(error("profile", format!("at most {MAX_NAME} bytes")));
    }
    errors
}

/// A reason becomes one line of a commit.
pub fn check_reason(reason: Option<&str>) -> Vec<FieldError> {
    let good = |reason: &str| {
        !reason.trim().is_empty() && reason.chars().count() <= MAX_REASON && !reason.contains(char::is_control)
    };
    if reason.is_none_or(good) {
        Vec::new()
    } else {
        vec![error("reason", format!("one line of 1 to {MAX_REASON} characters"))]
    }
}

/// Whether a name can stand as the author of a commit.
pub fn is_author(actor: &str) -> bool {
    (1..=MAX_NAME).contains(&actor.len()) && !actor.contains(|c: char| c.is_control() || c == '<' || c == '>')
}

impl Wish {
    /// Checks what is meant against the application it names. All that is wrong is told at once.
    pub fn new(mut spec: AssignmentSpec, app: AppContent) -> Result<Self, Vec<FieldError>> {
        let description = ApplicationDescription::parse(app.description.as_bytes(), "margo.yaml")
            .map_err(|unreadable| vec![error("app", format!("its description cannot be read: {unreadable}"))])?;
        let mut errors = Vec::new();
        let profile = choose_profile(&description, spec.profile.as_deref()).map_err(|wrong| errors.push(wrong));
        let in_force = margo::check_parameters(&description, &spec.parameters).map_err(|wrong| {
            errors.extend(wrong.iter().map(|(name, why)| error(format!("parameters.{name}"), why.to_string())));
        });
        let (Ok(profile), Ok(in_force)) = (profile, in_force) else { return Err(errors) };
        spec.profile = Some(profile);
        spec.targets.nodes.sort();
        spec.targets.nodes.dedup();
        spec.targets.sites.sort();
        spec.targets.sites.dedup();
        Ok(Self { spec, description, lock: Lock { components: app.lock }, package: app.app.digest, in_force })
    }

    fn profile(&self) -> &str {
        self.spec.profile.as_deref().expect("`new` chose one")
    }

    fn document(&self, tenant: &TenantName, assignment: &AssignmentName, node: &NodeId) -> Vec<u8> {
        ApplicationDeployment::new(
            tenant,
            assignment,
            node,
            &self.description,
            self.profile(),
            &self.in_force,
            &self.lock,
        )
        .expect("`new` chose a profile that the description has")
        .to_yaml()
    }
}

fn choose_profile(description: &ApplicationDescription, wanted: Option<&str>) -> Result<String, FieldError> {
    let known = || description.profiles.iter().map(|profile| profile.id.as_str()).collect::<Vec<_>>().join(", ");
    match (wanted, description.profiles.as_slice()) {
        (Some(wanted), _) => match description.profile(wanted) {
            Some(profile) => Ok(profile.id.clone()),
            None => Err(error("profile", format!("the application has {}", known()))),
        },
        (None, [only]) => Ok(only.id.clone()),
        (None, _) => Err(error("profile", format!("choose one: the application has {}", known()))),
    }
}

impl Fleet {
    /// Checks that every target exists and takes deployments.
    pub fn check(&self, targets: &Targets) -> Vec<FieldError> {
        let nodes = targets.nodes.iter().filter_map(|node| match self.nodes.get(node) {
            Some(NodeState::Active) => None,
            Some(NodeState::Leaving) => Some(error("targets.nodes", format!("node {node} is being removed"))),
            Some(NodeState::Retired) => Some(error("targets.nodes", format!("node {node} was removed"))),
            None => Some(error("targets.nodes", format!("there is no node {node}"))),
        });
        let sites = targets.sites.iter().filter(|site| !self.sites.contains(*site));
        let sites = sites.map(|site| error("targets.sites", format!("there is no site {site}")));
        nodes.chain(sites).take(MAX_ERRORS).collect()
    }

    /// Active nodes that the targets mean.
    fn matching(&self, targets: &Targets) -> BTreeSet<NodeId> {
        let sites: BTreeSet<_> = targets.sites.iter().map(SiteName::client).collect();
        let named: BTreeSet<_> = targets.nodes.iter().collect();
        let active = self.nodes.iter().filter(|(_, state)| **state == NodeState::Active).map(|(node, _)| node);
        active.filter(|node| sites.contains(&node.client) || named.contains(node)).cloned().collect()
    }

    /// Nodes that match an assignment and do not have it.
    pub fn missing(&self, assignment: &Assignment) -> BTreeSet<NodeId> {
        match assignment.state {
            AssignmentState::Removed => BTreeSet::new(),
            AssignmentState::Active => {
                let matching = self.matching(&assignment.spec.targets);
                matching.into_iter().filter(|node| !assignment.deployments.contains_key(node)).collect()
            }
        }
    }
}

/// A person brings an assignment into the world.
pub fn create(tenant: &TenantName, name: AssignmentName, wish: &Wish, fleet: &Fleet, order: Order) -> Change {
    let assignment = Assignment {
        name,
        revision: 1,
        state: AssignmentState::Active,
        spec: wish.spec.clone(),
        deployments: BTreeMap::new(),
    };
    let nodes = fleet.matching(&assignment.spec.targets);
    put(tenant, Change::new(OrderKind::Create, order, None, assignment), wish, nodes)
}

/// A person changes what an assignment means. Nodes that have it get the new content, also those that no longer match:
/// targets only add.
pub fn update(tenant: &TenantName, held: Assignment, wish: &Wish, fleet: &Fleet, order: Order) -> Change {
    let from = held.revision;
    let mut nodes: BTreeSet<_> = held.deployments.keys().cloned().collect();
    nodes.extend(fleet.matching(&wish.spec.targets));
    let assignment = Assignment { revision: from + 1, spec: wish.spec.clone(), ..held };
    put(tenant, Change::new(OrderKind::Update, order, Some(from), assignment), wish, nodes)
}

/// A person takes an assignment away, from every node that has it.
pub fn remove(held: Assignment, order: Order) -> Change {
    let from = held.revision;
    let mut assignment = Assignment { revision: from + 1, state: AssignmentState::Removed, ..held };
    for deployment in assignment.deployments.values_mut() {
        deployment.digest = None;
        deployment.revision = assignment.revision;
        deployment.order = order.id;
    }
    let removes = assignment.deployments.keys().cloned().collect();
    Change { removes, ..Change::new(OrderKind::Remove, order, Some(from), assignment) }
}

/// The system puts an assignment on nodes that miss it. Nothing when there are none.
pub fn place(
    tenant: &TenantName,
    held: Assignment,
    wish: &Wish,
    nodes: BTreeSet<NodeId>,
    order: Order,
) -> Option<Change> {
    let caused_by = match nodes.len() {
        0 => return None,
        1 => format!("evaluate, {} matches", nodes.first()?),
        many => format!("evaluate, {} and {} more match", nodes.first()?, many - 1),
    };
    let change = Change::new(OrderKind::Place, order, Some(held.revision), held);
    Some(put(tenant, Change { caused_by: Some(caused_by), ..change }, wish, nodes))
}

/// Gives nodes the assignment's content.
fn put(tenant: &TenantName, mut change: Change, wish: &Wish, nodes: BTreeSet<NodeId>) -> Change {
    for node in nodes {
        let document = wish.document(tenant, &change.assignment.name, &node);
        let deployment = Deployment {
            id: DeploymentId::new(tenant, &change.assignment.name, &node),
            app: wish.spec.app.clone(),
            profile: wish.profile().to_owned(),
            revision: change.assignment.revision,
            order: change.order.id,
            digest: Some(Digest::of(&document)),
        };
        change.assignment.deployments.insert(node.clone(), deployment);
        change.puts.insert(node, Put { document, package: wish.package });
    }
    change
}

/// Checks the new documents as their readers will. They differ in the names of nodes alone, so reading the largest is
/// reading all.
pub fn check_documents(change: &Change) -> Vec<FieldError> {
    let largest = change.puts.values().map(|put| &put.document).max_by_key(|document| document.len());
    let read = largest.map(|document| ApplicationDeployment::parse(document, "the deployment made of this order"));
    match read {
        None | Some(Ok(_)) => Vec::new(),
        Some(Err(unreadable)) => vec![error("parameters", unreadable.to_string())],
    }
}

#[cfg(test)]
mod tests;
