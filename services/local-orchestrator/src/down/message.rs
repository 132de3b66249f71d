//! Messages of DESIRED, decoded and checked as far as one message can be checked by itself.

use std::collections::{BTreeMap, HashMap};

use bus::{DecodeError, proto};
use bytes::Bytes;
use margo::{Digest, Head, InvalidId, NodeEntry, NodeId};

use super::{
    domain::NodeDesired,
    road::{Documents, SignedHead},
};

/// Why a message says nothing that could come into force.
#[derive(Debug, thiserror::Error)]
pub enum Flaw {
    /// The bytes are no such message.
    #[error("it does not decode")]
    Decode(#[from] DecodeError),
    /// An id or a version breaks its rule.
    #[error(transparent)]
    Id(#[from] InvalidId),
    /// A document is not the one that was meant.
    #[error("deployment {id} has the digest {computed}, and {named} is written beside it")]
    Digest {
        /// The deployment, as the message names it.
        id: String,
        /// The digest that is written in the message, whatever its form.
        named: String,
        /// The digest that the document's bytes have.
        computed: Digest,
    },
    /// One deployment has two documents.
    #[error("deployment {0} stands in it twice")]
    Twice(String),
}

/// Reads the message of a head. Nothing is believed about the head yet.
pub fn head(payload: &[u8]) -> Result<SignedHead, Flaw> {
    Ok(bus::decode::<proto::DesiredHead>(payload)?.into())
}

/// What the head in a message says, before anything is believed about it.
pub fn claimed(payload: &[u8]) -> Option<Head> {
    Head::parse(&head(payload).ok()?.head).ok()
}

/// Reads the message of a node, and computes the digests of its NODE file and of every document: what is written beside them
/// is a claim.
pub fn node(payload: &[u8]) -> Result<NodeDesired, Flaw> {
    desired(&bus::decode(payload)?)
}

/// The documents and the NODE file in the message of a node, by their computed digests.
pub fn documents(payload: &[u8]) -> Result<Documents, Flaw> {
    let message: proto::DesiredNode = bus::decode(payload)?;
    let contents = message.deployments.into_iter().map(|deployment| deployment.document).chain([message.identity]);
    Ok(contents.map(|content| (Digest::of(&content), content)).collect())
}

/// Makes the message of a node, as nodes read it. Returns `None` when a document or the NODE file is missing.
pub fn encode(id: &NodeId, desired: &NodeDesired, documents: &HashMap<Digest, Bytes>) -> Option<Bytes> {
    let deployment = |(id, digest): (&margo::DeploymentId, &Digest)| {
        let document = documents.get(digest)?.clone();
        Some(proto::DesiredDeployment { id: id.to_string(), digest: digest.to_string(), document })
    };
    let deployments = desired.deployments.iter().map(deployment).collect::<Option<_>>()?;
    let identity = match &desired.identity {
        Some(digest) => documents.get(digest)?.clone(),
        None => Bytes::new(),
    };
    let NodeId { client, node } = id;
    let (client, node) = (client.to_string(), node.to_string());
    Some(bus::encode(&proto::DesiredNode { version: desired.version.get(), deployments, client, node, identity }))
}

fn desired(message: &proto::DesiredNode) -> Result<NodeDesired, Flaw> {
    let mut deployments = BTreeMap::new();
    for deployment in &message.deployments {
        let computed = Digest::of(&deployment.document);
        if computed.to_string() != deployment.digest {
            let cut = |text: &str| text.chars().take(100).collect();
            return Err(Flaw::Digest { id: cut(&deployment.id), named: cut(&deployment.digest), computed });
        }
        if deployments.insert(deployment.id.parse()?, computed).is_some() {
            return Err(Flaw::Twice(deployment.id.clone()));
        }
    }
    let identity = (!message.identity.is_empty()).then(|| Digest::of(&message.identity));
    Ok(NodeEntry { identity, version: message.version.try_into()?, deployments: deployments.into() }.into())
}

impl From<proto::DesiredHead> for SignedHead {
    fn from(message: proto::DesiredHead) -> Self {
        let proto::DesiredHead { head, head_signature, keys, keys_signature, commit, list } = message;
        Self { head, head_signature, keys, keys_signature, commit, list }
    }
}

impl From<SignedHead> for proto::DesiredHead {
    fn from(signed: SignedHead) -> Self {
        let SignedHead { head, head_signature, keys, keys_signature, commit, list } = signed;
        Self { head, head_signature, keys, keys_signature, commit, list }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> proto::DesiredNode {
        let document = b"id: x\n".to_vec();
        let deployment = proto::DesiredDeployment {
            id: "00000000-0000-4000-8000-000000000001".to_owned(),
            digest: Digest::of(&document).to_string(),
            document: document.into(),
        };
        let (client, node, identity) = ("plant".to_owned(), "press".to_owned(), b"who".as_slice().into());
        proto::DesiredNode { version: 7, deployments: vec![deployment], client, node, identity }
    }

    #[test]
    fn a_document_must_have_the_digest_that_is_written_beside_it() {
        assert_eq!(desired(&message()).unwrap().version.get(), 7);
        let mut changed = message();
        changed.deployments[0].document = "id: y\n".into();
        assert!(matches!(desired(&changed), Err(Flaw::Digest { .. })));
    }

    #[test]
    fn ids_and_versions_are_checked_and_nothing_stands_twice() {
        let mut doubled = message();
        doubled.deployments.push(doubled.deployments[0].clone());
        assert!(matches!(desired(&doubled), Err(Flaw::Twice(_))));
        let mut unnamed = message();
        unnamed.deployments[0].id = "../../etc".to_owned();
        assert!(matches!(desired(&unnamed), Err(Flaw::Id(_))));
        assert!(matches!(desired(&proto::DesiredNode { version: 0, ..message() }), Err(Flaw::Id(_))));
    }

    #[test]
    fn what_nodes_read_depends_on_the_documents_alone() {
        let payload = bus::encode(&message());
        let (desired, mut documents) = (node(&payload).unwrap(), documents(&payload).unwrap());
        let id = "plant/press".parse().unwrap();
        assert_eq!(encode(&id, &desired, &documents).unwrap(), payload);
        assert_eq!(desired.identity, Some(Digest::of(b"who")));
        documents.remove(&Digest::of(b"who"));
        assert_eq!(encode(&id, &desired, &documents), None);
    }
}
