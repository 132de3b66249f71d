//! What a campaign is told from outside.

use std::time::Duration;

use end_to_end::campaign;

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
        let seconds = campaign::number("EDGEWRIGHT_CHAOS_SECONDS").unwrap_or(60);
        Self { seed: campaign::seed(), duration: Duration::from_secs(seconds) }
    }
}
