//! Calls from the hub to a node, whose answers come up in parts.
//!
//! Nobody below publishes a reply: each part is a request that the tier above answers, so an answer may be long and slow. The
//! caller waits with [`Calls`], the LO passes both ways, and the node answers with [`answer`].

use std::{
    collections::{BTreeMap, btree_map::Entry},
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use api::Problem;
use bytes::Bytes;
use futures::StreamExt;
use margo::{ComponentName, DeploymentId, NodeId};
use prost::Message as _;
use tokio::{sync::mpsc, time::sleep};

use crate::{
    Ask, Asker, Bus, CallId, CallVerb, Front, Pattern, Rules, Shares, Subject,
    proto::{self, CallPartOutcome as Outcome},
};

/// The most bytes of the content of one part.
pub const MAX_PART: usize = 256 << 10;

/// Bytes of a call: a few names.
const MAX_CALL: usize = 1 << 10;

/// Characters of a person's name.
const MAX_ACTOR: usize = 100;

/// The longest message that a part is: its content, a number and a reason.
const LONGEST: usize = MAX_PART + (4 << 10);

/// Rules for parts: one of an asker's calls has one in work.
pub const PARTS: Rules = Rules { longest: LONGEST, shares: Shares { each: 4, bytes: 16 << 20 }, answered: true };

/// Parts that are passed on at once.
pub const CONCURRENCY: usize = 16;

/// Calls that wait for their answers at once, and of these for one node.
const MOST: usize = 64;
const MOST_OF_A_NODE: usize = 4;

/// How often a part is sent before its sender gives up, and the pause before each further time.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);

/// What a call is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// The deployment; `None` when the call is about the node.
    pub deployment: Option<DeploymentId>,
    /// The component; `None` for all that the deployment has there.
    pub component: Option<ComponentName>,
    /// How many lines of a log are asked for.
    pub lines: u32,
    /// The name of the person who makes the call.
    pub actor: String,
}

impl About {
    fn call(&self, id: &CallId) -> proto::Call {
        proto::Call {
            id: id.to_string(),
            deployment: self.deployment.map(|id| id.to_string()).unwrap_or_default(),
            component: self.component.as_ref().map(ToString::to_string).unwrap_or_default(),
            lines: self.lines,
            actor: self.actor.clone(),
        }
    }
}

/// Reads a call for whoever carries it out. `None` when it is malformed.
pub fn read(payload: &Bytes) -> Option<(CallId, About)> {
    let call = decode(payload)?;
    let about = About {
        deployment: unless_empty(&call.deployment)?,
        component: unless_empty(&call.component)?,
        lines: call.lines,
        actor: call.actor.chars().take(MAX_ACTOR).collect(),
    };
    Some((call.id.parse().ok()?, about))
}

/// Parses a text that may be empty. `None` when it is neither empty nor well-formed.
fn unless_empty<T: FromStr>(text: &str) -> Option<Option<T>> {
    if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) }
}

fn decode(payload: &Bytes) -> Option<proto::Call> {
    (payload.len() <= MAX_CALL).then(|| proto::Call::decode(payload.clone()).ok()).flatten()
}

/// The calls that a service of the hub has made and waits for. A clone is cheap and shares everything.
#[derive(Clone)]
pub struct Calls {
    bus: Bus,
    waiting: Arc<Mutex<BTreeMap<CallId, Waiting>>>,
}

struct Waiting {
    node: NodeId,
    /// The number of the next part.
    next: u32,
    /// There is room for one part. While it is taken, the next part is asked for again.
    parts: mpsc::Sender<proto::CallPart>,
}

impl Calls {
    /// Makes calls on this connection. Their answers come by [`Calls::take_parts`].
    pub fn new(bus: Bus) -> Self {
        Self { bus, waiting: Arc::default() }
    }

    /// Calls a node. Fails with 429 when too many calls are in work, and when the hub's server is not there. A node or site that
    /// is away does not answer, so the caller sets a limit to its patience.
    pub async fn call(&self, node: &NodeId, verb: CallVerb, about: About) -> Result<Answer, Problem> {
        let id = CallId::random();
        let (parts, received) = mpsc::channel(1);
        {
            let mut waiting = self.waiting();
            let of_node = waiting.values().filter(|call| call.node == *node).count();
            if waiting.len() >= MOST || of_node >= MOST_OF_A_NODE {
                return Err(Problem::new(429, "too many calls are in work; try again in a moment"));
            }
            waiting.insert(id.clone(), Waiting { node: node.clone(), next: 0, parts });
        }
        let answer = Answer { calls: self.clone(), id, received };
        if !self.bus.is_connected() {
            return Err(Problem::unavailable("the bus is not connected; try again when it is"));
        }
        let call = about.call(&answer.id);
        let sent = self.bus.signal(&Subject::Call(node.clone(), verb), call.encode_to_vec().into()).await;
        sent.map_err(|error| Problem::unavailable(format!("{error:#}")))?;
        Ok(answer)
    }

    /// Takes the parts of answers that sites send, until the returned future is dropped.
    pub async fn take_parts(&self, front: &Front) -> anyhow::Result<impl Future<Output = ()> + use<>> {
        let asks = front.asks(Pattern::SiteParts, PARTS).await?;
        let calls = self.clone();
        Ok(asks.stream().for_each_concurrent(CONCURRENCY, move |ask| {
            let outcome = calls.take(&ask);
            async move { answer_part(&ask, outcome).await }
        }))
    }

