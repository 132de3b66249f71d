//! Third parties: each has an account of its own, which imports what the platform's account exports for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::PathBuf,
};

use margo::{ReaderName, UserNkey};
use nkeys::{KeyPair, KeyPairType};
use serde_json::{Value, json};

use super::{Authority, AuthorityError, Rights, Template, file_error, issue, limits, read_key, seed, write};

/// The most connections of a third party.
const READER_CONNECTIONS: u32 = 8;

/// A request that the platform's account answers to the account of a third party. The server changes the subject of its
/// answer into one of the asker's account, so no third party has anything published in that of the platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared {
    /// The subject, in which [`Shared::READER`] stands for the name of the third party.
    pub subject: String,
    /// Whether one request has many answers.
    pub many: bool,
}

impl Shared {
    /// The word for the name of the third party.
    pub const READER: &str = "{{reader}}";

    fn of(&self, reader: &ReaderName) -> String {
        self.subject.replace(Self::READER, reader.as_str())
    }
}

impl Template {
    /// What the platform's account exports for a third party.
    pub(super) fn exports(&self, reader: &ReaderName) -> Vec<Value> {
        let export = |shared: &Shared| {
            let (subject, answers) = (shared.of(reader), if shared.many { "Stream" } else { "Singleton" });
            json!({"name": subject, "subject": subject, "type": "service", "response_type": answers})
        };
        self.shared.iter().map(export).collect()
    }

    /// What stands below `nats` in the JWT of a third party's account: it has no streams, and imports what is exported for it.
    pub(super) fn account_of(&self, reader: &ReaderName, platform: &str) -> Value {
        let import = |shared: &Shared| {
            let subject = shared.of(reader);
            json!({"name": subject, "subject": subject, "account": platform, "type": "service"})
        };
        let imports: Vec<_> = self.shared.iter().map(import).collect();
        let mut limits = limits(0);
        limits["exports"] = json!(0);
        limits["conn"] = json!(READER_CONNECTIONS);
        json!({"type": "account", "version": 2, "limits": limits, "imports": imports})
    }
}

impl Authority {
    /// Returns the third parties that have an account. Blocks.
    pub fn readers(&self) -> Result<BTreeSet<ReaderName>, AuthorityError> {
        Ok(self.reader_keys()?.into_keys().collect())
    }

    fn readers_folder(&self) -> PathBuf {
        self.folder.join("readers")
    }

    pub(super) fn reader_keys(&self) -> Result<BTreeMap<ReaderName, KeyPair>, AuthorityError> {
        let folder = self.readers_folder();
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            entries => entries.map_err(file_error(&folder))?,
        };
        let mut keys = BTreeMap::new();
        for entry in entries {
            let file = entry.map_err(file_error(&folder))?.file_name().to_string_lossy().into_owned();
            // A file of another name is not ours, such as one that is being written.
            let Some(name) = file.strip_suffix(".seed").and_then(|name| name.parse().ok()) else { continue };
            match read_key(&folder, (&file, KeyPairType::Account)) {
                Ok(key) => keys.insert(name, key),
                // Whoever has no key has no account; what else the server has to know does not wait for it.
                Err(AuthorityError::Content { .. }) => continue,
                Err(error) => return Err(error),
            };
        }
        Ok(keys)
    }

    /// Makes the key of a third party's account, unless it has one, and mints the JWT of a user of that account. The account is
    /// there once [`Authority::keep_account`] was called and the server knows the result. Blocks.
    pub fn reader(
        &self,
        name: &ReaderName,
        template: &Template,
        key: &UserNkey,
        issued: u64,
    ) -> Result<String, AuthorityError> {
        let (folder, file) = (self.readers_folder(), format!("{name}.seed"));
        let path = folder.join(&file);
        if disk::read_optional(&path).map_err(file_error(&path))?.is_none() {
            write(&path, &seed(&KeyPair::new_account()))?;
        }
        let account = read_key(&folder, (&file, KeyPairType::Account))?;
        let publish = template.shared.iter().map(|shared| shared.of(name)).collect();
        let rights = Rights { publish, subscribe: vec!["_INBOX.>".to_owned()] };
        Ok(issue(&account, key.as_str().to_owned(), name.as_str(), issued, None, rights.user()))
    }

    /// Returns the accounts of third parties with their JWTs, as the file of accounts has them. Blocks.
    pub fn reader_accounts(&self) -> Result<Vec<(String, String)>, AuthorityError> {
        let text = disk::read_optional(&self.accounts_file).map_err(file_error(&self.accounts_file))?;
        let text = String::from_utf8_lossy(text.as_deref().unwrap_or_default()).into_owned();
        let accounts = text.lines().filter_map(|line| line.split_once(": "));
        let others = accounts.filter(|(account, _)| {
            account.starts_with('A') && *account != self.account && *account != self.system_account()
        });
        Ok(others.map(|(account, text)| (account.to_owned(), text.to_owned())).collect())
    }
}
