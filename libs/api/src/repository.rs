//! Who may read the Git repositories.

use margo::{ClientName, Digest, UserNkey};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where a client's repository is read, and what opens it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RepositoryAccess {
    /// The URL that `git clone` is given.
    pub url: String,
    /// The token that opens this repository and no other, for reading. Git sends it as the password, with any user name. It ends with
    /// the client's key.
    pub token: String,
}

/// Asks git-writer for the access to a client's repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryAccessAsked {
    /// The client that shall have the token.
    pub client: ClientName,
    /// The client's key, when whoever asks knows better than Git. Absent: the one in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<UserNkey>,
}

/// Asks the gateway whose token of the REST interface this is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenAsked {
    /// The sha256 of the token.
    pub digest: Digest,
}

/// Answer to [`TokenAsked`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenHeld {
    /// The name of the token's holder; absent when nobody has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}
