//! What the gateway has to know.

use std::{net::SocketAddr, path::PathBuf};

/// Checked configuration.
pub struct Config {
    /// The hub, as the user `api-gateway`.
    pub bus: bus::Endpoint,
    /// Where it says whether it can work.
    pub readiness: service::Readiness,
    /// Whose platform this is.
    pub tenant: margo::TenantName,
    /// Where REST is served.
    pub listen: SocketAddr,
    /// The list of tokens; see [`crate::tokens`].
    pub tokens: PathBuf,
}
