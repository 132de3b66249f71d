//! A third party at the hub's server: an account of its own, in which it reads STATE and EVENTS, and nothing else.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_nats::{
    ConnectOptions,
    jetstream::{self, consumer::PullConsumer},
};
use bus::{Bootstrap, Bus, Members, bootstrap, streams};
use futures::StreamExt;
use identity::{
    Authority, jwt,
    nats::{credentials_file, generate},
};
use margo::ReaderName;
use minter::{Minter, Roll, Settings};
use testkit::{NatsServer, wait_for};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// A hub's server with its minter and its bootstrap, which run all the time.
struct Hub {
    server: NatsServer,
    operator: Bus,
    authority: Arc<Authority>,
    bootstrap: Bootstrap,
    roll: watch::Sender<Option<Arc<Roll>>>,
    _minting: AbortOnDropHandle<()>,
}

impl Hub {
    async fn start() -> Self {
        let server = NatsServer::start_bare(&[]).await;
        let (operator, authority) = (server.operator().await, server.authority());
        let (members, server_name) = (Members::Sites, "hub".to_owned());
        let settings = Settings {
            authority: authority.clone(),
            members,
            services: BTreeSet::new(),
            life: None,
            server: server_name,
        };
        let (roll, rolls) = watch::channel(Some(Arc::default()));
        let (minter, bus) = (Minter::new(settings, rolls), server.connect(&bus::User::Minter).await);
        let minting = async move { minter.run(bus, CancellationToken::new()).await.unwrap() };
        let readers = authority.clone();
        let bootstrap = Bootstrap::new(server.connect(&bus::User::Bootstrap).await, bootstrap::of_the_hub())
            .with_readers(Arc::new(move || Ok(readers.readers()?)));
        let _minting = AbortOnDropHandle::new(tokio::spawn(minting));
        Self { server, operator, authority, bootstrap, roll, _minting }
    }

    /// What `edgewright reader` does, and the next look of minter and bootstrap.
    async fn add(&self, name: &ReaderName) -> String {
        let (seed, key) = generate();
        let jwt = self.authority.reader(name, &Members::Sites.template(), &key, jwt::now()).unwrap();
        self.look().await;
        credentials_file(&jwt, &seed)
    }

    async fn look(&self) {
        self.roll.send_replace(Some(Arc::default()));
        self.bootstrap.keep().await.unwrap();
    }

    async fn connect(&self, credentials: &str) -> (async_nats::Client, Arc<Mutex<String>>) {
        let refused = Arc::new(Mutex::new(String::new()));
        let client = wait_for("the third party to be let in", async || {
            let notes = refused.clone();
            let options = ConnectOptions::with_credentials(credentials).unwrap();
            let options = options.request_timeout(Some(Duration::from_secs(2))).event_callback(move |event| {
                if let async_nats::Event::ServerError(error) = event {
                    *notes.lock().unwrap() += &format!("{error}\n").to_lowercase();
                }
                std::future::ready(())
            });
            options.connect(self.server.url()).await
        })
        .await;
        (client, refused)
    }

    async fn messages(&self, stream: &str) -> u64 {
        self.operator.jetstream().get_stream(stream).await.unwrap().cached_info().state.messages
    }
}

