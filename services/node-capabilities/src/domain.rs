//! Who may join, and what reports of sites and nodes mean. No async, no NATS, no clock.

use api::{CreateNode, CreateSite, FieldError, Reachability, RefusalInfo};
use identity::nats::check_public_key;
use jiff::Timestamp;
use margo::{ClientName, DeviceId, ManifestVersion, NodeId, NodeName};
use serde_json::Value;

/// Characters of a reason: it becomes one line of a commit message.
const MAX_REASON: usize = 1_000;

/// Bytes of a capabilities document. Real ones have one or two thousand.
const MAX_CAPABILITIES: usize = 256 << 10;

/// Why somebody may not join.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Fields break rules.
    #[error("the request breaks {} rule(s)", .0.len())]
    Invalid(Vec<FieldError>),
    /// There is, or was, one of this name.
    #[error("{0} exists; names are never used again: choose another one")]
    NameTaken(String),
    /// Somebody else has this key. Two users of one key would be one user.
    #[error("this public key is that of {0}; make a new key pair")]
    KeyTaken(String),
    /// A node has to stand somewhere.
    #[error("site {0} does not exist; add it first")]
    NoSite(ClientName),
}

/// What is already there, as far as somebody who wants to join is concerned.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    /// Whether the name is.
    pub name: bool,
    /// Whose the public key is.
    pub key: Option<String>,
}

/// What an order to add somebody means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joins {
    /// Somebody new.
    Anew,
    /// The same name with the same key: an order whose answer was lost is given again, and answered as before.
    Again,
}

/// Whether this site may be added.
pub fn check_site(site: &CreateSite, taken: Taken) -> Result<Joins, Refused> {
    check_fields(&site.public_key, site.reason.as_deref())?;
    check_taken(format!("site {}", site.name), taken)
}

/// Whether this node may be added.
pub fn check_node(node: &CreateNode, site_exists: bool, taken: Taken) -> Result<Joins, Refused> {
    check_fields(&node.public_key, node.reason.as_deref())?;
    if !site_exists {
        return Err(Refused::NoSite(node.name.client.clone()));
    }
    check_taken(format!("node {}", node.name), taken)
}

fn check_fields(public_key: &str, reason: Option<&str>) -> Result<(), Refused> {
    let mut errors = Vec::new();
    if let Err(error) = check_public_key(public_key) {
        errors.push(FieldError { field: "publicKey".to_owned(), message: error.to_string() });
    }
    let is_line = |text: &str| text.chars().count() <= MAX_REASON && !text.chars().any(char::is_control);
    if !reason.is_none_or(is_line) {
        let message = format!("must be one line of at most {MAX_REASON} characters");
        errors.push(FieldError { field: "reason".to_owned(), message });
    }
    if errors.is_empty() { Ok(()) } else { Err(Refused::Invalid(errors)) }
}

fn check_taken(name: String, taken: Taken) -> Result<Joins, Refused> {
    match taken {
        Taken { name: true, key: Some(owner) } if owner == name => Ok(Joins::Again),
        Taken { name: true, .. } => Err(Refused::NameTaken(name)),
        Taken { key: Some(owner), .. } => Err(Refused::KeyTaken(owner)),
        Taken { name: false, key: None } => Ok(Joins::Anew),
    }
}

/// A node's report among all reports of that node: those of a later life of the node come after all earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Rises when a node begins anew without its disk.
    pub incarnation: u64,
    /// Rises with every report of one incarnation.
    pub sequence: u64,
}

/// What a node can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Which node.
    pub node: NodeId,
    /// Which of its reports.
    pub position: Position,
    /// Margo DeviceCapabilitiesManifest, checked, as the node sent it.
    pub document: String,
}

impl Capabilities {
    /// Whether they replace the ones held: an overtaken or repeated report does not.
    pub fn are_newer_than(&self, held: Option<Position>) -> bool {
        held < Some(self.position)
    }
}

/// Checks a Margo DeviceCapabilitiesManifest as far as the platform relies on it. What it does not know, it keeps and
/// never refuses: extensions (WFM-16), and runtimes and deployment types, which count as `custom` (WFM-15).
pub fn check_capabilities(node: &NodeId, document: &[u8]) -> Result<String, String> {
    if document.len() > MAX_CAPABILITIES {
        return Err(format!("larger than {MAX_CAPABILITIES} bytes"));
    }
    let text = std::str::from_utf8(document).map_err(|error| error.to_string())?;
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let wanted = DeviceId::from(node);
    match &value["properties"]["id"] {
        Value::String(id) if id == wanted.as_str() => {}
        other => return Err(format!("properties.id: must be {wanted:?}, is {other}", wanted = wanted.as_str())),
    }
    for field in ["supportedRuntimes", "supportedDeploymentTypes"] {
        match &value["properties"][field] {
            Value::Null => {}
            Value::Array(names) if names.iter().all(Value::is_string) => {}
            _ => return Err(format!("properties.{field}: must be a list of names")),
        }
    }
    Ok(text.to_owned())
}

/// What an LO says of its site.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// Of which client.
    pub client: ClientName,
    /// Its judgement of its nodes.
    pub nodes: Vec<NodeHealth>,
    /// Manifest version in force; `None` before the first.
    pub adopted: Option<ManifestVersion>,
    /// What the site refused, newest last.
    pub refusals: Vec<RefusalInfo>,
    /// The LO's clock.
    pub time: Timestamp,
}

