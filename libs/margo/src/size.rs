//! A number of bytes as people write it: `64Mi`.

use std::{cmp::Ordering, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The units with their powers of two.
const KI: (&str, u32) = ("Ki", 10);
const MI: (&str, u32) = ("Mi", 20);
const GI: (&str, u32) = ("Gi", 30);
const UNITS: [(&str, u32); 6] = [KI, MI, GI, ("Ti", 40), ("Pi", 50), ("Ei", 60)];

/// A number of bytes, written as a whole number with `Ki`, `Mi`, `Gi`, `Ti`, `Pi` or `Ei`, so that `64Mi` is 67,108,864. It is written in the
/// unit in which it was read, because documents travel on as they came; sizes of the same number of bytes are equal.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size {
    bytes: u64,
    /// One of [`UNITS`].
    unit: (&'static str, u32),
}

/// A text that is no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} must be a whole number with a unit from Ki to Ei, such as 64Mi")]
pub struct InvalidSize(String);

impl Size {
    /// Returns the size of so many whole KiB; what is left over counts as one more.
    pub const fn of(bytes: u64) -> Self {
        let bytes = bytes.div_ceil(1 << 10) << 10;
        let unit = match bytes.trailing_zeros() {
            _ if bytes == 0 => KI,
            30.. => GI,
            20.. => MI,
            _ => KI,
        };
        Self { bytes, unit }
    }

    /// Returns the size of so many MiB.
    pub const fn mebibytes(number: u32) -> Self {
        Self::of((number as u64) << 20)
    }

    /// Tells whether it is written in a unit that amounts of memory may have: `Ki`, `Mi` or `Gi`.
    pub fn is_of_memory(self) -> bool {
        self.unit.1 <= GI.1
    }

    /// Returns the number of bytes.
    pub fn bytes(self) -> u64 {
        self.bytes
    }
}

impl PartialEq for Size {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Size {}

impl PartialOrd for Size {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Size {
    fn cmp(&self, other: &Self) -> Ordering {
        self.bytes.cmp(&other.bytes)
    }
}

impl FromStr for Size {
    type Err = InvalidSize;

    fn from_str(text: &str) -> Result<Self, InvalidSize> {
        let size = || {
            let (number, unit) = UNITS.iter().find_map(|unit| Some((text.strip_suffix(unit.0)?, *unit)))?;
            // `parse` alone would take a sign.
            let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
            let bytes = number.parse::<u64>().ok().filter(|_| digits)?.checked_mul(1 << unit.1)?;
            Some(Self { bytes, unit })
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
        let (unit, shift) = self.unit;
        write!(f, "{}{unit}", self.bytes >> shift)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_written_as_it_was_read() {
        for (text, bytes) in [
            ("1Ki", 1 << 10),
            ("64Mi", 64 << 20),
            ("3Gi", 3 << 30),
            ("0Ki", 0),
            ("0Gi", 0),
            ("1024Ki", 1 << 20),
            ("1025Ki", 1025 << 10),
            ("2Ti", 2 << 40),
            ("3Pi", 3 << 50),
            ("15Ei", 15 << 60),
        ] {
            let size: Size = text.parse().unwrap();
            assert_eq!((size.bytes(), size.to_string()), (bytes, text.to_owned()));
        }
    }

    #[test]
    fn a_size_of_our_own_is_written_in_the_largest_unit_that_holds_it() {
        for (size, text) in [
            (Size::of(0), "0Ki"),
            (Size::of(1), "1Ki"),
            (Size::of(64 << 10), "64Ki"),
            (Size::of(4 << 30), "4Gi"),
            (Size::mebibytes(64), "64Mi"),
            (Size::mebibytes(2 << 10), "2Gi"),
        ] {
            assert_eq!(size.to_string(), text);
        }
    }

    #[test]
    fn sizes_are_compared_by_their_bytes() {
        let size = |text: &str| text.parse::<Size>().unwrap();
        assert_eq!(size("1024Ki"), size("1Mi"));
        assert!(size("1023Mi") < size("1Gi") && size("2Gi") > size("2047Mi"));
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "64", "64MB", "64mi", "+1Mi", "-1Mi", "1.5Gi", " 1Mi", "Mi", "99999999999999999Gi", "16Ei"] {
            assert!(text.parse::<Size>().is_err(), "{text:?}");
        }
    }
}
