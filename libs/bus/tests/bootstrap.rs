//! The hub's streams and consumers on a real server: who makes them, and who cannot.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use std::sync::{Arc, Mutex};

use async_nats::jetstream::{
    consumer::{AckPolicy, PullConsumer, push},
    stream::{Config, Source},
};
use bus::{
    Bootstrap, Bus, Content, Known, OwnStream, Pattern, ServiceName, Tier, User,
    bootstrap::{self, Renewal, Wanted},
    streams,
};
use testkit::{NatsServer, credentials, wait_for};

async fn bootstrap(server: &NatsServer) -> Bootstrap {
    Bootstrap::new(server.connect(&User::Bootstrap).await, bootstrap::of_the_hub())
}

/// What the server has of the hub's streams and consumers. Equal texts mean that nothing was changed in between.
async fn held(operator: &Bus) -> String {
    let mut held = String::new();
    for Wanted { stream, consumers } in bootstrap::of_the_hub() {
        let found = operator.jetstream().get_stream(&stream.name).await.unwrap();
        // As JSON, in which the order of a map is always the same.
        let config = serde_json::to_value(&found.cached_info().config).unwrap();
        held += &format!("{config} {:?}\n", found.cached_info().created);
        for consumer in consumers {
            let info = found.consumer_info(consumer.durable_name.unwrap()).await.unwrap();
            let config = serde_json::to_value(&info.config).unwrap();
            held += &format!("  {config} {:?}\n", info.created);
        }
    }
    held
}

#[tokio::test]
async fn what_is_missing_is_made_and_what_is_there_is_left_alone() {
    let server = NatsServer::start_bare(&[]).await;
    let (bootstrap, operator) = (bootstrap(&server).await, server.operator().await);
    bootstrap.keep().await.unwrap();
    let made = held(&operator).await;
    assert_eq!(made.matches("edgewright.stream-id").count(), 5, "{made}");
    bootstrap.keep().await.unwrap();
    assert_eq!(held(&operator).await, made);

    // One that is killed and its next life may both be at work.
    let other = Bootstrap::new(server.connect(&User::Bootstrap).await, bootstrap::of_the_hub());
    for wanted in bootstrap::of_the_hub() {
        operator.jetstream().delete_stream(&wanted.stream.name).await.unwrap();
    }
    let (one, two) = tokio::join!(bootstrap.keep(), other.keep());
    one.unwrap();
    two.unwrap();
    let again = held(&operator).await;
    assert_ne!(again, made);
    bootstrap.keep().await.unwrap();
    assert_eq!(held(&operator).await, again);
}

#[tokio::test]
async fn a_stream_of_an_older_version_gets_today_s_limits_and_keeps_its_content() {
    let server = NatsServer::start_bare(&[]).await;
    let (bootstrap, operator) = (bootstrap(&server).await, server.operator().await);
    let old = Config { max_bytes: -1, ..streams::events_at_hub() };
    let old = operator.jetstream().create_stream(old).await.unwrap().cached_info().config.clone();
    operator.client().publish("event.plant.node.press", "one".into()).await.unwrap();
    operator.client().flush().await.unwrap();
    bootstrap.keep().await.unwrap();
    let now = operator.jetstream().get_stream(streams::EVENTS).await.unwrap().cached_info().clone();
    assert_eq!(now.config.max_bytes, streams::events_at_hub().max_bytes);
    assert_eq!(streams::id(&now.config), streams::id(&old));
    assert_eq!(now.state.messages, 1);
}

