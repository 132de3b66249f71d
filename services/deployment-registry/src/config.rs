//! What the service has to know, checked by the program that starts it.

use service::Base;
use store::Location;

pub struct Config {
    pub base: Base,
    /// Where the service keeps its tables.
    pub database: Location,
}
