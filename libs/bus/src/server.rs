//! The configuration of a NATS server, which knows its operator and nothing of its users.
//!
//! Who may log in and what each may do stands in JWTs ([`User::mint`](crate::User::mint)), so whoever joins changes nothing
//! here. The JWTs of the accounts stand in a file that the configuration includes, for the server's first start and for one
//! whose own copy is older.

use std::{io, path::Path};

use identity::Authority;

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
    /// The keys whose JWTs the server believes.
    pub authority: &'a Authority,
    /// The file of the accounts' JWTs that belongs to these keys, relative to the folder of this configuration.
    pub accounts: &'a str,
    /// The folder in which the server keeps the JWTs that were pushed to it.
    pub jwts: &'a Path,
    /// The file of the server's log. A full one is kept under another name, beside three of them.
    pub log: &'a Path,
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

/// Makes the folder in which the server keeps the platform's streams, before its first start. A server that finds a file
/// there loads the account at its start. Otherwise the account is loaded by the first users who log in, by each of them if
/// they come together; each tries whether a folder for streams can be made and removes it again, and with it the stream that
/// another one has just made (nats-server 2.15.1, which also removes a folder that is empty).
pub fn make_streams_folder(server: &Server<'_>) -> io::Result<()> {
    let file = server.store.join("jetstream").join(server.authority.account()).join("README");
    let text = b"The streams of the account of this name. This file has the server load the account when it starts.\n";
    if disk::read_optional(&file)?.is_none() { disk::write_private(&file, text) } else { Ok(()) }
}

/// Returns the server's configuration. With it a PubAck means that a message is on the disk, and no consumer is
/// refused because there are too many.
pub fn server_conf(server: &Server<'_>) -> String {
    let Server { listen, monitor, name, store, authority, accounts, jwts, log, tls } = server;
    let monitor = monitor.map_or(String::new(), |monitor| format!("http: {monitor:?}\n"));
    let tls = tls.map_or(String::new(), tls_conf);
    format!(
        "# Written by Edgewright; changes are overwritten.\n\
         listen: {listen:?}\n{monitor}{tls}server_name: {name:?}\n\
         # Whoever is refused something is worth a line each time, also without credentials: so the log has an end.\n\
         log_file: {:?}\nlogfile_size_limit: 16MB\nlogfile_max_num: 4\n\
         # A desired state of one node fits into one message.\n\
         max_payload: 8MB\n\
         # Everybody may come at once after an outage.\n\
         authorization {{ timeout: 20 }}\n\
         # Clients ping by themselves; one that does not is gone, and its place is free, within a minute.\n\
         ping_interval: \"20s\"\nping_max: 2\n\
         jetstream {{\n  store_dir: {:?}\n  sync_interval: always\n  limits {{ default_max_consumers: -1 }}\n}}\n\
         operator: {}\n\
         system_account: {}\n\
         resolver {{\n  type: full\n  dir: {:?}\n}}\n\
         resolver_preload {{ include {accounts:?} }}\n",
        log.display().to_string(),
        store.display().to_string(),
        authority.operator(),
        authority.system_account(),
        jwts.display().to_string(),
    )
}
