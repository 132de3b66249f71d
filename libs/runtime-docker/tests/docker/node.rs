//! A node of a test: a content store, a runtime on a folder, and workloads for it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use compose::Archive;
use margo::{Digest, LockedImage, ParameterValue};
use oci::{ArtifactManifest, ContentStore, Descriptor, media};
use runtime::{Artifact, Call, Collector, Condition, ContentKind, Observed, Runtime, Workload, WorkloadId};
use runtime_docker::{DockerRuntime, DockerRuntimeConfig};
use tempfile::TempDir;
use testkit::{BusyboxImage, DockerEngine, docker_compose_binary, wait_for};

/// More than any call takes on a loaded machine.
const LIMIT: Duration = Duration::from_secs(120);

/// A node with its disk.
pub struct Node {
    pub folder: TempDir,
    pub content: ContentStore,
    pub runtime: DockerRuntime,
    socket: PathBuf,
}

/// What a test wants to run.
pub struct Wanted<'a> {
    pub deployment: &'a str,
    pub component: &'a str,
    /// The text of `compose.yaml`, in which each image is called by its words.
    pub compose: &'a str,
    /// The words of each image.
    pub images: &'a [&'a str],
    pub values: &'a [(&'a str, &'a str)],
    pub settings: serde_json::Value,
}

impl Default for Wanted<'_> {
    fn default() -> Self {
        Self {
            deployment: "9db79949-86fb-5e45-910d-8a83dd7391cc",
            component: "shop",
            compose: "",
            images: &["one"],
            values: &[],
            settings: serde_json::Value::Null,
        }
    }
}

impl Node {
    pub async fn new(engine: &DockerEngine) -> Self {
        let folder = TempDir::new().unwrap();
        let content = ContentStore::open(folder.path().join("store")).await.unwrap();
        let runtime = Self::runtime(folder.path(), &engine.socket()).await;
        Self { folder, content, runtime, socket: engine.socket() }
    }

    async fn runtime(folder: &Path, socket: &Path) -> DockerRuntime {
        let certificate = folder.join("collector");
        fs::create_dir_all(&certificate).unwrap();
        fs::write(certificate.join("collector.pem"), "a certificate").unwrap();
        let http = Some("http://192.0.2.7:4318".to_owned());
        let config = DockerRuntimeConfig {
            compose: docker_compose_binary(),
            socket: socket.to_owned(),
            folder: folder.join("docker"),
            address: "127.0.0.1".parse().unwrap(),
            reserved: "4222".parse().unwrap(),
            collector: Collector { http, grpc: None, certificate: Some(certificate) },
        };
        DockerRuntime::new(config).await.unwrap()
    }

    /// The next life of the agent on the same disk.
    pub async fn begin_anew(&mut self) {
        self.runtime = Self::runtime(self.folder.path(), &self.socket).await;
    }

    /// Makes a workload, whose content comes onto the disk as the agent brings it: what the runtime names, in rounds.
    pub async fn workload(&self, wanted: &Wanted<'_>) -> Workload {
        let (workload, blobs) = self.foreseen(wanted).await;
        for _ in 0..5 {
            for need in self.runtime.needs(&workload).await.unwrap() {
                let bytes = &blobs[&need.digest];
                assert!(bytes.len() as u64 <= need.size && need.repository == workload.artifact.repository);
                assert!(need.kind == ContentKind::Blob || ArtifactManifest::parse(bytes).is_ok());
                self.content.put(bytes).await.unwrap();
            }
        }
        workload
    }

    /// Makes a workload with nothing on the disk yet but its manifest, and all the content that it may need.
    pub async fn foreseen(&self, wanted: &Wanted<'_>) -> (Workload, BTreeMap<Digest, Vec<u8>>) {
        let app = TempDir::new().unwrap();
        fs::write(app.path().join("compose.yaml"), wanted.compose).unwrap();
        fs::write(app.path().join("web.env"), "FROM_FILE=yes\n").unwrap();
        let archive = Archive::pack(app.path(), wanted.component).unwrap();
        let layer = Descriptor::of(media::COMPOSE, &archive);
        let manifest = ArtifactManifest::artifact(media::COMPOSE_ARTIFACT, vec![layer]);
        let mut blobs = BTreeMap::from([(Digest::of(&archive), archive)]);
        let mut images = BTreeMap::new();
        for words in wanted.images {
            let image = BusyboxImage::new(words);
            let locked = LockedImage { manifest: Digest::of(&image.manifest), id: image.id() };
            let platform = if cfg!(target_arch = "aarch64") { "linux/arm64" } else { "linux/amd64" };
            images.insert(format!("{words}:1"), BTreeMap::from([(platform.to_owned(), locked)]));
            for bytes in [image.manifest, image.config, image.layer] {
                blobs.insert(Digest::of(&bytes), bytes);
            }
        }
        let digest = self.content.put(&manifest.to_json()).await.unwrap();
        let document = format!("{} {:?} {:?} {}", wanted.compose, wanted.values, wanted.images, wanted.settings);
        let value = |(name, value): &(&str, &str)| ((*name).to_owned(), ParameterValue::Text((*value).to_owned()));
        let workload = Workload {
            id: WorkloadId {
                deployment: wanted.deployment.parse().unwrap(),
                component: wanted.component.parse().unwrap(),
            },
            digest: Digest::of(document.as_bytes()),
            artifact: Artifact { repository: wanted.component.parse().unwrap(), digest, manifest },
            values: wanted.values.iter().map(value).collect(),
            images,
            settings: wanted.settings.clone(),
            content: self.content.clone(),
        };
        (workload, blobs)
    }

    /// Prepares and applies, as the agent does.
    pub async fn apply(&self, workload: &Workload) {
        self.runtime.prepare(workload.clone(), call()).await.unwrap();
        self.runtime.apply(workload.clone(), call()).await.unwrap();
    }

    pub async fn remove(&self, id: &WorkloadId) {
        self.runtime.remove(id.clone(), call()).await.unwrap();
        assert!(self.observed(id).await.is_none());
    }

    /// What is observed of a workload.
    pub async fn observed(&self, id: &WorkloadId) -> Option<Observed> {
        self.runtime.observe().await.unwrap().into_iter().find(|observed| observed.id == *id)
    }

    /// Waits until the workload is seen as wanted, as the agent sees it.
    pub async fn sees(&self, id: &WorkloadId, what: &str, is_so: impl Fn(&Observed) -> bool) -> Observed {
        wait_for(what, async || match self.observed(id).await {
            Some(observed) if is_so(&observed) => Ok(observed),
            other => Err(other),
        })
        .await
    }

    /// Waits until this revision is up.
    pub async fn is_up(&self, workload: &Workload) -> Observed {
        let digest = workload.digest;
        self.sees(&workload.id, "the workload to be up", |it| it.digest == digest && it.condition.is_up()).await
    }
}

pub fn call() -> Call {
    Call::within(LIMIT)
}

/// The code and the message of a failure.
pub fn failure(condition: &Condition) -> Option<(&str, &str)> {
    match condition {
        Condition::Failed { code, message } => Some((code, message)),
        _ => None,
    }
}
