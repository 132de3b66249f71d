//! All that a campaign is judged by, as data.
//!
//! The interface's answers have types of their own here: they hold what the published JSON says, and would not notice a
//! field that our own types rename.

use std::collections::{BTreeMap, BTreeSet};

use end_to_end::Start;
use serde::Deserialize;

use crate::ledger::Sent;

/// What was promised and what there is.
#[derive(Clone, Debug)]
pub struct Evidence {
    pub ledger: Vec<Sent>,
    pub fleet: Repository,
    pub sites: BTreeMap<String, Site>,
    pub interface: Interface,
    /// The nodes by their names, `site/node`.
    pub nodes: BTreeMap<String, Node>,
    /// What happened while processes were killed.
    pub witnessed: Witnessed,
}

/// A site at the end.
#[derive(Clone, Debug)]
pub struct Site {
    /// The repository that holds its desired state.
    pub repository: Repository,
    /// The manifest version that the site says it has put in force.
    pub in_force: Option<u64>,
}

/// A repository as stock git reads it.
#[derive(Clone, Debug, Default)]
pub struct Repository {
    /// The commits of its branch that carry out orders about assignments, oldest first.
    pub commits: Vec<Commit>,
    /// The files of its newest commit, by path.
    pub files: BTreeMap<String, Vec<u8>>,
    /// What `git fsck --strict` complains of.
    pub unsound: Option<String>,
}

/// The trailers of a commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    pub order: String,
    pub assignment: String,
    pub reason: String,
}

/// What the hub's REST interface answers.
#[derive(Clone, Debug, Default)]
pub struct Interface {
    pub assignments: Vec<Assignment>,
    /// The newest thousand orders; the interface shows no more.
    pub orders: Vec<Order>,
    pub deployments: Vec<Deployment>,
}

/// An entry of `GET /assignments`.
#[derive(Clone, Debug, Deserialize)]
pub struct Assignment {
    pub name: String,
    pub revision: u64,
    pub state: String,
    pub parameters: BTreeMap<String, String>,
}

/// An entry of `GET /orders`.
#[derive(Clone, Debug, Deserialize)]
pub struct Order {
    pub id: String,
    pub assignment: String,
    pub revision: u64,
    #[serde(default)]
    pub reason: String,
    pub committed: bool,
}

/// An entry of `GET /deployments`.
#[derive(Clone, Debug, Deserialize)]
pub struct Deployment {
    pub id: String,
    pub assignment: String,
    pub node: String,
    /// Of the document that is wanted; `None` when it is to be removed.
    pub digest: Option<String>,
    pub state: String,
}

/// A node at the end.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// What answers on each port that an application may have; `None` when nothing listens.
    pub answers: BTreeMap<u16, Option<String>>,
    /// The runners of the node that live at the end.
    pub runners: Vec<LivingRunner>,
    /// Every start that was noted for a workload that the node still has; those of one workload in their order.
    pub starts: Vec<Start>,
}

/// A runner, with the deployment in whose folder it works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LivingRunner {
    pub deployment: String,
    pub process: ProcessKey,
}

/// A process id and the kernel's start time: together they name one process for ever.
pub type ProcessKey = (i32, u64);

/// What can only be seen while it happens.
#[derive(Clone, Debug, Default)]
pub struct Witnessed {
    /// The runners that the campaign has killed.
    pub killed_runners: BTreeSet<ProcessKey>,
    /// Folders of workloads in which two runners lived at the same moment, with both.
    pub doubles: BTreeMap<String, (ProcessKey, ProcessKey)>,
    /// Processes of the platform that ended without being killed, and how.
    pub ended: Vec<(String, String)>,
}
