//! A NATS server for one test, with an address and a folder of its own, and the users and permissions of
//! production.

use std::{
    collections::HashMap,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Stdio,
};

use bus::server::{Server, server_conf, users_conf};
use bus::{Bus, Login, ServiceName, User};
use identity::{
    nats::generate,
    tls::{Peer, Trust},
};
use margo::{TenantName, UserNkey};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{Certificates, loopback, wait_for};

/// Returns the path of the server that `make setup` installed: `$EDGEWRIGHT_NATS_SERVER`, or
/// `.tools/bin/nats-server` of the project.
pub fn nats_server_binary() -> PathBuf {
    std::env::var_os("EDGEWRIGHT_NATS_SERVER")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/bin/nats-server"), PathBuf::from)
}

/// A running server. It is killed when this value is dropped.
pub struct NatsServer {
    child: Child,
    folder: TempDir,
    address: Ipv4Addr,
    users: HashMap<User, (String, UserNkey)>,
    reloader: (String, UserNkey),
    /// Absent: the server speaks no TLS, which is faster.
    certificates: Option<Certificates>,
}

impl NatsServer {
    /// Starts a server that admits exactly these users, each with its permissions, and waits until it listens.
    pub async fn start(admitted: &[User]) -> Self {
        Self::start_with(admitted, None).await
    }

    /// Does the same with a server that speaks TLS, as the hub.
    pub async fn start_tls(admitted: &[User]) -> Self {
        Self::start_with(admitted, Some(Certificates::default())).await
    }

    async fn start_with(admitted: &[User], certificates: Option<Certificates>) -> Self {
        let folder = TempDir::new().expect("a folder for a server");
        let users: HashMap<_, _> = admitted.iter().map(|user| (user.clone(), generate())).collect();
        let reloader = generate();
        let mut server = Self { child: spawn_nothing(), folder, address: loopback(), users, reloader, certificates };
        server.write_users();
        server.launch().await;
        server
    }

    /// Returns where and how this user connects. It panics when the server does not admit the user.
    pub fn login(&self, user: &User) -> Login {
        let (seed, _) = if *user == User::Reloader {
            &self.reloader
        } else {
            self.users.get(user).unwrap_or_else(|| panic!("the server does not admit {user}"))
        };
        let tls = self.certificates.as_ref().map(|certificates| certificates.trust().peer(&Peer::Hub));
        Login { url: self.url(), tls, seed: seed.clone(), user: user.clone() }
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

    /// Returns the path of the file that lists the users, for services that write it themselves.
    pub fn users_file(&self) -> PathBuf {
        self.folder.path().join("users.conf")
    }

    /// Admits one more user and has the server reload its configuration. The reload may still be in work when this
    /// returns.
    pub fn admit(&mut self, user: &User) -> Login {
        self.users.insert(user.clone(), generate());
        self.write_users();
        self.signal(Signal::HUP);
        self.login(user)
    }

    /// Kills the server without warning, as a power cut would end it.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("killing a server of ours");
    }

    /// Starts the server again at the same address, with the data that it had.
    pub async fn restart(&mut self) {
        self.launch().await;
    }

    /// Returns the process id of the server.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("the server runs")
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid() as i32).expect("a process id is not zero");
        kill_process(pid, signal).expect("signalling a server of ours");
    }

    fn write_users(&self) {
        let users = self.users.iter().map(|(user, (_, public))| (user, public));
        fs::write(self.users_file(), users_conf(users)).expect("writing the list of users");
    }

    async fn launch(&mut self) {
        let folder = self.folder.path();
        let files = self.certificates.as_ref().map(|certificates| certificates.server(&Peer::Hub));
        let conf = server_conf(&Server {
            listen: &format!("{}:4222", self.address),
            monitor: None,
            name: "test",
            store: &folder.join("data"),
            tenant: &TenantName::default(),
            users: "users.conf",
            reloader: &self.reloader.1,
            tls: files.as_ref().map(|files| (files.certificate.as_path(), files.key.as_path())),
        });
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

/// Connects, and waits until the server has let this user in.
pub async fn connect(login: &Login) -> Bus {
    let bus = Bus::connect(login).await.expect("a login that is well formed");
    bus.connected().await;
    bus
}

/// A child that has ended: the server's place before its first launch.
fn spawn_nothing() -> Child {
    Command::new("true").spawn().expect("`true` exists everywhere")
}
