//! Who may log in at the hub, from the files of the clients alone. There is no async, no NATS and no clock here.

use std::collections::BTreeMap;

use api::NodeState;
use bus::User;
use git_state::layout::ClientFile;
use margo::{ClientName, Identity, UserNkey};
use minter::Roll;

/// What follows from the files of all clients. A client that leaves still has to report, so it may log in until it is retired.
/// A key that was replaced, or is that of a retired client, never comes back, not even as that of another client.
pub fn roll(clients: impl IntoIterator<Item = ClientFile>) -> Roll {
    let mut roll = Roll::default();
    for ClientFile { name, identity, state, former_keys } in clients {
        let Identity::Nkey(key) = identity;
        match state {
            NodeState::Active | NodeState::Leaving => {
                roll.members.insert(key, User::Site(name));
            }
            NodeState::Retired => {
                roll.revoked.insert(key);
            }
        }
        roll.revoked.extend(former_keys.into_iter().map(|Identity::Nkey(key)| key));
    }
    roll.members.retain(|key, _| !roll.revoked.contains(key));
    roll
}

/// The key in force of each client that has one.
pub type Keys = BTreeMap<ClientName, UserNkey>;

/// Returns the keys in force, by client.
pub fn keys(roll: &Roll) -> Keys {
    let sites = roll.members.iter().filter_map(|(key, user)| match user {
        User::Site(client) => Some((client.clone(), key.clone())),
        _ => None,
    });
    sites.collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn key() -> UserNkey {
        identity::nats::generate().1
    }

    fn client(name: &str, key: &UserNkey, state: NodeState) -> ClientFile {
        let (name, identity) = (name.parse().unwrap(), Identity::Nkey(key.clone()));
        ClientFile { name, identity, state, former_keys: Vec::new() }
    }

    #[test]
    fn clients_log_in_until_they_are_retired() {
        let [a, b, c] = [key(), key(), key()];
        let roll = roll([
            client("a", &a, NodeState::Active),
            client("b", &b, NodeState::Leaving),
            client("c", &c, NodeState::Retired),
        ]);
        let site = |name: &str| User::Site(name.parse().unwrap());
        assert_eq!(roll.members, BTreeMap::from([(a, site("a")), (b, site("b"))]));
        assert_eq!(roll.revoked, BTreeSet::from([c]));
        assert_eq!(keys(&roll).keys().map(ClientName::as_str).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn a_former_key_never_comes_back_not_even_at_another_client() {
        let [old, new] = [key(), key()];
        let renewed =
            ClientFile { former_keys: vec![Identity::Nkey(old.clone())], ..client("a", &new, NodeState::Active) };
        let roll = roll([renewed, client("b", &old, NodeState::Active)]);
        assert_eq!(roll.members.keys().collect::<Vec<_>>(), [&new]);
        assert_eq!(roll.revoked, BTreeSet::from([old]));
    }
}