/// What an LO says of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeHealth {
    /// Its name at the site.
    pub node: NodeName,
    /// As judged by heartbeats.
    pub reachability: Reachability,
    /// Since when, by the LO's clock.
    pub since: Timestamp,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn site() -> CreateSite {
        CreateSite { name: "plant".parse().unwrap(), public_key: identity::nats::generate().1, reason: None }
    }

    fn node() -> CreateNode {
        CreateNode { name: "plant/press".parse().unwrap(), public_key: identity::nats::generate().1, reason: None }
    }

    #[test]
    fn a_name_is_never_used_again() {
        let taken = Taken { name: true, key: None };
        assert_eq!(check_site(&site(), taken.clone()), Err(Refused::NameTaken("site plant".into())));
        assert_eq!(check_node(&node(), true, taken), Err(Refused::NameTaken("node plant/press".into())));
    }

    #[test]
    fn an_order_whose_answer_was_lost_may_be_given_again() {
        let taken = |owner: &str| Taken { name: true, key: Some(owner.to_owned()) };
        assert_eq!(check_site(&site(), taken("site plant")), Ok(Joins::Again));
        assert_eq!(check_node(&node(), true, taken("node plant/press")), Ok(Joins::Again));
        assert!(check_node(&node(), true, taken("node plant/saw")).is_err());
    }

    #[test]
    fn a_key_belongs_to_one_user() {
        let taken = Taken { name: false, key: Some("node plant/saw".into()) };
        assert_eq!(check_site(&site(), taken.clone()), Err(Refused::KeyTaken("node plant/saw".into())));
        assert_eq!(check_node(&node(), true, taken), Err(Refused::KeyTaken("node plant/saw".into())));
    }

    #[test]
    fn a_node_stands_at_a_site() {
        assert_eq!(check_node(&node(), false, Taken::default()), Err(Refused::NoSite("plant".parse().unwrap())));
        assert_eq!(check_node(&node(), true, Taken::default()), Ok(Joins::Anew));
    }

    #[test]
    fn every_wrong_field_is_named_at_once() {
        let (seed, _) = identity::nats::generate();
        let wrong = CreateSite { public_key: seed, reason: Some("two\nlines".into()), ..site() };
        let Err(Refused::Invalid(errors)) = check_site(&wrong, Taken::default()) else { panic!("not refused") };
        assert_eq!(errors.iter().map(|error| error.field.as_str()).collect::<Vec<_>>(), ["publicKey", "reason"]);
        let long = CreateSite { reason: Some("x".repeat(MAX_REASON + 1)), ..site() };
        assert!(matches!(check_site(&long, Taken::default()), Err(Refused::Invalid(_))));
    }

    fn check(document: &Value) -> Result<String, String> {
        check_capabilities(&node().name, document.to_string().as_bytes())
    }

    #[test]
    fn wfm_15_unknown_runtimes_and_deployment_types_are_no_reason_to_refuse() {
        let document = json!({ "properties": {
            "id": "plant/press", "supportedRuntimes": ["oci", "quantum"], "supportedDeploymentTypes": ["punch-cards"],
        }});
        assert_eq!(check(&document), Ok(document.to_string()));
    }

    #[test]
    fn wfm_16_extensions_are_kept() {
        let document = json!({ "properties": { "id": "plant/press" }, "x-acme-extensions": { "colour": "blue" } });
        assert_eq!(check(&document), Ok(document.to_string()));
    }

    #[test]
    fn a_node_speaks_only_for_itself() {
        let error = check(&json!({ "properties": { "id": "plant/saw" } })).unwrap_err();
        assert_eq!(error, r#"properties.id: must be "plant/press", is "plant/saw""#);
        for bad in [json!({}), json!([]), json!(7), json!({ "properties": { "id": 7 } })] {
            assert!(check(&bad).is_err(), "{bad}");
        }
        let list = check(&json!({ "properties": { "id": "plant/press", "supportedRuntimes": "oci" } }));
        assert_eq!(list.unwrap_err(), "properties.supportedRuntimes: must be a list of names");
    }

    #[test]
    fn a_document_that_nobody_needs_is_too_large() {
        let large = json!({ "properties": { "id": "plant/press" }, "labels": { "x": "y".repeat(MAX_CAPABILITIES) } });
        assert_eq!(check(&large).unwrap_err(), "larger than 262144 bytes");
        let deep = "[".repeat(100_000);
        assert!(check_capabilities(&node().name, deep.as_bytes()).is_err());
    }

    proptest! {
        /// Only a position above the one held changes anything, so repeating or overtaking never does.
        #[test]
        fn the_newest_capabilities_stay(positions in proptest::collection::vec((1..4u64, 0..6u64), 1..20)) {
            let node: NodeId = "plant/press".parse().unwrap();
            let mut held = None;
            for (incarnation, sequence) in &positions {
                let position = Position { incarnation: *incarnation, sequence: *sequence };
                let report = Capabilities { node: node.clone(), position, document: String::new() };
                if report.are_newer_than(held) {
                    held = Some(position);
                }
                prop_assert!(!report.are_newer_than(held));
            }
            let newest = positions.iter().max().map(|(incarnation, sequence)| (*incarnation, *sequence));
            prop_assert_eq!(held.map(|held| (held.incarnation, held.sequence)), newest);
        }
    }
}
