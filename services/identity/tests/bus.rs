//! The whole service on a real NATS server and a real repository: who may log in follows from Git alone.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{collections::BTreeSet, net::SocketAddr, sync::Mutex, time::Duration};

use api::{KeyAsked, KeyInForce, NodeState, Problem, SiteLogin};
use bus::{Bus, Jwt, Login, ServiceName, Subject, User};
use git_state::{
    Draft, FileChange, Message, Repository, Series, Writer,
    layout::{self, ClientFile},
};
use identity::{SigningKey, jwt, nats::generate};
use identity_service::Config;
use jiff::Timestamp;
use margo::{Identity, KeySet, RepositoryName, TenantName, UserNkey};
use renewal::Renewal;
use tempfile::TempDir;
use testkit::{NatsServer, Running, ada, connect, wait_for};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const LIFE: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// The hub, its repository and whoever writes it; the service is the real one.
struct World {
    server: NatsServer,
    folder: TempDir,
    writer: Mutex<Writer>,
    fleet: Repository,
    git_writer: Bus,
    address: SocketAddr,
    running: Option<Running>,
}

impl World {
    async fn start() -> Self {
        let services =
            [ServiceName::Identity, ServiceName::GitWriter, ServiceName::ApiGateway, ServiceName::AppRegistry]
                .map(User::Central);
        let server = NatsServer::start_bare(&services).await;
        let folder = TempDir::new().unwrap();
        let key = SigningKey::generate("git-writer").unwrap();
        let keys = KeySet { tenant: TenantName::default(), number: 1, keys: vec![key.public().to_string()] };
        let mut writer = Writer::new(folder.path(), &TenantName::default(), &keys, key).unwrap();
        let fleet = writer.open_or_create(&RepositoryName::Fleet).unwrap();
        let git_writer = server.connect_central(ServiceName::GitWriter).await;
        let (writer, address) = (Mutex::new(writer), (server.address(), 8083).into());
        let mut world = Self { server, folder, writer, fleet, git_writer, address, running: None };
        world.run().await;
        world
    }

    async fn run(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        let login = self.server.login(&User::Central(ServiceName::Identity));
        let running = Running::start(ServiceName::Identity, login, |base, shutdown| {
            let config = Config {
                base,
                minter: self.server.login(&User::Minter),
                bootstrap: self.server.login(&User::Bootstrap),
                authority: self.server.authority(),
                services: BTreeSet::new(),
                repositories: self.folder.path().to_owned(),
                listen: self.address,
                tls: None,
                life: LIFE,
            };
            identity_service::run_on(listener, config, shutdown)
        });
        running.ready().await;
        self.running = Some(running);
    }

    async fn stop(&mut self) {
        self.running.take().unwrap().stop().await;
    }

    /// Commits the file of a client, without a word to anybody.
    fn commit(&self, path: String, content: Vec<u8>) {
        let change = FileChange { path: path.try_into().unwrap(), content: Some(content) };
        let message = Message::new("test").with("Handled", "node-capabilities=1");
        let draft = Draft { author: "ada", message: &message, changes: &[change], at: Timestamp::now() };
        let mut writer = self.writer.lock().unwrap();
        let mut series = Series::on(&self.fleet, self.fleet.tip().unwrap());
        writer.write(&mut series, draft).unwrap();
        writer.advance(vec![series]).remove(0).unwrap();
    }

    /// Commits it, and tells.
    async fn order(&self, client: &ClientFile) {
        self.commit(layout::client(&client.name), margo::to_yaml(client));
        self.git_writer.signal(&Subject::GitCommittedFleet, "".into()).await.unwrap();
    }

    async fn jwt(&self, key: &UserNkey) -> Result<String, u16> {
        let answer = reqwest::get(format!("http://{}/v1/jwt/{key}", self.address)).await.unwrap();
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        if status == 200 { Ok(text) } else { Err(status) }
    }

    async fn admitted(&self, key: &UserNkey) -> String {
        wait_for("a JWT for a key", async || self.jwt(key).await).await
    }

    async fn unknown(&self, key: &UserNkey) {
        wait_for("no JWT for a key", async || match self.jwt(key).await {
            Err(404) => Ok(()),
            other => Err(other),
        })
        .await;
    }

    fn login(&self, seed: &str, jwt: &str) -> Login {
        let user = User::Site("plant".parse().unwrap());
        Login { url: self.server.url(), tls: None, seed: seed.to_owned(), jwt: Jwt::Text(jwt.to_owned()), user }
    }
}

fn client(key: &UserNkey) -> ClientFile {
    let identity = Some(Identity::Nkey(key.clone()));
    ClientFile { name: "plant".parse().unwrap(), identity, state: NodeState::Active, former_keys: vec![] }
}

async fn is_refused(bus: &Bus) {
    wait_for("a site to be turned away", async || {
        let refusals = *bus.refusals().borrow();
        if refusals > 0 && !bus.is_connected() { Ok(()) } else { Err(refusals) }
    })
    .await;
}

