//! What git-writer and git-observer would make of orders: signed heads and node messages.

use std::collections::BTreeMap;

use bus::{Outgoing, Subject, proto};
use git_state::layout;
use identity::{
    SigningKey,
    trust::{HEAD_NAMESPACE, sign_keys},
};
use margo::{ClientName, DeploymentId, Digest, Head, KeySet, ManifestList, NodeId, NodeName, TenantName};

/// The desired state of one client, and the keys that sign it.
#[derive(Clone)]
pub struct Fleet {
    pub root: std::sync::Arc<SigningKey>,
    pub writer: std::sync::Arc<SigningKey>,
    pub keys_number: u64,
    pub client: ClientName,
    pub version: u64,
    pub nodes: BTreeMap<NodeName, proto::DesiredNode>,
}

pub fn deployment() -> DeploymentId {
    "00000000-0000-4000-8000-000000000001".parse().unwrap()
}

impl Fleet {
    pub fn new(client: &str) -> Self {
        let key = |comment: &str| SigningKey::generate(comment).unwrap().into();
        let (root, writer) = (key("root"), key("git-writer"));
        let client = client.parse().unwrap();
        Self { root, writer, keys_number: 1, client, version: 0, nodes: BTreeMap::new() }
    }

    /// The next version: this node runs this document, or nothing. Gives the node's message.
    pub fn order(&mut self, node: &str, document: Option<&str>) -> Outgoing {
        self.version += 1;
        let message = proto::DesiredNode { version: self.version, deployments: deployments(document) };
        self.nodes.insert(node.parse().unwrap(), message);
        self.node(node)
    }

    /// The files of the client's repository, with a head of these parts.
    pub fn files(&self, head: &proto::DesiredHead) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::from([
            (layout::VERSION.to_owned(), format!("{}\n", self.version).into_bytes()),
            (layout::HEAD.to_owned(), head.head.to_vec()),
            (layout::HEAD_SIGNATURE.to_owned(), head.head_signature.to_vec()),
            (layout::KEYS.to_owned(), head.keys.to_vec()),
            (layout::KEYS_SIGNATURE.to_owned(), head.keys_signature.to_vec()),
        ]);
        for (node, message) in &self.nodes {
            files.insert(layout::node_version(node), format!("{}\n", message.version).into_bytes());
            for deployment in &message.deployments {
                let path = layout::document(node, &deployment.id.parse().unwrap());
                files.insert(path, deployment.document.to_vec());
            }
        }
        files
    }

    /// The same with another document in one place, as it stands in a node's message.
    pub fn with_document(mut self, node: &str, document: Option<&str>) -> Self {
        let message = self.nodes.get_mut(&node.parse().unwrap()).unwrap();
        message.deployments = deployments(document);
        self
    }

    /// The message of a node as it stands.
    pub fn node(&self, node: &str) -> Outgoing {
        let name: NodeName = node.parse().unwrap();
        let payload = bus::encode(&self.nodes[&name]);
        Outgoing::new(Subject::DesiredNode(NodeId::new(self.client.clone(), name)), payload)
    }

    /// The parts of the head's message, for tests that change one.
    pub fn head_parts(&self) -> proto::DesiredHead {
        let tenant = TenantName::default();
        let mut list = ManifestList::default();
        for (node, message) in &self.nodes {
            for it in &message.deployments {
                list.insert(node.clone(), it.id.parse().unwrap(), it.digest.parse().unwrap());
            }
        }
        let keys =
            KeySet { tenant: tenant.clone(), number: self.keys_number, keys: vec![self.writer.public().to_string()] };
        let (keys, keys_signature) = sign_keys(&self.root, &keys).unwrap();
        let version = self.version.try_into().unwrap();
        let head = Head { tenant, client: self.client.clone(), version, list: list.digest() }.to_bytes();
        proto::DesiredHead {
            head_signature: self.writer.sign(HEAD_NAMESPACE, &head).unwrap().into(),
            head: head.into(),
            keys: keys.into(),
            keys_signature: keys_signature.into(),
            commit: format!("commit-{}", self.version),
        }
    }

    /// The message of the head that vouches for this state of the fleet.
    pub fn head(&self) -> Outgoing {
        head_message(&self.client, &self.head_parts())
    }
}

fn deployments(document: Option<&str>) -> Vec<proto::DesiredDeployment> {
    let deployment = |document: &str| proto::DesiredDeployment {
        id: deployment().to_string(),
        digest: Digest::of(document.as_bytes()).to_string(),
        document: document.to_owned().into(),
    };
    document.into_iter().map(deployment).collect()
}

/// A head's message of these parts.
pub fn head_message(client: &ClientName, parts: &proto::DesiredHead) -> Outgoing {
    Outgoing::new(Subject::DesiredHead(client.clone()), bus::encode(parts))
}
