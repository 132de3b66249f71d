//! What was tried for each workload, in this life of the agent.

use std::{collections::BTreeMap, time::Duration};

use margo::{DeploymentId, Digest};
use process::{Backoff, chain};
use runtime::{Condition, RuntimeError, WorkloadId};
use tokio::time::Instant;

use crate::{retry, status::Obstacle};

/// The last attempt for each workload, and when the next one may come.
#[derive(Clone, Debug, Default)]
pub struct Attempts(BTreeMap<WorkloadId, Attempt>);

#[derive(Clone, Debug)]
struct Attempt {
    /// The document that was to run; `None` when the workload was to be stopped.
    digest: Option<Digest>,
    /// Whether it was prepared, beside what runs.
    prepared: bool,
    /// Whether the start is under way or done.
    applied: bool,
    /// When the workload began to be on its way up. A failure on the way does not begin the time anew (DEV-26).
    starting: Option<Instant>,
    obstacle: Option<Obstacle>,
    retry_at: Option<Instant>,
    backoff: Backoff,
}

impl Attempt {
    fn new(digest: Option<Digest>) -> Self {
        Self {
            digest,
            prepared: false,
            applied: false,
            starting: None,
            obstacle: None,
            retry_at: None,
            backoff: retry::WORK,
        }
    }
}

/// Why a step was not carried out.
#[derive(Debug)]
pub enum StepError {
    /// The runtime did not do as it was told.
    Runtime(RuntimeError),
    /// The call was given up at its deadline.
    Overdue {
        /// What was under way, such as `preparing`.
        what: &'static str,
        limit: Duration,
        /// What the runtime said last of its progress.
        progress: Option<String>,
    },
}

impl StepError {
    /// What happened, for people.
    pub fn message(&self) -> String {
        self.obstacle().message
    }

    fn obstacle(&self) -> Obstacle {
        match self {
            Self::Runtime(RuntimeError::Invalid(message)) => Obstacle::lasting("invalid", message),
            Self::Runtime(RuntimeError::Failed { code, message }) => Obstacle::failing(code.clone(), message),
            Self::Runtime(error @ (RuntimeError::Io { .. } | RuntimeError::Absent(_))) => {
                Obstacle::passing("runtime", chain(error))
            }
            Self::Overdue { what, limit, progress } => {
                let progress = progress.as_ref().map(|words| format!("; last: {words}")).unwrap_or_default();
                Obstacle::failing("timeout", format!("{what} did not end within {limit:?}{progress}"))
            }
        }
    }
}

impl Attempts {
    /// A runtime shows a workload of this document in this condition.
    pub fn seen(&mut self, id: &WorkloadId, digest: Digest, condition: &Condition, now: Instant) {
        let attempt = self.0.entry(id.clone()).or_insert_with(|| Attempt::new(Some(digest)));
        if attempt.digest != Some(digest) {
            // The old revision, while the next one is on its way.
            return;
        }
        match condition {
            Condition::Running { .. } | Condition::Completed => attempt.starting = None,
            Condition::Starting | Condition::Failed { .. } => drop(attempt.starting.get_or_insert(now)),
            Condition::Unknown { .. } => {}
        }
    }

    /// Work on a workload for this document begins, or goes on: it is fetched or started (DEV-26).
    pub fn begun(&mut self, id: &WorkloadId, digest: Digest, now: Instant) {
        let attempt = self.0.entry(id.clone()).or_insert_with(|| Attempt::new(Some(digest)));
        if attempt.digest != Some(digest) {
            *attempt = Attempt::new(Some(digest));
        }
        attempt.starting.get_or_insert(now);
    }

    /// Nothing can be done for a workload of this document until its content can be fetched. That time is not the
    /// document's to grant: a node is cut off from its site for days.
    pub fn waits(&mut self, id: &WorkloadId, digest: Digest) {
        if let Some(attempt) = self.0.get_mut(id).filter(|attempt| attempt.digest == Some(digest)) {
            attempt.starting = None;
        }
    }

