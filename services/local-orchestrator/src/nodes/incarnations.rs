//! The incarnations of the site's nodes: which life of a node is the present one.
//!
//! **Layout.** A folder has one JSON file for each node that ever registered here, named after the node, with its generation
//! and incarnation; all of them are held in memory. The file [`COMPLETE`] says that none is missing.
//!
//! **Updates.** A node's file is replaced whole and synced before the node is answered and before anybody else sees the new
//! number. What one registration costs does not depend on how many nodes there are, and nodes do not wait for each other.
//!
//! **After a crash.** A node's old file is there or the new one. A number that was kept and never answered is skipped: a
//! node without its disk asks again and begins the life after that one, for no number is given twice. A site that lost
//! the folder, or cannot read a file of it, asks the hub where its nodes stand (`positions.rs`); until it knows, no node is
//! registered.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use anyhow::Context;
use bus::report::{MAX_COUNTER, Position};
use margo::NodeName;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};
use tracing::{info, warn};

/// A life of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Life {
    /// The generation of the node's key: how many former keys it has.
    #[serde(default)]
    pub generation: u64,
    pub incarnation: u64,
}

impl From<Position> for Life {
    fn from(position: Position) -> Self {
        Self { generation: position.generation, incarnation: position.incarnation }
    }
}

/// What a node says of itself when it registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presented {
    /// The node's incarnation, 0 for none.
    pub incarnation: u64,
    /// The sequence of the node's last report, 0 when it knows of none.
    pub sequence: u64,
}

/// What becomes of a node that registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    /// It goes on with the life that it presents.
    Keep(Life),
    /// It begins this life.
    Begin(Life),
}

/// Decides which life a node has. `generation`: that of its key. `held`: its life as this disk knows it. `stored`: its last
/// report that the site has.
///
/// A node without a life, or with an older disk than its last report came from, begins the next one. So does one that
/// presents a life which it cannot have: it may know of one more than this disk, which was not yet kept, and of no more.
pub fn register(generation: u64, held: Option<Life>, stored: Position, presented: Presented) -> Registration {
    let known = held.unwrap_or_default().max(Life::from(stored));
    // A new key begins anew. One that is older than what is known comes from an older list of nodes, and must not set
    // anything back.
    let known = if known.generation < generation { Life { generation, incarnation: 0 } } else { known };
    let is_present = Life::from(stored) == known;
    let lags = is_present && presented.sequence > 0 && presented.sequence < stored.sequence;
    if presented.incarnation == known.incarnation && presented.incarnation > 0 && !lags {
        return Registration::Keep(known);
    }
    let next = Life { incarnation: known.incarnation + 1, ..known };
    if presented.incarnation == next.incarnation { Registration::Keep(next) } else { Registration::Begin(next) }
}

/// The name of the file that says that no other is missing. No node has such a name.
const COMPLETE: &str = ".complete";

/// Changes in work at once, at most. Nodes that share a lock wait for each other, which is right, only slower.
const LOCKS: usize = 16;

type Lives = BTreeMap<NodeName, Life>;

/// The present lives of all nodes.
pub struct Incarnations {
    folder: PathBuf,
    lives: Arc<RwLock<Lives>>,
    /// Whoever decides on a node's life, and writes it, holds the lock of the node.
    locks: [Arc<Mutex<()>>; LOCKS],
    /// Whether this disk knows all nodes that it ever knew.
    complete: watch::Sender<bool>,
}

impl Incarnations {
    /// Takes up what is on disk. A folder that cannot be read is as good as none: the hub is asked.
    pub fn open(folder: PathBuf) -> Self {
        let (lives, complete) = read(&folder).unwrap_or_else(|error| {
            warn!(folder = %folder.display(), error = format!("{error:#}"), "the incarnations cannot be read");
            (Lives::new(), false)
        });
        let complete = watch::Sender::new(complete);
        Self { folder, lives: Arc::new(RwLock::new(lives)), locks: Default::default(), complete }
    }

    /// Whether nodes may be registered: this disk has forgotten none.
    pub fn is_complete(&self) -> bool {
        *self.complete.borrow()
    }

    /// The present life; `None` when this disk knows nothing of the node.
    pub fn get(&self, node: &NodeName) -> Option<Life> {
        read_lock(&self.lives).get(node).copied()
    }

    /// Decides on a node's life from the one that it has here, and makes it the present one; it is on disk when this returns.
    pub async fn decide(&self, node: &NodeName, decide: impl FnOnce(Option<Life>) -> Life) -> anyhow::Result<Life> {
        let lock = self.lock(node).clone().lock_owned().await;
        let held = self.get(node);
        let life = decide(held);
        if held == Some(life) {
            return Ok(life);
        }
        let (folder, lives, node) = (self.folder.clone(), self.lives.clone(), node.clone());
        // Whoever gives up waiting leaves the lock to the one who writes.
        let writing = disk::blocking(move || {
            disk::write_private(&folder.join(node.as_str()), &content(life))?;
            write_lock(&lives).insert(node, life);
            drop(lock);
            Ok(())
        });
        writing.await.context("keeping an incarnation")?;
        Ok(life)
    }

