//! The pace of downloads: so many bytes in a second, all that share the pace together.

use std::{
    num::NonZeroU64,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// A rate that whoever downloads keeps to.
#[derive(Debug)]
pub struct Pace {
    bytes_per_second: NonZeroU64,
    /// When the next bytes may pass.
    free: Mutex<Instant>,
}

impl Pace {
    /// Makes a pace of so many bytes in a second.
    pub fn new(bytes_per_second: NonZeroU64) -> Self {
        Self { bytes_per_second, free: Mutex::new(Instant::now()) }
    }

    /// Waits as long as these bytes take, after all that others have taken before. Bytes that have come wait in memory, and
    /// the sender is held up by the windows of TCP, so the rate of the line follows within seconds.
    pub async fn take(&self, bytes: usize) {
        let end = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            let time = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second.get() as f64);
            *free = Instant::now().max(*free) + time;
            *free
        };
        sleep_until(end).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_pass_at_the_rate_however_many_share_it() {
        let (pace, begin) = (Pace::new(NonZeroU64::new(1_000).unwrap()), Instant::now());
        let two = || async {
            for _ in 0..5 {
                pace.take(1_000).await;
            }
        };
        tokio::join!(two(), two());
        pace.take(1).await;
        assert_eq!(begin.elapsed().as_secs(), 10);
    }
}
