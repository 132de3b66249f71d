//! The configuration of a NATS server, made from the permissions of its users.
//!
//! A server's list of users is a file of its own, so that whoever admits a user rewrites that file and has the server
//! read it again ([`crate::UserList`]).

use std::{fmt::Write, path::Path};

use margo::{TenantName, UserNkey};

use crate::{SYSTEM_ACCOUNT, User};

/// The file that lists a server's users with all their permissions: `include` it inside the tenant's account.
pub fn users_conf<'a>(users: impl IntoIterator<Item = (&'a User, &'a UserNkey)>) -> String {
    let mut text = String::from("# Written by Edgewright; changes are overwritten.\nusers: [\n");
    for (user, key) in users {
        let may = user.permissions();
        let list =
            |subjects: &[String]| subjects.iter().map(|subject| format!("{subject:?}")).collect::<Vec<_>>().join(", ");
        writeln!(
            text,
            "  # {user}\n  {{ nkey: {key}, permissions: {{ publish: {{ allow: [{}] }}, subscribe: {{ allow: [{}] }}, \
             allow_responses: true }} }}",
            list(&may.publish),
            list(&may.subscribe),
        )
        .expect("writing to a String cannot fail");
    }
    text.push_str("]\n");
    text
}

/// The values that the configuration of a server depends on.
pub struct Server<'a> {
    /// The address for clients, `host:port`.
    pub listen: &'a str,
    /// The address for monitoring, `host:port`. The server does not listen for it when it is absent.
    pub monitor: Option<&'a str>,
    /// The name that the server shows in its logs.
    pub name: &'a str,
    /// The folder in which JetStream keeps its data.
    pub store: &'a Path,
    /// The tenant in whose account the users are.
    pub tenant: &'a TenantName,
    /// The path of the file that [`users_conf`] made, relative to the folder of this configuration.
    pub users: &'a str,
    /// The public key of the user that may have the server reload its configuration.
    pub reloader: &'a UserNkey,
    /// The PEM files with the server's certificate and chain, and with its key. Without them everything crosses the
    /// network in clear.
    pub tls: Option<(&'a Path, &'a Path)>,
}

/// The block that has a server speak TLS 1.3 from the first byte on, with clients and with nobody else. Its time limit is
/// one for a storm of a thousand handshakes.
fn tls_conf((certificate, key): (&Path, &Path)) -> String {
    format!(
        "tls {{\n  cert_file: {:?}\n  key_file: {:?}\n  min_version: \"1.3\"\n  handshake_first: true\n  timeout: 10\n}}\n",
        certificate.display().to_string(),
        key.display().to_string(),
    )
}

/// Returns the server's configuration. With it a PubAck means that a message is on the disk, and no consumer is
/// refused because there are too many.
pub fn server_conf(server: &Server<'_>) -> String {
    let Server { listen, monitor, name, store, tenant, users, reloader, tls } = server;
    let reloader_may = User::Reloader.permissions();
    let list =
        |subjects: &[String]| subjects.iter().map(|subject| format!("{subject:?}")).collect::<Vec<_>>().join(", ");
    let monitor = monitor.map_or(String::new(), |monitor| format!("http: {monitor:?}\n"));
    let tls = tls.map_or(String::new(), tls_conf);
    format!(
        "# Written by Edgewright; changes are overwritten.\n\
         listen: {listen:?}\n{monitor}{tls}server_name: {name:?}\n\
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
