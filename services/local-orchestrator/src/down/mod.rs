//! Hub → site: what comes into force at the site.
//!
//! A [`road`] offers a signed head with its list. The [`adopter`] believes it or not ([`trust`]), judges it ([`domain`]),
//! takes the documents that it lacks from the road, and puts the set in force ([`in_force`]): durable first, then on the
//! site's stream ([`stream`]), then the road hears the verdict. Whatever dies in between, the next look puts it right:
//! a road offers again what it has heard no verdict on, and the stream is compared with the set in force.
//!
//! Nothing here but `roads` knows how an offer came.

mod adopter;
mod artifacts;
mod domain;
mod in_force;
mod journal;
mod message;
pub mod road;
pub mod roads;
mod stream;
mod trust;

pub use adopter::Adopter;
pub use artifacts::Artifacts;
pub use domain::{NodeDesired, Objection, Verdict};
pub use in_force::{Adopted, InForce};
pub use trust::Trust;
