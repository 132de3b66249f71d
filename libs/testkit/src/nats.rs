//! A NATS server for one test, with an address and a folder of its own, and the users and permissions of
//! production.

use std::{
    collections::HashMap,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};

use bus::server::{Server, make_streams_folder, server_conf};
use bus::{
    Bootstrap, Bus, Call, Jwt, Login, Members, ServiceEndpoints, ServiceName, User,
    bootstrap::{self, Renewal, Wanted},
};
use identity::{
    Authority, Rights, jwt,
    nats::{credentials_file, generate},
    tls::{Peer, Trust},
};
use margo::{TenantName, UserNkey};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{Certificates, loopback, wait_for};

/// Returns the path of the server that `make setup` installed: `$EDGEWRIGHT_NATS_SERVER`, or
/// `.tools/bin/nats-server` of the project.
pub fn nats_server_binary() -> PathBuf {
    std::env::var_os("EDGEWRIGHT_NATS_SERVER")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/bin/nats-server"), PathBuf::from)
}

/// A running server. It is killed when this value is dropped. At that of a hub, streams and consumers are kept as the service
/// identity does it.
pub struct NatsServer {
    /// What is kept at it, and who does it.
    wanted: Option<Vec<Wanted>>,
    keeper: Option<Keeper>,
    child: Child,
    folder: TempDir,
    address: Ipv4Addr,
    authority: Arc<Authority>,
    members: Members,
    users: HashMap<User, (String, UserNkey)>,
    /// Absent: the server speaks no TLS, which is faster.
    certificates: Option<Certificates>,
}

impl NatsServer {
    /// Starts a server for which these users have JWTs, and waits until it listens. It is a site's server when one of them
    /// belongs to a site, else that of the hub.
    pub async fn start(admitted: &[User]) -> Self {
        Self::start_keeping(admitted, bootstrap::of_the_hub()).await
    }

    /// Does the same, and keeps these streams instead of those of production, if it is a hub's server.
    pub async fn start_keeping(admitted: &[User], wanted: Vec<Wanted>) -> Self {
        let wanted = (members_of(admitted) == Members::Sites).then_some(wanted);
        Self::start_with(admitted, wanted, None).await
    }

    /// Starts a server at which nobody makes streams unless the test does.
    pub async fn start_bare(admitted: &[User]) -> Self {
        Self::start_with(admitted, None, None).await
    }

    /// Does the same with a server that speaks TLS, as the hub.
    pub async fn start_tls(admitted: &[User]) -> Self {
        Self::start_with(admitted, None, Some(Certificates::default())).await
    }

    async fn start_with(admitted: &[User], wanted: Option<Vec<Wanted>>, certificates: Option<Certificates>) -> Self {
        let folder = TempDir::new().expect("a folder for a server");
        let members = members_of(admitted);
        let own = [User::Minter, User::Bootstrap, User::Central(ServiceName::Identity)];
        let users = admitted.iter().chain(&own).map(|user| (user.clone(), generate())).collect();
        let authority = keep_authority(folder.path(), members);
        let (child, address) = (spawn_nothing(), loopback());
        let keeper = None;
        let mut server = Self { wanted, keeper, child, folder, address, authority, members, users, certificates };
        server.launch().await;
        server.keep().await;
        server
    }

    /// Has streams and consumers kept from now on, and returns when they are there.
    async fn keep(&mut self) {
        if let Some(wanted) = self.wanted.clone() {
            let login = |user| self.login(&user);
            let keeper = Keeper::start(login(User::Bootstrap), login(User::Central(ServiceName::Identity)), wanted);
            self.keeper = Some(keeper.await);
        }
    }

    /// Connects as somebody who may do everything, as a person with the keys of the server could. Services answer it.
    pub async fn operator(&self) -> Bus {
        let (seed, key) = generate();
        let everything = || vec![">".to_owned()];
        let rights = Rights { publish: everything(), subscribe: everything() };
        let jwt = self.authority.service("operator", &key, &rights, jwt::now());
        connect(&Login { seed, jwt: Jwt::Text(jwt), ..self.login(&User::Central(ServiceName::Identity)) }).await
    }

