//! A server's list of users while the server runs: written anew, then read by the server.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use margo::UserNkey;
use serde::Deserialize;

use crate::{Bus, User, server::users_conf};

/// The first pause before a stream or a consumer is asked for again that the server did not have. A server that reads its list
/// of users anew, as it does when a site or node joins and after each start, is without all streams for some milliseconds.
pub const RELOAD_PAUSE: Duration = Duration::from_millis(10);

/// The list of users of one server: a file that the server's configuration includes, and the connection that has the
/// server read it again.
pub struct UserList {
    file: PathBuf,
    reloader: Bus,
    /// Whether the server is known to have read the file as it is. False at first: an earlier process may have died
    /// between writing and reloading.
    in_force: bool,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    error: Option<ServerError>,
}

#[derive(Deserialize)]
struct ServerError {
    #[serde(default)]
    description: String,
}

impl UserList {
    /// The list in this file of the server that `reloader` is connected to, as [`User::Reloader`].
    pub fn new(file: PathBuf, reloader: Bus) -> Self {
        debug_assert_eq!(*reloader.user(), User::Reloader, "others lack the permission");
        Self { file, reloader, in_force: false }
    }

    /// The connection that has the server read the list.
    pub fn reloader(&self) -> &Bus {
        &self.reloader
    }

    /// Forgets that the server has read the list: the next [`UserList::put`] has it read again, also when nothing
    /// changed. For a new connection, behind which the server may have started with an older file.
    pub fn distrust(&mut self) {
        self.in_force = false;
    }

    /// Makes these the server's users: writes the file when it says something else, and has the server read it. When this
    /// returns `Ok`, they are in force; the value tells whether the file was another one.
    pub async fn put<'a>(&mut self, users: impl IntoIterator<Item = (&'a User, &'a UserNkey)>) -> anyhow::Result<bool> {
        let (file, text) = (self.file.clone(), users_conf(users));
        let written = disk::blocking(move || {
            let differs = disk::read_optional(&file)?.as_deref() != Some(text.as_bytes());
            if differs {
                // No secret, but nobody's business beside the server's.
                disk::write_private(&file, text.as_bytes())?;
            }
            Ok(differs)
        });
        let written = written.await.with_context(|| format!("writing the list of users {}", self.file.display()))?;
        self.in_force &= !written;
        self.keep().await?;
        Ok(written)
    }

    /// Has the server read the list as it stands, unless that is known to have happened.
    pub async fn keep(&mut self) -> anyhow::Result<()> {
        if !self.in_force {
            self.reload().await?;
            self.in_force = true;
        }
        Ok(())
    }

    async fn reload(&self) -> anyhow::Result<()> {
        if !self.reloader.is_connected() {
            bail!("the server is not connected");
        }
        let client = self.reloader.client();
        let subject = format!("$SYS.REQ.SERVER.{}.RELOAD", client.server_info().server_id);
        let answer = client.request(subject, "".into()).await.context("asking the server to read its list of users")?;
        let answer: Answer =
            serde_json::from_slice(&answer.payload).context("reading the server's answer to a reload")?;
        match answer.error {
            None => Ok(()),
            Some(error) => bail!("the server refused its list of users: {}", error.description),
        }
    }
}
