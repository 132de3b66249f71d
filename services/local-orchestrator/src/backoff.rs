//! Delays between attempts: doubling, with jitter, so that a thousand sites do not return in step.

use std::time::Duration;

pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// The next attempt is the first again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }

    /// How long to wait now: between half of the delay and the whole of it.
    pub fn delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = (delay * 2).min(self.longest);
        // Without randomness of the system all sites wait alike, which is only less good.
        let random = getrandom::u32().unwrap_or(u32::MAX);
        delay / 2 + (delay / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_vary() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, 4 * second);
        for whole in [1, 2, 4, 4] {
            let delay = backoff.delay();
            assert!(delay >= whole * second / 2 && delay <= whole * second, "{delay:?}");
        }
        backoff.reset();
        assert!(backoff.delay() <= second);
    }
}
