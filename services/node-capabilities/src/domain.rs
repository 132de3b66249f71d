//! Who may join, and which reports of sites and nodes change what we hold. There is no async, no NATS and no clock here.

use api::{CreateNode, CreateSite, FieldError};
use bus::report::Position;
use margo::{ClientName, DeviceId};

/// The most characters of a reason, because it becomes one line of a commit message.
const MAX_REASON: usize = 1_000;

/// Why a site or a node may not join.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CannotJoin {
    /// Fields of the request break rules.
    #[error("the request breaks {} rule(s)", .0.len())]
    Invalid(Vec<FieldError>),
    /// A site or node of this name exists, or did once.
    #[error("{0} exists; names are never used again: choose another one")]
    NameTaken(String),
    /// Somebody else, named here, has this identity. To NATS two users of one key would be the same user.
    #[error("this identity is that of {0}; make a new key pair")]
    IdentityTaken(String),
    /// The node's site does not exist.
    #[error("site {0} does not exist; add it first")]
    NoSite(ClientName),
}

/// What of a request to join is in use already.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    /// Whether a site or node has, or had, the name.
    pub name: bool,
    /// Who has the identity, such as `node plant/press`.
    pub identity: Option<String>,
}

/// What an order to add a site or node means for the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joins {
    /// A new row is inserted.
    Anew,
    /// The row is there already, with the same identity: an order whose answer was lost is given again, and is answered as
    /// before.
    Again,
}

/// Decides whether this site may be added.
pub fn check_site(site: &CreateSite, taken: Taken) -> Result<Joins, CannotJoin> {
    check_reason(site.reason.as_deref())?;
    check_taken(format!("site {}", site.name), taken)
}

/// Decides whether this node may be added.
pub fn check_node(node: &CreateNode, site_exists: bool, taken: Taken) -> Result<Joins, CannotJoin> {
    check_reason(node.reason.as_deref())?;
    if !site_exists {
        return Err(CannotJoin::NoSite(node.name.client.clone()));
    }
    check_taken(format!("node {}", node.name), taken)
}

fn check_reason(reason: Option<&str>) -> Result<(), CannotJoin> {
    let is_line = |text: &str| text.chars().count() <= MAX_REASON && !text.chars().any(char::is_control);
    if reason.is_none_or(is_line) {
        return Ok(());
    }
    let message = format!("must be one line of at most {MAX_REASON} characters");
    Err(CannotJoin::Invalid(vec![FieldError { field: "reason".to_owned(), message }]))
}

/// The DeviceId by which documents name a node: its own when it brought one, else one made from its name.
pub fn device_id(node: &CreateNode) -> DeviceId {
    node.device_id.clone().unwrap_or_else(|| DeviceId::from(&node.name))
}

fn check_taken(name: String, taken: Taken) -> Result<Joins, CannotJoin> {
    match taken {
        Taken { name: true, identity: Some(owner) } if owner == name => Ok(Joins::Again),
        Taken { name: true, .. } => Err(CannotJoin::NameTaken(name)),
        Taken { identity: Some(owner), .. } => Err(CannotJoin::IdentityTaken(owner)),
        Taken { name: false, identity: None } => Ok(Joins::Anew),
    }
}

/// Whether a report at this position replaces the one at the position held. A repeated report, or one that a later
/// report has overtaken, does not.
pub fn is_newer(position: Position, held: Option<Position>) -> bool {
    held < Some(position)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use margo::Identity;

    use super::*;

    fn site() -> CreateSite {
        CreateSite {
            name: "plant".parse().unwrap(),
            identity: Identity::Nkey(identity::nats::generate().1),
            certificate_request: None,
            reason: None,
        }
    }

    fn node() -> CreateNode {
        CreateNode {
            name: "plant/press".parse().unwrap(),
            identity: Identity::Nkey(identity::nats::generate().1),
            device_id: None,
            reason: None,
        }
    }

    #[test]
    fn a_name_is_never_used_again() {
        let taken = Taken { name: true, identity: None };
        assert_eq!(check_site(&site(), taken.clone()), Err(CannotJoin::NameTaken("site plant".into())));
        assert_eq!(check_node(&node(), true, taken), Err(CannotJoin::NameTaken("node plant/press".into())));
    }

    #[test]
    fn an_order_whose_answer_was_lost_may_be_given_again() {
        let taken = |owner: &str| Taken { name: true, identity: Some(owner.to_owned()) };
        assert_eq!(check_site(&site(), taken("site plant")), Ok(Joins::Again));
        assert_eq!(check_node(&node(), true, taken("node plant/press")), Ok(Joins::Again));
        assert!(check_node(&node(), true, taken("node plant/saw")).is_err());
    }

    #[test]
    fn an_identity_belongs_to_one_user() {
        let taken = Taken { name: false, identity: Some("node plant/saw".into()) };
        assert_eq!(check_site(&site(), taken.clone()), Err(CannotJoin::IdentityTaken("node plant/saw".into())));
        assert_eq!(check_node(&node(), true, taken), Err(CannotJoin::IdentityTaken("node plant/saw".into())));
    }

    #[test]
    fn a_node_may_bring_a_device_id_of_its_own() {
        assert_eq!(device_id(&node()).as_str(), "plant/press");
        let foreign = CreateNode { device_id: Some("Gateway-1/Cell_7/~b".parse().unwrap()), ..node() };
        assert_eq!(device_id(&foreign).as_str(), "Gateway-1/Cell_7/~b");
    }

    #[test]
    fn a_node_stands_at_a_site() {
        assert_eq!(check_node(&node(), false, Taken::default()), Err(CannotJoin::NoSite("plant".parse().unwrap())));
        assert_eq!(check_node(&node(), true, Taken::default()), Ok(Joins::Anew));
    }

    #[test]
    fn a_reason_is_one_line_of_a_bounded_length() {
        let wrong = CreateSite { reason: Some("two\nlines".into()), ..site() };
        let Err(CannotJoin::Invalid(errors)) = check_site(&wrong, Taken::default()) else { panic!("not refused") };
        assert_eq!(errors.iter().map(|error| error.field.as_str()).collect::<Vec<_>>(), ["reason"]);
        let long = CreateSite { reason: Some("x".repeat(MAX_REASON + 1)), ..site() };
        assert!(matches!(check_site(&long, Taken::default()), Err(CannotJoin::Invalid(_))));
    }

    proptest! {
        /// Only a position above the one held changes anything, so repeating or overtaking never does.
        #[test]
        fn the_newest_capabilities_stay(positions in proptest::collection::vec((1..4u64, 0..6u64), 1..20)) {
            let mut held = None;
            for (incarnation, sequence) in &positions {
                let position = Position { generation: 0, incarnation: *incarnation, sequence: *sequence };
                if is_newer(position, held) {
                    held = Some(position);
                }
                prop_assert!(!is_newer(position, held));
            }
            let newest = positions.iter().max().map(|(incarnation, sequence)| (*incarnation, *sequence));
            prop_assert_eq!(held.map(|held| (held.incarnation, held.sequence)), newest);
        }
    }
}
