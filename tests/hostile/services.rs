//! What the key of one service is worth at its server. The services of a server believe each other's answers, but none changes a
//! stream that another looks after, or takes what waits there for somebody else.

use async_nats::jetstream::stream::Config;
use bus::{Bus, Jwt, ServiceName, Tier, User, streams};
use bytes::Bytes;
use end_to_end::Platform;
use futures::TryStreamExt;
use serde_json::json;

use crate::world::{Listener, hostile, order, plant, platform};

/// A stream, and who may do something with it.
struct Rights {
    stream: &'static str,
    /// Who sets the stream up and may change it. At the hub that is the bootstrap, and no service.
    keeper: Option<&'static str>,
    /// Who may take everything out.
    purger: Option<&'static str>,
}

const fn at_hub(stream: &'static str) -> Rights {
    Rights { stream, keeper: None, purger: None }
}

const fn at_site(stream: &'static str) -> Rights {
    Rights { stream, keeper: Some("local-orchestrator"), purger: None }
}

const AT_HUB: [Rights; 5] = [
    at_hub(streams::DESIRED),
    at_hub(streams::STATE),
    at_hub(streams::EVENTS),
    Rights { purger: Some("git-writer"), ..at_hub(streams::GIT_WRITES) },
    at_hub(streams::DEAD_LETTERS),
];

const AT_SITE: [Rights; 3] = [at_site(streams::DESIRED), at_site(streams::STATE), at_site(streams::EVENTS)];

/// What a stream is: when it was made and its configuration, and its durable consumers.
#[derive(Debug, PartialEq, Eq)]
struct Set {
    config: String,
    consumers: Vec<String>,
}

async fn set(listener: &Listener, name: &str) -> Set {
    let stream = listener.bus.jetstream().get_stream_no_info(name).await.unwrap();
    let consumers: Vec<_> = stream.consumers().try_collect().await.unwrap();
    let mut consumers: Vec<_> = consumers.into_iter().filter_map(|consumer| consumer.config.durable_name).collect();
    consumers.sort();
    Set { config: listener.stream(name).await.0, consumers }
}

/// Requests by which this service would change this stream or what others have there, were it allowed.
fn changes(of: &Rights, set: &Set, service: &str) -> Vec<(String, Bytes)> {
    let stream = of.stream;
    let config = json!({
        "name": stream, "subjects": ["call.>"], "retention": "limits", "storage": "file", "num_replicas": 1, "max_msgs": 1,
        "republish": {"src": ">", "dest": "changed.>"},
    });
    let elsewhere = json!({"name": stream, "subjects": ["call.>"], "sources": [{"name": streams::GIT_WRITES}]});
    let mut all = vec![
        (format!("STREAM.UPDATE.{stream}"), config.to_string()),
        (format!("STREAM.CREATE.{stream}"), elsewhere.to_string()),
        (format!("STREAM.MSG.DELETE.{stream}"), json!({"seq": 1}).to_string()),
        (format!("STREAM.SNAPSHOT.{stream}"), json!({"deliver_subject": "call.>"}).to_string()),
        (format!("STREAM.DELETE.{stream}"), String::new()),
    ];
    if of.purger != Some(service) {
        all.push((format!("STREAM.PURGE.{stream}"), String::new()));
    }
    let thief = json!({"stream_name": stream, "config": {"durable_name": "thief", "ack_policy": "explicit"}});
    all.push((format!("CONSUMER.CREATE.{stream}.thief"), thief.to_string()));
    all.push((format!("CONSUMER.DURABLE.CREATE.{stream}.thief"), thief.to_string()));
    for consumer in &set.consumers {
        if consumer != service {
            all.push((format!("CONSUMER.MSG.NEXT.{stream}.{consumer}"), String::new()));
            all.push((format!("CONSUMER.RESET.{stream}.{consumer}"), String::new()));
        }
        let pause = json!({"pause_until": "2100-01-01T00:00:00Z"});
        all.push((format!("CONSUMER.PAUSE.{stream}.{consumer}"), pause.to_string()));
        all.push((format!("CONSUMER.DELETE.{stream}.{consumer}"), String::new()));
    }
    all.into_iter().map(|(api, body)| (format!("$JS.API.{api}"), body.into())).collect()
}

/// The connection of a service with the seed and the JWT that it has on its disk.
async fn with_key_of(platform: &Platform, owner: &str, user: User) -> Bus {
    let folder = if owner == "hub" { platform.hub() } else { platform.site(owner) };
    let file = |ending: &str| folder.join(format!("keys/nats/{user}.{ending}"));
    let seed = std::fs::read_to_string(file("seed")).unwrap().trim().to_owned();
    hostile(&platform.login(owner, user.clone(), seed, Jwt::File(file("jwt")))).await
}

/// Everything at the hub or the site `owner` that these services may not do with streams, tried with their keys.
async fn attack(platform: &Platform, owner: &str, rights: &[Rights], users: impl Iterator<Item = User>) {
    let mut listener = Listener::at(platform, owner).await;
    let mut before = Vec::new();
    for of in rights {
        before.push(set(&listener, of.stream).await);
    }
    for user in users {
        let bus = with_key_of(platform, owner, user.clone()).await;
        let inbox = format!("{}.hostile", user.inbox_prefix());
        let name = user.to_string();
        let config = Config { name: "HOSTILE".to_owned(), subjects: vec!["call.>".to_owned()], ..Config::default() };
        let mut attacks = vec![("$JS.API.STREAM.CREATE.HOSTILE".to_owned(), json_of(&config))];
        for (of, set) in rights.iter().zip(&before).filter(|(of, _)| of.keeper != Some(&name)) {
            attacks.extend(changes(of, set, &name));
        }
        assert!(attacks.len() > 10 || rights.iter().all(|of| of.keeper == Some(&name)), "{name}: {attacks:?}");
        for (subject, body) in attacks {
            bus.client().publish_with_reply(subject, inbox.clone(), body).await.unwrap();
        }
        let mut heard = listener.heard_of(&bus, &format!("{}.fence", user.inbox_prefix())).await;
        for (of, before) in rights.iter().zip(&before) {
            assert_eq!(set(&listener, of.stream).await, *before, "{} after the attack of {name}", of.stream);
        }
        assert!(listener.bus.jetstream().get_stream("HOSTILE").await.is_err(), "{name} made a stream");
        // The server answers whatever it takes, and it has answered these before it said what the streams are.
        heard.extend(listener.heard().await);
        let answered: Vec<_> = heard.iter().filter(|message| message.subject.as_str() == inbox).collect();
        assert!(answered.is_empty(), "{name} was answered: {answered:?}");
    }
}

fn json_of(config: &Config) -> Bytes {
    serde_json::to_vec(config).unwrap().into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_of_a_service_changes_no_stream_that_another_looks_after() {
    let platform = platform().await;
    let fronts = ServiceName::at(Tier::Hub).filter(|service| service.has_front()).map(User::Front);
    attack(&platform, "hub", &AT_HUB, ServiceName::at(Tier::Hub).map(User::Central).chain(fronts)).await;
    let of_site = [User::LocalOrchestrator(plant()), User::LocalFront(plant()), User::OciFetcher(plant())];
    attack(&platform, "plant", &AT_SITE, of_site.into_iter()).await;
    order(&platform, "plants", "oven", "after-the-services").await;
}
