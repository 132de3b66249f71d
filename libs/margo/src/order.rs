//! Orders: what an order is called, and how often an assignment has changed.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The id of an order, a UUID of version 7: it begins with the time, so ids sort roughly as the orders came. It stands in
/// the commit, in the trace and in the answer to who ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OrderId(Uuid);

impl OrderId {
    /// Makes the id of a new order. Within one process, a later call yields a greater id.
    #[expect(clippy::new_without_default, reason = "two ids are never the same, so there is no default one")]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }
}

/// A text that is no id of an order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("order id {0:?} is not valid: a UUID in its form of 36 characters")]
pub struct InvalidOrderId(String);

impl FromStr for OrderId {
    type Err = InvalidOrderId;

    fn from_str(raw: &str) -> Result<Self, InvalidOrderId> {
        let invalid = || InvalidOrderId(raw.chars().take(100).collect());
        if raw.len() != 36 {
            return Err(invalid());
        }
        Uuid::try_parse(raw).map(Self).map_err(|_| invalid())
    }
}

impl TryFrom<String> for OrderId {
    type Error = InvalidOrderId;

    fn try_from(raw: String) -> Result<Self, InvalidOrderId> {
        raw.parse()
    }
}

impl From<OrderId> for String {
    fn from(id: OrderId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How often an assignment has changed: 1 when it is created, and one more with every order that changes what is meant.
/// Who changes it names the revision that the change was decided on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(u64);

impl Revision {
    /// The revision of a new assignment.
    pub const FIRST: Self = Self(1);

    /// The revision with this number, as a person or a table names it.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number of this revision.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The revision after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_has_one_form_and_later_ones_are_greater() {
        let (first, second) = (OrderId::new(), OrderId::new());
        assert!(first < second);
        assert_eq!(first.to_string().parse(), Ok(first));
        for bad in ["", "0198c0de", "{0198c0de-0000-7000-8000-000000000000}", "0198c0de000070008000000000000000"] {
            assert!(bad.parse::<OrderId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn revisions_count_from_one() {
        assert_eq!(Revision::FIRST.next(), Revision::new(2));
        assert!(Revision::FIRST < Revision::FIRST.next());
    }
}