    /// Ends the life of a node of which somebody knows this later report, so that the node begins another one.
    pub async fn outlive(&self, node: &NodeName, held: Position) -> anyhow::Result<()> {
        let over = Life::from(held);
        if over.incarnation >= MAX_COUNTER || self.get(node).is_some_and(|life| life > over) {
            return Ok(());
        }
        info!(%node, incarnation = over.incarnation, "the hub knows a later report of the node: it begins another life");
        let next = Life { incarnation: over.incarnation + 1, ..over };
        self.decide(node, |life| life.map_or(next, |life| life.max(next))).await?;
        Ok(())
    }

    /// Takes up what the hub knows of all nodes. From now on nodes may be registered.
    pub async fn learn(&self, known: BTreeMap<NodeName, Life>) -> anyhow::Result<()> {
        let mut all = Vec::new();
        for lock in &self.locks {
            all.push(lock.clone().lock_owned().await);
        }
        let (folder, lives) = (self.folder.clone(), self.lives.clone());
        let learning = disk::blocking(move || {
            let held = read_lock(&lives).clone();
            let learned: Lives = known
                .into_iter()
                .map(|(node, life)| {
                    let later = held.get(&node).copied().unwrap_or_default().max(life);
                    (node, later)
                })
                .collect();
            let contents: Vec<_> = learned.iter().map(|(node, life)| (node.to_string(), content(*life))).collect();
            disk::make_private_folder(&folder)?;
            disk::write_all_private(
                &folder,
                contents.iter().map(|(node, life)| (node.clone(), vec![life.as_slice()])),
            )?;
            // Only now is it true.
            disk::write_private(&folder.join(COMPLETE), b"")?;
            disk::sync(folder.parent().unwrap_or(Path::new(".")))?;
            write_lock(&lives).extend(learned);
            drop(all);
            Ok(())
        });
        learning.await.context("keeping what the hub knows of the nodes")?;
        self.complete.send_replace(true);
        Ok(())
    }

    fn lock(&self, node: &NodeName) -> &Arc<Mutex<()>> {
        let hash = node.as_str().bytes().fold(0_usize, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
        &self.locks[hash % LOCKS]
    }
}

/// All lives that a folder holds, and whether that is all of them.
fn read(folder: &Path) -> anyhow::Result<(Lives, bool)> {
    if !folder.try_exists()? {
        return Ok((Lives::new(), false));
    }
    let (mut lives, mut complete) = (Lives::new(), false);
    for name in disk::names(folder)? {
        if name == COMPLETE {
            complete = true;
            continue;
        }
        let read = || -> anyhow::Result<(NodeName, Life)> {
            Ok((name.parse()?, serde_json::from_slice(&fs::read(folder.join(&name))?)?))
        };
        let (node, life) = read().with_context(|| format!("the file {name}"))?;
        lives.insert(node, life);
    }
    Ok((lives, complete))
}

fn content(life: Life) -> Vec<u8> {
    format!(r#"{{"generation":{},"incarnation":{}}}"#, life.generation, life.incarnation).into_bytes()
}

fn read_lock(lives: &RwLock<Lives>) -> RwLockReadGuard<'_, Lives> {
    lives.read().unwrap_or_else(PoisonError::into_inner)
}

fn write_lock(lives: &RwLock<Lives>) -> RwLockWriteGuard<'_, Lives> {
    lives.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use futures::future;
    use proptest::prelude::*;

    use super::*;

    fn life(incarnation: u64) -> Life {
        Life { generation: 0, incarnation }
    }

    fn at(incarnation: u64, sequence: u64) -> Position {
        Position { generation: 0, incarnation, sequence }
    }

    fn says(incarnation: u64, sequence: u64) -> Presented {
        Presented { incarnation, sequence }
    }

    #[test]
    fn a_node_without_its_disk_begins_the_next_life() {
        assert_eq!(register(0, None, at(0, 0), says(0, 0)), Registration::Begin(life(1)));
        assert_eq!(register(0, Some(life(4)), at(0, 0), says(0, 0)), Registration::Begin(life(5)));
        assert_eq!(register(0, None, at(4, 9), says(0, 0)), Registration::Begin(life(5)));
    }

    #[test]
    fn a_node_with_its_disk_goes_on_also_when_it_knows_of_one_life_more_than_the_site() {
        assert_eq!(register(0, Some(life(4)), at(4, 9), says(4, 9)), Registration::Keep(life(4)));
        assert_eq!(register(0, Some(life(4)), at(4, 9), says(5, 9)), Registration::Keep(life(5)));
        assert_eq!(register(0, None, at(0, 0), says(1, 9)), Registration::Keep(life(1)));
    }

