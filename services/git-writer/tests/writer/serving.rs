//! The repositories over HTTPS, read by stock git and by raw requests, with real repositories and a real NATS server.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex},
};

use api::{KeyAsked, KeyInForce, Problem, RepositoryAccess, RepositoryAccessAsked, TokenAsked, TokenHeld};
use bus::{Bus, Call, ServiceEndpoints, ServiceName, Subject, User};
use identity::{
    nats::generate,
    tls::{Peer, Trust},
};
use margo::{Digest, UserNkey};
use tempfile::TempDir;
use testkit::{Certificates, NatsServer, Running, loopback, wait_for};
use tokio::task::spawn_blocking;

use crate::stage::Stage;

/// A token of the REST interface.
const ADA: &str = "ew_0000000000000000000000000000000000000000000000000000000000000000";

/// The sizes of a document in the repository of `plant`, far beyond what a connection takes that nobody reads from.
const LARGE: usize = 24 << 20;

/// git-writer with two clients, and those whom it asks.
struct World {
    stage: Stage,
    address: SocketAddr,
    keys: Arc<Mutex<BTreeMap<String, UserNkey>>>,
    gateway: Bus,
    _server: NatsServer,
    _running: Running,
    _endpoints: [ServiceEndpoints<()>; 2],
}

impl World {
    async fn start() -> Self {
        Self::start_on(TempDir::new().unwrap()).await
    }

    /// Starts with the repositories that are in this folder.
    async fn start_on(folder: TempDir) -> Self {
        let services = [ServiceName::GitWriter, ServiceName::Identity, ServiceName::ApiGateway];
        let server = NatsServer::start(&services.map(User::Central)).await;
        let keys: Arc<Mutex<BTreeMap<String, UserNkey>>> = Arc::default();
        for client in ["plant", "depot"] {
            keys.lock().unwrap().insert(client.to_owned(), generate().1);
        }
        let identity = server.connect_central(ServiceName::Identity).await;
        let mut minter = identity.register(ServiceName::Identity, Arc::new(())).await.unwrap();
        let held = keys.clone();
        let key = move |_, call: Call<KeyAsked>| {
            let key = held.lock().unwrap().get(&call.body.name).cloned();
            std::future::ready(Ok::<_, Problem>(KeyInForce { key }))
        };
        minter.verb("key", key).await.unwrap();
        let gateway = server.connect_central(ServiceName::ApiGateway).await;
        let mut people = gateway.register(ServiceName::ApiGateway, Arc::new(())).await.unwrap();
        let token = |_, call: Call<TokenAsked>| {
            let name = (call.body.digest == Digest::of(ADA.as_bytes())).then(|| "ada".to_owned());
            std::future::ready(Ok::<_, Problem>(TokenHeld { name }))
        };
        people.verb("token", token).await.unwrap();

        let stage = Stage::on(folder);
        let address = SocketAddr::from((loopback(), 8084));
        let certificates = Certificates::default();
        fs::write(stage.path("root.pem"), certificates.root()).unwrap();
        let tls = certificates.server(&Peer::Hub).server().unwrap();
        let serving = git_writer::Serving {
            listen: address,
            tls: Some(tls),
            public_url: format!("https://{}:8084", Peer::Hub.dns_name()),
            secret: "secret".to_owned(),
        };
        let running = stage.start_serving(&server, &[], serving);
        let world =
            Self { stage, address, keys, gateway, _server: server, _running: running, _endpoints: [minter, people] };
        // It may never be ready: the repositories of a test are signed by nobody, so they stand still.
        wait_for("git-writer to answer", async || {
            world.ask_access("plant").await.map_err(|problem| format!("{problem:?}"))
        })
        .await;
        world.make("fleet", "main", &[("apps/hello", 100)]);
        world.make("clients/plant", "desired", &[("VERSION", 2), ("nodes/large", LARGE)]);
        world.make("clients/depot", "desired", &[("VERSION", 3)]);
        world
    }

