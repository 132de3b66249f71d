//! The hub: what its data folder holds, and the central services that are configured from it.
//!
//! ```text
//! hub.toml                    addresses
//! keys/root, root.pub         the tenant's root key: signs KEYS, nothing else
//! keys/git-writer             signs commits and heads
//! keys/KEYS, KEYS.sig         the public keys in force
//! keys/authority/             the keys of the hub's NATS server: whoever has them makes its users
//! keys/ca/root.pem, root.key  the root of all certificates: signs sites' intermediates and the hub's certificate
//! keys/nats/<user>.seed, .jwt NKey seed and JWT of each service's NATS user
//! nats/                       the hub's NATS server: nats.conf, and accounts.conf with what is revoked
//! tls/server.pem              the certificate of the hub's servers, with its key
//! tokens.json, admin.token    API tokens (hashes), and the first of them in clear, for its owner
//! repositories/ database/ store/
//! ```

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use api_gateway::tokens::{self, Added};
use bus::{Login, Members, Role, ServiceName, Tier, User};
use identity::{
    SigningKey,
    certificates::{Issuer, keep_root},
    jwt, nats,
    plaintext::Plaintext,
    tls::{ClientConfig, Peer, ServerConfig, Trust},
    trust,
};
use margo::{KeySet, ReaderName, TenantName};
use serde::{Deserialize, Serialize};
use service::{Base, Health, Readiness};
use store::{Location, PostgresUrl};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    certificates::{self, Listener, OWN, TlsSettings, for_people, http_scheme, names, nats_scheme},
    children::{check_nats_server, nats_server},
    folder::Folder,
    supervise::{Tasks, restarting},
};

/// The addresses in `hub.toml`, which the operator may change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HubSettings {
    /// The address on which the NATS server listens.
    pub nats_listen: SocketAddr,
    /// The URL at which sites reach the NATS server; new sites are told this one.
    pub nats_url: String,
    /// The address on which the REST interface listens.
    pub api_listen: SocketAddr,
    /// The address on which the platform's artifact store listens.
    pub store_listen: SocketAddr,
    /// The URL at which sites reach the artifact store.
    pub store_url: String,
    /// The address on which sites are given their logins.
    pub identity_listen: SocketAddr,
    /// The URL at which sites ask for their logins; new sites are told this one.
    pub identity_url: String,
    /// The address on which the Git repositories are served.
    pub repositories_listen: SocketAddr,
    /// The base URL at which the Git repositories are read.
    pub repositories_url: String,
    /// The foreign remotes that the repositories are pushed to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<git_writer::Mirror>,
    /// How many days a site's login holds. It is renewed after a third of that.
    pub site_login_days: u32,
    /// Further DNS names and IP addresses for which the hub's own certificate shall be valid.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// A PEM file of the root certificates that sites and nodes are told to believe.
    #[serde(default = "root_certificates")]
    pub root_certificates: PathBuf,
    /// The certificate of the NATS server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nats_tls: Option<TlsSettings>,
    /// The certificate of the REST interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_tls: Option<TlsSettings>,
    /// The certificate of the artifact store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_tls: Option<TlsSettings>,
    /// The certificate of the listener that gives sites their logins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity_tls: Option<TlsSettings>,
    /// The certificate of the listener that serves the Git repositories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repositories_tls: Option<TlsSettings>,
}

fn root_certificates() -> PathBuf {
    ROOT.into()
}

/// The certificate and the key of the hub's own root.
const ROOT: &str = "keys/ca/root.pem";
const ROOT_KEY: &str = "keys/ca/root.key";

/// The file of the secret that the tokens of clients' repositories are derived with. Whoever replaces it ends all of them.
const REPOSITORIES_SECRET: &str = "keys/repositories.secret";

