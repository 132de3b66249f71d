//! What sites, nodes and their keys look like in Git. One order makes one commit in `fleet.git` and, where the site has to
//! know, one in the client's repository.

use api::NodeState;
use bus::proto;
use git_state::layout::{self, ClientFile, NodeFile, SiteFile};
use margo::{ClientName, DeviceId, NodeId, NodeIdentity, RepositoryName, SiteName};
use outbox::{AuditSubject, Object, OrderHeader, Verb};
use proto::git_write::Change as What;

use crate::domain::{Keys, Owner};

/// What one order writes, in the order in which it is to be numbered.
pub type Writes = Vec<(RepositoryName, proto::GitWrite)>;

/// The commits that add a site and the client that is its LO. The client's repository gets its first version, which is empty, so
/// that whoever asks before the first order finds what it is to hold.
pub fn add_site(site: &SiteName, keys: &Keys, order: &OrderHeader) -> Writes {
    let site_file = SiteFile { name: site.clone(), orchestrator: site.client(), state: NodeState::Active };
    let files = vec![file(layout::site(site), margo::to_yaml(&site_file)), client_file(site, keys)];
    let subject = subject(Verb::Add, &Owner::Site(site.clone()));
    let first = What::Client(proto::ClientChange::default());
    vec![
        (RepositoryName::Fleet, order.write(&subject, What::Fleet(proto::FleetChange { files }))),
        (RepositoryName::Client(site.client()), order.write(&subject, first)),
    ]
}

/// The commit that replaces or revokes the key of a site: the hub alone lets a site in, so `fleet.git` is all that it needs.
pub fn change_site_key(verb: Verb, site: &SiteName, keys: &Keys, order: &OrderHeader) -> Writes {
    let change = proto::FleetChange { files: vec![client_file(site, keys)] };
    vec![(RepositoryName::Fleet, order.write(&subject(verb, &Owner::Site(site.clone())), What::Fleet(change)))]
}

/// The commits that add a node, or replace or revoke its key: in `fleet.git` it is ordered, and in the client's repository the
/// signed head covers who it is, so that every road can admit it.
pub fn write_node(verb: Verb, node: &NodeId, device: &DeviceId, keys: &Keys, order: &OrderHeader) -> Writes {
    let Keys { in_force, former } = keys.clone();
    let node_file = NodeFile {
        name: node.clone(),
        device_id: device.clone(),
        identity: in_force.clone(),
        former: former.clone(),
        state: NodeState::Active,
        labels: Default::default(),
    };
    let files = vec![file(layout::node(node), margo::to_yaml(&node_file))];
    let identity = NodeIdentity { device: device.clone(), identity: in_force, former };
    let put = proto::PutNode { node: node.node.to_string(), identity: identity.to_bytes().into() };
    let change = proto::ClientChange { nodes: vec![put], ..Default::default() };
    let subject = subject(verb, &Owner::Node(node.clone()));
    vec![
        (RepositoryName::Fleet, order.write(&subject, What::Fleet(proto::FleetChange { files }))),
        (RepositoryName::Client(node.client.clone()), order.write(&subject, What::Client(change))),
    ]
}

fn subject(verb: Verb, owner: &Owner) -> AuditSubject {
    AuditSubject { verb, object: Object::from(owner), detail: None }
}

fn client_file(site: &SiteName, keys: &Keys) -> proto::FileChange {
    let client: ClientName = site.client();
    let Keys { in_force, former } = keys.clone();
    let content =
        ClientFile { name: client.clone(), identity: in_force, state: NodeState::Active, former_keys: former };
    file(layout::client(&client), margo::to_yaml(&content))
}

fn file(path: String, content: Vec<u8>) -> proto::FileChange {
    proto::FileChange { path, content: Some(content.into()) }
}
