//! The streams and durable consumers of the hub: made, and kept as the table of services and [`streams`] have them, by one
//! user that does nothing else ([`User::Bootstrap`]).
//!
//! No central service may make, change or delete a stream or a consumer: it uses those that have a name. So one that was
//! taken over adds no source, lets nothing be published again elsewhere, and deletes nothing. The bootstrap answers on no
//! connection of its own; the service that it belongs to hears the wishes of the others on its other connection, and hands
//! them over ([`Bootstrap::keep_for`], [`Bootstrap::renew_for`]). A request chooses the subject of its answer, and there is nothing
//! to be gained by that where whoever answers may not touch a stream.
//!
//! It also makes a consumer for each third party on each stream that these may read ([`READABLE`]).
//!
//! **After a crash.** Nothing is remembered: each look compares what there is with what there shall be.

use std::{
    collections::{BTreeSet, HashMap},
    error::Error,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use api::Problem;
use async_nats::jetstream::{
    ErrorCode,
    consumer::{AckPolicy, Config as Consumer, IntoConsumerConfig as _, pull},
    context::{ConsumerInfoErrorKind, CreateStreamError, CreateStreamErrorKind, GetStreamError, GetStreamErrorKind},
    stream::{Config, Info},
};
use futures::future::join_all;
use margo::ReaderName;
use process::Backoff;
use serde::Serialize;
use tokio::{sync::Mutex, task::spawn_blocking, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    Bus, ServiceName, Subject, User,
    streams::{self, KEEP, RENEW},
};
pub use crate::{
    hub_streams::{READABLE, Wanted, of_the_hub},
    streams::Renewal,
};

/// Between looks that nobody asked for: the server tells nobody that a stream was deleted. A look is some ten small requests.
const LOOK: Duration = Duration::from_secs(5);

/// How long the bootstrap may take when a service asks for it.
const PATIENCE: Duration = Duration::from_secs(8);

/// Whoever says which third parties there are. It may block.
pub type Readers = Arc<dyn Fn() -> anyhow::Result<BTreeSet<ReaderName>> + Send + Sync>;

/// Makes and keeps streams and consumers. Several at once, such as one that dies and its next life, do no harm.
pub struct Bootstrap {
    bus: Bus,
    wanted: Vec<Wanted>,
    readers: Readers,
    /// Whoever looks; two at once would only find the same.
    turn: Mutex<()>,
}

impl Bootstrap {
    /// A bootstrap of these streams. `bus` is a connection as [`User::Bootstrap`].
    pub fn new(bus: Bus, wanted: Vec<Wanted>) -> Self {
        Self { bus, wanted, readers: Arc::new(|| Ok(BTreeSet::new())), turn: Mutex::default() }
    }

    /// Makes consumers for these third parties, too.
    pub fn with_readers(self, readers: Readers) -> Self {
        Self { readers, ..self }
    }

    /// All that shall be there now.
    async fn wanted(&self) -> anyhow::Result<Vec<Wanted>> {
        let readers = self.readers.clone();
        let readers =
            spawn_blocking(move || readers()).await.context("looking who reads")?.context("looking who reads")?;
        let mut wanted = self.wanted.clone();
        for wanted in wanted.iter_mut().filter(|wanted| READABLE.contains(&&*wanted.stream.name)) {
            wanted.consumers.extend(readers.iter().map(consumer_of_reader));
        }
        Ok(wanted)
    }

    /// Looks on each new connection and every five seconds, until shutdown.
    pub async fn run(&self, shutdown: &CancellationToken) -> anyhow::Result<()> {
        let mut connections = self.bus.connections();
        let mut backoff = Backoff::new(streams::FIRST_PAUSE, LOOK);
        while shutdown.run_until_cancelled(self.bus.connected()).await.is_some() {
            connections.mark_unchanged();
            let pause = match self.keep().await {
                Ok(()) => {
                    backoff.reset();
                    LOOK
                }
                Err(error) => {
                    warn!(error = &*error as &dyn Error, "the hub's streams are not as they shall be");
                    backoff.pause()
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => {}
                _ = connections.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        Ok(())
    }

    /// Makes what is missing and changes what is otherwise. One stream that is not to be had keeps no other waiting.
    pub async fn keep(&self) -> anyhow::Result<()> {
        let _turn = self.turn.lock().await;
        ensure!(self.bus.is_connected(), "the hub's server is not connected");
        let wanted = self.wanted().await?;
        let kept = join_all(wanted.iter().map(|wanted| self.keep_one(wanted))).await;
        kept.into_iter().collect()
    }

    async fn keep_one(&self, wanted: &Wanted) -> anyhow::Result<()> {
        let name = wanted.stream.name.as_str();
        let is_new = keep_stream(&self.bus, &wanted.stream).await?.is_new;
        let kept = join_all(wanted.consumers.iter().map(async |consumer| {
            let kept = keep_consumer(&self.bus, name, consumer, is_new).await;
            kept.with_context(|| format!("keeping the consumer {} of {name}", durable(consumer)))
        }));
        kept.await.into_iter().collect()
    }

    /// Does [`Bootstrap::keep`] for a service that waits for it.
    pub async fn keep_for(&self) -> Result<(), Problem> {
        in_time(self.keep(), "the hub's streams are not as they shall be").await
    }

    /// Gives a stream a new identity for its writer, unless it has another one than the writer found. Returns the one that it
    /// has then.
    pub async fn renew_for(&self, renewal: Renewal) -> Result<String, Problem> {
        let Renewal { stream, id } = renewal;
        if !self.wanted.iter().any(|wanted| wanted.stream.name == stream) {
            return Err(Problem::not_found("the hub has no such stream"));
        }
        let renewed = async {
            let _turn = self.turn.lock().await;
            renew(&self.bus, &stream, &id).await
        };
        in_time(renewed, "a stream has no new identity yet").await
    }
}

async fn in_time<T>(work: impl Future<Output = anyhow::Result<T>>, what: &'static str) -> Result<T, Problem> {
    match timeout(PATIENCE, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => {
            warn!(error = &*error as &dyn Error, what);
            Err(Problem::unavailable(format!("{what}: {error:#}")))
        }
        Err(_elapsed) => Err(Problem::unavailable(what)),
    }
}

/// The consumer of a third party. One that nobody has asked for a month ends, unless the third party is still there: then it
/// is made again, and reads from the beginning.
fn consumer_of_reader(reader: &ReaderName) -> pull::Config {
    pull::Config {
        durable_name: Some(format!("reader-{reader}")),
        ack_policy: AckPolicy::Explicit,
        ack_wait: READER_ACK_WAIT,
        max_ack_pending: 1_000,
        inactive_threshold: READER_ABSENCE,
        ..pull::Config::default()
    }
}

/// How long a third party may take over a message.
const READER_ACK_WAIT: Duration = Duration::from_secs(30);

/// How long a third party may be away.
const READER_ABSENCE: Duration = Duration::from_secs(30 * 24 * 3600);

/// A stream that is as it shall be.
pub struct Kept {
    /// The identity of the stream.
    pub id: String,
    /// Whether it was made just now, so that it has no consumers.
    is_new: bool,
}

/// Makes a stream, or brings one that is there to this form. One that held more than the new form allows has lost something,
/// and gets a new identity.
pub async fn keep_stream(bus: &Bus, wanted: &Config) -> anyhow::Result<Kept> {
    let name = wanted.name.as_str();
    let jetstream = bus.jetstream();
    let found = match jetstream.get_stream(name).await {
        Ok(stream) => stream.cached_info().config.clone(),
        Err(error) if is_missing(&error) => match jetstream.create_stream(fresh(wanted)).await {
            Ok(stream) => {
                let id = streams::id(&stream.cached_info().config).to_owned();
                info!(stream = name, id, "a stream was made");
                return Ok(Kept { id, is_new: true });
            }
            // Another one was faster.
            Err(error) if is_taken(&error) => {
                let stream =
                    jetstream.get_stream(name).await.with_context(|| format!("looking at the stream {name}"))?;
                stream.cached_info().config.clone()
            }
            Err(error) => return Err(error).with_context(|| format!("making the stream {name}")),
        },
        Err(error) => return Err(error).with_context(|| format!("looking at the stream {name}")),
    };
    let next = brought(&found, wanted);
    if next == found {
        return Ok(Kept { id: streams::id(&found).to_owned(), is_new: false });
    }
    info!(stream = name, "the stream has another form than this version wants");
    match jetstream.update_stream(&next).await {
        Ok(updated) => Ok(Kept { id: streams::id(&updated.config).to_owned(), is_new: false }),
        Err(error) if name == streams::DESIRED => {
            // All that it holds comes from the repositories.
            warn!(stream = name, error = &error as &dyn Error, "the stream is made anew");
            jetstream.delete_stream(name).await.with_context(|| format!("deleting the stream {name}"))?;
            let made = jetstream.create_stream(fresh(wanted)).await;
            let made = made.with_context(|| format!("making the stream {name} anew"))?;
            Ok(Kept { id: streams::id(&made.cached_info().config).to_owned(), is_new: true })
        }
        Err(error) => Err(error).with_context(|| format!("bringing the stream {name} to its form")),
    }
}

/// A stream that has not been there before: with an identity of its own.
fn fresh(wanted: &Config) -> Config {
    streams::renewed(wanted.clone())
}

/// The form of a stream that is there, brought to what is wanted. Its place and its replicas are left to the operator.
fn brought(found: &Config, wanted: &Config) -> Config {
    let holds = |config: &Config| (config.subjects.clone(), config.max_messages_per_subject);
    let mut metadata: HashMap<String, String> = found.metadata.clone();
    if streams::id(found).is_empty() || holds(found) != holds(wanted) {
        metadata.extend(fresh(wanted).metadata);
    }
    Config {
        metadata,
        num_replicas: found.num_replicas,
        placement: found.placement.clone(),
        // The server says "none" in so many words.
        compression: found.compression.clone(),
        ..wanted.clone()
    }
}

/// Gives a stream a new identity, because it has lost a part, unless it has another one than this. Returns the one that it
/// has then.
pub(crate) async fn renew(bus: &Bus, name: &str, id: &str) -> anyhow::Result<String> {
    let stream = bus.jetstream().get_stream(name).await;
    let config = stream.with_context(|| format!("looking for the stream {name}"))?.cached_info().config.clone();
    if streams::id(&config) != id {
        return Ok(streams::id(&config).to_owned());
    }
    let config = streams::renewed(config);
    let id = streams::id(&config).to_owned();
    let updated = bus.jetstream().update_stream(config).await;
    updated.with_context(|| format!("giving the stream {name} a new identity"))?;
    info!(stream = name, id, "the stream has a new identity: whoever sees it sends again what belongs there");
    Ok(id)
}

/// Makes a consumer, or brings one that is there to this form. One that cannot be changed is made anew, and reads from the
/// beginning.
async fn keep_consumer(bus: &Bus, stream: &str, wanted: &pull::Config, stream_is_new: bool) -> anyhow::Result<()> {
    let jetstream = bus.jetstream();
    let name = durable(wanted);
    let mut is_there = false;
    if !stream_is_new {
        let stream = jetstream.get_stream_no_info(stream).await?;
        match stream.consumer_info(name).await {
            Ok(info) if form(&info.config) == form(&wanted.clone().into_consumer_config()) => return Ok(()),
            Ok(_) => is_there = true,
            Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => {}
            Err(error) => return Err(error).context("looking at it"),
        }
    }
    match jetstream.create_consumer_on_stream(wanted.clone(), stream).await {
        Ok(_) => {
            info!(stream, consumer = name, "a consumer is as this version wants it");
            Ok(())
        }
        Err(error) if is_there => {
            warn!(stream, consumer = name, error = &error as &dyn Error, "the consumer is made anew");
            jetstream.delete_consumer_from_stream(name, stream).await.context("deleting it")?;
            jetstream.create_consumer_on_stream(wanted.clone(), stream).await.context("making it anew")?;
            Ok(())
        }
        Err(error) => Err(error).context("making it"),
    }
}

fn durable(config: &pull::Config) -> &str {
    config.durable_name.as_deref().unwrap_or_default()
}

/// What counts in a consumer. The server fills in the rest.
fn form(config: &Consumer) -> impl PartialEq + use<> {
    let acknowledged = (config.ack_policy != AckPolicy::None).then_some((config.ack_wait, config.max_ack_pending));
    (
        (config.deliver_subject.clone(), config.deliver_policy, config.ack_policy, acknowledged),
        (config.filter_subject.clone(), config.filter_subjects.clone(), config.memory_storage, config.headers_only),
        (config.max_batch, config.max_bytes, config.inactive_threshold, config.backoff.clone(), config.pause_until),
    )
}

/// Whether this means that the server has no such stream.
pub fn is_missing(error: &GetStreamError) -> bool {
    matches!(error.kind(), GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

fn is_taken(error: &CreateStreamError) -> bool {
    matches!(error.kind(), CreateStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NAME_EXIST)
}

impl Bus {
    /// Looks at a stream. A central service that finds none has the bootstrap make it first.
    pub async fn look_at(&self, stream: &str) -> anyhow::Result<Info> {
        let look = || self.jetstream().get_stream(stream);
        let found = match look().await {
            Err(error) if is_missing(&error) && matches!(self.user(), User::Central(_)) => {
                self.want_streams().await.with_context(|| format!("waiting for the stream {stream}"))?;
                look().await
            }
            found => found,
        };
        let found = found.with_context(|| format!("looking at the stream {stream}"))?;
        Ok(found.cached_info().clone())
    }

    /// Has the bootstrap of the hub make what is missing of its streams and consumers, and waits for that.
    pub(crate) async fn want_streams(&self) -> anyhow::Result<()> {
        self.ask_bootstrap(KEEP, &()).await.context("asking for the hub's streams to be made")
    }

    /// Gives a stream of this writer a new identity. Returns the one that it has then.
    pub(crate) async fn renew_stream(&self, stream: &str, id: &str) -> anyhow::Result<String> {
        if !matches!(self.user(), User::Central(_)) {
            // A site's only writer is its own bootstrap.
            return renew(self, stream, id).await;
        }
        let renewal = Renewal { stream: stream.to_owned(), id: id.to_owned() };
        self.ask_bootstrap(RENEW, &renewal).await.with_context(|| format!("asking for a new identity of {stream}"))
    }

    async fn ask_bootstrap<T: Serialize, R: serde::de::DeserializeOwned>(
        &self,
        verb: &str,
        body: &T,
    ) -> anyhow::Result<R> {
        let mut connections = self.connections();
        connections.mark_unchanged();
        let subject = Subject::service(ServiceName::Identity, verb);
        tokio::select! {
            answer = self.call(&subject, body, None) => answer.map_err(|problem: Problem| anyhow::anyhow!("{problem}")),
            _ = connections.changed() => bail!("the connection was lost meanwhile"),
        }
    }
}
