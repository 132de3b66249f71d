//! A client's repository, as git-writer makes it.

use std::{collections::BTreeMap, path::Path};

use git_state::{CommitId, Draft, FileChange, Message, Repository, Series, Writer, layout};
use identity::SigningKey;
use jiff::Timestamp;
use margo::{ClientName, KeySet, RepositoryName, TenantName};
use tempfile::TempDir;

pub struct Commits {
    folder: TempDir,
    writer: Writer,
    repository: Repository,
    tip: Option<CommitId>,
    files: BTreeMap<String, Vec<u8>>,
}

impl Commits {
    /// An empty repository of this client.
    pub fn new(client: &ClientName, key: &SigningKey) -> Self {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("key");
        key.save(&file).unwrap();
        let tenant = TenantName::default();
        let keys = KeySet { tenant: tenant.clone(), number: 1, keys: vec![key.public().to_string()] };
        let mut writer = Writer::new(folder.path(), &tenant, &keys, SigningKey::load(&file).unwrap()).unwrap();
        let repository = writer.open_or_create(&RepositoryName::Client(client.clone())).unwrap();
        Self { folder, writer, repository, tip: None, files: BTreeMap::new() }
    }

    /// The folder of all tenants.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// One commit after which the repository holds these files.
    pub fn commit(&mut self, files: BTreeMap<String, Vec<u8>>, trace: &str) -> CommitId {
        let changed = files.iter().filter(|(path, content)| self.files.get(*path) != Some(content));
        let changed = changed.map(|(path, content)| (path, Some(content.clone())));
        let gone = self.files.keys().filter(|path| !files.contains_key(*path)).map(|path| (path, None));
        let change = |(path, content): (&String, Option<Vec<u8>>)| FileChange {
            path: path.clone().try_into().unwrap(),
            content,
        };
        let changes: Vec<_> = changed.chain(gone).map(change).collect();
        let message = Message::new("order").with(layout::TRACEPARENT_TRAILER, trace);
        let draft = Draft { author: "ada", message: &message, changes: &changes, at: Timestamp::UNIX_EPOCH };
        let mut series = Series::on(&self.repository, self.tip);
        let to = self.writer.write(&mut series, draft).unwrap();
        for moved in self.writer.advance(vec![series]) {
            moved.unwrap();
        }
        (self.tip, self.files) = (Some(to), files);
        to
    }
}
