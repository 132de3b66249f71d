//! `clients/*.yaml` of `fleet.git`, which git-writer writes and this service only reads. Blocks.

use std::path::PathBuf;

use anyhow::Context;
use git_state::{CommitId, Repository, layout};
use margo::{RepositoryName, TenantName};
use minter::Roll;

use crate::domain::roll;

/// Where the files of the clients stand in a commit.
const CLIENTS: &str = "clients/";

/// The repository of one tenant's fleet.
#[derive(Clone)]
pub struct Fleet {
    /// The folder that holds a folder of repositories for each tenant.
    pub folder: PathBuf,
    pub tenant: TenantName,
}

/// What a look found.
pub struct Found {
    /// The id of the folder with the clients' files; `None` before there is one.
    pub folder: Option<CommitId>,
    /// What follows from the files; `None` when the folder is the one that was seen before.
    pub roll: Option<Roll>,
}

impl Fleet {
    /// Looks at the newest commit. Fails when one of the files is not valid: what followed from the files before then stays in
    /// force, for nobody knows whom that file revokes.
    pub fn look(&self, seen: Option<CommitId>) -> anyhow::Result<Found> {
        let nothing = || Found { folder: None, roll: Some(Roll::default()) };
        let Some(fleet) = Repository::open(&self.folder, &self.tenant, &RepositoryName::Fleet)? else {
            return Ok(nothing());
        };
        let Some(tip) = fleet.tip()? else { return Ok(nothing()) };
        let folder = fleet.folder(tip, CLIENTS)?;
        if folder.is_some() && folder == seen {
            return Ok(Found { folder, roll: None });
        }
        let files = fleet.files_in(tip, CLIENTS)?;
        let clients = files.iter().map(|(path, content)| {
            layout::client_of(path, content).with_context(|| format!("{path} in fleet.git is not the file of a client"))
        });
        let clients = clients.collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Found { folder, roll: Some(roll(clients)) })
    }
}
