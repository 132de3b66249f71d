//! A site, a node with Docker, and documents for it.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use axum::{Router, extract::Path as UrlPath, http::StatusCode, routing::get};
use bus::proto;
use compose::Archive;
use edge_node::SpanBuffer;
use margo::{ApplicationDeployment, ApplicationDescription, Digest, Lock, LockedImage, TenantName};
use oci::{ArtifactManifest, Descriptor, media};
use runtime::Collector;
use runtime_docker::{DockerRuntime, DockerRuntimeConfig};
use tempfile::TempDir;
use testkit::{BusyboxImage, DockerEngine, docker_compose_binary, wait_for};

use crate::{
    agent::Agent,
    site::Site,
    testing::{entry, message, node},
};

/// An image by the words of its page.
#[derive(Clone, Copy, Debug)]
pub enum Image {
    Good(&'static str),
    /// Its config names a layer that it does not have.
    WrongLayers(&'static str),
}

impl Default for Image {
    fn default() -> Self {
        Self::Good("one")
    }
}

impl Image {
    /// The digest of its one layer.
    pub fn layer(self) -> Digest {
        Digest::of(&self.parts().layer)
    }

    /// The id by which the lock and the engine know it.
    pub fn id(self) -> Digest {
        Digest::of(&self.parts().config)
    }

    fn parts(self) -> BusyboxImage {
        match self {
            Self::Good(words) => BusyboxImage::new(words),
            Self::WrongLayers(words) => {
                let image = BusyboxImage::new(words);
                let layer = Digest::of(&image.layer).to_string();
                let config = String::from_utf8(image.config).unwrap();
                let config = config.replace(&layer, &Digest::of(b"another layer").to_string()).into_bytes();
                let manifest: ArtifactManifest = ArtifactManifest::parse(&image.manifest).unwrap();
                let descriptor = Descriptor::of(&manifest.config.media_type, &config);
                let manifest = ArtifactManifest { config: descriptor, ..manifest };
                BusyboxImage { manifest: manifest.to_json(), config, ..image }
            }
        }
    }
}

/// A revision of the application.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub compose: String,
    pub image: Image,
    /// In the place of the Compose Archive.
    pub archive: Option<&'static [u8]>,
    pub timeout: Option<&'static str>,
}

const DESCRIPTION: &str = "\
apiVersion: v1
id: shop
metadata:
  name: Shop
  version: 1.0.0
  catalog:
    organization: [{ name: ACME }]
deploymentProfiles:
  - id: only
    type: compose
    components:
      - name: shop
        properties: { repository: oci://edgewright.local/shop, revision: 1.0.0 }
";

pub struct World<'a> {
    engine: &'a DockerEngine,
    site: Site,
    data: TempDir,
    agent: Agent,
}

/// Starts the agent with Docker.
async fn start(engine: &DockerEngine, site: &Site, data: &Path, collector: Collector) -> Agent {
    let docker = DockerRuntimeConfig {
        compose: docker_compose_binary(),
        socket: engine.socket(),
        folder: data.join("docker"),
        address: "127.0.0.1".parse().unwrap(),
        reserved: "4222".parse().unwrap(),
        collector,
    };
    let runtime = Arc::new(DockerRuntime::new(docker).await.unwrap());
    Agent::run(site, data, vec![runtime], SpanBuffer::default())
}

impl<'a> World<'a> {
    pub async fn start(engine: &'a DockerEngine) -> Self {
        Self::with(engine, Site::start().await).await
    }

    /// With a site whose store has other bytes under this digest from the first moment on, and for ever. A store that was
    /// damaged only later would have been right when the agent asked it early.
    pub async fn with_damaged(engine: &'a DockerEngine, damaged: Digest) -> Self {
        let mut site = Site::start().await;
        let store = site.artifacts.clone();
        let answer = move |UrlPath(path): UrlPath<String>| {
            let digest: Digest = path.rsplit('/').next().and_then(|digest| digest.parse().ok()).unwrap();
            let bytes = fs::read(store.path(&digest)).map_err(|_| StatusCode::NOT_FOUND);
            async move { bytes.map(|bytes| if digest == damaged { vec![0; bytes.len()] } else { bytes }) }
        };
        site.serve_instead(Router::new().route("/v2/{*path}", get(answer))).await;
        Self::with(engine, site).await
    }

    async fn with(engine: &'a DockerEngine, site: Site) -> Self {
        let data = TempDir::new().unwrap();
        let agent = start(engine, &site, data.path(), Collector::default()).await;
        Self { engine, site, data, agent }
    }

    /// Ends the agent and starts one that makes other containers of the same package, as a newer version does: it tells them of a
    /// collector.
    pub async fn upgrade_agent(self) -> Self {
        let Self { engine, site, data, agent } = self;
        agent.stop().await.unwrap();
        let collector = Collector { http: Some("http://192.0.2.7:4318".to_owned()), grpc: None, certificate: None };
        let agent = start(engine, &site, data.path(), collector).await;
        Self { engine, site, data, agent }
    }