impl HubSettings {
    /// Every server on one address, each with its default port, and with certificates unless plaintext is allowed.
    pub fn on(host: IpAddr, plaintext: Plaintext) -> Self {
        let at = |port| SocketAddr::new(host, port);
        let tls = plaintext == Plaintext::OnLoopback;
        Self {
            nats_listen: at(4222),
            nats_url: format!("{}://{}", nats_scheme(tls), at(4222)),
            api_listen: at(8080),
            store_listen: at(8082),
            store_url: format!("{}://{}", http_scheme(tls), at(8082)),
            identity_listen: at(8083),
            identity_url: format!("{}://{}", http_scheme(tls), at(8083)),
            repositories_listen: at(8084),
            repositories_url: format!("{}://{}", http_scheme(tls), at(8084)),
            mirrors: Vec::new(),
            site_login_days: 90,
            names: Vec::new(),
            root_certificates: root_certificates(),
            nats_tls: tls.then(TlsSettings::own),
            api_tls: for_people(host).filter(|_| tls),
            store_tls: tls.then(TlsSettings::own),
            identity_tls: tls.then(TlsSettings::own),
            repositories_tls: tls.then(TlsSettings::own),
        }
    }

    fn check(&self, plaintext: Plaintext) -> anyhow::Result<()> {
        let (nats, api, store) = (self.nats_tls.as_ref(), self.api_tls.as_ref(), self.store_tls.as_ref());
        let (identity, identity_url) = (self.identity_tls.as_ref(), Some(&*self.identity_url));
        let (repositories, repositories_url) = (self.repositories_tls.as_ref(), Some(&*self.repositories_url));
        let listeners = [
            ("the hub's NATS server", self.nats_listen, "nats-tls", nats, Some(&*self.nats_url)),
            ("REST", self.api_listen, "api-tls", api, None),
            ("the platform's store", self.store_listen, "store-tls", store, Some(&*self.store_url)),
            ("the minter of sites' logins", self.identity_listen, "identity-tls", identity, identity_url),
            ("the repositories", self.repositories_listen, "repositories-tls", repositories, repositories_url),
        ];
        let listeners = listeners.map(|(what, listen, setting, tls, url)| Listener { what, listen, setting, tls, url });
        listeners.iter().try_for_each(|listener| listener.check("hub.toml", plaintext))
    }

    /// The URL of the REST interface on this machine.
    pub fn api_url(&self) -> String {
        format!("{}://{}", http_scheme(self.api_tls.is_some()), self.api_listen)
    }
}

/// A hub whose data folder is complete.
#[derive(Clone)]
pub struct Hub {
    folder: Folder,
    pub settings: HubSettings,
    /// Absent: each service has a SQLite file in the folder.
    database: Option<PostgresUrl>,
}

impl Hub {
    /// Opens a data folder that [`init`] made, and reads its settings.
    pub fn open(data: &Path, plaintext: Plaintext) -> anyhow::Result<Self> {
        let hub = Self::read(Folder::open(data), plaintext)?;
        hub.renew_certificate()?;
        Ok(hub)
    }

    fn read(folder: Folder, plaintext: Plaintext) -> anyhow::Result<Self> {
        let settings: HubSettings = folder.settings("hub.toml", "edgewright init")?;
        settings.check(plaintext)?;
        Ok(Self { folder, settings, database: None })
    }

    /// The file of the root certificates by which the hub and its sites are known.
    pub fn trust_file(&self) -> PathBuf {
        self.folder.path(&self.settings.root_certificates.to_string_lossy())
    }

    fn issuer(&self) -> anyhow::Result<Issuer> {
        let root = Issuer::load_root(&self.folder.path(ROOT), &self.folder.path(ROOT_KEY));
        root.context("reading the root of the hub's certificates (`edgewright init` makes it)")
    }

