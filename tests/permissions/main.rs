//! A hostile client with the credentials of a node at the site, one with those of a site at the hub, and one with those of a
//! central service: every cell of these matrices, on a real server with the configuration of production.
//!
//! The rows are made from the subject enum, so a new subject cannot be forgotten: [`expected`] does not compile
//! without a word on it. What is expected is written here once more, by hand: the permissions are not their own judge.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

mod services;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use bus::{Bus, Login, ServiceName, Subject, User};
use margo::NodeId;
use testkit::{NatsServer, credentials, wait_for};

/// What a client may do with a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct May {
    publish: bool,
    subscribe: bool,
}

const NOTHING: May = May { publish: false, subscribe: false };
const PUBLISH: May = May { publish: true, subscribe: false };
const SUBSCRIBE: May = May { publish: false, subscribe: true };

/// Whose credentials the hostile client has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thief {
    /// Those of a node, at its site's server.
    Node,
    /// Those of a site, at the hub's server.
    Site,
}

/// Whom a subject is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum About {
    /// The one whose credentials were stolen.
    Itself,
    /// Another node of the same client (a neighbour at the site).
    Neighbour,
    /// Another client, or a node of another client.
    Stranger,
}

/// What each subject must be open for, written by hand.
fn expected(thief: Thief, about: About, subject: &Subject) -> May {
    let own = match thief {
        Thief::Node => about == About::Itself,
        // A site speaks for all its nodes.
        Thief::Site => about != About::Stranger,
    };
    match (subject, thief) {
        // A node reports, registers and beats for itself, and hears what is for itself.
        (Subject::Node(..), Thief::Node) if own => PUBLISH,
        (Subject::ChangedNode(_) | Subject::Call(..), Thief::Node) if own => SUBSCRIBE,
        // A site asks for itself, and is signalled and called. What it and its nodes report it asks to have stored.
        (Subject::ChangedHead(_) | Subject::ChangedNode(_), Thief::Site) if own => SUBSCRIBE,
        (Subject::Site(..), Thief::Site) if own => PUBLISH,
        (Subject::Call(..), Thief::Site) if own => SUBSCRIBE,
        // Nobody else's, and nothing of the centre's.
        (
            Subject::Node(..)
            | Subject::ChangedNode(_)
            | Subject::Call(..)
            | Subject::Status(_)
            | Subject::Capabilities(_)
            | Subject::Health(_)
            | Subject::Event(_)
            | Subject::Site(..)
            | Subject::DesiredHead(_)
            | Subject::DesiredNode(_)
            | Subject::ChangedHead(_)
            | Subject::GitWriteFleet(_)
            | Subject::GitWriteClient(..)
            | Subject::GitCommittedFleet
            | Subject::GitCommittedClient(_)
            | Subject::Service(..),
            _,
        ) => NOTHING,
    }
}

/// Subjects of the server's own interfaces, each with whether the thief may publish there.
fn server_interfaces() -> Vec<(String, bool)> {
    let direct = |stream: &str, subject: Subject| format!("$JS.API.DIRECT.GET.{stream}.{subject}");
    let (own, neighbour, stranger) = (press(), oven(), other());
    let mut cells = vec![
        (direct("DESIRED", Subject::DesiredNode(own.clone())), false),
        (direct("DESIRED", Subject::DesiredNode(neighbour.clone())), false),
        (direct("DESIRED", Subject::DesiredNode(stranger.clone())), false),
        (direct("DESIRED", Subject::DesiredHead(own.client.clone())), false),
        (direct("DESIRED", Subject::DesiredHead(stranger.client.clone())), false),
        (direct("STATE", Subject::Status(own.clone())), false),
        (direct("STATE", Subject::Health(own.client.clone())), false),
        ("$JS.API.CONSUMER.MSG.NEXT.STATE.status-collector".into(), false),
        ("$JS.API.CONSUMER.MSG.NEXT.EVENTS.status-collector".into(), false),
        ("$JS.ACK.STATE.status-collector.1.1.1.1.0".into(), false),
        (direct("STATE", Subject::Status(stranger)), false),
        ("$JS.API.CONSUMER.MSG.NEXT.DESIRED.plant".into(), false),
        ("$JS.ACK.DESIRED.plant.1.1.1.1.0".into(), false),
        ("$JS.API.CONSUMER.MSG.NEXT.DESIRED.other".into(), false),
        ("$JS.ACK.DESIRED.other.1.1.1.1.0".into(), false),
        // `multi_last` names its subjects in the payload, where no permission limits them.
        ("$JS.API.DIRECT.GET.DESIRED".into(), false),
        ("$JS.API.DIRECT.GET.STATE".into(), false),
        ("$JS.API.INFO".into(), false),
        ("$SYS.REQ.SERVER.PING".into(), false),
        ("$SRV.PING".into(), false),
    ];
    for stream in ["DESIRED", "STATE", "EVENTS", "GIT_WRITES", "DEAD_LETTERS"] {
        for api in ["CREATE", "UPDATE", "DELETE", "PURGE", "INFO", "MSG.GET", "MSG.DELETE"] {
            cells.push((format!("$JS.API.STREAM.{api}.{stream}"), false));
        }
        for api in ["CREATE", "DURABLE.CREATE", "DELETE", "INFO", "NAMES", "LIST"] {
            cells.push((format!("$JS.API.CONSUMER.{api}.{stream}.plant"), false));
            cells.push((format!("$JS.API.CONSUMER.{api}.{stream}"), false));
        }
    }
    cells
}

fn press() -> NodeId {
    "plant/press".parse().unwrap()
}

fn oven() -> NodeId {
    "plant/oven".parse().unwrap()
}

fn other() -> NodeId {
    "other/press".parse().unwrap()
}

