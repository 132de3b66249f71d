//! Platforms: the system and the processor that an image is made for.

use std::{
    env::consts::{ARCH, OS},
    fmt,
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// The text is no platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no platform: a system, an architecture and perhaps a variant, such as linux/arm/v7")]
pub struct InvalidPlatform(String);

/// The system and the processor that an image is made for, in the words of Go as everywhere in OCI. It is written
/// `linux/amd64` or, with a variant, `linux/arm/v7`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// The processor's architecture, such as `amd64` or `arm64`.
    pub architecture: String,
    /// The operating system, such as `linux`.
    pub os: String,
    /// The variant of the architecture, such as `v7`. Without one the architecture's usual variant is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// Returns the platform that this program was compiled for.
    pub fn host() -> Self {
        let architecture = match ARCH {
            "x86_64" => "amd64",
            "x86" => "386",
            "aarch64" => "arm64",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Self { architecture: architecture.to_owned(), os: OS.to_owned(), variant: None }
    }

    /// Returns the number of the variant. Each variant executes what was made for those below it.
    fn generation(&self) -> Option<u32> {
        match (self.variant.as_deref(), self.architecture.as_str()) {
            (None | Some(""), "arm") => Some(7),
            (None | Some(""), "arm64") => Some(8),
            (None | Some(""), _) => Some(1),
            (Some(variant), _) => variant.strip_prefix('v')?.parse().ok(),
        }
    }

    /// Tells how well an image for the other platform suits this one; more is better. Returns `None` for an image that
    /// this platform cannot execute.
    pub(crate) fn suitability(&self, image: &Self) -> Option<u32> {
        let same = self.os == image.os && self.architecture == image.architecture;
        let (own, other) = (self.generation()?, image.generation()?);
        (same && other <= own).then_some(other)
    }
}

impl FromStr for Platform {
    type Err = InvalidPlatform;

    fn from_str(raw: &str) -> Result<Self, InvalidPlatform> {
        let invalid = || InvalidPlatform(raw.chars().take(100).collect());
        let parts: Vec<_> = raw.split('/').collect();
        let is_word = |part: &&str| {
            (1..=32).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        if !(2..=3).contains(&parts.len()) || !parts.iter().all(is_word) {
            return Err(invalid());
        }
        let platform = Self {
            os: parts[0].to_owned(),
            architecture: parts[1].to_owned(),
            variant: parts.get(2).map(|variant| (*variant).to_owned()),
        };
        if platform.generation().is_none() { Err(invalid()) } else { Ok(platform) }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_is_two_or_three_words() {
        for good in ["linux/amd64", "linux/arm/v7", "windows/amd64", "linux/386"] {
            assert_eq!(good.parse::<Platform>().unwrap().to_string(), good);
        }
        for bad in ["", "linux", "linux/", "/amd64", "linux/arm/7", "linux/arm/v7/x", "Linux/amd64", "a b/c"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
        assert_eq!(Platform::host().to_string().parse(), Ok(Platform::host()));
    }
}
