//! Publishing groups of messages of many senders in shared batches: what is refused for one sender is stored for the others.

use std::{sync::Arc, time::Duration};

use process::Backoff;
use tokio::time::sleep;

use crate::{BatchError, Bus, MAX_BATCH, Outgoing, batch::FEW};

/// Bytes of one batch. The server holds a batch in memory until it is committed.
const BATCH_BYTES: usize = 4 << 20;

/// How often a batch is tried that the stream is too busy for.
const ATTEMPTS: usize = 5;

/// After so many groups that found no room, the others are not tried either.
const FULL_GROUPS: usize = 3;

/// What became of groups of messages.
#[derive(Debug)]
pub struct Published {
    /// The highest sequence that the stream gave to one of them; 0 when none is stored.
    pub sequence: u64,
    /// For each message of each group, whether it is on the server's disk. After an error that is [`BatchError::Unknown`]
    /// it may be all the same.
    pub results: Vec<Vec<Result<(), Arc<BatchError>>>>,
}

impl Bus {
    /// Publishes messages of one stream, of each group at most [`MAX_BATCH`], in as few atomic batches as there is need for. A
    /// batch that the server refuses is published again group by group, and of a group that it refuses message by message,
    /// so one message that cannot be stored keeps no other from it.
    pub async fn publish_groups(&self, groups: Vec<Vec<Outgoing>>) -> Published {
        let mut published = Published { sequence: 0, results: Vec::with_capacity(groups.len()) };
        let mut batch: Vec<Vec<Outgoing>> = Vec::new();
        let (mut count, mut bytes) = (0, 0);
        for group in groups {
            let more: usize = group.iter().map(|message| message.payload.len()).sum();
            if !batch.is_empty() && (count + group.len() > MAX_BATCH || bytes + more > BATCH_BYTES) {
                self.publish_together(std::mem::take(&mut batch), &mut published).await;
                (count, bytes) = (0, 0);
            }
            (count, bytes) = (count + group.len(), bytes + more);
            batch.push(group);
        }
        self.publish_together(batch, &mut published).await;
        published
    }

    async fn publish_together(&self, groups: Vec<Vec<Outgoing>>, published: &mut Published) {
        let alone = groups.len() == 1;
        let error = match self.publish_patiently(groups.concat()).await {
            Ok(sequence) => {
                published.sequence = published.sequence.max(sequence);
                published.results.extend(groups.iter().map(|group| vec![Ok(()); group.len()]));
                return;
            }
            Err(error) => error,
        };
        let by_groups = matches!(error, BatchError::Refused { .. } | BatchError::Full | BatchError::Conflict);
        if alone || !by_groups {
            let error = Arc::new(error);
            published.results.extend(groups.iter().map(|group| vec![Err(error.clone()); group.len()]));
            if alone && matches!(*error, BatchError::Refused { .. }) && groups[0].len() > 1 {
                published.results.pop();
                self.publish_singly(groups, published).await;
            }
            return;
        }
        let mut full = 0;
        for group in groups {
            if full >= FULL_GROUPS && !group.is_empty() {
                published.results.push(vec![Err(Arc::new(BatchError::Full)); group.len()]);
                continue;
            }
            Box::pin(self.publish_together(vec![group], published)).await;
            let last = published.results.last().and_then(|results| results.first());
            full += usize::from(
                last.is_some_and(|result| matches!(result, Err(error) if matches!(**error, BatchError::Full))),
            );
        }
    }

    async fn publish_singly(&self, groups: Vec<Vec<Outgoing>>, published: &mut Published) {
        let mut results = Vec::new();
        for message in groups.into_iter().flatten() {
            results.push(match self.publish_patiently(vec![message]).await {
                Ok(sequence) => {
                    published.sequence = published.sequence.max(sequence);
                    Ok(())
                }
                Err(error) => Err(Arc::new(error)),
            });
        }
        published.results.push(results);
    }

    /// Publishes a batch, again and again while the stream is busy with those of others.
    async fn publish_patiently(&self, messages: Vec<Outgoing>) -> Result<u64, BatchError> {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
        for _ in 1..ATTEMPTS {
            let published = if messages.len() > FEW {
                self.publish_batch(messages.clone()).await
            } else {
                self.publish_all(messages.clone()).await
            };
            match published {
                Err(BatchError::Busy) => sleep(backoff.pause()).await,
                published => return published,
            }
        }
        Err(BatchError::Busy)
    }
}
