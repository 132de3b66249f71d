//! Who may join, whose key is replaced or revoked, and which reports of sites and nodes change what we hold. There is no async,
//! no NATS and no clock here.

use std::fmt;

use api::{CreateNode, CreateSite, FieldError};
use bus::report::Position;
use margo::{ClientName, DeviceId, Identity, MAX_FORMER_KEYS, NodeId, SiteName};
use outbox::Object;

/// The most characters of a reason, because it becomes one line of a commit message.
const MAX_REASON: usize = 1_000;

/// Whom an identity lets in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// The client that is the LO of a site, at the hub.
    Site(SiteName),
    /// A node, at its site.
    Node(NodeId),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Site(site) => write!(f, "site {site}"),
            Self::Node(node) => write!(f, "node {node}"),
        }
    }
}

impl From<&Owner> for Object {
    fn from(owner: &Owner) -> Self {
        match owner.clone() {
            Owner::Site(site) => Self::Site(site),
            Owner::Node(node) => Self::Node(node),
        }
    }
}

/// The identities of one owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// The identity that lets its owner in; `None` after it was revoked.
    pub in_force: Option<Identity>,
    /// The identities that the owner had before, the oldest first. None of them ever comes into force again.
    pub former: Vec<Identity>,
}

impl Keys {
    /// The keys of an owner that was just added.
    pub fn first(identity: Identity) -> Self {
        Self { in_force: Some(identity), former: Vec::new() }
    }

    /// The same keys without one in force.
    pub fn revoked(&self) -> Self {
        let former = self.former.iter().chain(&self.in_force).cloned().collect();
        Self { in_force: None, former }
    }
}

/// Who has an identity, or had it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub owner: Owner,
    /// Whether the identity lets its owner in now.
    pub in_force: bool,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.owner, if self.in_force { "" } else { ", for which it was revoked" })
    }
}

/// Why an order about a site or a node is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Fields of the request break rules.
    #[error("the request breaks {} rule(s)", .0.len())]
    Invalid(Vec<FieldError>),
    /// A site or node of this name exists, or did once.
    #[error("{0} exists; names are never used again: choose another one")]
    NameTaken(Owner),
    /// The identity is in force or a former one already. To NATS two users of one key would be the same user, and a key that was
    /// revoked is refused for ever.
    #[error("identity: is that of {0}; a key is never used again, so make a new key pair")]
    IdentityTaken(Holder),
    /// The node's site does not exist.
    #[error("site {0} does not exist; add it first")]
    NoSite(ClientName),
    /// The site or node whose key is meant does not exist.
    #[error("there is no {0}")]
    NoOwner(Owner),
    /// The owner has had as many keys as its file can name.
    #[error("identity: {0} has had {MAX_FORMER_KEYS} keys, and no more can be kept; add it under another name")]
    TooManyKeys(Owner),
}

/// What of a request to join is in use already.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    /// Whether a site or node has, or had, the name.
    pub name: bool,
    /// Who has the identity, or had it.
    pub identity: Option<Holder>,
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
pub fn check_site(site: &CreateSite, taken: Taken) -> Result<Joins, Refused> {
    check_reason(site.reason.as_deref())?;
    check_taken(Owner::Site(site.name.clone()), taken)
}

/// Decides whether this node may be added.
pub fn check_node(node: &CreateNode, site_exists: bool, taken: Taken) -> Result<Joins, Refused> {
    check_reason(node.reason.as_deref())?;
    if !site_exists {
        return Err(Refused::NoSite(node.name.client.clone()));
    }
    check_taken(Owner::Node(node.name.clone()), taken)
}

/// What the keys of an owner are when this identity takes the place of the one in force. An order that is given again, because
/// its answer was lost, changes nothing. `holder`: who has this identity, or had it.
pub fn replace_key(owner: &Owner, held: &Keys, identity: &Identity, holder: Option<Holder>) -> Result<Keys, Refused> {
    if held.in_force.as_ref() == Some(identity) {
        return Ok(held.clone());
    }
    if let Some(holder) = holder {
        return Err(Refused::IdentityTaken(holder));
    }
    let former = held.revoked().former;
    // The last place is kept for this identity itself, so that every key can be revoked.
    if former.len() >= MAX_FORMER_KEYS {
        return Err(Refused::TooManyKeys(owner.clone()));
    }
    Ok(Keys { in_force: Some(identity.clone()), former })
}

/// Refuses a reason that does not fit into the line of a commit message.
pub fn check_reason(reason: Option<&str>) -> Result<(), Refused> {
    let is_line = |text: &str| text.chars().count() <= MAX_REASON && !text.chars().any(char::is_control);
    if reason.is_none_or(is_line) {
        return Ok(());
    }
    let message = format!("must be one line of at most {MAX_REASON} characters");
    Err(Refused::Invalid(vec![FieldError { field: "reason".to_owned(), message }]))
}

/// The DeviceId by which documents name a node: its own when it brought one, else one made from its name.
pub fn device_id(node: &CreateNode) -> DeviceId {
    node.device_id.clone().unwrap_or_else(|| DeviceId::from(&node.name))
}

