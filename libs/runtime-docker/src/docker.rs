//! The runtime itself: which workloads there are, and how one revision gives way to the next.
//!
//! Each workload has a slot of its own, and calls for one workload take turns in it, so one that is slow to stop holds up no
//! other. Applying, removing and restarting run as tasks of their own from the point where they begin to change what runs: a
//! caller that gives up then waits no longer, and what was begun is still brought to its end, which has a limit.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs::File,
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bollard::query_parameters::{RemoveVolumeOptions, StatsOptionsBuilder};
use compose::Archive;
use disk::blocking;
use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, join_all, try_join_all},
};
use margo::{Digest, LockedImage, ProfileType};
use process::chain;
use runtime::{Call, Condition, ContentKind, Need, Observed, Runtime, RuntimeError, Stats, Workload, WorkloadId};
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::AbortOnDropHandle,
};
use tracing::{error, info, warn};

use crate::{
    condition::{Change, Container, judge, settled},
    engine::{AGENT, COMPONENT, DEPLOYMENT, Engine, failed, is_absent},
    folder::{Folder, InForce, Revision, ServiceSpec},
    images::{self, Removal, local_name},
    revision::{self, Checked, Settings, Volumes},
    shared::{DockerRuntimeConfig, Shared, io_error, project_arguments},
    slot::Slot,
    supervisor,
    tool::Tool,
};

/// `docker-compose version` and the engine answer within milliseconds, unless the node is in trouble.
const DETECT_PATIENCE: Duration = Duration::from_secs(10);
/// For stopping everything when the agent ends: Compose gives each container ten seconds by default.
const SUSPEND_LIMIT: Duration = Duration::from_secs(60);
/// The lines of a container that the message of its failure shows.
const FAILURE_LINES: usize = 3;
/// The containers of one workload whose lines are read for that. A workload fails whole, and each costs a request.
const FAILURES_TOLD: usize = 4;
/// The longest line that a message of a failure shows.
const LONGEST_LINE: usize = 160;
/// A request for what a container has used takes two looks of the engine.
const STATS_PATIENCE: Duration = Duration::from_secs(10);
/// The oldest Compose that knows `pull_policy: never` in the form that is written, as (major, minor).
const OLDEST_COMPOSE: (u64, u64) = (2, 20);

/// Runs Compose Archives on Docker Engine.
///
/// Dropping it leaves the containers alone; [`Runtime::suspend`] stops them.
pub struct DockerRuntime {
    shared: Arc<Shared>,
    _listener: AbortOnDropHandle<()>,
    _stop: DropGuard,
}

impl DockerRuntime {
    /// Goes on with what an earlier life of the agent left. Nothing is asked of the engine yet, which may start after us or
    /// not be there at all.
    pub async fn new(config: DockerRuntimeConfig) -> Result<Self, RuntimeError> {
        let absolute = |path: &Path| std::path::absolute(path).map_err(io_error("finding the current folder"));
        let config = DockerRuntimeConfig {
            compose: absolute(&config.compose)?,
            socket: absolute(&config.socket)?,
            folder: absolute(&config.folder)?,
            ..config
        };
        let (workloads, home) = (config.folder.join("workloads"), config.folder.join("home"));
        let preparing = format!("preparing the folder {}", config.folder.display());
        let (id_file, folders) = (config.folder.join("agent"), [workloads.clone(), home.clone()]);
        let agent = blocking(move || {
            folders.iter().try_for_each(|folder| disk::make_private_folder(folder))?;
            match disk::read_optional(&id_file)?.and_then(|id| String::from_utf8(id).ok()) {
                Some(id) => Ok(id),
                None => {
                    let id = uuid::Uuid::new_v4().to_string();
                    disk::write_private(&id_file, id.as_bytes())?;
                    Ok(id)
                }
            }
        });
        let agent = agent.await.map_err(io_error(preparing))?;
        let shared = Arc::new(Shared {
            tool: Tool { program: config.compose.clone(), socket: config.socket.clone(), home },
            engine: Engine::new(config.socket.clone()),
            agent,
            stop: CancellationToken::new(),
            slots: Mutex::default(),
            first: Notify::new(),
            changed: Arc::default(),
            ports: Mutex::default(),
            used_images: Mutex::default(),
            dropping: tokio::sync::Mutex::default(),
            checked: Mutex::default(),
            config,
        });
        let reading = || format!("reading {}", workloads.display());
        for folder in Folder::list(&workloads).map_err(io_error(reading()))? {
            shared.find(folder).await.map_err(io_error(reading()))?;
        }
        let listener = AbortOnDropHandle::new(tokio::spawn(supervisor::listen(shared.clone())));
        let stop = shared.stop.clone().drop_guard();
        Ok(Self { shared, _listener: listener, _stop: stop })
    }
}

