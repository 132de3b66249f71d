//! Requests: load, decide, check whole, store, wake the outbox.

use std::sync::{Arc, LazyLock};

use api::{
    Accepted, AppContent, AppRef, Assignment, AssignmentSpec, AssignmentState, ByName, CreateAssignment,
    DesiredDeployment, FieldError, Placed, Problem, RemoveRequest, UpdateRequest,
};
use bus::{Call, ServiceName, proto, trace};
use jiff::Timestamp;
use margo::{AssignmentName, NodeId, TenantName};
use outbox::Outbox;
use prometheus::{IntCounterVec, register_int_counter_vec};
use prost::Message;
use tokio::sync::{Mutex, watch};
use tracing::{info, instrument, warn};
use uuid::Uuid;

use crate::{
    domain::{self, Change, Fleet, Order, Put, Wish},
    error::{OrderError, StoreError},
    git,
    neighbours::Neighbours,
    store::Store,
};

/// The largest message to a node, compressed.
const MAX_NODE_MESSAGE: usize = 4 << 20;

/// Bytes of a deployment in the message to its node besides the document: id, digest and lengths, generously.
const ENVELOPE: usize = 160;

static ORDERS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Orders that were accepted.";
    register_int_counter_vec!("edgewright_deployment_registry_orders_total", help, &["kind"]).expect("registered once")
});

/// Assignments, and what is done with them.
pub struct Registry {
    pub(crate) tenant: TenantName,
    pub(crate) store: Store,
    pub(crate) outbox: Outbox,
    pub(crate) neighbours: Neighbours,
    /// Orders are decided one after another, each on what the one before has left. Held while nothing is awaited but
    /// the database.
    turn: Mutex<()>,
    /// Look at the nodes again; with the trace of who said so.
    pub(crate) look_again: watch::Sender<Option<String>>,
}

impl Registry {
    /// Over a database and a connection.
    pub fn new(tenant: TenantName, store: Store, outbox: Outbox, neighbours: Neighbours) -> Self {
        let (look_again, _) = watch::channel(None);
        Self { tenant, store, outbox, neighbours, turn: Mutex::default(), look_again }
    }

    /// `create`
    #[instrument(name = "create assignment", skip_all, fields(assignment = %call.body.name))]
    pub async fn create(self: Arc<Self>, call: Call<CreateAssignment>) -> Result<Accepted, Problem> {
        let CreateAssignment { name, spec, reason } = call.body;
        let order = order(call.actor, reason)?;
        if self.store.load(&name).await.map_err(OrderError::from)?.is_some() {
            return Err(OrderError::NameTaken(name).into());
        }
        let (wish, fleet) = self.check(spec).await?;
        let _turn = self.turn.lock().await;
        if self.store.load(&name).await.map_err(OrderError::from)?.is_some() {
            return Err(OrderError::NameTaken(name).into());
        }
        Ok(self.carry_out(domain::create(&self.tenant, name, &wish, &fleet, order)).await?)
    }

    /// `update`
    #[instrument(name = "update assignment", skip_all, fields(assignment = %call.body.name))]
    pub async fn update(self: Arc<Self>, call: Call<UpdateRequest>) -> Result<Accepted, Problem> {
        let UpdateRequest { name, revision, update } = call.body;
        let order = order(call.actor, update.reason)?;
        self.held(&name, revision).await?;
        let (wish, fleet) = self.check(update.spec).await?;
        let _turn = self.turn.lock().await;
        let held = self.held(&name, revision).await?;
        Ok(self.carry_out(domain::update(&self.tenant, held, &wish, &fleet, order)).await?)
    }

    /// `remove`
    #[instrument(name = "remove assignment", skip_all, fields(assignment = %call.body.name))]
    pub async fn remove(self: Arc<Self>, call: Call<RemoveRequest>) -> Result<Accepted, Problem> {
        let RemoveRequest { name, revision, reason } = call.body;
        let order = order(call.actor, reason)?;
        let _turn = self.turn.lock().await;
        let held = self.held(&name, revision).await?;
        Ok(self.carry_out(domain::remove(held, order)).await?)
    }

    /// `get`
    pub async fn get(self: Arc<Self>, call: Call<ByName<AssignmentName>>) -> Result<Assignment, Problem> {
        let name = call.body.name;
        let held = self.store.load(&name).await.map_err(OrderError::from)?;
        Ok(shown(held.ok_or(OrderError::Unknown(name))?))
    }

    /// `list`
    pub async fn list(self: Arc<Self>, _: Call<()>) -> Result<Vec<Assignment>, Problem> {
        let assignments = self.store.list().await.map_err(OrderError::from)?;
        Ok(assignments.into_values().map(shown).collect())
    }

    /// `orders`
    pub async fn orders(self: Arc<Self>, _: Call<()>) -> Result<Vec<api::Order>, Problem> {
        Ok(self.store.orders().await.map_err(OrderError::from)?)
    }

    /// `deployments`
    pub async fn deployments(self: Arc<Self>, _: Call<()>) -> Result<Vec<DesiredDeployment>, Problem> {
        Ok(self.store.deployments().await.map_err(OrderError::from)?)
    }

    /// `evaluate`
    pub async fn evaluate(self: Arc<Self>, _: Call<()>) -> Result<(), Problem> {
        self.look_again.send_replace(trace::current_text());
        Ok(())
    }

