//! What a member sends too much, too long or too often, on connections that speak the protocol by hand, because the client of our
//! services would not send it.

use std::time::Duration;

use bus::{Front, Jwt, Login, Pattern, Rules, ServiceName, Shares, SiteVerb, Tier, User};
use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use crate::{
    stage::Stage,
    users::{other, press},
};

/// A connection of a member that says what it likes.
struct Bare(BufReader<TcpStream>);

impl Bare {
    async fn connect(login: &Login) -> Self {
        let Jwt::Text(jwt) = &login.jwt else { panic!("the JWT stands in a file") };
        let mut stream = BufReader::new(TcpStream::connect(login.url.strip_prefix("nats://").unwrap()).await.unwrap());
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        let info: Value = serde_json::from_str(line.strip_prefix("INFO ").unwrap()).unwrap();
        let key = KeyPair::from_seed(&login.seed).unwrap();
        let signature = BASE64URL_NOPAD.encode(&key.sign(info["nonce"].as_str().unwrap().as_bytes()).unwrap());
        let connect = json!({
            "name": login.user.to_string(), "jwt": jwt, "sig": signature, "verbose": false, "pedantic": false, "protocol": 1, "headers": true,
        });
        let mut bare = Self(stream);
        bare.say(format!("CONNECT {connect}\r\nPING\r\n").as_bytes()).await;
        bare.said_until("PONG").await;
        bare
    }

    async fn say(&mut self, text: &[u8]) {
        // The server may have ended the connection; what it said before that is still there to be read.
        let _ = self.0.write_all(text).await;
    }

    /// Everything that the server says until a line that begins so, or until it ends the connection.
    async fn said_until(&mut self, begin: &str) -> Vec<String> {
        let mut said = Vec::new();
        let mut line = Vec::new();
        while self.0.read_until(b'\n', &mut line).await.is_ok_and(|length| length > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            let is_last = text.starts_with(begin);
            said.push(text);
            if is_last {
                break;
            }
        }
        said
    }
}

fn plant() -> User {
    User::Site(press().client)
}

/// Each of these ends the connection of the member that sent it, arrives nowhere, and nobody else notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_breaks_the_protocol_or_is_too_long_arrives_nowhere_and_ends_one_connection() {
    let mut stage = Stage::set(Tier::Hub).await;
    let good = stage.hostile(&User::Site(other().client)).await;
    let mebibytes = |count: usize| "x".repeat(count << 20);
    let headers = |count: usize| {
        let lines: String = (0..count).map(|number| format!("Flood-{number}: {}\r\n", "x".repeat(1_000))).collect();
        format!("NATS/1.0\r\n{lines}\r\n")
    };
    let with_headers =
        |subject: &str, headers: String| format!("HPUB {subject} {} {}\r\n{headers}\r\n", headers.len(), headers.len());
    let attacks = [
        ("a message of two mebibytes", format!("PUB site.plant.store {}\r\n{}\r\n", 2 << 20, mebibytes(2))),
        (
            "a message of a mebibyte and one byte",
            format!("PUB site.plant.store {}\r\n{}x\r\n", (1 << 20) + 1, mebibytes(1)),
        ),
        ("headers of more than a mebibyte", with_headers("site.plant.store", headers(1_100))),
        ("headers longer than the message", "HPUB site.plant.store 100 10\r\nNATS/1.0\r\n\r\n".to_owned()),
        ("a subject of 8 KiB", format!("PUB site.plant.{} 0\r\n\r\n", "x".repeat(8_192))),
        ("a subject of 8,000 tokens", format!("PUB site.plant{} 0\r\n\r\n", ".x".repeat(8_000))),
        ("a reply subject of 8 KiB", format!("PUB site.plant.store _INBOX_site.plant.{} 0\r\n\r\n", "x".repeat(8_192))),
        ("a subscription of 8 KiB", format!("SUB changed.plant.{} 1\r\n", "x".repeat(8_192))),
        ("a negative length", "PUB site.plant.store -1\r\n\r\n".to_owned()),
        ("a length that overflows", "PUB site.plant.store 99999999999999999999\r\n\r\n".to_owned()),
        ("a message of a route", "RMSG A desired.other.head 0\r\n\r\n".to_owned()),
        ("a message of a leaf", "LMSG desired.other.head 0\r\n\r\n".to_owned()),
        ("a message of the server", "MSG desired.other.head 1 0\r\n\r\n".to_owned()),
        ("no word of the protocol", "STEAL desired.other.head\r\n".to_owned()),
    ];
    for (name, attack) in attacks {
        let mut hostile = Bare::connect(&stage.server.login(&plant())).await;
        hostile.say(attack.as_bytes()).await;
        // It never comes to this.
        hostile.say(b"PUB site.plant.store 5\r\nafter\r\n").await;
        let ended = tokio::time::timeout(Duration::from_secs(60), hostile.said_until("never")).await;
        ended.unwrap_or_else(|_| panic!("{name}: the connection goes on"));
        let heard = stage.fence(&User::Site(other().client), &good).await;
        assert!(heard.is_empty(), "{name}: {heard:?}");
    }
}

