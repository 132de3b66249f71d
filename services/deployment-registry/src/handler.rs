//! Requests on the bus. An order is loaded, decided, checked whole and stored in one transaction; then it is accepted.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use ::store::StoreError;
use api::{
    Accepted, AppContent, AppRef, Assignment, AssignmentSpec, AssignmentState, ByName, CreateAssignment,
    DesiredDeployment, FieldError, Placed, Problem, RemoveRequest, UpdateRequest,
};
use bus::{Call, CallerName, ServiceName, proto, trace};
use margo::{AssignmentName, DeploymentId, NodeId, Revision, TenantName};
use outbox::{OrderHeader, Outbox};
use prost::Message;
use tokio::sync::{Mutex, MutexGuard, watch};
use tracing::{info, instrument, warn};

use crate::{
    domain::{self, Change, Fleet, Put, Wish},
    error::OrderError,
    git, metrics,
    neighbours::Neighbours,
    store::Store,
};

/// The largest message to a node, in bytes after compression.
const MAX_NODE_MESSAGE: usize = 4 << 20;

/// What a deployment takes in the message to its node besides its document: id, digest and lengths. In bytes, rounded
/// up.
const ENVELOPE: usize = 160;

/// What the endpoints and the loop of `evaluate` share.
pub struct Registry {
    pub(crate) tenant: TenantName,
    pub(crate) store: Store,
    pub(crate) neighbours: Neighbours,
    /// Orders are decided one after another, each on what the one before has left. It is held while the database is
    /// awaited and never while another service is, which might be slow.
    turn: Mutex<()>,
    /// Turns that have ended: while none does, what was read before one's own turn still holds.
    turns: AtomicU64,
    /// Tells the loop of `evaluate` to look at the nodes again, with the trace of who said so.
    pub(crate) look_again: watch::Sender<Option<String>>,
}

impl Registry {
    pub fn new(tenant: TenantName, store: Store, neighbours: Neighbours) -> Self {
        let (look_again, _) = watch::channel(None);
        Self { tenant, store, neighbours, turn: Mutex::default(), turns: AtomicU64::new(0), look_again }
    }

    /// Answers `create`. Fails when the name was ever used.
    #[instrument(name = "create assignment", skip_all, fields(assignment = %call.body.name))]
    pub async fn create(self: Arc<Self>, call: Call<CreateAssignment>) -> Result<Accepted, Problem> {
        let requested_by = call.caller()?.name.clone();
        let CreateAssignment { name, spec, reason } = call.body;
        let order = order(requested_by, reason)?;
        if self.store.load(&name).await.map_err(OrderError::from)?.is_some() {
            return Err(OrderError::NameTaken(name).into());
        }
        let (wish, fleet) = self.check(spec).await?;
        let change = domain::create(&self.tenant, name.clone(), &wish, &fleet, order);
        let _turn = self.turn().await;
        let created = self.carry_out(change).await.map_err(|error| match error {
            // Another order has come first and taken the name.
            OrderError::Store(StoreError::Conflict { .. }) => OrderError::NameTaken(name),
            error => error,
        });
        Ok(created?)
    }

    /// Answers `update`. Fails when the assignment is no longer at the revision that the request names.
    #[instrument(name = "update assignment", skip_all, fields(assignment = %call.body.name))]
    pub async fn update(self: Arc<Self>, call: Call<UpdateRequest>) -> Result<Accepted, Problem> {
        let requested_by = call.caller()?.name.clone();
        let UpdateRequest { name, revision, update } = call.body;
        let order = order(requested_by, update.reason)?;
        let revision = Revision::new(revision);
        let turns = self.turns.load(Ordering::Acquire);
        let (held, checked) = futures::join!(self.held(&name, revision), self.check(update.spec));
        let mut held = held?;
        let (wish, fleet) = checked?;
        // What is meant at one revision never changes, so this holds whatever is placed meanwhile.
        self.check_immutable(&held, &wish).await?;
        let _turn = self.turn().await;
        if self.turns.load(Ordering::Acquire) != turns {
            held = self.held(&name, revision).await?;
        }
        Ok(self.carry_out(domain::update(&self.tenant, held, &wish, &fleet, order)).await?)
    }

    /// Answers `remove`. Fails when the assignment is no longer at the revision that the request names.
    #[instrument(name = "remove assignment", skip_all, fields(assignment = %call.body.name))]
    pub async fn remove(self: Arc<Self>, call: Call<RemoveRequest>) -> Result<Accepted, Problem> {
        let requested_by = call.caller()?.name.clone();
        let RemoveRequest { name, revision, reason } = call.body;
        let order = order(requested_by, reason)?;
        let _turn = self.turn().await;
        let held = self.held(&name, Revision::new(revision)).await?;
        Ok(self.carry_out(domain::remove(held, order)).await?)
    }

