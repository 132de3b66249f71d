//! The repositories, which git-writer alone writes and git-observer only reads. Blocks.
//!
//! **Layout.** `fleet.git` says which clients there are; each client has a repository whose newest commit is all that
//! the client shall run, with the signed head. Where the files stand says [`git_state::layout`]. git-observer keeps
//! nothing of its own beside them.
//!
//! **Updates.** There are none here. git-writer may move a branch at any time. A tip names its files for ever, so
//! everything that is read through one [`Candidate`] belongs together; a later commit is seen by the next look.
//!
//! **After a crash.** git-observer leaves nothing behind, and its next life looks at every client. git-writer
//! writes the objects of a commit before a branch names it, so a tip can be read whole wherever git-writer died. A power
//! cut may leave a tip that cannot be read until git-writer has started again; the look fails and is repeated.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use anyhow::Context;
use api::NodeState;
use git_state::{CommitId, Repository, VerifyError, layout};
use margo::RepositoryName;
use margo::{ClientName, KeySet, TenantName};

/// One commit of a client's repository, to read files of it.
pub struct At {
    repository: Repository,
    id: CommitId,
}

impl At {
    /// One file of the commit; `None` when the commit does not have it.
    pub fn file(&self, path: &str) -> anyhow::Result<Option<Vec<u8>>> {
        Ok(self.repository.file(self.id, path)?)
    }
}

/// The repositories of one tenant.
#[derive(Clone)]
pub struct Store {
    /// The folder that holds a folder of repositories for each tenant.
    pub folder: PathBuf,
    pub tenant: TenantName,
}

/// The tip of a client's repository, of which nothing is believed yet.
pub struct Candidate {
    repository: Repository,
    id: CommitId,
    pub files: BTreeMap<String, Vec<u8>>,
    /// The trace of the order that made the commit, from its trailer.
    pub traceparent: Option<String>,
}

impl Candidate {
    pub fn commit(&self) -> String {
        self.id.to_string()
    }

    /// Fails unless one of these keys signed the commit.
    pub fn verify(&self, keys: &KeySet) -> Result<(), VerifyError> {
        self.repository.verify(self.id, keys)
    }
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

    /// A commit of a client's repository; `None` when the text is no id of a commit, or when there is no repository.
    pub fn at(&self, client: &ClientName, commit: &str) -> anyhow::Result<Option<At>> {
        let Ok(id) = commit.parse::<CommitId>() else { return Ok(None) };
        Ok(self.repository(client)?.map(|repository| At { repository, id }))
    }

    fn repository(&self, client: &ClientName) -> anyhow::Result<Option<Repository>> {
        Ok(Repository::open(&self.folder, &self.tenant, &RepositoryName::Client(client.clone()))?)
    }

    /// The tip of a client's repository; `None` before the first commit.
    pub fn candidate(&self, client: &ClientName) -> anyhow::Result<Option<Candidate>> {
        let Some(repository) = self.repository(client)? else { return Ok(None) };
        let Some(id) = repository.tip()? else { return Ok(None) };
        Self::read(repository, id)
    }

    /// The same of another commit, which may be any of the client's repository.
    pub fn candidate_at(&self, client: &ClientName, commit: &str) -> anyhow::Result<Option<Candidate>> {
        let Some(At { repository, id }) = self.at(client, commit)? else { return Ok(None) };
        Self::read(repository, id)
    }

    fn read(repository: Repository, id: CommitId) -> anyhow::Result<Option<Candidate>> {
        let traceparent = repository.message(id)?.trailer(layout::TRACEPARENT_TRAILER).map(str::to_owned);
        let files = repository.files(id)?;
        Ok(Some(Candidate { repository, id, files, traceparent }))
    }
}
