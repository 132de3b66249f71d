//! Orders: a site or a node is added. Decide and store in one transaction, then tell those who wait for it.

use api::{AdmittedNodes, CreateNode, CreateSite, NodeCreated, Problem, SiteCreated};
use bus::{Bus, Call, CallVerb, Repository, ServiceName, SiteVerb, Subject};
use bytes::Bytes;
use outbox::Outbox;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, info_span, warn};

use crate::{
    domain::{Joins, Taken, check_node, check_site},
    error::StoreError,
    fleet::{self, Order},
    store::Store,
    users::HubUsers,
};

/// Takes orders.
pub struct Registrar {
    /// Where they are kept.
    pub store: Store,
    /// How they come into Git.
    pub outbox: Outbox,
    /// Who lets new sites in.
    pub users: HubUsers,
    /// Public key of the user that has the hub reload its configuration.
    pub reloader_key: String,
    /// To tell sites.
    pub bus: Bus,
    /// To have deployments evaluated. One waiting evaluation sees every node that was added before it, so there is room
    /// for one.
    pub joined: mpsc::Sender<Span>,
    /// Address of the hub that new sites are told.
    pub hub_url: String,
    /// The tenant's root public key that new sites are told.
    pub root_key: String,
}

impl Registrar {
    /// Adds a site. What this answers is durable; the hub lets it in now, or as soon as it can.
    pub async fn create_site(&self, call: Call<CreateSite>) -> Result<SiteCreated, Problem> {
        let site = call.body;
        let order = Order::new(call.actor, site.reason.clone());
        let mut tx = self.store.begin().await?;
        let taken = self.store.taken_of_site(&mut tx, &site).await?;
        if check_site(&site, self.also_reserved(taken, &site.public_key))? == Joins::Anew {
            self.store.insert_site(&mut tx, &site).await?;
        }
        let write = fleet::add_site(&site, &order);
        self.outbox.append(&mut tx, &Repository::Fleet, write).await.map_err(StoreError::from)?;
        tx.commit().await.map_err(StoreError::from)?;
        self.outbox.wake();
        self.users.renew().await;
        Ok(SiteCreated {
            order: order.id.to_string(),
            name: site.name,
            hub: self.hub_url.clone(),
            root_key: self.root_key.clone(),
        })
    }

    /// Adds a node. What this answers is durable; its site lets it in when it hears of it.
    pub async fn create_node(&self, call: Call<CreateNode>) -> Result<NodeCreated, Problem> {
        let node = call.body;
        let order = Order::new(call.actor, node.reason.clone());
        let mut tx = self.store.begin().await?;
        let site_exists = self.store.client_exists(&mut tx, &node.name.client).await?;
        let taken = self.store.taken_of_node(&mut tx, &node).await?;
        if check_node(&node, site_exists, self.also_reserved(taken, &node.public_key))? == Joins::Anew {
            self.store.insert_node(&mut tx, &node).await?;
        }
        let write = fleet::add_node(&node, &order);
        self.outbox.append(&mut tx, &Repository::Fleet, write).await.map_err(StoreError::from)?;
        tx.commit().await.map_err(StoreError::from)?;
        self.outbox.wake();
        let admit = Subject::Call(node.name.clone(), CallVerb::Admit);
        if let Err(error) = self.bus.signal(&admit, Bytes::new()).await {
            // The site asks by itself when it connects.
            warn!(node = %node.name, error = &*error as &dyn std::error::Error, "the site was not told of its new node");
        }
        // Full: an evaluation that has not begun will see this node, too.
        let _ = self.joined.try_send(Span::current());
        Ok(NodeCreated { order: order.id.to_string(), name: node.name })
    }

    /// Keys that are in no table: a list of users that names one twice would be refused by the server.
    fn also_reserved(&self, taken: Taken, public_key: &str) -> Taken {
        let reloader = (public_key == self.reloader_key).then(|| "the service that reloads the hub".to_owned());
        Taken { key: taken.key.or_else(|| self.users.service_of_key(public_key)).or(reloader), ..taken }
    }

    /// Who may connect at the site that asks. NATS permissions let nobody else ask on this subject.
    pub async fn admitted(&self, call: Call<()>) -> Result<AdmittedNodes, Problem> {
        let Subject::Site(client, SiteVerb::Nodes) = call.subject else {
            return Err(Problem::bad_request(format!("{} asks for no nodes", call.subject)));
        };
        // Not an empty list: that would have the site turn all its nodes away.
        let unknown = || Problem::not_found(format!("client {client} does not exist"));
        Ok(AdmittedNodes { nodes: self.store.admitted(&client).await?.ok_or_else(unknown)? })
    }
}

/// Has deployment-registry look at the nodes whenever one joined. It looks every minute by itself, so a failure only
/// costs time.
pub async fn evaluate(bus: Bus, mut joined: mpsc::Receiver<Span>, shutdown: CancellationToken) -> anyhow::Result<()> {
    let subject = Subject::service(ServiceName::DeploymentRegistry, "evaluate");
    loop {
        let request = tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(()),
            Some(request) = joined.recv() => request,
        };
        let span = info_span!(parent: &request, "evaluate");
        let actor = ServiceName::NodeCapabilities.as_str();
        let answer = bus.call::<(), ()>(&subject, &(), Some(actor)).instrument(span).await;
        if let Err(problem) = answer {
            warn!(%problem, "deployments were not evaluated for the new node; they will be within a minute");
        }
    }
}
