//! What a new site or node looks like in `fleet.git`. One order makes one commit.

use api::{CreateNode, CreateSite, NodeState};
use bus::proto;
use git_state::layout::{self, ClientFile, NodeFile, SiteFile};
use outbox::{AuditSubject, Object, OrderHeader, Verb};

use crate::domain::device_id;

/// The commit that adds a site and the client that is its LO.
pub fn add_site(site: &CreateSite, order: &OrderHeader) -> proto::GitWrite {
    let client = site.name.client();
    let site_file = SiteFile { name: site.name.clone(), orchestrator: client.clone(), state: NodeState::Active };
    let client_file = ClientFile {
        name: client.clone(),
        identity: site.identity.clone(),
        state: NodeState::Active,
        former_keys: Vec::new(),
    };
    let files = vec![
        file(layout::site(&site.name), layout::to_yaml(&site_file)),
        file(layout::client(&client), layout::to_yaml(&client_file)),
    ];
    write(order, Object::Site(site.name.clone()), files)
}

/// The commit that adds a node.
pub fn add_node(node: &CreateNode, order: &OrderHeader) -> proto::GitWrite {
    let node_file = NodeFile {
        name: node.name.clone(),
        device_id: device_id(node),
        identity: node.identity.clone(),
        state: NodeState::Active,
        labels: Default::default(),
    };
    let files = vec![file(layout::node(&node.name), layout::to_yaml(&node_file))];
    write(order, Object::Node(node.name.clone()), files)
}

fn write(order: &OrderHeader, object: Object, files: Vec<proto::FileChange>) -> proto::GitWrite {
    let subject = AuditSubject { verb: Verb::Add, object, detail: None };
    order.write(&subject, proto::git_write::Change::Fleet(proto::FleetChange { files }))
}

fn file(path: String, content: Vec<u8>) -> proto::FileChange {
    proto::FileChange { path, content: Some(content.into()) }
}
