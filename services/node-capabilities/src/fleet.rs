//! What a new site or node looks like in `fleet.git`: one order, one commit.

use api::{CreateNode, CreateSite};
use bus::{proto, trace};
use git_state::layout::{self, ClientFile, NodeFile, SiteFile};
use margo::DeviceId;
use uuid::Uuid;

/// Whoever was added and not removed.
const ACTIVE: &str = "active";

/// Who orders what, and why.
pub struct Order {
    /// Rises with time, so that a list of orders reads in their order.
    pub id: Uuid,
    /// Name of the token or service.
    pub actor: String,
    /// For the audit.
    pub reason: Option<String>,
}

impl Order {
    /// A new order.
    pub fn new(actor: String, reason: Option<String>) -> Self {
        Self { id: Uuid::now_v7(), actor, reason }
    }

    fn write(&self, subject: String, files: Vec<proto::FileChange>) -> proto::GitWrite {
        let trailer = |key: &str, value: String| proto::Trailer { key: key.to_owned(), value };
        let mut trailers = vec![trailer("Order", self.id.to_string()), trailer("Requested-By", self.actor.clone())];
        trailers.extend(self.reason.clone().map(|reason| trailer("Reason", reason)));
        trailers.extend(trace::current_id().map(|id| trailer("Trace-Id", id)));
        proto::GitWrite {
            author: self.actor.clone(),
            subject,
            trailers,
            change: Some(proto::git_write::Change::Fleet(proto::FleetChange { files })),
            // The outbox numbers it.
            ..Default::default()
        }
    }
}

/// A site and the client that is its LO.
pub fn add_site(site: &CreateSite, order: &Order) -> proto::GitWrite {
    let client = site.name.client();
    let site_file = SiteFile { name: site.name.clone(), orchestrator: client.clone(), state: ACTIVE.to_owned() };
    let client_file =
        ClientFile { name: client.clone(), public_key: site.public_key.clone(), state: ACTIVE.to_owned() };
    let files = vec![
        file(layout::site(&site.name), layout::to_yaml(&site_file)),
        file(layout::client(&client), layout::to_yaml(&client_file)),
    ];
    order.write(format!("Add site {}", site.name), files)
}

/// A node.
pub fn add_node(node: &CreateNode, order: &Order) -> proto::GitWrite {
    let node_file = NodeFile {
        name: node.name.clone(),
        device_id: DeviceId::from(&node.name),
        public_key: node.public_key.clone(),
        state: ACTIVE.to_owned(),
        labels: Default::default(),
    };
    order.write(format!("Add node {}", node.name), vec![file(layout::node(&node.name), layout::to_yaml(&node_file))])
}

fn file(path: String, content: Vec<u8>) -> proto::FileChange {
    proto::FileChange { path, content: Some(content.into()) }
}
