//! The site's nodes: who may connect, which life of a node is the present one, who is heard.

mod admission;
mod health;
mod incarnations;
mod positions;
mod pulse;
mod register;

pub use admission::Admission;
pub use health::{Pulses, run as watch};
pub use incarnations::{Incarnations, Life, Presented};
pub use positions::learn;
pub use register::{Decided, Registrar};

/// The generation of a node's key: how many former keys the node has. The list of nodes names none yet, so every key is a
/// node's first.
pub fn generation(_node: &margo::NodeName) -> u64 {
    0
}