    /// Makes a repository with one commit of files of these sizes, as it lies on the disk of git-writer.
    fn make(&self, name: &str, branch: &str, files: &[(&str, usize)]) {
        let bare = self.stage.repository(name);
        fs::create_dir_all(bare.parent().unwrap()).unwrap();
        succeeds(git(&["init", "-q", "--bare", "-b", branch, bare.to_str().unwrap()]));
        let work = TempDir::new().unwrap();
        let at = work.path().to_str().unwrap();
        succeeds(git(&["clone", "-q", bare.to_str().unwrap(), at]));
        for (path, size) in files {
            let path = work.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, noise(*size)).unwrap();
        }
        succeeds(git(&["-C", at, "add", "-A"]));
        let who = ["-c", "user.name=git-writer", "-c", "user.email=git-writer@example.org"];
        succeeds(git(&[&["-C", at], &who[..], &["commit", "-qm", name]].concat()));
        succeeds(git(&["-C", at, "push", "-q", "origin", branch]));
    }

    async fn access(&self, client: &str) -> RepositoryAccess {
        self.ask_access(client).await.unwrap()
    }

    async fn ask_access(&self, client: &str) -> Result<RepositoryAccess, Problem> {
        let asked = RepositoryAccessAsked { client: client.parse().unwrap(), key: None };
        let subject = Subject::service(ServiceName::GitWriter, "access");
        self.gateway.call(&subject, &asked, None).await
    }

    /// Stock git, which speaks to this git-writer with this token.
    async fn git(&self, token: &str, arguments: &[&str]) -> Output {
        let (host, address) = (Peer::Hub.dns_name(), self.address);
        let settings = [
            format!("http.curloptResolve={host}:{}:{}", address.port(), address.ip()),
            format!("http.sslCAInfo={}", self.stage.path("root.pem").display()),
            format!("http.extraHeader=Authorization: Bearer {token}"),
        ];
        let settings = settings.iter().flat_map(|setting| ["-c", setting]);
        let arguments: Vec<String> = settings.chain(arguments.iter().copied()).map(str::to_owned).collect();
        let run = move || git(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        spawn_blocking(run).await.unwrap()
    }

    fn url(&self, name: &str) -> String {
        format!("https://{}:8084/default/{name}.git", Peer::Hub.dns_name())
    }

    fn tip(&self, name: &str) -> String {
        let path = self.stage.repository(name);
        text(&succeeds(git(&["-C", path.to_str().unwrap(), "rev-parse", "HEAD"]))).trim().to_owned()
    }

    fn http(&self) -> reqwest::Client {
        let tls = Trust::load(&self.stage.path("root.pem")).unwrap().peer(&Peer::Hub);
        let http = reqwest::Client::builder().no_proxy().tls_backend_preconfigured((*tls).clone());
        http.resolve(&Peer::Hub.dns_name(), self.address).build().unwrap()
    }

    /// Asks for this object of a repository as a client of protocol version 2 does.
    async fn fetch(&self, name: &str, token: &str, oid: &str) -> reqwest::Response {
        let body = [line("command=fetch"), "0001".to_owned(), line("no-progress"), line(&format!("want {oid}"))];
        let request = self.http().post(format!("{}/git-upload-pack", self.url(name)));
        let request = request.bearer_auth(token).header("git-protocol", "version=2");
        request.body(body.concat() + &line("done") + "0000").send().await.unwrap()
    }
}

/// A line of git's protocol.
fn line(text: &str) -> String {
    format!("{:04x}{text}\n", text.len() + 5)
}

