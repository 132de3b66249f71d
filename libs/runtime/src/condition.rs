//! What a runtime reports about a workload.

use std::collections::BTreeSet;

use margo::Digest;

use crate::WorkloadId;

/// How a workload, or a part of one, is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It ended by itself with success and is not to be started again: a Job of Helm, a Compose service that only sets
    /// something up.
    Completed,
    /// It is up: its tool or its own health check says so.
    Running {
        /// Where it answers, such as `http://192.0.2.7:8080/`; `None` when it does not listen.
        endpoint: Option<String>,
    },
    /// It is on its way up.
    Starting,
    /// The runtime cannot tell, while it can tell about others: a container whose engine does not answer for it.
    Unknown {
        /// What stands in the way, for people.
        reason: String,
    },
    /// It ended or could not start. The runtime starts it again, with growing pauses, until it is told otherwise.
    Failed {
        /// A stable word for the kind of failure, such as `exited`.
        code: String,
        /// The reason in words for people.
        message: String,
    },
}

impl Condition {
    /// How much this condition says about the whole when several parts differ: the highest decides.
    fn severity(&self) -> u8 {
        match self {
            Self::Completed => 0,
            Self::Running { .. } => 1,
            Self::Starting => 2,
            Self::Unknown { .. } => 3,
            Self::Failed { .. } => 4,
        }
    }

    /// Whether the workload is as ordered: it runs, or it has done what it was to do. A component that waits for this one
    /// may then start (DEV-26).
    pub fn is_up(&self) -> bool {
        matches!(self, Self::Running { .. } | Self::Completed)
    }
}

/// One of several things that make up a workload: a container of Compose, a Deployment or Job of Helm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The name that the runtime knows it by, unique in the workload.
    pub name: String,
    /// How the part is, and where it answers.
    pub condition: Condition,
}

/// What a runtime reports about one workload, whether this agent or an earlier one started it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The component and its deployment.
    pub id: WorkloadId,
    /// The digest with which the workload was applied.
    pub digest: Digest,
    /// How the workload is as a whole.
    pub condition: Condition,
    /// What the workload is made of; empty when it is one thing, as in wasm.
    pub parts: Vec<Part>,
    /// How often the runtime had to start the workload again since it was applied.
    pub restarts: u32,
    /// The ports of the host that the workload holds.
    pub ports: BTreeSet<u16>,
}

impl Observed {
    /// A workload that is one thing, with no restarts and no ports.
    pub fn whole(id: WorkloadId, digest: Digest, condition: Condition) -> Self {
        Self { id, digest, condition, parts: Vec::new(), restarts: 0, ports: BTreeSet::new() }
    }

    /// A workload of several parts, which is as its worst part is. Without parts it is on its way up.
    pub fn of_parts(id: WorkloadId, digest: Digest, parts: Vec<Part>) -> Self {
        let worst = parts.iter().map(|part| &part.condition).max_by_key(|condition| condition.severity());
        let condition = worst.cloned().unwrap_or(Condition::Starting);
        Self { parts, ..Self::whole(id, digest, condition) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_part_decides_and_a_job_that_is_done_does_not_end_the_workload() {
        let id = WorkloadId {
            deployment: "9db79949-86fb-5e45-910d-8a83dd7391cc".parse().unwrap(),
            component: "shop".parse().unwrap(),
        };
        let whole = |conditions: &[Condition]| {
            let part =
                |(at, condition): (usize, &Condition)| Part { name: at.to_string(), condition: condition.clone() };
            let parts = conditions.iter().enumerate().map(part).collect();
            Observed::of_parts(id.clone(), Digest::of(b"document"), parts).condition
        };
        let running = Condition::Running { endpoint: None };
        let failed = Condition::Failed { code: "exited".to_owned(), message: String::new() };
        let unknown = Condition::Unknown { reason: String::new() };
        assert_eq!(whole(&[]), Condition::Starting);
        assert_eq!(whole(&[Condition::Completed, Condition::Completed]), Condition::Completed);
        assert_eq!(whole(&[running.clone(), Condition::Completed]), running);
        assert_eq!(whole(&[running.clone(), Condition::Starting]), Condition::Starting);
        assert_eq!(whole(&[unknown.clone(), running.clone()]), unknown);
        assert_eq!(whole(&[failed.clone(), unknown, running]), failed);
    }
}
