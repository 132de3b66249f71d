//! Requests on the bus. An order to add a site or a node is decided and stored in one transaction, then those who wait
//! for it are told; what sites and nodes there are is answered from the database.

use std::sync::Arc;

use ::store::Transaction;
use api::{CreateNode, CreateSite, Members, Node, NodeCreated, Problem, Site, SiteCreated, Targets};
use bus::{Bus, Call, Caller, ServiceName, Subject};
use identity::certificates::Issuer;
use margo::TenantName;
use outbox::{OrderHeader, Outbox};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, info_span, warn};

use crate::{
    domain::{Joins, check_node, check_site},
    error::store_problem,
    git,
    store::Store,
};

/// Takes the orders, and answers what is asked about sites and nodes.
pub struct Registrar {
    pub store: Store,
    pub outbox: Outbox,
    /// Has deployments evaluated when a node joined. There is room for one, because an evaluation that has not begun will see
    /// every node that was added before it.
    pub joined: mpsc::Sender<Span>,
    /// The URL of the hub's NATS server that new sites are told.
    pub hub_url: String,
    /// The URL at which new sites ask for their logins.
    pub minter_url: String,
    /// The tenant's root public key, in OpenSSH's form, that new sites are told.
    pub root_key: String,
    /// The root certificates that new sites and nodes are told.
    pub root_certificates: String,
    /// What signs the intermediates of new sites.
    pub issuer: Issuer,
}

impl Registrar {
    /// Adds a site. What this answers is durable; the site may log in at the hub as soon as Git has it.
    pub async fn create_site(self: Arc<Self>, call: Call<CreateSite>) -> Result<SiteCreated, Problem> {
        let requested_by = call.caller()?.name.clone();
        let site = call.body;
        let order = OrderHeader::new(requested_by, site.reason.clone());
        // Before anything is stored: a request that cannot be signed is a site that cannot speak.
        let certificate = site.certificate_request.as_deref().map(|request| self.sign(&site, request)).transpose()?;
        let mut tx = self.store.begin().await.map_err(store_problem)?;
        let taken = self.store.taken_of_site(&mut tx, &site).await.map_err(store_problem)?;
        if check_site(&site, taken)? == Joins::Anew {
            self.store.insert_site(&mut tx, &site).await.map_err(store_problem)?;
        }
        self.commit(tx, git::add_site(&site, &order)).await?;
        Ok(SiteCreated {
            order: order.id.to_string(),
            name: site.name,
            hub: self.hub_url.clone(),
            minter: self.minter_url.clone(),
            root_key: self.root_key.clone(),
            root_certificates: self.root_certificates.clone(),
            certificate,
        })
    }

    /// Adds a node. What this answers is durable; the site lets the node in as soon as it has the commit that names it.
    pub async fn create_node(self: Arc<Self>, call: Call<CreateNode>) -> Result<NodeCreated, Problem> {
        let requested_by = call.caller()?.name.clone();
        let node = call.body;
        let order = OrderHeader::new(requested_by, node.reason.clone());
        let mut tx = self.store.begin().await.map_err(store_problem)?;
        let site_exists = self.store.client_exists(&mut tx, &node.name.client).await.map_err(store_problem)?;
        let taken = self.store.taken_of_node(&mut tx, &node).await.map_err(store_problem)?;
        if check_node(&node, site_exists, taken)? == Joins::Anew {
            self.store.insert_node(&mut tx, &node).await.map_err(store_problem)?;
        }
        self.commit(tx, git::add_node(&node, &order)).await?;
        // A full queue holds an evaluation that has not begun, and that will see this node, too.
        let _ = self.joined.try_send(Span::current());
        let root_certificates = self.root_certificates.clone();
        Ok(NodeCreated { order: order.id.to_string(), name: node.name, root_certificates })
    }

    /// Signs the intermediate of a site.
    fn sign(&self, site: &CreateSite, request: &str) -> Result<String, Problem> {
        let signed = self.issuer.sign_site(&site.name.client(), request);
        signed.map_err(|error| Problem::new(422, format!("certificateRequest: {error}")))
    }

    /// Commits an order with its writes for Git.
    async fn commit(&self, mut tx: Transaction, writes: git::Writes) -> Result<(), Problem> {
        for (repository, write) in writes {
            self.outbox.append(&mut tx, &repository, write).await.map_err(store_problem)?;
        }
        tx.commit().await.map_err(store_problem)?;
        self.outbox.wake();
        Ok(())
    }

    pub async fn sites(self: Arc<Self>, _: Call<()>) -> Result<Vec<Site>, Problem> {
        self.store.sites().await.map_err(store_problem)
    }

    pub async fn nodes(self: Arc<Self>, _: Call<()>) -> Result<Vec<Node>, Problem> {
        self.store.nodes().await.map_err(store_problem)
    }

    /// What there is of the targets of an order. The answer grows with them, and not with the fleet.
    pub async fn members(self: Arc<Self>, call: Call<Targets>) -> Result<Members, Problem> {
        self.store.members(&call.body).await.map_err(store_problem)
    }
}

/// Has deployment-registry evaluate its assignments whenever a node joined, until shutdown. A failure costs only time, because
/// that service evaluates them every minute by itself.
pub async fn evaluate(
    bus: Bus,
    tenant: TenantName,
    mut joined: mpsc::Receiver<Span>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let caller = Caller::service(tenant, ServiceName::NodeCapabilities);
    let subject = Subject::service(ServiceName::DeploymentRegistry, "evaluate");
    loop {
        let request = tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(()),
            Some(request) = joined.recv() => request,
        };
        let span = info_span!(parent: &request, "evaluate");
        let answer = bus.call::<(), ()>(&subject, &(), Some(&caller)).instrument(span).await;
        if let Err(problem) = answer {
            warn!(%problem, "deployments were not evaluated for the new node; they will be within a minute");
        }
    }
}
