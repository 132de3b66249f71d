//! The process whose power is cut: it commits without end, and says what it has promised.

use std::{
    collections::BTreeMap,
    io::{self, BufRead},
    path::Path,
    process::{Child, ChildStderr, ChildStdout, Command, Stdio},
    thread,
};

use end_to_end::random::Random;
use git_state::{Disk, Draft, Drafter, FileChange, GitError, Message, Prepared, Series, Writer};
use identity::SigningKey;
use jiff::Timestamp;
use margo::{KeySet, RepositoryName, TenantName};

use crate::syncs::Sync;

/// The clients that there are in the end. They come one after the other; each gets some commits in many groups, and `fleet.git` in
/// all of them.
const CLIENTS: usize = 12;

/// The length of a large file, in words of eight bytes.
const LARGE: u64 = 40_000;

/// The same where the journal is to fill up within some twenty groups.
const VERY_LARGE: u64 = 400_000;

/// The word by which this program becomes a writer.
const WORD: &str = "--write";

/// The word by which this program runs another one without a sync.
pub const WITHOUT: &str = "--without";

/// What a writer says that it has come to.
pub enum Line {
    /// It has written once more what an earlier one had promised.
    Ready,
    /// A group is promised: these are the tips of its repositories.
    Promised(Vec<(String, String)>),
    /// Everything was put on the disk.
    Rested,
}

impl Line {
    pub fn parse(line: &str) -> Self {
        match line {
            "ready" => Self::Ready,
            "rested" => Self::Rested,
            tips => {
                let words: Vec<_> = tips.split(' ').map(str::to_owned).collect();
                Self::Promised(words.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect())
            }
        }
    }
}

/// How a process writes.
pub struct Life {
    pub seed: u64,
    /// After so many groups it ends as a service does that is told to.
    pub groups: Option<u64>,
    /// Whether its files are so large that the journal soon begins another file.
    pub is_large: bool,
}

/// A process that writes. It is killed with this value, also by a failing assertion.
pub struct Writing {
    process: Child,
    pub lines: io::Lines<io::BufReader<ChildStdout>>,
    said: ChildStderr,
}