/// Bytes that do not shrink.
fn noise(length: usize) -> Vec<u8> {
    let mut state = length as u64 | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

fn git(arguments: &[&str]) -> Output {
    let mut command = Command::new("git");
    // The machine may have certificates and proxies of its own.
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_TERMINAL_PROMPT", "0");
    command.args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn succeeds(output: Output) -> Output {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn path(folder: &Path) -> &str {
    folder.to_str().unwrap()
}

#[tokio::test]
async fn stock_git_clones_whole_shallow_and_partial_and_fetches() {
    let world = World::start().await;
    let RepositoryAccess { url, token } = world.access("plant").await;
    assert_eq!(url, world.url("clients/plant"));
    let folder = TempDir::new().unwrap();
    let into = |name: &str| path(folder.path()).to_owned() + "/" + name;
    for (name, options) in [
        ("whole", &[][..]),
        ("shallow", &["--depth", "1"]),
        ("partial", &["--filter=blob:none", "--no-checkout"]),
        ("old protocol", &["-c", "protocol.version=0"]),
    ] {
        let clone = into(name);
        let words = [&["clone", "-q"], options, &[&url, &clone]].concat();
        succeeds(world.git(&token, &words).await);
        let head = succeeds(git(&["-C", &into(name), "rev-parse", "HEAD"]));
        assert_eq!(text(&head).trim(), world.tip("clients/plant"), "{name}");
    }
    assert_eq!(fs::read(into("whole") + "/nodes/large").unwrap().len(), LARGE);
    let size = |name: &str| {
        let found = text(&succeeds(git(&["-C", &into(name), "count-objects", "-v"])));
        let pack = found.lines().find_map(|line| line.strip_prefix("size-pack: ")).unwrap().to_owned();
        pack.parse::<u64>().unwrap()
    };
    assert!(size("whole") > 20_000 && size("partial") < 100, "{} {}", size("whole"), size("partial"));
    // Nothing new.
    succeeds(world.git(&token, &["-C", &into("whole"), "fetch", "-q"]).await);
}

#[tokio::test]
async fn a_token_opens_one_repository_and_nothing_of_another_also_by_object() {
    let world = World::start().await;
    let plant = world.access("plant").await.token;
    let refs = |name: &'static str| {
        let request = world.http().get(format!("{}/info/refs?service=git-upload-pack", world.url(name)));
        request.header("git-protocol", "version=2")
    };
    for (name, token, wanted) in [
        ("clients/plant", plant.as_str(), 200),
        ("clients/depot", &plant, 404),
        ("fleet", &plant, 404),
        ("clients/nobody", &plant, 404),
        ("clients/plant", ADA, 200),
        ("clients/depot", ADA, 200),
        ("fleet", ADA, 200),
        ("clients/nobody", ADA, 404),
        ("clients/..%2ffleet", ADA, 404),
        ("clients/plant", &ADA.replace('0', "1"), 401),
        ("clients/plant", &plant.replace("plant", "depot"), 401),
        ("clients/plant", "", 401),
    ] {
        let answer = refs(name).bearer_auth(token).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), wanted, "{name} with {token}");
    }
    let without = refs("clients/plant").send().await.unwrap();
    assert_eq!(without.status().as_u16(), 401);
    assert!(without.headers()["www-authenticate"].to_str().unwrap().starts_with("Basic "));
    // As git sends what stands in a URL.
    let basic = refs("clients/plant").basic_auth("anybody", Some(&plant)).send().await.unwrap();
    assert_eq!(basic.status().as_u16(), 200);

    let own = world.fetch("clients/plant", &plant, &world.tip("clients/plant")).await;
    assert_eq!(own.status().as_u16(), 200);
    for foreign in ["clients/depot", "fleet"] {
        let refused = world.fetch("clients/plant", &plant, &world.tip(foreign)).await;
        assert_eq!(refused.status().as_u16(), 400);
        let words = refused.text().await.unwrap();
        assert!(words.contains("not our ref"), "{words}");
    }
}