/// How many subjects are tried at once. The client drops refusals when there are too many of them.
const CHUNK: usize = 64;

/// A client that notes what the server refuses.
struct Client {
    client: async_nats::Client,
    refused: Arc<Mutex<Vec<String>>>,
    probes: AtomicUsize,
}

impl Client {
    async fn connect(login: &Login) -> Self {
        let refused = Arc::new(Mutex::new(Vec::new()));
        let notes = refused.clone();
        let client = async_nats::ConnectOptions::with_credentials(&credentials(login))
            .unwrap()
            .custom_inbox_prefix(login.user.inbox_prefix())
            .event_callback(move |event| {
                if let async_nats::Event::ServerError(error) = event {
                    notes.lock().unwrap().push(error.to_string().to_lowercase());
                }
                std::future::ready(())
            })
            .connect(&login.url)
            .await
            .unwrap();
        Self { client, refused, probes: AtomicUsize::new(0) }
    }

    /// Waits until the server has said everything about what was sent. It answers in order, so that is when it has refused a
    /// subject that nobody may use.
    async fn hear_refusals(&self) {
        let probe = format!("nobody.may.{}", self.probes.fetch_add(1, Ordering::SeqCst));
        self.client.publish(probe.clone(), "".into()).await.unwrap();
        self.client.flush().await.unwrap();
        wait_for("the server to refuse the probe", async || {
            let refused = self.refused.lock().unwrap();
            if refused.iter().any(|text| text.contains(&format!("\"{probe}\""))) {
                Ok(())
            } else {
                Err(refused.clone())
            }
        })
        .await;
    }

    async fn was_refused(&self, direction: &str, subject: &str) -> bool {
        self.hear_refusals().await;
        let words = format!("{direction} to \"{}\"", subject.to_lowercase());
        self.refused.lock().unwrap().iter().any(|text| text.contains(&words))
    }

    /// Which of these subjects the server lets it publish, in their order.
    async fn publishable(&self, subjects: &[String]) -> Vec<String> {
        let mut open = Vec::new();
        for subjects in subjects.chunks(CHUNK) {
            for subject in subjects {
                self.client.publish(subject.clone(), "{".into()).await.unwrap();
            }
            open.extend(self.not_refused("publish", subjects).await);
        }
        open
    }

    /// Which of these subjects the server lets it subscribe, in their order.
    async fn subscribable(&self, subjects: &[String]) -> Vec<String> {
        let mut open = Vec::new();
        for subjects in subjects.chunks(CHUNK) {
            let mut subscriptions = Vec::new();
            for subject in subjects {
                subscriptions.push(self.client.subscribe(subject.clone()).await.unwrap());
            }
            open.extend(self.not_refused("subscription", subjects).await);
        }
        open
    }

    async fn not_refused(&self, direction: &str, subjects: &[String]) -> Vec<String> {
        self.hear_refusals().await;
        let refused = self.refused.lock().unwrap();
        let is_refused = |subject: &String| {
            let words = format!("{direction} to \"{}\"", subject.to_lowercase());
            refused.iter().any(|text| text.contains(&words))
        };
        subjects.iter().filter(|subject| !is_refused(subject)).cloned().collect()
    }

    async fn may_publish(&self, subject: &str) -> bool {
        self.client.publish(subject.to_owned(), "{}".into()).await.unwrap();
        !self.was_refused("publish", subject).await
    }

    async fn may_subscribe(&self, subject: &str) -> bool {
        let _subscription = self.client.subscribe(subject.to_owned()).await.unwrap();
        !self.was_refused("subscription", subject).await
    }
}

async fn every_cell(thief: Thief, user: User) {
    let server = NatsServer::start(std::slice::from_ref(&user)).await;
    let client = Client::connect(&server.login(&user)).await;
    let mut wrong = Vec::new();
    let mut cells = 0;
    for (about, node) in [(About::Itself, press()), (About::Neighbour, oven()), (About::Stranger, other())] {
        for subject in Subject::one_of_each(&node) {
            let may = expected(thief, about, &subject);
            let text = subject.to_string();
            let found = May { publish: client.may_publish(&text).await, subscribe: client.may_subscribe(&text).await };
            cells += 2;
            if found != may {
                wrong.push(format!("{subject}: expected {may:?}, found {found:?}"));
            }
        }
    }
    for (subject, may) in server_interfaces() {
        cells += 1;
        if client.may_publish(&subject).await != may {
            wrong.push(format!("{subject}: expected publish {may}"));
        }
    }
    // Wildcards would hear what no single subject shows; another's inbox would hear its answers.
    for pattern in [">", "*.>", "desired.>", "changed.>", "state.>", "_INBOX.>", "$SYS.>", "$JS.>", "$SRV.>"] {
        cells += 1;
        if client.may_subscribe(pattern).await {
            wrong.push(format!("{pattern}: may be subscribed"));
        }
    }
    assert!(wrong.is_empty(), "{} of {cells} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(cells > 150, "only {cells} cells");
}

#[tokio::test]
async fn a_node_s_credentials_open_its_own_subjects_at_the_site_and_nothing_else() {
    every_cell(Thief::Node, User::Node(press())).await;
}

#[tokio::test]
async fn a_site_s_credentials_open_its_own_subjects_at_the_hub_and_nothing_else() {
    every_cell(Thief::Site, User::Site(press().client)).await;
}

#[tokio::test]
async fn without_credentials_nothing_is_open() {
    let server = NatsServer::start(&[User::Central(ServiceName::ApiGateway)]).await;
    let connect = async_nats::ConnectOptions::new().connect(server.url()).await;
    assert!(connect.is_err());
    let (seed, _) = identity::nats::generate();
    let connect = async_nats::ConnectOptions::with_nkey(seed).connect(server.url()).await;
    assert!(connect.is_err());
}