impl Writing {
    /// Starts it, without one of the syncs.
    pub fn start(folder: &Path, key: &Path, life: &Life, without: Option<Sync>) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        if let Some(without) = without {
            command.args([WITHOUT, without.name()]);
        }
        command.arg(WORD).args([folder, key]).arg(life.seed.to_string());
        command.args([life.groups.unwrap_or(u64::MAX).to_string(), life.is_large.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        if without.is_none() {
            // It begins when its input ends. Whoever runs it without a sync ends with its own.
            drop(process.stdin.take());
        }
        let lines = io::BufReader::new(process.stdout.take().unwrap()).lines();
        let said = process.stderr.take().unwrap();
        Self { process, lines, said }
    }

    /// What it said to people before it ended.
    pub fn last_words(mut self) -> String {
        io::read_to_string(&mut self.said).unwrap_or_else(|error| error.to_string())
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if self.process.stdin.is_none() {
            let _ = self.process.kill();
        }
        // This ends the input.
        let _ = self.process.wait();
    }
}

pub fn repositories() -> Vec<RepositoryName> {
    let clients = (0..CLIENTS).map(|client| RepositoryName::Client(format!("c{client}").parse().unwrap()));
    std::iter::once(RepositoryName::Fleet).chain(clients).collect()
}

/// Becomes the writer of the repositories in a folder, which writes once more what an earlier one has promised.
pub fn open(folder: &Path, key: &Path) -> Result<Writer, GitError> {
    let key = SigningKey::load(key).unwrap();
    let keys = KeySet { tenant: TenantName::default(), number: 1, keys: vec![key.public().to_string()] };
    Writer::new(folder, &TenantName::default(), &keys, key)
}

/// Writes if these are the arguments of a process that does, and returns whether they were.
pub fn run(arguments: &[String]) -> bool {
    let [word, folder, key, seed, groups, is_large] = arguments else { return false };
    if word != WORD {
        return false;
    }
    // Whoever leaves out a sync has to be there first.
    let _told = io::read_to_string(io::stdin());
    let life = Life { seed: seed.parse().unwrap(), groups: groups.parse().ok(), is_large: is_large == "true" };
    if let Err(error) = write(Path::new(folder), Path::new(key), &life) {
        eprintln!("{error:?}");
        std::process::exit(1);
    }
    true
}

/// Commits that are ready to be carried out, with what is said when they have been.
struct Pending {
    prepared: Prepared,
    tips: Vec<(RepositoryName, String)>,
}

fn write(folder: &Path, key: &Path, life: &Life) -> Result<(), GitError> {
    let mut random = Random::new(life.seed, 1);
    let mut writer = open(folder, key)?;
    println!("ready");
    let mut tips = Tips::new();
    let mut new = Vec::new();
    for name in repositories() {
        match writer.open(&name)? {
            Some(repository) => drop(tips.insert(name, repository.tip()?)),
            None => new.push(name),
        }
    }
    let mut new = new.into_iter();
    let mut pending: Option<Pending> = None;
    for _group in 0..life.groups.unwrap_or(u64::MAX) {
        if (tips.is_empty() || random.between(0, 2) == 0)
            && let Some(name) = new.next()
        {
            writer.open_or_create(&name)?;
            tips.insert(name, None);
        }
        // As git-writer does: what was begun is carried out while the next group is drafted.
        let remembers = |name, tip| writer.drafter().remembers(name, tip);
        if !tips.iter().all(|(name, tip)| tip.is_none() || remembers(name, *tip)) {
            carry_out_pending(&mut writer, pending.take())?;
        }
        let (drafter, disk) = writer.split();
        let before = pending.take();
        let (carried_out, all) = thread::scope(|scope| {
            let carrying_out = scope.spawn(|| carry_out(disk, drafter, before));
            let all = draft(drafter, &tips, &mut random, life.is_large);
            (carrying_out.join().unwrap(), all)
        });
        carried_out?;
        let all = all?;
        for series in &all {
            tips.insert(series.0.clone(), series.1.tip());
        }
        let (names, series): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        let named = names.into_iter().map(|name| (name.clone(), tips[&name].unwrap().to_string())).collect();
        pending = Some(Pending { prepared: writer.prepare(series), tips: named });
        // A journal that is to fill up is not emptied.
        if !life.is_large && random.between(0, 12) == 0 {
            carry_out_pending(&mut writer, pending.take())?;
            rest(&mut writer)?;
        }
    }
    carry_out_pending(&mut writer, pending)?;
    rest(&mut writer)
}

fn carry_out_pending(writer: &mut Writer, pending: Option<Pending>) -> Result<(), GitError> {
    let (drafter, disk) = writer.split();
    carry_out(disk, drafter, pending)
}

fn carry_out(disk: &mut Disk, drafter: &Drafter, pending: Option<Pending>) -> Result<(), GitError> {
    let Some(Pending { prepared, tips }) = pending else { return Ok(()) };
    disk.carry_out(prepared, drafter, |_| {}).into_iter().collect::<Result<(), _>>()?;
    let tips: Vec<_> = tips.iter().map(|(name, tip)| format!("{name} {tip}")).collect();
    println!("{}", tips.join(" "));
    Ok(())
}

fn rest(writer: &mut Writer) -> Result<(), GitError> {
    writer.rest()?;
    println!("rested");
    Ok(())
}

type Tips = BTreeMap<RepositoryName, Option<git_state::CommitId>>;

fn draft(
    drafter: &Drafter,
    tips: &Tips,
    random: &mut Random,
    is_large: bool,
) -> Result<Vec<(RepositoryName, Series)>, GitError> {
    let mut all = Vec::new();
    for (name, tip) in tips {
        if *name != RepositoryName::Fleet && tip.is_some() && random.between(0, 2) > 0 {
            continue;
        }
        let mut series = drafter.series(name, *tip);
        if *name == RepositoryName::Fleet && is_large {
            commit(drafter, &mut series, random, VERY_LARGE)?;
        }
        for _commit in 0..random.between(1, 4) {
            let words = if random.between(0, 9) == 0 { LARGE } else { random.between(1, 60) };
            commit(drafter, &mut series, random, words)?;
        }
        all.push((name.clone(), series));
    }
    Ok(all)
}

fn commit(drafter: &Drafter, series: &mut Series, random: &mut Random, words: u64) -> Result<(), GitError> {
    let content = (0..words).flat_map(|_| random.draw().to_le_bytes()).collect();
    let path = format!("a/{:x}/n{}.yaml", random.between(0, 15), random.between(0, 40));
    let changes = [
        FileChange { path: path.try_into().unwrap(), content: Some(content) },
        FileChange { path: format!("b/n{}", random.between(0, 9)).try_into().unwrap(), content: None },
        FileChange {
            path: format!("b/n{}", random.between(0, 9)).try_into().unwrap(),
            content: Some(random.draw().to_string().into_bytes()),
        },
    ];
    let message = Message::new("change").with("Order", "1");
    let draft = Draft { author: "ada", message: &message, changes: &changes, at: Timestamp::UNIX_EPOCH };
    drafter.write(series, draft).map(drop)
}
