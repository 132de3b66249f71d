//! Pauses between attempts: doubling, with jitter, so that a thousand that fell together do not return in step.

use std::time::Duration;

/// The pauses between attempts at one thing. Each failure doubles the next pause, up to a longest one.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// Makes pauses that begin at `first` and double up to `longest`.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0 }
    }

    /// Makes the next pause the first again, because an attempt went well.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Returns the pause after one more failure: between half of the pause that is due and the whole of it.
    pub fn pause(&mut self) -> Duration {
        let pause = self.first.saturating_mul(2u32.saturating_pow(self.failures)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        jittered(pause)
    }
}

/// Returns a random time between half of a pause and the whole of it.
pub fn jittered(pause: Duration) -> Duration {
    // Without randomness from the system everybody waits equally long, which is worse and does no harm.
    let random = getrandom::u32().unwrap_or(u32::MAX);
    pause / 2 + (pause / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_vary() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, 4 * second);
        for whole in [1, 2, 4, 4] {
            let pause = backoff.pause();
            assert!(pause >= whole * second / 2 && pause <= whole * second, "{pause:?}");
        }
        for _ in 0..100 {
            assert!(backoff.pause() <= 4 * second);
        }
        backoff.reset();
        assert!(backoff.pause() <= second);
    }
}
