//! The hub's streams and their consumers, as they shall be: pure data, from the table of services.

use std::time::Duration;

use async_nats::jetstream::{
    consumer::{AckPolicy, pull},
    stream::Config,
};

use crate::{Pattern, ServiceName, Tier, service::Reads, streams};

/// How long a message may take before the server sends it again. After a crash with messages in hand they wait for as
/// long.
const ACK_WAIT: Duration = Duration::from_secs(10);

/// A stream with its durable consumers, as they shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The stream.
    pub stream: Config,
    /// Its consumers, each with a durable name.
    pub consumers: Vec<pull::Config>,
}

/// The streams that third parties may read, each by a durable consumer of its own.
pub const READABLE: [&str; 2] = [streams::STATE, streams::EVENTS];

/// Returns the streams of the hub with the consumers of the table of services.
pub fn of_the_hub() -> Vec<Wanted> {
    let consumers_of = |stream: &str| {
        let of_service = |name: ServiceName| {
            name.service().reads.iter().filter(|reads| reads.stream == stream).map(move |reads| reads.consumer(name))
        };
        ServiceName::at(Tier::Hub).flat_map(of_service).collect()
    };
    let streams = [
        streams::git_writes(),
        streams::desired(Pattern::Desired),
        streams::state_at_hub(),
        streams::events_at_hub(),
        streams::dead_letters(),
    ];
    streams.map(|stream| Wanted { consumers: consumers_of(&stream.name), stream }).into()
}

impl Reads {
    /// Returns the consumer of the service that reads so.
    fn consumer(&self, service: ServiceName) -> pull::Config {
        // The server has one field for a single filter, and another one for several.
        let (filter_subject, filter_subjects) = match self.patterns {
            [pattern] => (pattern.to_string(), Vec::new()),
            patterns => (String::new(), patterns.iter().map(Pattern::to_string).collect()),
        };
        let config = pull::Config {
            durable_name: Some(service.to_string()),
            filter_subject,
            filter_subjects,
            ..pull::Config::default()
        };
        if self.progress.is_kept() {
            let max_ack_pending = 2 * self.batch as i64;
            pull::Config { ack_policy: AckPolicy::Explicit, ack_wait: ACK_WAIT, max_ack_pending, ..config }
        } else {
            // What is in it is worth nothing, so it costs no disk; the bootstrap makes it again.
            pull::Config { ack_policy: AckPolicy::None, memory_storage: true, ..config }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::SERVICES;

    #[test]
    fn every_stream_that_a_service_writes_is_made() {
        let mut owned: Vec<_> = SERVICES.iter().flat_map(|service| service.owns).map(ToString::to_string).collect();
        let mut made: Vec<_> = of_the_hub().into_iter().map(|wanted| wanted.stream.name).collect();
        owned.sort();
        made.sort();
        assert_eq!(owned, made);
    }
}