    /// A workload for this document is prepared, beside what runs.
    pub fn prepared(&mut self, id: &WorkloadId, digest: Digest) {
        let starting = self.0.get(id).filter(|attempt| attempt.digest == Some(digest)).and_then(|it| it.starting);
        self.0.insert(id.clone(), Attempt { prepared: true, starting, ..Attempt::new(Some(digest)) });
    }

    /// Whether this life of the agent has prepared a workload for this document.
    pub fn is_prepared(&self, id: &WorkloadId, digest: Digest) -> bool {
        self.0.get(id).is_some_and(|attempt| attempt.digest == Some(digest) && attempt.prepared)
    }

    /// The start of a workload for this document is under way.
    pub fn applied(&mut self, id: &WorkloadId, digest: Digest, now: Instant) {
        let starting = self.0.get(id).filter(|attempt| attempt.digest == Some(digest)).and_then(|it| it.starting);
        let starting = Some(starting.unwrap_or(now));
        self.0.insert(id.clone(), Attempt { applied: true, starting, ..Attempt::new(Some(digest)) });
    }

    /// A step failed: to run a workload for this document, or to stop it.
    pub fn failed(&mut self, id: &WorkloadId, digest: Option<Digest>, error: &StepError, now: Instant) {
        let attempt = self.0.entry(id.clone()).or_insert_with(|| Attempt::new(digest));
        let obstacle = error.obstacle();
        let retry_at = (!obstacle.is_lasting()).then(|| now + attempt.backoff.pause());
        let starting = attempt.starting.filter(|_| attempt.digest == digest);
        *attempt =
            Attempt { obstacle: Some(obstacle), retry_at, backoff: attempt.backoff, starting, ..Attempt::new(digest) };
    }

    /// Forgets what was met with the workloads of a deployment, so that they are tried again at once.
    pub fn forget_obstacles(&mut self, deployment: &DeploymentId) {
        self.0.retain(|id, attempt| id.deployment != *deployment || attempt.obstacle.is_none());
    }

    /// Forgets a workload that was stopped.
    pub fn forget(&mut self, id: &WorkloadId) {
        self.0.remove(id);
    }

    /// A new desired state is in force: what was met with another document counts no more. Of deployments with another
    /// document, components that have not changed are tried again if they failed.
    pub fn retain(&mut self, wanted: &BTreeMap<&WorkloadId, &Digest>, same: impl Fn(&DeploymentId) -> bool) {
        self.0.retain(|id, attempt| {
            let is_wanted = attempt.digest.is_some() && wanted.get(id).copied() == attempt.digest.as_ref();
            is_wanted && (attempt.obstacle.is_none() || same(&id.deployment))
        });
    }

    /// Whether an attempt makes sense now.
    pub fn may_try(&self, id: &WorkloadId, now: Instant) -> bool {
        let Some(attempt) = self.0.get(id) else { return true };
        match &attempt.obstacle {
            Some(obstacle) if obstacle.is_lasting() => false,
            _ => attempt.retry_at.is_none_or(|retry_at| retry_at <= now),
        }
    }

    /// Returns what the last attempt met.
    pub fn obstacle(&self, id: &WorkloadId) -> Option<&Obstacle> {
        self.0.get(id)?.obstacle.as_ref()
    }

    /// Whether this life of the agent has started the workload.
    pub fn is_applied(&self, id: &WorkloadId) -> bool {
        self.0.get(id).is_some_and(|attempt| attempt.applied)
    }

    /// Returns when the start has taken as long as the document grants (DEV-26).
    pub fn deadline(&self, id: &WorkloadId, timeout: Duration) -> Option<Instant> {
        Some(self.0.get(id)?.starting? + timeout)
    }

