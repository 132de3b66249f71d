//! What deployment-registry has to know; the program that starts it fills it in.

use service::Base;
use store::Location;

pub struct Config {
    pub base: Base,
    /// Where the service keeps its tables.
    pub database: Location,
}
