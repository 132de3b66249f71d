//! Power cuts: what git-writer has promised is there afterwards, stock git finds nothing wrong, and the writer goes on. On a node,
//! an update that was failing when the power went is undone when it is back ([`node`]).
//!
//! A disk that forgets stands below a file system on which a process commits ([`volatile`], [`fuse`], [`stage`], [`writer`]). At a
//! moment of its life ([`plan`]) the power is cut ([`cut`]); then the file system that is left is mounted, the writer started, and
//! looked at ([`look`]). That this would find a missing sync is shown by leaving out each of them ([`syncs`], [`trace`]).
//!
//! Needs root, FUSE and loop devices; without them the test says that it was not run. `EDGEWRIGHT_POWER_CUTS` says how many cuts
//! there are, `EDGEWRIGHT_CHAOS_SEED` which.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

mod cut;
mod fuse;
mod look;
mod node;
mod plan;
mod stage;
mod syncs;
#[cfg(target_arch = "x86_64")]
mod trace;
mod volatile;
mod writer;

use std::env;

use end_to_end::{campaign, random::Random};

use crate::{
    plan::Story,
    stage::{FileSystem, NotRun},
    syncs::Sync,
};

/// After so many cuts a sync that is missing has to be found.
const TRIES: u64 = 40;

type Test = fn() -> Result<(), NotRun>;

const TESTS: [(&str, Test); 6] = [
    ("what_was_promised_survives_power_cuts_on_ext4", || power_cuts(FileSystem::Ext4)),
    ("what_was_promised_survives_power_cuts_on_btrfs", || power_cuts(FileSystem::Btrfs)),
    ("a_sync_that_is_missing_is_found_on_ext4", || missing_syncs(FileSystem::Ext4)),
    ("a_sync_that_is_missing_is_found_on_btrfs", || missing_syncs(FileSystem::Btrfs)),
    ("a_failed_update_of_wasm_goes_back_through_power_cuts", || wait(node::wasm_goes_back())),
    ("a_failed_update_of_containers_goes_back_through_power_cuts", || wait(node::containers_go_back())),
];

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    #[cfg(target_arch = "x86_64")]
    if trace::run(&arguments) {
        return;
    }
    if writer::run(&arguments) {
        return;
    }
    // Cargo hands the filter of the whole run to every target.
    let filters: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    for (name, test) in TESTS {
        if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter.as_str())) {
            continue;
        }
        if arguments.iter().any(|argument| argument == "--list") {
            println!("{name}: test");
            continue;
        }
        match test() {
            Ok(()) => println!("test {name} ... ok"),
            Err(NotRun(reason)) => println!("test {name} ... not run: {reason}"),
        }
    }
}

/// Runs a test that waits.
fn wait(test: impl Future<Output = Result<(), NotRun>>) -> Result<(), NotRun> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(test)
}

fn power_cuts(file_system: FileSystem) -> Result<(), NotRun> {
    let (cuts, seed) = (campaign::number("EDGEWRIGHT_POWER_CUTS").unwrap_or(3), campaign::seed());
    println!("EDGEWRIGHT_CHAOS_SEED={seed}: {cuts} power cuts on {file_system:?} are to be made");
    // So that few cuts on each have most of the stories.
    let stories = Story::ALL.into_iter().cycle().skip(if file_system == FileSystem::Ext4 { 0 } else { 3 });
    for (round, story) in (1..=cuts).zip(stories) {
        let cut::Outcome { told, found } = cut::cut(story, file_system, None, &mut Random::new(seed, 1_000 + round))?;
        println!("cut {round} of {cuts}: {told}");
        found.unwrap_or_else(|wrong| {
            panic!("cut {round} on {file_system:?} with EDGEWRIGHT_CHAOS_SEED={seed}: {wrong}")
        });
    }
    Ok(())
}

/// Which missing sync is to be found, by which story, on what.
const FOUND: [(Sync, Story, FileSystem); 8] = [
    (Sync::Group, Story::Young, FileSystem::Ext4),
    (Sync::TurnOver, Story::TurnOver, FileSystem::Ext4),
    (Sync::Rest, Story::Rest, FileSystem::Ext4),
    (Sync::Replay, Story::Killed, FileSystem::Ext4),
    (Sync::NewRepository, Story::Young, FileSystem::Ext4),
    (Sync::NewTree, Story::Young, FileSystem::Btrfs),
    (Sync::NewName, Story::Young, FileSystem::Btrfs),
    (Sync::CutOff, Story::Torn, FileSystem::Btrfs),
];

fn missing_syncs(file_system: FileSystem) -> Result<(), NotRun> {
    #[cfg(not(target_arch = "x86_64"))]
    return Err(NotRun("leaving out a system call works on x86-64 only".to_owned()));
    #[cfg(target_arch = "x86_64")]
    trace::needed()?;
    let seed = campaign::seed();
    println!("EDGEWRIGHT_CHAOS_SEED={seed}: it is to be found on {file_system:?} that syncs are missing");
    for (sync, story, _) in FOUND.into_iter().filter(|(.., on)| *on == file_system) {
        let found = (1..=TRIES).find_map(|round| {
            let cut = cut::cut(story, file_system, Some(sync), &mut Random::new(seed, 2_000 + round));
            cut.map(|cut| cut.found.err().map(|wrong| (round, cut.told, wrong))).transpose()
        });
        let never =
            || panic!("{TRIES} cuts with EDGEWRIGHT_CHAOS_SEED={seed} do not find that the sync {sync:?} is missing");
        let (round, told, wrong) = found.unwrap_or_else(never)?;
        println!(
            "found at cut {round} that the sync {sync:?} is missing: {}",
            wrong.lines().next().unwrap_or_default()
        );
        println!("  {told}");
    }
    Ok(())
}
