//! The site's nodes: who may connect, which life of a node is the present one, who is heard.

mod admission;
mod desired;
mod health;
mod incarnations;
mod positions;
mod pulse;
mod register;

pub use admission::Admission;
pub use desired::run as answer_desired;
pub use health::{Pulses, run as watch};
pub use incarnations::{Incarnations, Life, Presented};
pub use positions::learn;
pub use register::{Decided, Registrar};
