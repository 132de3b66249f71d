//! API tokens: a file of names, roles and hashes. The tokens themselves are known to their holders only.
//!
//! The file is looked at with every request, so a token that is added or taken out counts at once.

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use anyhow::{Context, bail, ensure};
use bus::ServiceName;
use margo::Digest;
use serde::{Deserialize, Serialize};
use tracing::error;

/// What the holder of a token may do. Everyone reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Nothing else.
    Viewer,
    /// Assignments.
    Deployer,
    /// Applications.
    Publisher,
    /// Sites and nodes.
    Supplier,
    /// Everything.
    Admin,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Viewer, Self::Deployer, Self::Publisher, Self::Supplier, Self::Admin];

    /// Whether it covers what a route demands.
    pub fn covers(self, demanded: Self) -> bool {
        self == demanded || self == Self::Admin || demanded == Self::Viewer
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Viewer => "viewer",
            Self::Deployer => "deployer",
            Self::Publisher => "publisher",
            Self::Supplier => "supplier",
            Self::Admin => "admin",
        })
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(raw: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|role| role.to_string() == raw);
        found.ok_or_else(|| format!("{raw:?} is no role: viewer, deployer, publisher, supplier or admin"))
    }
}

/// A token's name: the "who" of every order that is given with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenName(String);

impl TokenName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for TokenName {
    type Error = String;

    fn try_from(raw: String) -> Result<Self, String> {
        // It becomes the author of a commit and a header on the bus.
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'@' | b'-');
        if !(1..=100).contains(&raw.len()) || !raw.bytes().all(allowed) {
            return Err(format!("token name {raw:?} is not valid: 1 to 100 of A-Z, a-z, 0-9, ., _, @ and -"));
        }
        if raw.parse::<ServiceName>().is_ok() {
            return Err(format!("token name {raw:?} is not free: a service of the platform signs with it"));
        }
        Ok(Self(raw))
    }
}

impl From<TokenName> for String {
    fn from(name: TokenName) -> String {
        name.0
    }
}

/// One entry of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Token {
    pub(crate) name: TokenName,
    pub(crate) role: Role,
    /// sha256 of the token. Plain, for a token is 256 random bits and cannot be guessed from it.
    digest: Digest,
}

/// Makes a token, adds its hash to the file (made when it is missing, mode 0600), and gives the token: it is not kept.
pub fn create(path: &Path, name: &str, role: Role) -> anyhow::Result<String> {
    let name = TokenName::try_from(name.to_owned()).map_err(anyhow::Error::msg)?;
    let mut tokens = match read(path) {
        Err(error) if is_missing(&error) => Vec::new(),
        tokens => tokens?,
    };
    if tokens.iter().any(|token| token.name == name) {
        bail!("the token {} exists already in {}", name.as_str(), path.display());
    }
    let mut bits = [0; 32];
    getrandom::fill(&mut bits).context("asking the system for random bits")?;
    let token = format!("ew_{}", Digest::from_sha256(bits).hex());
    tokens.push(Token { name, role, digest: Digest::of(token.as_bytes()) });
    let text = serde_json::to_vec_pretty(&tokens).context("writing the list of tokens")?;
    identity::write_secret(path, &text).with_context(|| format!("writing the list of tokens {}", path.display()))?;
    Ok(token)
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
    for (at, token) in tokens.iter().enumerate() {
        let doubled = tokens[..at].iter().any(|other| other.name == token.name);
        ensure!(!doubled, "the list of tokens {} names {} twice", path.display(), token.name.as_str());
    }
    Ok(tokens)
}

/// The file as it stands.
pub(crate) struct Tokens {
    path: PathBuf,
    held: Mutex<Held>,
}

struct Held {
    stamp: Option<Stamp>,
    tokens: Arc<[Token]>,
}

/// What changes when the file is replaced or written to.
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

    /// Whose token this is.
    pub(crate) fn find(&self, token: &str) -> Option<Token> {
        let digest = Digest::of(token.as_bytes());
        self.current().iter().find(|known| same(&known.digest, &digest)).cloned()
    }

    fn current(&self) -> Arc<[Token]> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = Stamp::of(&self.path);
        if stamp != held.stamp {
            match read(&self.path) {
                Ok(tokens) => held.tokens = tokens.into(),
                // Otherwise a slip of an editor would lock everybody out.
                Err(error) => {
                    error!(error = error.as_ref() as &dyn std::error::Error, "the list before stays in force")
                }
            }
            held.stamp = stamp;
        }
        held.tokens.clone()
    }
}

/// In a time that does not depend on where they differ.
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

    #[test]
    fn a_role_covers_reading_and_its_own_matter() {
        for role in Role::ALL {
            for demanded in Role::ALL {
                let covered = demanded == Role::Viewer || role == demanded || role == Role::Admin;
                assert_eq!(role.covers(demanded), covered, "{role} {demanded}");
            }
            assert_eq!(role.to_string().parse(), Ok(role));
        }
    }
}
