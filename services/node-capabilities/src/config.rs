//! What node-capabilities has to know; the program that starts it fills it in.

use std::path::PathBuf;

use bus::User;
use identity::certificates::Issuer;
use margo::UserNkey;
use service::Base;
use store::Location;

/// The program `edgewright` fills this from its data folder.
pub struct Config {
    pub base: Base,
    /// Where the service keeps its tables.
    pub database: Location,
    /// The URL of the hub's NATS server that new sites are told.
    pub hub_url: String,
    /// The tenant's root public key, in OpenSSH's form, that new sites are told.
    pub root_key: String,
    /// The root certificates, in PEM form, that new sites and nodes are told.
    pub root_certificates: String,
    /// What signs the intermediates of new sites.
    pub issuer: Issuer,
    /// The file of the hub's list of users, which this service alone writes.
    pub users_file: PathBuf,
    /// The users that are always in that list, with their public keys.
    pub service_users: Vec<(User, UserNkey)>,
    /// How to connect to the hub as `User::Reloader`, the only user that may have it reload its list.
    pub reloader: bus::Login,
}
