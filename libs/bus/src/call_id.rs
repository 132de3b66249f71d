//! The names of calls.

use std::{fmt, str::FromStr};

use crate::InvalidSubject;

/// The name of a call: 32 of `0-9` and `a-f`, one token of a subject. It is chosen at random, and whoever does not know it can
/// put nothing into the answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(String);

impl CallId {
    /// Makes a new name.
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4().simple().to_string())
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for CallId {
    type Err = InvalidSubject;

    fn from_str(raw: &str) -> Result<Self, InvalidSubject> {
        let valid = raw.len() == 32 && raw.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if valid { Ok(Self(raw.to_owned())) } else { Err(InvalidSubject::of(raw)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_call_is_one_token() {
        let id = CallId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "*", ">", &"A".repeat(32), &"a".repeat(31), &"a".repeat(33), "a.b"] {
            assert!(bad.parse::<CallId>().is_err(), "{bad}");
        }
    }
}
