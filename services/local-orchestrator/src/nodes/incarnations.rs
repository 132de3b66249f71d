//! The incarnations of the site's nodes: which life of a node is the present one.
//!
//! **Layout.** One JSON file has the number of each node that ever registered here. It is small, and all of it is held
//! in memory.
//!
//! **Updates.** The file is replaced whole and synced before a node is answered and before anybody else sees the new
//! number.
//!
//! **After a crash.** The old file is there or the new one. A number that was kept and never answered is skipped: a
//! node without its disk asks again and begins the life after that one, for no number is given twice. A site that lost
//! the file learns the numbers from the statuses in its own stream STATE and at the hub.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{PoisonError, RwLock},
};

use anyhow::Context;
use margo::NodeName;

/// What becomes of a node that registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    /// It goes on with the incarnation that it presents.
    Keep(u64),
    /// It has none, and begins its next life under this incarnation.
    Give(u64),
    /// It presents one that is over: an old disk, or somebody else.
    Refuse {
        /// The incarnation that the node names.
        presented: u64,
        /// The incarnation that is in force.
        held: u64,
    },
}

/// `held`: the highest incarnation that anybody remembers of this node, 0 for none. `presented`: the node's own, 0 for
/// none. A node may know more than we do, when our disk is older than its own.
pub fn register(held: u64, presented: u64) -> Registration {
    match presented {
        0 => Registration::Give(held + 1),
        presented if presented < held => Registration::Refuse { presented, held },
        presented => Registration::Keep(presented),
    }
}

/// The present incarnations of all nodes, in one file.
pub struct Incarnations {
    file: PathBuf,
    held: RwLock<BTreeMap<NodeName, u64>>,
}

impl Incarnations {
    /// Takes up what is on disk.
    pub fn open(file: PathBuf) -> anyhow::Result<Self> {
        let held = match disk::read_optional(&file).with_context(|| format!("reading {}", file.display()))? {
            None => BTreeMap::new(),
            Some(bytes) => {
                serde_json::from_slice(&bytes).with_context(|| format!("{} is not valid", file.display()))?
            }
        };
        Ok(Self { file, held: RwLock::new(held) })
    }

    /// The present incarnation; `None` when this disk knows nothing of the node.
    pub fn get(&self, node: &NodeName) -> Option<u64> {
        self.held.read().unwrap_or_else(PoisonError::into_inner).get(node).copied()
    }

    /// Makes this the present incarnation; it is on disk when this returns. The caller lets nobody else in between.
    pub async fn set(&self, node: NodeName, incarnation: u64) -> anyhow::Result<()> {
        if self.get(&node) == Some(incarnation) {
            return Ok(());
        }
        let mut next = self.held.read().unwrap_or_else(PoisonError::into_inner).clone();
        next.insert(node, incarnation);
        let bytes = serde_json::to_vec(&next).context("writing names and numbers as JSON")?;
        let file = self.file.clone();
        disk::blocking(move || disk::write_private(&file, &bytes)).await.context("keeping an incarnation")?;
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_its_disk_begins_the_next_life() {
        assert_eq!(register(0, 0), Registration::Give(1));
        assert_eq!(register(4, 0), Registration::Give(5));
    }

    #[test]
    fn a_node_with_its_disk_goes_on_also_when_it_knows_more_than_the_site() {
        assert_eq!(register(4, 4), Registration::Keep(4));
        assert_eq!(register(0, 3), Registration::Keep(3));
    }

    #[test]
    fn an_earlier_life_is_refused() {
        assert_eq!(register(4, 3), Registration::Refuse { presented: 3, held: 4 });
    }

    #[tokio::test]
    async fn an_incarnation_survives_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Incarnations::open(folder.path().join("incarnations.json")).unwrap();
        let press: NodeName = "press".parse().unwrap();
        assert_eq!(open().get(&press), None);
        open().set(press.clone(), 3).await.unwrap();
        assert_eq!(open().get(&press), Some(3));
    }
}
