//! Replacing the key that signs commits and heads, in a hub's data folder. Each step may be repeated after a crash.
//!
//! A site believes the keys that KEYS names, which the root key signs. So a new key comes into KEYS beside the old one; then
//! git-writer signs with it, and signs every repository anew; then the old one goes out of KEYS.

use std::fs;

use anyhow::{Context, ensure};
use identity::{SigningKey, trust};
use margo::{KeySet, TenantName};

use crate::folder::Folder;

const KEY: &str = "keys/git-writer";
const NEXT: &str = "keys/git-writer.next";
const ROOT: &str = "keys/root";
const KEYS: &str = "keys/KEYS";
const KEYS_SIGNATURE: &str = "keys/KEYS.sig";

/// Makes a new signing key and names it in a new KEYS beside those in force. git-writer takes both when it starts again.
/// Returns the new key.
pub fn rotate(folder: &Folder) -> anyhow::Result<String> {
    let path = folder.path(NEXT);
    let next = if path.exists() { SigningKey::load(&path)? } else { new_key(folder)? };
    let (mut set, name) = (read(folder)?, next.public().to_string());
    if !set.keys.contains(&name) {
        ensure!(set.keys.len() < 16, "KEYS names 16 keys already: revoke the old ones first");
        set.number += 1;
        set.keys.push(name.clone());
    }
    write(folder, &set)?;
    fs::rename(&path, folder.path(KEY)).context("putting the new key in its place")?;
    Ok(name)
}

/// Takes all keys but the one that git-writer signs with out of KEYS. Fails while a repository is left that this key has not
/// signed, unless the old keys are in wrong hands and `anyway` says that such repositories are to stand still. Returns how
/// many keys were revoked.
pub fn revoke(folder: &Folder, anyway: bool) -> anyhow::Result<usize> {
    let own = SigningKey::load(&folder.path(KEY))?.public();
    let set = read(folder)?;
    ensure!(set.keys.contains(&own.to_string()), "KEYS does not name the key of git-writer: rotate it first");
    if set.keys.len() == 1 {
        // Signed again, in case that the last step was cut short.
        write(folder, &set)?;
        return Ok(0);
    }
    let [keys, signature] = [KEYS, KEYS_SIGNATURE].map(|name| fs::read(folder.path(name)));
    let (keys, signature) = (keys.context("reading KEYS")?, signature.context("reading KEYS.sig")?);
    let left = git_writer::outdated(&folder.path("repositories"), &set.tenant, &own, &keys, &signature)?;
    if let (Some(first), false) = (left.first(), anyway) {
        anyhow::bail!(
            "{} repositories are not signed with the key of git-writer yet, such as {first}; they would stand still. Start \
             git-writer again if it runs with the old key, and wait until `edgectl co status` shows none",
            left.len()
        );
    }
    let revoked = set.keys.len() - 1;
    write(folder, &KeySet { number: set.number + 1, keys: vec![own.to_string()], ..set })?;
    Ok(revoked)
}

fn new_key(folder: &Folder) -> anyhow::Result<SigningKey> {
    let key = SigningKey::generate("git-writer")?;
    key.save(&folder.path(NEXT))?;
    Ok(key)
}

fn read(folder: &Folder) -> anyhow::Result<KeySet> {
    let bytes = fs::read(folder.path(KEYS)).context("reading KEYS (`edgewright init` makes it)")?;
    let set = KeySet::parse(&bytes).context("reading KEYS")?;
    ensure!(set.tenant == TenantName::default(), "KEYS is of tenant {}", set.tenant);
    Ok(set)
}

/// The signature last: after a crash in between, repeating the step signs what is there.
fn write(folder: &Folder, set: &KeySet) -> anyhow::Result<()> {
    let root = SigningKey::load(&folder.path(ROOT));
    let root = root.context("the tenant's root key has to be in keys/root while KEYS is signed")?;
    let (bytes, signature) = trust::sign_keys(&root, set)?;
    disk::write_private(&folder.path(KEYS), &bytes).context("writing KEYS")?;
    disk::write_private(&folder.path(KEYS_SIGNATURE), signature.as_bytes()).context("writing KEYS.sig")
}

#[cfg(test)]
mod tests {
    use git_state::{Draft, FileChange, Message, Series, Writer, layout};
    use margo::RepositoryName;

    use super::*;

