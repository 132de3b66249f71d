//! A node's whole report, as it asks its site to store it.

use bytes::Bytes;
use margo::DeviceId;
use prost::Message as _;

use super::{
    Events, Malformed, Position, Status, capabilities,
    limits::{MAX_METRICS, MAX_STREAM_ID, MAX_TRACEPARENT, MAX_TRACES, at_most, decode, field},
};
use crate::proto;

/// A report whose every part was read as the hub will read it, as the messages that are stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Which of the node's reports this is.
    pub position: Position,
    /// The message for `state.<client>.node.<node>.status`.
    pub status: Bytes,
    /// The message for `state.<client>.node.<node>.capabilities`; only when they changed.
    pub capabilities: Option<Bytes>,
    /// The device that the capabilities name. Whoever knows the node's device compares.
    pub device: Option<DeviceId>,
    /// The message for `event.<client>.node.<node>`; only when there is something to tell.
    pub events: Option<Bytes>,
    /// The spans of the node: an OTLP `ExportTraceServiceRequest` in protobuf, which nobody here looks into.
    pub traces: Bytes,
    /// The metrics that the node reports, 500 at most.
    pub metrics: Vec<proto::Metric>,
    /// The trace that the node reports in (`traceparent`); empty when it names none.
    pub traceparent: String,
    /// The identity of the site's stream STATE and its sequence, as the node was last told them.
    pub stream: (String, u64),
}

/// Reads `node.<client>.<node>.report`: everything that can be checked without knowing the node. Every part gets this
/// generation of the node's key, whatever the node says: that is the site's to know.
pub fn request(payload: &[u8], generation: u64) -> Result<Request, Malformed> {
    let raw: proto::ReportRequest = decode(payload)?;
    at_most("metrics", raw.metrics.len(), MAX_METRICS)?;
    let traceparent = raw.traceparent;
    if traceparent.len() > MAX_TRACEPARENT {
        return Err(field("traceparent", format!("{} bytes are more than {MAX_TRACEPARENT}", traceparent.len())));
    }
    if raw.traces.len() > MAX_TRACES {
        return Err(field("traces", format!("{} bytes are more than {MAX_TRACES}", raw.traces.len())));
    }
    if raw.state_stream.len() > MAX_STREAM_ID {
        return Err(field("state_stream", format!("{} bytes are more than {MAX_STREAM_ID}", raw.state_stream.len())));
    }
    let mut raw_status = raw.status.ok_or_else(|| field("status", "is missing"))?;
    raw_status.generation = generation;
    let status = raw_status.encode_to_vec().into();
    let position = Status::try_from(raw_status)?.position;
    // Parts of another life must not ride on a report of this one.
    let same_life = |part: &str, incarnation: u64| {
        let rule = || format!("is {incarnation}, and the status's is {}", position.incarnation);
        if incarnation == position.incarnation { Ok(()) } else { Err(field(format!("{part}.incarnation"), rule())) }
    };
    let mut device = None;
    let capabilities = match raw.capabilities {
        None => None,
        Some(mut part) => {
            same_life("capabilities", part.incarnation)?;
            part.generation = generation;
            let bytes = part.encode_to_vec();
            device = Some(capabilities(&bytes)?.device);
            Some(bytes.into())
        }
    };
    let events = match raw.events.filter(|part| !part.transitions.is_empty() || part.lost > 0) {
        None => None,
        Some(mut part) => {
            same_life("events", part.incarnation)?;
            part.generation = generation;
            let bytes = part.encode_to_vec().into();
            Events::try_from(part)?;
            Some(bytes)
        }
    };
    let stream = (raw.state_stream, raw.state_sequence);
    Ok(Request {
        position,
        status,
        capabilities,
        device,
        events,
        traces: raw.traces,
        metrics: raw.metrics,
        traceparent,
        stream,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{events, status};

    fn report() -> proto::ReportRequest {
        let status = proto::NodeStatus { incarnation: 2, sequence: 7, ..Default::default() };
        proto::ReportRequest { status: Some(status), ..Default::default() }
    }

    fn read(report: &proto::ReportRequest) -> Result<Request, String> {
        let read = request(&report.encode_to_vec(), 0);
        read.map_err(|malformed| malformed.to_string())
    }

    #[test]
    fn the_hub_reads_what_the_site_stores() {
        let transition = proto::Transition {
            number: 1,
            deployment: "00000000-0000-4000-8000-000000000001".into(),
            digest: margo::Digest::of(b"").to_string(),
            state: proto::State::Installed.into(),
            ..Default::default()
        };
        let told =
            proto::NodeEvents { incarnation: 2, sequence: 7, transitions: vec![transition], ..Default::default() };
        let read = read(&proto::ReportRequest { events: Some(told), ..report() }).unwrap();
        assert_eq!(status(&read.status).unwrap().position, read.position);
        let told = events(&read.events.unwrap()).unwrap();
        assert_eq!((told.position, told.transitions.len()), (read.position, 1));
    }

    #[test]
    fn a_report_without_a_status_or_with_parts_of_another_life_is_malformed() {
        assert_eq!(read(&proto::ReportRequest::default()).unwrap_err(), "status: is missing");
        let told = proto::NodeEvents { incarnation: 1, sequence: 1, lost: 1, ..Default::default() };
        let error = read(&proto::ReportRequest { events: Some(told), ..report() }).unwrap_err();
        assert_eq!(error, "events.incarnation: is 1, and the status's is 2");
        let can = proto::NodeCapabilities { incarnation: 3, sequence: 1, document: "{}".into(), generation: 0 };
        let error = read(&proto::ReportRequest { capabilities: Some(can), ..report() }).unwrap_err();
        assert_eq!(error, "capabilities.incarnation: is 3, and the status's is 2");
        let metrics = vec![proto::Metric::default(); MAX_METRICS + 1];
        assert!(read(&proto::ReportRequest { metrics, ..report() }).unwrap_err().starts_with("metrics: "));
        let traceparent = "0".repeat(MAX_TRACEPARENT + 1);
        assert!(read(&proto::ReportRequest { traceparent, ..report() }).unwrap_err().starts_with("traceparent: "));
    }

    #[test]
    fn events_that_tell_nothing_are_left_out() {
        let nothing = proto::NodeEvents { incarnation: 2, sequence: 7, ..Default::default() };
        assert_eq!(read(&proto::ReportRequest { events: Some(nothing), ..report() }).unwrap().events, None);
    }
}
