//! The repositories, which git-writer alone writes and git-observer only reads. Blocks.
//!
//! **Layout.** `fleet.git` says which clients there are; each client has a repository whose newest commit is all that
//! the client shall run, with the signed head. Where the files stand says [`git_state::layout`]. git-observer keeps
//! nothing of its own beside them.
//!
//! **Updates.** There are none here. git-writer may move a branch at any time. A tip names its files for ever, so
//! everything that is read of one commit belongs together; a later commit is seen by the next look. Packs may be
//! replaced at any time, so each piece of work opens the repository anew, and once more if it cannot read an object.
//!
//! **After a crash.** git-observer leaves nothing behind, and its next life looks at every client. git-writer
//! writes the objects of a commit before a branch names it, so a tip can be read whole wherever git-writer died. A power
//! cut may leave a tip that cannot be read until git-writer has started again; the look fails and is repeated.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use anyhow::Context;
use api::NodeState;
use bytes::Bytes;
use git_state::{Changes, Commit, CommitId, GitError, ListingError, Reader, Repository, TreeId, layout};
use margo::{ClientName, DeploymentId, Digest, NodeName, RepositoryName, TenantName};

use crate::{
    domain::{Tip, Trust, UntrustedTip},
    snapshot::{RECENT, Snapshot},
};

/// Why a commit is not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The commit is not to be believed.
    #[error(transparent)]
    Refused(#[from] UntrustedTip),
    /// The repository cannot be read.
    #[error(transparent)]
    Git(#[from] GitError),
}

impl From<ListingError> for ReadError {
    fn from(error: ListingError) -> Self {
        match error {
            ListingError::Git(error) => Self::Git(error),
            ListingError::Manifest(error) => Self::Refused(error.into()),
        }
    }
}

/// The repositories of one tenant.
#[derive(Clone)]
pub struct Store {
    /// The folder that holds a folder of repositories for each tenant.
    pub folder: PathBuf,
    pub tenant: TenantName,
}

/// What a client's repository has.
pub enum Found {
    /// The commit that was read before.
    Same(Arc<Snapshot>),
    /// Another one.
    Other(Box<Read>),
}

/// A commit that was checked.
pub struct Read {
    pub tip: Tip,
    pub tree: TreeId,
    /// How it differs from the commit that it was compared with.
    pub changes: Changes,
    /// The trace of the order that made the commit, from its trailer.
    pub traceparent: Option<String>,
}

/// Which attempt at a piece of work this is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Attempt {
    First,
    Last,
}

impl Store {
    /// Every client: those with a repository, and those that `fleet.git` knows and that are not retired, for they may get a
    /// repository any time.
    pub fn clients(&self) -> anyhow::Result<BTreeSet<ClientName>> {
        let mut clients: BTreeSet<_> =
            layout::clients(&self.folder, &self.tenant).context("listing the repositories")?.into_iter().collect();
        if let Some(fleet) = Repository::open(&self.folder, &self.tenant, &RepositoryName::Fleet)?
            && let Some(tip) = fleet.tip()?
        {
            let files = fleet.files_in(tip, "clients/")?;
            let known = files.iter().filter_map(|(path, content)| layout::client_of(path, content));
            clients.extend(known.filter(|client| client.state != NodeState::Retired).map(|client| client.name));
        }
        Ok(clients)
    }

    /// Reads the newest commit of a client's repository and checks it; `None` before the first. Only what differs from `before` is
    /// read.
    pub fn newest(
        &self,
        trust: &Trust<'_>,
        held: u64,
        before: Option<&Arc<Snapshot>>,
    ) -> Result<Option<Found>, ReadError> {
        let found = self.attempt(trust.client, |reader, attempt| {
            let Some(id) = reader.tip()? else { return Ok(None) };
            match before {
                Some(before) if before.commit() == id.to_string() => Ok(Some(Found::Same(before.clone()))),
                before => Ok(Some(Found::Other(Box::new(read(reader, attempt, id, trust, held, before)?)))),
            }
        });
        found.map(Option::flatten)
    }

