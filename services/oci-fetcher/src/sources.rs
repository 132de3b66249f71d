//! Where artifacts come from besides the platform's store: the registries that the operator names, and their mirrors.

use std::{collections::BTreeMap, fs::File, io::Read, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use anyhow::{Context, bail, ensure};
use margo::Digest;
use oci::{
    Client, ContentStore, Limits, Location, Platform, PullError, Registry, RepositoryName, StoreError,
    registry::{Credentials, Pace},
};
use serde::Deserialize;
use service::ClientConfig;
use tokio::sync::Semaphore;
use tracing::warn;

/// Artifacts pulled at once from one registry: enough to fill a line, few enough that each gets on. A registry that is slow
/// holds up only what comes from it.
pub const PULLS: usize = 4;

/// The mode bits with which somebody else than the owner may do something with a file.
const NOT_THE_OWNER: u32 = 0o077;

/// The largest file of credentials that is read. Tokens that stand for passwords take some kilobytes.
const LARGEST_FILE: u64 = 64 << 10;

/// A registry that may be pulled from, as the operator describes it.
#[derive(Clone, Default)]
pub struct RegistryAccess {
    /// The base URL, without `/v2`. Without one it is the registry's name, over HTTPS.
    pub url: Option<String>,
    /// What is asked before the registry itself, in this order. Each has its own entry among the registries.
    pub mirrors: Vec<Mirror>,
    /// The account at this registry.
    pub credentials: Option<Credentials>,
    /// The base URL of the only server that may give out tokens for this registry.
    pub token_server: Option<String>,
    /// Which certificates are believed; without it those that the operating system trusts.
    pub tls: Option<Arc<ClientConfig>>,
}

/// A registry that has the content of another one, and perhaps puts the other's names behind a name of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The registry.
    pub registry: Registry,
    /// What stands before the name of each repository, as with proxies that serve several registries.
    pub prefix: Option<RepositoryName>,
}

impl std::str::FromStr for Mirror {
    type Err = oci::InvalidReference;

    /// Reads `<host>`, `<host>:<port>` or one of them with `/<prefix>`.
    fn from_str(raw: &str) -> Result<Self, Self::Err> {
        let (registry, prefix) = raw.split_once('/').map_or((raw, None), |(registry, prefix)| (registry, Some(prefix)));
        Ok(Self { registry: registry.parse()?, prefix: prefix.map(str::parse).transpose()? })
    }
}

/// Reads a file of credentials: `username` and `password` in TOML. Fails when anybody but its owner may read it.
pub fn read_credentials(path: &Path) -> anyhow::Result<Credentials> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case")]
    struct Account {
        username: String,
        password: String,
    }
    let reading = || format!("reading the credentials file {}", path.display());
    let file = File::open(path).with_context(reading)?;
    // Of the file that was opened, whatever the name leads to by now.
    let metadata = file.metadata().with_context(reading)?;
    ensure!(
        metadata.permissions().mode() & NOT_THE_OWNER == 0,
        "{}: others may use the password in it: `chmod 600` it",
        path.display()
    );
    ensure!(
        metadata.len() <= LARGEST_FILE,
        "{}: it is larger than 64 KiB, and so no file of credentials",
        path.display()
    );
    let mut text = String::new();
    file.take(LARGEST_FILE).read_to_string(&mut text).with_context(reading)?;
    // What the parser says shows the line, which may hold the password.
    let Ok(Account { username, password }) = toml::from_str(&text) else {
        bail!("{}: it has to hold `username` and `password`, each a text in TOML", path.display());
    };
    ensure!(!username.contains(':'), "{}: a username cannot hold a colon", path.display());
    Ok(Credentials { username, password })
}

/// One registry to ask, and what its names begin with.
struct Place {
    client: Client,
    prefix: Option<RepositoryName>,
}

/// The places that are asked for the content of one registry, one after the other.
pub struct Source {
    registry: Registry,
    places: Vec<Place>,
    /// Limits the pulls that run at the same time.
    pub pulls: Semaphore,
}

