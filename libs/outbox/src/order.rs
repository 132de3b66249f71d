//! The header of an order, and how it stands in Git: one form for all sources, so that `git log` reads as the audit.

use std::fmt;

use bus::{CallerName, ServiceName, proto, trace};
use jiff::Timestamp;
use margo::{AppId, AppVersion, AssignmentName, NodeId, OrderId, SiteName};
use proto::{GitWrite, Trailer, git_write::Change};

/// The names of the trailers that sources write. git-writer adds its own ones (`git_state::layout`).
pub mod trailer {
    /// The id of the order.
    pub const ORDER: &str = "Order";
    /// The assignment that the order is about.
    pub const ASSIGNMENT: &str = "Assignment";
    /// Who ordered: the name of a token or of a service.
    pub const REQUESTED_BY: &str = "Requested-By";
    /// When the order was accepted. The commit's own time is when git-writer came to it.
    pub const REQUESTED_AT: &str = "Requested-At";
    /// Why, in the words of who ordered.
    pub const REASON: &str = "Reason";
    /// What made a service order by itself.
    pub const CAUSED_BY: &str = "Caused-By";
    /// The trace from the request to the report of the node.
    pub const TRACE_ID: &str = "Trace-Id";
}

/// Who orders, when and why: what every order has, whatever it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderHeader {
    /// The id that the answer to the order names.
    pub id: OrderId,
    /// Who orders: the caller of the request, or the service that orders by itself. It becomes the author of the commit.
    pub requested_by: CallerName,
    /// When the order was accepted, in RFC 3339 with milliseconds.
    pub requested_at: String,
    /// Why, in the words of who ordered.
    pub reason: Option<String>,
    /// What made a service order by itself.
    pub caused_by: Option<String>,
    /// The id of the trace that the order belongs to.
    pub trace: Option<String>,
}

impl OrderHeader {
    /// The header of an order that somebody gives now, in the current trace.
    #[expect(clippy::disallowed_methods, reason = "the time is shown to people and never compared")]
    pub fn new(requested_by: CallerName, reason: Option<String>) -> Self {
        Self {
            id: OrderId::new(),
            requested_by,
            requested_at: format!("{:.3}", Timestamp::now()),
            reason,
            caused_by: None,
            trace: trace::current_id(),
        }
    }

    /// The header of an order that a service gives by itself.
    pub fn of_service(service: ServiceName, caused_by: Option<String>) -> Self {
        Self { caused_by, ..Self::new(service.into(), None) }
    }

    /// What git-writer is to commit for this order. Source and number are set by [`crate::Outbox::append_all`].
    pub fn write(&self, subject: &AuditSubject, change: Change) -> GitWrite {
        GitWrite {
            author: self.requested_by.to_string(),
            subject: subject.to_string(),
            trailers: self.trailers(subject),
            change: Some(change),
            ..GitWrite::default()
        }
    }

    fn trailers(&self, subject: &AuditSubject) -> Vec<Trailer> {
        let assignment = match &subject.object {
            Object::Assignment(name) => Some(name.to_string()),
            Object::App(..) | Object::Site(_) | Object::Node(_) => None,
        };
        let trailers = [
            (trailer::ORDER, Some(self.id.to_string())),
            (trailer::ASSIGNMENT, assignment),
            (trailer::REQUESTED_BY, Some(self.requested_by.to_string())),
            (trailer::REQUESTED_AT, Some(self.requested_at.clone())),
            (trailer::REASON, self.reason.clone()),
            (trailer::CAUSED_BY, self.caused_by.clone()),
            (trailer::TRACE_ID, self.trace.clone()),
        ];
        let given =
            trailers.into_iter().filter_map(|(key, value)| Some(Trailer { key: key.to_owned(), value: value? }));
        given.collect()
    }
}

/// What an order does, as the first line of its commit: `create assignment greeter: hello 1.0.0 on 2 nodes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditSubject {
    /// What the order does to the object.
    pub verb: Verb,
    /// The thing that the order is about.
    pub object: Object,
    /// More about it, for people.
    pub detail: Option<String>,
}

/// What an order does to its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Brings something into the world that is never changed or that others change later.
    Add,
    /// Makes a standing wish: an assignment, which holds until it is removed.
    Create,
    /// Changes what a standing wish means, at a new revision.
    Update,
    /// Ends a standing wish, for good.
    Remove,
    /// Follows a standing wish on further nodes.
    Place,
    /// Puts another key in the place of the one in force, which is never accepted again.
    ReplaceKey,
    /// Ends the key in force, which is never accepted again.
    RevokeKey,
}

