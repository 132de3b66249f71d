//! The JetStream streams: what they hold, how much, and why.

use std::{collections::HashMap, time::Duration};

use async_nats::jetstream::stream::{Config, DiscardPolicy, Republish, RetentionPolicy, StorageType};

use crate::Pattern;

/// Last desired documents and heads.
pub const DESIRED: &str = "DESIRED";
/// Last states.
pub const STATE: &str = "STATE";
/// Transitions.
pub const EVENTS: &str = "EVENTS";
/// Changes on their way into Git.
pub const GIT_WRITES: &str = "GIT_WRITES";
/// Pointers to messages that nobody could handle.
pub const DEAD_LETTERS: &str = "DEAD_LETTERS";

/// Where a stream's identity stands in its metadata: a new value means that the old content is gone.
pub const ID: &str = "edgewright.stream-id";

const GIB: i64 = 1 << 30;

/// The identity of a stream; empty when another program made it.
pub fn id(config: &Config) -> &str {
    config.metadata.get(ID).map_or("", String::as_str)
}

fn stream(name: &str, subjects: Vec<String>) -> Config {
    Config {
        name: name.to_owned(),
        subjects,
        storage: StorageType::File,
        num_replicas: 1,
        // Batches are how a PubAck means "on disk" and still costs little.
        allow_atomic_publish: true,
        metadata: HashMap::from([(ID.to_owned(), uuid::Uuid::new_v4().to_string())]),
        ..Config::default()
    }
}

fn last_values(name: &str, pattern: Pattern) -> Config {
    Config { max_messages_per_subject: 1, allow_direct: true, ..stream(name, vec![pattern.to_string()]) }
}

/// DESIRED, at the hub and at a site: last value per subject; the server republishes headers after the store, so that
/// a signal never comes before what it announces.
pub fn desired(pattern: Pattern) -> Config {
    Config {
        republish: Some(Republish {
            source: Pattern::Desired.to_string(),
            destination: Pattern::Changed.to_string(),
            headers_only: true,
        }),
        // One consumer per client; the server's own default of 1,000 is less than the clients we promise.
        max_consumers: 5_000,
        ..last_values(DESIRED, pattern)
    }
}

/// STATE, at the hub and at a site: last value per subject.
pub fn state(pattern: Pattern) -> Config {
    last_values(STATE, pattern)
}

/// EVENTS at the hub: seven days, so that anyone may consume them.
pub fn events_at_hub() -> Config {
    Config {
        max_age: Duration::from_secs(7 * 24 * 3600),
        max_bytes: 4 * GIB,
        discard: DiscardPolicy::Old,
        ..stream(EVENTS, vec![Pattern::Events.to_string()])
    }
}

/// EVENTS at a site: a queue towards the hub. A full one refuses, so that the node keeps what it has.
pub fn events_at_site(pattern: Pattern) -> Config {
    Config {
        retention: RetentionPolicy::WorkQueue,
        max_bytes: GIB,
        discard: DiscardPolicy::New,
        ..stream(EVENTS, vec![pattern.to_string()])
    }
}

/// GIT_WRITES: kept until committed; a full one refuses, and the outbox of the source waits.
pub fn git_writes() -> Config {
    Config {
        max_bytes: 2 * GIB,
        discard: DiscardPolicy::New,
        ..stream(GIT_WRITES, vec![Pattern::GitWrites.to_string()])
    }
}

/// The server's advisories on messages that were terminated or delivered too often.
pub fn dead_letters() -> Config {
    Config {
        max_age: Duration::from_secs(30 * 24 * 3600),
        max_messages: 100_000,
        discard: DiscardPolicy::Old,
        allow_atomic_publish: false,
        ..stream(
            DEAD_LETTERS,
            ["MAX_DELIVERIES", "MSG_TERMINATED"].map(|kind| format!("$JS.EVENT.ADVISORY.CONSUMER.{kind}.>")).to_vec(),
        )
    }
}
