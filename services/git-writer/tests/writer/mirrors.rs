//! Copies on foreign remotes: a real git-writer pushes over HTTP to stock `git http-backend`.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use api::Refusal;
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use bus::{Bus, Outgoing, ServiceName, Subject, User, proto};
use git_writer::{Layout, Mirror};
use margo::RepositoryName;
use tempfile::TempDir;
use testkit::{NatsServer, Running, loopback, wait_for};
use tokio::{io::AsyncWriteExt, net::TcpListener};

use crate::stage::Stage;

const SOURCE: ServiceName = ServiceName::DeploymentRegistry;

const TOKEN: &str = "of the mirror";

fn git(arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    command.args(["-c", "user.name=mallory", "-c", "user.email=mallory@example.org"]);
    let output = command.args(arguments).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A server of bare repositories, which may be away.
#[derive(Clone)]
struct Remote {
    folder: Arc<TempDir>,
    address: SocketAddr,
    away: Arc<AtomicBool>,
}

impl Remote {
    async fn start() -> Self {
        let listener = TcpListener::bind((loopback(), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let remote = Self { folder: Arc::new(TempDir::new().unwrap()), address, away: Arc::default() };
        let router = Router::new().fallback(backend).with_state(remote.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        remote
    }

    fn make(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        git(&["init", "-q", "--bare", path.to_str().unwrap()]);
        git(&["-C", path.to_str().unwrap(), "config", "http.receivepack", "true"]);
        path
    }

    fn mirror(&self, name: &str, layout: Layout, folder: &Path) -> Mirror {
        let token_file = folder.join("mirror.token");
        fs::write(&token_file, format!("{TOKEN}\n")).unwrap();
        let url = match layout {
            Layout::Each => format!("http://{}", self.address),
            Layout::One => format!("http://{}/all.git", self.address),
        };
        let (user, token_file) = ("ew".to_owned(), Some(token_file));
        Mirror { name: name.to_owned(), url, layout, user, token_file, root_certificates: None }
    }

    fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }
}

/// Stock `git http-backend` as a web server runs it.
async fn backend(State(remote): State<Remote>, request: Request) -> Response {
    if remote.away.load(Ordering::SeqCst) {
        return StatusCode::BAD_GATEWAY.into_response();
    }
    let header = |headers: &HeaderMap, name: &str| {
        headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
    };
    let (parts, body) = request.into_parts();
    let wanted = format!("ew:{TOKEN}");
    let given = header(&parts.headers, "authorization");
    let given = given.strip_prefix("Basic ").and_then(|it| data_encoding::BASE64.decode(it.as_bytes()).ok());
    if given.as_deref() != Some(wanted.as_bytes()) {
        return (StatusCode::UNAUTHORIZED, [("www-authenticate", "Basic realm=\"mirror\"")]).into_response();
    }
    let body: Bytes = axum::body::to_bytes(body, 64 << 20).await.unwrap();
    let mut command = tokio::process::Command::new("git");
    command.arg("http-backend").env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    command.env("GIT_PROJECT_ROOT", remote.folder.path()).env("GIT_HTTP_EXPORT_ALL", "1").env("REMOTE_USER", "ew");
    command.env("REQUEST_METHOD", parts.method.as_str()).env("PATH_INFO", parts.uri.path());
    command.env("QUERY_STRING", parts.uri.query().unwrap_or_default());
    command.env("CONTENT_TYPE", header(&parts.headers, "content-type"));
    command.env("HTTP_CONTENT_ENCODING", header(&parts.headers, "content-encoding"));
    command.env("GIT_PROTOCOL", header(&parts.headers, "git-protocol"));
    command.env("CONTENT_LENGTH", body.len().to_string());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let writing = tokio::spawn(async move { input.write_all(&body).await });
    let output = child.wait_with_output().await.unwrap();
    let _ = writing.await.unwrap();
    let end = output.stdout.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let mut response = Response::builder();
    for line in String::from_utf8_lossy(&output.stdout[..end]).lines() {
        let (name, value) = line.split_once(": ").unwrap();
        response = match name {
            "Status" => response.status(value[..3].parse::<u16>().unwrap()),
            name => response.header(name, value),
        };
    }
    response.body(Body::from(output.stdout[end + 4..].to_vec())).unwrap()
}

/// git-writer with mirrors.
struct World {
    server: NatsServer,
    stage: Stage,
    source: Bus,
    operator: Bus,
    mirrors: Vec<Mirror>,
}

impl World {
    async fn new() -> Self {
        let server = NatsServer::start(&[ServiceName::GitWriter, SOURCE].map(User::Central)).await;
        let source = server.connect_central(SOURCE).await;
        let operator = server.operator().await;
        Self { server, stage: Stage::new(), source, operator, mirrors: Vec::new() }
    }

    async fn start(&self) -> Running {
        let running = self.stage.start(&self.server, &self.mirrors);
        running.ready().await;
        running
    }

    /// Orders rows with these numbers: of the fleet, or of a client.
    async fn order(&self, repository: &RepositoryName, numbers: std::ops::RangeInclusive<u64>) {
        let change = |number: u64| match repository {
            RepositoryName::Fleet => proto::git_write::Change::Fleet(proto::FleetChange {
                files: vec![proto::FileChange {
                    path: "assignments/4f/a/hello.yaml".to_owned(),
                    content: Some(format!("revision: {number}\n").into()),
                }],
            }),
            RepositoryName::Client(_) => proto::git_write::Change::Client(proto::ClientChange::default()),
        };
        let parts = numbers.flat_map(|number| {
            let write = proto::GitWrite {
                number,
                author: "ada".to_owned(),
                subject: format!("row {number}"),
                change: Some(change(number)),
                ..proto::GitWrite::default()
            };
            let subject = Subject::git_write(SOURCE, repository);
            bus::into_parts(bus::encode(&write)).into_iter().map(move |(headers, payload)| Outgoing {
                subject: subject.clone(),
                headers,
                payload,
            })
        });
        self.source.publish_batch(parts.collect()).await.unwrap();
    }

    fn tip(&self, repository: &RepositoryName) -> String {
        let path = self.stage.repository(&repository.to_string());
        git(&["-C", path.to_str().unwrap(), "rev-parse", "HEAD"])
    }

    /// Waits until so many commits are there.
    async fn committed(&self, repository: &RepositoryName, count: u64) {
        let path = self.stage.repository(&repository.to_string());
        wait_for("rows to be committed", async || {
            if !path.exists() {
                return Err("no repository".to_owned());
            }
            let count_now =
                Command::new("git").arg("-C").arg(&path).args(["rev-list", "--count", "HEAD"]).output().unwrap();
            let found = String::from_utf8_lossy(&count_now.stdout).trim().to_owned();
            if found == count.to_string() { Ok(()) } else { Err(found) }
        })
        .await;
    }

    /// Waits until a branch of a remote repository is where the repository is here.
    async fn follows(&self, remote: &Path, branch: &str, repository: &RepositoryName) {
        wait_for("the mirror to follow", async || {
            let mut command = Command::new("git");
            let found =
                command.arg("-C").arg(remote).args(["rev-parse", &format!("refs/heads/{branch}")]).output().unwrap();
            let found = String::from_utf8_lossy(&found.stdout).trim().to_owned();
            let wanted = self.tip(repository);
            if found == wanted { Ok(()) } else { Err(format!("{found} is not {wanted}; {:?}", self.refusals().await)) }
        })
        .await;
    }

    async fn refusals(&self) -> Vec<Refusal> {
        self.operator.call(&Subject::service(ServiceName::GitWriter, "refusals"), &(), None).await.unwrap()
    }
}

fn client(name: &str) -> RepositoryName {
    RepositoryName::Client(name.parse().unwrap())
}

#[tokio::test]
async fn both_layouts_follow_and_catch_up_after_they_were_away() {
    let (mut world, remote) = (World::new().await, Remote::start().await);
    let [all, fleet, plant] = ["all.git", "fleet.git", "clients/plant.git"].map(|name| remote.make(name));
    world.mirrors.push(remote.mirror("each", Layout::Each, world.stage.folder.path()));
    world.mirrors.push(remote.mirror("one", Layout::One, world.stage.folder.path()));
    let running = world.start().await;
    let [of_fleet, of_plant] = [RepositoryName::Fleet, client("plant")];
    world.order(&of_fleet, 1..=20).await;
    world.order(&of_plant, 1..=20).await;
    let follow = async || {
        world.follows(&all, "fleet", &of_fleet).await;
        world.follows(&all, "client/plant", &of_plant).await;
        world.follows(&fleet, "main", &of_fleet).await;
        world.follows(&plant, "desired", &of_plant).await;
    };
    world.committed(&of_fleet, 20).await;
    follow().await;

    remote.set_away(true);
    world.order(&of_fleet, 21..=60).await;
    world.order(&of_plant, 21..=40).await;
    world.committed(&of_fleet, 60).await;
    world.committed(&of_plant, 40).await;
    wait_for("operators to see it", async || {
        let refusals = world.refusals().await;
        let told = ["mirror each", "mirror one"].iter().all(|name| refusals.iter().any(|it| it.subject == *name));
        if told { Ok(()) } else { Err(refusals) }
    })
    .await;
    // What it was behind is not remembered, but seen.
    running.kill().await;
    let _running = world.start().await;
    remote.set_away(false);
    follow().await;
    wait_for("nothing to be refused", async || {
        let refusals = world.refusals().await;
        if refusals.is_empty() { Ok(()) } else { Err(refusals) }
    })
    .await;
    for remote in [&all, &fleet, &plant] {
        git(&["-C", remote.to_str().unwrap(), "fsck", "--strict", "--full"]);
    }
}

#[tokio::test]
async fn what_others_moved_on_a_remote_is_told_and_stays() {
    let (mut world, remote) = (World::new().await, Remote::start().await);
    let all = remote.make("all.git");
    world.mirrors.push(remote.mirror("one", Layout::One, world.stage.folder.path()));
    let _running = world.start().await;
    let (of_fleet, of_plant) = (RepositoryName::Fleet, client("plant"));
    world.order(&of_fleet, 1..=1).await;
    world.order(&of_plant, 1..=1).await;
    world.committed(&of_plant, 1).await;
    world.follows(&all, "client/plant", &of_plant).await;
    world.follows(&all, "fleet", &of_fleet).await;

    let at = all.to_str().unwrap();
    let mine = git(&["-C", at, "commit-tree", "client/plant^{tree}", "-p", "client/plant", "-m", "mine"]);
    git(&["-C", at, "update-ref", "refs/heads/client/plant", &mine]);
    world.order(&of_plant, 2..=2).await;
    world.order(&of_fleet, 2..=2).await;
    world.committed(&of_fleet, 2).await;
    // The others go on, in the same push.
    world.follows(&all, "fleet", &of_fleet).await;
    wait_for("operators to see it", async || {
        let refusals = world.refusals().await;
        let told = refusals.iter().any(|it| it.subject == "mirror one: clients/plant" && it.reason.contains("others"));
        if told { Ok(()) } else { Err(refusals) }
    })
    .await;
    assert_eq!(git(&["-C", at, "rev-parse", "client/plant"]), mine);
}
