//! With what a user logs in at a NATS server.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_nats::{Auth, AuthError, rustls::ClientConfig};
use nkeys::KeyPair;

use crate::User;

/// Where to connect, and as which user.
#[derive(Clone)]
pub struct Login {
    /// The address of the server, `nats://host:port` or `tls://host:port`.
    pub url: String,
    /// What a TLS connection needs, which is then demanded and begins with the first byte. Without it everything crosses
    /// the network in clear.
    pub tls: Option<Arc<ClientConfig>>,
    /// The NKey seed (`SU…`) of the user. It is a secret.
    pub seed: String,
    /// The JWT that says what the holder of the seed is. It is no secret.
    pub jwt: Jwt,
    /// The user, which gives the connection its name and its inbox prefix. The server decides by the JWT what is
    /// allowed.
    pub user: User,
}

/// Where a connection finds the JWT of its user each time that it logs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Jwt {
    /// The JWT is this one and stays so.
    Text(String),
    /// The newest JWT stands in this file. While there is none, the user cannot log in.
    File(PathBuf),
}

impl Jwt {
    /// Returns the file, where there is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Text(_) => None,
            Self::File(path) => Some(path),
        }
    }

    /// Returns the JWT that holds now, and `None` while there is none.
    async fn newest(&self) -> io::Result<Option<String>> {
        match self {
            Self::Text(jwt) => Ok(Some(jwt.clone())),
            Self::File(path) => {
                let path = path.clone();
                let text = disk::blocking(move || disk::read_optional(&path)).await?;
                Ok(text.map(|text| String::from_utf8_lossy(&text).trim().to_owned()))
            }
        }
    }

    /// Answers the server's challenge.
    pub(crate) async fn answer(self, key: Arc<KeyPair>, nonce: Vec<u8>) -> Result<Auth, AuthError> {
        let jwt = self.newest().await.map_err(AuthError::new)?;
        let mut auth = Auth::new();
        auth.jwt = Some(jwt.ok_or_else(|| AuthError::new("there is no JWT yet"))?);
        auth.signature = Some(key.sign(&nonce).map_err(AuthError::new)?);
        Ok(auth)
    }
}
