//! What git-writer and git-observer would make of orders: signed heads, and what nodes shall run.

use std::collections::BTreeMap;

use bus::proto;
use git_state::layout;
use identity::{
    SigningKey,
    trust::{HEAD_NAMESPACE, sign_keys},
};
use margo::{
    ClientName, DeploymentId, Digest, Head, Identity, KeySet, ManifestList, NodeEntry, NodeIdentity, NodeName,
    TenantName, UserNkey,
};

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

    /// The next version: this node runs this document, or nothing.
    pub fn order(&mut self, node: &str, document: Option<&str>) {
        let deployments = deployments(document);
        self.change(node, |message| message.deployments = deployments);
    }

    /// The next version: this node may connect with this key.
    pub fn admit(&mut self, node: &str, key: UserNkey) {
        self.identify(node, Some(Identity::Nkey(key)), Vec::new());
    }

    /// The next version: the node's key has this one in its place.
    pub fn replace(&mut self, node: &str, key: UserNkey, former: UserNkey) {
        self.identify(node, Some(Identity::Nkey(key)), vec![Identity::Nkey(former)]);
    }

    /// The next version: this node has left, and its key is a former one.
    pub fn leave(&mut self, node: &str, key: UserNkey) {
        self.identify(node, None, vec![Identity::Nkey(key)]);
    }

    fn identify(&mut self, node: &str, identity: Option<Identity>, former: Vec<Identity>) {
        let device = format!("{}/{node}", self.client).parse().unwrap();
        let identity = NodeIdentity { device, identity, former };
        self.change(node, |message| message.identity = identity.to_bytes().into());
    }

    fn change(&mut self, node: &str, change: impl FnOnce(&mut proto::DesiredNode)) {
        self.version += 1;
        let message = self.nodes.entry(node.parse().unwrap()).or_default();
        change(message);
        (message.client, message.node) = (self.client.to_string(), node.to_owned());
        message.version = self.version;
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
            if !message.identity.is_empty() {
                files.insert(layout::node_identity(node), message.identity.to_vec());
            }
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

    /// The list that these nodes make.
    pub fn list(&self) -> ManifestList {
        let entry = |message: &proto::DesiredNode| NodeEntry {
            identity: (!message.identity.is_empty()).then(|| Digest::of(&message.identity)),
            version: message.version.try_into().unwrap(),
            deployments: message
                .deployments
                .iter()
                .map(|it| (it.id.parse().unwrap(), it.digest.parse().unwrap()))
                .collect(),
        };
        self.nodes.iter().map(|(node, message)| (node.clone(), entry(message))).collect()
    }

    /// The message of the head that vouches for this state of the fleet.
    pub fn head_parts(&self) -> proto::DesiredHead {
        let tenant = TenantName::default();
        let list = self.list();
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
            list: list.top_text().to_owned().into(),
        }
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