#[tokio::test]
async fn what_somebody_has_put_into_a_stream_s_form_does_not_stay() {
    let server = NatsServer::start_bare(&[]).await;
    let (bootstrap, operator) = (bootstrap(&server).await, server.operator().await);
    bootstrap.keep().await.unwrap();
    let jetstream = operator.jetstream();
    let before = held(&operator).await;
    // A service that was taken over before an update could do this.
    let evil = Source { name: streams::EVENTS.to_owned(), ..Source::default() };
    let found = jetstream.get_stream(streams::GIT_WRITES).await.unwrap().cached_info().config.clone();
    jetstream.update_stream(Config { sources: Some(vec![evil]), ..found }).await.unwrap();
    let name = ServiceName::NodeCapabilities.to_string();
    jetstream.delete_consumer_from_stream(&name, streams::STATE).await.unwrap();
    let pushes = push::Config {
        durable_name: Some(name.clone()),
        deliver_subject: "git.committed.fleet".to_owned(),
        ..push::Config::default()
    };
    jetstream.create_consumer_on_stream(pushes, streams::STATE).await.unwrap();
    bootstrap.keep().await.unwrap();
    let consumer: PullConsumer = jetstream.get_consumer_from_stream(name, streams::STATE).await.unwrap();
    assert_eq!(consumer.cached_info().config.ack_policy, AckPolicy::Explicit);
    let after = held(&operator).await;
    let without_times = |text: &str| text.lines().filter(|line| !line.starts_with("  ")).collect::<String>();
    assert_eq!(without_times(&after), without_times(&before));
}

#[tokio::test]
async fn nobody_takes_anything_out_of_a_stream_that_others_rely_on() {
    let server = NatsServer::start_bare(&[]).await;
    let (bootstrap, operator) = (bootstrap(&server).await, server.operator().await);
    bootstrap.keep().await.unwrap();
    for subject in ["desired.plant.head", "state.plant.health", "event.plant.node.press"] {
        operator.client().publish(subject, "one".into()).await.unwrap();
    }
    operator.client().flush().await.unwrap();
    for name in [streams::DESIRED, streams::STATE, streams::EVENTS] {
        let stream = operator.jetstream().get_stream(name).await.unwrap();
        stream.purge().await.unwrap_err();
        stream.delete_message(1).await.unwrap_err();
        assert_eq!(operator.jetstream().get_stream(name).await.unwrap().cached_info().state.messages, 1);
    }
}

#[tokio::test]
async fn one_stream_that_cannot_be_had_keeps_no_other_waiting() {
    let server = NatsServer::start_bare(&[]).await;
    let (bootstrap, operator) = (bootstrap(&server).await, server.operator().await);
    // The subjects of EVENTS are taken.
    let taken = Config { name: "MINE".to_owned(), subjects: vec![Pattern::Events.to_string()], ..Config::default() };
    operator.jetstream().create_stream(taken).await.unwrap();
    let error = format!("{:#}", bootstrap.keep().await.unwrap_err());
    assert!(error.contains("making the stream EVENTS"), "{error}");
    for name in [streams::STATE, streams::DESIRED, streams::GIT_WRITES, streams::DEAD_LETTERS] {
        operator.jetstream().get_stream(name).await.unwrap();
    }
}

#[tokio::test]
async fn a_writer_has_its_stream_made_and_renewed_by_asking() {
    let collector = User::Central(ServiceName::StatusCollector);
    let server = NatsServer::start(std::slice::from_ref(&collector)).await;
    let (collector, operator) = (server.connect(&collector).await, server.operator().await);
    let mut state = OwnStream::new(collector.clone(), streams::STATE, Known::default());
    assert_eq!(state.look().await.unwrap(), Content::Void);
    let before = state.known().clone();

    operator.jetstream().delete_stream(streams::STATE).await.unwrap();
    state.distrust();
    assert_eq!(state.look().await.unwrap(), Content::Void);
    assert_ne!(state.known().id, before.id);

    let behind = Known { sequence: 7, ..state.known().clone() };
    let mut state = OwnStream::new(collector.clone(), streams::STATE, behind.clone());
    assert_eq!(state.look().await.unwrap(), Content::Void);
    let renewed = state.known().clone();
    assert!(renewed.id != behind.id && renewed.sequence == 0, "{renewed:?}");

    // Asked for again, as after a lost answer, it stays.
    let bootstrap = Bootstrap::new(server.connect(&User::Bootstrap).await, bootstrap::of_the_hub());
    let again = Renewal { stream: streams::STATE.to_owned(), id: behind.id };
    assert_eq!(bootstrap.renew_for(again).await.unwrap(), renewed.id);
    let unknown = Renewal { stream: "MINE".to_owned(), id: String::new() };
    assert_eq!(bootstrap.renew_for(unknown).await.unwrap_err().status, 404);
}

