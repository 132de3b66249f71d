//! The positions of the last values in the hub's stream STATE.
//!
//! This service is the only writer of the stream, so what it has read or written once it need not read again, as long as
//! the stream is the same.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::Context;
use bus::{
    Bus, Pattern, Subject,
    report::{self, Position},
    streams,
};
use futures::{StreamExt, TryStreamExt, stream};
use margo::{ClientName, NodeId, NodeName};
use tracing::warn;

/// Last values that are read at once.
const READS: usize = 32;

#[derive(Default)]
struct Held {
    /// Rises whenever everything is forgotten; what was read before must not be noted after.
    epoch: u64,
    positions: HashMap<Subject, Position>,
}

/// The positions of the last values in STATE, as far as they are known.
#[derive(Default)]
pub struct Positions {
    held: Mutex<Held>,
}

impl Positions {
    /// The position of the last value of this subject; `None` when it was not read.
    pub fn get(&self, subject: &Subject) -> Option<Position> {
        self.lock().positions.get(subject).copied()
    }

    /// Notes a value that was written.
    pub fn set(&self, subject: Subject, position: Position) {
        self.lock().positions.insert(subject, position);
    }

    /// Forgets one value, because nobody knows whether it was written.
    pub fn forget(&self, subject: &Subject) {
        let mut held = self.lock();
        held.epoch += 1;
        held.positions.remove(subject);
    }

    /// Forgets all.
    pub fn clear(&self) {
        let mut held = self.lock();
        held.epoch += 1;
        held.positions.clear();
    }

    /// Reads the positions of these subjects from the stream, where they are not known.
    pub async fn read(&self, bus: &Bus, subjects: impl IntoIterator<Item = Subject>) -> anyhow::Result<()> {
        let (epoch, unknown) = {
            let held = self.lock();
            let unknown: Vec<_> = subjects.into_iter().filter(|it| !held.positions.contains_key(it)).collect();
            (held.epoch, unknown)
        };
        let reads = stream::iter(unknown.into_iter().map(|subject| async move {
            let position = match bus.last(streams::STATE, &subject).await? {
                None => Position::default(),
                Some(message) => position_of(&subject, &message.payload),
            };
            anyhow::Ok((subject, position))
        }));
        let found: Vec<_> = reads.buffer_unordered(READS).try_collect().await?;
        let mut held = self.lock();
        if held.epoch == epoch {
            held.positions.extend(found);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn position_of(subject: &Subject, payload: &[u8]) -> Position {
    let read = match subject {
        Subject::Capabilities(_) => report::capabilities(payload).map(|it| it.position),
        _ => report::status(payload).map(|it| it.position),
    };
    read.unwrap_or_else(|error| {
        // Whatever comes is newer than that.
        warn!(%subject, error = &error as &dyn std::error::Error, "the last value does not read");
        Position::default()
    })
}

/// Names of a client's nodes that have a status in STATE, sorted.
pub async fn nodes_of(bus: &Bus, client: &ClientName) -> anyhow::Result<Vec<NodeName>> {
    let stream = bus.jetstream().get_stream_no_info(streams::STATE).await?;
    let filter = Pattern::StateOf(client.clone());
    let mut subjects = stream.info_with_subjects(filter.to_string()).await.context("listing the subjects of STATE")?;
    let mut nodes = Vec::new();
    while let Some((subject, _)) = subjects.try_next().await.context("listing the subjects of STATE")? {
        if let Ok(Subject::Status(NodeId { node, .. })) = subject.parse() {
            nodes.push(node);
        }
    }
    nodes.sort();
    Ok(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_known_of_a_stream_that_is_another_one() {
        let positions = Positions::default();
        let subject = Subject::Status("plant/press".parse().unwrap());
        positions.set(subject.clone(), Position { generation: 0, incarnation: 1, sequence: 7 });
        assert!(positions.get(&subject).is_some());
        positions.clear();
        assert_eq!(positions.get(&subject), None);
    }
}