/// Makes the sources of all registries. Fails when one of them is described wrongly.
pub fn sources(
    registries: &BTreeMap<Registry, RegistryAccess>,
    limits: Limits,
    pace: Option<&Arc<Pace>>,
) -> anyhow::Result<BTreeMap<Registry, Source>> {
    let client = |registry: &Registry| {
        let access =
            registries.get(registry).with_context(|| format!("{registry} is a mirror and no registry here"))?;
        let usual = format!("https://{registry}");
        let url = access.url.as_deref().unwrap_or(&usual);
        let tls = access.tls.as_ref();
        let client = Client::of_registry(url, access.credentials.clone(), access.token_server.as_deref(), tls);
        let client = client.with_context(|| format!("registry {registry}"))?;
        anyhow::Ok(client.limited(limits).paced(pace.cloned()))
    };
    let source = |registry: &Registry, access: &RegistryAccess| {
        let mut places = Vec::new();
        for Mirror { registry, prefix } in &access.mirrors {
            places.push(Place { client: client(registry)?, prefix: prefix.clone() });
        }
        places.push(Place { client: client(registry)?, prefix: None });
        anyhow::Ok(Source { registry: registry.clone(), places, pulls: Semaphore::new(PULLS) })
    };
    registries.iter().map(|(registry, access)| Ok((registry.clone(), source(registry, access)?))).collect()
}

impl Source {
    /// Pulls an artifact that has this name at the site from the first place that gives it. What one place began, the next
    /// one goes on with. Returns how many bytes crossed the network in the pull that succeeded.
    pub async fn pull(
        &self,
        store: &ContentStore,
        name: &RepositoryName,
        digest: &Digest,
        platforms: &[Platform],
    ) -> anyhow::Result<u64> {
        let location = Location::of_site(name, Some(self.registry.clone()))?;
        let mut left = self.places.iter();
        let mut place = left.next().context("a registry without a place")?;
        loop {
            let there = match &place.prefix {
                Some(prefix) => format!("{prefix}/{}", location.name).parse()?,
                None => location.name.clone(),
            };
            let error = match place.client.pull_for(store, &there, name, digest, platforms).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => error,
            };
            let Some(next) = left.next().filter(|_| may_help(&error)) else { return Err(error.into()) };
            place = next;
            let reason = process::chain(&error);
            warn!(registry = %self.registry, reason, "a mirror does not have the artifact; asking the next place");
        }
    }
}

/// Tells whether another place may have what this one did not give. This site's own disk and limits are the same for all.
fn may_help(error: &PullError) -> bool {
    match error {
        PullError::Store(StoreError::NoSpace { .. } | StoreError::TooLarge { .. } | StoreError::Io { .. }) => false,
        PullError::Store(StoreError::WrongDigest { .. } | StoreError::Absent(_) | StoreError::Manifest { .. })
        | PullError::Unauthorized
        | PullError::Absent(_)
        | PullError::Later(_)
        | PullError::Status { .. }
        | PullError::Transport(_)
        | PullError::Registry(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_password_that_others_may_read_is_refused_and_none_is_shown() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("account.toml");
        let write = |text: &str, mode| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            read_credentials(&path)
        };
        let right = "username = 'press'\npassword = 'open sesame'\n";
        let read = write(right, 0o600).unwrap();
        assert_eq!((&*read.username, &*read.password), ("press", "open sesame"));
        for mode in [0o640, 0o604, 0o660, 0o610] {
            let refused = write(right, mode).unwrap_err().to_string();
            assert!(refused.contains("chmod 600"), "{mode:o}: {refused}");
        }
        for wrong in [
            "password = 'open sesame'",
            "username = 'press'\npassword = 'open sesame",
            "username = 'a:b'\npassword = 'open sesame'",
        ] {
            let refused = format!("{:#}", write(wrong, 0o600).unwrap_err());
            assert!(!refused.contains("sesame"), "{refused}");
        }
        assert!(write(&" ".repeat(65 << 10), 0o600).is_err());
    }

    #[test]
    fn a_mirror_is_a_registry_of_its_own() {
        let registry = |name: &str| -> Registry { name.parse().unwrap() };
        let mirror: Mirror = "proxy.example:5000/hub".parse().unwrap();
        assert_eq!(mirror.prefix.as_ref().unwrap().as_str(), "hub");
        let main = RegistryAccess { mirrors: vec![mirror], ..RegistryAccess::default() };
        let mut registries = BTreeMap::from([(registry("registry.example"), main)]);
        let refused = sources(&registries, Limits::default(), None).err().unwrap().to_string();
        assert!(refused.contains("proxy.example:5000"), "{refused}");
        registries.insert(registry("proxy.example:5000"), RegistryAccess::default());
        let sources = sources(&registries, Limits::default(), None).unwrap();
        assert_eq!(sources[&registry("registry.example")].places.len(), 2);
        for bad in ["", "/x", "a/", "a//b", "https://a"] {
            assert!(bad.parse::<Mirror>().is_err(), "{bad}");
        }
    }
}