    fn take(&self, ask: &Ask) -> Outcome {
        let (Subject::SitePart(client, id), Ok(part)) = (&ask.subject, proto::CallPart::decode(ask.payload.clone()))
        else {
            return Outcome::Unwanted;
        };
        let mut waiting = self.waiting();
        let Some(call) = waiting.get_mut(id).filter(|call| call.node.client == *client) else {
            return Outcome::Unwanted;
        };
        match part.number.cmp(&call.next) {
            // It has come already, and its answer was lost.
            std::cmp::Ordering::Less => Outcome::Taken,
            std::cmp::Ordering::Equal => match call.parts.try_send(part) {
                Ok(()) => {
                    call.next += 1;
                    Outcome::Taken
                }
                Err(mpsc::error::TrySendError::Full(_)) => Outcome::NotNow,
                Err(mpsc::error::TrySendError::Closed(_)) => Outcome::Unwanted,
            },
            std::cmp::Ordering::Greater => Outcome::Unwanted,
        }
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<CallId, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answer to one call, part by part. When it is dropped, nobody waits for the call any more.
pub struct Answer {
    calls: Calls,
    id: CallId,
    received: mpsc::Receiver<proto::CallPart>,
}

impl Answer {
    /// Waits for the next part; the one that says so is the last.
    pub async fn next(&mut self) -> Option<proto::CallPart> {
        self.received.recv().await
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.calls.waiting().remove(&self.id);
    }
}

/// The calls that an LO has passed on to its nodes: nobody else's parts go up. The oldest is forgotten when there are too many.
#[derive(Debug, Default)]
pub struct PassedOn {
    calls: BTreeMap<CallId, (u64, NodeId)>,
    by_age: BTreeMap<u64, CallId>,
    passed: u64,
}

impl PassedOn {
    /// Calls that are remembered. A call ends within a minute, and the hub has at most 64 in work.
    const MOST: usize = 1024;

    /// Notes a call.
    pub fn note(&mut self, id: CallId, node: NodeId) {
        let Entry::Vacant(vacant) = self.calls.entry(id.clone()) else { return };
        self.passed += 1;
        vacant.insert((self.passed, node));
        self.by_age.insert(self.passed, id);
        if self.by_age.len() > Self::MOST
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.calls.remove(&oldest);
        }
    }

    /// Whether this node was called so.
    pub fn holds(&self, id: &CallId, node: &NodeId) -> bool {
        self.calls.get(id).is_some_and(|(_, called)| called == node)
    }
}

/// Reads the name of a call for whoever passes it on. `None` when it is malformed.
pub fn id_of(payload: &Bytes) -> Option<CallId> {
    decode(payload)?.id.parse().ok()
}

/// Answers one part.
pub async fn answer_part(ask: &Ask, outcome: Outcome) {
    let answer = proto::CallPartAnswer { outcome: outcome.into() };
    ask.answer(answer.encode_to_vec().into()).await;
}

/// Sends the parts of an answer up, one after the other. What does not arrive is sent again some times; then, or when nobody
/// wants it, the rest is not sent.
pub async fn answer(bus: &Bus, node: &NodeId, id: &CallId, parts: impl IntoIterator<Item = proto::CallPart>) {
    let subject = Subject::NodePart(node.clone(), id.clone());
    for part in parts {
        let body: Bytes = part.encode_to_vec().into();
        if send(bus, &subject, &body).await != Outcome::Taken {
            return;
        }
    }
}

async fn send(bus: &Bus, subject: &Subject, body: &Bytes) -> Outcome {
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            sleep(PAUSE).await;
        }
        match pass_on(bus, subject, body.clone()).await {
            Outcome::Unspecified | Outcome::NotNow => {}
            outcome => return outcome,
        }
    }
    Outcome::NotNow
}

/// Sends one part to the tier above, once, and returns what became of it.
pub async fn pass_on(bus: &Bus, subject: &Subject, part: Bytes) -> Outcome {
    let Ok(answer) = bus.ask(subject, part).await else { return Outcome::NotNow };
    proto::CallPartAnswer::decode(answer.payload).map_or(Outcome::NotNow, |answer| answer.outcome())
}

/// Who sends a part, when it is a node, with the name of its call.
pub fn sender(ask: &Ask) -> Option<(&NodeId, &CallId)> {
    match (&ask.asker, &ask.subject) {
        (Asker::Node(node), Subject::NodePart(_, id)) => Some((node, id)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_read_as_it_was_made_and_a_malformed_one_is_not() {
        let id = CallId::random();
        let about = About {
            deployment: Some("9db79949-86fb-5e45-910d-8a83dd7391cc".parse().unwrap()),
            component: Some("hello".parse().unwrap()),
            lines: 7,
            actor: "admin".to_owned(),
        };
        for about in [about.clone(), About::default()] {
            assert_eq!(read(&about.call(&id).encode_to_vec().into()), Some((id.clone(), about)));
        }
        let component = |component: &str| proto::Call { component: component.to_owned(), ..about.call(&id) };
        for bad in ["../etc", "Hello", &"x".repeat(2_000)] {
            assert_eq!(read(&component(bad).encode_to_vec().into()), None, "{bad}");
        }
    }

    #[test]
    fn parts_go_up_for_calls_that_were_passed_on_to_their_sender() {
        let (press, lathe): (NodeId, NodeId) = ("plant/press".parse().unwrap(), "plant/lathe".parse().unwrap());
        let (id, mut passed) = (CallId::random(), PassedOn::default());
        passed.note(id.clone(), press.clone());
        // Whoever names the same call again changes nothing.
        passed.note(id.clone(), lathe.clone());
        assert!(passed.holds(&id, &press) && !passed.holds(&id, &lathe) && !passed.holds(&CallId::random(), &press));
        (0..PassedOn::MOST).for_each(|_| passed.note(CallId::random(), lathe.clone()));
        assert!(!passed.holds(&id, &press));
        assert_eq!((passed.calls.len(), passed.by_age.len()), (PassedOn::MOST, PassedOn::MOST));
    }
}
