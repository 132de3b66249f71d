//! What a site downloads: how much, how fast, when, and from which registries. It stands in `site.toml`.

use std::{
    collections::BTreeMap,
    num::NonZeroU64,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use identity::{plaintext::Plaintext, tls::Trust};
use oci::{Limits, Platform, Registry};
use oci_fetcher::{Downloads, Hours, Mirror, RegistryAccess, Window, read_credentials};
use serde::{Deserialize, Serialize};

/// The lowest rate of downloads, in bytes per second. One piece of an answer may have 400 KiB, and a server gives up who reads
/// nothing for 15 s, so a lower rate would be spent on the same bytes again and again.
const LOWEST_RATE: u64 = 32 << 10;

/// The section `[downloads]` of `site.toml`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DownloadSettings {
    /// The largest artifact that is downloaded, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_artifact_bytes: Option<NonZeroU64>,
    /// How many bytes stay free on the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserve_bytes: Option<u64>,
    /// The rate of all downloads together, at least 32,768.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<NonZeroU64>,
    /// The parts of the day in UTC in which the site may download, such as `22:00-05:30`. With none it always may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hours_utc: Vec<String>,
    /// Of artifacts for several platforms, those that are downloaded, such as `linux/arm64`. With none it is that of this
    /// machine.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<String>,
}

impl DownloadSettings {
    /// Tells whether nothing is set.
    pub fn are_usual(&self) -> bool {
        *self == Self::default()
    }
}

/// The section of one registry in `[registries]` of `site.toml`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RegistrySettings {
    /// The base URL, without `/v2`, where it is not the registry's name over HTTPS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// What is asked before the registry itself: other registries of this list, perhaps with what their names begin with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<String>,
    /// The file with `username` and `password`, in the data folder unless the path is absolute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<PathBuf>,
    /// The base URL of the only server that may give out the registry's tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_server: Option<String>,
    /// The PEM file of the root certificates by which the registry is known, in the data folder unless the path is absolute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_certificates: Option<PathBuf>,
}

impl RegistrySettings {
    /// Fails when the registry, or its server of tokens, would be spoken to in clear over a network.
    pub fn check(&self, registry: &Registry, plaintext: Plaintext) -> anyhow::Result<()> {
        let urls = [("the registry", &self.url), ("the server of tokens of", &self.token_server)];
        for (what, url) in urls {
            if let Some(url) = url {
                plaintext.check_url(&format!("{what} {registry} (registries in site.toml)"), url)?;
            }
        }
        Ok(())
    }

    fn access(&self, folder: &Path) -> anyhow::Result<RegistryAccess> {
        let mirrors = self.mirrors.iter().map(|mirror| mirror.parse::<Mirror>()).collect::<Result<Vec<_>, _>>();
        let mirrors = mirrors.context("mirrors")?;
        let credentials = self.credentials.as_ref().map(|file| read_credentials(&folder.join(file))).transpose()?;
        let roots = self.root_certificates.as_ref().map(|file| Trust::load(&folder.join(file))).transpose()?;
        Ok(RegistryAccess {
            url: self.url.clone(),
            mirrors,
            credentials,
            token_server: self.token_server.clone(),
            tls: roots.map(|roots| roots.hosts()),
        })
    }
}

