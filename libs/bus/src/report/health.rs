//! What an LO says of its site.

use api::Reachability;
use jiff::Timestamp;
use margo::{ManifestVersion, NodeName};

use super::{
    Malformed, Refusal,
    limits::{MAX_NODES, at_most, decode, field, parse, shown},
    node::refusals,
};
use crate::proto;

/// The LO's judgement of its site.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteHealth {
    /// The LO's judgement of each of its nodes.
    pub nodes: Vec<NodeHealth>,
    /// Manifest version in force; `None` before the first.
    pub adopted: Option<ManifestVersion>,
    /// What the site did not accept, newest last.
    pub refusals: Vec<Refusal>,
    /// When the LO said this, by its own clock.
    pub time: Timestamp,
}

/// What an LO says of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeHealth {
    /// The node's name at the site.
    pub node: NodeName,
    /// Whether the LO hears the node's heartbeats.
    pub reachability: Reachability,
    /// Since when, by the LO's clock.
    pub since: Timestamp,
}

/// Reads and checks what an LO publishes on `state.<client>.health`.
pub fn health(payload: &[u8]) -> Result<SiteHealth, Malformed> {
    let raw: proto::SiteHealth = decode(payload)?;
    at_most("nodes", raw.nodes.len(), MAX_NODES)?;
    let adopted = match raw.adopted_manifest_version {
        0 => None,
        version => {
            let version = ManifestVersion::try_from(version);
            Some(version.map_err(|error| field("adopted_manifest_version", error.to_string()))?)
        }
    };
    Ok(SiteHealth {
        nodes: raw.nodes.into_iter().enumerate().map(node).collect::<Result<_, _>>()?,
        adopted,
        refusals: refusals(raw.refusals),
        time: shown(raw.time),
    })
}

fn node((at, raw): (usize, proto::NodeHealth)) -> Result<NodeHealth, Malformed> {
    let path = |name: &str| format!("nodes[{at}].{name}");
    let reachability = match proto::Reachability::try_from(raw.reachability) {
        Ok(proto::Reachability::Reachable) => Reachability::Reachable,
        Ok(proto::Reachability::Unreachable) => Reachability::Unreachable,
        Ok(proto::Reachability::Unknown) => Reachability::Unknown,
        Ok(proto::Reachability::Unspecified) | Err(_) => {
            return Err(field(path("reachability"), format!("{} is no reachability", raw.reachability)));
        }
    };
    Ok(NodeHealth { node: parse(path("node"), &raw.node)?, reachability, since: shown(raw.since) })
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    fn raw() -> proto::SiteHealth {
        let reachability = proto::Reachability::Reachable.into();
        let press = proto::NodeHealth { node: "press".into(), reachability, since: 1 };
        proto::SiteHealth { nodes: vec![press], adopted_manifest_version: 7, ..Default::default() }
    }

    fn read(change: impl FnOnce(&mut proto::SiteHealth)) -> Result<SiteHealth, String> {
        let mut raw = raw();
        change(&mut raw);
        health(&raw.encode_to_vec()).map_err(|malformed| malformed.to_string())
    }

    #[test]
    fn a_site_that_adopted_nothing_yet_is_healthy_too() {
        let health = read(|_| {}).unwrap();
        assert_eq!(health.adopted.map(ManifestVersion::get), Some(7));
        assert_eq!(health.nodes[0].reachability, Reachability::Reachable);
        assert_eq!(read(|raw| raw.adopted_manifest_version = 0).unwrap().adopted, None);
    }

    #[test]
    fn every_objection_names_its_field() {
        let reachability = read(|raw| raw.nodes[0].reachability = 0).unwrap_err();
        assert_eq!(reachability, "nodes[0].reachability: 0 is no reachability");
        assert!(read(|raw| raw.nodes[0].node = "no node".into()).unwrap_err().starts_with("nodes[0].node: "));
        let version = read(|raw| raw.adopted_manifest_version = 1 << 53).unwrap_err();
        assert!(version.starts_with("adopted_manifest_version: "));
    }
}
