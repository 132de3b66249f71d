//! The site's nodes: who may connect, which life of a node is the present one, who is heard.

mod admission;
mod calls;
mod desired;
mod health;
mod incarnations;
mod positions;
mod pulse;
mod register;

pub use admission::Admission;
pub use calls::run as pass_calls;
pub use desired::run as answer_desired;
pub use health::{Pulses, run as watch};
pub use incarnations::{Incarnations, Life, Presented};
pub use positions::learn;
pub use register::{Decided, Registrar};
