//! A stream as its only writer knows it: whether it is still the one that it was.

use std::collections::HashSet;

use tokio::sync::watch;
use tracing::{info, warn};

use crate::{Bus, streams};

/// What somebody knows of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The identity of the stream; empty when nothing is known.
    pub id: String,
    /// The highest sequence that the stream is known to have had.
    pub sequence: u64,
}

/// What a look at a stream shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// It is the stream that is known.
    Same,
    /// It is another one than the one that is known.
    Other,
    /// It lies behind what it is known to have had: a part of it is gone.
    Behind,
}

impl Known {
    /// Judges a stream that was found with this identity and this last sequence.
    pub fn judge(&self, id: &str, last: u64) -> Look {
        if self.id != id {
            Look::Other
        } else if last < self.sequence {
            Look::Behind
        } else {
            Look::Same
        }
    }
}

/// Whether what was known of a stream's content still holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Content {
    /// The stream is the one that it was.
    Kept,
    /// The stream is another one, or has lost a part: what was known of its content is void.
    Void,
}

/// A stream as its only writer knows it. Whoever writes looks first ([`OwnStream::look`]), and hears what the tier below was
/// told before ([`OwnStream::hear`]).
pub struct OwnStream {
    bus: Bus,
    name: &'static str,
    connections: watch::Receiver<u64>,
    known: Known,
    /// The last sequence that the stream had at the first look on the present connection.
    at_first: u64,
    /// Who has said on this connection how far the stream was.
    heard: HashSet<String>,
    /// Whether the stream was looked at on the present connection. A server that lost a part of it was started again.
    looked: bool,
    /// Whether the tier below may still say that the stream lies behind. Once for each connection: between two of them nothing
    /// can have been lost that this writer does not know of, and the tier below may say what it likes.
    may_claim: bool,
}

impl OwnStream {
    /// A stream of which this is known, from a record of the writer's own.
    pub fn new(bus: Bus, name: &'static str, known: Known) -> Self {
        let connections = bus.connections();
        let (at_first, heard) = (known.sequence, HashSet::new());
        Self { bus, name, connections, known, at_first, heard, looked: false, may_claim: true }
    }

    /// Looks at the stream, if that has not been done on this connection. When it lies behind what it was, it gets a new
    /// identity.
    pub async fn look(&mut self) -> anyhow::Result<Content> {
        if self.connections.has_changed().unwrap_or(false) {
            self.connections.mark_unchanged();
            (self.looked, self.may_claim) = (false, true);
            self.at_first = u64::MAX;
            self.heard.clear();
        }
        if self.looked {
            return Ok(Content::Kept);
        }
        let stream = self.bus.look_at(self.name).await?;
        let (id, last) = (streams::id(&stream.config).to_owned(), stream.state.last_sequence);
        let content = match self.known.judge(&id, last) {
            Look::Same => {
                self.known.sequence = last;
                Content::Kept
            }
            Look::Other => {
                info!(stream = self.name, id, last, "the stream");
                self.known = Known { id, sequence: last };
                Content::Void
            }
            Look::Behind => {
                warn!(stream = self.name, last, known = self.known.sequence, "the stream has lost a part");
                self.renew(last).await?;
                Content::Void
            }
        };
        self.at_first = self.at_first.min(last);
        self.looked = true;
        Ok(content)
    }

    /// Hears from others, by name, how far the stream was when they were last answered. When it lay behind that at the first
    /// look on this connection, it gets a new identity: what somebody says first here was answered before.
    pub async fn hear(&mut self, claims: Vec<(String, Known)>) -> anyhow::Result<Content> {
        let mut behind = None;
        for (name, claim) in claims {
            let last = if self.heard.insert(name) { self.at_first } else { self.known.sequence };
            if claim.judge(&self.known.id, last) == Look::Behind {
                behind = Some(claim);
            }
        }
        match behind {
            Some(claim) if self.may_claim => {
                let last = self.at_first;
                warn!(
                    stream = self.name,
                    last,
                    claimed = claim.sequence,
                    "others know more of the stream than it held"
                );
                self.renew(self.known.sequence).await?;
                self.may_claim = false;
                Ok(Content::Void)
            }
            Some(_) | None => Ok(Content::Kept),
        }
    }

    async fn renew(&mut self, last: u64) -> anyhow::Result<()> {
        let id = self.bus.renew_stream(self.name, &self.known.id).await?;
        info!(stream = self.name, id, "the stream has a new identity");
        self.known = Known { id, sequence: last };
        Ok(())
    }

    /// Notes how far the stream was written.
    pub fn wrote(&mut self, sequence: u64) {
        self.known.sequence = self.known.sequence.max(sequence);
    }

    /// Has the stream looked at before the next write: something went wrong, or it was made anew.
    pub fn distrust(&mut self) {
        self.looked = false;
    }

    /// What is known of the stream now.
    pub fn known(&self) -> &Known {
        &self.known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_lies_behind_what_it_was_has_lost_something() {
        let known = Known { id: "a".into(), sequence: 7 };
        assert_eq!(known.judge("a", 7), Look::Same);
        assert_eq!(known.judge("a", 9), Look::Same);
        assert_eq!(known.judge("a", 6), Look::Behind);
        assert_eq!(known.judge("b", 6), Look::Other);
        assert_eq!(Known::default().judge("b", 6), Look::Other);
    }
}
