//! The file NODE of a client's repository: who a node is, under a signature.

use std::fmt::Write;

use crate::{DeviceId, Identity, ManifestError, manifest::Lines};

/// The most bytes of a NODE file: more than [`MAX_FORMER_KEYS`] need.
const MAX_NODE: usize = 64 << 10;

/// The most former keys that a client or a node may have. A node with that many still fits into its NODE file.
pub const MAX_FORMER_KEYS: usize = 500;

/// Who a node is, and with which key it may connect. The signed head covers these bytes, and no unsigned word admits a node.
/// The file stays when the node's key was revoked, and when the node has left: then all its keys are former ones, and none is
/// in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeIdentity {
    /// The DeviceId by which Margo documents name the node.
    pub device: DeviceId,
    /// The identity that the site accepts; `None` when its key was revoked, or the node has left.
    pub identity: Option<Identity>,
    /// The identities that the node had before, the oldest first. They never come into force again.
    pub former: Vec<Identity>,
}

impl NodeIdentity {
    /// Returns which of the node's keys is in force, counted from 0: a position of a report begins with it.
    pub fn generation(&self) -> u64 {
        self.former.len() as u64
    }

    /// Returns the bytes of the file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = format!("edgewright-node v1\ndevice {}\n", self.device.as_str());
        if let Some(identity) = &self.identity {
            writeln!(text, "identity {identity}").expect("writing to a String cannot fail");
        }
        for identity in &self.former {
            writeln!(text, "former {identity}").expect("writing to a String cannot fail");
        }
        text.into_bytes()
    }

    /// Reads what [`NodeIdentity::to_bytes`] wrote. It fails on any other spelling of the same content, and when an identity
    /// stands there twice.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let mut lines = Lines::new("NODE", bytes, MAX_NODE)?;
        if lines.next("edgewright-node")? != "v1" {
            return Err(lines.error("must be v1"));
        }
        let device = lines.parse("device")?;
        let identity = if lines.next_is("identity ") { Some(lines.parse("identity")?) } else { None };
        let mut former = Vec::new();
        while lines.next_is("former ") {
            former.push(lines.parse("former")?);
        }
        let node = Self { device, identity, former };
        let mut all: Vec<_> = node.former.iter().chain(&node.identity).collect();
        all.sort_unstable();
        if all.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(lines.error("must name every identity once"));
        }
        if node.to_bytes() == bytes { Ok(node) } else { Err(lines.error("must have no further text")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Identity {
        Identity::Nkey(nkeys::KeyPair::new_user().public_key().parse().unwrap())
    }

    #[test]
    fn a_node_with_the_longest_name_and_the_most_keys_fits() {
        let device = "d".repeat(255).parse().unwrap();
        let former = (0..MAX_FORMER_KEYS).map(|_| key()).collect();
        let node = NodeIdentity { device, identity: None, former };
        assert_eq!(NodeIdentity::parse(&node.to_bytes()).unwrap().generation(), MAX_FORMER_KEYS as u64);
    }

    #[test]
    fn a_node_file_has_exactly_one_form() {
        let node =
            NodeIdentity { device: "plant/press".parse().unwrap(), identity: Some(key()), former: vec![key(), key()] };
        let bytes = node.to_bytes();
        assert_eq!(NodeIdentity::parse(&bytes).unwrap(), node);
        assert_eq!(node.generation(), 2);
        let left = NodeIdentity { identity: None, ..node.clone() };
        assert_eq!(NodeIdentity::parse(&left.to_bytes()).unwrap(), left);
        let text = String::from_utf8(bytes).unwrap();
        let again = NodeIdentity { former: vec![node.identity.clone().unwrap()], ..node };
        for bad in [
            text.replace("v1", "v2"),
            text.replace("device plant/press\n", ""),
            text.replace("nkey:U", "nkey:A"),
            format!("{text}more\n"),
            text.trim_end().to_owned(),
            String::from_utf8(again.to_bytes()).unwrap(),
        ] {
            assert!(NodeIdentity::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