impl Verb {
    /// The word for it, in the commit, in the API and in SQL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Create => "create",
            Self::Update => "update",
            Self::Remove => "remove",
            Self::Place => "place",
            Self::ReplaceKey => "replace-key",
            Self::RevokeKey => "revoke-key",
        }
    }
}

/// What an order is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// An application at a version, written `app hello 1.0.0`.
    App(AppId, AppVersion),
    /// A site, written `site plant`.
    Site(SiteName),
    /// A node, written `node plant/press`.
    Node(NodeId),
    /// An assignment, written `assignment greeter`.
    Assignment(AssignmentName),
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::App(app, version) => write!(f, "app {app} {version}"),
            Self::Site(site) => write!(f, "site {site}"),
            Self::Node(node) => write!(f, "node {node}"),
            Self::Assignment(assignment) => write!(f, "assignment {assignment}"),
        }
    }
}

impl fmt::Display for AuditSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb.as_str(), self.object)?;
        match &self.detail {
            Some(detail) => write!(f, ": {detail}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use bus::proto::FleetChange;

    use super::*;

    /// What `git log` shows of an order, without what git-writer adds.
    fn text(write: &GitWrite) -> String {
        let trailers: String =
            write.trailers.iter().map(|trailer| format!("{}: {}\n", trailer.key, trailer.value)).collect();
        format!("{}\n\n{trailers}", write.subject)
    }

    fn header() -> OrderHeader {
        OrderHeader {
            id: "0198c0de-0000-7000-8000-000000000001".parse().unwrap(),
            requested_by: "ada".parse().unwrap(),
            requested_at: "2026-01-01T00:00:00.000Z".into(),
            reason: None,
            caused_by: None,
            trace: None,
        }
    }

    fn change() -> Change {
        Change::Fleet(FleetChange::default())
    }

    #[test]
    fn every_order_reads_in_the_same_form() {
        let subject = |verb, object| AuditSubject { verb, object, detail: None };
        let app = Object::App("hello".parse().unwrap(), "1.0.0".parse().unwrap());
        let assignment = Object::Assignment("greeter".parse().unwrap());
        for (subject, expected) in [
            (subject(Verb::Add, app), "add app hello 1.0.0"),
            (subject(Verb::Add, Object::Site("plant".parse().unwrap())), "add site plant"),
            (subject(Verb::Add, Object::Node("plant/press".parse().unwrap())), "add node plant/press"),
            (subject(Verb::ReplaceKey, Object::Site("plant".parse().unwrap())), "replace-key site plant"),
            (subject(Verb::RevokeKey, Object::Node("plant/press".parse().unwrap())), "revoke-key node plant/press"),
            (subject(Verb::Remove, assignment), "remove assignment greeter"),
        ] {
            assert_eq!(subject.to_string(), expected);
        }
    }

    #[test]
    fn a_commit_says_who_when_why_and_in_which_trace() {
        let header = OrderHeader {
            reason: Some("the night shift".into()),
            caused_by: Some("node plant/oven joined".into()),
            trace: Some("4bf92f3577b34da6a3ce929d0e0e4736".into()),
            ..header()
        };
        let subject = AuditSubject {
            verb: Verb::Create,
            object: Object::Assignment("greeter".parse().unwrap()),
            detail: Some("hello 1.0.0 on 2 nodes".into()),
        };
        let write = header.write(&subject, change());
        assert_eq!(write.author, "ada");
        let expected = "\
create assignment greeter: hello 1.0.0 on 2 nodes

Order: 0198c0de-0000-7000-8000-000000000001
Assignment: greeter
Requested-By: ada
Requested-At: 2026-01-01T00:00:00.000Z
Reason: the night shift
Caused-By: node plant/oven joined
Trace-Id: 4bf92f3577b34da6a3ce929d0e0e4736
";
        assert_eq!(text(&write), expected);
    }

    #[test]
    fn what_an_order_has_not_is_not_in_its_commit() {
        let subject = AuditSubject { verb: Verb::Add, object: Object::Site("plant".parse().unwrap()), detail: None };
        let expected = "\
add site plant

Order: 0198c0de-0000-7000-8000-000000000001
Requested-By: ada
Requested-At: 2026-01-01T00:00:00.000Z
";
        assert_eq!(text(&header().write(&subject, change())), expected);
    }
}
