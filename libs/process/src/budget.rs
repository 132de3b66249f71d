//! Budgets that are spent and earned again: so much at once, and then so much a day. The time is an argument.

use std::time::Duration;

use tokio::time::Instant;

/// How large a budget is, in bytes or in whatever is counted.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    /// What a full budget holds.
    pub burst: u64,
    /// What is earned in a day, up to a full budget.
    pub per_day: u64,
}

const DAY: Duration = Duration::from_secs(24 * 3600);

/// What somebody has left of a budget. It begins full.
#[derive(Clone, Copy, Debug)]
pub struct Account {
    left: f64,
    at: Instant,
}

impl Account {
    /// Opens a full account.
    pub fn new(allowance: Allowance, now: Instant) -> Self {
        Self { left: allowance.burst as f64, at: now }
    }

    /// Spends this much, if there is so much; otherwise nothing.
    pub fn spend(&mut self, allowance: Allowance, amount: usize, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        let earned = passed * allowance.per_day as f64 / DAY.as_secs_f64();
        (self.left, self.at) = ((self.left + earned).min(allowance.burst as f64), now);
        let enough = self.left >= amount as f64;
        if enough {
            self.left -= amount as f64;
        }
        enough
    }

    /// Whether nothing is missing from a full budget.
    pub fn is_full(&self, allowance: Allowance, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left + passed * allowance.per_day as f64 / DAY.as_secs_f64() >= allowance.burst as f64
    }

    /// Gives back what was spent in vain.
    pub fn give_back(&mut self, amount: usize) {
        self.left += amount as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spent_is_earned_again_up_to_a_full_budget() {
        let (allowance, now) = (Allowance { burst: 10, per_day: 24 }, Instant::now());
        let mut account = Account::new(allowance, now);
        assert!(account.spend(allowance, 10, now) && !account.spend(allowance, 1, now));
        let later = now + DAY / 8;
        assert!(account.spend(allowance, 3, later) && !account.spend(allowance, 1, later));
        account.give_back(1);
        assert!(!account.is_full(allowance, later));
        assert!(account.spend(allowance, 1, later));
        assert!(account.is_full(allowance, later + DAY));
        assert!(!account.spend(allowance, 11, later + 10 * DAY));
    }
}
