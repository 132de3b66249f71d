//! NATS users as NKeys, and the server configurations made from their permissions.
//!
//! The public halves stand in `fleet.git`; a server's list of users is a file of its own, so that whoever admits a user
//! rewrites that file and has the server reload it.

use std::{fmt::Write, path::Path};

use bus::{Role, SYSTEM_ACCOUNT};
use margo::TenantName;
use nkeys::KeyPair;

/// A new NKey user: seed (`SU…`, secret) and public key (`U…`).
pub fn generate() -> (String, String) {
    let pair = KeyPair::new_user();
    (pair.seed().expect("a new key pair has its seed"), pair.public_key())
}

/// The public key of a seed.
pub fn public_key(seed: &str) -> Result<String, InvalidNkey> {
    KeyPair::from_seed(seed.trim()).map(|pair| pair.public_key()).map_err(|_| InvalidNkey)
}

/// A text that is no NKey of a user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an NKey of a user (56 characters beginning with U)")]
pub struct InvalidNkey;

/// Checks a user's public key, as it comes from outside.
pub fn check_public_key(text: &str) -> Result<(), InvalidNkey> {
    if text.len() != 56 || !text.starts_with('U') {
        return Err(InvalidNkey);
    }
    KeyPair::from_public_key(text).map(|_| ()).map_err(|_| InvalidNkey)
}

/// The file that lists a server's users with all their permissions: `include` it inside the tenant's account.
pub fn users_conf<'a>(users: impl IntoIterator<Item = (&'a Role, &'a str)>) -> String {
    let mut text = String::from("# Written by Edgewright; changes are overwritten.\nusers: [\n");
    for (role, key) in users {
        let may = role.permissions();
        let list =
            |subjects: &[String]| subjects.iter().map(|subject| format!("{subject:?}")).collect::<Vec<_>>().join(", ");
        writeln!(
            text,
            "  # {role}\n  {{ nkey: {key}, permissions: {{ publish: {{ allow: [{}] }}, subscribe: {{ allow: [{}] }}, \
             allow_responses: true }} }}",
            list(&may.publish),
            list(&may.subscribe),
        )
        .expect("writing to a String cannot fail");
    }
    text.push_str("]\n");
    text
}

/// What a server's own configuration depends on.
pub struct Server<'a> {
    /// `host:port` for clients.
    pub listen: &'a str,
    /// `host:port` for monitoring, when wanted.
    pub monitor: Option<&'a str>,
    /// Shown in logs and used for the JetStream folder.
    pub name: &'a str,
    /// Where JetStream keeps its data.
    pub store: &'a Path,
    /// Whose account the users belong to.
    pub tenant: &'a TenantName,
    /// The file of [`users_conf`], relative to this configuration's folder.
    pub users: &'a str,
    /// Public key of the user that may have the server reload its configuration.
    pub reloader: &'a str,
}

/// The server's configuration: a PubAck means "on disk", and nothing is refused for lack of consumers.
pub fn server_conf(server: &Server<'_>) -> String {
    let Server { listen, monitor, name, store, tenant, users, reloader } = server;
    let reloader_may = Role::Reloader.permissions();
    let list =
        |subjects: &[String]| subjects.iter().map(|subject| format!("{subject:?}")).collect::<Vec<_>>().join(", ");
    let monitor = monitor.map_or(String::new(), |monitor| format!("http: {monitor:?}\n"));
    format!(
        "# Written by Edgewright; changes are overwritten.\n\
         listen: {listen:?}\n{monitor}server_name: {name:?}\n\
         # A desired state of one node fits into one message.\n\
         max_payload: 8MB\n\
         jetstream {{\n  store_dir: {:?}\n  sync_interval: always\n  limits {{ default_max_consumers: -1 }}\n}}\n\
         system_account: {SYSTEM_ACCOUNT}\n\
         accounts {{\n  {SYSTEM_ACCOUNT} {{ users: [ {{ nkey: {reloader}, permissions: {{ publish: {{ allow: [{}] }}, \
         subscribe: {{ allow: [{}] }} }} }} ] }}\n  {tenant} {{ jetstream: enabled\n    include {users:?}\n  }}\n}}\n",
        store.display().to_string(),
        list(&reloader_may.publish),
        list(&reloader_may.subscribe),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_public_key_of_a_user_passes() {
        let (seed, public) = generate();
        assert_eq!(public_key(&seed).unwrap(), public);
        assert!(check_public_key(&public).is_ok());
        for bad in [seed.as_str(), "", "U", &public[1..], &format!("{public} }} evil: {{")] {
            assert!(check_public_key(bad).is_err(), "{bad}");
        }
    }
}
