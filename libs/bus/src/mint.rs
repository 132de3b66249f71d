//! The JWTs of users, and the templates of members, both made from the permissions of [`User`].
//!
//! A member (a site at the hub, a node at its site) has no permissions in its JWT. They stand in the template of the key that
//! signs members, and the server fills the member's name in. The template is what [`User::permissions`] says of a member with
//! a name that is then replaced by the server's words for it, so both cannot differ.

use std::time::Duration;

use identity::{Authority, Rights, Shared, Template};
use margo::{ClientName, NodeId, NodeName, UserNkey};

use crate::{Permissions, User, hub_streams::READABLE};

/// The most subscriptions of a member's connection: twice what one needs.
const SUBSCRIPTIONS: u32 = 16;

/// The most bytes of a member's message: a window of 960 KiB with its headers, and a report of 256 KiB.
const PAYLOAD: u32 = 1 << 20;

/// Names that stand for every name. They are replaced token by token, and no subject has them as a token of its own.
const ANY_CLIENT: &str = "any-client";
const ANY_NODE: &str = "any-node";

/// Who joins a server by a JWT of its minter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Members {
    /// The members of the hub's server.
    Sites,
    /// The members of a site's server.
    Nodes,
}

impl Members {
    /// Returns what each of them may do, as the server's template.
    pub fn template(self) -> Template {
        let client: ClientName = ANY_CLIENT.parse().expect("the name is valid");
        let node: NodeName = ANY_NODE.parse().expect("the name is valid");
        let (role, user, words) = match self {
            Self::Sites => ("site", User::Site(client), [(ANY_CLIENT, "{{name()}}"), (ANY_NODE, "")]),
            Self::Nodes => (
                "node",
                User::Node(NodeId::new(client, node)),
                [(ANY_CLIENT, "{{tag(client)}}"), (ANY_NODE, "{{name()}}")],
            ),
        };
        let word_of = |token: &str| {
            let word = words.iter().find(|(name, _)| *name == token);
            word.map_or(token, |(_, word)| word).to_owned()
        };
        let worded = |subjects: Vec<String>| {
            let subjects = subjects.into_iter();
            subjects.map(|subject| subject.split('.').map(word_of).collect::<Vec<_>>().join(".")).collect()
        };
        let Permissions { publish, subscribe } = user.permissions();
        let rights = Rights { publish: worded(publish), subscribe: worded(subscribe) };
        Template { role, rights, subscriptions: SUBSCRIPTIONS, payload: PAYLOAD, shared: self.shared() }
    }

    /// What the server's account answers to the account of a third party: requests for messages of the consumers that it has,
    /// questions about these consumers, and acknowledgements.
    fn shared(self) -> Vec<Shared> {
        if self == Self::Nodes {
            return Vec::new();
        }
        let of_stream = |stream: &str| {
            let consumer = format!("{stream}.reader-{}", Shared::READER);
            [
                Shared { subject: format!("$JS.API.CONSUMER.MSG.NEXT.{consumer}"), many: true },
                Shared { subject: format!("$JS.API.CONSUMER.INFO.{consumer}"), many: false },
                Shared { subject: format!("$JS.ACK.{consumer}.>"), many: false },
            ]
        };
        READABLE.into_iter().flat_map(of_stream).collect()
    }
}

impl User {
    /// Mints the JWT with which this user logs in by this key. A site's holds for `life`; the others have no end.
    pub fn mint(&self, authority: &Authority, key: &UserNkey, issued: u64, life: Option<Duration>) -> String {
        let rights = || {
            let Permissions { publish, subscribe } = self.permissions();
            Rights { publish, subscribe }
        };
        match self {
            Self::Site(client) => authority.site(client, key, issued, life),
            Self::Node(node) => authority.node(node, key, issued),
            Self::Central(_)
            | Self::Front(_)
            | Self::Bootstrap
            | Self::LocalOrchestrator(_)
            | Self::LocalFront(_)
            | Self::OciFetcher(_) => authority.service(&self.to_string(), key, &rights(), issued),
            Self::Minter => authority.system_user(&self.to_string(), key, &rights(), issued),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the server makes of a template.
    fn filled(subjects: &[String], name: &str, client: &str) -> Vec<String> {
        subjects.iter().map(|it| it.replace("{{name()}}", name).replace("{{tag(client)}}", client)).collect()
    }

    #[test]
    fn a_template_says_of_every_name_what_the_permissions_say() {
        for name in ["plant", "a", "head", "node", "any", "0-9"] {
            let may = User::Site(name.parse().unwrap()).permissions();
            let rights = Members::Sites.template().rights;
            assert_eq!(filled(&rights.publish, name, "no tag"), may.publish);
            assert_eq!(filled(&rights.subscribe, name, "no tag"), may.subscribe);

            let node = NodeId::new("plant".parse().unwrap(), name.parse().unwrap());
            let may = User::Node(node).permissions();
            let rights = Members::Nodes.template().rights;
            assert_eq!(filled(&rights.publish, name, "plant"), may.publish);
            assert_eq!(filled(&rights.subscribe, name, "plant"), may.subscribe);
        }
    }
}
