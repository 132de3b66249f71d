//! The identity of a machine: the public half of what the machine can prove to hold.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// An accepted identity of a site or a node, as its file in `fleet.git` names it. Whoever adds a kind of identity
/// adds a variant, and the compiler shows what has to be decided about it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Identity {
    /// A user of a NATS server, which the server tests by a challenge that only the holder of the seed can sign.
    Nkey(UserNkey),
}

/// The text names no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIdentity {
    /// The text does not begin with a known kind of identity. It holds the first 100 characters of the text.
    #[error("identity {0:?} is not valid: nkey: and the public NKey of a user")]
    Kind(String),
    /// The text begins with `nkey:`, but no public key of a user follows.
    #[error(transparent)]
    Nkey(#[from] InvalidNkey),
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nkey(key) => write!(f, "nkey:{key}"),
        }
    }
}

impl FromStr for Identity {
    type Err = InvalidIdentity;

    fn from_str(raw: &str) -> Result<Self, InvalidIdentity> {
        let key = raw.strip_prefix("nkey:").ok_or_else(|| InvalidIdentity::Kind(raw.chars().take(100).collect()))?;
        Ok(Self::Nkey(key.parse()?))
    }
}

/// The public NKey of a NATS user: 56 characters that begin with `U`, the last of them a checksum.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserNkey(String);

/// A text that is no public NKey of a user. The text is not repeated, for it may be a seed that was taken for the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the public NKey of a user (56 characters beginning with U)")]
pub struct InvalidNkey;

impl UserNkey {
    /// Returns the 56 characters of the key.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for UserNkey {
    type Error = InvalidNkey;

    fn try_from(raw: String) -> Result<Self, InvalidNkey> {
        if raw.len() != 56 || !raw.starts_with('U') || nkeys::KeyPair::from_public_key(&raw).is_err() {
            return Err(InvalidNkey);
        }
        Ok(Self(raw))
    }
}

impl FromStr for UserNkey {
    type Err = InvalidNkey;

    fn from_str(raw: &str) -> Result<Self, InvalidNkey> {
        raw.to_owned().try_into()
    }
}

impl From<UserNkey> for String {
    fn from(key: UserNkey) -> String {
        key.0
    }
}

impl fmt::Display for UserNkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_public_key_of_a_user_is_an_identity() {
        let pair = nkeys::KeyPair::new_user();
        let (public, seed) = (pair.public_key(), pair.seed().unwrap());
        let identity: Identity = format!("nkey:{public}").parse().unwrap();
        assert_eq!(identity.to_string(), format!("nkey:{public}"));
        assert_eq!(serde_json::to_value(&identity).unwrap(), serde_json::json!({ "nkey": public }));
        for bad in [seed.as_str(), "", "U", &public[1..], &format!("{public} }} evil: {{")] {
            assert!(bad.parse::<UserNkey>().is_err(), "{bad}");
            assert!(format!("nkey:{bad}").parse::<Identity>().is_err(), "{bad}");
        }
        let account = nkeys::KeyPair::new_account().public_key();
        assert!(account.parse::<UserNkey>().is_err());
        let error = serde_json::from_value::<Identity>(serde_json::json!({ "nkey": seed })).unwrap_err().to_string();
        assert!(!error.contains(&seed), "{error}");
    }
}
