//! What a new site or node looks like in Git. One order makes one commit in `fleet.git` and one in the client's repository.

use api::{CreateNode, CreateSite, NodeState};
use bus::proto;
use git_state::layout::{self, ClientFile, NodeFile, SiteFile};
use margo::{ClientName, NodeIdentity, RepositoryName};
use outbox::{AuditSubject, Object, OrderHeader, Verb};
use proto::git_write::Change as What;

use crate::domain::device_id;

/// What one order writes, in the order in which it is to be numbered.
pub type Writes = [(RepositoryName, proto::GitWrite); 2];

/// The commits that add a site and the client that is its LO. The client's repository gets its first version, which is empty, so
/// that whoever asks before the first order finds what it is to hold.
pub fn add_site(site: &CreateSite, order: &OrderHeader) -> Writes {
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
    write(order, Object::Site(site.name.clone()), files, &client, proto::ClientChange::default())
}

/// The commits that add a node: in `fleet.git` it is ordered, and in the client's repository the signed head covers who it is,
/// so that every road can admit it.
pub fn add_node(node: &CreateNode, order: &OrderHeader) -> Writes {
    let node_file = NodeFile {
        name: node.name.clone(),
        device_id: device_id(node),
        identity: node.identity.clone(),
        former: Vec::new(),
        state: NodeState::Active,
        labels: Default::default(),
    };
    let files = vec![file(layout::node(&node.name), layout::to_yaml(&node_file))];
    let identity = NodeIdentity { device: device_id(node), identity: Some(node.identity.clone()), former: Vec::new() };
    let put = proto::PutNode { node: node.name.node.to_string(), identity: identity.to_bytes().into() };
    let change = proto::ClientChange { nodes: vec![put], ..Default::default() };
    write(order, Object::Node(node.name.clone()), files, &node.name.client, change)
}

fn write(
    order: &OrderHeader,
    object: Object,
    files: Vec<proto::FileChange>,
    client: &ClientName,
    change: proto::ClientChange,
) -> Writes {
    let subject = AuditSubject { verb: Verb::Add, object, detail: None };
    let fleet = order.write(&subject, What::Fleet(proto::FleetChange { files }));
    [
        (RepositoryName::Fleet, fleet),
        (RepositoryName::Client(client.clone()), order.write(&subject, What::Client(change))),
    ]
}

fn file(path: String, content: Vec<u8>) -> proto::FileChange {
    proto::FileChange { path, content: Some(content.into()) }
}
