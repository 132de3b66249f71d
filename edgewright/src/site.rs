//! A site: what its data folder holds, its NATS server, and its two services that are configured from the folder.
//!
//! ```text
//! site.toml                   addresses, and what is downloaded from where
//! credentials.toml            from `edgectl co add site`, with the site's intermediate certificate and its key
//! tls/server.pem, root.pem    the certificate of the site's servers with its key, and the roots, for people
//! keys/authority/             the keys of the site's NATS server: whoever has them makes its users
//! keys/nats/<user>.seed, .jwt NKey seeds and JWTs at the site's own server
//! keys/status.token           opens GET /api/v1/status of local-orchestrator
//! keys/artifacts.secret       the tokens that nodes are given for the artifacts are derived with it
//! nats/                       the site's NATS server: nats.conf, and accounts.conf with what is revoked
//! orchestrator/ store/
//! ```

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use bus::{Jwt, Login, Members, ServiceName, Tier, User};
use identity::{
    certificates::Issuer,
    credentials::{self, SiteCredentials, SiteTls},
    plaintext::{Plaintext, speaks_tls},
    random_token,
    tls::{ClientConfig, Peer, ServerConfig, Trust},
};
use margo::{ClientName, SiteName};
use oci::Registry;
use serde::{Deserialize, Serialize};
use service::{Base, Health, Readiness};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    certificates::{self, Listener, OWN, TlsSettings, http_scheme, nats_scheme},
    children::{check_nats_server, nats_server},
    downloads::{DownloadSettings, RegistrySettings, downloads},
    folder::Folder,
    supervise::{Tasks, restarting},
};

/// Silence after which a node counts as unreachable: three heartbeats, so that one lost message changes nothing.
const UNREACHABLE_AFTER: Duration = Duration::from_secs(15);

/// What stands in `site.toml`, which the operator may change.
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
    /// The certificate of the NATS server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nats_tls: Option<TlsSettings>,
    /// The certificate of the site's store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifacts_tls: Option<TlsSettings>,
    /// The certificate of the site's own REST interface, where nodes get their logins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_tls: Option<TlsSettings>,
    /// How much the site downloads, how fast and when.
    #[serde(default, skip_serializing_if = "DownloadSettings::are_usual")]
    pub downloads: DownloadSettings,
    /// The registries besides the platform's store that artifacts may come from.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub registries: BTreeMap<Registry, RegistrySettings>,
}

impl SiteSettings {
    /// Every server on one address, on three ports that follow each other, and with certificates unless plaintext is
    /// allowed.
    pub fn on(host: IpAddr, port: u16, plaintext: Plaintext) -> Self {
        let at = |offset| SocketAddr::new(host, port + offset);
        let tls = plaintext == Plaintext::OnLoopback;
        Self {
            nats_listen: at(0),
            artifacts_listen: at(1),
            artifacts_url: format!("{}://{}", http_scheme(tls), at(1)),
            status_listen: at(2),
            nats_tls: tls.then(TlsSettings::own),
            artifacts_tls: tls.then(TlsSettings::own),
            status_tls: tls.then(TlsSettings::own),
            downloads: DownloadSettings::default(),
            registries: BTreeMap::new(),
        }
    }

    fn check(&self, plaintext: Plaintext) -> anyhow::Result<()> {
        let (nats, artifacts, status) = (self.nats_tls.as_ref(), self.artifacts_tls.as_ref(), self.status_tls.as_ref());
        let url = Some(&*self.artifacts_url);
        let listeners = [
            ("the site's NATS server", self.nats_listen, "nats-tls", nats, None),
            ("the site's store", self.artifacts_listen, "artifacts-tls", artifacts, url),
            ("the site's status", self.status_listen, "status-tls", status, None),
        ];
        let listeners = listeners.map(|(what, listen, setting, tls, url)| Listener { what, listen, setting, tls, url });
        listeners.iter().try_for_each(|listener| listener.check("site.toml", plaintext))?;
        self.registries.iter().try_for_each(|(registry, settings)| settings.check(registry, plaintext))
    }

    /// The URL of the NATS server on this machine.
    pub fn nats_url(&self) -> String {
        format!("{}://{}", nats_scheme(self.nats_tls.is_some()), self.nats_listen)
    }