    /// Whether the start has taken longer than the document grants (DEV-26).
    pub fn is_overdue(&self, id: &WorkloadId, timeout: Option<Duration>, now: Instant) -> bool {
        timeout.and_then(|timeout| self.deadline(id, timeout)).is_some_and(|deadline| deadline <= now)
    }

    /// Returns the times of all next attempts.
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

    fn invalid() -> StepError {
        StepError::Runtime(RuntimeError::Invalid("no port".to_owned()))
    }

    fn busy() -> StepError {
        StepError::Runtime(RuntimeError::Io { attempt: "starting".to_owned(), source: io::Error::other("busy") })
    }

    #[test]
    fn what_can_never_run_is_not_tried_again_before_its_document_changes() {
        let (now, digest) = (Instant::now(), Digest::of(b"one"));
        let mut attempts = Attempts::default();
        attempts.failed(&id(), Some(digest), &invalid(), now);
        assert!(!attempts.may_try(&id(), now + Duration::from_secs(3600)));
        attempts.retain(&BTreeMap::from([(&id(), &digest)]), |_| true);
        assert!(!attempts.may_try(&id(), now));
        let mut of_another_document = attempts.clone();
        of_another_document.retain(&BTreeMap::from([(&id(), &digest)]), |_| false);
        assert!(of_another_document.may_try(&id(), now));
        attempts.retain(&BTreeMap::from([(&id(), &Digest::of(b"two"))]), |_| true);
        assert!(attempts.may_try(&id(), now));
    }

    #[test]
    fn what_failed_for_now_is_tried_again_later_and_later() {
        let mut now = Instant::now();
        let mut attempts = Attempts::default();
        let mut pauses = Vec::new();
        for _ in 0..4 {
            attempts.failed(&id(), Some(Digest::of(b"one")), &busy(), now);
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
    fn a_deadline_that_came_says_what_was_under_way_and_is_tried_again() {
        let now = Instant::now();
        let mut attempts = Attempts::default();
        let progress = Some("loading image 2 of 3".to_owned());
        let overdue = StepError::Overdue { what: "preparing", limit: Duration::from_secs(5), progress };
        attempts.failed(&id(), Some(Digest::of(b"one")), &overdue, now);
        let obstacle = attempts.obstacle(&id()).unwrap();
        assert_eq!((&*obstacle.code, obstacle.is_lasting()), ("timeout", false));
        assert_eq!(obstacle.message, "preparing did not end within 5s; last: loading image 2 of 3");
        assert!(attempts.retries().next().is_some());
    }

    #[test]
    fn dev_26_time_counts_from_the_start_until_it_runs() {
        let (now, digest) = (Instant::now(), Digest::of(b"one"));
        let timeout = Some(Duration::from_secs(10));
        let later = now + Duration::from_secs(11);
        let mut attempts = Attempts::default();
        attempts.begun(&id(), digest, now);
        attempts.failed(&id(), Some(digest), &busy(), now + Duration::from_secs(1));
        assert!(attempts.is_overdue(&id(), timeout, later), "a failure on the way does not begin the time anew");
        attempts.applied(&id(), digest, now + Duration::from_secs(2));
        attempts.seen(&id(), digest, &Condition::Starting, now + Duration::from_secs(5));
        attempts.seen(&id(), Digest::of(b"zero"), &Condition::Running { endpoint: None }, now);
        assert!(!attempts.is_overdue(&id(), timeout, now + Duration::from_secs(9)));
        assert!(attempts.is_overdue(&id(), timeout, later));
        assert!(!attempts.is_overdue(&id(), None, later));
        let mut cut_off = attempts.clone();
        cut_off.waits(&id(), digest);
        assert!(!cut_off.is_overdue(&id(), timeout, later), "nobody can fetch what the site does not give");
        attempts.seen(&id(), digest, &Condition::Running { endpoint: None }, later);
        assert!(!attempts.is_overdue(&id(), timeout, later));
    }
}
