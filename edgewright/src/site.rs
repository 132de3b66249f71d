//! A site: its data folder, its NATS server, its two services.
//!
//! ```text
//! site.toml                   addresses
//! credentials.toml            from `edgectl co add site`
//! keys/nats/<user>.seed       NKey seeds at the site's own server
//! keys/status.token           opens GET /api/v1/status of local-orchestrator
//! keys/artifacts.token        opens the artifacts; nodes are given it when they register
//! nats/nats.conf, users.conf  the site's NATS server
//! orchestrator/ store/
//! ```

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, ensure};
use bus::{Endpoint, Role, ServiceName};
use identity::{
    credentials::{self, SiteCredentials},
    nats, write_secret,
};
use margo::{ClientName, SiteName};
use serde::{Deserialize, Serialize};
use service::{Health, Readiness};
use tokio_util::sync::CancellationToken;

use crate::{
    children::{check_nats_server, nats_server},
    hub::{make_seed, read_seed},
    supervise::{Tasks, restarting},
};

/// Three heartbeats: one lost message makes no node unreachable.
const UNREACHABLE_AFTER: Duration = Duration::from_secs(15);

const SERVICES: [ServiceName; 2] = [ServiceName::LocalOrchestrator, ServiceName::OciFetcher];

/// `site.toml`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SiteSettings {
    /// Where the NATS server listens.
    pub nats_listen: SocketAddr,
    /// Where artifacts are served to nodes.
    pub artifacts_listen: SocketAddr,
    /// How nodes reach them.
    pub artifacts_url: String,
    /// Where the site's status is served.
    pub status_listen: SocketAddr,
}

impl SiteSettings {
    /// Everything on one address, on three ports in a row.
    pub fn on(host: IpAddr, port: u16) -> Self {
        let at = |offset| SocketAddr::new(host, port + offset);
        Self {
            nats_listen: at(0),
            artifacts_listen: at(1),
            artifacts_url: format!("http://{}", at(1)),
            status_listen: at(2),
        }
    }
}

/// A site's data folder.
#[derive(Clone)]
pub struct Site {
    data: PathBuf,
    /// `site.toml`
    pub settings: SiteSettings,
    credentials: SiteCredentials,
}

impl Site {
    /// Opens what [`init`] made.
    pub fn open(data: &Path) -> anyhow::Result<Self> {
        let path = data.join("site.toml");
        let text = fs::read_to_string(&path).with_context(|| {
            format!("reading {} (`edgewright init-site --data {} …` makes it)", path.display(), data.display())
        })?;
        let settings = toml::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
        let credentials = credentials::load(&data.join("credentials.toml"))?;
        Ok(Self { data: data.to_owned(), settings, credentials })
    }

    /// The folder of the NATS server.
    pub fn nats(&self) -> PathBuf {
        self.data.join("nats")
    }

    /// The file with the token that opens the site's status.
    pub fn status_token(&self) -> PathBuf {
        self.data.join("keys/status.token")
    }

    fn client(&self) -> ClientName {
        self.credentials.site.client()
    }

    fn seed(&self, role: &Role) -> anyhow::Result<String> {
        read_seed(&self.data.join("keys/nats"), role)
    }

    fn endpoint(&self, role: Role) -> anyhow::Result<Endpoint> {
        Ok(Endpoint { url: format!("nats://{}", self.settings.nats_listen), seed: self.seed(&role)?, role })
    }

    fn own_roles(&self) -> [Role; 2] {
        [Role::LocalOrchestrator(self.client()), Role::OciFetcher(self.client())]
    }

    fn own_users(&self) -> anyhow::Result<Vec<(Role, String)>> {
        self.own_roles()
            .into_iter()
            .map(|role| {
                let public = nats::public_key(&self.seed(&role)?)?;
                Ok((role, public))
            })
            .collect()
    }

    fn token(&self, name: &str) -> anyhow::Result<String> {
        let path = self.data.join("keys").join(name);
        Ok(fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?.trim().to_owned())
    }

    /// Runs one of the site's services until shutdown.
    async fn run(
        &self,
        name: ServiceName,
        otlp_endpoint: Option<String>,
        readiness: Readiness,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let SiteCredentials { tenant, site, hub, seed, root_key } = self.credentials.clone();
        let [orchestrator, fetcher] = self.own_roles();
        if name == ServiceName::OciFetcher {
            let config = oci_fetcher::Config {
                bus: self.endpoint(fetcher)?,
                readiness,
                tenant,
                client: self.client(),
                data: self.data.join("store"),
                listen: self.settings.artifacts_listen,
                token: self.token("artifacts.token")?,
            };
            return oci_fetcher::run(config, shutdown).await;
        }
        let config = local_orchestrator::Config {
            bus: self.endpoint(orchestrator)?,
            readiness,
            tenant,
            hub: Endpoint { url: hub, seed, role: Role::Site(site.client()) },
            reloader: self.endpoint(Role::Reloader)?,
            site,
            users_file: self.nats().join("users.conf"),
            own_users: self.own_users()?,
            data: self.data.join("orchestrator"),
            root_key,
            listen: self.settings.status_listen,
            status_token: self.token("status.token")?,
            artifacts_url: self.settings.artifacts_url.clone(),
            artifacts_token: self.token("artifacts.token")?,
            unreachable_after: UNREACHABLE_AFTER,
            otlp_endpoint,
        };
        local_orchestrator::run(config, shutdown).await
    }

