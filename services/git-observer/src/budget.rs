//! What answering one site may cost, so that what one asks too much costs nobody else. No bus; time is an argument.

use std::{collections::BTreeMap, time::Duration};

use margo::ClientName;
use tokio::time::Instant;

/// How many times as long as a thread worked for a site, the site has to wait on average: it takes at most half of one
/// thread.
const SHARE: u32 = 2;

/// Bytes of files that a site may have read for it in a second on average: a site that fetches everything is not slowed down by this,
/// for its network carries less.
const BYTES_PER_SECOND: u32 = 32 << 20;

/// How much may be spent at once before anybody waits. A site with a few hundred nodes fetches everything within it.
const CREDIT: Duration = Duration::from_secs(1);

/// What sites have spent lately. One that spent nothing for a while is forgotten.
#[derive(Debug, Default)]
pub struct Budgets {
    /// Until when what a site has spent is paid.
    paid: BTreeMap<ClientName, Instant>,
}

impl Budgets {
    /// How long this site has to wait before it is answered.
    pub fn pause(&self, site: &ClientName, now: Instant) -> Duration {
        self.paid.get(site).map_or(Duration::ZERO, |paid| paid.duration_since(now).saturating_sub(CREDIT))
    }

    /// Notes what an answer has cost: so long a thread has worked for it, and so many bytes of files were read.
    pub fn spend(&mut self, site: &ClientName, worked: Duration, bytes: usize, now: Instant) {
        self.paid.retain(|_, paid| *paid > now);
        let read = Duration::from_secs_f64(bytes as f64 / f64::from(BYTES_PER_SECOND));
        let paid = self.paid.entry(site.clone()).or_insert(now);
        *paid += (worked * SHARE).max(read);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sites() -> [ClientName; 2] {
        ["loud", "quiet"].map(|name| name.parse().unwrap())
    }

    /// How many such answers one site gets within ten seconds that asks without end.
    fn answers(worked: Duration, bytes: usize) -> u32 {
        let (mut budgets, begin, [loud, quiet]) = (Budgets::default(), Instant::now(), sites());
        let mut now = begin;
        for count in 0.. {
            now += budgets.pause(&loud, now);
            assert_eq!(budgets.pause(&quiet, now), Duration::ZERO);
            if now > begin + Duration::from_secs(10) {
                return count;
            }
            budgets.spend(&loud, worked, bytes, now);
        }
        unreachable!("it ends by the time")
    }

    #[test]
    fn a_site_has_half_of_a_thread_and_so_many_bytes_a_second_and_a_credit() {
        assert_eq!(answers(Duration::from_millis(50), 0), 10 * 10 + 10 + 1);
        assert_eq!(answers(Duration::from_millis(1), 8 << 20), 10 * 4 + 4 + 1);
    }

    #[test]
    fn who_spent_nothing_for_a_while_is_forgotten() {
        let (mut budgets, now, [loud, quiet]) = (Budgets::default(), Instant::now(), sites());
        budgets.spend(&loud, Duration::from_secs(10), 0, now);
        assert_eq!(budgets.pause(&loud, now), Duration::from_secs(19));
        let later = now + Duration::from_secs(20);
        assert_eq!(budgets.pause(&loud, later), Duration::ZERO);
        budgets.spend(&quiet, Duration::from_millis(1), 0, later);
        assert!(!budgets.paid.contains_key(&loud));
    }
}