    /// The data folder of a hub with a root key, a signing key and the KEYS of both.
    fn hub() -> (tempfile::TempDir, Folder) {
        let data = tempfile::tempdir().unwrap();
        let folder = Folder::open(data.path());
        fs::create_dir_all(folder.path("keys")).unwrap();
        fs::create_dir_all(folder.path("repositories")).unwrap();
        let [root, key] = ["root", "git-writer"].map(|name| SigningKey::generate(name).unwrap());
        root.save(&folder.path(ROOT)).unwrap();
        key.save(&folder.path(KEY)).unwrap();
        let keys = vec![key.public().to_string()];
        write(&folder, &KeySet { tenant: TenantName::default(), number: 1, keys }).unwrap();
        (data, folder)
    }

    fn public(folder: &Folder) -> String {
        SigningKey::load(&folder.path(KEY)).unwrap().public().to_string()
    }

    /// Commits KEYS to a client's repository, as git-writer does.
    fn commit(folder: &Folder) {
        let (tenant, set, key) =
            (TenantName::default(), read(folder).unwrap(), SigningKey::load(&folder.path(KEY)).unwrap());
        let mut writer = Writer::new(&folder.path("repositories"), &tenant, &set, key).unwrap();
        let plant = writer.open_or_create(&RepositoryName::Client("plant".parse().unwrap())).unwrap();
        let mut series = Series::on(&plant, plant.tip().unwrap());
        let put = |path: &str, file| FileChange {
            path: path.to_owned().try_into().unwrap(),
            content: Some(fs::read(folder.path(file)).unwrap()),
        };
        let changes = [put(layout::KEYS, KEYS), put(layout::KEYS_SIGNATURE, KEYS_SIGNATURE)];
        #[expect(clippy::disallowed_methods, reason = "a commit has a time")]
        let at = jiff::Timestamp::now();
        let draft = Draft { author: "git-writer", message: &Message::new("sign"), changes: &changes, at };
        writer.write(&mut series, draft).unwrap();
        writer.advance(vec![series]).remove(0).unwrap();
    }

    #[test]
    fn a_key_is_revoked_when_no_repository_needs_it_any_more() {
        let (_data, folder) = hub();
        commit(&folder);
        let old = public(&folder);
        let new = rotate(&folder).unwrap();
        let set = read(&folder).unwrap();
        assert_eq!((set.number, &set.keys, public(&folder)), (2, &vec![old, new.clone()], new.clone()));
        let refused = revoke(&folder, false).unwrap_err().to_string();
        assert!(refused.contains("1 repositories") && refused.contains("clients/plant"), "{refused}");
        assert_eq!(read(&folder).unwrap(), set);

        commit(&folder);
        assert_eq!(revoke(&folder, false).unwrap(), 1);
        let set = read(&folder).unwrap();
        assert_eq!((set.number, &set.keys), (3, &vec![new]));
        let root = SigningKey::load(&folder.path(ROOT)).unwrap().public();
        let [keys, signature] = [KEYS, KEYS_SIGNATURE].map(|name| fs::read(folder.path(name)).unwrap());
        assert_eq!(trust::verify_keys(&root, &set.tenant, 3, &keys, &signature).unwrap(), set);
        assert_eq!(revoke(&folder, false).unwrap(), 0, "nothing is left to be revoked");
    }

    #[test]
    fn a_stolen_key_may_be_revoked_at_once() {
        let (_data, folder) = hub();
        commit(&folder);
        let new = rotate(&folder).unwrap();
        assert_eq!(revoke(&folder, true).unwrap(), 1);
        assert_eq!(read(&folder).unwrap().keys, [new]);
    }

    #[test]
    fn a_step_that_was_cut_short_is_finished_by_repeating_it() {
        let (_data, folder) = hub();
        // The new key was made, and nothing else happened; then KEYS was written without its signature.
        let next = SigningKey::generate("git-writer").unwrap();
        next.save(&folder.path(NEXT)).unwrap();
        let mut set = read(&folder).unwrap();
        (set.number, set.keys) = (2, [set.keys, vec![next.public().to_string()]].concat());
        fs::write(folder.path(KEYS), set.to_bytes()).unwrap();
        assert_eq!(rotate(&folder).unwrap(), next.public().to_string());
        assert_eq!((read(&folder).unwrap(), public(&folder)), (set, next.public().to_string()));
        let root = SigningKey::load(&folder.path(ROOT)).unwrap().public();
        let [keys, signature] = [KEYS, KEYS_SIGNATURE].map(|name| fs::read(folder.path(name)).unwrap());
        trust::verify_keys(&root, &TenantName::default(), 2, &keys, &signature).unwrap();
    }
}