    /// Answers `get`, also with an assignment that was removed.
    pub async fn get(self: Arc<Self>, call: Call<ByName<AssignmentName>>) -> Result<Assignment, Problem> {
        let name = call.body.name;
        let held = self.store.load(&name).await.map_err(OrderError::from)?;
        Ok(shown(held.ok_or(OrderError::Unknown(name))?))
    }

    /// Answers `list` with all assignments, also those that were removed.
    pub async fn list(self: Arc<Self>, _: Call<()>) -> Result<Vec<Assignment>, Problem> {
        let assignments = self.store.list().await.map_err(OrderError::from)?;
        Ok(assignments.into_values().map(shown).collect())
    }

    /// Answers `orders` with the newest ones.
    pub async fn orders(self: Arc<Self>, _: Call<()>) -> Result<Vec<api::Order>, Problem> {
        Ok(self.store.orders().await.map_err(OrderError::from)?)
    }

    /// Answers `deployments` with all of them, as they are wanted.
    pub async fn deployments(self: Arc<Self>, _: Call<()>) -> Result<Vec<DesiredDeployment>, Problem> {
        Ok(self.store.deployments().await.map_err(OrderError::from)?)
    }

    /// Answers `deployment` with one of them; with nothing when nobody ever ordered it.
    pub async fn deployment(
        self: Arc<Self>,
        call: Call<ByName<DeploymentId>>,
    ) -> Result<Option<DesiredDeployment>, Problem> {
        Ok(self.store.deployment(call.body.name).await.map_err(OrderError::from)?)
    }

    /// Answers `evaluate`, the signal of node-capabilities that nodes have changed. The look happens afterwards.
    pub async fn evaluate(self: Arc<Self>, _: Call<()>) -> Result<(), Problem> {
        self.look_again.send_replace(trace::current_text());
        Ok(())
    }

    /// Places an assignment on the active nodes that match it and do not have it. `content` belongs to `app`. Nothing
    /// is done when the assignment names another application by now: the order that changed it has looked at the nodes
    /// itself.
    #[instrument(name = "place", skip_all, fields(assignment = %name))]
    pub(crate) async fn place(
        &self,
        name: &AssignmentName,
        app: &AppRef,
        content: AppContent,
        fleet: &Fleet,
    ) -> Result<(), OrderError> {
        let _turn = self.turn().await;
        let Some(held) = self.store.load(name).await?.filter(|held| held.spec.app == *app) else { return Ok(()) };
        let wish = Wish::new(held.spec.clone(), content).map_err(OrderError::Invalid)?;
        let mut nodes = fleet.missing(&held);
        loop {
            let order = OrderHeader::of_service(ServiceName::DeploymentRegistry, None);
            let Some(change) = domain::place(&self.tenant, held.clone(), &wish, nodes.clone(), order) else {
                return Ok(());
            };
            match self.carry_out(change).await {
                // A node that is full is passed over, so that the others do not have to go without.
                Err(OrderError::NodeTooLarge(node)) => {
                    warn!(%node, "passed over: its documents would not fit into one message");
                    nodes.remove(&node);
                }
                result => return result.map(|_| ()),
            }
        }
    }

