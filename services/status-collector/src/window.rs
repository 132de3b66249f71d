//! One window of a site on its way into the streams: each message has a verdict. No bus, no clock.

use std::collections::HashMap;

use bus::{
    Outgoing, Subject,
    proto::{self, Outcome},
    report::{Item, Position, Window},
    trace,
};
use margo::{ClientName, NodeId};

/// Characters of a reason.
const MAX_REASON: usize = 200;

/// So many reasons are told of one window; the others are as before, and the answer stays small.
const REASONS: usize = 50;

/// What becomes of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is to be written.
    Write,
    /// It is on the disk.
    Stored,
    /// It never will be, for this reason.
    Never(String),
    /// The stream holds a later position of the node.
    Overtaken(Position),
    /// It is not now, for this reason.
    NotNow(String),
}

/// Decides about a value of which the stream holds the one at this position. A value that comes again is stored already; an
/// older one is never put over a newer one.
pub fn judge(held: Position, found: Position) -> Verdict {
    match found.cmp(&held) {
        std::cmp::Ordering::Less => Verdict::Overtaken(held),
        std::cmp::Ordering::Equal => Verdict::Stored,
        std::cmp::Ordering::Greater => Verdict::Write,
    }
}

/// A message of a window.
#[derive(Debug)]
pub struct Entry {
    /// What it is; `None` when it is malformed.
    pub item: Option<Item>,
    pub outgoing: Option<Outgoing>,
    pub verdict: Verdict,
}

impl Entry {
    /// The node that the message is about; `None` for what is about the site, and for what is malformed.
    pub fn node(&self) -> Option<&NodeId> {
        match &self.item.as_ref()?.subject {
            Subject::Status(node) | Subject::Capabilities(node) | Subject::Event(node) => Some(node),
            _ => None,
        }
    }

    /// Whether it belongs into EVENTS; everything else belongs into STATE.
    pub fn is_event(&self) -> bool {
        self.item.as_ref().is_some_and(|item| matches!(item.subject, Subject::Event(_)))
    }

    /// Bytes that the message takes of the stream's disk, at most.
    pub fn bytes(&self) -> usize {
        self.outgoing.as_ref().map_or(0, Outgoing::stored_bytes)
    }
}

/// Reads the messages of a window.
pub fn read(client: &ClientName, window: Window) -> Vec<Entry> {
    let read = |message: proto::WindowMessage| match Item::read(client, &message) {
        Err(malformed) => {
            let verdict = Verdict::Never(format!("malformed: {}", process::chain(&malformed)));
            Entry { item: None, outgoing: None, verdict }
        }
        Ok(item) => {
            let mut outgoing = Outgoing::new(item.subject.clone(), message.payload);
            if !message.traceparent.is_empty() {
                outgoing.headers.insert(trace::TRACEPARENT, message.traceparent.as_str());
            }
            Entry { item: Some(item), outgoing: Some(outgoing), verdict: Verdict::Write }
        }
    };
    window.messages.into_iter().map(read).collect()
}

/// Decides about the messages for STATE, one after another, by the positions that the stream holds.
pub fn judge_positions(entries: &mut [Entry], held: impl Fn(&Subject) -> Option<Position>) {
    let mut written: HashMap<Subject, Position> = HashMap::new();
    for entry in entries.iter_mut().filter(|entry| entry.verdict == Verdict::Write && !entry.is_event()) {
        let Some(Item { subject, position: Some(position), .. }) = &entry.item else { continue };
        let held = written.get(subject).copied().or_else(|| held(subject));
        entry.verdict = match held {
            None => Verdict::NotNow("the hub looks at its stream again".to_owned()),
            Some(held) => judge(held, *position),
        };
        if entry.verdict == Verdict::Write {
            written.insert(subject.clone(), *position);
        }
    }
}

/// Makes the part of the answer that names what is not stored.
pub fn not_stored(entries: &[Entry]) -> Vec<proto::NotStored> {
    let mut told = 0;
    let mut not_stored = Vec::new();
    for (at, entry) in (0u32..).zip(entries) {
        let (outcome, reason, held) = match &entry.verdict {
            Verdict::Stored => continue,
            Verdict::Never(reason) => (Outcome::Never, reason.clone(), None),
            Verdict::Overtaken(held) => {
                let Position { generation, incarnation, sequence } = *held;
                let node = entry.node().map(|node| node.node.to_string()).unwrap_or_default();
                let reason = format!("a later report is stored: incarnation {incarnation}, sequence {sequence}");
                (Outcome::Never, reason, Some(proto::NodePosition { node, generation, incarnation, sequence }))
            }
            Verdict::NotNow(reason) => (Outcome::NotNow, reason.clone(), None),
            // Nobody came to write it.
            Verdict::Write => (Outcome::NotNow, "it was not written".to_owned(), None),
        };
        told += 1;
        let reason = if told > REASONS { String::new() } else { reason.chars().take(MAX_REASON).collect() };
        not_stored.push(proto::NotStored { message: at, outcome: outcome.into(), reason, held });
    }
    not_stored
}