    /// Adds the site's NATS server and services to the tasks.
    pub fn spawn(
        &self,
        tasks: &mut Tasks,
        server: &Path,
        otlp_endpoint: Option<&str>,
        health: &Health,
        shutdown: &CancellationToken,
    ) {
        tasks.spawn("nats-server of the site", nats_server(server, &self.nats()).supervise(shutdown.clone()));
        for name in SERVICES {
            // Known before its task begins, so that nobody takes silence for readiness.
            let readiness = health.service(name);
            let (site, shutdown) = (self.clone(), shutdown.clone());
            let otlp_endpoint = otlp_endpoint.map(str::to_owned);
            tasks.spawn(name.as_str(), async move {
                let attempt = || site.run(name, otlp_endpoint.clone(), readiness.clone(), shutdown.clone());
                restarting(name.as_str(), &shutdown, attempt).await
            });
        }
    }
}

/// Runs one of the site's services as this process.
pub async fn run_one(
    service: ServiceName,
    data: &Path,
    otlp_endpoint: Option<&str>,
    health: &Health,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let site = Site::open(data)?;
    let attempt = || site.run(service, otlp_endpoint.map(str::to_owned), health.service(service), shutdown.clone());
    restarting(service.as_str(), shutdown, attempt).await
}

/// Runs a whole site as this process, its NATS server as a child.
pub async fn run(
    site: &Site,
    server: &Path,
    otlp_endpoint: Option<&str>,
    health: &Health,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    check_nats_server(server).await?;
    let mut tasks = Tasks::default();
    site.spawn(&mut tasks, server, otlp_endpoint, health, shutdown);
    tasks.join(shutdown).await
}

/// Makes what a site needs. What is there stays: keys are identities.
pub fn init(data: &Path, credentials: &Path, settings: &SiteSettings) -> anyhow::Result<Site> {
    fs::create_dir_all(data.join("keys/nats")).with_context(|| format!("making {}", data.display()))?;
    let data = data.canonicalize()?;
    let given: SiteCredentials = credentials::load(credentials)?;
    let kept = data.join("credentials.toml");
    if kept.exists() {
        let held: SiteCredentials = credentials::load(&kept)?;
        ensure!(
            held.site == given.site,
            "{} belongs to site {}, but the credentials are of site {}: use another folder",
            data.display(),
            held.site,
            given.site,
        );
    }
    credentials::save(&kept, &given)?;
    if !data.join("site.toml").exists() {
        write_secret(&data.join("site.toml"), toml::to_string(settings)?.as_bytes())?;
    }
    let site = Site::open(&data)?;
    for role in site.own_roles().iter().chain([&Role::Reloader]) {
        make_seed(&data.join("keys/nats"), role)?;
    }
    for name in ["status.token", "artifacts.token"] {
        let path = data.join("keys").join(name);
        if !path.exists() {
            write_secret(&path, random_token()?.as_bytes())?;
        }
    }
    fs::create_dir_all(site.nats())?;
    let conf = nats::server_conf(&nats::Server {
        listen: &site.settings.nats_listen.to_string(),
        monitor: None,
        name: &format!("site-{}", given.site),
        store: &site.nats().join("data"),
        tenant: &given.tenant,
        users: "users.conf",
        reloader: &nats::public_key(&site.seed(&Role::Reloader)?)?,
    });
    write_secret(&site.nats().join("nats.conf"), conf.as_bytes())?;
    // local-orchestrator keeps this file from then on.
    if !site.nats().join("users.conf").exists() {
        let users = site.own_users()?;
        let text = nats::users_conf(users.iter().map(|(role, public)| (role, public.as_str())));
        write_secret(&site.nats().join("users.conf"), text.as_bytes())?;
    }
    Ok(site)
}

/// 256 random bits in hex.
fn random_token() -> anyhow::Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no random numbers: {error}"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The folder of a site inside the folder of `up`.
pub fn folder(data: &Path, site: &SiteName) -> PathBuf {
    data.join("sites").join(site.as_str())
}
