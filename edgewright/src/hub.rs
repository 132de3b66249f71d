//! The hub: its data folder, and the central services made from it.
//!
//! ```text
//! hub.toml                    addresses
//! keys/root, root.pub         the tenant's root key: signs KEYS, nothing else
//! keys/git-writer             signs commits and heads
//! keys/KEYS, KEYS.sig         the public keys in force
//! keys/nats/<user>.seed       NKey seed of each service's NATS user
//! nats/nats.conf, users.conf  the hub's NATS server
//! tokens.json, admin.token    API tokens (hashes), and the first of them in clear, for its owner
//! repositories/ database/ store/
//! ```

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::Context;
use bus::{Endpoint, Role, ServiceName};
use identity::{SigningKey, nats, trust, write_secret};
use margo::{KeySet, TenantName};
use serde::{Deserialize, Serialize};
use service::{Health, Readiness};
use tokio_util::sync::CancellationToken;

use crate::supervise::{Tasks, restarting};

/// The services of the hub, in the order in which their logs read best.
pub const CENTRAL: [ServiceName; 7] = [
    ServiceName::GitWriter,
    ServiceName::GitObserver,
    ServiceName::StatusCollector,
    ServiceName::NodeCapabilities,
    ServiceName::AppRegistry,
    ServiceName::DeploymentRegistry,
    ServiceName::ApiGateway,
];

/// `hub.toml`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HubSettings {
    /// Where the NATS server listens.
    pub nats_listen: SocketAddr,
    /// How sites reach it.
    pub nats_url: String,
    /// Where the REST interface listens.
    pub api_listen: SocketAddr,
    /// Where the platform's OCI store listens.
    pub store_listen: SocketAddr,
    /// How sites reach it.
    pub store_url: String,
}

impl HubSettings {
    /// Everything on one address, with the default ports.
    pub fn on(host: IpAddr) -> Self {
        let at = |port| SocketAddr::new(host, port);
        Self {
            nats_listen: at(4222),
            nats_url: format!("nats://{}", at(4222)),
            api_listen: at(8080),
            store_listen: at(8082),
            store_url: format!("http://{}", at(8082)),
        }
    }
}

/// The hub's data folder.
#[derive(Clone)]
pub struct Hub {
    data: PathBuf,
    /// `hub.toml`
    pub settings: HubSettings,
}

impl Hub {
    /// Opens what [`init`] made.
    pub fn open(data: &Path) -> anyhow::Result<Self> {
        let path = data.join("hub.toml");
        let text = fs::read_to_string(&path).with_context(|| {
            format!("reading {} (`edgewright init --data {}` makes it)", path.display(), data.display())
        })?;
        let settings = toml::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
        Ok(Self { data: data.to_owned(), settings })
    }

    /// The folder of the NATS server.
    pub fn nats(&self) -> PathBuf {
        self.data.join("nats")
    }

    /// The file with the first API token.
    pub fn admin_token(&self) -> PathBuf {
        self.data.join("admin.token")
    }

    fn key(&self, name: &str) -> PathBuf {
        self.data.join("keys").join(name)
    }

    fn database(&self, service: ServiceName) -> PathBuf {
        self.data.join("database").join(format!("{service}.sqlite"))
    }

    fn seed(&self, role: &Role) -> anyhow::Result<String> {
        read_seed(&self.data.join("keys/nats"), role)
    }

    fn endpoint(&self, role: Role) -> anyhow::Result<Endpoint> {
        Ok(Endpoint { url: format!("nats://{}", self.settings.nats_listen), seed: self.seed(&role)?, role })
    }

    fn root_key(&self) -> anyhow::Result<String> {
        Ok(fs::read_to_string(self.key("root.pub")).context("reading the tenant's root public key")?.trim().to_owned())
    }

    fn service_users(&self) -> anyhow::Result<Vec<(Role, String)>> {
        CENTRAL
            .into_iter()
            .map(|service| {
                let role = Role::Central(service);
                let public = nats::public_key(&self.seed(&role)?)?;
                Ok((role, public))
            })
            .collect()
    }

    /// Runs one central service until shutdown.
    async fn run(&self, name: ServiceName, readiness: Readiness, shutdown: CancellationToken) -> anyhow::Result<()> {
        let tenant = TenantName::default();
        let bus = self.endpoint(Role::Central(name))?;
        let repositories = self.data.join("repositories");
        match name {
            ServiceName::GitWriter => {
                let config = git_writer::Config {
                    bus,
                    readiness,
                    tenant,
                    repositories,
                    signing_key: self.key("git-writer"),
                    keys: self.key("KEYS"),
                    keys_signature: self.key("KEYS.sig"),
                };
                git_writer::run(config, shutdown).await
            }
            ServiceName::GitObserver => {
                let root_key = self.root_key()?;
                git_observer::run(git_observer::Config { bus, readiness, tenant, repositories, root_key }, shutdown)
                    .await
            }
            ServiceName::StatusCollector => {
                let config = status_collector::Config { bus, readiness, tenant, database: self.database(name) };
                status_collector::run(config, shutdown).await
            }
            ServiceName::NodeCapabilities => {
                let config = node_capabilities::Config {
                    bus,
                    readiness,
                    tenant,
                    database: self.database(name),
                    hub_url: self.settings.nats_url.clone(),
                    root_key: self.root_key()?,
                    users_file: self.nats().join("users.conf"),
                    service_users: self.service_users()?,
                    reloader: self.endpoint(Role::Reloader)?,
                };
                node_capabilities::run(config, shutdown).await
            }
            ServiceName::AppRegistry => {
                let config = app_registry::Config {
                    bus,
                    readiness,
                    tenant,
                    database: self.database(name),
                    store: self.data.join("store"),
                    listen: self.settings.store_listen,
                    public_url: Some(self.settings.store_url.clone()),
                };
                app_registry::run(config, shutdown).await
            }
            ServiceName::DeploymentRegistry => {
                let config = deployment_registry::Config { bus, readiness, tenant, database: self.database(name) };
                deployment_registry::run(config, shutdown).await
            }
            ServiceName::ApiGateway => {
                let config = api_gateway::Config {
                    bus,
                    readiness,
                    tenant,
                    listen: self.settings.api_listen,
                    tokens: self.data.join("tokens.json"),
                };
                api_gateway::run(config, shutdown).await
            }
            ServiceName::LocalOrchestrator | ServiceName::OciFetcher => {
                unreachable!("the arguments name the tier of every service")
            }
        }
    }

