//! The minter of sites on a real server: who gets a login, who is cut off, and that nobody else notices.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use bus::{Bus, Jwt, Login, Members, Pattern, ServiceName, Subject, User, streams};
use data_encoding::BASE64URL_NOPAD;
use identity::{
    Authority, jwt,
    nats::{generate, public_key},
};
use margo::{TenantName, UserNkey};
use minter::{CONNECTIONS_PER_KEY, Minter, Roll, Settings};
use nkeys::KeyPair;
use renewal::Renewal;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{NatsServer, connect, wait_for};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

fn site(name: &str) -> User {
    User::Site(name.parse().unwrap())
}

/// A hub's server with one service, and its minter.
struct World {
    server: NatsServer,
    gateway: Bus,
    roll: watch::Sender<Option<Arc<Roll>>>,
    life: Option<Duration>,
    address: std::net::SocketAddr,
    minter: Option<(Arc<Minter>, CancellationToken, JoinSet<()>)>,
    folder: TempDir,
}

impl World {
    async fn start(life: Option<Duration>) -> Self {
        let server = NatsServer::start(&[User::Central(ServiceName::ApiGateway)]).await;
        let gateway = server.connect_central(ServiceName::ApiGateway).await;
        let (roll, _) = watch::channel(Some(Arc::default()));
        let (address, folder) = ((server.address(), 8083).into(), TempDir::new().unwrap());
        let mut world = Self { server, gateway, roll, life, address, minter: None, folder };
        world.mint().await;
        world
    }

    /// Starts the minter with the keys that the server's folder holds.
    async fn mint(&mut self) {
        let settings = Settings {
            authority: self.server.authority(),
            members: Members::Sites,
            services: BTreeSet::from([
                public_key(&self.server.login(&User::Central(ServiceName::ApiGateway)).seed).unwrap()
            ]),
            life: self.life,
            server: "test".to_owned(),
        };
        let minter = Minter::new(settings, self.roll.subscribe());
        let listener = TcpListener::bind(self.address).await.unwrap();
        let bus = Bus::connect(&self.server.login(&User::Minter)).await.unwrap();
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let (serving, ending) = (minter.router(), stop.clone());
        tasks.spawn(async move { service::http::serve(listener, None, serving, ending).await.unwrap() });
        let (running, ending) = (minter.clone(), stop.clone());
        tasks.spawn(async move { running.run(bus, ending).await.unwrap() });
        self.minter = Some((minter, stop, tasks));
    }

