//! What a campaign is told from outside.

use std::{
    env,
    hash::{BuildHasher, RandomState},
    str::FromStr,
    time::Duration,
};

/// As `make chaos SEED=7 SECONDS=600` gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// From it follow the plan of kills and what each client orders.
    pub seed: u64,
    /// How long processes are killed and orders are given.
    pub duration: Duration,
}

impl Settings {
    /// Reads `EDGEWRIGHT_CHAOS_SEED` and `EDGEWRIGHT_CHAOS_SECONDS`. Without a seed there is a random one, without
    /// seconds there is one minute.
    pub fn from_environment() -> Self {
        let seed = number("EDGEWRIGHT_CHAOS_SEED");
        let seconds = number("EDGEWRIGHT_CHAOS_SECONDS").unwrap_or(60);
        Self { seed: seed.unwrap_or_else(any_seed), duration: Duration::from_secs(seconds) }
    }
}

/// Five digits: enough of them, and easy to type again.
fn any_seed() -> u64 {
    // The standard library seeds its hash maps with what the operating system calls random.
    RandomState::new().hash_one(0) % 100_000
}

/// A variable that is empty counts as absent: that is what `make` gives on when it was not told.
fn number(name: &str) -> Option<u64> {
    let value = env::var(name).ok().filter(|value| !value.is_empty())?;
    Some(u64::from_str(&value).unwrap_or_else(|error| panic!("{name}={value:?}: {error}")))
}
