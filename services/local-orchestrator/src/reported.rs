//! The last report of each node that the site has stored.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bus::{Bus, Subject, proto, report::Position, streams};
use margo::{NodeId, NodeName};
use prost::Message as _;

/// The last report of a node that was stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    pub position: Position,
    /// Whether its transitions were, too, as far as this process knows.
    pub events: bool,
}

/// The last stored reports, as far as they are known. The site's stream STATE tells the others.
#[derive(Default)]
pub struct Reported {
    held: Mutex<HashMap<NodeName, Stored>>,
}

impl Reported {
    /// The last report of this node that the site has stored.
    pub async fn get(&self, bus: &Bus, node: &NodeId) -> anyhow::Result<Stored> {
        if let Some(stored) = self.lock().get(&node.node) {
            return Ok(*stored);
        }
        let position = match bus.last(streams::STATE, &Subject::Status(node.clone())).await? {
            None => Position::default(),
            Some(message) => {
                let proto::NodeStatus { generation, incarnation, sequence, .. } =
                    proto::NodeStatus::decode(message.payload)?;
                Position { generation, incarnation, sequence }
            }
        };
        Ok(*self.lock().entry(node.node.clone()).or_insert(Stored { position, events: false }))
    }

    /// Notes a report that was stored.
    pub fn set(&self, node: NodeName, stored: Stored) {
        self.lock().insert(node, stored);
    }

    /// Forgets all, because the stream is not the one that it was.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeName, Stored>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
