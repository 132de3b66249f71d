//! The log of rows: read in order, put together, decoded, grouped.

use std::time::Duration;

use anyhow::Context;
use async_nats::jetstream::{
    consumer::pull::{Ordered, OrderedConfig},
    message::Message,
    stream::Stream,
};
use bus::{Assembler, DecodeError, Pattern, Repository, proto};
use futures::StreamExt;
use git_state::FileChange;
use tokio::time::{Instant, timeout_at};

use crate::{
    domain::{Change, DeploymentChange, ImpossibleChange, OWN_TRAILERS, Row, may_write},
    store::Queued,
};

/// How long the first row of a group waits for others: less than the sync that they then share.
const COLLECT: Duration = Duration::from_millis(5);

/// Rows of one group. More would not make it cheaper, only later.
const MAX_ROWS: usize = 500;

/// Bytes of one group, compressed: bounds the memory.
const MAX_BYTES: usize = 32 << 20;

/// A message that has no number.
#[derive(Debug, thiserror::Error)]
pub enum Undecodable {
    /// Not one of the subjects of the log.
    #[error("subject {0:?} names no repository")]
    Subject(String),
    /// Not a write, or not all of it.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A source that does not exist.
    #[error("{0:?} is no source")]
    Source(String),
    /// Numbers begin with 1.
    #[error("a row without a number, of {0}")]
    Unnumbered(String),
}

/// What came since the last group.
#[derive(Default)]
pub struct Group {
    /// Rows in the order of the log.
    pub rows: Vec<Queued>,
    /// Subject and reason of what was left out.
    pub undecodable: Vec<(String, Undecodable)>,
    /// The last message of the log that it holds, all parts of its row included.
    pub last: u64,
    /// When its first message came.
    pub begin: Option<Instant>,
    bytes: usize,
}

/// Reads the log from its begin, each message once.
pub struct Inbox {
    messages: Ordered,
    assembler: Assembler,
    /// Where the row that is being put together begins.
    first: Option<u64>,
    group: Group,
}

impl Inbox {
    /// Begins to read.
    pub async fn open(stream: &Stream) -> anyhow::Result<Self> {
        let config = OrderedConfig { filter_subject: Pattern::GitWrites.to_string(), ..OrderedConfig::default() };
        let consumer = stream.create_consumer(config).await.context("creating the consumer of the log")?;
        let messages = consumer.messages().await.context("reading the log")?;
        Ok(Self { messages, assembler: Assembler::default(), first: None, group: Group::default() })
    }

    /// The next group: what comes within a few milliseconds. Cancel-safe: what was received stays here.
    pub async fn next_group(&mut self) -> anyhow::Result<Group> {
        while !self.is_full() {
            let next = match self.group.begin {
                None => self.messages.next().await,
                Some(begin) => match timeout_at(begin + COLLECT, self.messages.next()).await {
                    Ok(next) => next,
                    Err(_) => break,
                },
            };
            self.take(next.context("the log ended")?.context("reading the log")?)?;
        }
        Ok(std::mem::take(&mut self.group))
    }

    fn is_full(&self) -> bool {
        self.group.rows.len() >= MAX_ROWS || self.group.bytes >= MAX_BYTES
    }

    fn take(&mut self, message: Message) -> anyhow::Result<()> {
        let sequence = message.info().map_err(anyhow::Error::from_boxed)?.stream_sequence;
        let message = message.message;
        let group = &mut self.group;
        group.begin.get_or_insert_with(Instant::now);
        group.bytes += message.payload.len();
        let first = *self.first.get_or_insert(sequence);
        let repository = message.subject.parse().ok().as_ref().and_then(Repository::of);
        let row = repository.ok_or_else(|| Undecodable::Subject(message.subject.to_string())).and_then(|repository| {
            let Some(payload) = self.assembler.take(message.headers.as_ref(), message.payload)? else {
                return Ok(None);
            };
            let row = decode(bus::decode(&payload)?)?;
            Ok(Some(Queued { row, repository, sequence: first, headers: message.headers }))
        });
        match row {
            Ok(None) => return Ok(()),
            Ok(Some(row)) => group.rows.push(row),
            Err(error) => group.undecodable.push((message.subject.to_string(), error)),
        }
        (group.last, self.first) = (sequence, None);
        Ok(())
    }
}

