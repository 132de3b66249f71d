//! A client that orders again and again, rightly and wrongly, and notes what it was answered.
//!
//! A client works on a *line* of assignments, `ada-1`, `ada-2` and so on: names are never used again, so after a removal it
//! goes on with the next number. A next one is only begun when the removal of the one before is known, so a line never has
//! two applications on one port. Two clients may share a line; then they compete for its names and its revisions.

use std::{collections::BTreeSet, time::Duration};

use end_to_end::random::Random;
use reqwest::{Method, RequestBuilder, Response, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};
use testkit::wait_for;
use tokio::time::{Instant, sleep};

use crate::{
    evidence::Assignment,
    ledger::{Answer, Content, Sent, Wish},
};

/// Milliseconds between two orders of a client: so that Git writes several commits a second, and a long campaign does not
/// outgrow what one look at the end can read.
const PAUSE: (u64, u64) = (50, 300);

/// The longest time for one answer; after that it is not known what became of the order.
const ANSWER_TIME: Duration = Duration::from_secs(12);

/// Tries of one order in a row that may end without a clear answer. The platform is never down for so long: with a pause
/// after each of them, it takes longer than everybody's restart.
const MAX_TRIES: usize = 600;

/// The hub's REST interface, as one client sees it.
#[derive(Clone)]
pub struct Rest {
    pub http: reqwest::Client,
    pub base: String,
    pub token: String,
}

impl Rest {
    /// A connection to the interface at this base URL.
    pub fn new(base: String, token: String) -> Self {
        let http = reqwest::Client::builder().timeout(ANSWER_TIME).build().expect("a client without options");
        Self { http, base, token }
    }

    /// A list that the interface shows.
    pub async fn list<T: serde::de::DeserializeOwned>(&self, what: &str) -> Result<Vec<T>, String> {
        let request = self.http.get(format!("{}/{what}", self.base)).bearer_auth(&self.token);
        let answer = request.send().await.and_then(Response::error_for_status).map_err(|error| error.to_string())?;
        answer.json().await.map_err(|error| error.to_string())
    }
}

/// A person who orders at random: which assignments, of which application, on which nodes.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    pub name: &'static str,
    /// Which assignments it works on; the same as another's: they compete.
    pub line: &'static str,
    pub app: &'static str,
    /// The targets among which it chooses.
    pub targets: &'static [&'static [&'static str]],
}

/// What a client sees of its line.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// The number of the newest assignment; 0 when there is none yet.
    newest: u64,
    /// Its revision, when it stands. All assignments with lower numbers were removed.
    revision: Option<u64>,
}

/// How an order breaks a rule.
#[derive(Clone, Copy, Debug)]
enum Flaw {
    UnknownVersion,
    UnknownNode,
    GreetingIsNumber,
    NameTaken,
    NoPrecondition,
    StalePrecondition,
    AlreadyRemoved,
    UnknownToken,
}

const FLAWS: [Flaw; 8] = [
    Flaw::UnknownVersion,
    Flaw::UnknownNode,
    Flaw::GreetingIsNumber,
    Flaw::NameTaken,
    Flaw::NoPrecondition,
    Flaw::StalePrecondition,
    Flaw::AlreadyRemoved,
    Flaw::UnknownToken,
];

/// An order before it is sent.
struct Draft {
    assignment: String,
    wish: Wish,
    flaw: Option<Flaw>,
}

/// A client at work, with all that it has sent so far.
pub struct Orderer {
    client: Client,
    rest: Rest,
    random: Random,
    sent: Vec<Sent>,
}

impl Orderer {
    /// A client whose decisions follow from its numbers and from what it is answered.
    pub fn new(client: Client, rest: Rest, random: Random) -> Self {
        Self { client, rest, random, sent: Vec::new() }
    }