impl Shared {
    /// Goes on with what an earlier life of the agent left in this folder.
    async fn find(self: &Arc<Self>, folder: Folder) -> io::Result<()> {
        let found = folder.clone();
        match blocking(move || found.in_force()).await {
            Ok(Some(in_force)) => {
                let (old, digest) = (folder.clone(), in_force.revision.digest);
                let prepared = blocking(move || {
                    let images = old.images()?;
                    old.retain(&[digest]).map(|()| images)
                });
                self.forget_images(prepared.await?);
                let slot = self.slot(&in_force.revision.workload);
                slot.set_in_force(in_force);
                slot.turn.lock().await.supervisor = Some(self.supervise(&slot));
            }
            Ok(None) => {
                info!(folder = %folder.path().display(), "removing what is left of a workload");
                let images = blocking(move || {
                    let images = folder.images()?;
                    folder.delete().map(|()| images)
                });
                self.forget_images(images.await?);
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let error = &error as &dyn std::error::Error;
                error!(folder = %folder.path().display(), error, "left alone until it is applied or removed");
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn supervise(self: &Arc<Self>, slot: &Arc<Slot>) -> AbortOnDropHandle<()> {
        let (shared, slot) = (self.clone(), slot.clone());
        let stop = self.stop.clone();
        AbortOnDropHandle::new(tokio::spawn(async move {
            stop.run_until_cancelled(supervisor::supervise(shared, slot)).await;
        }))
    }

    /// Reads and checks the archive of a workload off the async threads.
    async fn check(&self, workload: &Workload) -> Result<Checked, RuntimeError> {
        let (workload, address) = (workload.clone(), self.config.address);
        let reserved = self.config.reserved.clone();
        let checked = tokio::task::spawn_blocking(move || revision::check(&workload, address, &reserved)).await;
        checked.map_err(|error| io_error("reading a Compose Archive")(io::Error::other(error)))?
    }

    async fn needs(&self, workload: &Workload) -> Result<Vec<Need>, RuntimeError> {
        let layer = revision::archive(&workload.artifact)?;
        if layer.size > compose::MAX_ARCHIVE {
            return Err(RuntimeError::Invalid(format!("a Compose Archive has at most {} bytes", compose::MAX_ARCHIVE)));
        }
        let mut needs = vec![workload.artifact.blob(layer)];
        if !workload.content.contains(&layer.digest) {
            return Ok(needs);
        }
        let checked = self.check(workload).await?;
        let ports = (workload.digest, checked.project.ports());
        self.ports.lock().unwrap_or_else(PoisonError::into_inner).insert(workload.id.clone(), ports);
        let docker = self.engine.client().await?;
        let repository = &workload.artifact.repository;
        for image in unique(&checked) {
            if images::is_loaded(&docker, &workload.content, image).await? {
                continue;
            }
            needs.push(Need {
                repository: repository.clone(),
                kind: ContentKind::Manifest,
                digest: image.manifest,
                size: oci::MAX_MANIFEST,
            });
            if !workload.content.contains(&image.manifest) {
                continue;
            }
            let manifest = workload.content.manifest(&image.manifest).await;
            let manifest =
                manifest.map_err(|error| io_error("reading the manifest of an image")(io::Error::other(error)))?;
            needs.extend(manifest.blobs().map(|blob| workload.artifact.blob(blob)));
        }
        Ok(needs)
    }

    fn ports(&self, workload: &Workload) -> BTreeSet<u16> {
        let known = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        let of_this = known.get(&workload.id).filter(|(digest, _)| *digest == workload.digest);
        of_this.map(|(_, ports)| ports.clone()).unwrap_or_default()
    }

    /// Makes the revision beside the one in force, and loads its images.
    async fn prepare_in(&self, slot: &Slot, workload: &Workload, call: &Call) -> Result<Revision, RuntimeError> {
        let (folder, digest) = (slot.folder.clone(), workload.digest);
        let reading = || format!("reading {}", slot.folder.path().display());
        let prepared = blocking(move || folder.prepared(&digest)).await;
        let prepared = match prepared {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => None,
            prepared => prepared.map_err(io_error(reading()))?,
        };
        let checked = self.check(workload).await?;
        let revision = match prepared {
            Some(revision) => revision,
            None => self.make(slot, workload, &checked).await?,
        };
        let docker = self.engine.client().await?;
        let images: Vec<_> = unique(&checked).collect();
        // Nobody drops from here on what the engine has of it.
        let dropping = self.dropping.lock().await;
        slot.view().preparing = revision.images.clone();
        drop(dropping);
        for (at, image) in images.iter().enumerate() {
            if !images::is_loaded(&docker, &workload.content, image).await? {
                call.progress.tell(format!("loading image {} of {}", at + 1, images.len()));
                images::load(&docker, &workload.content, image).await?;
                info!(workload = %workload.id, image = %image.id, "loaded an image");
            }
        }
        Ok(revision)
    }

    async fn make(&self, slot: &Slot, workload: &Workload, checked: &Checked) -> Result<Revision, RuntimeError> {
        let (text, revisions) = checked.render(workload, &self.agent, self.config.address, &self.config.collector);
        let service = |(name, service): (&String, &compose::Service)| {
            let revision = revisions[name].clone();
            (name.clone(), ServiceSpec { revision, replicas: service.replicas, is_job: service.is_job })
        };
        let revision = Revision {
            workload: workload.id.clone(),
            digest: workload.digest,
            services: checked.project.services.iter().map(service).collect(),
            images: unique(checked).map(|image| local_name(&image.id)).collect(),
            ports: checked.project.ports(),
            volumes: Settings::parse(&workload.settings)?.volumes,
        };
        let archive = workload.content.path(&revision::archive(&workload.artifact)?.digest);
        let (folder, made) = (slot.folder.clone(), revision.clone());
        let in_force = slot.in_force().map(|in_force| in_force.revision.digest);
        let making = move || -> Result<(), RuntimeError> {
            let writing = || format!("writing into {}", folder.path().display());
            // Of revisions that are not in force at most one is kept.
            folder.retain(&in_force.into_iter().collect::<Vec<_>>()).map_err(io_error(writing()))?;
            folder.begin(&made.digest).map_err(io_error(writing()))?;
            let archive = File::open(&archive).map_err(io_error(format!("opening {}", archive.display())))?;
            let files = folder.files(&made.digest);
            Archive::extract(archive, &files).map_err(revision::extracting)?;
            // Before anything says that they are there.
            disk::sync_tree(&files).map_err(io_error(writing()))?;
            folder.finish(&made, &text).map_err(io_error(writing()))
        };
        let making = tokio::task::spawn_blocking(making).await;
        making.map_err(|error| io_error("making a revision")(io::Error::other(error)))??;
        Ok(revision)
    }

    async fn prepare(&self, workload: Workload, call: Call) -> Result<(), RuntimeError> {
        let (slot, _turn) = self.turn(&workload.id).await;
        if slot.in_force().is_some_and(|in_force| in_force.revision.digest == workload.digest) {
            return Ok(());
        }
        self.prepare_in(&slot, &workload, &call).await.map(|_| ())
    }

    async fn give_up(&self, id: WorkloadId) {
        let Some(slot) = self.slot_of(&id) else { return };
        let _turn = slot.turn.lock().await;
        let Some(in_force) = slot.in_force() else { return };
        slot.view().preparing.clear();
        let (folder, kept) = (slot.folder.clone(), in_force.revision.digest);
        let given_up = blocking(move || {
            let images = folder.images()?;
            folder.retain(&[kept]).map(|()| images)
        });
        match given_up.await.map_err(io_error("giving a revision up")) {
            Ok(images) => self.drop_images(images).await,
            Err(error) => {
                warn!(workload = %id, error = &error as &dyn std::error::Error, "a prepared revision stays");
            }
        }
    }

    async fn apply(self: Arc<Self>, workload: Workload, call: Call) -> Result<(), RuntimeError> {
        let (slot, mut turn) = self.turn(&workload.id).await;
        let before = slot.in_force();
        if before.as_ref().is_some_and(|it| it.applied && it.revision.digest == workload.digest) {
            return Ok(());
        }
        let revision = self.prepare_in(&slot, &workload, &call).await?;
        call.progress.tell("docker compose up");
        let shared = self.clone();
        to_its_end(async move {
            // Another one would bring back what is being replaced.
            turn.supervisor = None;
            let _changing = slot.changing(Change::Applying);
            let in_force = InForce { applied: false, revision };
            let (folder, written) = (slot.folder.clone(), in_force.clone());
            let enforced = blocking(move || folder.enforce(&written)).await;
            enforced.map_err(io_error(format!("writing into {}", slot.folder.path().display())))?;
            slot.set_in_force(in_force.clone());
            shared.changed.notify_one();
            process::stop_point("runtime-docker.enforced");
            let applied = shared.up(&slot, &in_force, call.deadline).await;
            if applied.is_ok() {
                let old = before.map(|before| before.revision.images).unwrap_or_default();
                shared.drop_images(old).await;
            }
            // What failed is tried again, until we are told otherwise.
            turn.supervisor = Some(shared.supervise(&slot));
            shared.changed.notify_one();
            applied
        })
        .await
    }

    async fn remove(self: Arc<Self>, id: WorkloadId, call: Call) -> Result<(), RuntimeError> {
        if self.slot_of(&id).is_none() && !self.folder(&id).path().exists() {
            return Ok(());
        }
        let (slot, mut turn) = self.turn(&id).await;
        let shared = self.clone();
        to_its_end(async move {
            turn.supervisor = None;
            let in_force = slot.in_force();
            // One that was only prepared has no containers.
            let mut volumes = Vec::new();
            if in_force.is_some() || slot.folder.has_in_force() {
                volumes = shared.nameless_volumes(&id).await;
                let _changing = slot.changing(Change::Stopping);
                call.progress.tell("docker compose down");
                let mut arguments = vec![OsString::from("--project-name"), OsString::from(&slot.project)];
                arguments.extend(["down", "--remove-orphans"].map(OsString::from));
                if in_force.as_ref().is_some_and(|in_force| in_force.revision.volumes == Volumes::Delete) {
                    arguments.push("--volumes".into());
                }
                if let Err(error) = shared.tool.run(arguments, call.deadline).await {
                    turn.supervisor = Some(shared.supervise(&slot));
                    return Err(error);
                }
            }
            let folder = slot.folder.clone();
            let deleted = blocking(move || {
                let images = folder.images()?;
                folder.delete().map(|()| images)
            });
            let images = deleted.await.map_err(io_error(format!("removing {}", slot.folder.path().display())))?;
            turn.is_removed = true;
            shared.slots().remove(&id);
            shared.ports.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            shared.drop_volumes(volumes).await;
            shared.drop_images(images).await;
            shared.changed.notify_one();
            Ok(())
        })
        .await
    }

    /// Has these images of ours removed with the next ones, as far as no workload needs them.
    fn forget_images(&self, images: BTreeSet<String>) {
        self.used_images.lock().unwrap_or_else(PoisonError::into_inner).extend(images);
    }

    /// Removes these images of ours as far as no workload needs them. One that somebody else uses is tried again when others are
    /// removed: an image that stays costs room and nothing else.
    pub async fn drop_images(&self, mut candidates: BTreeSet<String>) {
        let _dropping = self.dropping.lock().await;
        candidates.append(&mut self.used_images.lock().unwrap_or_else(PoisonError::into_inner));
        for slot in self.all_slots() {
            let view = slot.view();
            let in_force = view.in_force.iter().flat_map(|it| &it.revision.images);
            for name in in_force.chain(&view.preparing) {
                candidates.remove(name);
            }
        }
        let Ok(docker) = self.engine.client().await else {
            return self.forget_images(candidates);
        };
        let mut left = BTreeSet::new();
        for name in candidates {
            match images::remove(&docker, &name).await {
                Ok(Removal::Gone) => {}
                Ok(Removal::Used) => {
                    left.insert(name);
                }
                Err(error) => {
                    warn!(name, error = &error as &dyn std::error::Error, "an image stays");
                    left.insert(name);
                }
            }
        }
        self.forget_images(left);
    }

    /// The volumes without a name of a workload's containers. Nobody could find them again when the containers are gone.
    async fn nameless_volumes(&self, id: &WorkloadId) -> Vec<String> {
        let listed = self.engine.containers(self.labels(id)).await.unwrap_or_default();
        let mounts = listed.into_iter().flat_map(|container| container.mounts.unwrap_or_default());
        let is_nameless = |name: &String| name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
        mounts.filter_map(|mount| mount.name).filter(is_nameless).collect()
    }

    async fn drop_volumes(&self, names: Vec<String>) {
        let Ok(docker) = self.engine.client().await else { return };
        for name in names {
            match docker.remove_volume(&name, None::<RemoveVolumeOptions>).await {
                Err(error) if !is_absent(&error) => {
                    warn!(name, error = &error as &dyn std::error::Error, "a volume without a name stays");
                }
                _ => {}
            }
        }
    }

    async fn restart(self: Arc<Self>, id: WorkloadId, call: Call) -> Result<(), RuntimeError> {
        let slot = self.slot_of(&id).ok_or_else(|| RuntimeError::Absent(id.clone()))?;
        let turn = slot.turn.clone().lock_owned().await;
        let in_force = slot.in_force().filter(|_| !turn.is_removed).ok_or_else(|| RuntimeError::Absent(id.clone()))?;
        call.progress.tell("docker compose restart");
        let shared = self.clone();
        to_its_end(async move {
            let _turn = turn;
            let _changing = slot.changing(Change::Stopping);
            let mut arguments = project_arguments(&slot, &in_force.revision.digest);
            arguments.push("restart".into());
            let restarted = shared.tool.run(arguments, call.deadline).await;
            slot.wake.notify_one();
            shared.changed.notify_one();
            restarted.map(|_| ())
        })
        .await
    }

    async fn suspend(&self) -> Result<(), RuntimeError> {
        let slots = std::mem::take(&mut *self.slots());
        let stops = slots.into_values().map(async |slot| {
            let mut turn = slot.turn.lock().await;
            turn.is_removed = true;
            turn.supervisor = None;
            if slot.in_force().is_none() {
                return Ok(());
            }
            let _changing = slot.changing(Change::Stopping);
            let arguments = ["--project-name", &slot.project, "stop"];
            self.tool.run(arguments, Instant::now() + SUSPEND_LIMIT).await.map(|_| ())
        });
        let stopped = join_all(stops).await.into_iter().collect();
        self.changed.notify_one();
        stopped
    }

    async fn detect(&self) -> Result<(), String> {
        let engine = timeout(DETECT_PATIENCE, self.engine.ping()).await;
        engine.map_err(|_| "Docker Engine does not answer".to_owned())?.map_err(|error| chain(&error))?;
        if *self.checked.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(());
        }
        let told = self.tool.run(["version", "--short"], Instant::now() + DETECT_PATIENCE).await;
        let told = told.map_err(|error| chain(&error))?;
        let version = told.trim().trim_start_matches('v');
        let mut numbers = version.split('.').map_while(|number| number.parse::<u64>().ok());
        let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if found < OLDEST_COMPOSE {
            let (major, minor) = OLDEST_COMPOSE;
            return Err(format!("docker-compose must be {major}.{minor} or newer, not {version:?}"));
        }
        *self.checked.lock().unwrap_or_else(PoisonError::into_inner) = true;
        Ok(())
    }

    async fn observe(&self) -> Result<Vec<Observed>, RuntimeError> {
        let slots: Vec<_> = self.all_slots().into_iter().filter(|slot| slot.in_force().is_some()).collect();
        // A node without Docker, and without anything of ours in it, is observed all the same.
        if slots.is_empty() {
            return Ok(Vec::new());
        }
        let listed = self.engine.containers(vec![format!("{AGENT}={}", self.agent)]).await?;
        let mut by_workload: BTreeMap<(String, String), Vec<Container>> = BTreeMap::new();
        for summary in &listed {
            let label = |key: &str| summary.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str);
            if let (Some(deployment), Some(component), Some(container)) =
                (label(DEPLOYMENT), label(COMPONENT), Container::read(summary))
            {
                by_workload.entry((deployment.to_owned(), component.to_owned())).or_default().push(container);
            }
        }
        let mut observed = Vec::new();
        for slot in slots {
            let key = (slot.id.deployment.to_string(), slot.id.component.to_string());
            let containers = by_workload.remove(&key).unwrap_or_default();
            observed.extend(self.look(&slot, &containers).await);
        }
        Ok(observed)
    }

    /// What is to be told about one workload.
    async fn look(&self, slot: &Slot, containers: &[Container]) -> Option<Observed> {
        let (revision, restarts, failure, judged) = {
            let mut view = slot.view();
            let revision = view.in_force.as_ref()?.revision.clone();
            view.settled.extend(settled(&revision, containers));
            let failure = view.failure.clone().filter(|_| slot.change() == Change::None);
            let judged = judge(&revision, containers, &view.ends, &view.settled, slot.change(), Instant::now());
            (revision, view.restarts, failure, judged)
        };
        let mut parts = Vec::new();
        let mut told = 0;
        for judged in judged {
            let mut part = judged.part;
            if let (Condition::Failed { message, .. }, Some(container)) = (&mut part.condition, judged.container)
                && told < FAILURES_TOLD
            {
                told += 1;
                let lines = self.engine.lines(&container, FAILURE_LINES).await.unwrap_or_default();
                let lines: Vec<String> = lines.iter().map(|line| without_time(line)).collect();
                if !lines.is_empty() {
                    message.push_str(": ");
                    message.push_str(&lines.join(" | "));
                }
                let mut view = slot.view();
                view.ends.entry(part.name.clone()).or_default().shown = Some(part.condition.clone());
            }
            parts.push(part);
        }
        let endpoint = parts.iter().find_map(|part| match &part.condition {
            Condition::Running { endpoint } => endpoint.clone(),
            _ => None,
        });
        let mut whole = Observed::of_parts(slot.id.clone(), revision.digest, parts);
        if let Condition::Running { endpoint: shown } = &mut whole.condition {
            *shown = endpoint;
        }
        if let Some(failure) = failure {
            whole.condition = failure;
        }
        Some(Observed { restarts, ports: revision.ports, ..whole })
    }

    async fn logs(&self, id: WorkloadId, lines: usize) -> Result<Vec<String>, RuntimeError> {
        let slot = self.slot_of(&id).filter(|slot| slot.in_force().is_some()).ok_or(RuntimeError::Absent(id))?;
        let containers = self.containers(&slot.id).await?;
        let read = containers.iter().map(async |container| {
            let read = self.engine.lines(&container.id, lines).await?;
            let named = |line: String| {
                let (time, text) = line.split_once(' ').unwrap_or(("", &line));
                (time.to_owned(), format!("{}: {text}", container.name))
            };
            Ok::<Vec<_>, RuntimeError>(read.into_iter().map(named).collect())
        });
        let mut all = try_join_all(read).await?.concat();
        all.sort_by(|(one, _), (other, _)| one.cmp(other));
        let last = all.split_off(all.len().saturating_sub(lines));
        Ok(last.into_iter().map(|(_, line)| line).collect())
    }

    async fn stats(&self, id: WorkloadId) -> Result<Stats, RuntimeError> {
        let slot = self.slot_of(&id).filter(|slot| slot.in_force().is_some()).ok_or(RuntimeError::Absent(id))?;
        let docker = self.engine.client().await?;
        let containers = self.containers(&slot.id).await?;
        let options = || StatsOptionsBuilder::new().stream(false).one_shot(true).build();
        let asked = containers.iter().map(async |container| {
            let mut stats = std::pin::pin!(docker.stats(&container.id, Some(options())));
            match timeout(STATS_PATIENCE, stats.next()).await {
                Ok(Some(stats)) => stats.map(Some).map_err(failed("measuring a container")),
                Ok(None) | Err(_) => Ok(None),
            }
        });
        let mut sum = Stats::default();
        for stats in try_join_all(asked).await?.into_iter().flatten() {
            if let Some(used) = stats.cpu_stats.and_then(|cpu| cpu.cpu_usage?.total_usage) {
                sum.cpu_time = Some(sum.cpu_time.unwrap_or_default() + Duration::from_nanos(used));
            }
            if let Some(memory) = stats.memory_stats
                && let Some(usage) = memory.usage
            {
                // What is only cached of files is given back when somebody needs it; cgroup v1 and v2 call it differently.
                let cached = memory.stats.unwrap_or_default();
                let cached = cached.get("total_inactive_file").or_else(|| cached.get("inactive_file")).copied();
                let held = usage.saturating_sub(cached.unwrap_or_default());
                sum.memory = Some(sum.memory.unwrap_or_default().saturating_add(held));
            }
        }
        Ok(sum)
    }
}

/// The images of a workload, each once.
fn unique(checked: &Checked) -> impl Iterator<Item = &LockedImage> {
    let by_id: BTreeMap<Digest, &LockedImage> = checked.images.values().map(|image| (image.id, image)).collect();
    by_id.into_values()
}

/// A line of a log without its time, and not too long.
fn without_time(line: &str) -> String {
    let text = line.split_once(' ').map_or(line, |(_, text)| text);
    text.chars().take(LONGEST_LINE).collect()
}

/// Runs work that must not be left half done as a task of its own: a caller that gives up only stops waiting for it.
async fn to_its_end(work: impl Future<Output = Result<(), RuntimeError>> + Send + 'static) -> Result<(), RuntimeError> {
    let ended = tokio::spawn(work).await;
    ended.unwrap_or_else(|error| Err(io_error("changing a workload")(io::Error::other(error))))
}

impl Runtime for DockerRuntime {
    fn name(&self) -> &'static str {
        "docker"
    }

