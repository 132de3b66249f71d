//! The stage of all attacks: a server of one tier with its streams, one who hears everything, and the hostile client.
//!
//! What comes of an attack is judged by its effect: what somebody who may hear everything has heard, what the hostile client has
//! heard, and what the streams hold. That nothing came is known by a fence: the server works on what one client sends in order, so
//! when a message that was sent after the attack is heard, the whole effect of the attack was heard before.

use std::{
    collections::{BTreeMap, HashMap},
    sync::atomic::{AtomicUsize, Ordering},
};

use async_nats::{Client, ConnectOptions, HeaderMap, Message, Subscriber, jetstream};
use bus::{Front, Jwt, Login, NodeVerb, Pattern, Rules, ServiceName, SiteVerb, Subject, Tier, User, streams};
use futures::{FutureExt, StreamExt, TryStreamExt};
use identity::{Rights, jwt};
use serde_json::{Value, json};
use testkit::{NatsServer, credentials};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    attacks::{ATTACK, Shot},
    users::{everybody, other, oven, press},
};

/// The most subscriptions that are tried at once. A member's connection may have 16.
const AT_ONCE: usize = 8;

/// Something that was heard.
#[derive(Clone, Debug)]
pub struct Heard {
    pub subject: String,
    /// The number of the shot that it came from; absent for what somebody else published because of one.
    pub shot: Option<usize>,
}

/// What a stream holds, and how it is set up.
pub type Streams = BTreeMap<String, String>;

pub struct Stage {
    pub server: NatsServer,
    tier: Tier,
    /// May do everything in the platform's account.
    omnipotent: Client,
    /// The same in the system account.
    operator: Client,
    /// What is sent in the platform's account, and in the system account.
    everything: Subscriber,
    everything_of_system: Subscriber,
    fences: AtomicUsize,
}

impl Stage {
    pub async fn set(tier: Tier) -> Self {
        let mut users = everybody(tier);
        users.extend(match tier {
            Tier::Hub => vec![User::Site(other().client)],
            Tier::Site => vec![User::Node(oven())],
        });
        let server = NatsServer::start_bare(&users).await;
        let rights = Rights { publish: vec![">".to_owned()], subscribe: vec![">".to_owned()] };
        let (seed, key) = identity::nats::generate();
        let login = |text| Login {
            url: server.url(),
            tls: None,
            seed: seed.clone(),
            jwt: Jwt::Text(text),
            user: User::Central(ServiceName::ApiGateway),
        };
        let (authority, now) = (server.authority(), jwt::now());
        let listener = connect(&login(authority.service("listener", &key, &rights, now))).await;
        let omnipotent = connect(&login(authority.service("omnipotent", &key, &rights, now))).await;
        let operator = connect(&login(authority.system_user("operator", &key, &rights, now))).await;
        make_streams(&omnipotent, tier).await;
        let everything = hear_everything(&listener).await;
        let everything_of_system = hear_everything(&operator).await;
        Self { server, tier, omnipotent, operator, everything, everything_of_system, fences: AtomicUsize::new(0) }
    }

    /// A client with the credentials of this user, which leaves it to the server to judge what it sends.
    pub async fn hostile(&self, user: &User) -> Client {
        connect(&self.server.login(user)).await
    }

    /// What all streams hold when everything that was sent before has reached them.
    pub async fn streams(&mut self) -> Streams {
        let context = jetstream::new(self.omnipotent.clone());
        let streams = || async { context.streams().try_collect::<Vec<_>>().await.unwrap() };
        for info in streams().await {
            // A stream takes messages in their order, and says of this one that it is not for it.
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Expected-Stream", "none");
            let subject = info.config.subjects[0].replace('>', "fence");
            self.omnipotent.request_with_headers(subject, headers, "".into()).await.unwrap();
        }
        let all = streams().await;
        self.heard_by_now().await;
        let text = |info: &jetstream::stream::Info| {
            let state = &info.state;
            format!(
                "{} messages in {} bytes from {} to {}, {} consumers, {}",
                state.messages,
                state.bytes,
                state.first_sequence,
                state.last_sequence,
                state.consumer_count,
                serde_json::to_value(&info.config).unwrap()
            )
        };
        all.iter().map(|info| (info.config.name.clone(), text(info))).collect()
    }

