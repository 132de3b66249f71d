//! The log of rows, read in order: parts of a large row are put together, and rows that come together form a group.

use std::time::Duration;

use anyhow::{Context, ensure};
use async_nats::jetstream::{Message, consumer::pull};
use bus::{Assembler, Bus, ServiceName, Subject, proto, streams};
use futures::{FutureExt, StreamExt};
use margo::RepositoryName;
use prost::Message as _;
use tokio::time::{Instant, timeout_at};

use crate::{
    decode::{self, Undecodable},
    store::Queued,
};

/// How long the first row of a group waits for those that its source has announced: the rows of one order are published
/// one after the other, with a sync of the hub's disk between them. A row behind which nothing was announced waits for
/// nobody, because whatever comes while a group is committed is in the next one.
const COLLECT: Duration = Duration::from_millis(5);

/// The most rows of one group. Where they are of a thousand repositories, each still gets several with one pack; with more, a
/// row would wait longer and hardly get cheaper.
pub const MAX_ROWS: usize = 4_000;

/// Once a group holds so many bytes, nothing is added to it: this bounds the memory. One row has at most that many, so twice as
/// many are held at most.
const MAX_BYTES: usize = 32 << 20;

/// The rows that came together and are committed together.
#[derive(Default)]
pub struct Group {
    /// In the order of the log.
    pub rows: Vec<Queued>,
    /// The subject of each message that was left out, and why it was.
    pub undecodable: Vec<(String, Undecodable)>,
    /// Sequence of the last message that belongs to the group: one that was left out, or the last part of the last row
    /// that is complete. 0 when there is none.
    pub last: u64,
    /// When the first message came.
    pub begin: Option<Instant>,
    bytes: usize,
    /// Whether the source of the last message has announced others right behind it.
    more_follow: bool,
}

/// Reads the log from its begin, each message once and in order. Nothing is acknowledged: a message stays in the log until it is
/// purged, and a new reader gets it again.
pub struct Inbox {
    messages: pull::Stream,
    /// How many messages were delivered since the log was opened.
    delivered: u64,
    assembler: Assembler,
    group: Group,
}

impl Inbox {
    pub async fn open(bus: &Bus) -> anyhow::Result<Self> {
        let messages = bus.messages(ServiceName::GitWriter, streams::GIT_WRITES).await.context("opening the log")?;
        Ok(Self { messages, delivered: 0, assembler: Assembler::default(), group: Group::default() })
    }

    /// Waits for a message and returns it with those that are there already and those that its source has announced.
    /// Cancel-safe: what was received before a cancellation is in the next group. Fails when the log cannot be read any
    /// more.
    pub async fn next_group(&mut self) -> anyhow::Result<Group> {
        while !self.is_full() {
            let next = self.messages.next();
            let next = match self.group.begin {
                None => Some(next.await),
                Some(begin) if self.group.more_follow => timeout_at(begin + COLLECT, next).await.ok(),
                Some(_) => next.now_or_never(),
            };
            let Some(next) = next else { break };
            self.take(next.context("the log ended")?.context("reading the log")?)?;
        }
        Ok(std::mem::take(&mut self.group))
    }

    fn is_full(&self) -> bool {
        self.group.rows.len() >= MAX_ROWS || self.group.bytes >= MAX_BYTES
    }

    fn take(&mut self, message: Message) -> anyhow::Result<()> {
        let info = message.info().map_err(anyhow::Error::from_boxed)?;
        let (sequence, delivered) = (info.stream_sequence, info.consumer_sequence);
        // The server delivers each message once, so one that was lost on the way does not come again by itself.
        ensure!(delivered == self.delivered + 1, "a message of the log was lost on the way");
        self.delivered = delivered;
        let message = message.message;
        let group = &mut self.group;
        group.begin.get_or_insert_with(Instant::now);
        group.more_follow = bus::more_follow(message.headers.as_ref());
        let named = match message.subject.parse() {
            Ok(Subject::GitWriteFleet(source)) => Some((source, RepositoryName::Fleet)),
            Ok(Subject::GitWriteClient(source, client)) => Some((source, RepositoryName::Client(client))),
            Ok(_) | Err(_) => None,
        };
        let named = named.ok_or_else(|| Undecodable::Subject(message.subject.to_string()));
        let row = named.and_then(|(source, repository)| {
            let Some(payload) = self.assembler.take(message.headers.as_ref(), message.payload)? else {
                return Ok(None);
            };
            let write: proto::GitWrite = bus::decode(&payload)?;
            let bytes = write.encoded_len();
            let row = decode::row(source, write)?;
            Ok(Some(Queued { row, repository, bytes, headers: message.headers }))
        });
        match row {
            Ok(None) => return Ok(()),
            Ok(Some(row)) => {
                group.bytes += row.bytes;
                group.rows.push(row);
            }
            Err(error) => group.undecodable.push((message.subject.to_string(), error)),
        }
        group.last = sequence;
        Ok(())
    }
}