/// What a member may publish once is not more because it says so in another way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subject_with_a_wildcard_or_another_alphabet_is_nobody_else_s() {
    let mut stage = Stage::set(Tier::Hub).await;
    let good = stage.hostile(&User::Site(other().client)).await;
    let subjects = [
        "site.*.store",
        "site.>",
        "*.other.store",
        ">",
        "site..store",
        ".site.plant.store",
        "site.other",
        "site.plantx.store",
        "SITE.plant.store",
        "site.PLANT.store",
        "site.pl\u{430}nt.store",
        "site.other.store\0.site.plant.store",
    ];
    for subject in subjects {
        let mut hostile = Bare::connect(&stage.server.login(&plant())).await;
        hostile
            .say(format!("PUB {subject} 0\r\n\r\nSUB {subject} 1\r\nSUB {subject} workers 2\r\nPING\r\n").as_bytes())
            .await;
        hostile.said_until("PONG").await;
        let heard = stage.fence(&User::Site(other().client), &good).await;
        assert!(heard.is_empty(), "{subject:?}: {heard:?}");
        hostile.say(b"PING\r\n").await;
        let said = hostile.said_until("PONG").await;
        assert!(!said.iter().any(|line| line.starts_with("MSG") || line.starts_with("HMSG")), "{subject:?}: {said:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_has_sixteen_subscriptions_however_many_it_asks_for() {
    let mut stage = Stage::set(Tier::Hub).await;
    let mut hostile = Bare::connect(&stage.server.login(&plant())).await;
    for number in 0..200 {
        hostile.say(format!("SUB changed.plant.node.n{number} {number}\r\n").as_bytes()).await;
    }
    hostile.say(b"PING\r\n").await;
    let said = hostile.said_until("PONG").await;
    assert!(
        said.iter().any(|line| line.to_lowercase().contains("maximum subscriptions exceeded")),
        "{:?}",
        &said[said.len() - 3..]
    );
    let sent: Vec<_> = (0..200).map(|number| format!("changed.plant.node.n{number}")).collect();
    stage.send(&sent).await;
    hostile.say(b"PING\r\n").await;
    let said = hostile.said_until("PONG").await;
    assert_eq!(said.iter().filter(|line| line.starts_with("MSG")).count(), 16, "{said:?}");
}

/// A member that asks for much and reads nothing: the server ends its connection, and until then others are answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_does_not_read_is_cut_off_and_holds_up_nobody() {
    let stage = Stage::set(Tier::Hub).await;
    let front = Front::connect(&stage.server.login(&User::Front(ServiceName::AppRegistry)), |_| {}).await.unwrap();
    // As much as the widest of the real ones.
    let rules = Rules { longest: 64 << 10, shares: Shares { each: 2, bytes: 16 << 20 }, answered: true };
    let mut asks = front.asks(Pattern::Sites(SiteVerb::Store), rules).await.unwrap();
    front.reachable().await;
    let answers = tokio::spawn(async move {
        let body = bytes::Bytes::from(vec![b'x'; 1 << 20]);
        while let Some(ask) = asks.next().await {
            ask.answer(body.clone()).await;
        }
    });
    let mut hostile = Bare::connect(&stage.server.login(&plant())).await;
    hostile.say(b"SUB _INBOX_site.plant.> 1\r\n").await;
    let mut good = Bare::connect(&stage.server.login(&User::Site(other().client))).await;
    good.say(b"SUB _INBOX_site.other.> 1\r\n").await;
    // The server gives up a client that takes nothing after 10 seconds, or when 64 MiB wait for it.
    let mut answered = 0;
    loop {
        hostile.say(&b"PUB site.plant.store _INBOX_site.plant.a 0\r\n\r\n".repeat(4)).await;
        good.say(b"PUB site.other.store _INBOX_site.other.a 0\r\n\r\n").await;
        good.said_until("MSG").await;
        let mut body = vec![0; (1 << 20) + 2];
        good.0.read_exact(&mut body).await.unwrap();
        answered += 1;
        if !stage.is_connected("site plant").await {
            break;
        }
    }
    assert!(answered > 4, "{answered}");
    answers.abort();
}