    /// Sends all that, and returns what came of it.
    pub async fn fire(&mut self, user: &User, client: &Client, shots: &[Shot]) -> Vec<Heard> {
        if *user == User::Minter {
            // The server serves everybody's requests about streams in the system account. What was heard there up to now is not
            // the minter's.
            let body = format!("fence {}", self.fences.fetch_add(1, Ordering::SeqCst));
            self.operator.publish("fence", body.clone().into()).await.unwrap();
            self.heard_until(true, &body).await;
        }
        for (number, shot) in shots.iter().enumerate() {
            let headers = shot.headers(number);
            let sent = match shot.reply.clone() {
                None => client.publish_with_headers(shot.subject.clone(), headers, "".into()).await,
                Some(reply) => {
                    client.publish_with_reply_and_headers(shot.subject.clone(), reply, headers, "".into()).await
                }
            };
            sent.unwrap_or_else(|error| panic!("{user} could not send {shot:?}: {error}"));
        }
        self.fence(user, client).await
    }

    /// Returns what was heard of everything that this client has sent up to now.
    pub async fn fence(&mut self, user: &User, client: &Client) -> Vec<Heard> {
        let body = format!("fence {}", self.fences.fetch_add(1, Ordering::SeqCst));
        client.publish(self.own_subject(user), body.clone().into()).await.unwrap();
        let mut heard = self.heard_until(*user == User::Minter, &body).await;
        // What the server says of messages, and not only passes on, it says later and in order, answers to this among it.
        self.connections().await;
        heard.extend(self.heard_by_now().await);
        heard
    }

    /// Returns what was heard up to now, also of what others have sent on their connections before they were heard last.
    pub async fn heard_by_now(&mut self) -> Vec<Heard> {
        let body = format!("fence {}", self.fences.fetch_add(1, Ordering::SeqCst));
        self.omnipotent.publish("fence", body.clone().into()).await.unwrap();
        self.heard_until(false, &body).await
    }

    async fn heard_until(&mut self, in_system: bool, body: &str) -> Vec<Heard> {
        let listener = if in_system { &mut self.everything_of_system } else { &mut self.everything };
        let mut heard = Vec::new();
        loop {
            let message = listener.next().await.expect("the one who hears everything stays connected");
            if message.payload == *body {
                return heard;
            }
            let shot = message.headers.as_ref().and_then(|headers| headers.get(ATTACK)?.as_str().parse().ok());
            // The server itself tells of streams and connections, and of what it answers to whoever looks at streams.
            let of_server = ["$SYS.", "$JS.EVENT.", "$JS.API.STREAM.LIST", "_INBOX_svc.api-gateway.", "_R_."];
            if shot.is_some() || !of_server.iter().any(|prefix| message.subject.starts_with(prefix)) {
                heard.push(Heard { subject: message.subject.to_string(), shot });
            }
        }
    }

    /// A subject that this user may publish, whatever else it may.
    fn own_subject(&self, user: &User) -> String {
        match user {
            User::Central(_) | User::LocalOrchestrator(_) | User::OciFetcher(_) => "_INBOX_svc.nobody.fence".to_owned(),
            User::Front(_) => "_INBOX_site.nobody.fence".to_owned(),
            User::LocalFront(_) => "_INBOX_node.nobody.nobody.fence".to_owned(),
            User::Site(client) => Subject::Site(client.clone(), SiteVerb::Store).to_string(),
            User::Node(node) => Subject::Node(node.clone(), NodeVerb::Alive).to_string(),
            User::Bootstrap => "$JS.API.CONSUMER.INFO.DESIRED.nobody.fence".to_owned(),
            User::Minter => "$SYS.REQ.SERVER.nobody.CONNZ".to_owned(),
        }
    }

