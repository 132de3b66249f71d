//! Random series of edits, with restarts between them, against what stock git says about the repository.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{collections::BTreeMap, path::Path, process::Command};

use git_state::{Bases, Blob, Draft, FileChange, Message, Series, Writer};
use identity::SigningKey;
use jiff::Timestamp;
use margo::{KeySet, RepositoryName, TenantName};
use proptest::prelude::*;

/// What comes about between two groups of commits.
#[derive(Clone, Copy, Debug)]
enum Between {
    Nothing,
    Rest,
    Restart,
    Kill,
    Repack,
}

type Change = (String, Option<u16>);

/// Names whose order in Git is not that of their bytes, which are now files and now folders, and many in one folder.
fn any_change() -> impl Strategy<Value = Change> {
    let odd = proptest::collection::vec(prop::sample::select(vec!["a", "a.b", "a-b", "a0", "ab", "A"]), 1..4);
    let path = prop_oneof![
        odd.prop_map(|names| names.join("/")),
        (0..300_u16).prop_map(|at| format!("many/n{at}")),
        (0..300_u16).prop_map(|at| format!("deep/{:x}/{:x}/n{at}.yaml", at % 16, at % 3)),
    ];
    (path, proptest::option::weighted(0.7, 0..500_u16))
}

fn any_group() -> impl Strategy<Value = (Vec<Vec<Change>>, Between)> {
    let commits = proptest::collection::vec(proptest::collection::vec(any_change(), 0..12), 1..8);
    let between = prop_oneof![
        4 => Just(Between::Nothing),
        1 => Just(Between::Rest),
        1 => Just(Between::Restart),
        1 => Just(Between::Kill),
        1 => Just(Between::Repack),
    ];
    (commits, between)
}

fn content(number: u16) -> Vec<u8> {
    let lines: String = (0..number % 50).map(|at| format!("  line {at}: as every file has it\n")).collect();
    format!("number: {number}\n{lines}").into_bytes()
}

/// Carries out a change on files by path, as the writer says that it does.
fn change(files: &mut BTreeMap<String, Vec<u8>>, (path, number): &Change) {
    match number {
        Some(number) => {
            // A file takes the place of a folder, and a folder that of a file.
            files.retain(|other, _| !other.starts_with(&format!("{path}/")) && !path.starts_with(&format!("{other}/")));
            files.insert(path.clone(), content(*number));
        }
        None => drop(files.remove(path)),
    }
}

/// What was done with the files of a group before they became commits.
#[derive(Clone, Copy, Debug)]
enum Readiness {
    Nothing,
    Ready,
    /// They were made ready to stand on other files than those before them.
    Wrong,
}

fn any_readiness() -> impl Strategy<Value = Readiness> {
    prop_oneof![Just(Readiness::Nothing), Just(Readiness::Ready), Just(Readiness::Wrong)]
}

impl Readiness {
    fn make_ready(self, mut bases: Bases, commits: &[Vec<FileChange>]) -> Vec<Vec<Option<Blob>>> {
        if let Self::Wrong = self {
            drop(bases.make_ready(commits.iter().rev().map(Vec::as_slice)));
        }
        match self {
            Self::Nothing => commits.iter().map(|_| Vec::new()).collect(),
            Self::Ready | Self::Wrong => bases.make_ready(commits.iter().map(Vec::as_slice)),
        }
    }
}

fn git(repository: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git").arg("-C").arg(repository).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git {arguments:?}: {text}");
    format!("{}{text}", String::from_utf8(output.stdout).unwrap())
}

/// The files of a commit as stock git lists them, each with its id and its content.
fn listed(repository: &Path) -> BTreeMap<String, String> {
    let list = git(repository, &["ls-tree", "-r", "desired"]);
    let line = |line: &str| {
        let (entry, path) = line.split_once('\t').unwrap();
        assert!(entry.starts_with("100644 blob "), "{entry}");
        (path.to_owned(), entry["100644 blob ".len()..].to_owned())
    };
    list.lines().map(line).collect()
}

fn check(repository: &Path, files: &BTreeMap<String, Vec<u8>>) {
    assert_eq!(git(repository, &["fsck", "--strict", "--full", "--no-progress", "--no-dangling"]), "");
    let listed = listed(repository);
    assert!(listed.keys().eq(files.keys()), "{:?} {:?}", listed.keys(), files.keys());
    for (path, id) in listed.iter().take(5) {
        assert_eq!(git(repository, &["cat-file", "blob", id]).as_bytes(), files[path]);
    }
    let read = git_state::Repository::open(home(repository), &TenantName::default(), &client()).unwrap().unwrap();
    assert_eq!(&read.files(read.tip().unwrap().unwrap()).unwrap(), files);
}

/// The folder of all tenants' repositories.
fn home(repository: &Path) -> &Path {
    repository.ancestors().nth(3).unwrap()
}

fn client() -> RepositoryName {
    RepositoryName::Client("plant".parse().unwrap())
}

proptest! {
    // Each case starts stock git about a hundred times.
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_what_stock_git_reads(
        groups in proptest::collection::vec((any_group(), any_readiness()), 1..8),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let key = SigningKey::generate("git-writer").unwrap();
        let keys = KeySet { tenant: TenantName::default(), number: 1, keys: vec![key.public().to_string()] };
        key.save(&folder.path().join("key")).unwrap();
        let start = || {
            let key = SigningKey::load(&folder.path().join("key")).unwrap();
            Writer::new(folder.path(), &TenantName::default(), &keys, key).unwrap()
        };
        let mut writer = start();
        let mut files = BTreeMap::new();
        let mut commits = 0;
        for ((group, between), readiness) in groups {
            let repository = writer.open_or_create(&client()).unwrap();
            let mut series = Series::on(&repository, repository.tip().unwrap());
            let changed = |(path, number): &Change| FileChange {
                path: path.clone().try_into().unwrap(),
                content: number.map(content),
            };
            let changed: Vec<Vec<_>> = group.iter().map(|changes| changes.iter().map(changed).collect()).collect();
            let ready = readiness.make_ready(writer.drafter().begin(&mut series).unwrap(), &changed);
            for ((changes, changed), ready) in group.iter().zip(&changed).zip(ready) {
                let message = Message::new("change").with("Order", &commits.to_string());
                let draft = Draft { author: "ada", message: &message, changes: changed, at: Timestamp::now() };
                writer.drafter().write_ready(&mut series, draft, &ready).unwrap();
                changes.iter().for_each(|it| change(&mut files, it));
                commits += 1;
            }
            writer.advance(vec![series]).remove(0).unwrap();
            check(repository.path(), &files);
            match between {
                Between::Nothing => {}
                Between::Rest => writer.rest().unwrap(),
                Between::Repack => {
                    let held = writer.hold_packs(&client());
                    git(repository.path(), &["repack", "-q", "-a", "-d"]);
                    drop(held);
                }
                Between::Restart => {
                    writer.rest().unwrap();
                    drop(writer);
                    writer = start();
                }
                Between::Kill => {
                    drop(writer);
                    writer = start();
                    check(repository.path(), &files);
                }
            }
        }
        let path = writer.open(&client()).unwrap().unwrap().path().to_owned();
        let log = git(&path, &["log", "--format=%(trailers:key=Order,valueonly)", "--reverse"]);
        let orders: Vec<_> = log.split_whitespace().map(|order| order.parse::<u32>().unwrap()).collect();
        prop_assert_eq!(orders, (0..commits).collect::<Vec<_>>());
    }
}
