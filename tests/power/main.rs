//! Power cuts: what git-writer has promised is there afterwards, and stock git finds nothing wrong.
//!
//! A disk that forgets stands below a file system on which a process commits. The power is cut at a random commit; then the
//! file system that is left is mounted, the writer started, and looked at. Needs root; without it the test says that it was
//! not run. `EDGEWRIGHT_POWER_CUTS` says how many cuts there are, `EDGEWRIGHT_CHAOS_SEED` which.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

mod fuse;
mod stage;
mod volatile;
mod writer;

use std::{
    collections::BTreeMap,
    env,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use end_to_end::random::Random;
use git_state::{Draft, Message};
use identity::SigningKey;
use jiff::Timestamp;
use margo::{RepositoryName, TenantName};

use crate::{
    fuse::Served,
    stage::{Mounted, NotRun},
};

const NAME: &str = "what_was_promised_survives_power_cuts";

/// Large enough for what is written until the cut.
const DISK: u64 = 512 << 20;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [word, folder, key, seed] = &arguments[..]
        && word == "--write"
    {
        return writer::run(Path::new(folder), Path::new(key), seed.parse().unwrap());
    }
    // Cargo hands the filter of the whole run to every target.
    let filters: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    if !filters.is_empty() && !filters.iter().any(|filter| NAME.contains(filter.as_str())) {
        return;
    }
    if arguments.iter().any(|argument| argument == "--list") {
        println!("{NAME}: test");
        return;
    }
    let (cuts, seed) = (number("EDGEWRIGHT_POWER_CUTS").unwrap_or(3), number("EDGEWRIGHT_CHAOS_SEED").unwrap_or(1));
    for round in 0..cuts {
        match stage::needed().and_then(|()| cut(&mut Random::new(seed, 1_000 + round))) {
            Ok(told) => println!("cut {} of {cuts}: {told}", round + 1),
            Err(NotRun(reason)) => return println!("test {NAME} ... not run: {reason}"),
        }
    }
    println!("test {NAME} ... ok");
}

/// A variable that is empty counts as absent.
fn number(name: &str) -> Option<u64> {
    let value = env::var(name).ok().filter(|value| !value.is_empty())?;
    Some(value.parse().unwrap_or_else(|error| panic!("{name}={value:?}: {error}")))
}

/// The process that writes. It is killed with this value, also by a failing assertion.
struct Writing(Child);

impl Drop for Writing {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Cuts the power once, and looks at what is left.
fn cut(random: &mut Random) -> Result<String, NotRun> {
    let folder = tempfile::TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let key = path("key");
    SigningKey::generate("git-writer").unwrap().save(&key).unwrap();
    stage::format(&path("image"), DISK)?;
    let mut promised = BTreeMap::new();
    // Soon after the repositories are made, or later; by a writer that has found the remains of another one, or not.
    let most = *random.choose(&[3, 120, 120]);
    let mut lives = vec![random.between(1, most)];
    if random.between(0, 1) == 0 {
        lives.push(random.between(1, 8));
    }
    let mut lost = (0, 0);
    {
        let served = Served::new(&path("image"), &path("served"))?;
        let mounted = Mounted::new(&served.disk(), &path("before"))?;
        let repositories = mounted.folder.join("repositories");
        for (life, groups) in lives.iter().enumerate() {
            let mut command = Command::new(env::current_exe().unwrap());
            command.arg("--write").arg(&repositories).arg(&key).arg(random.next().to_string());
            let mut writing = Writing(command.stdout(Stdio::piped()).spawn().unwrap());
            let mut lines = BufReader::new(writing.0.stdout.take().unwrap()).lines();
            for _group in 0..*groups {
                let line = lines.next().expect("the writer goes on").unwrap();
                let words: Vec<&str> = line.split(' ').collect();
                promised.extend(words.chunks(2).map(|pair| (pair[0].to_owned(), pair[1].to_owned())));
            }
            if life + 1 == lives.len() {
                lost = served.cut(&path("image"), &path("left"), random);
                break;
            }
        }
    }
    let left = Mounted::new(&path("left"), &path("after"))?;
    look(&left.folder.join("repositories"), &key, &promised);
    let (lost, kept) = lost;
    Ok(format!("{lives:?} groups promised, of the blocks that were not synced {lost} were lost and {kept} not"))
}

/// Starts the writer on what a power cut has left, and looks whether all is there that was promised.
fn look(repositories: &Path, key: &Path, promised: &BTreeMap<String, String>) {
    let mut writer = writer::open(repositories, key);
    for name in writer::repositories() {
        let path = git_state::layout::repository(repositories, &TenantName::default(), &name);
        let Some(expected) = promised.get(&name.to_string()) else { continue };
        let repository = writer.open(&name).unwrap().unwrap_or_else(|| panic!("{name} is gone"));
        let tip = repository.tip().unwrap().unwrap_or_else(|| panic!("{name} has no commit")).to_string();
        git(&path, &["merge-base", "--is-ancestor", expected, &tip]);
        assert_eq!(git(&path, &["fsck", "--strict", "--full", "--no-progress", "--no-dangling"]), "", "{name}");
        go_on(&mut writer, &name);
        assert_eq!(git(&path, &["fsck", "--strict", "--full", "--no-progress", "--no-dangling"]), "", "{name}");
    }
}

/// Commits once more.
fn go_on(writer: &mut git_state::Writer, name: &RepositoryName) {
    let mut series = writer.series(name, writer.tip(name).unwrap());
    let message = Message::new("go on");
    let draft = Draft { author: "ada", message: &message, changes: &[], at: Timestamp::UNIX_EPOCH };
    writer.write(&mut series, draft).unwrap();
    writer.advance(vec![series]).remove(0).unwrap();
}

fn git(repository: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git").arg("-C").arg(repository).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "git {arguments:?} in {}: {text}", repository.display());
    text
}