/// Returns what the site's fetcher is told. It fails when a setting is wrong, or when others may read a file of credentials.
pub fn downloads(
    settings: &DownloadSettings,
    registries: &BTreeMap<Registry, RegistrySettings>,
    folder: &Path,
) -> anyhow::Result<Downloads> {
    let usual = Limits::default();
    let limits = Limits {
        artifact: settings.max_artifact_bytes.map_or(usual.artifact, NonZeroU64::get),
        reserve: settings.reserve_bytes.unwrap_or(usual.reserve),
        ..usual
    };
    if let Some(rate) = settings.bytes_per_second {
        ensure!(
            rate.get() >= LOWEST_RATE,
            "bytes-per-second in [downloads] of site.toml must be at least {LOWEST_RATE}: a server gives up who reads slower"
        );
    }
    let hours = settings.hours_utc.iter().map(|window| window.parse::<Window>()).collect::<Result<Vec<_>, _>>();
    let platforms =
        settings.platforms.iter().map(|platform| platform.parse::<Platform>()).collect::<Result<Vec<_>, _>>();
    let mut platforms = platforms.context("platforms in [downloads] of site.toml")?;
    if platforms.is_empty() {
        platforms.push(Platform::host());
    }
    let access = |(registry, settings): (&Registry, &RegistrySettings)| {
        let access = settings.access(folder);
        anyhow::Ok((registry.clone(), access.with_context(|| format!("registry {registry} in site.toml"))?))
    };
    let downloads = Downloads {
        limits,
        bytes_per_second: settings.bytes_per_second,
        hours: Hours(hours.context("hours-utc in [downloads] of site.toml")?),
        platforms,
        registries: registries.iter().map(access).collect::<anyhow::Result<_>>()?,
    };
    downloads.check().context("registries in site.toml")?;
    Ok(downloads)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        #[serde(default)]
        downloads: DownloadSettings,
        #[serde(default)]
        registries: BTreeMap<Registry, RegistrySettings>,
    }

    fn read(text: &str, folder: &Path) -> anyhow::Result<Downloads> {
        let settings: Settings = toml::from_str(text)?;
        settings.registries.iter().try_for_each(|(name, registry)| registry.check(name, Plaintext::OnLoopback))?;
        downloads(&settings.downloads, &settings.registries, folder)
    }

    #[test]
    fn what_stands_in_the_file_reaches_the_fetcher() {
        let folder = tempfile::tempdir().unwrap();
        let account = folder.path().join("account.toml");
        fs::write(&account, "username = 'press'\npassword = 'open sesame'\n").unwrap();
        fs::set_permissions(&account, fs::Permissions::from_mode(0o600)).unwrap();
        let text = "
            [downloads]
            max-artifact-bytes = 1000
            reserve-bytes = 0
            bytes-per-second = 50000
            hours-utc = ['22:00-05:30', '12:00-13:00']
            platforms = ['linux/arm64', 'linux/amd64']

            [registries.'registry.example']
            mirrors = ['proxy.example:5000/upstream']
            credentials = 'account.toml'
            token-server = 'https://auth.example'

            [registries.'proxy.example:5000']
            url = 'http://127.0.0.1:5000'
        ";
        let downloads = read(text, folder.path()).unwrap();
        assert_eq!((downloads.limits.artifact, downloads.limits.reserve), (1_000, 0));
        assert_eq!(downloads.bytes_per_second.unwrap().get(), 50_000);
        assert_eq!((downloads.hours.0.len(), downloads.platforms.len()), (2, 2));
        let registry = &downloads.registries[&"registry.example".parse().unwrap()];
        assert_eq!(registry.credentials.as_ref().unwrap().password, "open sesame");
        assert_eq!(registry.mirrors[0].registry.as_str(), "proxy.example:5000");

        fs::set_permissions(&account, fs::Permissions::from_mode(0o644)).unwrap();
        let refused = format!("{:#}", read(text, folder.path()).err().unwrap());
        assert!(refused.contains("registry.example") && refused.contains("chmod 600"), "{refused}");
    }

    #[test]
    fn without_settings_a_site_downloads_always_and_for_itself() {
        let downloads = read("", Path::new("/nowhere")).unwrap();
        assert_eq!(downloads.limits, Limits::default());
        assert_eq!((downloads.bytes_per_second, downloads.platforms), (None, vec![Platform::host()]));
        assert!(downloads.registries.is_empty() && DownloadSettings::default().are_usual());
    }

    #[test]
    fn a_wrong_setting_stops_the_start_and_says_which() {
        for (text, says) in [
            ("[downloads]\nhours-utc = ['22-5']", "hours-utc"),
            ("[downloads]\nplatforms = ['arm64']", "platforms"),
            ("[downloads]\nbytes-per-second = 0", "bytes-per-second"),
            ("[downloads]\nbytes-per-second = 32767", "at least 32768"),
            ("[downloads]\nmax_artifact_bytes = 1", "max_artifact_bytes"),
            ("[registries.'https://registry.example']", "registry"),
            ("[registries.'registry.example']\nmirrors = ['']", "registry.example"),
            ("[registries.'registry.example']\nmirrors = ['proxy.example']", "proxy.example"),
            ("[registries.'registry.example']\nurl = 'ftp://registry.example'", "ftp://registry.example"),
            ("[registries.'registry.example']\ncredentials = 'missing.toml'", "missing.toml"),
            ("[registries.'registry.example']\nurl = 'http://registry.example'", "--allow-plaintext"),
            ("[registries.'registry.example']\ntoken-server = 'http://auth.example'", "--allow-plaintext"),
        ] {
            let refused = format!("{:#}", read(text, Path::new("/nowhere")).err().unwrap());
            assert!(refused.contains(says), "{text}: {refused}");
        }
    }
}