    /// Orders until `end`, and then once more: that last order has to be accepted, so that the last wish of each line is
    /// known and nothing that was sent earlier can still overtake it. Returns all that was sent.
    pub async fn order_until(mut self, end: Instant) -> Vec<Sent> {
        while Instant::now() < end {
            let held = self.look().await;
            let draft = self.choose(held);
            self.order(draft).await;
            let pause = self.random.between(PAUSE.0, PAUSE.1);
            // Not a wait: this is how fast the client orders.
            sleep(Duration::from_millis(pause)).await;
        }
        loop {
            let held = self.look().await;
            let draft = self.create_or_update(held);
            // Another client of the line may be faster.
            if self.order(draft).await {
                return self.sent;
            }
        }
    }

    async fn look(&self) -> Held {
        let assignments = wait_for("the interface to list the assignments", async || {
            self.rest.list::<Assignment>("assignments").await
        })
        .await;
        let number = |assignment: &Assignment| {
            let number = assignment.name.strip_prefix(self.client.line)?.strip_prefix('-')?;
            number.parse::<u64>().ok()
        };
        let line = assignments.iter().filter_map(|assignment| Some((number(assignment)?, assignment)));
        let newest = line.max_by_key(|(number, _)| *number);
        let standing = newest.filter(|(_, assignment)| assignment.state == "active");
        Held {
            newest: newest.map_or(0, |(number, _)| number),
            revision: standing.map(|(_, assignment)| assignment.revision),
        }
    }

    fn name(&self, number: u64) -> String {
        format!("{}-{number}", self.client.line)
    }

    fn choose(&mut self, held: Held) -> Draft {
        match (self.random.between(1, 100), held.revision) {
            (1..=20, _) => {
                let flaw = *self.random.choose(&FLAWS);
                self.flawed(flaw, held)
            }
            (21..=35, Some(from)) => {
                Draft { assignment: self.name(held.newest), wish: Wish::Remove { from }, flaw: None }
            }
            _ => self.create_or_update(held),
        }
    }

    fn create_or_update(&mut self, held: Held) -> Draft {
        let content = self.content();
        let (number, wish) = match held.revision {
            None => (held.newest + 1, Wish::Create(content)),
            Some(from) => (held.newest, Wish::Update { from: Some(from), to: content }),
        };
        Draft { assignment: self.name(number), wish, flaw: None }
    }

    fn content(&mut self) -> Content {
        let nodes = self.random.choose(self.client.targets).iter().map(|node| (*node).to_owned()).collect();
        let greeting = format!("{} {}", self.client.name, self.sent.len() + 1);
        Content { app: self.client.app, version: "1.0.0", greeting, nodes }
    }

    /// An order that breaks a rule. Where the line does not have what this flaw needs, it names a version that nobody added.
    fn flawed(&mut self, flaw: Flaw, held: Held) -> Draft {
        let mut to = self.content();
        // Never taken: a name of the line would be free for the next right order, and a refused one must leave it so.
        let unused = format!("{}-never-{}", self.client.name, self.sent.len() + 1);
        let removed = if held.revision.is_some() { held.newest.saturating_sub(1) } else { held.newest };
        let (assignment, wish) = match (flaw, held.revision) {
            (Flaw::NameTaken, _) if held.newest > 0 => (self.name(held.newest), Wish::Create(to)),
            (Flaw::AlreadyRemoved, _) if removed > 0 => (self.name(removed), Wish::Update { from: Some(1), to }),
            (Flaw::NoPrecondition, Some(_)) => (self.name(held.newest), Wish::Update { from: None, to }),
            (Flaw::StalePrecondition, Some(revision)) => {
                (self.name(held.newest), Wish::Update { from: Some(revision - 1), to })
            }
            // What is sent in their place is up to `request`.
            (Flaw::UnknownToken | Flaw::GreetingIsNumber, _) => (unused, Wish::Create(to)),
            (Flaw::UnknownNode, _) => {
                to.nodes = BTreeSet::from(["north/nowhere".to_owned()]);
                (unused, Wish::Create(to))
            }
            (
                Flaw::UnknownVersion
                | Flaw::NameTaken
                | Flaw::AlreadyRemoved
                | Flaw::NoPrecondition
                | Flaw::StalePrecondition,
                _,
            ) => {
                to.version = "9.9.9";
                (unused, Wish::Create(to))
            }
        };
        Draft { assignment, wish, flaw: Some(flaw) }
    }