    /// The URL of the site's own REST interface on this machine.
    pub fn status_url(&self) -> String {
        format!("{}://{}", http_scheme(self.status_tls.is_some()), self.status_listen)
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
    pub fn open(data: &Path, plaintext: Plaintext) -> anyhow::Result<Self> {
        let site = Self::read(Folder::open(data), plaintext)?;
        site.renew_certificate()?;
        Ok(site)
    }

    fn read(folder: Folder, plaintext: Plaintext) -> anyhow::Result<Self> {
        let settings: SiteSettings = folder.settings("site.toml", "edgewright init-site")?;
        settings.check(plaintext)?;
        // Read again when the fetcher starts; here a wrong setting stops the program.
        downloads(&settings.downloads, &settings.registries, &folder.path(""))?;
        let credentials: SiteCredentials = credentials::load(&folder.path("credentials.toml"))?;
        plaintext.check_url("the hub's NATS server", &credentials.hub)?;
        plaintext.check_url("the hub's minter of logins", &credentials.minter)?;
        Ok(Self { folder, settings, credentials })
    }

    /// The file of the root certificates by which the site is known.
    fn trust_file(&self) -> PathBuf {
        self.folder.path("tls/root.pem")
    }

    fn tls(&self) -> anyhow::Result<&SiteTls> {
        let tls = self.credentials.tls.as_ref();
        tls.with_context(|| {
            let file = self.folder.path("credentials.toml");
            format!("{} brings no certificates: add the site anew, or allow it with --allow-plaintext", file.display())
        })
    }

    /// Makes the site's own certificate anew when a third of its life is over.
    fn renew_certificate(&self) -> anyhow::Result<()> {
        let SiteSettings { nats_tls, artifacts_tls, status_tls, .. } = &self.settings;
        let own = Some(TlsSettings::own());
        if ![nats_tls, artifacts_tls, status_tls].contains(&&own) {
            return Ok(());
        }
        let SiteTls { certificate, key, .. } = self.tls()?;
        let origin = self.folder.path("credentials.toml").display().to_string();
        // The name alone: the intermediate may sign for nothing else.
        let names = [Peer::Site(self.client()).dns_name()];
        if Issuer::parse(certificate, key, &origin)?.keep_leaf(&self.folder.path(OWN), &names)? {
            info!(site = %self.credentials.site, "a new certificate for the site's servers");
        }
        Ok(())
    }

    /// What a client of this peer needs, where the peer speaks TLS.
    fn client_tls(&self, peer: &Peer, tls: bool) -> anyhow::Result<Option<Arc<ClientConfig>>> {
        if !tls {
            return Ok(None);
        }
        let origin = self.folder.path("credentials.toml");
        Ok(Some(Trust::parse(&self.tls()?.root_certificates, origin.display())?.peer(peer)))
    }

    fn server_tls(&self, tls: Option<&TlsSettings>) -> anyhow::Result<Option<Arc<ServerConfig>>> {
        Ok(certificates::server(tls, &self.folder.path(""))?)
    }

    /// The file that holds the token for the site's own REST interface.
    pub fn status_token(&self) -> PathBuf {
        self.folder.path("keys/status.token")
    }

    fn client(&self) -> ClientName {
        self.credentials.site.client()
    }

    fn login(&self, user: User) -> anyhow::Result<Login> {
        let tls = self.client_tls(&Peer::Site(self.client()), self.settings.nats_tls.is_some())?;
        self.folder.login(user, self.settings.nats_listen, tls)
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
        let SiteCredentials { tenant, site, hub, minter, seed, root_key, tls: _ } = self.credentials.clone();
        let hub_tls = self.client_tls(&Peer::Hub, speaks_tls(&hub))?;
        let hub_minter_tls = self.client_tls(&Peer::Hub, speaks_tls(&minter))?;
        let [orchestrator, front, fetcher] = self.own_users();
        let artifacts_secret = self.folder.line("keys/artifacts.secret")?;
        match name {
            ServiceName::OciFetcher => {
                let config = oci_fetcher::Config {
                    base: Base { bus: self.login(fetcher)?, front: None, readiness, tenant },
                    client: self.client(),
                    data: self.folder.path("store"),
                    listen: self.settings.artifacts_listen,
                    tls: self.server_tls(self.settings.artifacts_tls.as_ref())?,
                    hub_tls,
                    secret: artifacts_secret,
                    downloads: downloads(&self.settings.downloads, &self.settings.registries, &self.folder.path(""))?,
                };
                oci_fetcher::run(config, shutdown).await
            }
            ServiceName::LocalOrchestrator => {
                let jwt = Jwt::File(self.folder.path("orchestrator/hub.jwt"));
                let config = local_orchestrator::Config {
                    authority: Arc::new(self.folder.authority(&tenant)?),
                    base: Base { bus: self.login(orchestrator)?, front: Some(self.login(front)?), readiness, tenant },
                    hub: Login { url: hub, tls: hub_tls, seed, jwt, user: User::Site(site.client()) },
                    hub_minter: minter,
                    hub_minter_tls,
                    minter: self.login(User::Minter)?,
                    site,
                    services: self.folder.public_keys(&self.own_users())?,
                    data: self.folder.path("orchestrator"),
                    root_key,
                    listen: self.settings.status_listen,
                    tls: self.server_tls(self.settings.status_tls.as_ref())?,
                    status_token: self.folder.line("keys/status.token")?,
                    artifacts_url: self.settings.artifacts_url.clone(),
                    artifacts_secret,
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
    plaintext: Plaintext,
    otlp_endpoint: Option<&str>,
    health: &Health,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let site = Site::open(data, plaintext)?;
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
pub fn init(data: &Path, credentials: &Path, settings: &SiteSettings, plaintext: Plaintext) -> anyhow::Result<Site> {
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
    let site = Site::read(folder, plaintext)?;
    let folder = &site.folder;
    site.renew_certificate()?;
    if let Some(tls) = &given.tls {
        disk::write_private(&site.trust_file(), tls.root_certificates.as_bytes())?;
    }
    for name in ["keys/status.token", "keys/artifacts.secret"] {
        folder.keep(name, || Ok(random_token().context("making a token")?.into_bytes()))?;
    }
    let [orchestrator, front, fetcher] = site.own_users();
    let (name, users) = (format!("site-{}", given.site), [orchestrator, front, fetcher, User::Minter]);
    let (listen, tls) = (site.settings.nats_listen, site.settings.nats_tls.as_ref());
    folder.keep_server(&name, listen, tls, &given.tenant, Members::Nodes, &users)?;
    Ok(site)
}

/// The data folder of a site inside that of `up`.
pub fn folder(data: &Path, site: &SiteName) -> PathBuf {
    data.join("sites").join(site.as_str())
}
