//! Names of OCI repositories, the registries that they are in, and tags in them.

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
    /// The text is no registry. It holds the first 255 characters of the text.
    #[error(
        "registry {0:?} is not valid: a host name or an IPv4 address in lower case, and perhaps a colon and a port"
    )]
    Registry(String),
    /// The text does not begin with `oci://`. It holds the first 400 characters of the text.
    #[error("{0:?} is no repository: oci://, a registry, a slash and a name")]
    Location(String),
}

/// How a checked text is read from a document, written into one and shown.
macro_rules! text {
    ($type:ident) => {
        impl TryFrom<String> for $type {
            type Error = InvalidReference;

            fn try_from(raw: String) -> Result<Self, InvalidReference> {
                raw.parse()
            }
        }

        impl From<$type> for String {
            fn from(checked: $type) -> String {
                checked.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
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

text!(RepositoryName);

/// A registry by its host name or IPv4 address, with its port where that is not the usual one of HTTPS.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Registry(String);

impl Registry {
    /// Returns host and port as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the beginning of the names that this registry's repositories have in the store of a site. Names of hosts
    /// have no `_`, so the registry can be told from it.
    fn at_site(&self) -> String {
        format!("{}/", self.0.replace(':', "_"))
    }
}

impl FromStr for Registry {
    type Err = InvalidReference;

    fn from_str(raw: &str) -> Result<Self, InvalidReference> {
        let (host, port) = raw.split_once(':').map_or((raw, None), |(host, port)| (host, Some(port)));
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let is_port = |port: &str| port.parse::<u16>().is_ok_and(|number| number != 0 && number.to_string() == port);
        if raw.len() > 200 || !host.split('.').all(is_label) || !port.is_none_or(is_port) {
            return Err(InvalidReference::Registry(raw.chars().take(255).collect()));
        }
        Ok(Self(raw.to_owned()))
    }
}

text!(Registry);

/// Where a repository is: in the platform's own store, or in another registry.
///
/// ```
/// use oci::Location;
///
/// let foreign: Location = "oci://registry.example:5000/factory/press".parse()?;
/// assert_eq!(foreign.name_at_site()?.as_str(), "registry.example_5000/factory/press");
/// let own: Location = "oci://edgewright.local/hello".parse()?;
/// assert_eq!((own.registry.as_ref(), own.name_at_site()?.as_str()), (None, "hello"));
/// # Ok::<(), oci::InvalidReference>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// The registry; `None` means the platform's own store.
    pub registry: Option<Registry>,
    /// The name of the repository there.
    pub name: RepositoryName,
}

impl Location {
    /// Returns the name under which the repository is in the store of a site, where nodes read it: that of the
    /// platform's own as it is, any other behind its registry. It fails when that is longer than a name may be.
    pub fn name_at_site(&self) -> Result<RepositoryName, InvalidReference> {
        match &self.registry {
            None => Ok(self.name.clone()),
            Some(registry) => format!("{}{}", registry.at_site(), self.name).parse(),
        }
    }

    /// Returns the repository that has this name in the store of a site and is in this registry. It fails when the name
    /// is of another registry.
    pub fn of_site(name: &RepositoryName, registry: Option<Registry>) -> Result<Self, InvalidReference> {
        let name = match &registry {
            None => name.clone(),
            Some(registry) => {
                let rest = name.as_str().strip_prefix(&registry.at_site());
                rest.ok_or_else(|| InvalidReference::Name(name.to_string()))?.parse()?
            }
        };
        Ok(Self { registry, name })
    }
}

impl FromStr for Location {
    type Err = InvalidReference;

    fn from_str(raw: &str) -> Result<Self, InvalidReference> {
        if let Some(name) = raw.strip_prefix(PLATFORM) {
            return Ok(Self { registry: None, name: name.parse()? });
        }
        let invalid = || InvalidReference::Location(raw.chars().take(400).collect());
        let (registry, name) = raw.strip_prefix("oci://").and_then(|rest| rest.split_once('/')).ok_or_else(invalid)?;
        Ok(Self { registry: Some(registry.parse()?), name: name.parse()? })
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
    fn a_registry_is_a_host_and_perhaps_a_port() {
        for good in ["registry.example", "localhost:5000", "192.0.2.1:1", "a-b.c", "x"] {
            assert_eq!(good.parse::<Registry>().unwrap().as_str(), good);
        }
        for bad in ["", "a..b", "a_b", "A.b", "-a", "a:", "a:0", "a:05", "a:65536", "[::1]:5", "u@a", "a/b", "a:1:2"] {
            assert!(bad.parse::<Registry>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_repository_has_a_name_of_its_own_at_the_site_and_is_found_by_it() {
        for (location, at_site) in [
            ("oci://edgewright.local/a/b", "a/b"),
            ("oci://localhost:5000/a/b", "localhost_5000/a/b"),
            ("oci://registry.example/a", "registry.example/a"),
        ] {
            let location: Location = location.parse().unwrap();
            let name = location.name_at_site().unwrap();
            assert_eq!(name.as_str(), at_site);
            assert_eq!(Location::of_site(&name, location.registry.clone()), Ok(location));
        }
        let (name, registry) = ("other.example/a".parse().unwrap(), "registry.example".parse().unwrap());
        assert!(Location::of_site(&name, Some(registry)).is_err());
        for bad in ["https://registry.example/a", "oci://registry.example", "oci:///a", "oci://a/", "oci://a/B", "a/b"]
        {
            assert!(bad.parse::<Location>().is_err(), "{bad}");
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
