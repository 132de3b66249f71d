//! Messages of DESIRED as they come from a road, decoded and checked.

use std::collections::BTreeMap;

use bus::{DecodeError, Subject, proto};
use margo::{ClientName, Digest, Head, InvalidId, NodeName};

use super::{
    domain::NodeDesired,
    trust::{SignedHead, Trust},
};

/// A message that may be staged.
pub enum Message {
    Head { head: Head, keys: u64, commit: String },
    Node { node: NodeName, desired: NodeDesired },
}

/// Why a message is not staged.
#[derive(Debug, thiserror::Error)]
pub enum Flaw {
    #[error("it is not about this site")]
    Foreign,
    #[error("it does not decode")]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Id(#[from] InvalidId),
    #[error("deployment {id} has the digest {computed}, and {named} is written beside it")]
    Digest { id: String, named: String, computed: Digest },
    #[error("deployment {0} stands in it twice")]
    Twice(String),
    #[error(transparent)]
    Untrusted(#[from] identity::trust::Untrusted),
}

/// Decodes a message and checks everything that can be checked without its fellows.
pub fn receive(trust: &Trust, client: &ClientName, subject: &Subject, payload: &[u8]) -> Result<Message, Flaw> {
    match subject {
        Subject::DesiredHead(of) if of == client => {
            let signed: SignedHead = bus::decode::<proto::DesiredHead>(payload)?.into();
            let (head, keys) = trust.verify(&signed)?;
            Ok(Message::Head { head, keys, commit: signed.commit })
        }
        Subject::DesiredNode(id) if id.client == *client => {
            let desired = node(&bus::decode(payload)?)?;
            Ok(Message::Node { node: id.node.clone(), desired })
        }
        _ => Err(Flaw::Foreign),
    }
}

/// The head in a message, before anything is believed about it.
pub fn claimed(payload: &[u8]) -> Option<Head> {
    let message: proto::DesiredHead = bus::decode(payload).ok()?;
    Head::parse(&message.head).ok()
}

/// Computes the digest of every document: what is written beside them is a claim.
pub fn node(message: &proto::DesiredNode) -> Result<NodeDesired, Flaw> {
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
    Ok(NodeDesired { version: message.version.try_into()?, deployments })
}

/// What a node is told that no longer stands in the manifest.
pub fn nothing(version: margo::ManifestVersion) -> proto::DesiredNode {
    proto::DesiredNode { version: version.get(), deployments: Vec::new() }
}

impl From<proto::DesiredHead> for SignedHead {
    fn from(message: proto::DesiredHead) -> Self {
        let proto::DesiredHead { head, head_signature, keys, keys_signature, commit } = message;
        Self { head, head_signature, keys, keys_signature, commit }
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
        proto::DesiredNode { version: 7, deployments: vec![deployment] }
    }

    #[test]
    fn a_document_must_have_the_digest_that_is_written_beside_it() {
        assert_eq!(node(&message()).unwrap().version.get(), 7);
        let mut changed = message();
        changed.deployments[0].document = "id: y\n".into();
        assert!(matches!(node(&changed), Err(Flaw::Digest { .. })));
    }

    #[test]
    fn ids_and_versions_are_checked_and_nothing_stands_twice() {
        let mut doubled = message();
        doubled.deployments.push(doubled.deployments[0].clone());
        assert!(matches!(node(&doubled), Err(Flaw::Twice(_))));
        let mut unnamed = message();
        unnamed.deployments[0].id = "../../etc".to_owned();
        assert!(matches!(node(&unnamed), Err(Flaw::Id(_))));
        assert!(matches!(node(&proto::DesiredNode { version: 0, ..message() }), Err(Flaw::Id(_))));
    }
}
