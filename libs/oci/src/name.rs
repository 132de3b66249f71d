//! Names of OCI repositories, and tags in them.

use std::{fmt, str::FromStr};

use margo::ComponentProperties;
use serde::{Deserialize, Serialize};

/// The prefix of repositories in the platform's own store. Every tier resolves it to the store that it reads from.
pub const PLATFORM: &str = "oci://edgewright.local/";

/// The text is no repository name, or no reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReference {
    /// The name breaks the grammar of OCI Distribution. It holds the first 255 characters of the name.
    #[error(
        "repository name {0:?} is not valid: at most 255 of a-z, 0-9 and / with . _ - between them, \
         beginning and ending with a letter or digit"
    )]
    Name(String),
    /// The text is not a name, a colon and a tag. It holds the first 400 characters of the text.
    #[error("reference {0:?} is not valid: a repository name, a colon and a tag")]
    Reference(String),
    /// The repository is in another registry than the platform's store.
    #[error("{0:?} must be {PLATFORM}<name>: this release serves components that were uploaded with the application")]
    Foreign(String),
}

/// The name of a repository, by the grammar of OCI Distribution. Each of its segments is a safe name for a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RepositoryName(String);

impl RepositoryName {
    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the name that follows `oci://edgewright.local/`. It fails for repositories of other registries.
    pub fn of_platform(repository: &str) -> Result<Self, InvalidReference> {
        let name = repository.strip_prefix(PLATFORM);
        name.ok_or_else(|| InvalidReference::Foreign(repository.to_owned()))?.parse()
    }
}

/// Tells whether the text is one segment of a name: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn is_segment(raw: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let separates = |separator: &str| {
        matches!(separator, "." | "_" | "__") || (!separator.is_empty() && separator.bytes().all(|b| b == b'-'))
    };
    let ends = |b: Option<&u8>| b.copied().is_some_and(alphanumeric);
    ends(raw.as_bytes().first())
        && ends(raw.as_bytes().last())
        && raw
            .split(|c: char| c.is_ascii() && alphanumeric(c as u8))
            .filter(|between| !between.is_empty())
            .all(separates)
}

impl FromStr for RepositoryName {
    type Err = InvalidReference;

    fn from_str(raw: &str) -> Result<Self, InvalidReference> {
        if raw.len() > 255 || !raw.split('/').all(is_segment) {
            return Err(InvalidReference::Name(raw.chars().take(255).collect()));
        }
        Ok(Self(raw.to_owned()))
    }
}

impl TryFrom<String> for RepositoryName {
    type Error = InvalidReference;

    fn try_from(raw: String) -> Result<Self, InvalidReference> {
        raw.parse()
    }
}

impl From<RepositoryName> for String {
    fn from(name: RepositoryName) -> String {
        name.0
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A manifest by name and tag, written `name:tag` as image layouts do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// The repository that the manifest is in.
    pub name: RepositoryName,
    /// The tag, which names one version in the repository.
    pub tag: String,
}

impl Reference {
    /// Returns the name and tag under which the artifact of a component is in the platform's store.
    pub fn of_component(properties: &ComponentProperties) -> Result<Self, InvalidReference> {
        let name = RepositoryName::of_platform(&properties.repository)?;
        Ok(Self { name, tag: properties.revision.clone() })
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(raw: &str) -> Result<Self, InvalidReference> {
        let invalid = || InvalidReference::Reference(raw.chars().take(400).collect());
        let (name, tag) = raw.split_once(':').ok_or_else(invalid)?;
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        if !(1..=128).contains(&tag.len()) || !tag.bytes().all(allowed) || tag.starts_with(['.', '-']) {
            return Err(invalid());
        }
        Ok(Self { name: name.parse()?, tag: tag.to_owned() })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_safe_folder() {
        for good in ["hello", "a/b/c", "a.b_c__d--e", "0", &"x".repeat(255)] {
            assert_eq!(good.parse::<RepositoryName>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "..",
            "a/../b",
            "a..b",
            "a___b",
            "_a",
            "a_",
            "A",
            "ä",
            "a b",
            &"x".repeat(256),
        ] {
            assert!(bad.parse::<RepositoryName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_component_is_found_by_repository_and_revision() {
        let properties = |repository: &str| ComponentProperties {
            repository: repository.to_owned(),
            revision: "1.0.0".to_owned(),
            wait: None,
            timeout: None,
        };
        let reference = Reference::of_component(&properties("oci://edgewright.local/hello")).unwrap();
        assert_eq!(reference.to_string(), "hello:1.0.0");
        assert_eq!("hello:1.0.0".parse(), Ok(reference));
        assert!(matches!(
            Reference::of_component(&properties("oci://ghcr.io/hello")),
            Err(InvalidReference::Foreign(_))
        ));
        for bad in ["hello", "hello:", "hello:.1", "hello:a/b", ":1"] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
    }
}