#[tokio::test]
async fn a_site_logs_in_from_its_commit_to_its_retirement() {
    let mut world = World::start().await;
    let (seed, key) = generate();
    assert_eq!(world.jwt(&key).await, Err(404));
    world.order(&client(&key)).await;
    let jwt = world.admitted(&key).await;
    let claims = jwt::read_user(&jwt, &key).unwrap();
    assert_eq!((claims.name.as_str(), claims.life()), ("plant", Some(LIFE)));
    let site = connect(&world.login(&seed, &jwt)).await;

    let gateway = world.server.connect_central(ServiceName::ApiGateway).await;
    let operator = world.server.operator().await;
    let expires = Timestamp::from_second(claims.exp.unwrap() as i64).unwrap().to_string();
    let wanted = SiteLogin { client: "plant".to_owned(), key: key.clone(), expires: Some(expires) };
    wait_for("what expires to be shown", async || {
        let subject = Subject::service(ServiceName::Identity, "logins");
        let shown: Vec<SiteLogin> = operator.call(&subject, &(), Some(&ada())).await.map_err(|it| it.to_string())?;
        if shown == [wanted.clone()] { Ok(()) } else { Err(format!("{shown:?}")) }
    })
    .await;

    world.order(&ClientFile { state: NodeState::Leaving, ..client(&key) }).await;
    world.order(&ClientFile { state: NodeState::Retired, ..client(&key) }).await;
    is_refused(&site).await;
    world.unknown(&key).await;
    assert_eq!(*gateway.connections().borrow(), 1);
    world.stop().await;
}

#[tokio::test]
async fn what_was_committed_while_the_service_was_away_is_in_force_at_its_next_start() {
    let mut world = World::start().await;
    let [(seed, old), (_, new)] = [generate(), generate()];
    world.order(&client(&old)).await;
    let site = connect(&world.login(&seed, &world.admitted(&old).await)).await;
    world.stop().await;
    let renewed = ClientFile { former_keys: vec![Identity::Nkey(old.clone())], ..client(&new) };
    world.commit(layout::client(&renewed.name), margo::to_yaml(&renewed));
    world.run().await;
    is_refused(&site).await;
    world.unknown(&old).await;
    world.admitted(&new).await;
    world.stop().await;
}

#[tokio::test]
async fn a_file_that_is_not_valid_brings_nobody_back() {
    let mut world = World::start().await;
    let [(seed, retired), (_, other)] = [generate(), generate()];
    world.order(&client(&retired)).await;
    let login = world.login(&seed, &world.admitted(&retired).await);
    let site = connect(&login).await;
    world.order(&ClientFile { state: NodeState::Retired, ..client(&retired) }).await;
    is_refused(&site).await;
    // Somebody spoils the file, and adds another client: the service waits for a person.
    world.commit(layout::client(&"plant".parse().unwrap()), b"name: plant\n".to_vec());
    let port = ClientFile { name: "port".parse().unwrap(), ..client(&other) };
    world.order(&port).await;
    let running = world.running.as_ref().unwrap();
    wait_for("the service to say so", async || if running.is_ready() { Err("ready") } else { Ok(()) }).await;
    assert_eq!(world.jwt(&other).await, Err(404));
    is_refused(&Bus::connect(&login).await.unwrap()).await;
    world.order(&ClientFile { state: NodeState::Retired, ..client(&retired) }).await;
    world.admitted(&other).await;
    world.stop().await;
}

#[tokio::test]
async fn a_site_needs_the_service_only_to_renew() {
    let mut world = World::start().await;
    let (seed, key) = generate();
    world.order(&client(&key)).await;
    world.admitted(&key).await;
    let file = world.folder.path().join("hub.jwt");
    let login = Login { jwt: Jwt::File(file), ..world.login(&seed, "") };
    let site = Bus::connect(&login).await.unwrap();
    let stop = CancellationToken::new();
    let renewal = Renewal::new(&login, &format!("http://{}", world.address), None).unwrap().unwrap();
    let task = tokio::spawn(renewal.run(site.clone(), stop.clone()));
    site.connected().await;
    world.stop().await;
    world.server.kill().await;
    world.server.restart().await;
    wait_for("the site to be back", async || {
        if site.is_connected() && *site.connections().borrow() > 1 { Ok(()) } else { Err("out") }
    })
    .await;
    stop.cancel();
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_made_for_a_new_key_is_not_made_while_the_old_one_is_still_let_in() {
    let mut world = World::start().await;
    let [(seed, old), (_, new)] = [generate(), generate()];
    let gateway = world.server.connect_central(ServiceName::AppRegistry).await;
    let told = async || {
        let body = KeyAsked { name: "plant".to_owned() };
        let subject = Subject::service(ServiceName::Identity, "key");
        let answer: Result<KeyInForce, Problem> = gateway.call(&subject, &body, None).await;
        answer.map(|answer| answer.key).map_err(|problem| problem.status)
    };
    world.order(&client(&old)).await;
    let thief = connect(&world.login(&seed, &world.admitted(&old).await)).await;
    assert_eq!(told().await, Ok(Some(old.clone())));
    // The disk is in the way: no account can be issued, so the server cannot be told of the old key.
    let accounts = world.server.folder().join("accounts.conf");
    let aside = world.folder.path().join("accounts.conf");
    std::fs::rename(&accounts, &aside).unwrap();
    std::fs::create_dir(&accounts).unwrap();
    world.order(&ClientFile { former_keys: vec![Identity::Nkey(old.clone())], ..client(&new) }).await;
    wait_for("the new key to wait", async || match world.jwt(&new).await {
        Err(503) => Ok(()),
        other => Err(other),
    })
    .await;
    assert!(thief.is_connected());
    assert_eq!((world.jwt(&old).await, told().await), (Err(404), Err(503)));

    std::fs::remove_dir(&accounts).unwrap();
    std::fs::rename(&aside, &accounts).unwrap();
    is_refused(&thief).await;
    world.admitted(&new).await;
    assert_eq!(told().await, Ok(Some(new)));
    world.stop().await;
}
