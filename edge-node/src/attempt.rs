//! What was tried for each workload, in this life of the agent.

use std::{collections::BTreeMap, time::Duration};

use margo::Digest;
use runtime::{Condition, RuntimeError, WorkloadId};
use tokio::time::Instant;

use process::Backoff;

use crate::{retry, status::Obstacle};

/// Attempts by workload.
#[derive(Default)]
pub struct Attempts(BTreeMap<WorkloadId, Attempt>);

struct Attempt {
    /// For which document; none: it was to be stopped.
    digest: Option<Digest>,
    /// Whether its start is under way or done.
    applied: bool,
    /// Since when it is on its way up.
    starting: Option<Instant>,
    obstacle: Option<Obstacle>,
    retry_at: Option<Instant>,
    backoff: Backoff,
}

impl Attempt {
    fn new(digest: Option<Digest>) -> Self {
        Self { digest, applied: false, starting: None, obstacle: None, retry_at: None, backoff: retry::WORK }
    }
}

impl Attempts {
    /// A runtime shows it in this condition.
    pub fn seen(&mut self, id: &WorkloadId, digest: Digest, condition: &Condition, now: Instant) {
        let attempt = self.0.entry(id.clone()).or_insert_with(|| Attempt::new(Some(digest)));
        match condition {
            Condition::Running { .. } => attempt.starting = None,
            Condition::Starting | Condition::Failed { .. } => drop(attempt.starting.get_or_insert(now)),
        }
    }

    /// Its start is under way.
    pub fn applied(&mut self, id: &WorkloadId, digest: Digest, now: Instant) {
        self.0.insert(id.clone(), Attempt { applied: true, starting: Some(now), ..Attempt::new(Some(digest)) });
    }

    /// A runtime did not do as it was told: to run it for this document, or to stop it.
    pub fn failed(&mut self, id: &WorkloadId, digest: Option<Digest>, error: &RuntimeError, now: Instant) {
        let attempt = self.0.entry(id.clone()).or_insert_with(|| Attempt::new(digest));
        let (obstacle, retry_at) = match error {
            RuntimeError::Invalid(message) => {
                (Obstacle { code: "invalid", message: message.clone(), lasting: true }, None)
            }
            RuntimeError::Io { attempt: what, source } => {
                let message = format!("{what}: {source}");
                (Obstacle { code: "runtime", message, lasting: false }, Some(now + attempt.backoff.pause()))
            }
        };
        *attempt = Attempt { obstacle: Some(obstacle), retry_at, backoff: attempt.backoff, ..Attempt::new(digest) };
    }

    /// It is gone.
    pub fn forget(&mut self, id: &WorkloadId) {
        self.0.remove(id);
    }

    /// A new desired state: what was met with another document counts no more.
    pub fn retain(&mut self, wanted: &BTreeMap<&WorkloadId, &Digest>) {
        self.0.retain(|id, attempt| attempt.digest.is_some() && wanted.get(id).copied() == attempt.digest.as_ref());
    }

    /// Whether an attempt makes sense now.
    pub fn may_try(&self, id: &WorkloadId, now: Instant) -> bool {
        let Some(attempt) = self.0.get(id) else { return true };
        match &attempt.obstacle {
            Some(obstacle) if obstacle.lasting => false,
            _ => attempt.retry_at.is_none_or(|retry_at| retry_at <= now),
        }
    }

    /// What the last attempt met.
    pub fn obstacle(&self, id: &WorkloadId) -> Option<&Obstacle> {
        self.0.get(id)?.obstacle.as_ref()
    }

    /// Whether this life of the agent has started it.
    pub fn is_applied(&self, id: &WorkloadId) -> bool {
        self.0.get(id).is_some_and(|attempt| attempt.applied)
    }

    /// When its start has taken as long as its document grants (DEV-26).
    pub fn deadline(&self, id: &WorkloadId, timeout: Duration) -> Option<Instant> {
        Some(self.0.get(id)?.starting? + timeout)
    }

    /// Whether its start has taken longer than its document grants (DEV-26).
    pub fn is_overdue(&self, id: &WorkloadId, timeout: Option<Duration>, now: Instant) -> bool {
        timeout.and_then(|timeout| self.deadline(id, timeout)).is_some_and(|deadline| deadline <= now)
    }

    /// When to try again.
    pub fn retries(&self) -> impl Iterator<Item = Instant> {
        self.0.values().filter_map(|attempt| attempt.retry_at)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn id() -> WorkloadId {
        WorkloadId {
            deployment: "9db79949-86fb-5e45-910d-8a83dd7391cc".parse().unwrap(),
            component: "hello".parse().unwrap(),
        }
    }

    fn invalid() -> RuntimeError {
        RuntimeError::Invalid("no port".to_owned())
    }

    #[test]
    fn what_can_never_run_is_not_tried_again_before_its_document_changes() {
        let (now, digest) = (Instant::now(), Digest::of(b"one"));
        let mut attempts = Attempts::default();
        attempts.failed(&id(), Some(digest), &invalid(), now);
        assert!(!attempts.may_try(&id(), now + Duration::from_secs(3600)));
        attempts.retain(&BTreeMap::from([(&id(), &digest)]));
        assert!(!attempts.may_try(&id(), now));
        attempts.retain(&BTreeMap::from([(&id(), &Digest::of(b"two"))]));
        assert!(attempts.may_try(&id(), now));
    }

    #[test]
    fn what_failed_for_now_is_tried_again_later_and_later() {
        let mut now = Instant::now();
        let mut attempts = Attempts::default();
        let mut pauses = Vec::new();
        for _ in 0..4 {
            let error = RuntimeError::Io { attempt: "starting".to_owned(), source: io::Error::other("busy") };
            attempts.failed(&id(), Some(Digest::of(b"one")), &error, now);
            assert!(!attempts.may_try(&id(), now));
            let retry_at = attempts.retries().next().unwrap();
            pauses.push(retry_at - now);
            now = retry_at;
            assert!(attempts.may_try(&id(), now));
        }
        assert!(pauses.is_sorted(), "{pauses:?}");
        attempts.applied(&id(), Digest::of(b"one"), now);
        assert_eq!(attempts.obstacle(&id()), None);
    }

    #[test]
    fn dev_26_time_counts_from_the_start_until_it_runs() {
        let (now, digest) = (Instant::now(), Digest::of(b"one"));
        let timeout = Some(Duration::from_secs(10));
        let later = now + Duration::from_secs(11);
        let mut attempts = Attempts::default();
        attempts.applied(&id(), digest, now);
        attempts.seen(&id(), digest, &Condition::Starting, now + Duration::from_secs(5));
        assert!(!attempts.is_overdue(&id(), timeout, now + Duration::from_secs(9)));
        assert!(attempts.is_overdue(&id(), timeout, later));
        assert!(!attempts.is_overdue(&id(), None, later));
        attempts.seen(&id(), digest, &Condition::Running { endpoint: None }, later);
        assert!(!attempts.is_overdue(&id(), timeout, later));
    }
}