    /// Reads a commit that somebody names in the same way; `None` when the text is no id of a commit, or when there is no
    /// repository.
    pub fn at(
        &self,
        trust: &Trust<'_>,
        commit: &str,
        before: Option<&Arc<Snapshot>>,
    ) -> Result<Option<Read>, ReadError> {
        let Ok(id) = commit.parse() else { return Ok(None) };
        self.attempt(trust.client, |reader, attempt| read(reader, attempt, id, trust, 0, before))
    }

    /// Works with a repository that is opened for it, and once more with another handle if an object cannot be read. `None`
    /// when there is no repository.
    fn attempt<T>(
        &self,
        client: &ClientName,
        mut work: impl FnMut(&Reader, Attempt) -> Result<T, ReadError>,
    ) -> Result<Option<T>, ReadError> {
        let Some(reader) = self.open(client)? else { return Ok(None) };
        match work(&reader, Attempt::First) {
            Err(ReadError::Git(_)) => {}
            done => return done.map(Some),
        }
        drop(reader);
        let Some(reader) = self.open(client)? else { return Ok(None) };
        work(&reader, Attempt::Last).map(Some)
    }

    fn open(&self, client: &ClientName) -> Result<Option<Reader>, GitError> {
        Reader::open(&self.folder, &self.tenant, &RepositoryName::Client(client.clone()))
    }
}

fn read(
    reader: &Reader,
    attempt: Attempt,
    id: CommitId,
    trust: &Trust<'_>,
    held: u64,
    before: Option<&Arc<Snapshot>>,
) -> Result<Read, ReadError> {
    let commit = reader.commit(id)?;
    let file = |path| Ok::<_, ReadError>(reader.file(&commit, path)?);
    let head = trust.check(&id.to_string(), file, held, |keys| commit.verify(keys))?;
    // What it was to be compared with may be what is missing.
    let before = before.filter(|_| attempt == Attempt::First);
    let list = before.map(|before| (before.tree, &before.tip.list));
    let (listing, changes) = reader.listing(&commit, list, RECENT)?;
    let tip = head.with_files(listing.version, listing.list)?;
    let traceparent = commit.message().trailer(layout::TRACEPARENT_TRAILER).map(str::to_owned);
    let changes = if before.is_some() { changes } else { Changes::default() };
    Ok(Read { tip, tree: listing.tree, changes, traceparent })
}

/// The files of one commit. The repository is opened when the first of them is read.
pub struct Files<'a> {
    store: &'a Store,
    client: &'a ClientName,
    commit: &'a str,
    open: Option<(Reader, Commit)>,
    /// How many bytes were read.
    pub bytes: usize,
}

impl<'a> Files<'a> {
    pub fn of(store: &'a Store, client: &'a ClientName, commit: &'a str) -> Self {
        Self { store, client, commit, open: None, bytes: 0 }
    }

    fn read(&mut self, path: &str) -> Result<Option<Vec<u8>>, GitError> {
        let file = match self.attempt(path) {
            Err(_) => self.attempt(path)?,
            Ok(file) => file,
        };
        self.bytes += file.as_ref().map_or(0, Vec::len);
        Ok(file)
    }

    /// The bytes of a deployment's document or, without a deployment, of the NODE file, which has this digest; `None` when the
    /// commit does not have it. They are read where they are not at hand.
    pub fn content(
        &mut self,
        snapshot: &Snapshot,
        node: &NodeName,
        deployment: Option<DeploymentId>,
        digest: Digest,
    ) -> Result<Option<Bytes>, GitError> {
        if let Some(content) = snapshot.recent.get(&digest) {
            return Ok(Some(content.clone()));
        }
        let path = match deployment {
            None => layout::node_identity(node),
            Some(deployment) => layout::document(node, &deployment),
        };
        Ok(self.read(&path)?.map(Bytes::from))
    }

    /// Reads one file through the handle that is open or else a new one. One that fails is not kept.
    fn attempt(&mut self, path: &str) -> Result<Option<Vec<u8>>, GitError> {
        let open = match self.open.take() {
            Some(open) => open,
            None => {
                let Ok(id) = self.commit.parse() else { return Ok(None) };
                let Some(reader) = self.store.open(self.client)? else { return Ok(None) };
                let commit = reader.commit(id)?;
                (reader, commit)
            }
        };
        let (reader, commit) = self.open.insert(open);
        let file = reader.file(commit, path);
        if file.is_err() {
            self.open = None;
        }
        file
    }
}