    /// Sends a message on each of these subjects, as somebody who may, and returns when the server has passed them on.
    pub async fn send(&mut self, subjects: &[String]) {
        for subject in subjects {
            self.omnipotent.publish(subject.clone(), subject.clone().into()).await.unwrap();
        }
        self.heard_by_now().await;
    }

    /// Tells whether there is a connection of this name.
    pub async fn is_connected(&self, name: &str) -> bool {
        self.connections().await.iter().any(|connection| connection["name"] == name)
    }

    /// The connections of the platform's account, as the server tells.
    async fn connections(&self) -> Vec<Value> {
        let subject = format!("$SYS.REQ.SERVER.{}.CONNZ", self.operator.server_info().server_id);
        let request = json!({"acc": self.server.authority().account()}).to_string();
        let answer = self.operator.request(subject, request.into()).await.unwrap().payload;
        let mut answer: Value = serde_json::from_slice(&answer).unwrap();
        serde_json::from_value(answer["data"]["connections"].take()).unwrap()
    }

    /// Subscribes all that, a few at a time and in this queue group, has everybody's messages sent, and returns what the client
    /// heard by each subscription.
    pub async fn subscribe(
        &mut self,
        user: &User,
        client: &Client,
        patterns: &[String],
        group: Option<&str>,
        sent: &[String],
    ) -> HashMap<String, Vec<String>> {
        let fence = format!("{}.fence", user.inbox_prefix());
        let mut passed = client.subscribe(fence.clone()).await.unwrap();
        let mut heard = HashMap::new();
        for patterns in patterns.chunks(AT_ONCE) {
            let mut subscriptions = Vec::new();
            for pattern in patterns {
                let subscription = match group {
                    None => client.subscribe(pattern.clone()).await,
                    Some(group) => client.queue_subscribe(pattern.clone(), group.to_owned()).await,
                };
                subscriptions.push((pattern, subscription.unwrap()));
            }
            self.fence(user, client).await;
            self.send(sent).await;
            if *user == User::Minter {
                // It has another account.
                self.operator.publish(fence.clone(), "".into()).await.unwrap();
            } else {
                self.omnipotent.publish(fence.clone(), "".into()).await.unwrap();
            }
            passed.next().await.unwrap();
            for (pattern, mut subscription) in subscriptions {
                let messages: Vec<Message> =
                    std::iter::from_fn(|| subscription.next().now_or_never().flatten()).collect();
                let subjects = messages.into_iter().filter(|message| message.payload == *message.subject.as_bytes());
                heard.insert(pattern.clone(), subjects.map(|message| message.subject.to_string()).collect());
                subscription.unsubscribe().await.unwrap();
            }
        }
        passed.unsubscribe().await.unwrap();
        self.heard_by_now().await;
        heard
    }

    /// Answers whatever the tier below asks, with what was asked, as the services of this tier do it.
    pub async fn answer(&self) -> Vec<AbortOnDropHandle<()>> {
        let mut answering = Vec::new();
        for (user, patterns) in self.fronts() {
            let front = Front::connect(&self.server.login(&user), |_| {}).await.unwrap();
            for (pattern, answered) in patterns {
                let rules = Rules { answered, ..Rules::SMALL };
                let mut asks = front.asks(pattern, rules).await.unwrap();
                let answers = tokio::spawn(async move {
                    while let Some(ask) = asks.next().await {
                        ask.answer(ask.payload.clone()).await;
                    }
                });
                answering.push(AbortOnDropHandle::new(answers));
            }
            front.reachable().await;
        }
        answering
    }

