//! What node-capabilities has to know; the program that starts it fills it in.

use identity::certificates::Issuer;
use service::Base;
use store::Location;

/// The program `edgewright` fills this from its data folder.
pub struct Config {
    pub base: Base,
    /// Where the service keeps its tables.
    pub database: Location,
    /// The URL of the hub's NATS server that new sites are told.
    pub hub_url: String,
    /// The URL at which new sites ask for their logins.
    pub minter_url: String,
    /// The tenant's root public key, in OpenSSH's form, that new sites are told.
    pub root_key: String,
    /// The root certificates, in PEM form, that new sites and nodes are told.
    pub root_certificates: String,
    /// What signs the intermediates of new sites.
    pub issuer: Issuer,
}
