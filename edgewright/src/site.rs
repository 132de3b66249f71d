//! A site: what its data folder holds, its NATS server, and its two services that are configured from the folder.
//!
//! ```text
//! site.toml                   addresses
//! credentials.toml            from `edgectl co add site`
//! keys/authority/             the keys of the site's NATS server: whoever has them makes its users
//! keys/nats/<user>.seed, .jwt NKey seeds and JWTs at the site's own server
//! keys/status.token           opens GET /api/v1/status of local-orchestrator
//! keys/artifacts.token        opens the artifacts; nodes are given it when they register
//! nats/                       the site's NATS server: nats.conf, and accounts.conf with what is revoked
//! orchestrator/ store/
//! ```

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use bus::{Jwt, Login, Members, ServiceName, Tier, User};
use identity::{
    credentials::{self, SiteCredentials},
    random_token,
};
use margo::{ClientName, SiteName};
use serde::{Deserialize, Serialize};
use service::{Base, Health, Readiness};
use tokio_util::sync::CancellationToken;

use crate::{
    children::{check_nats_server, nats_server},
    folder::Folder,
    supervise::{Tasks, restarting},
};

/// Silence after which a node counts as unreachable: three heartbeats, so that one lost message changes nothing.
const UNREACHABLE_AFTER: Duration = Duration::from_secs(15);

/// The addresses in `site.toml`, which the operator may change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SiteSettings {
    /// The address on which the site's NATS server listens.
    pub nats_listen: SocketAddr,
    /// The address on which artifacts are served to nodes.
    pub artifacts_listen: SocketAddr,
    /// The URL at which nodes reach the artifacts; each is told when it registers.
    pub artifacts_url: String,
    /// The address on which the site's own REST interface shows its status, and gives nodes their logins.
    pub status_listen: SocketAddr,
}

impl SiteSettings {
    /// Every server on one address, on three ports that follow each other.
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

/// A site whose data folder is complete.
#[derive(Clone)]
pub struct Site {
    folder: Folder,
    pub settings: SiteSettings,
    credentials: SiteCredentials,
}

impl Site {
    /// Opens a data folder that [`init`] made, and reads its settings and credentials.
    pub fn open(data: &Path) -> anyhow::Result<Self> {
        Self::read(Folder::open(data))
    }

    fn read(folder: Folder) -> anyhow::Result<Self> {
        let settings = folder.settings("site.toml", "edgewright init-site")?;
        let credentials = credentials::load(&folder.path("credentials.toml"))?;
        Ok(Self { folder, settings, credentials })
    }

    /// The file that holds the token for the site's own REST interface.
    pub fn status_token(&self) -> PathBuf {
        self.folder.path("keys/status.token")
    }

    fn client(&self) -> ClientName {
        self.credentials.site.client()
    }

    fn login(&self, user: User) -> anyhow::Result<Login> {
        self.folder.login(user, self.settings.nats_listen)
    }

    fn own_users(&self) -> [User; 3] {
        let client = || self.client();
        [User::LocalOrchestrator(client()), User::LocalFront(client()), User::OciFetcher(client())]
    }

    /// Runs one of the site's services until shutdown or failure.
    async fn run(
        &self,
        name: ServiceName,
        otlp_endpoint: Option<String>,
        readiness: Readiness,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let SiteCredentials { tenant, site, hub, minter, seed, root_key } = self.credentials.clone();
        let [orchestrator, front, fetcher] = self.own_users();
        let artifacts_token = self.folder.line("keys/artifacts.token")?;
        match name {
            ServiceName::OciFetcher => {
                let config = oci_fetcher::Config {
                    base: Base { bus: self.login(fetcher)?, front: None, readiness, tenant },
                    client: self.client(),
                    data: self.folder.path("store"),
                    listen: self.settings.artifacts_listen,
                    token: artifacts_token,
                };
                oci_fetcher::run(config, shutdown).await
            }
            ServiceName::LocalOrchestrator => {
                let jwt = Jwt::File(self.folder.path("orchestrator/hub.jwt"));
                let config = local_orchestrator::Config {
                    authority: Arc::new(self.folder.authority(&tenant)?),
                    base: Base { bus: self.login(orchestrator)?, front: Some(self.login(front)?), readiness, tenant },
                    hub: Login { url: hub, seed, jwt, user: User::Site(site.client()) },
                    hub_minter: minter,
                    minter: self.login(User::Minter)?,
                    site,
                    services: self.folder.public_keys(&self.own_users())?,
                    data: self.folder.path("orchestrator"),
                    root_key,
                    listen: self.settings.status_listen,
                    status_token: self.folder.line("keys/status.token")?,
                    artifacts_url: self.settings.artifacts_url.clone(),
                    artifacts_token,
                    unreachable_after: UNREACHABLE_AFTER,
                    otlp_endpoint,
                };
                local_orchestrator::run(config, shutdown).await
            }
            ServiceName::ApiGateway
            | ServiceName::AppRegistry
            | ServiceName::DeploymentRegistry
            | ServiceName::GitWriter
            | ServiceName::GitObserver
            | ServiceName::Identity
            | ServiceName::StatusCollector
            | ServiceName::NodeCapabilities => bail!("{name} runs at the hub"),
        }
    }

    /// Starts the site's NATS server as a child and its services as tasks, each restarted when it fails.
    pub fn spawn(
        &self,
        tasks: &mut Tasks,
        server: &Path,
        otlp_endpoint: Option<&str>,
        health: &Health,
        shutdown: &CancellationToken,
    ) {
        tasks.spawn("nats-server of the site", nats_server(server, &self.folder.nats()).supervise(shutdown.clone()));
        for name in ServiceName::at(Tier::Site) {
            // Made known here, before the task begins: else the site counts as ready while a service has yet to start.
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

/// Runs one of the site's services in this process until shutdown, and restarts it when it fails.
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

/// Runs a whole site until shutdown: its services in this process, its NATS server as a child.
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

/// Makes what a site needs and lacks, with these settings if it has none. What is there already stays, for keys are
/// identities; only the credentials are replaced by those given. Fails when these are of another site.
pub fn init(data: &Path, credentials: &Path, settings: &SiteSettings) -> anyhow::Result<Site> {
    let folder = Folder::make(data)?;
    let given: SiteCredentials = credentials::load(credentials)?;
    let kept = folder.path("credentials.toml");
    if kept.exists() {
        let held: SiteCredentials = credentials::load(&kept)?;
        ensure!(
            held.site == given.site,
            "{} belongs to site {}, but the credentials are of site {}: use another folder",
            folder.display(),
            held.site,
            given.site,
        );
    }
    credentials::save(&kept, &given)?;
    folder.keep_settings("site.toml", settings)?;
    let site = Site::read(folder)?;
    let folder = &site.folder;
    for name in ["keys/status.token", "keys/artifacts.token"] {
        folder.keep(name, || Ok(random_token().context("making a token")?.into_bytes()))?;
    }
    let [orchestrator, front, fetcher] = site.own_users();
    let (name, users) = (format!("site-{}", given.site), [orchestrator, front, fetcher, User::Minter]);
    folder.keep_server(&name, site.settings.nats_listen, &given.tenant, Members::Nodes, &users)?;
    Ok(site)
}

/// The data folder of a site inside that of `up`.
pub fn folder(data: &Path, site: &SiteName) -> PathBuf {
    data.join("sites").join(site.as_str())
}