    /// Sends an order until its outcome is clear. Each try is an order of its own in the ledger; at most one of them can be
    /// carried out, for they all name the same revision or the same new name. Returns whether the last one was accepted.
    async fn order(&mut self, draft: Draft) -> bool {
        for _ in 0..MAX_TRIES {
            let reason = format!("{} asks for the {}. time", self.client.name, self.sent.len() + 1);
            let answer = self.send(&draft, &reason).await;
            let Draft { assignment, wish, flaw } = &draft;
            self.sent.push(Sent {
                reason,
                assignment: assignment.clone(),
                wish: wish.clone(),
                forbidden: flaw.is_some(),
                answer: answer.clone(),
            });
            match answer {
                Answer::Accepted { .. } => return true,
                Answer::Refused(_) => return false,
                Answer::NotSent | Answer::Unknown(_) => {
                    // Not a wait: this is how fast the client asks again.
                    sleep(Duration::from_millis(PAUSE.0)).await;
                    self.look().await;
                }
            }
        }
        panic!("{} got no clear answer; the last: {:?}", self.client.name, self.sent.last());
    }

    async fn send(&self, draft: &Draft, reason: &str) -> Answer {
        match self.request(draft, reason).send().await {
            Ok(answer) => read(answer).await,
            Err(error) if error.is_connect() => Answer::NotSent,
            Err(error) => Answer::Unknown(error.to_string()),
        }
    }

    fn request(&self, Draft { assignment, wish, flaw }: &Draft, reason: &str) -> RequestBuilder {
        let Rest { http, base, token } = &self.rest;
        let one = format!("{base}/assignments/{assignment}");
        let match_revision =
            |request: RequestBuilder, from: &u64| request.header(header::IF_MATCH, format!("\"{from}\""));
        let request = match wish {
            Wish::Create(content) => {
                let mut body = body(content, reason);
                body["name"] = json!(assignment);
                if matches!(flaw, Some(Flaw::GreetingIsNumber)) {
                    body["parameters"]["greeting"] = json!(7);
                }
                http.request(Method::POST, format!("{base}/assignments")).json(&body)
            }
            Wish::Update { from, to } => {
                let request = http.request(Method::PUT, one).json(&body(to, reason));
                from.iter().fold(request, match_revision)
            }
            Wish::Remove { from } => {
                match_revision(http.request(Method::DELETE, one).query(&[("reason", reason)]), from)
            }
        };
        request.bearer_auth(if matches!(flaw, Some(Flaw::UnknownToken)) { "not a token" } else { token })
    }
}

fn body(content: &Content, reason: &str) -> Value {
    json!({
        "app": { "id": content.app, "version": content.version },
        "parameters": { "greeting": content.greeting },
        "targets": { "nodes": content.nodes },
        "reason": reason,
    })
}

/// What the interface answers to an order that it takes.
#[derive(Deserialize)]
struct Accepted {
    order: String,
    assignment: Revision,
}

#[derive(Deserialize)]
struct Revision {
    revision: u64,
}

async fn read(answer: Response) -> Answer {
    match answer.status() {
        StatusCode::ACCEPTED => match answer.json::<Accepted>().await {
            Ok(Accepted { order, assignment }) => Answer::Accepted { order, revision: assignment.revision },
            Err(error) => Answer::Unknown(error.to_string()),
        },
        // The interface says in its problem whether the order may stand all the same; these statuses never leave it open.
        status if status.is_client_error() && status != StatusCode::REQUEST_TIMEOUT => Answer::Refused(status.as_u16()),
        status => Answer::Unknown(status.to_string()),
    }
}