    /// Returns where and how this user connects. It panics when the user has no JWT.
    pub fn login(&self, user: &User) -> Login {
        let (seed, key) = self.users.get(user).unwrap_or_else(|| panic!("the server does not admit {user}"));
        let jwt = user.mint(&self.authority, key, jwt::now(), None);
        let tls = self.certificates.as_ref().map(|certificates| certificates.trust().peer(&Peer::Hub));
        Login { url: self.url(), tls, seed: seed.clone(), jwt: Jwt::Text(jwt), user: user.clone() }
    }

    /// What believes in the root of a server that speaks TLS.
    pub fn trust(&self) -> Trust {
        self.certificates.as_ref().expect("the server speaks TLS").trust()
    }

    /// Connects as this user.
    pub async fn connect(&self, user: &User) -> Bus {
        connect(&self.login(user)).await
    }

    /// Connects as this service of the hub.
    pub async fn connect_central(&self, service: ServiceName) -> Bus {
        self.connect(&User::Central(service)).await
    }

    /// Returns the server's address, `nats://127.x.y.z:4222` or `tls://127.x.y.z:4222`.
    pub fn url(&self) -> String {
        let scheme = if self.certificates.is_some() { "tls" } else { "nats" };
        format!("{scheme}://{}:4222", self.address)
    }

    /// Returns the address of this server, on which its ports other than 4222 are free.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Returns the keys of the server.
    pub fn authority(&self) -> Arc<Authority> {
        self.authority.clone()
    }

    /// Returns the folder of the server's configuration, the file of its accounts and all that it writes.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Mints a JWT for one more user, which the server knows nothing of.
    pub fn admit(&mut self, user: &User) -> Login {
        self.users.insert(user.clone(), generate());
        self.login(user)
    }

    /// Removes one of the files of the server's keys, such as `members.seed`, and makes what is missing. The server knows
    /// nothing of that yet.
    pub fn replace_key(&mut self, name: &str) {
        fs::remove_file(self.folder.path().join("authority").join(name)).expect("removing a key of ours");
        self.authority = keep_authority(self.folder.path(), self.members);
    }

    /// Kills the server without warning, as a power cut would end it.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("killing a server of ours");
    }

    /// Starts the server again at the same address, with the data that it had.
    pub async fn restart(&mut self) {
        self.launch().await;
    }

    /// Starts the server again at the same address, after its disk was lost with all keys.
    pub async fn restart_anew(&mut self) {
        let anew = TempDir::new().expect("a folder for a server");
        self.authority = keep_authority(anew.path(), self.members);
        self.folder = anew;
        self.keeper = None;
        self.launch().await;
        self.keep().await;
    }

    /// Copies what the server has on its disk. It must not run.
    pub fn save(&self) -> TempDir {
        let copy = TempDir::new().expect("a folder for a copy");
        copy_folder(&self.folder.path().join("data"), &copy.path().join("data"));
        copy
    }

    /// Gives the server's disk back what was saved before, as a restored snapshot does. The server must not run.
    pub fn put_back(&self, saved: &TempDir) {
        let data = self.folder.path().join("data");
        fs::remove_dir_all(&data).expect("removing the data of a server of ours");
        copy_folder(&saved.path().join("data"), &data);
    }

    /// Returns the process id of the server.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("the server runs")
    }

    async fn launch(&mut self) {
        let folder = self.folder.path();
        let files = self.certificates.as_ref().map(|certificates| certificates.server(&Peer::Hub));
        let server = Server {
            listen: &format!("{}:4222", self.address),
            monitor: None,
            name: "test",
            store: &folder.join("data"),
            authority: &self.authority,
            accounts: "accounts.conf",
            jwts: &folder.join("jwt"),
            log: &folder.join("server.log"),
            tls: files.as_ref().map(|files| (files.certificate.as_path(), files.key.as_path())),
        };
        make_streams_folder(&server).expect("a folder for streams");
        let conf = server_conf(&server);
        fs::write(folder.join("nats.conf"), format!("{conf}ports_file_dir: {folder:?}\n")).expect("writing nats.conf");
        let log = fs::File::create(folder.join("log")).expect("a log file");
        self.child = Command::new(nats_server_binary())
            .arg("--config")
            .arg(folder.join("nats.conf"))
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("nats-server starts (make setup installs it)");
        let ports = folder.join(format!("nats-server_{}.ports", self.pid()));
        wait_for("nats-server to open its port", async || {
            // It writes this file when it listens.
            if ports.exists() { Ok(()) } else { Err(fs::read_to_string(folder.join("log")).unwrap_or_default()) }
        })
        .await;
    }
}

