//! The limits of reports, and the checks that use them.

use jiff::Timestamp;
use prost::Message;

use super::{Malformed, Position};

/// Bytes of one report and of each message that is made from one: what a server takes (`max_payload`, 8 MB) with room for
/// headers.
pub const MAX_REPORT: usize = 7 << 20;

/// The highest value of a counter: it stays exact as a JSON number and as an SQL integer.
pub const MAX_COUNTER: u64 = (1 << 53) - 1;

/// How many of the things that it refused a node or a site may list; of a longer list, the newest count.
pub const MAX_REFUSALS: usize = 20;

/// Deployments of one node: more than any node can run, and few enough to be stored in one transaction.
pub(super) const MAX_DEPLOYMENTS: usize = 2_000;

/// Components of one deployment; of each component, also its parts.
pub(super) const MAX_COMPONENTS: usize = 200;

/// Transitions in one report: twice what a node keeps while it is alone.
pub(super) const MAX_TRANSITIONS: usize = 10_000;

/// Metrics in one report; a report with more is malformed.
pub(super) const MAX_METRICS: usize = 500;

/// Bytes of a `traceparent`: the form that W3C fixed has 55.
pub(super) const MAX_TRACEPARENT: usize = 64;

/// Bytes of a capabilities document. Real ones have one or two thousand.
pub(super) const MAX_CAPABILITIES: usize = 256 << 10;

/// Nodes of one site; a message that lists more is malformed.
pub(super) const MAX_NODES: usize = 10_000;

/// Characters of a text for people; a longer one is cut, for the state beside it matters more.
pub(super) const MAX_TEXT: usize = 4_000;

/// Decodes a message, unless it is longer than a report may be.
pub(super) fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, Malformed> {
    if bytes.len() > MAX_REPORT {
        return Err(Malformed::TooLarge { size: bytes.len() });
    }
    Ok(M::decode(bytes)?)
}

/// A node has its incarnation before its first report, and counts its reports from 1.
pub(super) fn position(incarnation: u64, sequence: u64) -> Result<Position, Malformed> {
    let from_one = |name: &str, raw: u64| {
        if raw == 0 { Err(field(name, "must be at least 1")) } else { counter(name, raw) }
    };
    Ok(Position { incarnation: from_one("incarnation", incarnation)?, sequence: from_one("sequence", sequence)? })
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
