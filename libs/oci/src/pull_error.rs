//! Why an artifact was not pulled.

use std::time::Duration;

use margo::Digest;
use reqwest::{
    StatusCode,
    header::{HeaderMap, RETRY_AFTER},
};

use crate::StoreError;

/// The pause that is reported when the server says "later" without saying when.
const RETRY_DELAY: Duration = Duration::from_secs(5);

/// The longest wait that a server can ask for. Whatever it says, somebody who waits for an artifact looks again within
/// minutes, and the time can be added to any clock.
const LONGEST_DELAY: Duration = Duration::from_secs(300);

/// The text is not the address of a store.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not the address of a store: http:// or https://, a host and a port")]
pub struct InvalidAddress(pub(crate) String);

/// An artifact was not pulled. What came before the failure stays in the store, and is not pulled again.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The store does not accept the token or the password, or no longer accepts it.
    #[error("the store does not accept the token")]
    Unauthorized,
    /// The store does not have the content with this digest.
    #[error("the store does not have {0}")]
    Absent(Digest),
    /// The store cannot answer now and may do so after this time.
    #[error("the store asks to try again in {} s", .0.as_secs())]
    Later(Duration),
    /// The store gave an answer that the read API does not have. Redirects are among them where the token is for one
    /// host only.
    #[error("the store answers {status} for {digest}")]
    Status {
        /// The HTTP status of the answer.
        status: StatusCode,
        /// The digest that was asked for.
        digest: Digest,
    },
    /// The connection failed, or ended before the whole answer was there.
    #[error("reading from the store")]
    Transport(#[from] reqwest::Error),
    /// The content does not have the digest that was asked for, or the disk failed or is full.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A registry answers in a way that is not followed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// A registry answers in a way that is not followed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The registry names a server of tokens that is neither reached over HTTPS nor the registry itself, or another one
    /// than the one that was configured. The password was not sent.
    #[error("the registry has tokens given out by {0}, where the password must not go")]
    Realm(String),
    /// The server of tokens does not give a token.
    #[error("the server of tokens {realm} does not give a token: {reason}")]
    Token {
        /// The address of the server.
        realm: String,
        /// What it did instead.
        reason: String,
    },
    /// A redirect leads to an address that is not reached over HTTPS, or redirects follow each other without an end.
    #[error("the registry redirects to {0}, which is not followed")]
    Redirect(String),
    /// The index has no manifest for the platforms that are wanted.
    #[error("index {index} has no manifest for {platforms}")]
    NoPlatform {
        /// The digest of the index.
        index: Digest,
        /// The platforms, as text.
        platforms: String,
    },
    /// The answer is longer than such an answer may be, or does not have its form.
    #[error("the registry's answer to {0} cannot be read")]
    Answer(&'static str),
}

impl PullError {
    /// Returns what it means that the store answered with this status.
    pub(crate) fn of(status: StatusCode, headers: &HeaderMap, digest: &Digest) -> Self {
        match status {
            StatusCode::UNAUTHORIZED => Self::Unauthorized,
            StatusCode::NOT_FOUND => Self::Absent(*digest),
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
                Self::Later(seconds.map_or(RETRY_DELAY, Duration::from_secs).min(LONGEST_DELAY))
            }
            status => Self::Status { status, digest: *digest },
        }
    }

    /// Tells whether the same request may succeed a moment later. A server that cannot be reached is not among them:
    /// whoever called has pauses for that.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Transport(error) => !error.is_connect(),
            Self::Status { status, .. } => status.is_server_error() || *status == StatusCode::RANGE_NOT_SATISFIABLE,
            Self::Unauthorized | Self::Absent(_) | Self::Later(_) | Self::Store(_) | Self::Registry(_) => false,
        }
    }
}