/// A row as the domain has it.
fn decode(write: proto::GitWrite) -> Result<Row, Undecodable> {
    let proto::GitWrite { source, number, author, subject, trailers, change } = write;
    let source = source.parse().map_err(|_| Undecodable::Source(source))?;
    if number == 0 {
        return Err(Undecodable::Unnumbered(author));
    }
    let theirs = trailers.iter().filter(|trailer| !OWN_TRAILERS.contains(&trailer.key.as_str()));
    let message = theirs
        .fold(git_state::Message::new(&subject), |message, proto::Trailer { key, value }| message.with(key, value));
    let change = match change {
        Some(proto::git_write::Change::Fleet(change)) => files(source, change).map(Change::Files),
        Some(proto::git_write::Change::Client(change)) => deployments(change).map(Change::Deployments),
        None => Err(ImpossibleChange::Unknown),
    };
    Ok(Row { source, number, author, message, change })
}

fn files(source: bus::ServiceName, change: proto::FleetChange) -> Result<Vec<FileChange>, ImpossibleChange> {
    let file = |proto::FileChange { path, content }| {
        let path = git_state::TreePath::try_from(path)?;
        if !may_write(source, &path) {
            return Err(ImpossibleChange::Foreign { source_name: source, path });
        }
        Ok(FileChange { path, content: content.map(Into::into) })
    };
    change.files.into_iter().map(file).collect()
}

/// Removals first: a deployment that is also put stays.
fn deployments(change: proto::ClientChange) -> Result<Vec<DeploymentChange>, ImpossibleChange> {
    let removes =
        change.removes.into_iter().map(|proto::RemoveDeployment { node, deployment }| (node, deployment, None));
    let puts = change.puts.into_iter().map(|proto::PutDeployment { node, deployment, document, summary }| {
        (node, deployment, Some((document.into(), summary.into())))
    });
    let change = |(node, deployment, content): (String, String, _)| {
        Ok(DeploymentChange { node: node.parse()?, deployment: deployment.parse()?, content })
    };
    removes.chain(puts).map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(change: Option<proto::git_write::Change>) -> proto::GitWrite {
        proto::GitWrite { source: "app-registry".into(), number: 1, subject: "x".into(), change, ..Default::default() }
    }

    fn fleet(path: &str) -> Option<proto::git_write::Change> {
        let files = vec![proto::FileChange { path: path.into(), content: None }];
        Some(proto::git_write::Change::Fleet(proto::FleetChange { files }))
    }

    #[test]
    fn a_row_keeps_its_number_also_when_it_is_impossible() {
        assert!(decode(write(fleet("apps/hello/1/margo.yaml"))).unwrap().change.is_ok());
        for change in [fleet("../x"), fleet("assignments/x.yaml"), fleet("/apps/x"), None] {
            let row = decode(write(change)).unwrap();
            assert_eq!(row.number, 1);
            row.change.unwrap_err();
        }
    }

    #[test]
    fn a_message_without_source_or_number_is_no_row() {
        assert!(matches!(decode(proto::GitWrite::default()), Err(Undecodable::Source(_))));
        let unnumbered = proto::GitWrite { number: 0, ..write(None) };
        assert!(matches!(decode(unnumbered), Err(Undecodable::Unnumbered(_))));
    }

    #[test]
    fn a_source_cannot_say_how_far_a_repository_is() {
        let trailer = |key: &str| proto::Trailer { key: key.into(), value: "app-registry=99".into() };
        let trailers = vec![trailer("Order"), trailer("Handled"), trailer("Traceparent"), trailer("Manifest-Version")];
        let row = decode(proto::GitWrite { trailers, ..write(None) }).unwrap();
        assert_eq!(row.message.trailers().map(|(key, _)| key).collect::<Vec<_>>(), ["Order"]);
    }
}
