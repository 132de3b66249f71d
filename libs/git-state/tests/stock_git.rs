//! Stock git reads and verifies what the writer wrote, and the reader reads what stock git wrote.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
};

use git_state::{CommitId, Draft, FileChange, GitError, Message, Move, Repository, Unsynced, VerifyError, Writer};
use identity::SigningKey;
use jiff::Timestamp;
use margo::RepositoryName;
use margo::{KeySet, TenantName};
use tempfile::TempDir;

struct World {
    folder: TempDir,
    keys: KeySet,
    key: std::path::PathBuf,
}

impl World {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let key = SigningKey::generate("git-writer").unwrap();
        let keys = KeySet { tenant: TenantName::default(), number: 1, keys: vec![key.public().to_string()] };
        let path = folder.path().join("key");
        key.save(&path).unwrap();
        Self { folder, keys, key: path }
    }

    fn writer(&self) -> Result<Writer, GitError> {
        let key = SigningKey::load(&self.key).unwrap();
        Writer::new(self.folder.path(), &TenantName::default(), &self.keys, key)
    }

    fn open(&self, name: &RepositoryName) -> Option<Repository> {
        Repository::open(self.folder.path(), &TenantName::default(), name).unwrap()
    }

    fn git(&self, repository: &Repository, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .arg("-C")
            .arg(repository.path())
            .args(arguments)
            .env("HOME", self.folder.path())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_AUTHOR_NAME", "mallory")
            .env("GIT_AUTHOR_EMAIL", "mallory@example.com")
            .env("GIT_COMMITTER_NAME", "mallory")
            .env("GIT_COMMITTER_EMAIL", "mallory@example.com")
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(output.status.success(), "git {arguments:?}: {text}");
        text
    }
}

fn client() -> RepositoryName {
    RepositoryName::Client("plant".parse().unwrap())
}

fn put(path: &str, content: &str) -> FileChange {
    FileChange { path: path.to_owned().try_into().unwrap(), content: Some(content.into()) }
}

fn delete(path: &str) -> FileChange {
    FileChange { content: None, ..put(path, "") }
}

fn write(
    writer: &Writer,
    repository: &Repository,
    parent: Option<CommitId>,
    subject: &str,
    changes: &[FileChange],
    unsynced: &mut Unsynced,
) -> CommitId {
    let message = Message::new(subject).with("Order", "1").with("Handled", "deployment-registry=1");
    let draft = Draft { author: "Ada <Lovelace>.", message: &message, changes, at: Timestamp::now() };
    writer.write(repository, parent, draft, unsynced).unwrap()
}

/// Writes commits one on top of the other, then moves the branch once.
fn commit(writer: &Writer, repository: &Repository, steps: &[&[FileChange]]) -> CommitId {
    let from = repository.tip().unwrap();
    let mut unsynced = Unsynced::default();
    let tip = steps
        .iter()
        .fold(from, |parent, changes| Some(write(writer, repository, parent, "change it", changes, &mut unsynced)));
    let to = tip.unwrap();
    writer.advance(unsynced, &[Move { repository, from, to }]).remove(0).unwrap();
    to
}

#[test]
fn stock_git_believes_our_commits_and_finds_nothing_wrong() {
    let world = World::new();
    let writer = world.writer().unwrap();
    for (name, branch) in [(RepositoryName::Fleet, "main"), (client(), "desired")] {
        let repository = writer.open_or_create(&name).unwrap();
        // One commit has enough objects for a sync of the whole file system, and one changes nothing.
        let many: Vec<_> = (0..120).map(|at| put(&format!("nodes/n{at}/VERSION"), &at.to_string())).collect();
        let tip = commit(&writer, &repository, &[&[put("VERSION", "1\n")], &many, &[], &[delete("nodes/n7/VERSION")]]);

        let log = world.git(&repository, &["log", "--show-signature"]);
        assert_eq!(log.matches("Good \"git\" signature for git-writer@default.edgewright.local").count(), 4, "{log}");
        assert!(log.contains("Author: Ada Lovelace <ada-lovelace@default.edgewright.local>"), "{log}");
        assert_eq!(world.git(&repository, &["fsck", "--strict", "--no-progress"]), "");
        assert_eq!(world.git(&repository, &["symbolic-ref", "HEAD"]).trim(), format!("refs/heads/{branch}"));
        assert_eq!(world.git(&repository, &["rev-parse", branch]).trim(), tip.to_string());
        let trailer = ["log", "-1", "--format=%(trailers:key=Handled,valueonly)"];
        assert_eq!(world.git(&repository, &trailer).trim(), "deployment-registry=1");
        assert_eq!(world.git(&repository, &["show", &format!("{branch}:VERSION")]), "1\n");
    }
}