#[cfg(test)]
mod tests {
    use bus::report::{PROTOCOL, window, wrap};
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    fn at(incarnation: u64, sequence: u64) -> Position {
        Position { generation: 0, incarnation, sequence }
    }

    fn status(node: &str, incarnation: u64, sequence: u64) -> proto::WindowMessage {
        let status = proto::NodeStatus { incarnation, sequence, ..Default::default() };
        let subject = Subject::Status(format!("plant/{node}").parse().unwrap());
        wrap(&subject, status.encode_to_vec().into(), String::new()).unwrap()
    }

    fn entries(messages: Vec<proto::WindowMessage>) -> Vec<Entry> {
        let raw = proto::Window { protocol: PROTOCOL, session: "a".into(), number: 1, messages, ..Default::default() };
        read(&"plant".parse().unwrap(), window(&raw.encode_to_vec()).unwrap())
    }

    #[test]
    fn one_malformed_message_spoils_no_other() {
        let broken = proto::WindowMessage { payload: "no report".into(), ..status("press", 1, 1) };
        let mut entries = entries(vec![status("press", 1, 1), broken, status("saw", 1, 1)]);
        judge_positions(&mut entries, |_| Some(Position::default()));
        assert_eq!(entries[0].verdict, Verdict::Write);
        assert!(matches!(&entries[1].verdict, Verdict::Never(reason) if reason.starts_with("malformed: ")));
        assert_eq!(entries[2].verdict, Verdict::Write);
        entries[0].verdict = Verdict::Stored;
        entries[2].verdict = Verdict::Stored;
        let told = not_stored(&entries);
        assert_eq!(told.iter().map(|it| (it.message, it.outcome())).collect::<Vec<_>>(), [(1, Outcome::Never)]);
    }

    #[test]
    fn what_was_not_read_is_not_written() {
        let mut entries = entries(vec![status("press", 1, 1)]);
        judge_positions(&mut entries, |_| None);
        assert!(matches!(entries[0].verdict, Verdict::NotNow(_)));
    }

    #[test]
    fn a_node_is_told_where_it_stands_when_it_was_overtaken() {
        let mut entries = entries(vec![status("press", 1, 9)]);
        judge_positions(&mut entries, |_| Some(at(2, 1)));
        let told = not_stored(&entries);
        let held = told[0].held.as_ref().unwrap();
        assert_eq!((held.node.as_str(), held.incarnation, held.sequence), ("press", 2, 1));
        assert_eq!(told[0].outcome(), Outcome::Never);
    }

    #[test]
    fn an_answer_about_many_messages_is_small() {
        let mut entries = entries(vec![status("press", 1, 1); 1_000]);
        entries.iter_mut().for_each(|entry| entry.verdict = Verdict::NotNow("x".repeat(1_000)));
        let answer = proto::WindowAnswer { not_stored: not_stored(&entries), ..Default::default() };
        assert!(answer.encoded_len() < 32 << 10, "{}", answer.encoded_len());
    }

    proptest! {
        /// Whatever a site sends, in whatever order, no value is written over one of a later position.
        #[test]
        fn an_older_position_is_never_put_over_a_newer_one(
            held in (0..3u64, 0..5u64),
            sent in proptest::collection::vec((1..4u64, 1..6u64), 0..12),
        ) {
            let mut entries = entries(sent.iter().map(|(life, number)| status("press", *life, *number)).collect());
            judge_positions(&mut entries, |_| Some(at(held.0, held.1)));
            let mut stands = at(held.0, held.1);
            for (entry, (life, number)) in entries.iter().zip(&sent) {
                if entry.verdict == Verdict::Write {
                    prop_assert!(at(*life, *number) > stands);
                    stands = at(*life, *number);
                }
            }
            let newest = sent.iter().map(|(life, number)| at(*life, *number)).max().unwrap_or_default();
            prop_assert_eq!(stands, newest.max(at(held.0, held.1)));
        }
    }
}