    async fn stop_minting(&mut self) {
        let (_, stop, tasks) = self.minter.take().unwrap();
        stop.cancel();
        tasks.join_all().await;
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn change(&self, change: impl FnOnce(&mut Roll)) {
        self.roll.send_modify(|roll| change(Arc::make_mut(roll.get_or_insert_default())));
    }

    /// Makes a key for a site, and has the roll say so.
    fn add(&self, name: &str) -> (String, UserNkey) {
        let (seed, key) = generate();
        self.change(|roll| drop(roll.members.insert(key.clone(), site(name))));
        (seed, key)
    }

    fn revoke(&self, key: &UserNkey) {
        self.change(|roll| {
            roll.members.remove(key);
            roll.revoked.insert(key.clone());
        });
    }

    /// The JWT, or the status of the answer. It is 0 when the listener has no place for the connection.
    async fn jwt(&self, key: &str) -> Result<String, u16> {
        let Ok(answer) = reqwest::get(format!("{}/v1/jwt/{key}", self.url())).await else { return Err(0) };
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        if status == 200 { Ok(text) } else { Err(status) }
    }

    /// The JWT of a member. While something that was revoked is not in force yet, nobody is given one.
    async fn minted(&self, key: &UserNkey) -> String {
        wait_for("a JWT to be given", async || self.jwt(key.as_str()).await).await
    }

    fn login(&self, name: &str, seed: &str, jwt: String) -> Login {
        Login { url: self.server.url(), tls: None, seed: seed.to_owned(), jwt: Jwt::Text(jwt), user: site(name) }
    }

    /// A site that is connected with a JWT of the minter.
    async fn join(&self, name: &str) -> (Bus, Login, UserNkey) {
        let (seed, key) = self.add(name);
        let login = self.login(name, &seed, self.minted(&key).await);
        (connect(&login).await, login, key)
    }

    /// A site that keeps its JWT by itself.
    async fn living(&self, name: &str) -> (Bus, CancellationToken, PathBuf) {
        let (seed, _) = self.add(name);
        let file = self.folder.path().join(name);
        let login = Login { jwt: Jwt::File(file.clone()), ..self.login(name, &seed, String::new()) };
        let bus = Bus::connect(&login).await.unwrap();
        let stop = CancellationToken::new();
        let renewal = Renewal::new(&login, &self.url(), None).unwrap().unwrap();
        tokio::spawn(renewal.run(bus.clone(), stop.clone()));
        bus.connected().await;
        (bus, stop, file)
    }

    /// Waits until the server has the account that the file of accounts holds.
    async fn settled(&self) {
        let sys = self.server.connect(&User::Minter).await;
        wait_for("the server to have the newest account", async || {
            let subject = format!("$SYS.REQ.ACCOUNT.{}.CLAIMS.LOOKUP", self.server.authority().account());
            let answer = sys.client().request(subject, "".into()).await.map_err(|error| error.to_string())?;
            let wanted = std::fs::read_to_string(self.server.folder().join("accounts.conf")).unwrap();
            let held = String::from_utf8(answer.payload.to_vec()).unwrap();
            let revoked = self.roll.borrow().as_ref().unwrap().revoked.clone();
            let has = |jwt: &str| {
                let claims = jwt::read(jwt).unwrap();
                let has: BTreeSet<_> = claims.nats["revocations"].as_object().unwrap().keys().cloned().collect();
                has == revoked.iter().map(|key| key.as_str().to_owned()).collect()
            };
            if wanted.contains(&held) && has(&held) { Ok(()) } else { Err(held) }
        })
        .await;
    }
}

/// Waits until the server has turned this user away again.
async fn is_refused(bus: &Bus) {
    let before = *bus.refusals().borrow();
    wait_for("the server to turn a user away", async || {
        let refusals = *bus.refusals().borrow();
        if refusals > before && !bus.is_connected() { Ok(()) } else { Err((refusals, bus.is_connected())) }
    })
    .await;
}

/// A second connection of a member, with nothing that it remembers of the first.
async fn stays_out(login: &Login) {
    is_refused(&Bus::connect(login).await.unwrap()).await;
}

#[tokio::test]
async fn a_site_joins_and_nobody_notices() {
    let world = World::start(None).await;
    let (first, _, _) = world.join("first").await;
    let (seed, key) = generate();
    assert_eq!(world.jwt(key.as_str()).await, Err(404));
    let account = std::fs::read(world.server.folder().join("accounts.conf")).unwrap();
    world.change(|roll| drop(roll.members.insert(key.clone(), site("second"))));
    let jwt = world.jwt(key.as_str()).await.unwrap();
    // The JWT is of no use to whoever has another seed.
    stays_out(&world.login("second", &generate().0, jwt.clone())).await;
    let second = connect(&world.login("second", &seed, jwt)).await;

    for bus in [&world.gateway, &first, &second] {
        assert_eq!(*bus.connections().borrow(), 1);
    }
    assert_eq!(std::fs::read(world.server.folder().join("accounts.conf")).unwrap(), account);
}

/// The same JWT with other claims, signed by this key.
fn forged(jwt: &str, signer: &KeyPair, change: impl FnOnce(&mut Value)) -> String {
    let parts: Vec<_> = jwt.split('.').collect();
    let mut claims: Value = serde_json::from_slice(&BASE64URL_NOPAD.decode(parts[1].as_bytes()).unwrap()).unwrap();
    change(&mut claims);
    let text = format!("{}.{}", parts[0], BASE64URL_NOPAD.encode(claims.to_string().as_bytes()));
    let signature = BASE64URL_NOPAD.encode(&signer.sign(text.as_bytes()).unwrap());
    format!("{text}.{signature}")
}

#[tokio::test]
async fn a_name_cannot_be_forged() {
    let world = World::start(None).await;
    let (bus, login, key) = world.join("plant").await;
    let Jwt::Text(jwt) = &login.jwt else { unreachable!() };
    let (own, account) = (KeyPair::from_seed(&login.seed).unwrap(), KeyPair::new_account());
    let parts: Vec<_> = jwt.split('.').collect();
    let body = forged(jwt, &own, |claims| claims["name"] = "other".into());
    let body = body.split('.').nth(1).unwrap();
    let forgeries = [
        // Another name under the old signature, and signed by a key of the thief's own.
        format!("{}.{body}.{}", parts[0], parts[2]),
        forged(jwt, &own, |claims| claims["name"] = "*".into()),
        forged(jwt, &own, |claims| claims["iss"] = own.public_key().into()),
        forged(jwt, &account, |claims| claims["iss"] = account.public_key().into()),
        forged(jwt, &account, |claims| {
            claims["iss"] = account.public_key().into();
            claims["nats"]["issuer_account"] = account.public_key().into();
        }),
        // No signature at all.
        format!("{}.{}.", BASE64URL_NOPAD.encode(br#"{"typ":"JWT","alg":"none"}"#), parts[1]),
    ];
    for forgery in forgeries {
        stays_out(&world.login("other", &login.seed, forgery)).await;
    }
    // The right name at another server.
    let elsewhere = NatsServer::start(&[]).await;
    stays_out(&Login { url: elsewhere.url(), ..login.clone() }).await;
    // And nobody is asked for a name: it follows from the key.
    assert_eq!(jwt::read_user(&world.jwt(key.as_str()).await.unwrap(), &key).unwrap().name, "plant");
    assert!(bus.is_connected() && *bus.connections().borrow() == 1);
}

#[tokio::test]
async fn only_keys_in_force_are_minted_for_and_not_too_often() {
    let world = World::start(None).await;
    let (_, key) = world.add("plant");
    let service = public_key(&world.server.login(&User::Central(ServiceName::ApiGateway)).seed).unwrap();
    let former = generate().1;
    world.change(|roll| {
        // Whatever the roll says of a service's key, it is no site's; a revoked one is nobody's.
        roll.members.insert(service.clone(), site("gateway"));
        roll.revoked.extend([service.clone(), former.clone()]);
        roll.members.insert(former.clone(), site("former"));
    });
    let unknown = generate().1;
    for wrong in [unknown.as_str(), service.as_str(), former.as_str(), "x", "UAAA", "..", "%00", &"U".repeat(4_000)] {
        assert_eq!(world.jwt(wrong).await, Err(404), "{wrong}");
    }
    world.settled_without(&service).await;
    let claims = jwt::read_user(&world.minted(&key).await, &key).unwrap();
    assert_eq!((claims.name.as_str(), claims.exp), ("plant", None));
    assert!(world.gateway.is_connected() && *world.gateway.connections().borrow() == 1);

    let client = reqwest::Client::new();
    let url = format!("{}/v1/jwt/{unknown}", world.url());
    let (mut asked, mut turned_away) = (0, false);
    while !turned_away {
        let answers = futures::future::join_all((0..200).map(|_| client.get(&url).send())).await;
        asked += answers.len();
        turned_away = answers.into_iter().any(|answer| answer.unwrap().status() == 429);
        assert!(asked < 20_000, "{asked} requests were served");
    }
    assert!(asked > 1_000, "{asked}");
    world.roll.send_replace(None);
    wait_for("the minter to say that it does not know yet", async || match world.jwt(key.as_str()).await {
        Err(503) => Ok(()),
        other => Err(other),
    })
    .await;
}

impl World {
    /// Waits until the server has the newest account, and sees that this key is not revoked in it.
    async fn settled_without(&self, key: &UserNkey) {
        self.change(|roll| assert!(roll.revoked.remove(key)));
        self.settled().await;
        self.change(|roll| assert!(roll.revoked.insert(key.clone())));
    }
}

#[tokio::test]
async fn a_revoked_key_is_cut_off_at_once_and_others_are_not_disturbed() {
    let world = World::start(None).await;
    let (thief, login, key) = world.join("thief").await;
    let (other, _, _) = world.join("other").await;
    let begin = Instant::now();
    world.revoke(&key);
    is_refused(&thief).await;
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    stays_out(&login).await;
    for bus in [&world.gateway, &other] {
        assert!(bus.is_connected() && *bus.connections().borrow() == 1);
    }
}

#[tokio::test]
async fn nobody_is_minted_for_before_the_former_keys_are_refused() {
    let mut world = World::start(None).await;
    let (old, _, old_key) = world.join("plant").await;
    // The server is away, so nothing can be put in force there.
    world.server.kill().await;
    world.revoke(&old_key);
    let (seed, new_key) = world.add("plant");
    assert_eq!(world.jwt(new_key.as_str()).await, Err(503));
    assert_eq!(world.jwt(old_key.as_str()).await, Err(404));
    world.server.restart().await;
    let jwt = world.minted(&new_key).await;
    let sys = world.server.connect(&User::Minter).await;
    let subject = format!("$SYS.REQ.ACCOUNT.{}.CLAIMS.LOOKUP", world.server.authority().account());
    let held = sys.client().request(subject, "".into()).await.unwrap().payload;
    let claims = jwt::read(std::str::from_utf8(&held).unwrap()).unwrap();
    assert!(claims.nats["revocations"].as_object().unwrap().contains_key(old_key.as_str()), "{claims:?}");
    connect(&world.login("plant", &seed, jwt)).await;
    is_refused(&old).await;
}

#[tokio::test]
async fn a_connection_of_a_revoked_key_is_ended_wherever_it_comes_from() {
    let world = World::start(None).await;
    let (thief, login, key) = world.join("thief").await;
    world.settled().await;
    let account = world.server.authority().account().to_owned();
    let before = std::fs::read(world.server.folder().join(format!("jwt/{account}.jwt"))).unwrap();
    world.revoke(&key);
    is_refused(&thief).await;
    world.settled().await;
    // The server lets the key in once more, as it does when it checks a login while it is told of the revocation.
    let sys = world.server.connect(&User::Minter).await;
    sys.client().request("$SYS.REQ.CLAIMS.UPDATE", before.into()).await.unwrap();
    let again = Bus::connect(&login).await.unwrap();
    wait_for("the connection to be ended, more than once", async || {
        let times = *again.connections().borrow();
        if times > 2 { Ok(()) } else { Err(times) }
    })
    .await;
}

#[tokio::test]
async fn a_revoked_key_stays_out_over_a_restart_a_restored_account_and_a_fast_clock() {
    let mut world = World::start(None).await;
    let (_, login, key) = world.join("thief").await;
    world.settled().await;
    let accounts = world.server.folder().join("accounts.conf");
    let account = world.server.authority().account().to_owned();
    let stored = world.server.folder().join(format!("jwt/{account}.jwt"));
    let (old_accounts, old_stored) = (std::fs::read(&accounts).unwrap(), std::fs::read(&stored).unwrap());
    // Minted by a clock that is a century ahead, before the key was revoked.
    let century = 100 * 365 * 24 * 60 * 60;
    let early = site("thief").mint(&world.server.authority(), &key, jwt::now() + century, None);
    let fast = Login { jwt: Jwt::Text(early), ..login.clone() };
    let probe = connect(&fast).await;
    world.revoke(&key);
    is_refused(&probe).await;
    stays_out(&login).await;
    stays_out(&fast).await;

    // Nobody but the server itself remembers.
    world.settled().await;
    world.stop_minting().await;
    world.server.kill().await;
    world.server.restart().await;
    stays_out(&login).await;

    // The server's own copy is an old one from a backup: the newer file of accounts counts.
    world.server.kill().await;
    std::fs::write(&stored, &old_stored).unwrap();
    world.server.restart().await;
    stays_out(&fast).await;

    // Both are: the minter puts it right.
    world.server.kill().await;
    std::fs::write(&stored, &old_stored).unwrap();
    std::fs::write(&accounts, &old_accounts).unwrap();
    world.server.restart().await;
    let back = connect(&login).await;
    world.mint().await;
    is_refused(&back).await;
    stays_out(&fast).await;

    // Somebody pushes the old account to the running server.
    let sys = world.server.connect(&User::Minter).await;
    let push = async |jwt: Vec<u8>| {
        let answer = sys.client().request("$SYS.REQ.CLAIMS.UPDATE", jwt.into()).await.unwrap();
        assert!(String::from_utf8_lossy(&answer.payload).contains("jwt updated"), "{answer:?}");
    };
    push(old_stored).await;
    world.stop_minting().await;
    world.mint().await;
    world.settled().await;
    stays_out(&login).await;
}

#[tokio::test]
async fn an_account_of_a_stranger_and_one_of_a_fast_clock_are_replaced() {
    let mut world = World::start(None).await;
    let (bus, _, key) = world.join("plant").await;
    world.settled().await;
    world.stop_minting().await;
    // The same account, signed by another operator: the server takes it, and would lock everybody out at its next start.
    let folder = TempDir::new().unwrap();
    let keys = folder.path().join("keys");
    let accounts = folder.path().join("accounts.conf");
    Authority::keep(&keys, &accounts, &TenantName::default()).unwrap();
    let account = world.server.authority().account().to_owned();
    std::fs::write(keys.join("account.pub"), &account).unwrap();
    let stranger = Authority::open(&keys, &accounts, &TenantName::default()).unwrap();
    let ahead = jwt::now() + 1_000_000;
    let forged = stranger.keep_account(&Members::Sites.template(), None, Some(ahead), jwt::now()).unwrap();
    let sys = world.server.connect(&User::Minter).await;
    sys.client().request("$SYS.REQ.CLAIMS.UPDATE", forged.text.clone().into()).await.unwrap();
    world.mint().await;
    world.settled().await;
    world.revoke(&key);
    is_refused(&bus).await;
    world.settled().await;
    world.server.kill().await;
    world.server.restart().await;
    world.gateway.connected().await;
    let newest = std::fs::read_to_string(world.server.folder().join("accounts.conf")).unwrap();
    let newest = newest.lines().find_map(|line| line.strip_prefix(&format!("{account}: "))).unwrap();
    assert!(jwt::read(newest).unwrap().iat > ahead);
}

#[tokio::test]
async fn the_fourth_connection_with_one_key_is_ended() {
    let world = World::start(None).await;
    let (first, login, key) = world.join("plant").await;
    let (neighbour, _, _) = world.join("other").await;
    let (second, third) = (connect(&login).await, connect(&login).await);
    // The client connects again and again, so the end of its connections is what counts.
    let fourth = Bus::connect(&login).await.unwrap();
    wait_for("the fourth connection to be ended, more than once", async || {
        let times = *fourth.connections().borrow();
        if times > 2 { Ok(()) } else { Err(times) }
    })
    .await;
    for bus in [&first, &second, &third, &neighbour, &world.gateway] {
        assert!(bus.is_connected() && *bus.connections().borrow() == 1);
    }
    // A place that becomes free is given.
    drop(third);
    let mut before = 0;
    wait_for("the fourth to keep its place from one look to the next", async || {
        let now = *fourth.connections().borrow();
        let keeps = before == now && fourth.is_connected();
        before = now;
        if keeps { Ok(()) } else { Err(now) }
    })
    .await;
    let logins = world.minter.as_ref().unwrap().0.logins();
    let known: BTreeMap<_, _> =
        logins.borrow().newest().map(|(key, login)| (key.clone(), login.name.clone())).collect();
    assert_eq!(known[&key], "plant");
    assert_eq!(CONNECTIONS_PER_KEY, 3);
}

/// A connection that is not made again when it ends, as the client would.
async fn bare_connection(login: &Login) -> TcpStream {
    let Jwt::Text(jwt) = &login.jwt else { unreachable!() };
    let mut stream = BufReader::new(TcpStream::connect(login.url.strip_prefix("nats://").unwrap()).await.unwrap());
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    let info: Value = serde_json::from_str(line.strip_prefix("INFO ").unwrap()).unwrap();
    let signature = KeyPair::from_seed(&login.seed).unwrap().sign(info["nonce"].as_str().unwrap().as_bytes()).unwrap();
    let signature = BASE64URL_NOPAD.encode(&signature);
    let connect = json!({"jwt": jwt, "sig": signature, "verbose": false, "pedantic": false, "protocol": 1});
    stream.write_all(format!("CONNECT {connect}\r\nPING\r\n").as_bytes()).await.unwrap();
    line.clear();
    stream.read_line(&mut line).await.unwrap();
    assert_eq!(line, "PONG\r\n");
    stream.into_inner()
}

#[tokio::test]
async fn three_hundred_connections_with_one_key_are_ended_also_if_they_were_there_first() {
    let mut world = World::start(None).await;
    let (seed, key) = world.add("plant");
    let login = world.login("plant", &seed, world.jwt(key.as_str()).await.unwrap());
    world.stop_minting().await;
    let mut ends = JoinSet::new();
    for _ in 0..300 {
        let mut stream = bare_connection(&login).await;
        ends.spawn(async move {
            // The server may still say something before it ends the connection.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        });
    }
    world.mint().await;
    for _ in CONNECTIONS_PER_KEY..300 {
        tokio::time::timeout(Duration::from_secs(60), ends.join_next()).await.unwrap().unwrap().unwrap();
    }
    assert!(ends.try_join_next().is_none(), "three may stay");
    assert!(world.gateway.is_connected() && *world.gateway.connections().borrow() == 1);
}

#[tokio::test]
async fn a_login_of_seconds_is_renewed_under_load() {
    let world = World::start(Some(Duration::from_secs(3))).await;
    let (bus, stop, file) = world.living("plant").await;
    let first = jwt::read(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let before = *bus.refusals().borrow();
    let (mut published, mut failed) = (0u64, 0u64);
    wait_for("three lives to be over", async || {
        let subject = Subject::Site("plant".parse().unwrap(), bus::SiteVerb::Desired);
        for _ in 0..20 {
            match bus.signal(&subject, "".into()).await {
                Ok(()) => published += 1,
                Err(_) => failed += 1,
            }
        }
        let newest = jwt::read(&std::fs::read_to_string(&file).unwrap()).unwrap();
        if newest.iat >= first.iat + 9 { Ok(()) } else { Err((newest, *bus.refusals().borrow())) }
    })
    .await;
    assert!(published > 100 && failed == 0, "{published} {failed}");
    assert!(*bus.connections().borrow() >= 2, "the server ends a connection with its JWT");
    assert_eq!(*bus.refusals().borrow(), before, "it was renewed in time");
    stop.cancel();
}

#[tokio::test]
async fn a_site_that_slept_past_the_end_of_its_login_comes_back_by_itself() {
    let mut world = World::start(Some(Duration::from_secs(2))).await;
    let (bus, stop, file) = world.living("plant").await;
    let url = world.url();
    world.stop_minting().await;
    // Nobody renews, and the JWT ends.
    is_refused(&bus).await;
    assert_eq!(world.url(), url);
    world.mint().await;
    wait_for("the site to be let in again", async || if bus.is_connected() { Ok(()) } else { Err("out") }).await;
    stop.cancel();

    // The same for one that was switched off all the time.
    let expired = jwt::read(&std::fs::read_to_string(&file).unwrap()).unwrap().exp.unwrap();
    wait_for("the JWT to end", async || if jwt::now() > expired { Ok(()) } else { Err(jwt::now()) }).await;
    world.living("plant").await.1.cancel();
}

#[tokio::test]
async fn a_new_signing_key_needs_no_visit() {
    let mut world = World::start(None).await;
    let (bus, stop, file) = world.living("plant").await;
    let before = jwt::read(&std::fs::read_to_string(&file).unwrap()).unwrap().iss;
    world.stop_minting().await;
    world.server.replace_key("members.seed");
    world.mint().await;
    wait_for("the site to have a JWT of the new key and to be connected by it", async || {
        let newest = jwt::read(&std::fs::read_to_string(&file).unwrap()).unwrap();
        let is_new = newest.iss == world.server.authority().members() && newest.iss != before;
        if is_new && bus.is_connected() && *bus.connections().borrow() > 1 { Ok(()) } else { Err(newest.iss) }
    })
    .await;
    // The service's connection has another key.
    assert_eq!(*world.gateway.connections().borrow(), 1);
    stop.cancel();
}

#[tokio::test]
async fn users_who_come_together_at_a_new_server_lose_no_stream() {
    for _ in 0..30 {
        let server = NatsServer::start_bare(&[]).await;
        let [first, second] = [(); 2].map(|()| {
            let login = server.login(&User::Bootstrap);
            tokio::spawn(async move { connect(&login).await })
        });
        let made = first.await.unwrap().jetstream().create_stream(streams::state_at_hub()).await;
        made.expect("the first user's stream is made while the second one comes");
        let (second, desired) = (second.await.unwrap(), streams::desired(Pattern::Desired));
        second.jetstream().create_stream(desired).await.expect("and so is the second one's");
        second.jetstream().get_stream(streams::STATE).await.expect("and the first one's is still there");
    }
}

/// Waits until a member that was cut off is let in and stays.
async fn is_let_in_again(bus: &Bus) {
    let mut since = (0, Instant::now());
    wait_for("the member to be let in again", async || {
        let made = *bus.connections().borrow();
        if made != since.0 || !bus.is_connected() {
            since = (made, Instant::now());
        }
        if since.1.elapsed() > Duration::from_secs(2) { Ok(()) } else { Err(made) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_floods_the_server_is_cut_off_for_a_while_and_nobody_else() {
    let world = World::start(None).await;
    let (quiet, _, _) = world.join("quiet").await;
    let (loud, login, _) = world.join("loud").await;
    let report = "site.loud.report";
    let body = bytes::Bytes::from(vec![0; 900 << 10]);
    // As fast as the server takes them, on one connection that is made again and again.
    wait_for("the flooder to be cut off", async || {
        for _ in 0..20 {
            loud.client().publish(report, body.clone()).await.unwrap();
        }
        match *loud.connections().borrow() {
            made if made > 1 => Ok(()),
            made => Err(made),
        }
    })
    .await;
    is_let_in_again(&loud).await;

    // On many connections, none of which is there when somebody looks.
    let before = *loud.connections().borrow();
    wait_for("who comes and goes to be cut off", async || {
        let fleeting = Bus::connect(&login).await.unwrap();
        let sending = async {
            fleeting.connected().await;
            for _ in 0..10 {
                fleeting.client().publish(report, body.clone()).await.unwrap();
            }
            let _ = fleeting.client().flush().await;
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), sending).await;
        match *loud.connections().borrow() {
            made if made > before => Ok(()),
            made => Err(made),
        }
    })
    .await;
    assert_eq!((*quiet.connections().borrow(), quiet.is_connected()), (1, true));
    is_let_in_again(&loud).await;
}
