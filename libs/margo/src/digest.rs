//! Content addresses: every document and every artifact is named by the sha256 of its bytes.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The sha256 of some bytes, written `sha256:` and 64 lower-case hex digits. There is no other algorithm, because
/// an unknown one makes a manifest invalid (DEV-15).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

/// The text is not a digest in the only form that is accepted. It holds the first 100 characters of the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("digest {0:?} is not valid: sha256: and 64 lower-case hex digits")]
pub struct InvalidDigest(String);

impl Digest {
    /// Computes the digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Takes a sha256 that was computed piece by piece elsewhere, for bytes that do not fit into memory.
    pub fn from_sha256(sum: [u8; 32]) -> Self {
        Self(sum)
    }

    /// Returns the sha256 itself.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the 64 hex digits without `sha256:`, as file names use them.
    pub fn hex(&self) -> String {
        self.with_hex(str::to_owned)
    }

    /// Shows the 64 digits without a string of their own: lists have hundreds of digests, and are written for each order.
    fn with_hex<T>(&self, show: impl FnOnce(&str) -> T) -> T {
        let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble)];
        let mut digits = [0; 64];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(self.0) {
            pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 0xf)]);
        }
        show(std::str::from_utf8(&digits).expect("these digits are ASCII"))
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(raw: &str) -> Result<Self, InvalidDigest> {
        let invalid = || InvalidDigest(raw.chars().take(100).collect());
        let hex = raw.strip_prefix("sha256:").ok_or_else(invalid)?.as_bytes();
        if hex.len() != 64 {
            return Err(invalid());
        }
        let nibble = |digit: u8| match digit {
            b'0'..=b'9' => Ok(digit - b'0'),
            b'a'..=b'f' => Ok(digit - b'a' + 10),
            _ => Err(invalid()),
        };
        let mut sum = [0; 32];
        for (byte, pair) in sum.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Ok(Self(sum))
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;

    fn try_from(raw: String) -> Result<Self, InvalidDigest> {
        raw.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.with_hex(|digits| f.write_str(digits))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dev_15_only_the_exact_grammar_is_a_digest() {
        let text = Digest::of(b"").to_string();
        assert_eq!(text, "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(text.parse::<Digest>().unwrap(), Digest::of(b""));
        for bad in
            ["", "sha256:", "sha512:00", &text.to_uppercase(), &format!(" {text}"), &format!("{text}0"), &text[..70]]
        {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }
}
