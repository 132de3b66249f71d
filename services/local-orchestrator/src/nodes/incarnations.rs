//! The incarnations of the site's nodes: which life of a node is the present one.
//!
//! **Layout.** One JSON file has the generation and the incarnation of each node that ever registered here. It is small,
//! and all of it is held in memory.
//!
//! **Updates.** The file is replaced whole and synced before a node is answered and before anybody else sees the new
//! number.
//!
//! **After a crash.** The old file is there or the new one. A number that was kept and never answered is skipped: a
//! node without its disk asks again and begins the life after that one, for no number is given twice. A site that lost
//! the file, or cannot read it, asks the hub where its nodes stand (`positions.rs`); until it knows, no node is
//! registered.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{PoisonError, RwLock},
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

#[derive(Default)]
struct Held {
    lives: BTreeMap<NodeName, Life>,
}

/// The present lives of all nodes, in one file.
pub struct Incarnations {
    file: PathBuf,
    held: RwLock<Held>,
    /// Two changes must not write the file at once.
    changing: Mutex<()>,
    /// Whether this disk knows all nodes that it ever knew.
    complete: watch::Sender<bool>,
}

impl Incarnations {
    /// Takes up what is on disk. A file that cannot be read is as good as none: the hub is asked.
    pub fn open(file: PathBuf) -> Self {
        let read = match disk::read_optional(&file) {
            Ok(None) => None,
            Ok(Some(bytes)) => match serde_json::from_slice(&bytes) {
                Ok(lives) => Some(lives),
                Err(error) => {
                    warn!(file = %file.display(), error = &error as &dyn std::error::Error, "the file is not valid");
                    None
                }
            },
            Err(error) => {
                warn!(file = %file.display(), error = &error as &dyn std::error::Error, "the file cannot be read");
                None
            }
        };
        let complete = watch::Sender::new(read.is_some());
        let held = RwLock::new(Held { lives: read.unwrap_or_default() });
        Self { file, held, changing: Mutex::default(), complete }
    }

    /// Whether nodes may be registered: this disk has forgotten none.
    pub fn is_complete(&self) -> bool {
        *self.complete.borrow()
    }

    /// The present life; `None` when this disk knows nothing of the node.
    pub fn get(&self, node: &NodeName) -> Option<Life> {
        self.held.read().unwrap_or_else(PoisonError::into_inner).lives.get(node).copied()
    }

    /// Makes this the present life; it is on disk when this returns.
    pub async fn set(&self, node: NodeName, life: Life) -> anyhow::Result<()> {
        if self.get(&node) == Some(life) {
            return Ok(());
        }
        self.change(|lives| {
            lives.insert(node, life);
        })
        .await
        .context("keeping an incarnation")
    }

    /// Ends the life of a node of which somebody knows this later report, so that the node begins another one.
    pub async fn outlive(&self, node: &NodeName, held: Position) -> anyhow::Result<()> {
        let over = Life::from(held);
        if over.incarnation >= MAX_COUNTER || self.get(node).is_some_and(|life| life > over) {
            return Ok(());
        }
        info!(%node, incarnation = over.incarnation, "the hub knows a later report of the node: it begins another life");
        self.set(node.clone(), Life { incarnation: over.incarnation + 1, ..over }).await
    }

    /// Takes up what the hub knows of all nodes. From now on nodes may be registered.
    pub async fn learn(&self, known: BTreeMap<NodeName, Life>) -> anyhow::Result<()> {
        let learned = self.change(|lives| {
            for (node, life) in known {
                let held = lives.entry(node).or_default();
                *held = life.max(*held);
            }
        });
        learned.await.context("keeping what the hub knows of the nodes")?;
        self.complete.send_replace(true);
        Ok(())
    }

    async fn change(&self, change: impl FnOnce(&mut BTreeMap<NodeName, Life>)) -> anyhow::Result<()> {
        let _changing = self.changing.lock().await;
        let mut next = self.held.read().unwrap_or_else(PoisonError::into_inner).lives.clone();
        change(&mut next);
        let bytes = serde_json::to_vec(&next).context("writing names and numbers as JSON")?;
        let file = self.file.clone();
        disk::blocking(move || disk::write_private(&file, &bytes)).await?;
        self.held.write().unwrap_or_else(PoisonError::into_inner).lives = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
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
        let open = || Incarnations::open(folder.path().join("incarnations.json"));
        let press: NodeName = "press".parse().unwrap();
        assert!(open().get(&press).is_none() && !open().is_complete());
        open().learn(BTreeMap::from([(press.clone(), life(3))])).await.unwrap();
        assert!(open().is_complete());
        open().set(press.clone(), life(4)).await.unwrap();
        assert_eq!(open().get(&press), Some(life(4)));
    }

    #[tokio::test]
    async fn a_life_that_others_know_a_later_report_of_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let incarnations = Incarnations::open(folder.path().join("incarnations.json"));
        let press: NodeName = "press".parse().unwrap();
        incarnations.set(press.clone(), life(4)).await.unwrap();
        incarnations.outlive(&press, at(3, 9)).await.unwrap();
        assert_eq!(incarnations.get(&press), Some(life(4)));
        incarnations.outlive(&press, at(4, 9)).await.unwrap();
        assert_eq!(incarnations.get(&press), Some(life(5)));
    }

    #[test]
    fn a_file_that_does_not_read_is_as_good_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("incarnations.json");
        std::fs::write(&file, "{").unwrap();
        assert!(!Incarnations::open(file).is_complete());
    }
}