async fn consumer(client: &async_nats::Client, stream: &str, name: &str) -> Result<PullConsumer, String> {
    let stream = jetstream::new(client.clone()).get_stream_no_info(stream).await.map_err(|error| error.to_string())?;
    stream.get_consumer(name).await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_third_party_reads_by_its_consumers_and_opens_nothing_else() {
    let hub = Hub::start().await;
    let [erp, mes]: [ReaderName; 2] = ["erp", "mes"].map(|name| name.parse().unwrap());
    let credentials = hub.add(&erp).await;
    hub.add(&mes).await;
    for body in ["one", "two", "three"] {
        let sent = hub.operator.jetstream().publish("event.plant.node.press", body.into()).await.unwrap();
        sent.await.unwrap();
    }
    let (client, refused) = hub.connect(&credentials).await;
    // What it imports may be in force a moment after it was let in.
    let mine = wait_for("its consumer", async || consumer(&client, streams::EVENTS, "reader-erp").await).await;
    let mut messages = mine.messages().await.unwrap().take(3);
    while let Some(message) = messages.next().await {
        let message = message.unwrap();
        assert_eq!(message.subject.as_str(), "event.plant.node.press");
        message.double_ack().await.unwrap();
    }
    let stream = hub.operator.jetstream().get_stream(streams::EVENTS).await.unwrap();
    assert_eq!(stream.consumer_info("reader-erp").await.unwrap().ack_floor.stream_sequence, 3);
    assert_eq!(stream.consumer_info("reader-mes").await.unwrap().ack_floor.stream_sequence, 0);

    // Answers that it sends elsewhere stay in its account: the first has a body, the second has none.
    hub.operator.jetstream().publish("event.plant.node.press", "four".into()).await.unwrap().await.unwrap();
    let next = "$JS.API.CONSUMER.MSG.NEXT.EVENTS.reader-erp";
    for body in ["1", "{"] {
        for reply in ["git.write.deployment-registry.fleet", "$JS.API.STREAM.DELETE.EVENTS", "state.plant.health"] {
            client.publish_with_reply(next, reply, body.into()).await.unwrap();
        }
    }
    wait_for("the first of them to be answered", async || {
        let delivered = stream.consumer_info("reader-erp").await.unwrap().delivered.stream_sequence;
        if delivered == 4 { Ok(()) } else { Err(delivered) }
    })
    .await;
    // Nothing of the platform, and nothing of another third party.
    let foreign = [
        "$JS.API.CONSUMER.MSG.NEXT.EVENTS.reader-mes",
        "$JS.API.CONSUMER.MSG.NEXT.EVENTS.status-collector",
        "$JS.ACK.EVENTS.reader-mes.1.1.1.1.0",
        "$JS.API.CONSUMER.DELETE.EVENTS.reader-erp",
        "$JS.API.CONSUMER.CREATE.EVENTS.reader-erp",
        "$JS.API.STREAM.DELETE.EVENTS",
        "$JS.API.DIRECT.GET.STATE.state.plant.health",
        "$JS.API.INFO",
        "state.plant.health",
        "git.write.deployment-registry.fleet",
        "svc.deployment-registry.create",
        "site.plant.report",
        "$SYS.REQ.SERVER.PING",
    ];
    for subject in foreign {
        client.publish(subject, "{}".into()).await.unwrap();
    }
    let unheard =
        [">", "state.>", "event.>", "desired.>", "git.>", "svc.>", "site.>", "_INBOX_svc.>", "$JS.>", "$SYS.>"];
    for subject in unheard {
        client.subscribe(subject).await.unwrap();
    }
    client.publish("nobody.may", "".into()).await.unwrap();
    client.flush().await.unwrap();
    wait_for("the server to refuse all", async || {
        let refused = refused.lock().unwrap().clone();
        if refused.contains("\"nobody.may\"") { Ok(()) } else { Err(refused) }
    })
    .await;
    let words = refused.lock().unwrap().clone();
    for subject in foreign {
        assert!(words.contains(&format!("publish to \"{}\"", subject.to_lowercase())), "{subject}: {words}");
    }
    for subject in unheard {
        assert!(words.contains(&format!("subscription to \"{}\"", subject.to_lowercase())), "{subject}: {words}");
    }
    assert_eq!(hub.messages(streams::EVENTS).await, 4);
    assert_eq!((hub.messages(streams::GIT_WRITES).await, hub.messages(streams::STATE).await), (0, 0));

    // Without its key at the hub it has nothing any more, and the other one has what it had.
    std::fs::remove_file(hub.server.folder().join("authority/readers/erp.seed")).unwrap();
    hub.look().await;
    wait_for("the third party to be cut off", async || match consumer(&client, streams::EVENTS, "reader-erp").await {
        Err(_) => Ok(()),
        Ok(_) => Err("it has its consumer"),
    })
    .await;
    let credentials = hub.add(&mes).await;
    let (client, _) = hub.connect(&credentials).await;
    wait_for("the other one to read", async || consumer(&client, streams::STATE, "reader-mes").await).await;
}
