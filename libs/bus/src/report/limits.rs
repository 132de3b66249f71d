//! The limits of reports, and the checks that use them.

use jiff::Timestamp;
use prost::Message;

use super::{Malformed, Position};

/// Bytes of one report of a node, of each message that is made from one, and of what an LO says of its site. Several fit
/// into one window.
pub const MAX_REPORT: usize = 256 << 10;

/// Bytes of a window of a site. With its headers it fits the payload that a server takes from a site, 1 MiB.
pub const MAX_WINDOW: usize = 960 << 10;

/// Messages of a window of a site: as many as a batch may have.
pub const MAX_WINDOW_MESSAGES: usize = 1_000;

/// Bytes of a request for positions: a name and a number.
pub const MAX_POSITIONS_REQUEST: usize = 1 << 10;

/// The highest value of a counter: it stays exact as a JSON number and as an SQL integer.
pub const MAX_COUNTER: u64 = (1 << 53) - 1;

/// How many of the things that it refused a node or a site may list; of a longer list, the newest count.
pub const MAX_REFUSALS: usize = 20;

/// Deployments of one node. So many fit into a report with the messages of their failures cut.
pub const MAX_DEPLOYMENTS: usize = 500;

/// Components of one deployment; of each component, also its parts.
pub(super) const MAX_COMPONENTS: usize = 200;

/// Transitions in one report; twice as many as an agent sends at once.
pub(super) const MAX_TRANSITIONS: usize = 2_000;

/// Metrics in one report; a report with more is malformed.
pub(super) const MAX_METRICS: usize = 500;

/// Bytes of a `traceparent`: the form that W3C fixed has 55.
pub(super) const MAX_TRACEPARENT: usize = 64;

/// Bytes of a capabilities document. Real ones have one or two thousand, and a report has to hold it beside the status.
pub(super) const MAX_CAPABILITIES: usize = 64 << 10;

/// Bytes of a stream's identity, and of whatever else stands for one life of something.
pub(super) const MAX_STREAM_ID: usize = 64;

/// Bytes of the spans that ride on a report.
pub const MAX_TRACES: usize = 64 << 10;

/// Nodes of one site; a message that lists more is malformed.
pub(super) const MAX_NODES: usize = 3_000;

/// Characters of a text for people; a longer one is cut, for the state beside it matters more.
pub(super) const MAX_TEXT: usize = 4_000;

/// Decodes a message, unless it is longer than a report may be.
pub(super) fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, Malformed> {
    decode_at_most(bytes, MAX_REPORT)
}

pub(super) fn decode_at_most<M: Message + Default>(bytes: &[u8], limit: usize) -> Result<M, Malformed> {
    if bytes.len() > limit {
        return Err(Malformed::TooLarge { size: bytes.len(), limit });
    }
    Ok(M::decode(bytes)?)
}

/// A node has its incarnation before its first report, and counts its reports from 1.
pub(super) fn position(generation: u64, incarnation: u64, sequence: u64) -> Result<Position, Malformed> {
    let generation = counter("generation", generation)?;
    let from_one = |name: &str, raw: u64| {
        if raw == 0 { Err(field(name, "must be at least 1")) } else { counter(name, raw) }
    };
    let incarnation = from_one("incarnation", incarnation)?;
    Ok(Position { generation, incarnation, sequence: from_one("sequence", sequence)? })
}

pub(super) fn counter(path: impl Into<String>, raw: u64) -> Result<u64, Malformed> {
    if raw > MAX_COUNTER { Err(field(path, format!("{raw} is more than 2^53 - 1"))) } else { Ok(raw) }
}

pub(super) fn at_most(path: impl Into<String>, count: usize, limit: usize) -> Result<(), Malformed> {
    if count > limit { Err(field(path, format!("{count} entries are more than {limit}"))) } else { Ok(()) }
}

pub(super) fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(path: String, raw: &str) -> Result<T, Malformed> {
    raw.parse().map_err(|error: T::Err| field(path, error.to_string()))
}

pub(super) fn field(path: impl Into<String>, rule: impl Into<String>) -> Malformed {
    Malformed::Field { field: path.into(), rule: rule.into() }
}

pub(super) fn text(mut raw: String) -> String {
    if let Some((end, _)) = raw.char_indices().nth(MAX_TEXT) {
        raw.truncate(end);
    }
    raw
}

/// A time of somebody's clock (nanoseconds since 1970), which is only shown; what lies beyond the year 2262 is shown as
/// that.
pub fn shown(nanoseconds: u64) -> Timestamp {
    let nanoseconds = i64::try_from(nanoseconds).unwrap_or(i64::MAX);
    Timestamp::from_nanosecond(nanoseconds.into()).expect("every i64 of nanoseconds is a time that jiff knows")
}
