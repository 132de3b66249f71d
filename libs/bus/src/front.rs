//! The connection on which a service hears and answers the tier below.
//!
//! Whoever asks from below may send what it likes. So the reader never waits for anybody: a request that breaks a rule, and one
//! beyond its asker's share, is dropped without an answer and counted, and the asker comes again by itself. Who asks is
//! taken from the subject, which the server's permissions bind to the asker; no header is looked at.

use std::{
    error::Error,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use api::Problem;
use async_nats::{HeaderMap, Subscriber};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

use crate::{
    Bus, Call, Login, Pattern, Subject,
    endpoint::{CONCURRENCY, answer_body, fits, problem_headers},
    fair::Fair,
    inbox::{Asker, is_inbox_of},
};

pub use crate::fair::Shares;

/// Why a request from below was dropped without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// The subject is none of the platform, or names no asker.
    Subject,
    /// The reply subject is missing, or is no inbox of the asker: an answer would go to somebody else.
    Reply,
    /// The request is longer than requests of its kind may be. It was not decoded.
    TooLong,
    /// The asker has its share already, or most bytes of a queue that is full.
    OverShare,
}

impl Dropped {
    /// Returns the word for it in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Subject => "subject",
            Self::Reply => "reply",
            Self::TooLong => "too-long",
            Self::OverShare => "over-share",
        }
    }
}

/// Rules for requests of one kind.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The most bytes that the body of one request may have.
    pub longest: usize,
    /// What one asker, and what all together may have in the queue.
    pub shares: Shares,
    /// Whether requests of this kind are answered; then those without an inbox of their asker are dropped.
    pub answered: bool,
}

impl Rules {
    /// Rules for requests with a small JSON body, or none: four in work for each asker, none longer than 4 KiB.
    pub const SMALL: Self = Self { longest: 4 << 10, shares: Shares { each: 4, bytes: 16 << 20 }, answered: true };
}

/// A service's connection to the tier below. It is cheap to clone, and it reconnects by itself, for ever.
#[derive(Clone)]
pub struct Front {
    bus: Bus,
    dropped: fn(Dropped),
}

impl Front {
    /// Connects as a front. `dropped` is told of each request that is dropped, to count it.
    pub async fn connect(login: &Login, dropped: fn(Dropped)) -> anyhow::Result<Self> {
        debug_assert!(login.user.is_front(), "others may publish elsewhere");
        Ok(Self { bus: Bus::connect(login).await?, dropped })
    }

    /// Returns the connection, to look whether it is up.
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Hears requests of one kind. They come until the returned value is dropped.
    pub async fn asks(&self, pattern: impl Into<Pattern>, rules: Rules) -> anyhow::Result<Asks> {
        self.hear(pattern.into(), rules, Fair::new(rules.shares)).await
    }

    /// Does the same for requests of which a newer one makes an older one needless: when an asker has its share, the newer
    /// one takes the place of the last that waits.
    pub async fn newest_asks(&self, pattern: impl Into<Pattern>, rules: Rules) -> anyhow::Result<Asks> {
        self.hear(pattern.into(), rules, Fair::new(rules.shares).newest_wins()).await
    }

    async fn hear(&self, pattern: Pattern, rules: Rules, waiting: Fair<Asker, Ask>) -> anyhow::Result<Asks> {
        let subscriber = self.bus.subscribe(pattern).await?;
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue { waiting, ended: false }),
            more: Notify::new(),
            bus: self.bus.clone(),
        });
        let reader = tokio::spawn(read(subscriber, shared.clone(), rules, self.dropped));
        Ok(Asks { shared, _reader: AbortOnDropHandle::new(reader) })
    }

    /// Answers requests of one kind whose body and answer are JSON, several at a time, until the returned value is dropped.
    /// The handler never learns of a caller: the subject alone says who asks.
    pub async fn answer<S, T, R, F, Fut>(
        &self,
        pattern: impl Into<Pattern>,
        state: Arc<S>,
        handler: F,
    ) -> anyhow::Result<AbortOnDropHandle<()>>
    where
        S: Send + Sync + 'static,
        T: DeserializeOwned + Send + 'static,
        R: Serialize + Send + 'static,
        F: Fn(Arc<S>, Call<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, Problem>> + Send + 'static,
    {
        let mut asks = self.asks(pattern, Rules::SMALL).await?;
        let handler = Arc::new(handler);
        let answering = async move {
            let places = Arc::new(Semaphore::new(CONCURRENCY));
            let mut requests = JoinSet::new();
            while let Some(ask) = asks.next().await {
                let place = places.clone().acquire_owned().await.expect("nobody closes this semaphore");
                while requests.try_join_next().is_some() {}
                let (handler, state) = (handler.clone(), state.clone());
                requests.spawn(async move {
                    let handler = |call| handler(state, call);
                    let answer = answer_body(ask.subject.clone(), &ask.payload, None, handler).await;
                    let largest = ask.shared.bus.client().server_info().max_payload;
                    match answer.and_then(|body| fits(body, largest)) {
                        Ok(body) => ask.answer(body.into()).await,
                        Err(problem) => ask.answer_with_problem(&problem).await,
                    }
                    drop(place);
                });
            }
        };
        Ok(AbortOnDropHandle::new(tokio::spawn(answering)))
    }

    /// Waits until the server passes requests on to everything that was asked for before. A lost connection is waited for.
    pub async fn reachable(&self) {
        self.bus.reachable().await;
    }
}

