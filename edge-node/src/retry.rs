//! How long to wait before the next attempt.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);

/// Pauses that double with every failure up to a longest one, with jitter: nodes that failed together must not come back
/// together.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// For the site's own services: a request there is cheap, and after a restart of the site people wait for its nodes.
    pub const SITE: Self = Self { longest: Duration::from_secs(5), failures: 0 };

    /// For what costs more, such as an artifact or a start. A failure that lasts is looked at twice a minute.
    pub const WORK: Self = Self { longest: Duration::from_secs(30), failures: 0 };

    /// The pause after one more failure.
    pub fn next(&mut self) -> Duration {
        let pause = FIRST.saturating_mul(2u32.saturating_pow(self.failures)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        jitter(pause)
    }
}

/// Between three quarters and five quarters of a pause.
pub fn jitter(pause: Duration) -> Duration {
    // Without randomness of the system all nodes wait alike, which is only less good.
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    pause * 3 / 4 + (pause / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_the_longest() {
        for (mut backoff, longest) in [(Backoff::SITE, 5), (Backoff::WORK, 30)] {
            let longest = Duration::from_secs(longest);
            let pauses: Vec<_> = (0..40).map(|_| backoff.next()).collect();
            assert!(pauses[0] >= FIRST * 3 / 4 && pauses[0] <= FIRST * 5 / 4);
            assert!(pauses[6..].iter().all(|pause| *pause >= longest * 3 / 4 && *pause <= longest * 5 / 4));
        }
    }
}
