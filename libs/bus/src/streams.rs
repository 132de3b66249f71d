//! The JetStream streams: what each holds, how much, and why.

use std::{collections::HashMap, time::Duration};

use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use serde::{Deserialize, Serialize};

use crate::Pattern;

/// The stream of the last heads and desired states.
pub const DESIRED: &str = "DESIRED";
/// The stream of the last states that nodes and sites reported.
pub const STATE: &str = "STATE";
/// The stream of the transitions that nodes reported.
pub const EVENTS: &str = "EVENTS";
/// The stream of writes on their way into Git.
pub const GIT_WRITES: &str = "GIT_WRITES";
/// The stream of the server's notices about messages that nobody could handle.
pub const DEAD_LETTERS: &str = "DEAD_LETTERS";

/// The key of a stream's metadata that holds its identity. A new value means that the old content is gone.
pub const ID: &str = "edgewright.stream-id";

/// The first pause before a stream or a consumer is asked for again that the server did not have. A server that has just
/// started is without its streams for some milliseconds.
pub const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// How the server says that there is no limit.
const UNLIMITED: i64 = -1;

const GIB: i64 = 1 << 30;
const MIB: i64 = 1 << 20;

/// Returns the identity of a stream. It is empty when another program made the stream.
pub fn id(config: &Config) -> &str {
    config.metadata.get(ID).map_or("", String::as_str)
}

/// The same stream with a new identity, because a part of what it held is gone. Whoever sees the new one sends again what
/// belongs there.
pub(crate) fn renewed(mut config: Config) -> Config {
    config.metadata.insert(ID.to_owned(), uuid::Uuid::new_v4().to_string());
    config
}

fn stream(name: &str, subjects: Vec<String>) -> Config {
    Config {
        name: name.to_owned(),
        subjects,
        storage: StorageType::File,
        num_replicas: 1,
        // As the server calls them when nobody says anything, so that what is wanted can be compared with what is there.
        max_messages: UNLIMITED,
        max_messages_per_subject: UNLIMITED,
        max_bytes: UNLIMITED,
        max_consumers: -1,
        max_message_size: -1,
        duplicate_window: Duration::from_secs(120),
        // Atomic batches are how a PubAck means "on disk" and still costs little.
        allow_atomic_publish: true,
        metadata: HashMap::from([(ID.to_owned(), uuid::Uuid::new_v4().to_string())]),
        ..Config::default()
    }
}

fn last_values(name: &str, pattern: Pattern) -> Config {
    let stream = stream(name, vec![pattern.to_string()]);
    Config { max_messages_per_subject: 1, allow_direct: true, ..unabridged(stream) }
}

/// A stream out of which nobody takes single messages, nor all of them. What is taken out keeps the stream's identity, so
/// nobody would notice; a stream that was deleted is made again with a new one.
fn unabridged(stream: Config) -> Config {
    Config { deny_delete: true, deny_purge: true, ..stream }
}

/// DESIRED, at the hub and at a site, keeps the last value of each subject.
pub fn desired(pattern: Pattern) -> Config {
    last_values(DESIRED, pattern)
}

/// STATE at the hub keeps the last value of each subject, at most 1 GiB. A full one refuses messages, for none of those
/// that it holds may be thrown away for another one's.
pub fn state_at_hub() -> Config {
    Config { max_bytes: GIB, discard: DiscardPolicy::New, ..last_values(STATE, Pattern::State) }
}

/// STATE at a site keeps the last value of each subject, at most 256 MiB, in the same way.
pub fn state_at_site(pattern: Pattern) -> Config {
    Config { max_bytes: 256 * MIB, discard: DiscardPolicy::New, ..last_values(STATE, pattern) }
}

/// EVENTS at the hub keeps seven days and at most 2 GiB, so that anyone may consume them. How much one client may put
/// there in that time is limited to a part of it, so that none pushes out the history of the others.
pub fn events_at_hub() -> Config {
    Config {
        max_age: Duration::from_secs(7 * 24 * 3600),
        max_bytes: 2 * GIB,
        discard: DiscardPolicy::Old,
        ..unabridged(stream(EVENTS, vec![Pattern::Events.to_string()]))
    }
}

/// EVENTS at a site is a queue towards the hub of at most 1 GiB. A full one refuses messages, so that the node
/// keeps what it has.
pub fn events_at_site(pattern: Pattern) -> Config {
    Config {
        retention: RetentionPolicy::WorkQueue,
        max_bytes: GIB,
        discard: DiscardPolicy::New,
        ..stream(EVENTS, vec![pattern.to_string()])
    }
}

/// GIT_WRITES keeps writes until git-writer has committed them or put them aside, at most 2 GiB. Whatever becomes of it, the
/// outbox of the source has a write until it is committed. A full one refuses messages, and the outbox waits.
pub fn git_writes() -> Config {
    Config {
        max_bytes: 2 * GIB,
        discard: DiscardPolicy::New,
        ..stream(GIT_WRITES, vec![Pattern::GitWrites.to_string()])
    }
}

/// DEAD_LETTERS keeps the server's advisories on messages that were terminated or delivered too often: 30 days, and
/// at most 100,000.
pub fn dead_letters() -> Config {
    Config {
        max_age: Duration::from_secs(30 * 24 * 3600),
        max_messages: 100_000,
        discard: DiscardPolicy::Old,
        allow_atomic_publish: false,
        ..unabridged(stream(
            DEAD_LETTERS,
            ["MAX_DELIVERIES", "MSG_TERMINATED"].map(|kind| format!("$JS.EVENT.ADVISORY.CONSUMER.{kind}.>")).to_vec(),
        ))
    }
}

/// The request with which a service that lacks a stream or its consumer has the bootstrap look now.
pub(crate) const KEEP: &str = "streams";

/// The request with which the writer of a stream that has lost a part has it get a new identity.
pub(crate) const RENEW: &str = "renew-stream";

/// A stream that has lost a part, as its writer found it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewal {
    /// The name of the stream.
    pub stream: String,
    /// The identity that it has, and shall have no longer.
    pub id: String,
}