struct Queue {
    waiting: Fair<Asker, Ask>,
    ended: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    more: Notify,
    bus: Bus,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Requests of one kind from the tier below, of each asker in its order, and among askers in fair turns.
pub struct Asks {
    shared: Arc<Shared>,
    _reader: AbortOnDropHandle<()>,
}

impl Asks {
    /// Waits for the next request. Returns `None` when the connection has ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<Ask> {
        loop {
            if let Some(ask) = self.now() {
                return Some(ask);
            }
            if self.shared.lock().ended {
                return None;
            }
            // A notice that came between the two looks is kept for one waiter, and there is only this one.
            self.shared.more.notified().await;
        }
    }

    /// All requests, one after the other, until the connection has ended.
    pub fn stream(self) -> impl Stream<Item = Ask> {
        stream::unfold(self, async |mut asks| Some((asks.next().await?, asks)))
    }

    /// Takes the next request if one waits.
    pub fn now(&mut self) -> Option<Ask> {
        let (_, mut ask) = self.shared.lock().waiting.take()?;
        ask.taken = true;
        Some(ask)
    }
}

impl Drop for Asks {
    fn drop(&mut self) {
        // Those that wait hold the queue that holds them.
        let mut queue = self.shared.lock();
        queue.ended = true;
        queue.waiting.clear();
    }
}

/// One request from the tier below. It counts as in work, against its asker's share, until it is dropped.
pub struct Ask {
    /// Who asks, as the subject says.
    pub asker: Asker,
    /// The subject on which the request came.
    pub subject: Subject,
    /// The body, which is no longer than the rules allow.
    pub payload: Bytes,
    reply: Option<async_nats::Subject>,
    shared: Arc<Shared>,
    /// Whether it was taken out of the queue.
    taken: bool,
}

impl Ask {
    /// Answers the request. An answer that cannot be sent is lost, and the asker asks again.
    pub async fn answer(&self, body: Bytes) {
        self.send(HeaderMap::new(), body).await;
    }

    /// Says that the request was in vain, and why.
    pub async fn answer_with_problem(&self, problem: &Problem) {
        let (headers, body) = problem_headers(problem);
        self.send(headers, body).await;
    }

    async fn send(&self, headers: HeaderMap, body: Bytes) {
        let Some(reply) = self.reply.clone() else { return };
        if let Err(error) = self.shared.bus.client().publish_with_headers(reply, headers, body).await {
            warn!(subject = %self.subject, error = &error as &dyn Error, "answer not sent");
        }
    }
}

impl Drop for Ask {
    fn drop(&mut self) {
        // One that never left the queue is dropped by the queue itself, which is locked then.
        if self.taken {
            self.shared.lock().waiting.done(&self.asker);
        }
    }
}

async fn read(mut subscriber: Subscriber, shared: Arc<Shared>, rules: Rules, dropped: fn(Dropped)) {
    while let Some(message) = subscriber.next().await {
        match admit(message, &shared, rules) {
            Ok(ask) => {
                let bytes = ask.payload.len();
                let over = shared.lock().waiting.offer(ask.asker.clone(), ask, bytes);
                (0..over).for_each(|_| dropped(Dropped::OverShare));
                shared.more.notify_one();
            }
            Err((reason, subject)) => {
                debug!(%subject, reason = reason.as_str(), "request from below dropped");
                dropped(reason);
            }
        }
    }
    shared.lock().ended = true;
    shared.more.notify_one();
}

fn admit(
    message: async_nats::Message,
    shared: &Arc<Shared>,
    rules: Rules,
) -> Result<Ask, (Dropped, async_nats::Subject)> {
    let async_nats::Message { subject: raw, reply, payload, .. } = message;
    let Ok(subject) = raw.parse::<Subject>() else { return Err((Dropped::Subject, raw)) };
    let Some(asker) = Asker::of(&subject) else { return Err((Dropped::Subject, raw)) };
    if payload.len() > rules.longest {
        return Err((Dropped::TooLong, raw));
    }
    let reply = match reply {
        _ if !rules.answered => None,
        Some(reply) if is_inbox_of(&asker, &reply) => Some(reply),
        Some(_) | None => return Err((Dropped::Reply, raw)),
    };
    Ok(Ask { asker, subject, payload, reply, shared: shared.clone(), taken: false })
}
