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
//!
//! **Trust.** A context decides to whom a token is sent, so whoever writes one could collect tokens. A file that belongs to
//! somebody else than the user or root is never used. One that is found and not named must be the user's own, and nobody else
//! may be able to write to it. One that is found in the working folder may have come with that folder, from wherever: only
//! tokens that lie in the context's own folder are sent to the addresses in it.

use std::{
    collections::BTreeMap,
    fs::{File, Metadata},
    io::{self, Read},
    os::unix::fs::{MetadataExt, PermissionsExt},
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
    /// The file might be somebody else's trap.
    #[error("context file {} is not used: {reason}", path.display())]
    Untrusted {
        /// The path of the file, as it was tried.
        path: PathBuf,
        /// The rule that it breaks, and what to do.
        reason: &'static str,
    },
    /// The context was found in the working folder, and the token lies elsewhere.
    #[error(
        "the token {} is not sent to an address of the context in {}, which came with this folder; \
         name the file with --context if you trust it",
        token.display(), folder.display()
    )]
    ForeignToken {
        /// The file of the token.
        token: PathBuf,
        /// The folder of the context.
        folder: PathBuf,
    },
}

/// How a context file came to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// The user has named it.
    Named,
    /// It lies below the user's home.
    Home,
    /// It lies in the working folder.
    WorkingFolder,
}

impl Context {
    /// Reads a context file that the user has named. Its relative paths are resolved against the file's folder.
    pub fn load(path: &Path) -> Result<Self, ContextError> {
        Self::read(path, Origin::Named)
    }

    fn read(path: &Path, origin: Origin) -> Result<Self, ContextError> {
        let unreadable = |source| ContextError::File { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(unreadable)?;
        let user = rustix::process::geteuid().as_raw();
        // Of the open file: the name might belong to another one by now.
        if let Err(reason) = trusted(&file.metadata().map_err(unreadable)?, origin, user) {
            return Err(ContextError::Untrusted { path: path.to_owned(), reason });
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(unreadable)?;
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
}

/// A context and what may be sent to its addresses.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) context: Context,
    /// The folder whose tokens alone may be sent to the addresses of the context; `None` where the user has named the file,
    /// or has it at home.
    tokens_in: Option<PathBuf>,
}

impl Known {
    /// The context of the file that the user has named.
    pub(crate) fn named(path: &Path) -> Result<Self, ContextError> {
        Ok(Self { context: Context::load(path)?, tokens_in: None })
    }

    /// The context that is used when none is named: that of `folder`, else that of the user. An empty one when neither
    /// exists.
    pub(crate) fn found(folder: &Path, home: Option<&Path>) -> Result<Self, ContextError> {
        let here = folder.join(".edgewright");
        let path = here.join("edgectl.toml");
        if path.exists() {
            let context = Context::read(&path, Origin::WorkingFolder)?;
            let folder = here.canonicalize().map_err(|source| ContextError::File { path, source })?;
            return Ok(Self { context, tokens_in: Some(folder) });
        }
        match home.map(|home| home.join(".config/edgewright/edgectl.toml")).filter(|path| path.exists()) {
            Some(path) => Ok(Self { context: Context::read(&path, Origin::Home)?, tokens_in: None }),
            None => Ok(Self::default()),
        }
    }

    /// Fails when the token in this file must not be sent to an address of this context. One that is not there is sent
    /// nowhere.
    pub(crate) fn check_token(&self, token: &Path) -> Result<(), ContextError> {
        let Some(folder) = &self.tokens_in else { return Ok(()) };
        // As the file is opened: a link may lead out of the folder.
        match token.canonicalize() {
            Ok(file) if !file.starts_with(folder) => {
                Err(ContextError::ForeignToken { token: token.to_owned(), folder: folder.clone() })
            }
            _ => Ok(()),
        }
    }
}

/// Whether the file may say where tokens are sent; if not, why.
fn trusted(file: &Metadata, origin: Origin, user: u32) -> Result<(), &'static str> {
    let (owner, mode) = (file.uid(), file.permissions().mode());
    match origin {
        Origin::Named if owner != user && owner != 0 => Err("it belongs to somebody else"),
        Origin::Named => Ok(()),
        Origin::Home | Origin::WorkingFolder if owner != user => {
            Err("it belongs to somebody else; name it with --context if it is root's and you trust it")
        }
        Origin::Home | Origin::WorkingFolder if mode & 0o022 != 0 => {
            Err("others can write to it; see what is in it, then take that away: chmod go-w")
        }
        Origin::Home | Origin::WorkingFolder => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

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

    fn with_api(api: &str) -> Context {
        Context { api: Some(api.to_owned()), token_file: Some("token".into()), ..Context::default() }
    }

    #[test]
    fn the_context_of_the_folder_goes_before_that_of_the_user() {
        let [here, home] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let find = || Known::found(here.path(), Some(home.path())).unwrap().context.api;
        assert_eq!(find(), None);
        with_api("http://home").save(&home.path().join(".config/edgewright/edgectl.toml")).unwrap();
        assert_eq!(find().as_deref(), Some("http://home"));
        with_api("http://here").save(&here.path().join(".edgewright/edgectl.toml")).unwrap();
        assert_eq!(find().as_deref(), Some("http://here"));
    }

    #[test]
    fn a_file_that_others_can_write_to_is_used_only_when_it_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".edgewright/edgectl.toml");
        with_api("http://here").save(&path).unwrap();
        for (mode, trusted) in [(0o600, true), (0o644, true), (0o620, false), (0o602, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let found = Known::found(folder.path(), None);
            assert_eq!(found.is_ok(), trusted, "{mode:o}");
            assert!(trusted || matches!(found, Err(ContextError::Untrusted { .. })), "{mode:o}");
            assert!(Context::load(&path).is_ok());
        }
    }

    #[test]
    fn a_file_of_somebody_else_is_never_used() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let metadata = file.as_file().metadata().unwrap();
        let (owner, other) = (metadata.uid(), metadata.uid() + 1);
        for origin in [Origin::Named, Origin::Home, Origin::WorkingFolder] {
            assert!(trusted(&metadata, origin, owner).is_ok(), "{origin:?}");
            // What root has written may be named: root need set no traps.
            assert_eq!(trusted(&metadata, origin, other).is_ok(), origin == Origin::Named && owner == 0, "{origin:?}");
        }
        let own = |uid: u32| std::os::unix::fs::chown(file.path(), Some(uid), None);
        if own(other).is_ok() {
            assert!(matches!(Context::load(file.path()), Err(ContextError::Untrusted { .. })));
            own(owner).unwrap();
        }
    }

    #[test]
    fn a_context_of_the_working_folder_gets_no_token_from_elsewhere() {
        let [here, home] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let path = here.path().join(".edgewright/edgectl.toml");
        with_api("http://here").save(&path).unwrap();
        let (own, foreign, link) =
            (path.with_file_name("token"), home.path().join("token"), path.with_file_name("link"));
        for file in [&own, &foreign] {
            fs::write(file, "ew_0").unwrap();
        }
        std::os::unix::fs::symlink(&foreign, &link).unwrap();
        let found = Known::found(here.path(), None).unwrap();
        found.check_token(&own).unwrap();
        found.check_token(&path.with_file_name("missing")).unwrap();
        for outside in [foreign.clone(), link, path.with_file_name("../../").join(&foreign)] {
            assert!(found.check_token(&outside).is_err(), "{}", outside.display());
        }
        Known::named(&path).unwrap().check_token(&foreign).unwrap();
    }
}