fn check_taken(owner: Owner, taken: Taken) -> Result<Joins, Refused> {
    match taken {
        Taken { name: true, identity: Some(holder) } if holder == (Holder { owner: owner.clone(), in_force: true }) => {
            Ok(Joins::Again)
        }
        Taken { name: true, .. } => Err(Refused::NameTaken(owner)),
        Taken { identity: Some(holder), .. } => Err(Refused::IdentityTaken(holder)),
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

    use super::*;

    fn identity() -> Identity {
        Identity::Nkey(identity::nats::generate().1)
    }

    fn plant() -> Owner {
        Owner::Site("plant".parse().unwrap())
    }

    fn node_named(name: &str) -> Owner {
        Owner::Node(name.parse().unwrap())
    }

    fn press() -> Owner {
        node_named("plant/press")
    }

    /// Who has a key that is in force.
    fn holds(owner: Owner) -> Option<Holder> {
        Some(Holder { owner, in_force: true })
    }

    fn site() -> CreateSite {
        CreateSite { name: "plant".parse().unwrap(), identity: identity(), certificate_request: None, reason: None }
    }

    fn node() -> CreateNode {
        CreateNode { name: "plant/press".parse().unwrap(), identity: identity(), device_id: None, reason: None }
    }

    #[test]
    fn a_name_is_never_used_again() {
        let taken = Taken { name: true, identity: None };
        assert_eq!(check_site(&site(), taken.clone()), Err(Refused::NameTaken(plant())));
        assert_eq!(check_node(&node(), true, taken), Err(Refused::NameTaken(press())));
    }

    #[test]
    fn an_order_whose_answer_was_lost_may_be_given_again() {
        let taken = |owner: Owner| Taken { name: true, identity: holds(owner) };
        assert_eq!(check_site(&site(), taken(plant())), Ok(Joins::Again));
        assert_eq!(check_node(&node(), true, taken(press())), Ok(Joins::Again));
        assert!(check_node(&node(), true, taken(node_named("plant/saw"))).is_err());
        // With a key that was replaced meanwhile it is no longer the same order.
        let former = Some(Holder { owner: press(), in_force: false });
        assert_eq!(check_node(&node(), true, Taken { name: true, identity: former }), Err(Refused::NameTaken(press())));
    }

    #[test]
    fn an_identity_belongs_to_one_user() {
        for in_force in [true, false] {
            let holder = Holder { owner: node_named("plant/saw"), in_force };
            let taken = Taken { name: false, identity: Some(holder.clone()) };
            assert_eq!(check_site(&site(), taken.clone()), Err(Refused::IdentityTaken(holder.clone())));
            assert_eq!(check_node(&node(), true, taken), Err(Refused::IdentityTaken(holder)));
        }
    }

    #[test]
    fn a_key_that_is_replaced_or_revoked_is_a_former_one_for_ever() {
        let [first, second, third] = [identity(), identity(), identity()];
        let held = Keys::first(first.clone());
        let replaced = replace_key(&press(), &held, &second, None).unwrap();
        assert_eq!(replaced, Keys { in_force: Some(second.clone()), former: vec![first.clone()] });
        let revoked = replaced.revoked();
        assert_eq!(revoked, Keys { in_force: None, former: vec![first.clone(), second.clone()] });
        assert_eq!(revoked.revoked(), revoked);
        let back = replace_key(&press(), &revoked, &third, None).unwrap();
        assert_eq!(back, Keys { in_force: Some(third), former: vec![first.clone(), second] });
        let holder = Holder { owner: press(), in_force: false };
        let error = replace_key(&press(), &back, &first, Some(holder)).unwrap_err().to_string();
        assert_eq!(
            error,
            "identity: is that of node plant/press, for which it was revoked; a key is never used again, so make a new key pair"
        );
    }

    #[test]
    fn the_key_in_force_may_be_ordered_again_and_that_of_somebody_else_never() {
        let held = Keys::first(identity());
        let again = held.in_force.clone().unwrap();
        assert_eq!(replace_key(&press(), &held, &again, holds(press())), Ok(held.clone()));
        let theirs = holds(plant());
        assert_eq!(
            replace_key(&press(), &held, &identity(), theirs.clone()),
            Err(Refused::IdentityTaken(theirs.unwrap()))
        );
    }

    #[test]
    fn every_key_that_can_come_into_force_can_be_revoked() {
        let mut keys = Keys::default();
        let full = loop {
            match replace_key(&press(), &keys, &identity(), None) {
                Ok(next) => keys = next,
                Err(refused) => break refused,
            }
        };
        assert_eq!(full, Refused::TooManyKeys(press()));
        assert_eq!(keys.revoked().former.len(), MAX_FORMER_KEYS);
    }

    #[test]
    fn a_node_may_bring_a_device_id_of_its_own() {
        assert_eq!(device_id(&node()).as_str(), "plant/press");
        let foreign = CreateNode { device_id: Some("Gateway-1/Cell_7/~b".parse().unwrap()), ..node() };
        assert_eq!(device_id(&foreign).as_str(), "Gateway-1/Cell_7/~b");
    }

    #[test]
    fn a_node_stands_at_a_site() {
        assert_eq!(check_node(&node(), false, Taken::default()), Err(Refused::NoSite("plant".parse().unwrap())));
        assert_eq!(check_node(&node(), true, Taken::default()), Ok(Joins::Anew));
    }

    #[test]
    fn a_reason_is_one_line_of_a_bounded_length() {
        let wrong = CreateSite { reason: Some("two\nlines".into()), ..site() };
        let Err(Refused::Invalid(errors)) = check_site(&wrong, Taken::default()) else { panic!("not refused") };
        assert_eq!(errors.iter().map(|error| error.field.as_str()).collect::<Vec<_>>(), ["reason"]);
        let long = CreateSite { reason: Some("x".repeat(MAX_REASON + 1)), ..site() };
        assert!(matches!(check_site(&long, Taken::default()), Err(Refused::Invalid(_))));
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
