//! Stock git reads and verifies what the writer wrote, and the reader reads what stock git wrote.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use git_state::{
    CommitId, Draft, FileChange, GitError, Message, Prepared, Repository, Series, VerifyError, Writer, layout,
};
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
        self.git_with(repository, arguments, Stdio::null())
    }

    fn git_with(&self, repository: &Repository, arguments: &[&str], input: Stdio) -> String {
        let output = Command::new("git")
            .stdin(input)
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

fn write(writer: &Writer, series: &mut Series, subject: &str, changes: &[FileChange]) -> CommitId {
    let message = Message::new(subject).with("Order", "1").with("Handled", "deployment-registry=1");
    let draft = Draft { author: "Ada <Lovelace>.", message: &message, changes, at: Timestamp::now() };
    writer.write(series, draft).unwrap()
}

/// Writes commits one on top of the other, then moves the branch once.
fn commit(writer: &mut Writer, repository: &Repository, steps: &[&[FileChange]]) -> CommitId {
    let mut series = Series::on(repository, repository.tip().unwrap());
    let tip = steps.iter().map(|changes| write(writer, &mut series, "change it", changes)).last().unwrap();
    writer.advance(vec![series]).remove(0).unwrap();
    tip
}

#[test]
fn stock_git_believes_our_commits_and_finds_nothing_wrong() {
    let world = World::new();
    let mut writer = world.writer().unwrap();
    for (name, branch) in [(RepositoryName::Fleet, "main"), (client(), "desired")] {
        let repository = writer.open_or_create(&name).unwrap();
        // One commit has many objects, and one changes nothing.
        let many: Vec<_> = (0..120).map(|at| put(&format!("nodes/n{at}/VERSION"), &at.to_string())).collect();
        let tip =
            commit(&mut writer, &repository, &[&[put("VERSION", "1\n")], &many, &[], &[delete("nodes/n7/VERSION")]]);

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
    let mut writer = world.writer().unwrap();
    assert!(world.open(&client()).is_none());
    let repository = writer.open_or_create(&client()).unwrap();
    assert_eq!(repository.tip().unwrap(), None);
    let first = commit(&mut writer, &repository, &[&[put("a/b/c", "1"), put("d", "2")]]);
    assert_eq!(repository.files_in(first, "a/").unwrap().into_keys().collect::<Vec<_>>(), ["a/b/c"]);
    assert!(repository.files_in(first, "b/").unwrap().is_empty());
    let tip = commit(&mut writer, &repository, &[&[delete("a/b/c"), delete("none/at/all")]]);

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
    let mut writer = world.writer().unwrap();
    let (fleet, plant) =
        (writer.open_or_create(&RepositoryName::Fleet).unwrap(), writer.open_or_create(&client()).unwrap());
    let tip = commit(&mut writer, &fleet, &[&[put("a", "1")]]);
    let (mut stale, mut fresh) = (Series::on(&fleet, None), Series::on(&plant, None));
    write(&writer, &mut stale, "stale", &[]);
    let first = write(&writer, &mut fresh, "first", &[]);
    let results = writer.advance(vec![stale, fresh]);
    assert!(matches!(results[0], Err(GitError::Moved { .. })), "{results:?}");
    assert!(results[1].is_ok(), "{results:?}");
    assert_eq!((fleet.tip().unwrap(), plant.tip().unwrap()), (Some(tip), Some(first)));
}

#[test]
fn what_follows_from_the_fleet_is_refused_with_it_and_taken_with_it() {
    let world = World::new();
    let mut writer = world.writer().unwrap();
    let [port, plant] = ["port", "plant"].map(|name| RepositoryName::Client(name.parse().unwrap()));
    let [fleet, port, plant] = [RepositoryName::Fleet, port, plant].map(|name| writer.open_or_create(&name).unwrap());
    let tip = commit(&mut writer, &fleet, &[&[put("a", "1")]]);
    for (from, comes_about) in [(None, false), (Some(tip), true)] {
        let mut series = [Series::on(&fleet, from), Series::on(&port, None), Series::on(&plant, plant.tip().unwrap())];
        for series in &mut series {
            write(&writer, series, "change it", &[]);
        }
        series[1].follow_fleet();
        let results = writer.advance(series.into());
        assert_eq!(results[0].is_ok(), comes_about, "{results:?}");
        assert_eq!(matches!(results[1], Err(GitError::FleetRefused)), !comes_about, "{results:?}");
        assert!(results[2].is_ok(), "{results:?}");
        assert_eq!(port.tip().unwrap().is_some(), comes_about);
    }
}

#[test]
fn what_a_killed_writer_left_blocks_nobody() {
    let world = World::new();
    let mut writer = world.writer().unwrap();
    let repository = writer.open_or_create(&client()).unwrap();
    let tip = commit(&mut writer, &repository, &[&[put("a", "1")]]);
    assert!(matches!(world.writer(), Err(GitError::Locked { .. })));
    drop(writer);

    File::create(repository.path().join("refs/heads/desired.lock")).unwrap();
    let half = world.folder.path().join("default/fleet.git.new");
    fs::create_dir_all(half.join("objects")).unwrap();
    let mut writer = world.writer().unwrap();
    let repository = writer.open_or_create(&client()).unwrap();
    assert_ne!(commit(&mut writer, &repository, &[&[put("a", "2")]]), tip);
    writer.open_or_create(&RepositoryName::Fleet).unwrap();
    assert!(!half.exists());
}

#[test]
fn writing_goes_on_after_stock_git_has_packed() {
    let world = World::new();
    let mut writer = world.writer().unwrap();
    let repository = writer.open_or_create(&client()).unwrap();
    commit(&mut writer, &repository, &[&[put("a", "1")]]);
    world.git(&repository, &["gc", "--quiet"]);
    assert!(!Path::new(&repository.path().join("refs/heads/desired")).exists());
    let tip = commit(&mut writer, &repository, &[&[put("b", "1")]]);
    let again = writer.open(&client()).unwrap().unwrap();
    assert_eq!(again.tip().unwrap(), Some(tip));
    assert_eq!(again.files(tip).unwrap().len(), 2);
    world.git(&repository, &["fsck", "--strict"]);
}

#[test]
fn a_commit_of_somebody_else_is_not_believed() {
    let world = World::new();
    let mut writer = world.writer().unwrap();
    let repository = writer.open_or_create(&client()).unwrap();
    let tip = commit(&mut writer, &repository, &[&[put("a", "1")]]);
    let unsigned =
        world.git(&repository, &["commit-tree", &format!("{tip}^{{tree}}"), "-p", &tip.to_string(), "-m", "x"]);
    world.git(&repository, &["update-ref", "refs/heads/desired", unsigned.trim()]);
    let tip = repository.tip().unwrap().unwrap();
    assert_eq!(tip.to_string(), unsigned.trim());
    assert!(matches!(repository.verify(tip, &world.keys), Err(VerifyError::Unsigned(_))));

    let other = World::new();
    let mut theirs = other.writer().unwrap();
    let repository = theirs.open_or_create(&client()).unwrap();
    let tip = commit(&mut theirs, &repository, &[&[put("a", "1")]]);
    assert!(matches!(repository.verify(tip, &world.keys), Err(VerifyError::Untrusted { .. })));
}

/// A copy of a folder with everything in it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in from.read_dir().unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn files(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    folder.read_dir().unwrap().map(|entry| entry.unwrap().path())
}

fn name_of(path: &Path) -> &std::ffi::OsStr {
    path.file_name().unwrap()
}

/// Leaves of a file, after a power cut, its name without its content.
fn empty(path: &Path) {
    fs::remove_file(path).unwrap();
    File::create(path).unwrap();
}

#[test]
fn what_was_promised_is_there_after_a_power_cut_that_left_nothing_but_the_journal() {
    let world = World::new();
    let mut writer = world.writer().unwrap();
    let names = [RepositoryName::Fleet, client()];
    let repositories = names.each_ref().map(|name| writer.open_or_create(name).unwrap());
    for repository in &repositories {
        commit(&mut writer, repository, &[&[put("a", "1")]]);
    }
    writer.rest().unwrap();
    let (home, before) = (world.folder.path().join("default"), TempDir::new().unwrap());
    copy(&home, before.path());

    // A group of two repositories, and one more on top of it.
    let series = repositories.each_ref().map(|repository| {
        let mut series = Series::on(repository, repository.tip().unwrap());
        write(&writer, &mut series, "two", &[put("b/c", "2")]);
        write(&writer, &mut series, "three", &[put("b/d", "3")]);
        series
    });
    writer.advance(series.into()).into_iter().for_each(Result::unwrap);
    commit(&mut writer, &repositories[1], &[&[delete("a")]]);
    let tips = repositories.each_ref().map(|repository| repository.tip().unwrap());
    drop(writer);

    // Nothing that was not synced is there, or names without content are.
    let journal = home.join("journal");
    let kept = TempDir::new().unwrap();
    copy(&journal, kept.path());
    for nothing_is_left in [true, false] {
        if nothing_is_left {
            fs::remove_dir_all(&home).unwrap();
            copy(before.path(), &home);
        } else {
            for repository in &repositories {
                let name = format!("{}.git/objects/pack", repository.name());
                let there_before = before.path().join(&name);
                let new: Vec<_> =
                    files(&home.join(&name)).filter(|path| !there_before.join(name_of(path)).exists()).collect();
                assert!(new.len() >= 2, "{new:?}");
                new.iter().for_each(|path| empty(path));
                fs::write(repository.path().join("refs/heads").join(layout::branch(repository.name())), "").unwrap();
            }
        }
        fs::remove_dir_all(&journal).unwrap();
        copy(kept.path(), &journal);
        let mut writer = world.writer().unwrap();
        for (name, tip) in names.iter().zip(tips) {
            let repository = writer.open(name).unwrap().unwrap();
            assert_eq!(repository.tip().unwrap(), tip);
            assert_eq!(world.git(&repository, &["fsck", "--strict", "--full", "--no-progress"]), "");
        }
        let files = world.open(&client()).unwrap().files(tips[1].unwrap()).unwrap();
        assert_eq!(files.into_keys().collect::<Vec<_>>(), ["b/c", "b/d"]);
    }
}

#[test]
fn the_journal_does_not_undo_what_somebody_else_has_moved_since() {
    let world = World::new();
    let mut writer = world.writer().unwrap();
    let repository = writer.open_or_create(&client()).unwrap();
    let first = commit(&mut writer, &repository, &[&[put("a", "1")]]);
    commit(&mut writer, &repository, &[&[put("a", "2")]]);
    commit(&mut writer, &repository, &[&[put("a", "3")]]);
    let theirs =
        world.git(&repository, &["commit-tree", &format!("{first}^{{tree}}"), "-p", &first.to_string(), "-m", "x"]);
    world.git(&repository, &["update-ref", "refs/heads/desired", theirs.trim()]);
    drop(writer);
    let mut writer = world.writer().unwrap();
    assert_eq!(writer.open(&client()).unwrap().unwrap().tip().unwrap().unwrap().to_string(), theirs.trim());
}

/// A repository that cannot be written while this lives: its objects have nowhere to go.
struct Unwritable {
    objects: PathBuf,
    away: PathBuf,
}

impl Unwritable {
    fn new(repository: &Repository) -> Self {
        let objects = repository.path().join("objects");
        let away = repository.path().join("away");
        fs::rename(&objects, &away).unwrap();
        fs::write(&objects, "").unwrap();
        Self { objects, away }
    }
}

fn carry_out(writer: &mut Writer, prepared: Prepared) -> Vec<Result<(), GitError>> {
    let (drafter, disk) = writer.split();
    disk.carry_out(prepared, drafter, |_| {})
}

impl Drop for Unwritable {
    fn drop(&mut self) {
        fs::remove_file(&self.objects).unwrap();
        fs::rename(&self.away, &self.objects).unwrap();
    }
}

#[test]
fn what_the_journal_has_taken_and_the_repository_has_not_comes_about_before_anything_else() {
    // Git leaves an empty folder of branches before the first commit, and behind a branch that it has packed.
    for (first, packed) in [(false, false), (true, false), (false, true)] {
        let world = World::new();
        let mut writer = world.writer().unwrap();
        let repository = writer.open_or_create(&client()).unwrap();
        let tip = (!first).then(|| commit(&mut writer, &repository, &[&[put("a", "1")]]));
        if packed {
            world.git(&repository, &["gc", "--quiet"]);
        }
        let mut series = Series::on(&repository, tip);
        let next = write(&writer, &mut series, "next", &[put("a", "2")]);
        let prepared = writer.prepare(vec![series]);
        let unwritable = Unwritable::new(&repository);
        assert!(carry_out(&mut writer, prepared).remove(0).is_err());
        assert_eq!(repository.tip().unwrap(), tip);
        assert!(writer.open(&client()).is_err(), "nothing has been put right");
        drop(unwritable);

        // A row that is committed twice would be worse than late.
        let mut series = Series::on(&repository, tip);
        write(&writer, &mut series, "again", &[put("a", "2")]);
        assert!(matches!(writer.advance(vec![series]).remove(0), Err(GitError::Moved { .. })));
        assert_eq!(repository.tip().unwrap(), Some(next));
        commit(&mut writer, &repository, &[&[put("a", "3")]]);
        assert_eq!(world.git(&repository, &["fsck", "--strict", "--full", "--no-progress"]), "");
    }
}

#[test]
fn a_repository_that_cannot_be_written_once_more_stands_still_alone() {
    let world = World::new();
    let mut writer = world.writer().unwrap();
    let fleet = writer.open_or_create(&RepositoryName::Fleet).unwrap();
    let plant = writer.open_or_create(&client()).unwrap();
    let tip = commit(&mut writer, &plant, &[&[put("a", "1")]]);
    let (mut first, mut second) = (Series::on(&fleet, None), Series::on(&plant, Some(tip)));
    let fleet_tip = write(&writer, &mut first, "fleet", &[put("a", "2")]);
    let plant_tip = write(&writer, &mut second, "plant", &[put("a", "2")]);
    let prepared = writer.prepare(vec![first, second]);
    let unwritable = Unwritable::new(&plant);
    let results = carry_out(&mut writer, prepared);
    assert!(results[0].is_ok() && results[1].is_err(), "{results:?}");
    drop(writer);

    let mut writer = world.writer().unwrap();
    // A clean end keeps what is not written, too.
    writer.rest().unwrap();
    drop(writer);
    let mut writer = world.writer().unwrap();
    for _ in 0..2 {
        let fleet = writer.open(&RepositoryName::Fleet).unwrap().unwrap();
        commit(&mut writer, &fleet, &[&[put("b", "1")]]);
        assert!(writer.open(&client()).is_err());
    }
    assert!(fleet.tip().unwrap() > None && fleet.files(fleet_tip).unwrap().contains_key("a"));
    drop(unwritable);
    assert_eq!(writer.open(&client()).unwrap().unwrap().tip().unwrap(), Some(plant_tip));
    drop(writer);
    assert_eq!(world.writer().unwrap().open(&client()).unwrap().unwrap().tip().unwrap(), Some(plant_tip));
}

#[test]
fn what_was_not_promised_leaves_nothing_and_the_next_commit_stands_on_what_is_there() {
    let world = World::new();
    let mut writer = world.writer().unwrap();
    let repository = writer.open_or_create(&client()).unwrap();
    let tip = commit(&mut writer, &repository, &[&[put("a", "1")]]);
    let mut series = Series::on(&repository, Some(tip));
    let given_up = write(&writer, &mut series, "given up", &[put("a", "2")]);
    let before = files(&repository.path().join("objects/pack")).count();
    let prepared = writer.prepare(vec![series]);
    assert_eq!(files(&repository.path().join("objects/pack")).count(), before + 2);
    assert!(writer.drafter().remembers(&client(), Some(given_up)), "the next series may stand on it");
    let mut git = Command::new("git");
    let found = git.arg("-C").arg(repository.path()).args(["cat-file", "-e", &given_up.to_string()]).output().unwrap();
    assert!(!found.status.success(), "no reader finds it yet");
    let lock = repository.path().join("refs/heads/desired.lock");
    assert!(lock.exists(), "nobody else moves it meanwhile");
    drop(prepared);
    assert!(!lock.exists());
    assert_eq!(files(&repository.path().join("objects/pack")).count(), before);
    assert_eq!(repository.tip().unwrap(), Some(tip));
    commit(&mut writer, &repository, &[&[put("a", "3")]]);
    assert_eq!(world.git(&repository, &["rev-list", "--count", "desired"]).trim(), "2");
    assert_eq!(world.git(&repository, &["fsck", "--strict", "--full", "--no-progress"]), "");
}

#[test]
fn a_branch_that_somebody_has_moved_back_ends_where_the_last_promise_was() {
    let world = World::new();
    let mut writer = world.writer().unwrap();
    let repository = writer.open_or_create(&client()).unwrap();
    let first = commit(&mut writer, &repository, &[&[put("a", "1")]]);
    writer.rest().unwrap();
    commit(&mut writer, &repository, &[&[put("a", "2")]]);
    world.git(&repository, &["update-ref", "refs/heads/desired", &first.to_string()]);
    let last = commit(&mut writer, &repository, &[&[put("a", "3")]]);
    drop(writer);
    // The power cut has left the branch where it was synced last.
    world.git(&repository, &["update-ref", "refs/heads/desired", &first.to_string()]);
    assert_eq!(world.writer().unwrap().open(&client()).unwrap().unwrap().tip().unwrap(), Some(last));
}

/// The names of the packs of a repository, without their endings.
fn packs(repository: &Repository) -> Vec<String> {
    let names =
        files(&repository.path().join("objects/pack")).filter(|path| path.extension().is_some_and(|end| end == "idx"));
    let mut names: Vec<_> = names.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

#[test]
fn groups_roll_into_one_pack_until_the_journal_is_emptied() {
    let world = World::new();
    let mut writer = world.writer().unwrap();
    let repository = writer.open_or_create(&client()).unwrap();
    let held = writer.hold_packs(&client());
    for at in 0..5 {
        commit(&mut writer, &repository, &[&[put("a/b", &at.to_string())]]);
        assert_eq!(packs(&repository).len(), at + 1, "those that were replaced stay for a while");
    }
    writer.rest().unwrap();
    assert_eq!(packs(&repository).len(), 5, "somebody holds them");
    drop(held);
    writer.rest().unwrap();
    let first = packs(&repository);
    assert_eq!(first.len(), 1);
    commit(&mut writer, &repository, &[&[put("a/b", "5")]]);
    writer.rest().unwrap();
    assert_eq!(packs(&repository).len(), 2, "a journal that was emptied has nothing of the pack before");
    assert!(packs(&repository).contains(&first[0]));
    assert_eq!(world.git(&repository, &["rev-list", "--count", "desired"]).trim(), "6");
    assert_eq!(world.git(&repository, &["fsck", "--strict", "--full", "--no-progress"]), "");
}

#[test]
fn objects_that_are_much_alike_become_deltas() {
    let world = World::new();
    let mut writer = world.writer().unwrap();
    let repository = writer.open_or_create(&client()).unwrap();
    let document = |at: u32| format!("{}number: {at}\n", "a line that every document has: true\n".repeat(20));
    let nodes: Vec<_> = (0..200).map(|at| put(&format!("nodes/n{at:03}.yaml"), &document(at))).collect();
    let steps: Vec<Vec<FileChange>> = (0..100).map(|at| vec![put("nodes/n100.yaml", &document(1_000 + at))]).collect();
    let steps: Vec<_> = std::iter::once(&nodes[..]).chain(steps.iter().map(Vec::as_slice)).collect();
    commit(&mut writer, &repository, &steps);
    let packs = packs(&repository);
    let listed = world.git(&repository, &["verify-pack", "-v", &format!("objects/pack/{}.idx", packs[0])]);
    // Stock git shows the depth of a delta and its base behind the other columns.
    for (kind, deltas) in [("commit", 95), ("tree", 95), ("blob", 280)] {
        let found = listed.lines().filter(|line| line.contains(kind) && line.split_whitespace().count() == 7).count();
        assert!(found > deltas, "{found} deltas of kind {kind}");
    }
    let depth = listed.lines().filter_map(|line| line.split_whitespace().nth(5)?.parse::<u32>().ok()).max();
    assert_eq!(depth, Some(50));
    let size = repository.path().join("objects/pack").join(format!("{}.pack", packs[0])).metadata().unwrap().len();
    assert!(size < 150_000, "{size}");
}

#[test]
fn the_journal_fills_up_and_is_enough_at_any_time() {
    let world = World::new();
    let mut writer = world.writer().unwrap();
    let repository = writer.open_or_create(&client()).unwrap();
    // Hexadecimal noise, of which half stays: ten groups fill a file of the journal.
    let noise = |seed: u64| -> String {
        let mut state = seed + 1;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            format!("{:08x}", state >> 32)
        };
        (0..1_600_000).map(|_| next()).collect()
    };
    let mut tip = None;
    for at in 0..12 {
        tip = Some(commit(
            &mut writer,
            &repository,
            &[&[put(&format!("big{}", at % 3), &noise(at)), put("n", &at.to_string())]],
        ));
    }
    let journal = world.folder.path().join("default/journal");
    assert!(files(&journal).any(|file| !name_of(&file).to_str().unwrap().ends_with('1')), "the next file has begun");
    drop(writer);
    // Killed: nothing was put on the disk at the end, and what the journal still has is written once more.
    let mut writer = world.writer().unwrap();
    let repository = writer.open(&client()).unwrap().unwrap();
    assert_eq!(repository.tip().unwrap(), tip);
    commit(&mut writer, &repository, &[&[put("n", "last")]]);
    assert_eq!(world.git(&repository, &["fsck", "--strict", "--full", "--no-progress"]), "");
}

#[test]
fn a_repack_meanwhile_does_no_harm_to_what_the_journal_holds() {
    let world = World::new();
    let mut writer = world.writer().unwrap();
    let repository = writer.open_or_create(&client()).unwrap();
    for at in 0..3 {
        commit(&mut writer, &repository, &[&[put("a/b", &at.to_string())]]);
    }
    let held = writer.hold_packs(&client());
    world.git(&repository, &["repack", "-q", "-a", "-d"]);
    drop(held);
    let next = commit(&mut writer, &repository, &[&[put("a/c", "3")]]);
    world.git(&repository, &["repack", "-q", "-a", "-d"]);
    drop(writer);
    let mut writer = world.writer().unwrap();
    let repository = writer.open(&client()).unwrap().unwrap();
    assert_eq!(repository.tip().unwrap(), Some(next));
    assert_eq!(packs(&repository).len(), 3, "the two of the journal, and the one of the repack");
    commit(&mut writer, &repository, &[&[put("a/b", "4")]]);
    assert_eq!(world.git(&repository, &["fsck", "--strict", "--full", "--no-progress"]), "");
}

#[test]
fn a_series_that_outlives_the_journal_takes_all_of_its_pack_along() {
    let world = World::new();
    let mut writer = world.writer().unwrap();
    let repository = writer.open_or_create(&client()).unwrap();
    let first = commit(&mut writer, &repository, &[&[put("a", "1")]]);
    let mut series = Series::on(&repository, Some(first));
    let second = write(&writer, &mut series, "second", &[put("a", "2")]);
    writer.rest().unwrap();
    writer.advance(vec![series]).remove(0).unwrap();
    drop(writer);
    // A power cut leaves nothing of the pack.
    for path in files(&repository.path().join("objects/pack")) {
        fs::remove_file(path).unwrap();
    }
    let repository = world.writer().unwrap().open(&client()).unwrap().unwrap();
    assert_eq!(repository.tip().unwrap(), Some(second));
    assert_eq!(world.git(&repository, &["fsck", "--strict", "--full", "--no-progress"]), "");
}

#[test]
fn a_commit_that_fails_leaves_those_before_it() {
    let world = World::new();
    let mut writer = world.writer().unwrap();
    let repository = writer.open_or_create(&client()).unwrap();
    let tip = commit(&mut writer, &repository, &[&[put("a/b/c", "1"), put("d", "1")]]);
    writer.rest().unwrap();
    drop(writer);
    // A new writer has to read the folder that an edit leads into, and it is gone.
    let [pack] = &packs(&repository)[..] else { panic!("one pack") };
    let pack = repository.path().join("objects/pack").join(pack);
    let away = repository.path().join("away.pack");
    fs::rename(pack.with_extension("pack"), &away).unwrap();
    fs::remove_file(pack.with_extension("idx")).unwrap();
    world.git_with(&repository, &["unpack-objects", "-q"], File::open(&away).unwrap().into());
    let folder = world.git(&repository, &["rev-parse", &format!("{tip}:a/b")]);
    let object = repository.path().join("objects").join(&folder[..2]).join(folder[2..].trim());
    let content = fs::read(&object).unwrap();
    fs::remove_file(&object).unwrap();

    let mut writer = world.writer().unwrap();
    let repository = writer.open(&client()).unwrap().unwrap();
    let mut series = Series::on(&repository, Some(tip));
    let good = write(&writer, &mut series, "good", &[put("d", "2")]);
    let (message, changes) = (Message::new("bad"), [put("e", "not kept"), put("a/b/d", "2")]);
    let draft = Draft { author: "ada", message: &message, changes: &changes, at: Timestamp::now() };
    assert!(matches!(writer.write(&mut series, draft), Err(GitError::Repository { .. })));
    assert_eq!(series.tip(), Some(good));
    assert!(matches!(writer.write(&mut series, draft), Err(GitError::Series)));
    writer.advance(vec![series]).remove(0).unwrap();
    assert_eq!(repository.tip().unwrap(), Some(good));
    fs::write(&object, content).unwrap();
    let last = commit(&mut writer, &repository, &[&[put("a/b/d", "3")]]);
    assert_eq!(world.open(&client()).unwrap().files(last).unwrap().len(), 3);
    assert_eq!(world.git(&repository, &["fsck", "--strict", "--full", "--no-progress"]), "");
}