/// Which of these subjects the server lets a user publish. It answers in order: once it has refused a subject that nobody may
/// use, it has said everything about those before.
async fn allowed(server: &NatsServer, user: &User, subjects: &[String]) -> Vec<String> {
    let refused = Arc::new(Mutex::new(String::new()));
    let notes = refused.clone();
    let client = async_nats::ConnectOptions::with_credentials(&credentials(&server.login(user)))
        .unwrap()
        .event_callback(move |event| {
            if let async_nats::Event::ServerError(error) = event {
                *notes.lock().unwrap() += &format!("{error}\n").to_lowercase();
            }
            std::future::ready(())
        })
        .connect(server.url())
        .await
        .unwrap();
    // The client drops what the server refuses when there is too much of it at once.
    for (number, subjects) in subjects.chunks(64).enumerate() {
        let probe = format!("nobody.may.{number}");
        for subject in subjects.iter().chain([&probe]) {
            // No JSON, so whatever may be asked does nothing.
            client.publish(subject.clone(), "{".into()).await.unwrap();
        }
        client.flush().await.unwrap();
        wait_for("the server to refuse the probe", async || {
            let refused = refused.lock().unwrap().clone();
            if refused.contains(&format!("\"{probe}\"")) { Ok(()) } else { Err(refused) }
        })
        .await;
    }
    let refused = refused.lock().unwrap();
    let is_allowed = |subject: &&String| !refused.contains(&format!("\"{}\"", subject.to_lowercase()));
    subjects.iter().filter(is_allowed).cloned().collect()
}

/// Everything that JetStream's interface has for streams and consumers, for every stream and every consumer that a service
/// may be tempted by.
fn interface() -> Vec<String> {
    let mut subjects: Vec<String> =
        ["$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.ACCOUNT.PURGE.A"]
            .map(str::to_owned)
            .into();
    let names = bootstrap::of_the_hub().into_iter().map(|wanted| wanted.stream.name).chain(["OTHER".to_owned()]);
    for stream in names {
        for api in [
            "CREATE",
            "UPDATE",
            "DELETE",
            "PURGE",
            "INFO",
            "SNAPSHOT",
            "RESTORE",
            "MSG.GET",
            "MSG.DELETE",
            "PEER.REMOVE",
            "LEADER.STEPDOWN",
        ] {
            subjects.push(format!("$JS.API.STREAM.{api}.{stream}"));
        }
        subjects.push(format!("$JS.API.DIRECT.GET.{stream}"));
        subjects.push(format!("$JS.API.DIRECT.GET.{stream}.state.plant.health"));
        for api in ["CREATE", "NAMES", "LIST"] {
            subjects.push(format!("$JS.API.CONSUMER.{api}.{stream}"));
        }
        for consumer in ServiceName::at(Tier::Hub).map(ServiceName::as_str).chain(["other"]) {
            for api in
                ["CREATE", "DURABLE.CREATE", "DELETE", "INFO", "MSG.NEXT", "PAUSE", "UNPIN", "RESET", "LEADER.STEPDOWN"]
            {
                subjects.push(format!("$JS.API.CONSUMER.{api}.{stream}.{consumer}"));
            }
            subjects.push(format!("$JS.API.CONSUMER.CREATE.{stream}.{consumer}.state.>"));
            subjects.push(format!("$JS.ACK.{stream}.{consumer}.1.1.1.1.0"));
            subjects.push(format!("$JS.FC.{stream}.{consumer}.a"));
        }
    }
    subjects
}

