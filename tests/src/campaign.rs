//! What a campaign is told from outside.

use std::{
    env,
    hash::{BuildHasher, RandomState},
    str::FromStr,
};

/// The seed from which a campaign follows: `EDGEWRIGHT_CHAOS_SEED`, or one that nobody has chosen.
pub fn seed() -> u64 {
    number("EDGEWRIGHT_CHAOS_SEED").unwrap_or_else(any_seed)
}

/// Reads a number from the environment. A variable that is empty counts as absent: that is what `make` gives on when it was not
/// told.
pub fn number(name: &str) -> Option<u64> {
    let value = env::var(name).ok().filter(|value| !value.is_empty())?;
    Some(u64::from_str(&value).unwrap_or_else(|error| panic!("{name}={value:?}: {error}")))
}

/// Five digits: enough of them, and easy to type again.
fn any_seed() -> u64 {
    // The standard library seeds its hash maps with what the operating system calls random.
    RandomState::new().hash_one(0) % 100_000
}
