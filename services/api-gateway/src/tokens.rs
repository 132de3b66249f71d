//! API tokens: a file of names, roles and hashes. The tokens themselves are known to their holders only.
//!
//! **Layout.** One JSON list with an entry for each token, which an operator may edit. It is small enough to be read
//! whole.
//!
//! **Updates.** The file is replaced as a whole, under a new inode; a crash leaves either the old list or the new one.
//! Two processes that add a token at the same moment are not kept apart: the later one wins. Every request looks
//! whether the file is another one than the one in memory, so a token that is added or taken out counts at once.
//!
//! **A list that cannot be read** stops the start. Later it changes nothing: the list before stays in force, and an
//! error is logged.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use anyhow::{Context, ensure};
use bus::{CallerName, Role};
use identity::random_token;
use margo::Digest;
use serde::{Deserialize, Serialize};
use tracing::error;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Token {
    pub(crate) name: CallerName,
    pub(crate) role: Role,
    /// The sha256 of the token. It needs no salt and no slow hash: a token is 256 random bits, which nobody can guess.
    digest: Digest,
}

/// Makes a token, adds its hash to the file and returns the token, which is written nowhere. The file is made when it
/// is missing, with mode 0600. Fails when the name is taken or is the name of a service.
pub fn create(path: &Path, name: &str, role: Role) -> anyhow::Result<String> {
    let token = make()?;
    ensure!(add(path, name, role, &token)? == Added::New, "the token {name} exists already in {}", path.display());
    Ok(token)
}

/// Makes a token that nobody has and that opens nothing yet.
pub fn make() -> anyhow::Result<String> {
    Ok(format!("ew_{}", random_token().context("asking the system for random bits")?))
}

/// What became of a token that was to be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It is in the list now.
    New,
    /// The list had the same token under this name.
    Before,
    /// The list has another token under this name, and stays as it is.
    Taken,
}

/// Adds the hash of a token to the file, which is made when it is missing, with mode 0600. Fails when the name is the name of a
/// service.
pub fn add(path: &Path, name: &str, role: Role, token: &str) -> anyhow::Result<Added> {
    let name = name.parse::<CallerName>()?;
    ensure!(!name.is_service(), "the name {name} is not free: a service of the platform signs with it");
    let mut tokens = match read(path) {
        Err(error) if is_missing(&error) => Vec::new(),
        tokens => tokens?,
    };
    let digest = Digest::of(token.as_bytes());
    if let Some(held) = tokens.iter().find(|held| held.name == name) {
        return Ok(if held.digest == digest { Added::Before } else { Added::Taken });
    }
    tokens.push(Token { name, role, digest });
    let text = serde_json::to_vec_pretty(&tokens).context("writing the list of tokens")?;
    disk::write_private(path, &text).with_context(|| format!("writing the list of tokens {}", path.display()))?;
    Ok(Added::New)
}

fn is_missing(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
}

fn read(path: &Path) -> anyhow::Result<Vec<Token>> {
    let text = fs::read(path).with_context(|| format!("reading the list of tokens {}", path.display()))?;
    let mut deserializer = serde_json::Deserializer::from_slice(&text);
    let tokens: Vec<Token> = serde_path_to_error::deserialize(&mut deserializer)
        .with_context(|| format!("the list of tokens {} is not valid", path.display()))?;
    deserializer.end().with_context(|| format!("the list of tokens {} is not valid", path.display()))?;
    for (index, token) in tokens.iter().enumerate() {
        let doubled = tokens[..index].iter().any(|other| other.name == token.name);
        ensure!(!doubled, "the list of tokens {} names {} twice", path.display(), token.name.as_str());
    }
    Ok(tokens)
}

/// The list of tokens, always as the file has it.
pub(crate) struct Tokens {
    path: PathBuf,
    held: Mutex<Held>,
}

struct Held {
    /// Of the file when it was read last; `None` when there was no file.
    stamp: Option<Stamp>,
    tokens: Arc<[Token]>,
}

/// What tells that a file was replaced or written to, without reading it.
#[derive(PartialEq)]
struct Stamp {
    inode: u64,
    length: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self { inode: metadata.ino(), length: metadata.len(), modified: metadata.modified().ok() })
    }
}

impl Tokens {
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let stamp = Stamp::of(path);
        let tokens = read(path)?.into();
        Ok(Self { path: path.to_owned(), held: Mutex::new(Held { stamp, tokens }) })
    }

    /// The entry of this token; `None` when nobody has it. Blocks for as long as asking the file system takes.
    pub(crate) fn find(&self, token: &str) -> Option<Token> {
        self.find_digest(&Digest::of(token.as_bytes()))
    }

    /// The entry of the token with this sha256. Blocks as [`Self::find`] does.
    pub(crate) fn find_digest(&self, digest: &Digest) -> Option<Token> {
        self.current().iter().find(|known| same(&known.digest, digest)).cloned()
    }

    fn current(&self) -> Arc<[Token]> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = Stamp::of(&self.path);
        if stamp != held.stamp {
            match read(&self.path) {
                Ok(tokens) => held.tokens = tokens.into(),
                // The old list stays in force, or a slip of an editor would lock everybody out.
                Err(error) => {
                    error!(error = error.as_ref() as &dyn std::error::Error, "the list before stays in force")
                }
            }
            held.stamp = stamp;
        }
        held.tokens.clone()
    }
}

/// Compares in a time that does not depend on where the two differ, so that answers tell nothing about other hashes.
fn same(left: &Digest, right: &Digest) -> bool {
    let (left, right) = (left.hex(), right.hex());
    left.bytes().zip(right.bytes()).fold(0, |difference, (left, right)| difference | (left ^ right)) == 0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_token_is_kept_as_its_hash_in_a_file_of_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.json");
        let ada = create(&path, "ada", Role::Deployer).unwrap();
        let bob = create(&path, "bob@example.org", Role::Viewer).unwrap();
        assert!(ada.starts_with("ew_") && ada.len() == 67 && ada != bob);
        assert!(!fs::read_to_string(&path).unwrap().contains(&ada[3..]));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        let tokens = Tokens::open(&path).unwrap();
        let found = tokens.find(&ada).unwrap();
        assert_eq!((found.name.as_str(), found.role), ("ada", Role::Deployer));
        for unknown in ["", "ew_", &ada[..66], &format!("{ada}0"), &ada.to_uppercase()] {
            assert_eq!(tokens.find(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn a_name_is_given_once_and_never_that_of_a_service() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.json");
        create(&path, "ada", Role::Admin).unwrap();
        for bad in ["ada", "", "a b", "a\nb", "deployment-registry", &"x".repeat(101)] {
            assert!(create(&path, bad, Role::Admin).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_changed_file_counts_at_once_and_a_broken_one_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.json");
        let ada = create(&path, "ada", Role::Admin).unwrap();
        let tokens = Tokens::open(&path).unwrap();
        let bob = create(&path, "bob", Role::Viewer).unwrap();
        assert!(tokens.find(&bob).is_some());
        for broken in ["[", "[{}]", "{}", "[] trailing"] {
            fs::write(&path, broken).unwrap();
            assert!(tokens.find(&ada).is_some(), "{broken}");
        }
        fs::write(&path, "[]").unwrap();
        assert!(tokens.find(&ada).is_none());
    }
}