    /// Puts an assignment on active nodes that came to match, if there are any. `content` is what `app` was asked for:
    /// when the assignment has another one by now, the order that changed it has looked at the nodes itself.
    #[instrument(name = "place", skip_all, fields(assignment = %name))]
    pub(crate) async fn place(
        &self,
        name: &AssignmentName,
        app: &AppRef,
        content: AppContent,
        fleet: &Fleet,
    ) -> Result<(), OrderError> {
        let _turn = self.turn.lock().await;
        let Some(held) = self.store.load(name).await?.filter(|held| held.spec.app == *app) else { return Ok(()) };
        let wish = Wish::new(held.spec.clone(), content).map_err(OrderError::Invalid)?;
        let mut nodes = fleet.missing(&held);
        loop {
            let order = new_order(ServiceName::DeploymentRegistry.to_string(), None);
            let Some(change) = domain::place(&self.tenant, held.clone(), &wish, nodes.clone(), order) else {
                return Ok(());
            };
            match self.carry_out(change).await {
                // A full node is passed over: the others shall not go without for it.
                Err(OrderError::NodeTooLarge(node)) => {
                    warn!(%node, "passed over: its documents would not fit into one message");
                    nodes.remove(&node);
                }
                result => return result.map(|_| ()),
            }
        }
    }

    /// What is meant, checked; and the nodes as they are.
    async fn check(&self, spec: AssignmentSpec) -> Result<(Wish, Fleet), OrderError> {
        let errors = domain::check_limits(&spec);
        if !errors.is_empty() {
            return Err(OrderError::Invalid(errors));
        }
        let (app, fleet) = futures::join!(self.neighbours.app(&spec.app), self.neighbours.fleet());
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

    /// The assignment at the revision that a person has seen.
    async fn held(&self, name: &AssignmentName, named: u64) -> Result<domain::Assignment, OrderError> {
        let held = self.store.load(name).await?.ok_or_else(|| OrderError::Unknown(name.clone()))?;
        if held.state == AssignmentState::Removed {
            return Err(OrderError::Removed(name.clone()));
        }
        if held.revision != named {
            return Err(OrderError::Stale { name: name.clone(), held: held.revision, named });
        }
        Ok(held)
    }

    /// Checks a change whole and stores it; then the order survives any crash.
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
        service::stop_point("deployment-registry.committed");
        self.outbox.wake();
        ORDERS.with_label_values(&[change.kind.as_str()]).inc();
        let Change { order, kind, assignment, puts, removes, .. } = change;
        let (kind, by, puts, removes) = (kind.as_str(), order.requested_by, puts.len(), removes.len());
        info!(order = %order.id, kind, revision = assignment.revision, by, puts, removes, "order accepted");
        Ok(Accepted { order: order.id.to_string(), assignment: shown(assignment) })
    }

    /// Nodes whose documents might not fit into one message: small ones always do, and need no compressing to know it.
    async fn large_nodes<'a>(&self, change: &'a Change) -> Result<Vec<(&'a NodeId, &'a Put)>, StoreError> {
        let others = self.store.other_documents(&change.assignment.name, change.puts.keys()).await?;
        let plain = |node, put: &Put| {
            let (documents, bytes) = others.get(node).copied().unwrap_or_default();
            bytes + put.document.len() + (documents + 1) * ENVELOPE
        };
        // What zstd adds to bytes that do not compress is little beside the room below `max_payload`.
        Ok(change.puts.iter().filter(|(node, put)| plain(node, put) > MAX_NODE_MESSAGE).collect())
    }

    async fn check_node(&self, change: &Change, node: &NodeId, put: &Put) -> Result<(), OrderError> {
        let id = change.assignment.deployments[node].id;
        let others = self.store.documents(&change.assignment.name, node).await?;
        let mut documents: Vec<_> = others.into_iter().map(|it| (it.id, it.document)).collect();
        documents.push((id, put.document.clone()));
        if node_fits(documents) { Ok(()) } else { Err(OrderError::NodeTooLarge(node.clone())) }
    }
}

/// Whether documents fit into the one message that carries the whole desired state of a node.
fn node_fits(documents: Vec<(margo::DeploymentId, Vec<u8>)>) -> bool {
    let deployments = documents.into_iter().map(|(id, document)| proto::DesiredDeployment {
        id: id.to_string(),
        digest: margo::Digest::of(&document).to_string(),
        document: document.into(),
    });
    let message = proto::DesiredNode { version: u64::MAX, deployments: deployments.collect() };
    message.encoded_len() <= bus::MAX_PLAIN && bus::encode(&message).len() <= MAX_NODE_MESSAGE
}

/// An order of a person.
fn order(actor: String, reason: Option<String>) -> Result<Order, OrderError> {
    if !domain::is_author(&actor) {
        return Err(OrderError::Actor);
    }
    let errors: Vec<FieldError> = domain::check_reason(reason.as_deref());
    if errors.is_empty() { Ok(new_order(actor, reason)) } else { Err(OrderError::Invalid(errors)) }
}

fn new_order(requested_by: String, reason: Option<String>) -> Order {
    Order {
        id: Uuid::now_v7(),
        requested_by,
        requested_at: format!("{:.3}", Timestamp::now()),
        reason,
        trace: trace::current_id(),
    }
}

/// An assignment as the API shows it.
fn shown(assignment: domain::Assignment) -> Assignment {
    let placed = |(node, deployment): (NodeId, domain::Deployment)| Placed {
        node,
        deployment: deployment.id,
        profile: deployment.profile,
        digest: deployment.digest.map(|digest| digest.to_string()),
    };
    Assignment {
        name: assignment.name,
        revision: assignment.revision,
        spec: assignment.spec,
        state: assignment.state,
        placement: assignment.deployments.into_iter().map(placed).collect(),
    }
}
