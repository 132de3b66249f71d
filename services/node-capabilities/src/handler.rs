//! Requests on the bus. An order to add a site or a node, or about its key, is decided and stored in one transaction, then
//! those who wait for it are told; what sites and nodes there are is answered from the database.

use std::sync::Arc;

use ::store::Transaction;
use api::{
    ByName, CreateNode, CreateSite, KeyRevoked, Members, Node, NodeAdmitted, Problem, ReplaceKeyRequest,
    ReplaceNodeKey, ReplaceSiteKey, RevokeKeyRequest, Site, SiteAdmitted, Targets,
};
use bus::{Bus, Call, Caller, ServiceName, Subject};
use identity::certificates::Issuer;
use margo::{DeviceId, Identity, NodeId, SiteName, TenantName};
use outbox::{OrderHeader, Outbox, Verb};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, info_span, warn};

use crate::{
    domain::{Joins, Keys, Owner, Refused, check_node, check_reason, check_site, replace_key},
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
    pub async fn create_site(self: Arc<Self>, call: Call<CreateSite>) -> Result<SiteAdmitted, Problem> {
        let requested_by = call.caller()?.name.clone();
        let site = call.body;
        let order = OrderHeader::new(requested_by, site.reason.clone());
        // Before anything is stored: a request that cannot be signed is a site that cannot speak.
        let certificate = self.sign(&site.name, site.certificate_request.as_deref())?;
        let owner = Owner::Site(site.name.clone());
        let mut tx = self.store.begin().await.map_err(store_problem)?;
        let taken = self.store.taken_of_site(&mut tx, &site).await.map_err(store_problem)?;
        if check_site(&site, taken)? == Joins::Anew {
            self.store.insert_site(&mut tx, &site).await.map_err(store_problem)?;
        }
        // As they are kept, not as they are asked for: an order that is given again must not lose a former key.
        let keys = self.store.keys_of(&mut tx, &owner).await.map_err(store_problem)?;
        self.commit(tx, git::add_site(&site.name, &keys, &order)).await?;
        Ok(self.admitted(&order, site.name, certificate))
    }

    /// Adds a node. What this answers is durable; the site lets the node in as soon as it has the commit that names it.
    pub async fn create_node(self: Arc<Self>, call: Call<CreateNode>) -> Result<NodeAdmitted, Problem> {
        let requested_by = call.caller()?.name.clone();
        let node = call.body;
        let order = OrderHeader::new(requested_by, node.reason.clone());
        let mut tx = self.store.begin().await.map_err(store_problem)?;
        let site_exists = self.store.client_exists(&mut tx, &node.name.client).await.map_err(store_problem)?;
        let taken = self.store.taken_of_node(&mut tx, &node).await.map_err(store_problem)?;
        if check_node(&node, site_exists, taken)? == Joins::Anew {
            self.store.insert_node(&mut tx, &node).await.map_err(store_problem)?;
        }
        let (device, keys) = self.node(&mut tx, &node.name).await?;
        self.commit(tx, git::write_node(Verb::Add, &node.name, &device, &keys, &order)).await?;
        // A full queue holds an evaluation that has not begun, and that will see this node, too.
        let _ = self.joined.try_send(Span::current());
        let root_certificates = self.root_certificates.clone();
        Ok(NodeAdmitted { order: order.id.to_string(), name: node.name, root_certificates })
    }

    /// Replaces the key of a site. What this answers is durable; the hub cuts the old key off, and lets the new one in, as soon as
    /// Git has it.
    pub async fn replace_site_key(
        self: Arc<Self>,
        call: Call<ReplaceKeyRequest<SiteName, ReplaceSiteKey>>,
    ) -> Result<SiteAdmitted, Problem> {
        let requested_by = call.caller()?.name.clone();
        let ReplaceKeyRequest { name, replace } = call.body;
        check_reason(replace.reason.as_deref())?;
        let order = OrderHeader::new(requested_by, replace.reason);
        let certificate = self.sign(&name, replace.certificate_request.as_deref())?;
        let mut tx = self.store.begin().await.map_err(store_problem)?;
        let held = self.site(&mut tx, &name).await?;
        let keys = self.replace(&mut tx, &Owner::Site(name.clone()), held, &replace.identity).await?;
        self.commit(tx, git::change_site_key(Verb::ReplaceKey, &name, &keys, &order)).await?;
        Ok(self.admitted(&order, name, certificate))
    }

    /// Replaces the key of a node. What this answers is durable; the site cuts the old key off, and lets the new one in, as soon as
    /// it has the commit that names them.
    pub async fn replace_node_key(
        self: Arc<Self>,
        call: Call<ReplaceKeyRequest<NodeId, ReplaceNodeKey>>,
    ) -> Result<NodeAdmitted, Problem> {
        let requested_by = call.caller()?.name.clone();
        let ReplaceKeyRequest { name, replace } = call.body;
        check_reason(replace.reason.as_deref())?;
        let order = OrderHeader::new(requested_by, replace.reason);
        let mut tx = self.store.begin().await.map_err(store_problem)?;
        let (device, held) = self.node(&mut tx, &name).await?;
        let keys = self.replace(&mut tx, &Owner::Node(name.clone()), held, &replace.identity).await?;
        self.commit(tx, git::write_node(Verb::ReplaceKey, &name, &device, &keys, &order)).await?;
        let root_certificates = self.root_certificates.clone();
        Ok(NodeAdmitted { order: order.id.to_string(), name, root_certificates })
    }

    /// Revokes the key of a site, which has none in force until it is replaced.
    pub async fn revoke_site_key(
        self: Arc<Self>,
        call: Call<RevokeKeyRequest<SiteName>>,
    ) -> Result<KeyRevoked, Problem> {
        let requested_by = call.caller()?.name.clone();
        let RevokeKeyRequest { name, reason } = call.body;
        check_reason(reason.as_deref())?;
        let order = OrderHeader::new(requested_by, reason);
        let mut tx = self.store.begin().await.map_err(store_problem)?;
        let keys = self.site(&mut tx, &name).await?.revoked();
        self.store.change_keys(&mut tx, &Owner::Site(name.clone()), &keys).await.map_err(store_problem)?;
        self.commit(tx, git::change_site_key(Verb::RevokeKey, &name, &keys, &order)).await?;
        Ok(KeyRevoked { order: order.id.to_string(), name: name.to_string(), former_keys: keys.former })
    }

    /// Revokes the key of a node, which has none in force until it is replaced.
    pub async fn revoke_node_key(self: Arc<Self>, call: Call<RevokeKeyRequest<NodeId>>) -> Result<KeyRevoked, Problem> {
        let requested_by = call.caller()?.name.clone();
        let RevokeKeyRequest { name, reason } = call.body;
        check_reason(reason.as_deref())?;
        let order = OrderHeader::new(requested_by, reason);
        let mut tx = self.store.begin().await.map_err(store_problem)?;
        let (device, held) = self.node(&mut tx, &name).await?;
        let keys = held.revoked();
        self.store.change_keys(&mut tx, &Owner::Node(name.clone()), &keys).await.map_err(store_problem)?;
        self.commit(tx, git::write_node(Verb::RevokeKey, &name, &device, &keys, &order)).await?;
        Ok(KeyRevoked { order: order.id.to_string(), name: name.to_string(), former_keys: keys.former })
    }

    /// The keys of a site. Fails when nobody added the site.
    async fn site(&self, tx: &mut Transaction, name: &SiteName) -> Result<Keys, Problem> {
        let owner = Owner::Site(name.clone());
        if !self.store.client_exists(&mut *tx, &name.client()).await.map_err(store_problem)? {
            return Err(Refused::NoOwner(owner).into());
        }
        self.store.keys_of(tx, &owner).await.map_err(store_problem)
    }

    /// The device that a node is, and its keys. Fails when nobody added the node.
    async fn node(&self, tx: &mut Transaction, name: &NodeId) -> Result<(DeviceId, Keys), Problem> {
        let owner = Owner::Node(name.clone());
        let device = self.store.device_of(tx, name).await.map_err(store_problem)?;
        let device = device.ok_or_else(|| Refused::NoOwner(owner.clone()))?;
        Ok((device, self.store.keys_of(tx, &owner).await.map_err(store_problem)?))
    }

    /// Puts this identity in the place of the one in force.
    async fn replace(
        &self,
        tx: &mut Transaction,
        owner: &Owner,
        held: Keys,
        identity: &Identity,
    ) -> Result<Keys, Problem> {
        let holder = self.store.holder_of(tx, identity).await.map_err(store_problem)?;
        let keys = replace_key(owner, &held, identity, holder)?;
        if keys != held {
            self.store.change_keys(tx, owner, &keys).await.map_err(store_problem)?;
        }
        Ok(keys)
    }

    fn admitted(&self, order: &OrderHeader, name: SiteName, certificate: Option<String>) -> SiteAdmitted {
        SiteAdmitted {
            order: order.id.to_string(),
            name,
            hub: self.hub_url.clone(),
            minter: self.minter_url.clone(),
            root_key: self.root_key.clone(),
            root_certificates: self.root_certificates.clone(),
            certificate,
            // git-writer knows; the gateway asks it.
            repository: None,
        }
    }

    /// Signs the intermediate of a site, if it asks for one.
    fn sign(&self, site: &SiteName, request: Option<&str>) -> Result<Option<String>, Problem> {
        let sign = |request| self.issuer.sign_site(&site.client(), request);
        let signed = request.map(sign).transpose();
        signed.map_err(|error| Problem::new(422, format!("certificateRequest: {error}")))
    }

    /// Commits an order with its writes for Git.
    async fn commit(&self, mut tx: Transaction, writes: git::Writes) -> Result<(), Problem> {
        let appended = self.outbox.append_all(&mut tx, writes).await.map_err(store_problem)?;
        tx.commit().await.map_err(store_problem)?;
        self.outbox.wake(&appended);
        Ok(())
    }

    pub async fn sites(self: Arc<Self>, _: Call<()>) -> Result<Vec<Site>, Problem> {
        self.store.sites().await.map_err(store_problem)
    }

    pub async fn nodes(self: Arc<Self>, _: Call<()>) -> Result<Vec<Node>, Problem> {
        self.store.nodes().await.map_err(store_problem)
    }

    /// One node with all that is known of it.
    pub async fn one_node(self: Arc<Self>, call: Call<ByName<NodeId>>) -> Result<Node, Problem> {
        let ByName { name } = call.body;
        let found = self.store.node(&name).await.map_err(store_problem)?;
        found.ok_or_else(|| Problem::not_found(format!("there is no node {name}")))
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