    fn deployment_type(&self) -> ProfileType {
        ProfileType::Compose
    }

    fn detect(&self) -> BoxFuture<'_, Result<(), String>> {
        self.shared.detect().boxed()
    }

    fn needs<'a>(&'a self, workload: &'a Workload) -> BoxFuture<'a, Result<Vec<Need>, RuntimeError>> {
        self.shared.needs(workload).boxed()
    }

    fn ports(&self, workload: &Workload) -> BTreeSet<u16> {
        self.shared.ports(workload)
    }

    fn prepare(&self, workload: Workload, call: Call) -> BoxFuture<'_, Result<(), RuntimeError>> {
        self.shared.prepare(workload, call).boxed()
    }

    fn give_up(&self, id: WorkloadId) -> BoxFuture<'_, ()> {
        self.shared.give_up(id).boxed()
    }

    fn apply(&self, workload: Workload, call: Call) -> BoxFuture<'_, Result<(), RuntimeError>> {
        self.shared.clone().apply(workload, call).boxed()
    }

    fn remove(&self, id: WorkloadId, call: Call) -> BoxFuture<'_, Result<(), RuntimeError>> {
        self.shared.clone().remove(id, call).boxed()
    }

    fn observe(&self) -> BoxFuture<'_, Result<Vec<Observed>, RuntimeError>> {
        self.shared.observe().boxed()
    }

    fn changed(&self) -> Arc<Notify> {
        self.shared.changed.clone()
    }

    fn logs(&self, id: WorkloadId, lines: usize) -> BoxFuture<'_, Result<Vec<String>, RuntimeError>> {
        self.shared.logs(id, lines).boxed()
    }

    fn stats(&self, id: WorkloadId) -> BoxFuture<'_, Result<Stats, RuntimeError>> {
        self.shared.stats(id).boxed()
    }

    fn restart(&self, id: WorkloadId, call: Call) -> BoxFuture<'_, Result<(), RuntimeError>> {
        self.shared.clone().restart(id, call).boxed()
    }

    fn suspend(&self) -> BoxFuture<'_, Result<(), RuntimeError>> {
        self.shared.suspend().boxed()
    }
}