#[test]
fn what_is_written_is_read_back() {
    let world = World::new();
    let writer = world.writer().unwrap();
    assert!(world.open(&client()).is_none());
    let repository = writer.open_or_create(&client()).unwrap();
    assert_eq!(repository.tip().unwrap(), None);
    let first = commit(&writer, &repository, &[&[put("a/b/c", "1"), put("d", "2")]]);
    assert_eq!(repository.files_in(first, "a/").unwrap().into_keys().collect::<Vec<_>>(), ["a/b/c"]);
    assert!(repository.files_in(first, "b/").unwrap().is_empty());
    let tip = commit(&writer, &repository, &[&[delete("a/b/c"), delete("none/at/all")]]);

    let read = world.open(&client()).unwrap();
    assert_eq!(read.tip().unwrap(), Some(tip));
    assert_eq!(read.files(tip).unwrap().into_iter().collect::<Vec<_>>(), [("d".to_owned(), b"2".to_vec())]);
    assert_eq!(read.file(tip, "d").unwrap().unwrap(), b"2");
    assert_eq!(read.file(tip, "a/b/c").unwrap(), None);
    assert_eq!(read.message(tip).unwrap().trailer("Order"), Some("1"));
    read.verify(tip, &world.keys).unwrap();
}

#[test]
fn a_stale_writer_is_refused_and_the_others_go_on() {
    let world = World::new();
    let writer = world.writer().unwrap();
    let (fleet, plant) =
        (writer.open_or_create(&RepositoryName::Fleet).unwrap(), writer.open_or_create(&client()).unwrap());
    let tip = commit(&writer, &fleet, &[&[put("a", "1")]]);
    let mut unsynced = Unsynced::default();
    let stale = write(&writer, &fleet, None, "stale", &[], &mut unsynced);
    let first = write(&writer, &plant, None, "first", &[], &mut unsynced);
    let moves =
        [Move { repository: &fleet, from: None, to: stale }, Move { repository: &plant, from: None, to: first }];
    let results = writer.advance(unsynced, &moves);
    assert!(matches!(results[0], Err(GitError::Moved { .. })), "{results:?}");
    assert!(results[1].is_ok(), "{results:?}");
    assert_eq!((fleet.tip().unwrap(), plant.tip().unwrap()), (Some(tip), Some(first)));
}

#[test]
fn what_a_killed_writer_left_blocks_nobody() {
    let world = World::new();
    let writer = world.writer().unwrap();
    let repository = writer.open_or_create(&client()).unwrap();
    let tip = commit(&writer, &repository, &[&[put("a", "1")]]);
    assert!(matches!(world.writer(), Err(GitError::Locked { .. })));
    drop(writer);

    File::create(repository.path().join("refs/heads/desired.lock")).unwrap();
    let half = world.folder.path().join("default/fleet.git.new");
    fs::create_dir_all(half.join("objects")).unwrap();
    let writer = world.writer().unwrap();
    let repository = writer.open_or_create(&client()).unwrap();
    assert_ne!(commit(&writer, &repository, &[&[put("a", "2")]]), tip);
    writer.open_or_create(&RepositoryName::Fleet).unwrap();
    assert!(!half.exists());
}

#[test]
fn writing_goes_on_after_stock_git_has_packed() {
    let world = World::new();
    let writer = world.writer().unwrap();
    let repository = writer.open_or_create(&client()).unwrap();
    commit(&writer, &repository, &[&[put("a", "1")]]);
    world.git(&repository, &["gc", "--quiet"]);
    assert!(!Path::new(&repository.path().join("refs/heads/desired")).exists());
    let tip = commit(&writer, &repository, &[&[put("b", "1")]]);
    let again = writer.open(&client()).unwrap().unwrap();
    assert_eq!(again.tip().unwrap(), Some(tip));
    assert_eq!(again.files(tip).unwrap().len(), 2);
    world.git(&repository, &["fsck", "--strict"]);
}

#[test]
fn a_commit_of_somebody_else_is_not_believed() {
    let world = World::new();
    let writer = world.writer().unwrap();
    let repository = writer.open_or_create(&client()).unwrap();
    let tip = commit(&writer, &repository, &[&[put("a", "1")]]);
    let unsigned =
        world.git(&repository, &["commit-tree", &format!("{tip}^{{tree}}"), "-p", &tip.to_string(), "-m", "x"]);
    world.git(&repository, &["update-ref", "refs/heads/desired", unsigned.trim()]);
    let tip = repository.tip().unwrap().unwrap();
    assert_eq!(tip.to_string(), unsigned.trim());
    assert!(matches!(repository.verify(tip, &world.keys), Err(VerifyError::Unsigned(_))));

    let other = World::new();
    let theirs = other.writer().unwrap();
    let repository = theirs.open_or_create(&client()).unwrap();
    let tip = commit(&theirs, &repository, &[&[put("a", "1")]]);
    assert!(matches!(repository.verify(tip, &world.keys), Err(VerifyError::Untrusted { .. })));
}
