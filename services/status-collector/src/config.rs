//! What the service needs to know, checked by whoever starts it.

use service::Base;
use store::Location;

/// The program `edgewright` fills this from its data folder.
pub struct Config {
    pub base: Base,
    /// Where the service keeps its tables.
    pub database: Location,
}