#[tokio::test]
async fn nobody_writes_and_the_files_are_not_served() {
    let world = World::start().await;
    let folder = TempDir::new().unwrap();
    let clone = path(folder.path()).to_owned() + "/fleet";
    succeeds(world.git(ADA, &["clone", "-q", &world.url("fleet"), &clone]).await);
    let before = world.tip("fleet");
    let pushed = world.git(ADA, &["-C", &clone, "push", "origin", "HEAD:other"]).await;
    assert!(!pushed.status.success() && text(&pushed).contains("403"), "{}", text(&pushed));
    let post = |verb: &str| world.http().post(format!("{}/{verb}", world.url("fleet"))).bearer_auth(ADA).body("0000");
    assert_eq!(post("git-receive-pack").send().await.unwrap().status().as_u16(), 403);
    for file in ["HEAD", "config", "objects/info/packs", "info/refs", "../fleet.git/config"] {
        let answer = world.http().get(format!("{}/{file}", world.url("fleet"))).bearer_auth(ADA).send().await.unwrap();
        assert!([403, 404].contains(&answer.status().as_u16()), "{file}: {}", answer.status());
    }
    let too_long = post("git-upload-pack").body(vec![b'0'; 2 << 20]).send().await.unwrap();
    assert_eq!(too_long.status().as_u16(), 413);
    assert_eq!(world.tip("fleet"), before);
}

#[tokio::test]
async fn nothing_of_a_body_is_waited_for_before_it_is_known_whose_it_is() {
    let world = World::start().await;
    let plant = world.access("plant").await.token;
    for (name, token, wanted) in
        [("clients/plant", "nobody", 401), ("fleet", &plant, 404), ("clients/nobody", ADA, 404)]
    {
        let never = reqwest::Body::wrap_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>());
        let request = world.http().post(format!("{}/git-upload-pack", world.url(name))).bearer_auth(token);
        assert_eq!(request.body(never).send().await.unwrap().status().as_u16(), wanted, "{name} with {token}");
    }
}

#[tokio::test]
async fn what_git_refuses_is_told_without_where_the_repository_lies_and_long_filters_are_not_shown_to_it() {
    let world = World::start().await;
    let plant = world.access("plant").await.token;
    let oid = world.tip("clients/plant");
    let refused = async |filter: &str, oid: &str| {
        let filter = format!("filter {filter}");
        let words = [line("command=fetch"), "0001".to_owned(), line(&filter), line(&format!("want {oid}"))];
        let request = world.http().post(format!("{}/git-upload-pack", world.url("clients/plant")));
        let request = request.bearer_auth(&plant).header("git-protocol", "version=2");
        let answer = request.body(words.concat() + &line("done") + "0000").send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 400);
        let words = answer.text().await.unwrap();
        assert!(!words.contains(path(world.stage.folder.path())), "{words}");
        words
    };
    let words = refused(&"combine:".repeat(100), &oid).await;
    assert!(words.contains("more than 200 bytes"), "{words}");
    let words = refused("combine:blob:none+tree:1", &oid).await;
    assert!(words.contains("not supported"), "{words}");
    let words = refused("blob:none", &"0123456789".repeat(4)).await;
    assert!(words.contains("not our ref"), "{words}");
}

#[tokio::test]
async fn a_token_ends_with_its_key() {
    let world = World::start().await;
    let RepositoryAccess { url, token } = world.access("plant").await;
    succeeds(world.git(&token, &["ls-remote", &url]).await);
    world.keys.lock().unwrap().insert("plant".to_owned(), generate().1);
    wait_for("the former token to be refused", async || {
        let listed = world.git(&token, &["ls-remote", &url]).await;
        if listed.status.success() { Err(text(&listed)) } else { Ok(()) }
    })
    .await;
    let token = world.access("plant").await.token;
    succeeds(world.git(&token, &["ls-remote", &url]).await);
    world.keys.lock().unwrap().remove("plant");
    let asked = RepositoryAccessAsked { client: "plant".parse().unwrap(), key: None };
    let subject = Subject::service(ServiceName::GitWriter, "access");
    let refused = world.gateway.call::<_, RepositoryAccess>(&subject, &asked, None).await.unwrap_err();
    assert_eq!(refused.status, 404);
}

