//! One disk, the writers on it, and what is left when the power has been cut.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use end_to_end::random::Random;
use identity::SigningKey;
use margo::TenantName;

use crate::{
    fuse::Served,
    look::{Promised, look},
    plan::{Cut, End, Moment, Story},
    stage::{self, FileSystem, Mounted, NotRun},
    syncs::Sync,
    writer::{Life, Line, Writing},
};

/// The size of the disk: large enough for what is written until the cut.
const SIZE: u64 = 1 << 30;

/// What was done, and what was found wrong.
pub struct Outcome {
    pub told: String,
    pub found: Result<(), String>,
}

/// Has writers live and the power cut as in a story, and looks at what is left.
pub fn cut(
    story: Story,
    file_system: FileSystem,
    without: Option<Sync>,
    random: &mut Random,
) -> Result<Outcome, NotRun> {
    stage::needed()?;
    let folder = tempfile::TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (image, key) = (path("image"), path("key"));
    SigningKey::generate("git-writer").unwrap().save(&key).unwrap();
    stage::format(&image, SIZE, file_system)?;
    let lives = story.lives(random);
    let (mut promised, mut groups, mut blocks) = (Promised::new(), 0, Vec::new());
    for powered in lives.split_inclusive(|end| matches!(end, End::Cut(_))) {
        let served = Served::new(&image, &path("served")).map_err(|why| at_first(why, &blocks))?;
        let mounted =
            Mounted::new(&served.disk(), &path("mounted"), file_system).map_err(|why| at_first(why, &blocks))?;
        for end in powered {
            let world =
                World { served: &served, repositories: mounted.folder.join("repositories"), key: &key, without };
            groups += world.live(*end, random, &mut promised);
        }
        drop(mounted);
        blocks.push(served.leave(random));
    }
    let mounted = Mounted::new(&image, &path("left"), file_system).map_err(|why| at_first(why, &blocks))?;
    let found = look(&mounted.folder.join("repositories"), &key, &promised);
    let lost: Vec<_> = blocks.iter().map(|(lost, kept)| format!("{lost} of {} blocks", lost + kept)).collect();
    let told = format!("{lives:?}: {groups} groups promised; lost of what was not synced: {}", lost.join(", "));
    Ok(Outcome { told, found })
}

/// Panics after the first power cut: a disk that could be made is also there the next time, whatever was written on it.
fn at_first(why: NotRun, cuts: &[(usize, usize)]) -> NotRun {
    if cuts.is_empty() { why } else { panic!("the disk is gone: {}", why.0) }
}

/// What a writer lives on.
struct World<'a> {
    served: &'a Served,
    repositories: PathBuf,
    key: &'a Path,
    without: Option<Sync>,
}

impl World<'_> {
    /// Has a writer live until its end. Returns how many groups it has promised.
    fn live(&self, end: End, random: &mut Random, promised: &mut Promised) -> u64 {
        let is_large = matches!(end, End::Cut(Cut { at: Moment::TurnOver, .. }));
        let told = if let End::Told(groups) | End::Torn(groups) = end { Some(groups) } else { None };
        let life = Life { seed: random.draw(), groups: told, is_large };
        let (mut begun_with, mut since, mut is_set, mut groups) = (None, None, false, 0);
        let mut writing = None;
        loop {
            if let End::Cut(Cut { at, groups, operations }) = end {
                let turned_over = || begun_with.is_some_and(|number| newest(&self.journal()) > number);
                if at == Moment::Start || at == Moment::TurnOver && turned_over() {
                    since.get_or_insert(0);
                }
                if !is_set && since.is_some_and(|since| since >= groups) {
                    self.served.cut_after(operations);
                    is_set = true;
                }
            }
            let writing =
                writing.get_or_insert_with(|| Writing::start(&self.repositories, self.key, &life, self.without));
            let Some(Ok(line)) = writing.lines.next() else { break };
            match Line::parse(&line) {
                Line::Ready => begun_with = Some(newest(&self.journal())),
                Line::Promised(tips) => {
                    promised.extend(tips);
                    groups += 1;
                    since = since.map(|since| since + 1);
                }
                Line::Rested if matches!(end, End::Cut(Cut { at: Moment::Rest, .. })) => {
                    since.get_or_insert(0);
                }
                Line::Rested => {}
            }
            // Without syncs it does not find out.
            if self.served.is_off() || matches!(end, End::Killed(killed) if groups >= killed) {
                return groups;
            }
        }
        let is_expected = self.served.is_off() || told == Some(groups);
        let said = writing.map(Writing::last_words).unwrap_or_default();
        assert!(is_expected, "the writer has ended before its time: {said}");
        if let End::Torn(_) = end {
            tear(&self.journal());
        }
        groups
    }

    fn journal(&self) -> PathBuf {
        self.repositories.join(TenantName::default().as_str()).join("journal")
    }
}

/// Puts half a record at the end of the journal.
fn tear(journal: &Path) {
    let path = journal.join(format!("{:020}", newest(journal)));
    let mut file = File::options().append(true).open(path).unwrap();
    file.write_all(&[7; 100]).unwrap();
    file.sync_all().unwrap();
}

/// The number of the newest file.
fn newest(journal: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(journal) else { return 0 };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).max().unwrap_or(0)
}