    /// Makes the hub's own certificate anew when a third of its life is over, or when it lacks a name.
    fn renew_certificate(&self) -> anyhow::Result<()> {
        let HubSettings { nats_tls, api_tls, store_tls, identity_tls, repositories_tls, .. } = &self.settings;
        let own = Some(TlsSettings::own());
        if ![nats_tls, api_tls, store_tls, identity_tls, repositories_tls].contains(&&own) {
            return Ok(());
        }
        let HubSettings { nats_listen, api_listen, store_listen, identity_listen, .. } = &self.settings;
        let HubSettings { nats_url, store_url, identity_url, repositories_url, names: further, .. } = &self.settings;
        let urls = [nats_url, store_url, identity_url, repositories_url].into_iter().chain(further);
        let urls = urls.map(String::as_str);
        let listen = [*nats_listen, *api_listen, *store_listen, *identity_listen, self.settings.repositories_listen];
        let names = names(Peer::Hub.dns_name(), urls, &listen);
        if self.issuer()?.keep_leaf(&self.folder.path(OWN), &names)? {
            info!(names = names.join(" "), "a new certificate for the hub's servers");
        }
        Ok(())
    }

    /// What the hub's certificates are verified with by its own services.
    fn client_tls(&self, tls: Option<&TlsSettings>) -> anyhow::Result<Option<Arc<ClientConfig>>> {
        let Some(_) = tls else { return Ok(None) };
        Ok(Some(Trust::load(&self.trust_file())?.peer(&Peer::Hub)))
    }

    fn server_tls(&self, tls: Option<&TlsSettings>) -> anyhow::Result<Option<Arc<ServerConfig>>> {
        Ok(certificates::server(tls, &self.folder.path(""))?)
    }

    /// The folder in which the hub's NATS server runs.
    pub fn nats(&self) -> PathBuf {
        self.folder.nats()
    }

    /// The file that holds the first API token in clear.
    pub fn admin_token(&self) -> PathBuf {
        self.folder.path("admin.token")
    }

    /// The same hub, whose services keep their tables in this PostgreSQL database, if one is given.
    pub fn with_database(self, database: Option<PostgresUrl>) -> Self {
        Self { database, ..self }
    }

    fn database(&self, service: ServiceName) -> Location {
        match &self.database {
            Some(url) => Location::schema_of(url.clone(), service.as_str()),
            None => Location::File(self.folder.path(&format!("database/{service}.sqlite"))),
        }
    }

    fn login(&self, user: User) -> anyhow::Result<Login> {
        self.folder.login(user, self.settings.nats_listen, self.client_tls(self.settings.nats_tls.as_ref())?)
    }

    fn root_key(&self) -> anyhow::Result<String> {
        self.folder.line("keys/root.pub")
    }