#[tokio::test]
async fn who_reads_slowly_holds_no_process_and_hurts_only_itself() {
    let world = World::start().await;
    let token = world.access("plant").await.token;
    let oid = world.tip("clients/plant");
    // Four answers of 24 MiB that begin, and that nobody reads on.
    let mut held = Vec::new();
    for _ in 0..4 {
        let answer = world.fetch("clients/plant", &token, &oid).await;
        assert_eq!(answer.status().as_u16(), 200);
        held.push(answer);
    }
    let fifth = world.fetch("clients/plant", &token, &oid).await;
    assert_eq!(fifth.status().as_u16(), 429, "one that has as many answers as it may have");
    // Everybody else is served, from the same repository, too.
    let folder = TempDir::new().unwrap();
    let clone = path(folder.path()).to_owned() + "/plant";
    succeeds(world.git(ADA, &["clone", "-q", &world.url("clients/plant"), &clone]).await);
    let depot = world.access("depot").await;
    succeeds(world.git(&depot.token, &["ls-remote", &depot.url]).await);
    // Whoever reads on gets everything.
    assert!(held.pop().unwrap().bytes().await.unwrap().len() > LARGE);
    drop(held);
    wait_for("places to be free again", async || {
        let answer = world.fetch("clients/plant", &token, &oid).await;
        if answer.status().is_success() { Ok(()) } else { Err(answer.status()) }
    })
    .await;
}

#[tokio::test]
async fn many_packs_are_gathered_while_everybody_reads() {
    let folder = TempDir::new().unwrap();
    let bare = folder.path().join("repositories/default/clients/yard.git");
    fs::create_dir_all(bare.parent().unwrap()).unwrap();
    let at = bare.to_str().unwrap();
    succeeds(git(&["init", "-q", "--bare", "-b", "desired", at]));
    // Each push leaves a pack.
    succeeds(git(&["-C", at, "config", "receive.unpackLimit", "1"]));
    succeeds(git(&["-C", at, "config", "receive.autogc", "false"]));
    let work = TempDir::new().unwrap();
    let work = work.path().to_str().unwrap();
    succeeds(git(&["clone", "-q", at, work]));
    let who = ["-c", "user.name=git-writer", "-c", "user.email=git-writer@example.org"];
    for number in 0..60 {
        let subject = format!("commit {number}");
        succeeds(git(&[&["-C", work], &who[..], &["commit", "-q", "--allow-empty", "-m", &subject]].concat()));
        succeeds(git(&["-C", work, "push", "-q", "origin", "HEAD:desired"]));
    }
    let packs = |bare: &Path| {
        let entries = fs::read_dir(bare.join("objects/pack")).unwrap();
        entries.filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|it| it == "idx")).count()
    };
    assert_eq!(packs(&bare), 60);

    let world = World::start_on(folder).await;
    let log = text(&succeeds(git(&["-C", at, "log", "--format=%s", "desired"])));
    wait_for("the packs to be gathered", async || {
        let graph = bare.join("objects/info/commit-graphs/commit-graph-chain").exists();
        if packs(&bare) < 10 && graph { Ok(()) } else { Err((packs(&bare), graph)) }
    })
    .await;
    let has_order = |entry: &fs::DirEntry| entry.path().extension().is_some_and(|it| it == "rev");
    assert!(fs::read_dir(bare.join("objects/pack")).unwrap().any(|entry| has_order(&entry.unwrap())));
    succeeds(git(&["-C", at, "fsck", "--strict", "--full"]));
    assert_eq!(text(&succeeds(git(&["-C", at, "log", "--format=%s", "desired"]))), log);
    succeeds(world.git(ADA, &["ls-remote", &world.url("clients/yard")]).await);
}

#[tokio::test]
async fn a_request_in_clear_is_no_request() {
    let world = World::start().await;
    let address = world.address;
    let heard = spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream
            .write_all(b"GET /default/fleet.git/info/refs?service=git-upload-pack HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
        let mut heard = Vec::new();
        let _ = stream.read_to_end(&mut heard);
        heard
    });
    let heard = heard.await.unwrap();
    assert!(!heard.starts_with(b"HTTP/"), "{}", String::from_utf8_lossy(&heard));
}