/// What each service may use of it, written by hand: the table is not its own judge.
fn expected(service: ServiceName) -> Vec<&'static str> {
    match service {
        ServiceName::GitWriter => vec![
            "$JS.API.STREAM.PURGE.GIT_WRITES",
            "$JS.API.STREAM.INFO.GIT_WRITES",
            "$JS.API.CONSUMER.INFO.GIT_WRITES.git-writer",
            "$JS.API.CONSUMER.MSG.NEXT.GIT_WRITES.git-writer",
            "$JS.API.CONSUMER.RESET.GIT_WRITES.git-writer",
        ],
        ServiceName::GitObserver => {
            vec!["$JS.API.STREAM.INFO.DESIRED", "$JS.API.DIRECT.GET.DESIRED.state.plant.health"]
        }
        ServiceName::StatusCollector => vec![
            "$JS.API.STREAM.INFO.STATE",
            "$JS.API.STREAM.MSG.GET.STATE",
            "$JS.API.DIRECT.GET.STATE.state.plant.health",
            "$JS.API.CONSUMER.INFO.STATE.status-collector",
            "$JS.API.CONSUMER.MSG.NEXT.STATE.status-collector",
            "$JS.API.CONSUMER.RESET.STATE.status-collector",
            "$JS.ACK.STATE.status-collector.1.1.1.1.0",
            "$JS.API.STREAM.INFO.EVENTS",
            "$JS.API.STREAM.MSG.GET.EVENTS",
            "$JS.API.CONSUMER.INFO.EVENTS.status-collector",
            "$JS.API.CONSUMER.MSG.NEXT.EVENTS.status-collector",
            "$JS.API.CONSUMER.RESET.EVENTS.status-collector",
            "$JS.ACK.EVENTS.status-collector.1.1.1.1.0",
            "$JS.API.STREAM.INFO.DEAD_LETTERS",
        ],
        ServiceName::NodeCapabilities => vec![
            "$JS.API.CONSUMER.INFO.STATE.node-capabilities",
            "$JS.API.CONSUMER.MSG.NEXT.STATE.node-capabilities",
            "$JS.ACK.STATE.node-capabilities.1.1.1.1.0",
        ],
        ServiceName::AppRegistry
        | ServiceName::DeploymentRegistry
        | ServiceName::ApiGateway
        | ServiceName::Identity
        | ServiceName::LocalOrchestrator
        | ServiceName::OciFetcher => vec![],
    }
}

#[tokio::test]
async fn a_service_uses_what_has_its_name_and_makes_nothing() {
    let services: Vec<_> = ServiceName::at(Tier::Hub).collect();
    let users: Vec<_> = services.iter().copied().map(User::Central).collect();
    let server = NatsServer::start(&users).await;
    let interface = interface();
    assert!(interface.len() > 500, "only {} subjects", interface.len());
    for service in services {
        let mut found = allowed(&server, &User::Central(service), &interface).await;
        let mut wanted = expected(service);
        found.sort();
        wanted.sort();
        assert_eq!(found, wanted, "{service}");
        if service.has_front() {
            let server_with_front = NatsServer::start_bare(&[User::Front(service)]).await;
            let found = allowed(&server_with_front, &User::Front(service), &interface).await;
            assert_eq!(found, Vec::<String>::new(), "the front of {service}");
        }
    }
}

#[tokio::test]
async fn the_bootstrap_makes_the_hub_s_streams_and_says_nothing_else() {
    let server = NatsServer::start_bare(&[]).await;
    let found = allowed(&server, &User::Bootstrap, &interface()).await;
    let is_its_own = |subject: &String| {
        let makes = ["STREAM.CREATE", "STREAM.UPDATE", "STREAM.DELETE", "STREAM.INFO"];
        let consumers = ["CONSUMER.CREATE", "CONSUMER.INFO", "CONSUMER.DELETE"];
        let begins = |api: &&str| subject.starts_with(&format!("$JS.API.{api}."));
        makes.iter().chain(&consumers).any(begins) && !subject.contains("OTHER")
    };
    assert!(found.iter().all(is_its_own), "{found:?}");
    let others = [
        "_INBOX_svc.git-writer.a",
        "_INBOX_site.plant.a",
        "svc.git-writer.handled",
        "git.write.app-registry.fleet",
        "git.committed.fleet",
        "state.plant.health",
        "event.plant.node.press",
        "desired.plant.head",
        "changed.plant.head",
        "$SYS.REQ.CLAIMS.UPDATE",
    ];
    assert_eq!(allowed(&server, &User::Bootstrap, &others.map(str::to_owned)).await, Vec::<String>::new());
}