    /// Runs one central service until shutdown or failure.
    async fn run(&self, name: ServiceName, readiness: Readiness, shutdown: CancellationToken) -> anyhow::Result<()> {
        let front = name.has_front().then(|| self.login(User::Front(name))).transpose()?;
        let base = Base { bus: self.login(User::Central(name))?, front, readiness, tenant: TenantName::default() };
        let repositories = self.folder.path("repositories");
        match name {
            ServiceName::GitWriter => {
                let config = git_writer::Config {
                    base,
                    repositories,
                    signing_key: self.folder.path("keys/git-writer"),
                    keys: self.folder.path("keys/KEYS"),
                    keys_signature: self.folder.path("keys/KEYS.sig"),
                    serving: git_writer::Serving {
                        listen: self.settings.repositories_listen,
                        tls: self.server_tls(self.settings.repositories_tls.as_ref())?,
                        public_url: self.settings.repositories_url.clone(),
                        secret: self.folder.line(REPOSITORIES_SECRET)?,
                    },
                    mirrors: self.settings.mirrors.clone(),
                };
                git_writer::run(config, shutdown).await
            }
            ServiceName::GitObserver => {
                let root_key = self.root_key()?;
                git_observer::run(git_observer::Config { base, repositories, root_key }, shutdown).await
            }
            ServiceName::StatusCollector => {
                let config = status_collector::Config { base, database: self.database(name) };
                status_collector::run(config, shutdown).await
            }
            ServiceName::NodeCapabilities => {
                let config = node_capabilities::Config {
                    base,
                    database: self.database(name),
                    hub_url: self.settings.nats_url.clone(),
                    root_key: self.root_key()?,
                    minter_url: self.settings.identity_url.clone(),
                    root_certificates: self.folder.line(&self.settings.root_certificates.to_string_lossy())?,
                    issuer: self.issuer()?,
                };
                node_capabilities::run(config, shutdown).await
            }
            ServiceName::AppRegistry => {
                let config = app_registry::Config {
                    base,
                    database: self.database(name),
                    store: self.folder.path("store"),
                    listen: self.settings.store_listen,
                    tls: self.server_tls(self.settings.store_tls.as_ref())?,
                    public_url: Some(self.settings.store_url.clone()),
                };
                app_registry::run(config, shutdown).await
            }
            ServiceName::DeploymentRegistry => {
                let config = deployment_registry::Config { base, database: self.database(name) };
                deployment_registry::run(config, shutdown).await
            }
            ServiceName::ApiGateway => {
                let config = api_gateway::Config {
                    base,
                    listen: self.settings.api_listen,
                    tls: self.server_tls(self.settings.api_tls.as_ref())?,
                    store_tls: self.client_tls(self.settings.store_tls.as_ref())?,
                    tokens: self.folder.path("tokens.json"),
                };
                api_gateway::run(config, shutdown).await
            }
            ServiceName::Identity => {
                let days = u64::from(self.settings.site_login_days.max(1));
                let config = identity_service::Config {
                    minter: self.login(User::Minter)?,
                    bootstrap: self.login(User::Bootstrap)?,
                    authority: Arc::new(self.folder.authority(&base.tenant)?),
                    services: self.folder.public_keys(&service_users())?,
                    base,
                    repositories,
                    listen: self.settings.identity_listen,
                    tls: self.server_tls(self.settings.identity_tls.as_ref())?,
                    life: Duration::from_secs(days * 24 * 60 * 60),
                };
                identity_service::run(config, shutdown).await
            }
            ServiceName::LocalOrchestrator | ServiceName::OciFetcher => {
                bail!("{name} runs at a site")
            }
        }
    }

    /// Starts every central service as a task of its own, which is restarted when the service fails.
    pub fn spawn(&self, tasks: &mut Tasks, health: &Health, shutdown: &CancellationToken) {
        for name in ServiceName::at(Tier::Hub) {
            // Made known here, before the task begins: else the hub counts as ready while a service has yet to start.
            let readiness = health.service(name);
            let (hub, shutdown) = (self.clone(), shutdown.clone());
            tasks.spawn(name.as_str(), async move {
                let attempt = || hub.run(name, readiness.clone(), shutdown.clone());
                restarting(name.as_str(), &shutdown, attempt).await
            });
        }
    }
}

/// Runs one central service in this process until shutdown, and restarts it when it fails.
pub async fn run_one(
    service: ServiceName,
    data: &Path,
    plaintext: Plaintext,
    database: Option<PostgresUrl>,
    health: &Health,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let hub = Hub::open(data, plaintext)?.with_database(database);
    let attempt = || hub.run(service, health.service(service), shutdown.clone());
    restarting(service.as_str(), shutdown, attempt).await
}

/// Runs a whole hub until shutdown: its services in this process, its NATS server as a child.
pub async fn run(hub: &Hub, server: &Path, health: &Health, shutdown: &CancellationToken) -> anyhow::Result<()> {
    check_nats_server(server).await?;
    let mut tasks = Tasks::default();
    tasks.spawn("nats-server of the hub", nats_server(server, &hub.nats()).supervise(shutdown.clone()));
    hub.spawn(&mut tasks, health, shutdown);
    tasks.join(shutdown).await
}

