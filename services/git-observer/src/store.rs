//! The repositories, read. Blocks.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use anyhow::Context;
use bus::Repository as Name;
use git_state::{CommitId, Repository, VerifyError, layout};
use margo::{ClientName, KeySet, TenantName};

/// A tenant's repositories.
#[derive(Clone)]
pub struct Store {
    /// The folder of all tenants.
    pub folder: PathBuf,
    /// Whose.
    pub tenant: TenantName,
}

/// A client's tip, not believed yet.
pub struct Candidate {
    repository: Repository,
    id: CommitId,
    /// Its files.
    pub files: BTreeMap<String, Vec<u8>>,
    /// The trace it belongs to.
    pub traceparent: Option<String>,
}

impl Candidate {
    /// The commit's id.
    pub fn commit(&self) -> String {
        self.id.to_string()
    }

    /// Whether a key in force signed the commit.
    pub fn verify(&self, keys: &KeySet) -> Result<(), VerifyError> {
        self.repository.verify(self.id, keys)
    }
}

impl Store {
    /// Everybody who needs a consumer: clients with a repository, and those that `fleet.git` knows and that may come.
    pub fn clients(&self) -> anyhow::Result<BTreeSet<ClientName>> {
        let mut clients: BTreeSet<_> =
            layout::clients(&self.folder, &self.tenant).context("listing the repositories")?.into_iter().collect();
        if let Some(fleet) = Repository::open(&self.folder, &self.tenant, &Name::Fleet)?
            && let Some(tip) = fleet.tip()?
        {
            let files = fleet.files_in(tip, "clients/")?;
            let known = files.iter().filter_map(|(path, content)| layout::client_of(path, content));
            clients.extend(known.filter(|client| client.state != "retired").map(|client| client.name));
        }
        Ok(clients)
    }

    /// A client's tip; `None` before the first commit.
    pub fn candidate(&self, client: &ClientName) -> anyhow::Result<Option<Candidate>> {
        let Some(repository) = Repository::open(&self.folder, &self.tenant, &Name::Client(client.clone()))? else {
            return Ok(None);
        };
        let Some(id) = repository.tip()? else { return Ok(None) };
        let traceparent = repository.message(id)?.trailer(layout::TRACEPARENT_TRAILER).map(str::to_owned);
        let files = repository.files(id)?;
        Ok(Some(Candidate { repository, id, files, traceparent }))
    }
}