    /// Waits for one's turn to change something.
    async fn turn(&self) -> Turn<'_> {
        Turn { registry: self, _alone: self.turn.lock().await }
    }

    /// Checks what an order means against the application and the nodes, which are asked for at the same time. Returns
    /// all rules that are broken at once.
    async fn check(&self, spec: AssignmentSpec) -> Result<(Wish, Fleet), OrderError> {
        let errors = domain::check_limits(&spec);
        if !errors.is_empty() {
            return Err(OrderError::Invalid(errors));
        }
        let (app, fleet) = futures::join!(self.neighbours.app(&spec.app), self.neighbours.fleet(&spec.targets));
        let fleet = fleet?;
        let mut errors = fleet.check(&spec.targets);
        let wish = app.and_then(|app| Wish::new(spec, app).map_err(OrderError::Invalid));
        match wish {
            Ok(wish) if errors.is_empty() => Ok((wish, fleet)),
            Ok(_) => Err(OrderError::Invalid(errors)),
            Err(OrderError::Invalid(more)) => {
                errors.extend(more);
                Err(OrderError::Invalid(errors))
            }
            Err(error) => Err(error),
        }
    }

    /// Checks that an update leaves alone what its application says is never changed (WFM-30).
    async fn check_immutable(&self, held: &domain::Assignment, wish: &Wish) -> Result<(), OrderError> {
        let before = if wish.depends_on(&held.spec) { Some(self.neighbours.app(&held.spec.app).await?) } else { None };
        let errors = wish.immutable_changes(&held.spec, before.as_ref());
        if errors.is_empty() { Ok(()) } else { Err(OrderError::Invalid(errors)) }
    }

    /// Loads the assignment if it stands and is at the revision that the person has seen.
    async fn held(&self, name: &AssignmentName, named: Revision) -> Result<domain::Assignment, OrderError> {
        let held = self.store.load(name).await?.ok_or_else(|| OrderError::Unknown(name.clone()))?;
        if held.state == AssignmentState::Removed {
            return Err(OrderError::Removed(name.clone()));
        }
        if held.revision != named {
            return Err(OrderError::Stale { name: name.clone(), held: held.revision, named });
        }
        Ok(held)
    }

    /// Checks a change whole and stores it together with its writes for Git. When this returns, the order survives any
    /// crash.
    async fn carry_out(&self, change: Change) -> Result<Accepted, OrderError> {
        let errors = domain::check_documents(&change);
        if !errors.is_empty() {
            return Err(OrderError::Invalid(errors));
        }
        for (node, put) in &self.large_nodes(&change).await? {
            self.check_node(&change, node, put).await?;
        }
        let writes = git::writes(&self.tenant, &change);
        if let Some((repository, _)) = writes.iter().find(|(_, write)| !Outbox::fits(write)) {
            return Err(OrderError::WriteTooLarge(repository.clone()));
        }
        self.store.commit(&change, writes).await?;
        metrics::ORDERS.with_label_values(&[change.kind.as_str()]).inc();
        let Change { order, kind, assignment, puts, removes, .. } = change;
        let (kind, by, puts, removes) = (kind.as_str(), order.requested_by, puts.len(), removes.len());
        info!(order = %order.id, kind, revision = assignment.revision.get(), %by, puts, removes, "order accepted");
        Ok(Accepted { order: order.id.to_string(), assignment: shown(assignment) })
    }

    /// The nodes whose documents might not fit into one message. Documents that are small enough uncompressed always
    /// fit, so that only the others have to be loaded and compressed to know it.
    async fn large_nodes<'a>(&self, change: &'a Change) -> Result<Vec<(&'a NodeId, &'a Put)>, StoreError> {
        let others = self.store.other_documents(&change.assignment.name, change.puts.keys()).await?;
        let plain = |node, put: &Put| {
            let (documents, bytes) = others.get(node).copied().unwrap_or_default();
            bytes + put.document.len() + (documents + 1) * ENVELOPE
        };
        // zstd makes bytes that do not compress a little larger; the server's `max_payload` leaves room for that.
        Ok(change.puts.iter().filter(|(node, put)| plain(node, put) > MAX_NODE_MESSAGE).collect())
    }

    /// Fails when all documents of a node, the new one included, do not fit into the one message to it.
    async fn check_node(&self, change: &Change, node: &NodeId, put: &Put) -> Result<(), OrderError> {
        let id = change.assignment.deployments[node].id;
        let others = self.store.documents(&change.assignment.name, node).await?;
        let mut documents: Vec<_> = others.into_iter().map(|held| (held.id, held.document)).collect();
        documents.push((id, put.document.clone()));
        if node_fits(documents) { Ok(()) } else { Err(OrderError::NodeTooLarge(node.clone())) }
    }
}

/// The right to change something, until it is dropped.
struct Turn<'a> {
    registry: &'a Registry,
    _alone: MutexGuard<'a, ()>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // Before the next turn begins. Also a turn that was given up may have changed something.
        self.registry.turns.fetch_add(1, Ordering::Release);
    }
}

/// Whether these documents fit into one message: a node is always sent all that it is to run, at once.
fn node_fits(documents: Vec<(margo::DeploymentId, Vec<u8>)>) -> bool {
    let deployments = documents.into_iter().map(|(id, document)| proto::DesiredDeployment {
        id: id.to_string(),
        digest: margo::Digest::of(&document).to_string(),
        document: document.into(),
    });
    let message =
        proto::DesiredNode { version: u64::MAX, deployments: deployments.collect(), ..proto::DesiredNode::default() };
    message.encoded_len() <= bus::MAX_PLAIN && bus::encode(&message).len() <= MAX_NODE_MESSAGE
}

/// The header of an order that a person gives.
fn order(requested_by: CallerName, reason: Option<String>) -> Result<OrderHeader, OrderError> {
    let errors: Vec<FieldError> = domain::check_reason(reason.as_deref());
    if errors.is_empty() { Ok(OrderHeader::new(requested_by, reason)) } else { Err(OrderError::Invalid(errors)) }
}

/// An assignment in the form in which the API shows it.
fn shown(assignment: domain::Assignment) -> Assignment {
    let placed = |(node, deployment): (NodeId, domain::Deployment)| Placed {
        node,
        deployment: deployment.id,
        profile: deployment.profile,
        digest: deployment.digest.map(|digest| digest.to_string()),
    };
    Assignment {
        name: assignment.name,
        revision: assignment.revision.get(),
        spec: assignment.spec,
        state: assignment.state,
        placement: assignment.deployments.into_iter().map(placed).collect(),
    }
}
