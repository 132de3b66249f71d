//! Inboxes: where each user receives answers, and which answers a lower tier may be sent.
//!
//! A NATS server does not look at the reply subject of a message. Whoever asks could thus name any subject, and whoever
//! answers would publish there with rights of its own. Two guards stand against that, and each holds without the other: who
//! answers a lower tier does so on a connection that may publish into inboxes of that tier only ([`crate::User::Front`]),
//! and [`is_inbox_of`] drops a request whose reply subject is no inbox of the asker that its own subject names.

use std::fmt;

use margo::{ClientName, NodeId};

use crate::Subject;

/// Begins the inboxes of the services of one server, which answer each other.
pub(crate) const SERVICES: &str = "_INBOX_svc";

/// Begins the inboxes of sites at the hub.
pub(crate) const SITES: &str = "_INBOX_site";

/// Begins the inboxes of nodes at their site.
pub(crate) const NODES: &str = "_INBOX_node";

/// The most tokens that a client's library puts behind the prefix of its inboxes.
const MOST_TOKENS: usize = 3;

/// Who asks the tier above, as the subject of the request says. The permissions of the server bind a subject to its asker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Asker {
    /// The LO of a site, at the hub.
    Site(ClientName),
    /// A node, at its site.
    Node(NodeId),
}

impl Asker {
    /// Returns who asks on this subject; `None` when it is no subject of a lower tier.
    pub fn of(subject: &Subject) -> Option<Self> {
        match subject {
            Subject::Site(client, _) | Subject::SitePart(client, _) => Some(Self::Site(client.clone())),
            Subject::Node(node, _) | Subject::NodePart(node, _) => Some(Self::Node(node.clone())),
            _ => None,
        }
    }

    /// Returns the prefix of the asker's inboxes.
    pub(crate) fn inbox_prefix(&self) -> String {
        match self {
            Self::Site(client) => format!("{SITES}.{client}"),
            Self::Node(NodeId { client, node }) => format!("{NODES}.{client}.{node}"),
        }
    }
}

impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Site(client) => client.fmt(f),
            Self::Node(node) => node.fmt(f),
        }
    }
}

/// Tells whether this reply subject is an inbox of a service of the same server. No other user can hear or name one.
pub(crate) fn is_of_a_service(reply: &str) -> bool {
    reply.strip_prefix(SERVICES).is_some_and(|rest| rest.starts_with('.'))
}

/// Tells whether this reply subject is an inbox of this asker: its prefix and one to three tokens of letters and digits. So it
/// is no pattern, and nobody else's.
pub(crate) fn is_inbox_of(asker: &Asker, reply: &str) -> bool {
    let prefix = asker.inbox_prefix();
    let Some(rest) = reply.strip_prefix(prefix.as_str()).and_then(|rest| rest.strip_prefix('.')) else { return false };
    let is_token = |token: &str| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let mut tokens = rest.split('.');
    tokens.clone().count() <= MOST_TOKENS && tokens.all(is_token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_goes_into_an_inbox_of_the_asker_and_nowhere_else() {
        let plant = Asker::of(&"site.plant.store".parse().unwrap()).unwrap();
        let press = Asker::of(&"node.plant.press.report".parse().unwrap()).unwrap();
        for good in ["_INBOX_site.plant.a", "_INBOX_site.plant.Ab1.c", "_INBOX_site.plant.a.b.c"] {
            assert!(is_inbox_of(&plant, good), "{good}");
        }
        assert!(is_inbox_of(&press, "_INBOX_node.plant.press.abc.1"));
        for bad in [
            "",
            "_INBOX_site.plant",
            "_INBOX_site.plant.",
            "_INBOX_site.plant..a",
            "_INBOX_site.plant.*",
            "_INBOX_site.plant.>",
            "_INBOX_site.plant.a.b.c.d",
            "_INBOX_site.plant.a b",
            "_INBOX_site.plant.a.",
            "_INBOX_site.plants.a",
            "_INBOX_site.other.a",
            "_INBOX_svc.git-writer.a",
            "_INBOX_node.plant.oven.a",
            "$JS.API.STREAM.DELETE.EVENTS",
            "site.other.report",
            "git.write.fleet",
        ] {
            assert!(!is_inbox_of(&plant, bad), "{bad}");
            assert!(!is_inbox_of(&press, bad), "{bad}");
        }
    }

    #[test]
    fn services_answer_services() {
        assert!(is_of_a_service("_INBOX_svc.api-gateway.abc.1"));
        for bad in ["", "_INBOX_svc", "_INBOX_svcs.a", "_INBOX_site.plant.a", "$JS.API.STREAM.DELETE.EVENTS", "svc.a.b"]
        {
            assert!(!is_of_a_service(bad), "{bad}");
        }
    }

    #[test]
    fn only_subjects_of_a_lower_tier_have_an_asker() {
        for subject in Subject::one_of_each(&"plant/press".parse().unwrap()) {
            let lower = ["site.", "node."].iter().any(|tier| subject.to_string().starts_with(tier));
            assert_eq!(Asker::of(&subject).is_some(), lower, "{subject}");
        }
    }
}
