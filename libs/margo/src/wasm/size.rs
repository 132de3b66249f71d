//! A number of bytes as people write it: `64Mi`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

const UNITS: [(&str, u32); 3] = [("Gi", 30), ("Mi", 20), ("Ki", 10)];

/// A number of bytes, written as a whole number with `Ki`, `Mi` or `Gi`. So `64Mi` is 67,108,864.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size(u64);

/// A text that is no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} must be a whole number with Ki, Mi or Gi, such as 64Mi")]
pub struct InvalidSize(String);

impl Size {
    /// Returns the size of so many whole KiB; what is left over counts as one more.
    pub const fn of(bytes: u64) -> Self {
        Self(bytes.div_ceil(1 << 10) << 10)
    }

    /// Returns the size of so many MiB.
    pub const fn mebibytes(number: u32) -> Self {
        Self((number as u64) << 20)
    }

    /// Returns the number of bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Size {
    type Err = InvalidSize;

    fn from_str(text: &str) -> Result<Self, InvalidSize> {
        let size = || {
            let (number, shift) = UNITS.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)))?;
            // `parse` alone would take a sign.
            let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
            number.parse::<u64>().ok().filter(|_| digits)?.checked_mul(1 << shift).map(Self)
        };
        size().ok_or_else(|| InvalidSize(text.chars().take(40).collect()))
    }
}

impl TryFrom<String> for Size {
    type Error = InvalidSize;

    fn try_from(text: String) -> Result<Self, InvalidSize> {
        text.parse()
    }
}

impl From<Size> for String {
    fn from(size: Size) -> Self {
        size.to_string()
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |(_, shift): &&(&str, u32)| self.0.trailing_zeros() >= *shift && self.0 > 0;
        let (unit, shift) = UNITS.iter().find(whole).copied().unwrap_or(("Ki", 10));
        write!(f, "{}{unit}", self.0 >> shift)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_written_as_it_was_read() {
        for (text, bytes) in
            [("1Ki", 1 << 10), ("64Mi", 64 << 20), ("3Gi", 3 << 30), ("0Ki", 0), ("1025Ki", 1025 << 10)]
        {
            let size: Size = text.parse().unwrap();
            assert_eq!((size.bytes(), size.to_string()), (bytes, text.to_owned()));
        }
        assert_eq!(Size::of(1).to_string(), "1Ki");
        assert_eq!("1024Ki".parse::<Size>().unwrap().to_string(), "1Mi");
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "64", "64MB", "64mi", "+1Mi", "-1Mi", "1.5Gi", " 1Mi", "Mi", "99999999999999999Gi"] {
            assert!(text.parse::<Size>().is_err(), "{text:?}");
        }
    }
}
