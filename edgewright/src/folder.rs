//! The data folder of a hub or of a site: settings, seeds, tokens and the configuration of its NATS server.
//!
//! Everything here is made once and then stays, because keys and tokens are identities, and addresses are the operator's to
//! change. Each file is written whole, so a start that was killed is completed by the next one. Only the owner may read it.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use bus::{
    Jwt, Login, Members, User,
    server::{Server, make_streams_folder, server_conf},
};
use disk::{make_private_folder, take_data_folder, write_private};
use identity::{Authority, jwt, nats, tls::ClientConfig};
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
        take_data_folder(data).with_context(making)?;
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

    fn jwt_file(user: &User) -> String {
        format!("keys/nats/{user}.jwt")
    }

    fn accounts_file(&self) -> PathBuf {
        self.path("nats/accounts.conf")
    }

    /// The keys of the NATS server. Fails when they were never made.
    pub fn authority(&self, tenant: &TenantName) -> anyhow::Result<Authority> {
        Authority::open(&self.path("keys/authority"), &self.accounts_file(), tenant)
            .context("reading the server's keys")
    }

    /// Makes the keys of the NATS server that are missing, a seed for each of these users that has none, and the users' JWTs
    /// where their permissions changed. Then writes the server's configuration anew from the settings, and its accounts where
    /// they changed.
    pub fn keep_server(
        &self,
        name: &str,
        listen: SocketAddr,
        tls: Option<&TlsSettings>,
        tenant: &TenantName,
        members: Members,
        users: &[User],
    ) -> anyhow::Result<()> {
        let authority = Authority::keep(&self.path("keys/authority"), &self.accounts_file(), tenant);
        let authority = authority.context("making the server's keys")?;
        let now = jwt::now();
        for user in users {
            self.keep(&Self::seed_file(user), || Ok(nats::generate().0.into_bytes()))?;
            let key = self.public_key(user)?;
            let (path, next) = (self.path(&Self::jwt_file(user)), user.mint(&authority, &key, now, None));
            let held = disk::read_optional(&path).with_context(|| format!("reading {}", path.display()))?;
            let held = held.and_then(|held| jwt::read(String::from_utf8_lossy(&held).trim()).ok());
            let says_the_same =
                |held: jwt::Claims| jwt::read(&next).is_ok_and(|next| held == jwt::Claims { iat: held.iat, ..next });
            if !held.is_some_and(says_the_same) {
                write_private(&path, next.as_bytes()).with_context(|| format!("writing {}", path.display()))?;
            }
        }
        authority.keep_account(&members.template(), None, None, now).context("making the server's accounts")?;
        let files = tls.map(|tls| tls.files(&self.0));
        let server = Server {
            listen: &listen.to_string(),
            monitor: None,
            name,
            store: &self.path("nats/data"),
            authority: &authority,
            accounts: "accounts.conf",
            jwts: &self.path("nats/jwt"),
            log: &self.path("nats/server.log"),
            tls: files.as_ref().map(|files| (files.certificate.as_path(), files.key.as_path())),
        };
        make_streams_folder(&server).context("making the folder of the streams")?;
        let conf = server_conf(&server);
        write_private(&self.path("nats/nats.conf"), conf.as_bytes()).context("writing nats.conf")
    }

    /// What a user needs to connect to the server at this address. Fails when the user's seed was never made.
    pub fn login(&self, user: User, server: SocketAddr, tls: Option<Arc<ClientConfig>>) -> anyhow::Result<Login> {
        let url = format!("{}://{server}", nats_scheme(tls.is_some()));
        let jwt = Jwt::File(self.path(&Self::jwt_file(&user)));
        Ok(Login { url, tls, seed: self.line(&Self::seed_file(&user))?, jwt, user })
    }

    /// The public keys of users whose seeds were made.
    pub fn public_keys<'a>(&self, users: impl IntoIterator<Item = &'a User>) -> anyhow::Result<BTreeSet<UserNkey>> {
        users.into_iter().map(|user| self.public_key(user)).collect()
    }

    fn public_key(&self, user: &User) -> anyhow::Result<UserNkey> {
        let name = Self::seed_file(user);
        nats::public_key(&self.line(&name)?).with_context(|| format!("reading {}", self.path(&name).display()))
    }

    /// The folder of the NATS server's configuration and process id.
    pub fn nats(&self) -> PathBuf {
        self.path("nats")
    }
}