    /// Desires a revision whose content the site has, and returns the digest of its document.
    pub async fn desire(&self, version: u64, wanted: &Wanted) -> String {
        let image = wanted.image.parts();
        let archive = wanted.archive.map_or_else(|| pack(&wanted.compose), <[u8]>::to_vec);
        let layer = Descriptor::of(media::COMPOSE, &archive);
        let artifact = ArtifactManifest::artifact(media::COMPOSE_ARTIFACT, vec![layer]).to_json();
        let locked = LockedImage { manifest: Digest::of(&image.manifest), id: Digest::of(&image.config) };
        let blobs = [&archive, &artifact, &image.manifest, &image.config, &image.layer];
        for bytes in blobs.into_iter().map(Vec::as_slice).chain([media::EMPTY_CONFIG]) {
            self.site.artifacts.put(bytes).await.unwrap();
        }
        let name = "shop".parse().unwrap();
        for manifest in [Digest::of(&artifact), locked.manifest] {
            self.site.artifacts.link(&name, &manifest).await.unwrap();
        }
        let document = document(wanted, Digest::of(&artifact), locked);
        let entry = entry(&document);
        self.site.publish(&message(version, vec![entry.clone()]), "").await;
        entry.digest
    }

    pub async fn desire_nothing(&self, version: u64) {
        self.site.publish(&message(version, Vec::new()), "").await;
    }

    /// Waits for a status of the one deployment that is as wanted.
    pub async fn told(&self, what: &str, is: impl Fn(&proto::DeploymentStatus) -> bool) -> proto::DeploymentStatus {
        self.told_after(0, what, is).await
    }

    /// How many reports have come.
    pub fn reports(&self) -> usize {
        self.site.reports().len()
    }

    /// The same in a report that came after so many.
    pub async fn told_after(
        &self,
        after: usize,
        what: &str,
        is: impl Fn(&proto::DeploymentStatus) -> bool,
    ) -> proto::DeploymentStatus {
        let found = |report: &proto::ReportRequest| {
            let deployments = report.status.iter().flat_map(|status| &status.deployments);
            deployments.into_iter().find(|deployment| is(deployment)).cloned()
        };
        let report = self.site.report_after(after, what, |report| found(report).is_some()).await;
        found(&report).unwrap()
    }

    /// Waits until the page on the node says this.
    pub async fn answers(&self, words: &str) {
        wait_for("the page", async || match self.engine.get("127.0.0.1:8081") {
            Some(text) if text == words => Ok(()),
            other => Err(other),
        })
        .await;
    }

    /// Waits until this command of `docker` writes these lines.
    pub async fn has(&self, what: &str, command: &[&str], lines: &[&str]) {
        wait_for(what, async || {
            let found = self.engine.docker(command).unwrap();
            if found.lines().eq(lines.iter().copied()) { Ok(()) } else { Err(found) }
        })
        .await;
    }

    /// The id of the only container.
    pub fn container(&self) -> String {
        self.engine.docker(&["ps", "--all", "--quiet", "--no-trunc"]).unwrap()
    }

    /// Waits until the node keeps one revision of its one workload.
    pub async fn keeps_one_revision(&self) {
        let workloads = self.data.path().join("docker/workloads");
        wait_for("one revision to be kept", async || {
            let folders: Vec<_> = fs::read_dir(&workloads).unwrap().map(|entry| entry.unwrap().path()).collect();
            let [only] = &folders[..] else { return Err(format!("{folders:?}")) };
            let kept = fs::read_dir(only.join("revisions")).unwrap().count();
            if kept == 1 { Ok(()) } else { Err(format!("{kept}")) }
        })
        .await;
    }

    /// The names of what is left in the folder of workloads.
    pub fn folders(&self) -> Vec<String> {
        let entries = fs::read_dir(self.data.path().join("docker/workloads")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    pub async fn stop(self) {
        self.agent.stop().await.unwrap();
    }
}

fn pack(compose: &str) -> Vec<u8> {
    let folder = TempDir::new().unwrap();
    write(folder.path(), compose);
    Archive::pack(folder.path(), "shop").unwrap()
}

fn write(folder: &Path, compose: &str) {
    fs::write(folder.join("compose.yaml"), compose).unwrap();
}

fn document(wanted: &Wanted, artifact: Digest, image: LockedImage) -> ApplicationDeployment {
    let mut description = ApplicationDescription::parse(DESCRIPTION.as_bytes(), "margo.yaml").unwrap();
    description.profiles[0].components[0].properties.timeout = wanted.timeout.map(str::to_owned);
    let words = match wanted.image {
        Image::Good(words) | Image::WrongLayers(words) => words,
    };
    let platform = if cfg!(target_arch = "aarch64") { "linux/arm64" } else { "linux/amd64" };
    let images = BTreeMap::from([(format!("{words}:1"), BTreeMap::from([(platform.to_owned(), image)]))]);
    let component: margo::ComponentName = "shop".parse().unwrap();
    let lock = Lock {
        components: BTreeMap::from([(component.clone(), artifact)]),
        images: BTreeMap::from([(component, images)]),
    };
    let (tenant, assignment) = (TenantName::default(), "shop".parse().unwrap());
    let device = (&node()).into();
    ApplicationDeployment::new(&tenant, &assignment, &node(), device, &description, "only", &BTreeMap::new(), &lock)
        .unwrap()
}
