//! The names of a tenant's Git repositories.

use std::{fmt, str::FromStr};

use crate::ClientName;

/// The name of one repository of a tenant, written `fleet` or `clients/<client>`: the path of its folder without
/// `.git`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RepositoryName {
    /// The repository that records what people ordered and what the system decided; there is one in each tenant.
    Fleet,
    /// The repository of the documents that one client has to carry out, with the signed head of their list.
    Client(ClientName),
}

/// The text names no repository. It holds the first 100 characters of the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("repository {0:?} is not valid: fleet, or clients/ and a client's name")]
pub struct InvalidRepositoryName(String);

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fleet => f.write_str("fleet"),
            Self::Client(client) => write!(f, "clients/{client}"),
        }
    }
}

impl FromStr for RepositoryName {
    type Err = InvalidRepositoryName;

    fn from_str(raw: &str) -> Result<Self, InvalidRepositoryName> {
        let client = |raw: &str| raw.strip_prefix("clients/")?.parse().ok().map(Self::Client);
        if raw == "fleet" {
            return Ok(Self::Fleet);
        }
        client(raw).ok_or_else(|| InvalidRepositoryName(raw.chars().take(100).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_named_by_its_folder_and_by_nothing_else() {
        for good in ["fleet", "clients/plant"] {
            assert_eq!(good.parse::<RepositoryName>().unwrap().to_string(), good);
        }
        for bad in ["", "Fleet", "clients/", "clients/../fleet", "clients/a/b", "other/plant"] {
            assert!(bad.parse::<RepositoryName>().is_err(), "{bad}");
        }
    }
}