    #[test]
    fn a_node_whose_disk_was_rolled_back_begins_the_next_life() {
        assert_eq!(register(0, Some(life(4)), at(4, 9), says(3, 500)), Registration::Begin(life(5)));
        assert_eq!(register(0, Some(life(4)), at(4, 9), says(4, 8)), Registration::Begin(life(5)));
        // A report of an earlier life says nothing about the sequence in this one.
        assert_eq!(register(0, Some(life(4)), at(3, 900), says(4, 8)), Registration::Keep(life(4)));
    }

    #[test]
    fn no_node_makes_up_a_life() {
        assert_eq!(register(0, Some(life(4)), at(4, 9), says(1 << 50, 1)), Registration::Begin(life(5)));
    }

    #[test]
    fn a_new_key_begins_anew() {
        let first = Life { generation: 1, incarnation: 1 };
        assert_eq!(register(1, Some(life(4)), at(4, 9), says(0, 0)), Registration::Begin(first));
        assert_eq!(register(1, Some(life(4)), at(4, 9), says(4, 9)), Registration::Begin(first));
        assert_eq!(register(1, Some(first), at(4, 9), says(1, 1)), Registration::Keep(first));
        // An older list of nodes sets nothing back.
        assert_eq!(register(0, Some(first), at(4, 9), says(1, 1)), Registration::Keep(first));
    }

    proptest! {
        /// Whatever a node presents, its life is never before one that is known, and at most one after it.
        #[test]
        fn lives_only_rise_and_one_by_one(
            generation in 0..3u64, held in (0..3u64, 0..9u64), stored in (0..3u64, 0..9u64, 0..9u64), says in (0..20u64, 0..9u64),
        ) {
            let held = Life { generation: held.0, incarnation: held.1 };
            let stored = Position { generation: stored.0, incarnation: stored.1, sequence: stored.2 };
            let presented = Presented { incarnation: says.0, sequence: says.1 };
            let known = held.max(stored.into()).max(Life { generation, incarnation: 0 });
            let (Registration::Keep(life) | Registration::Begin(life)) = register(generation, Some(held), stored, presented);
            prop_assert!(life >= known && life.generation == known.generation);
            prop_assert!(life.incarnation >= 1 && life.incarnation <= known.incarnation + 1);
        }
    }

    #[tokio::test]
    async fn an_incarnation_survives_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Incarnations::open(folder.path().join("incarnations"));
        let press: NodeName = "press".parse().unwrap();
        assert!(open().get(&press).is_none() && !open().is_complete());
        open().learn(BTreeMap::from([(press.clone(), life(3))])).await.unwrap();
        assert!(open().is_complete());
        open().decide(&press, |held| Life { incarnation: held.unwrap().incarnation + 1, ..life(0) }).await.unwrap();
        assert_eq!(open().get(&press), Some(life(4)));
        // What the hub knows sets nothing back.
        open().learn(BTreeMap::from([(press.clone(), life(2))])).await.unwrap();
        assert_eq!(open().get(&press), Some(life(4)));
    }

    #[tokio::test]
    async fn a_life_that_others_know_a_later_report_of_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let incarnations = Incarnations::open(folder.path().join("incarnations"));
        let press: NodeName = "press".parse().unwrap();
        incarnations.decide(&press, |_| life(4)).await.unwrap();
        incarnations.outlive(&press, at(3, 9)).await.unwrap();
        assert_eq!(incarnations.get(&press), Some(life(4)));
        incarnations.outlive(&press, at(4, 9)).await.unwrap();
        assert_eq!(incarnations.get(&press), Some(life(5)));
    }

    #[tokio::test]
    async fn no_number_is_given_twice_to_those_who_ask_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let incarnations = Incarnations::open(folder.path().join("incarnations"));
        let nodes: Vec<NodeName> = (0..40).map(|number| format!("n{}", number % 20).parse().unwrap()).collect();
        let next = |held: Option<Life>| life(held.unwrap_or_default().incarnation + 1);
        let mut given = future::join_all(nodes.iter().map(async |node| {
            let life = incarnations.decide(node, next).await.unwrap();
            (node.clone(), life.incarnation)
        }))
        .await;
        given.sort();
        let wanted: BTreeSet<_> = nodes.iter().flat_map(|node| [(node.clone(), 1), (node.clone(), 2)]).collect();
        assert_eq!(given, wanted.into_iter().collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_file_that_does_not_read_makes_the_site_ask() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Incarnations::open(folder.path().join("incarnations"));
        let press: NodeName = "press".parse().unwrap();
        open().learn(BTreeMap::from([(press, life(3))])).await.unwrap();
        fs::write(folder.path().join("incarnations/press"), "{").unwrap();
        assert!(!open().is_complete());
    }
}
