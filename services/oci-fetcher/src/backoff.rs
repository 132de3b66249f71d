//! Pauses between attempts that fail.

use std::time::Duration;

/// A store that restarts is back within seconds.
const FIRST: Duration = Duration::from_secs(1);

/// A hub that was away for days is found again within a minute.
const LONGEST: Duration = Duration::from_secs(60);

/// Counts failures in a row.
#[derive(Default)]
pub struct Backoff(u32);

impl Backoff {
    /// It went well.
    pub fn reset(&mut self) {
        self.0 = 0;
    }

    /// How long to wait after one more failure: doubling, with jitter.
    pub fn next(&mut self) -> Duration {
        let pause = FIRST.saturating_mul(1 << self.0.min(16)).min(LONGEST);
        self.0 = self.0.saturating_add(1);
        with_jitter(pause)
    }
}

/// Between half of it and all of it, so that a thousand sites do not come back in the same second.
pub fn with_jitter(pause: Duration) -> Duration {
    // Without randomness there is no jitter; that is no reason to fail.
    let random = getrandom::u32().unwrap_or_default();
    pause.mul_f64(0.5 + f64::from(random) / f64::from(u32::MAX) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_limit_and_start_again_after_success() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..40).map(|_| backoff.next()).collect();
        assert!(pauses[0] <= FIRST && pauses[0] >= FIRST / 2, "{pauses:?}");
        assert!(pauses[39] <= LONGEST && pauses[39] >= LONGEST / 2, "{pauses:?}");
        backoff.reset();
        assert!(backoff.next() <= FIRST);
    }
}