/// Makes what a hub needs and lacks, with these settings if it has none. What is there already stays, for keys are
/// identities.
pub fn init(data: &Path, settings: &HubSettings, plaintext: Plaintext) -> anyhow::Result<Hub> {
    let folder = Folder::make(data)?;
    folder.keep_settings("hub.toml", settings)?;
    let hub = Hub::read(folder, plaintext)?;
    keep_root(&hub.folder.path(ROOT), &hub.folder.path(ROOT_KEY))?;
    hub.renew_certificate()?;
    let (folder, tenant) = (&hub.folder, TenantName::default());

    let root = signing_key(&folder.path("keys/root"), &format!("root of {tenant}"))?;
    let writer = signing_key(&folder.path("keys/git-writer"), "git-writer")?;
    folder.keep("keys/root.pub", || Ok(format!("{}\n", root.public()).into_bytes()))?;
    folder.keep(REPOSITORIES_SECRET, || Ok(format!("{}\n", identity::random_token()?).into_bytes()))?;
    if !folder.path("keys/KEYS.sig").exists() {
        let keys = KeySet { tenant: tenant.clone(), number: 1, keys: vec![writer.public().to_string()] };
        let (bytes, signature) = trust::sign_keys(&root, &keys)?;
        disk::write_private(&folder.path("keys/KEYS"), &bytes)?;
        disk::write_private(&folder.path("keys/KEYS.sig"), signature.as_bytes())?;
    }
    keep_admin_token(folder, &hub.admin_token())?;
    let users = [service_users(), vec![User::Minter]].concat();
    let (listen, tls) = (hub.settings.nats_listen, hub.settings.nats_tls.as_ref());
    folder.keep_server("hub", listen, tls, &tenant, Members::Sites, &users)?;
    Ok(hub)
}

/// Gives a third party an account at the hub, unless it has one, and writes the credentials of a new user of it into a new file.
/// A hub that runs has the account within a minute.
pub fn add_reader(data: &Path, name: &ReaderName, file: &Path, plaintext: Plaintext) -> anyhow::Result<()> {
    ensure!(!file.exists(), "{} is there already", file.display());
    let hub = Hub::read(Folder::open(data), plaintext)?;
    let authority = hub.folder.authority(&TenantName::default())?;
    let ((seed, key), template, now) = (nats::generate(), Members::Sites.template(), jwt::now());
    let jwt = authority.reader(name, &template, &key, now).with_context(|| format!("making an account for {name}"))?;
    authority.keep_account(&template, None, None, now).context("making the server's accounts")?;
    let text = nats::credentials_file(&jwt, &seed);
    disk::write_private(file, text.as_bytes()).with_context(|| format!("writing {}", file.display()))
}

/// The users of the central services at the hub's server: each has one, and a second one if it answers sites. The bootstrap
/// belongs to identity.
fn service_users() -> Vec<User> {
    let fronts = ServiceName::at(Tier::Hub).filter(|name| name.has_front()).map(User::Front);
    ServiceName::at(Tier::Hub).map(User::Central).chain(fronts).chain([User::Bootstrap]).collect()
}

/// Makes the first API token and writes it into this file, unless that was done before. It may be killed at any line: a token
/// in the pending file is known to its owner in the end, and no other one is made meanwhile.
fn keep_admin_token(folder: &Folder, file: &Path) -> anyhow::Result<()> {
    const NAME: &str = "admin";
    let (pending, tokens) = (folder.path("admin.token.pending"), folder.path("tokens.json"));
    if !file.exists() {
        folder.keep("admin.token.pending", || Ok(tokens::make()?.into_bytes()))?;
        process::stop_point("edgewright.admin-token-pending");
        match tokens::add(&tokens, NAME, Role::Admin, &folder.line("admin.token.pending")?)? {
            Added::New | Added::Before => {
                process::stop_point("edgewright.admin-token-added");
                fs::rename(&pending, file).with_context(|| format!("writing {}", file.display()))?;
                return disk::sync(&folder.path("")).context("syncing the data folder");
            }
            Added::Taken => warn!(
                tokens = %tokens.display(),
                "the token {NAME} is known to whoever has taken its file away; take its entry out of the list to have a new one made"
            ),
        }
    }
    disk::remove_if_there(&pending).with_context(|| format!("removing {}", pending.display()))
}

/// Loads the key, or makes it when the file is missing.
fn signing_key(path: &Path, comment: &str) -> anyhow::Result<SigningKey> {
    if path.exists() {
        return Ok(SigningKey::load(path)?);
    }
    let key = SigningKey::generate(comment)?;
    key.save(path)?;
    Ok(key)
}
