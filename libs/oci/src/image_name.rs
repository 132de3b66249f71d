//! Names of container images as Compose files and Docker write them.

use std::{net::IpAddr, str::FromStr};

use margo::Digest;

use crate::{InvalidReference, Location, Registry, RepositoryName};

/// The registry that is meant where a name has none.
const DOCKER: &str = "docker.io";

/// The name of an image, such as `web`, `ghcr.io/acme/web:1.2` or `localhost:5000/web@sha256:…`.
///
/// ```
/// use oci::ImageName;
///
/// let short: ImageName = "web".parse()?;
/// assert_eq!((short.registry.as_str(), short.name.as_str(), short.tag.as_str()), ("docker.io", "library/web", "latest"));
/// let long: ImageName = "ghcr.io/acme/web:1.2".parse()?;
/// assert_eq!((long.url(), long.tag.as_str()), ("https://ghcr.io".to_owned(), "1.2"));
/// # Ok::<(), oci::InvalidReference>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageName {
    /// The registry; `docker.io` where the name has none.
    pub registry: Registry,
    /// The repository, with the folder `library/` that short names leave out.
    pub name: RepositoryName,
    /// The tag; `latest` where the name has neither tag nor digest, and empty where it has a digest alone.
    pub tag: String,
    /// The digest of the manifest or the index, where the name has one.
    pub digest: Option<Digest>,
}

impl FromStr for ImageName {
    type Err = InvalidReference;

    fn from_str(raw: &str) -> Result<Self, InvalidReference> {
        let invalid = || InvalidReference::Reference(raw.chars().take(400).collect());
        let (rest, digest) = match raw.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse().map_err(|_| invalid())?)),
            None => (raw, None),
        };
        let (registry, rest) = match rest.split_once('/') {
            Some((first, below)) if first.contains(['.', ':']) || first == "localhost" => (first, below),
            _ => (DOCKER, rest),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) => (name, tag),
            None if digest.is_some() => (rest, ""),
            None => (rest, "latest"),
        };
        let name = if registry == DOCKER && !name.contains('/') { format!("library/{name}") } else { name.to_owned() };
        Ok(Self { registry: registry.parse()?, name: name.parse()?, tag: tag.to_owned(), digest })
    }
}

impl ImageName {
    /// Returns where the repository is.
    pub fn location(&self) -> Location {
        Location { registry: Some(self.registry.clone()), name: self.name.clone() }
    }

    /// Returns the base URL of the registry. One on a loopback address is spoken to in clear, as Docker does.
    pub fn url(&self) -> String {
        let registry = self.registry.as_str();
        let host = registry.split(':').next().unwrap_or_default();
        match registry {
            DOCKER => "https://registry-1.docker.io".to_owned(),
            _ if host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()) => {
                format!("http://{registry}")
            }
            _ => format!("https://{registry}"),
        }
    }

    /// Returns the names under which Docker keeps a login at the registry.
    pub fn login_keys(&self) -> Vec<&str> {
        match self.registry.as_str() {
            DOCKER => vec!["https://index.docker.io/v1/", DOCKER],
            registry => vec![registry],
        }
    }

    /// Tells whether two names mean the same image: Docker writes `docker.io/library/web:latest` for `web`.
    pub fn is_same(one: &str, other: &str) -> bool {
        match (one.parse::<Self>(), other.parse::<Self>()) {
            (Ok(one), Ok(other)) => one == other,
            _ => one == other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_that_docker_writes_out_mean_the_same_image() {
        for (short, long) in [
            ("web", "docker.io/library/web:latest"),
            ("web:1", "docker.io/library/web:1"),
            ("team/web:1", "docker.io/team/web:1"),
            ("localhost:5000/web", "localhost:5000/web:latest"),
            ("Not a name", "Not a name"),
        ] {
            assert!(ImageName::is_same(short, long) && ImageName::is_same(long, short), "{short}");
        }
        assert!(!ImageName::is_same("web:1", "web:2") && !ImageName::is_same("a.example/web:1", "web:1"));
    }

    #[test]
    fn a_name_says_which_registry_and_which_content() {
        let digest = Digest::of(b"manifest");
        let named: ImageName = format!("ghcr.io/acme/web:1@{digest}").parse().unwrap();
        assert_eq!((named.name.as_str(), named.tag.as_str(), named.digest), ("acme/web", "1", Some(digest)));
        let alone: ImageName = format!("web@{digest}").parse().unwrap();
        assert_eq!((alone.name.as_str(), alone.tag.as_str(), alone.digest), ("library/web", "", Some(digest)));
        for (name, url) in [
            ("web", "https://registry-1.docker.io"),
            ("localhost:5000/web", "http://localhost:5000"),
            ("127.9.0.1:5000/web", "http://127.9.0.1:5000"),
            ("registry.example:5000/web", "https://registry.example:5000"),
        ] {
            assert_eq!(name.parse::<ImageName>().unwrap().url(), url);
        }
        for bad in ["", "web@sha256:1", "Web", "a.example/", "a.example:x/web", "../web"] {
            assert!(bad.parse::<ImageName>().is_err(), "{bad}");
        }
    }
}
