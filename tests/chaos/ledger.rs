//! What was ordered and what was answered: the promises that the platform has to keep.

use std::collections::BTreeSet;

/// One order as a client sent it, with the answer that the client got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Different for every order that is ever sent. It goes along as the order's reason, so Git and the interface show it.
    pub reason: String,
    /// The name of the assignment that it is about.
    pub assignment: String,
    /// What the client wants of the assignment.
    pub wish: Wish,
    /// Whether a rule forbids it, so that it may never be accepted.
    pub forbidden: bool,
    /// What the client knows of its outcome.
    pub answer: Answer,
}

/// What an order asks of its assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    Create(Content),
    /// `from` is the revision that `If-Match` names; `None`: there was no `If-Match`.
    Update {
        from: Option<u64>,
        to: Content,
    },
    Remove {
        from: u64,
    },
}

/// What an assignment means after an order: which application runs where, and what it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    pub app: &'static str,
    pub version: &'static str,
    /// What the application shall answer; different for every order.
    pub greeting: String,
    /// `site/node` of each target. Later targets are added to earlier ones.
    pub nodes: BTreeSet<String>,
}

/// What a client knows of its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 202: it stands and will be carried out.
    Accepted {
        order: String,
        /// The revision that it made.
        revision: u64,
    },
    /// It was refused with this status: nothing of it may be left.
    Refused(u16),
    /// There was no connection to send it over: nothing of it may be left.
    NotSent,
    /// It may stand or not, for this reason: the connection was lost before the answer, or the answer leaves it open.
    Unknown(String),
}