    /// Adds every central service to the tasks, each restarted by itself.
    pub fn spawn(&self, tasks: &mut Tasks, health: &Health, shutdown: &CancellationToken) {
        for name in CENTRAL {
            // Known before its task begins, so that nobody takes silence for readiness.
            let readiness = health.service(name);
            let (hub, shutdown) = (self.clone(), shutdown.clone());
            tasks.spawn(name.as_str(), async move {
                let attempt = || hub.run(name, readiness.clone(), shutdown.clone());
                restarting(name.as_str(), &shutdown, attempt).await
            });
        }
    }
}

/// Runs one central service as this process.
pub async fn run_one(
    service: ServiceName,
    data: &Path,
    health: &Health,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let hub = Hub::open(data)?;
    let attempt = || hub.run(service, health.service(service), shutdown.clone());
    restarting(service.as_str(), shutdown, attempt).await
}

/// Makes what a hub needs. What is there stays: keys are identities.
pub fn init(data: &Path, settings: &HubSettings) -> anyhow::Result<Hub> {
    fs::create_dir_all(data.join("keys/nats")).with_context(|| format!("making {}", data.display()))?;
    let data = data.canonicalize()?;
    if !data.join("hub.toml").exists() {
        write_secret(&data.join("hub.toml"), toml::to_string(settings)?.as_bytes())?;
    }
    let hub = Hub::open(&data)?;
    let tenant = TenantName::default();

    let root = signing_key(&hub.key("root"), &format!("root of {tenant}"))?;
    let writer = signing_key(&hub.key("git-writer"), "git-writer")?;
    if !hub.key("root.pub").exists() {
        write_secret(&hub.key("root.pub"), format!("{}\n", root.public()).as_bytes())?;
    }
    if !hub.key("KEYS.sig").exists() {
        let keys = KeySet { tenant: tenant.clone(), number: 1, keys: vec![writer.public().to_string()] };
        let (bytes, signature) = trust::sign_keys(&root, &keys)?;
        write_secret(&hub.key("KEYS"), &bytes)?;
        write_secret(&hub.key("KEYS.sig"), signature.as_bytes())?;
    }
    for role in CENTRAL.map(Role::Central).iter().chain([&Role::Reloader]) {
        make_seed(&data.join("keys/nats"), role)?;
    }
    if !hub.admin_token().exists() {
        let token = api_gateway::tokens::create(&data.join("tokens.json"), "admin", api_gateway::tokens::Role::Admin)?;
        write_secret(&hub.admin_token(), token.as_bytes())?;
    }
    fs::create_dir_all(hub.nats())?;
    let conf = nats::server_conf(&nats::Server {
        listen: &hub.settings.nats_listen.to_string(),
        monitor: None,
        name: "hub",
        store: &hub.nats().join("data"),
        tenant: &tenant,
        users: "users.conf",
        reloader: &nats::public_key(&hub.seed(&Role::Reloader)?)?,
    });
    write_secret(&hub.nats().join("nats.conf"), conf.as_bytes())?;
    // node-capabilities keeps this file from then on.
    if !hub.nats().join("users.conf").exists() {
        let users = hub.service_users()?;
        let text = nats::users_conf(users.iter().map(|(role, public)| (role, public.as_str())));
        write_secret(&hub.nats().join("users.conf"), text.as_bytes())?;
    }
    Ok(hub)
}

fn signing_key(path: &Path, comment: &str) -> anyhow::Result<SigningKey> {
    if path.exists() {
        return Ok(SigningKey::load(path)?);
    }
    let key = SigningKey::generate(comment)?;
    key.save(path)?;
    Ok(key)
}

/// Makes the NKey seed of a user, unless it has one.
pub fn make_seed(folder: &Path, role: &Role) -> anyhow::Result<()> {
    let path = seed_file(folder, role);
    if !path.exists() {
        write_secret(&path, nats::generate().0.as_bytes())?;
    }
    Ok(())
}

/// Reads the NKey seed of a user.
pub fn read_seed(folder: &Path, role: &Role) -> anyhow::Result<String> {
    let path = seed_file(folder, role);
    Ok(fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?.trim().to_owned())
}

fn seed_file(folder: &Path, role: &Role) -> PathBuf {
    folder.join(format!("{role}.seed"))
}
