//! The context file: a TOML file that says where a platform and its sites are, and with which tokens.
//!
//! ```toml
//! api = "http://127.0.0.1:8080"
//! token-file = "tokens/admin"
//! trust-file = "keys/ca/root.pem"
//!
//! [sites.plant]
//! status = "http://127.0.0.1:8081"
//! token-file = "sites/plant/status-token"
//! trust-file = "keys/ca/root.pem"
//! server = "tls://127.0.0.1:4323"
//! ```

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use margo::SiteName;
use serde::{Deserialize, Serialize};

/// One platform as a user knows it. In the file, relative paths are relative to the file's folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Context {
    /// Base URL of the REST interface, without `/api/v1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<String>,
    /// The file that holds the API token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// A PEM file of the root certificates that are believed. Absent: those that the operating system trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_file: Option<PathBuf>,
    /// Sites that can be reached without the centre.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sites: BTreeMap<SiteName, SiteContext>,
}

/// One site as somebody at the site knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SiteContext {
    /// Base URL of the interface of the Local Orchestrator, without `/api/v1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// The file that holds the token for that interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// A PEM file of the root certificates that are believed. Absent: those that the operating system trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_file: Option<PathBuf>,
    /// Address of the site's NATS server, as its nodes use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
}

/// Why a context cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// The file cannot be read or written.
    #[error("context file {}", path.display())]
    File {
        /// The path of the file, as it was tried.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file can be read, but does not hold a context.
    #[error("context file {} is not valid: {reason}", path.display())]
    Invalid {
        /// The path of the file, as it was tried.
        path: PathBuf,
        /// The field, the rule that it breaks, and the line.
        reason: String,
    },
}

impl Context {
    /// Reads a context file. Its relative paths are resolved against the file's folder.
    pub fn load(path: &Path) -> Result<Self, ContextError> {
        let text = fs::read_to_string(path).map_err(|source| ContextError::File { path: path.to_owned(), source })?;
        let mut context: Self = toml::from_str(&text)
            .map_err(|error| ContextError::Invalid { path: path.to_owned(), reason: error.to_string() })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let sites = context.sites.values_mut().flat_map(|site| [&mut site.token_file, &mut site.trust_file]);
        for file in sites.chain([&mut context.token_file, &mut context.trust_file]).flatten() {
            *file = folder.join(&*file);
        }
        Ok(context)
    }

    /// Writes the context file whole or not at all, readable for its owner only.
    pub fn save(&self, path: &Path) -> Result<(), ContextError> {
        let text = toml::to_string(self).expect("texts and maps of texts always have a TOML form");
        disk::write_private(path, text.as_bytes())
            .map_err(|source| ContextError::File { path: path.to_owned(), source })
    }

    /// The context file to use when none is named: that of `folder`, else that of the user. `None` when neither exists.
    pub fn find(folder: &Path, home: Option<&Path>) -> Option<PathBuf> {
        let here = folder.join(".edgewright/edgectl.toml");
        let of_user = home.map(|home| home.join(".config/edgewright/edgectl.toml"));
        [Some(here), of_user].into_iter().flatten().find(|path| path.exists())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded_with_paths_from_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edgectl.toml");
        let site = SiteContext {
            status: Some("http://127.0.0.1:8081".to_owned()),
            token_file: Some("plant/token".into()),
            trust_file: Some("root.pem".into()),
            server: Some("tls://127.0.0.1:4323".to_owned()),
        };
        let context = Context {
            api: Some("http://127.0.0.1:8080".to_owned()),
            token_file: Some("/etc/edgewright/token".into()),
            trust_file: None,
            sites: BTreeMap::from([("plant".parse().unwrap(), site)]),
        };
        context.save(&path).unwrap();
        let loaded = Context::load(&path).unwrap();
        assert_eq!(loaded.api, context.api);
        assert_eq!(loaded.token_file, context.token_file);
        let site = &loaded.sites[&"plant".parse().unwrap()];
        assert_eq!(site.token_file.as_deref(), Some(folder.path().join("plant/token").as_path()));
        assert_eq!(site.trust_file.as_deref(), Some(folder.path().join("root.pem").as_path()));
    }

    #[test]
    fn a_slip_in_a_context_is_told_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edgectl.toml");
        for (text, told) in [("apii = 'x'", "apii"), ("[sites.Plant]", "Plant"), ("api = ", "line 1")] {
            fs::write(&path, text).unwrap();
            let error = Context::load(&path).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn the_context_of_the_folder_goes_before_that_of_the_user() {
        let [here, home] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let find = || Context::find(here.path(), Some(home.path()));
        assert_eq!(find(), None);
        let of_user = home.path().join(".config/edgewright/edgectl.toml");
        Context::default().save(&of_user).unwrap();
        assert_eq!(find(), Some(of_user));
        let of_folder = here.path().join(".edgewright/edgectl.toml");
        Context::default().save(&of_folder).unwrap();
        assert_eq!(find(), Some(of_folder));
    }
}
