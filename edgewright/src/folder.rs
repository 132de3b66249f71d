//! The data folder of a hub or of a site: settings, seeds, tokens and the configuration of its NATS server.
//!
//! Everything here is made once and then stays, because keys and tokens are identities, and addresses are the operator's to
//! change. Each file is written whole, so a start that was killed is completed by the next one. Only the owner may read it.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use bus::{
    Login, User,
    server::{Server, server_conf, users_conf},
};
use disk::{make_private_folder, write_private};
use identity::{nats, tls::ClientConfig};
use margo::{TenantName, UserNkey};
use serde::{Serialize, de::DeserializeOwned};

use crate::certificates::{TlsSettings, nats_scheme};

/// A data folder that was made at some time by [`Folder::make`].
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Makes the folder and its sub-folders for keys and for the NATS server, where they are missing.
    pub fn make(data: &Path) -> anyhow::Result<Self> {
        let making = || format!("making {}", data.display());
        make_private_folder(&data.join("keys/nats")).with_context(making)?;
        make_private_folder(&data.join("nats")).with_context(making)?;
        Ok(Self(data.canonicalize().with_context(making)?))
    }

    /// Takes a folder that was made earlier; nothing is looked at yet.
    pub fn open(data: &Path) -> Self {
        Self(data.to_owned())
    }

    /// The path of a file or folder inside, which need not exist.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Shows the folder's own path in messages.
    pub fn display(&self) -> std::path::Display<'_> {
        self.0.display()
    }

    /// Reads a settings file. The error for a missing one names `made_by`, the command that makes it.
    pub fn settings<T: DeserializeOwned>(&self, name: &str, made_by: &str) -> anyhow::Result<T> {
        let path = self.path(name);
        let text = fs::read_to_string(&path).with_context(|| {
            format!("reading {} (`{made_by} --data {} …` makes it)", path.display(), self.display())
        })?;
        toml::from_str(&text).with_context(|| format!("reading {}", path.display()))
    }

    /// Writes a settings file unless there is one already.
    pub fn keep_settings(&self, name: &str, settings: &impl Serialize) -> anyhow::Result<()> {
        let text = toml::to_string(settings).with_context(|| format!("writing {name}"))?;
        self.keep(name, || Ok(text.into_bytes()))
    }

    /// Writes a file unless there is one already; only then is `content` called.
    pub fn keep(&self, name: &str, content: impl FnOnce() -> anyhow::Result<Vec<u8>>) -> anyhow::Result<()> {
        let path = self.path(name);
        if !path.exists() {
            write_private(&path, &content()?).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    }

    /// Reads a file of one line, such as a token or a public key.
    pub fn line(&self, name: &str) -> anyhow::Result<String> {
        let path = self.path(name);
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(text.trim().to_owned())
    }

    fn seed_file(user: &User) -> String {
        format!("keys/nats/{user}.seed")
    }

    /// Makes an NKey seed for each of these users that has none.
    pub fn keep_seeds<'a>(&self, users: impl IntoIterator<Item = &'a User>) -> anyhow::Result<()> {
        users.into_iter().try_for_each(|user| self.keep(&Self::seed_file(user), || Ok(nats::generate().0.into_bytes())))
    }

    /// What a user needs to connect to the server at this address. Fails when the user's seed was never made.
    pub fn login(&self, user: User, server: SocketAddr, tls: Option<Arc<ClientConfig>>) -> anyhow::Result<Login> {
        let url = format!("{}://{server}", nats_scheme(tls.is_some()));
        Ok(Login { url, tls, seed: self.line(&Self::seed_file(&user))?, user })
    }

    /// Each user with the public key of its seed, for the server's list of users.
    pub fn public_keys(&self, users: impl IntoIterator<Item = User>) -> anyhow::Result<Vec<(User, UserNkey)>> {
        let key = |user: User| {
            let public = nats::public_key(&self.line(&Self::seed_file(&user))?)?;
            Ok((user, public))
        };
        users.into_iter().map(key).collect()
    }

    /// The folder of the NATS server's configuration and process id.
    pub fn nats(&self) -> PathBuf {
        self.path("nats")
    }

    /// The file of the server's list of users. After the first start a service keeps it up to date.
    pub fn users_file(&self) -> PathBuf {
        self.path("nats/users.conf")
    }

    /// Writes the server's configuration anew from the settings, and its list of users unless there is one already.
    pub fn write_server(
        &self,
        name: &str,
        listen: SocketAddr,
        tls: Option<&TlsSettings>,
        tenant: &TenantName,
        users: &[(User, UserNkey)],
    ) -> anyhow::Result<()> {
        let reloader = self.public_keys([User::Reloader])?.remove(0).1;
        let files = tls.map(|tls| tls.files(&self.0));
        let conf = server_conf(&Server {
            listen: &listen.to_string(),
            monitor: None,
            name,
            store: &self.path("nats/data"),
            tenant,
            users: "users.conf",
            reloader: &reloader,
            tls: files.as_ref().map(|files| (files.certificate.as_path(), files.key.as_path())),
        });
        write_private(&self.path("nats/nats.conf"), conf.as_bytes()).context("writing nats.conf")?;
        self.keep("nats/users.conf", || Ok(users_conf(users.iter().map(|(user, key)| (user, key))).into_bytes()))
    }
}