/// Keeps a hub's streams and consumers, and answers those who lack one, in the place of the service identity.
struct Keeper {
    _keeping: AbortOnDropHandle<()>,
    _endpoints: ServiceEndpoints<Bootstrap>,
}

impl Keeper {
    async fn start(making: Login, answering: Login, wanted: Vec<Wanted>) -> Self {
        let (making, answering) = (connect(&making).await, connect(&answering).await);
        let bootstrap = Arc::new(Bootstrap::new(making, wanted));
        bootstrap.keep().await.expect("the streams and consumers of a new server");
        let mut endpoints = answering.register(ServiceName::Identity, bootstrap.clone()).await.expect("a service");
        let streams = async |bootstrap: Arc<Bootstrap>, _: Call<()>| bootstrap.keep_for().await;
        endpoints.verb("streams", streams).await.expect("an endpoint");
        let renew = async |bootstrap: Arc<Bootstrap>, call: Call<Renewal>| bootstrap.renew_for(call.body).await;
        endpoints.verb("renew-stream", renew).await.expect("an endpoint");
        endpoints.reachable().await;
        let keeping = async move {
            if let Err(error) = bootstrap.run(&CancellationToken::new()).await {
                panic!("the streams of a server of ours are not kept: {error:#}");
            }
        };
        Self { _keeping: AbortOnDropHandle::new(tokio::spawn(keeping)), _endpoints: endpoints }
    }
}

/// Whose server it is: a site's when one of these users belongs to a site, else that of the hub.
fn members_of(admitted: &[User]) -> Members {
    let at_site = |user: &User| matches!(user, User::LocalOrchestrator(_) | User::OciFetcher(_) | User::Node(_));
    if admitted.iter().any(at_site) { Members::Nodes } else { Members::Sites }
}

/// Makes the keys of a server that are missing in its folder, and the file of its accounts.
fn keep_authority(folder: &Path, members: Members) -> Arc<Authority> {
    let accounts = folder.join("accounts.conf");
    let authority = Authority::keep(&folder.join("authority"), &accounts, &TenantName::default());
    let authority = authority.expect("keys of a server");
    authority.keep_account(&members.template(), None, None, jwt::now()).expect("accounts of a server");
    Arc::new(authority)
}

/// Connects, and waits until the server has let this user in.
pub async fn connect(login: &Login) -> Bus {
    let bus = Bus::connect(login).await.expect("a login that is well formed");
    bus.connected().await;
    bus
}

/// Returns the login as the text of a credentials file, for clients that are not ours. It panics when the JWT stands in a file.
pub fn credentials(login: &Login) -> String {
    let Jwt::Text(jwt) = &login.jwt else { panic!("the JWT of {} stands in a file", login.user) };
    credentials_file(jwt, &login.seed)
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder for a copy");
    for entry in fs::read_dir(from).expect("a folder to copy") {
        let entry = entry.expect("an entry of a folder to copy");
        let (path, copy) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy_folder(&path, &copy);
        } else {
            fs::copy(&path, &copy).expect("copying a file");
        }
    }
}

/// A child that has ended: the server's place before its first launch.
fn spawn_nothing() -> Child {
    Command::new("true").spawn().expect("`true` exists everywhere")
}