    /// Does the same as if the services had forgotten to look at whom they answer. Nothing but the server is in the way.
    pub async fn answer_blindly(&self) -> Vec<AbortOnDropHandle<()>> {
        let mut answering = Vec::new();
        for (user, patterns) in self.fronts() {
            let client = self.hostile(&user).await;
            for (pattern, answered) in patterns {
                let mut asks = client.subscribe(pattern.to_string()).await.unwrap();
                let client = client.clone();
                let answers = tokio::spawn(async move {
                    while let Some(ask) = asks.next().await {
                        if let Some(reply) = ask.reply.filter(|_| answered) {
                            client.publish(reply, ask.payload).await.unwrap();
                        }
                    }
                });
                answering.push(AbortOnDropHandle::new(answers));
            }
            let echo = client.new_inbox();
            let mut heard = client.subscribe(echo.clone()).await.unwrap();
            client.publish(echo, "".into()).await.unwrap();
            heard.next().await.unwrap();
        }
        answering
    }

    /// Who answers the tier below, and what; heartbeats are not answered.
    fn fronts(&self) -> Vec<(User, Vec<(Pattern, bool)>)> {
        match self.tier {
            Tier::Hub => {
                let services = ServiceName::at(Tier::Hub).filter(|service| service.has_front());
                let patterns = |service: ServiceName| {
                    let asks = service.service().answers.iter().map(|verb| (Pattern::Sites(*verb), true));
                    asks.chain(service.service().calls.then_some((Pattern::SiteParts, true))).collect()
                };
                services.map(|service| (User::Front(service), patterns(service))).collect()
            }
            Tier::Site => {
                let client = press().client;
                let pattern = |verb: &NodeVerb| (Pattern::Nodes(client.clone(), *verb), *verb != NodeVerb::Alive);
                let parts = (Pattern::NodeParts(client.clone()), true);
                vec![(User::LocalFront(client.clone()), NodeVerb::ALL.iter().map(pattern).chain([parts]).collect())]
            }
        }
    }
}

async fn connect(login: &Login) -> Client {
    let options = ConnectOptions::with_credentials(&credentials(login)).unwrap();
    options
        .custom_inbox_prefix(login.user.inbox_prefix())
        // What is not allowed is the server's to say.
        .skip_subject_validation(true)
        // Nobody here is slow.
        .subscription_capacity(1 << 20)
        .connect(&login.url)
        .await
        .unwrap()
}

/// Hears everything in the account of this client, from now on.
async fn hear_everything(client: &Client) -> Subscriber {
    let mut everything = client.subscribe(">").await.unwrap();
    client.publish("begin", "".into()).await.unwrap();
    while everything.next().await.unwrap().subject.as_str() != "begin" {}
    everything
}

/// Makes the streams of this tier, with a value and a reader in each.
async fn make_streams(client: &Client, tier: Tier) {
    let own = press().client;
    let configs = match tier {
        Tier::Hub => vec![
            streams::desired(Pattern::Desired),
            streams::state_at_hub(),
            streams::events_at_hub(),
            streams::git_writes(),
            streams::dead_letters(),
        ],
        Tier::Site => vec![
            streams::desired(Pattern::DesiredOf(own.clone())),
            streams::state_at_site(Pattern::StateOf(own.clone())),
            streams::events_at_site(Pattern::EventsOf(own)),
        ],
    };
    let context = jetstream::new(client.clone());
    for config in configs {
        let stream = context.create_stream(config).await.unwrap();
        let reader =
            jetstream::consumer::pull::Config { durable_name: Some("reader".to_owned()), ..Default::default() };
        stream.create_consumer(reader).await.unwrap();
    }
    let node = press();
    let mut subjects = vec![
        Subject::DesiredHead(node.client.clone()),
        Subject::DesiredNode(node.clone()),
        Subject::Status(node.clone()),
        Subject::Health(node.client.clone()),
        Subject::Event(node),
    ];
    if tier == Tier::Hub {
        subjects.push(Subject::GitWriteFleet(ServiceName::DeploymentRegistry));
    }
    for subject in subjects {
        context.publish(subject.to_string(), "good".into()).await.unwrap().await.unwrap();
    }
}
