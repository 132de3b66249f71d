//! Compares what is wanted with what is, on every signal and on a timer, and has workers act. The only writer of the
//! desired state.
//!
//! The reconciler itself never waits for a runtime: observers look, one worker for each deployment acts, and fetches run
//! beside both. What it decides stands in [`crate::decide`].
//!
//! What has to be on the disk before what: the desired state before anything is started, stopped or reported because of
//! it; a status before it is reported. Preparing a new revision needs neither, since nobody sees it, and begins while the
//! desired state is being written. A start does not wait for its status to be written: after a crash in between, the next
//! life looks at what runs and records that. That an update is refused is on the disk before the revision before it is
//! started again, and before it is reported; that an update is installed, after it is reported: a crash in between finds
//! it installed once more.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use async_nats::HeaderMap;
use bus::{Subject, trace};
use bytes::Bytes;
use margo::{ComponentName, DeploymentId, Digest, NodeId, State};
use runtime::{Call, Runtime, WorkloadId};
use serde_json::Value;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, debug, error, field::Empty, info, info_span, warn};

use crate::{
    artifacts::Artifacts,
    attempt::{Attempts, StepError},
    component_digest,
    decide::{self, Actual, Blind, Look, Verdict},
    desired::{self, Decision, Desired, DesiredError},
    journal::Journal,
    metrics::Gauges,
    observer::Observers,
    operation::{Deed, Operation},
    plan::Step,
    resolve::{self, Offered, Resolution},
    status::Statuses,
    worker::{self, Aim, Done, Job},
};

/// A lost signal costs no more than this.
const TIMER: Duration = Duration::from_secs(30);

/// How long a runtime may take to find what an earlier life of the agent started.
const TAKE_UP: Duration = Duration::from_secs(10);

/// How long workers may go on when the agent ends: less than the grace of the process. What they leave half done is
/// found by the next life.
const LAST_WORK: Duration = Duration::from_secs(5);

/// Components that are prepared while the desired state is written. Few: an order that changes more is not in a hurry,
/// and each is a process.
const EARLY: usize = 4;

/// A desired state as the site sent it, unverified.
pub struct Candidate {
    /// Headers of the message, with the trace of the order.
    pub headers: HeaderMap,
    /// A [`bus::proto::DesiredNode`], compressed as every message of DESIRED is.
    pub payload: Bytes,
}

/// What the reconciler depends on.
pub struct Parts {
    pub node: NodeId,
    /// The file of the desired state in force.
    pub file: PathBuf,
    pub runtimes: Vec<Arc<dyn Runtime>>,
    /// The content that workloads need.
    pub artifacts: Artifacts,
    /// Where statuses are recorded for the reporter.
    pub journal: Arc<Journal>,
    pub gauges: Arc<Gauges>,
    /// The node's DeviceCapabilitiesManifest, once it is known.
    pub device: watch::Receiver<Option<Arc<Value>>>,
    /// Is told the version in force, so that the site need not send it again.
    pub held: watch::Sender<u64>,
}

/// A desired state in force, and how its components are run. A clone is cheap.
#[derive(Clone)]
struct Force {
    desired: Arc<Desired>,
    resolution: Arc<Resolution>,
    /// What the node was when they were resolved.
    device: Option<Arc<Value>>,
}

/// Why a deployment gets no new worker.
enum Busy {
    /// A worker carries out steps for the deployment.
    Working,
    /// What its worker did is in no view yet of these runtimes.
    Unseen { since: Instant, runtimes: BTreeSet<&'static str> },
}

/// Brings this node to its desired state and keeps it there.
pub struct Reconciler {
    node: NodeId,
    file: PathBuf,
    runtimes: BTreeMap<&'static str, Arc<dyn Runtime>>,
    artifacts: Artifacts,
    journal: Arc<Journal>,
    gauges: Arc<Gauges>,
    device: watch::Receiver<Option<Arc<Value>>>,
    held: watch::Sender<u64>,
    force: Option<Force>,
    /// Whether ways back in the file are no longer those in force.
    unsaved: bool,
    actual: Actual,
    blind: Blind,
    attempts: Attempts,
    workers: JoinSet<Done>,
    busy: BTreeMap<DeploymentId, Busy>,
    /// Who waits for workers that restart a deployment.
    restarts: BTreeMap<DeploymentId, oneshot::Sender<Result<(), String>>>,
    /// Preparations that began before their desired state was in force.
    early: JoinSet<()>,
    /// The revisions for which the last of them were meant.
    foreseen: BTreeMap<WorkloadId, Digest>,
    trace: Option<String>,
    begun: Instant,
    /// When the last pass looked.
    looked: Instant,
}

impl Reconciler {
    /// A reconciler with nothing in force: it stops nothing until it knows what shall run.
    pub fn new(parts: Parts) -> Self {
        let Parts { node, file, runtimes, artifacts, journal, gauges, device, held } = parts;
        let now = Instant::now();
        Self {
            node,
            file,
            runtimes: runtimes.into_iter().map(|runtime| (runtime.name(), runtime)).collect(),
            artifacts,
            journal,
            gauges,
            device,
            held,
            force: None,
            unsaved: false,
            actual: Actual::new(),
            blind: Blind::new(),
            attempts: Attempts::default(),
            workers: JoinSet::new(),
            busy: BTreeMap::new(),
            restarts: BTreeMap::new(),
            early: JoinSet::new(),
            foreseen: BTreeMap::new(),
            trace: None,
            begun: now,
            looked: now,
        }
    }

    /// Puts a verified desired state in force.
    pub fn enforce(&mut self, desired: Desired) {
        let force = self.resolve(desired.into());
        self.put_in_force(force);
    }

    fn resolve(&self, desired: Arc<Desired>) -> Force {
        let offered: Vec<Offered> =
            self.runtimes.values().map(|runtime| (runtime.name(), runtime.deployment_type())).collect();
        let device = self.device.borrow().clone();
        let before = self
            .force
            .as_ref()
            .filter(|before| before.device.as_ref().map(Arc::as_ptr) == device.as_ref().map(Arc::as_ptr));
        let before = before.map(|before| (&*before.desired, &*before.resolution));
        let resolution = Arc::new(resolve::resolve(&desired, &offered, device.as_deref(), before));
        Force { desired, resolution, device }
    }

    fn put_in_force(&mut self, force: Force) {
        let wanted = resolve::each(&force.resolution).map(|resolved| (&resolved.id, &resolved.digest)).collect();
        self.artifacts.retain(&wanted);
        let digest = |desired: &Desired, id: &DeploymentId| Some(desired.deployments.get(id)?.in_force().digest);
        let before = self.force.as_ref().map(|before| before.desired.clone());
        let same = |id: &DeploymentId| before.as_ref().is_some_and(|it| digest(it, id) == digest(&force.desired, id));
        self.attempts.retain(&wanted, same);
        self.held.send_replace(force.desired.version.get());
        self.force = Some(force);
    }

    /// Reconciles until shutdown; what workers have in hand then is finished, if it does not take long.
    pub async fn run(
        mut self,
        mut candidates: mpsc::Receiver<Candidate>,
        mut operations: mpsc::Receiver<Operation>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let observers = Observers::start(self.runtimes.values());
        loop {
            self.pass(&observers).await?;
            let wake = self.wake();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                // Only a node that has seen what runs can say which revision was installed, and where an update goes back to.
                Some(candidate) = candidates.recv(), if observers.have_looked() => {
                    self.consider(candidate, &observers).await?;
                }
                Some(done) = self.workers.join_next() => match done {
                    Ok(done) => self.note(done, &observers),
                    Err(error) => {
                        error!(error = &error as &dyn std::error::Error, "a worker died");
                        return Err(error.into());
                    }
                },
                Some(operation) = operations.recv() => self.operate(operation).await?,
                Some(_) = self.early.join_next() => {}
                Ok(()) = self.device.changed() => {
                    if let Some(desired) = self.force.as_ref().map(|force| force.desired.clone()) {
                        let force = self.resolve(desired);
                        self.put_in_force(force);
                    }
                }
                () = observers.changed() => {}
                () = self.artifacts.changed() => {}
                () = sleep_until(wake) => {}
            }
        }
        let last_work = async { while self.workers.join_next().await.is_some() {} };
        if timeout(LAST_WORK, last_work).await.is_err() {
            warn!("the agent ends with work in hand; the next one goes on");
        }
        Ok(())
    }

    /// Adopts a desired state that is newer and verified.
    async fn consider(
        &mut self,
        Candidate { headers, payload }: Candidate,
        observers: &Observers,
    ) -> anyhow::Result<()> {
        let (node, held) = (self.node.clone(), self.force.as_ref().map(|force| force.desired.clone()));
        let installed = self.installed(observers);
        let decided = tokio::task::spawn_blocking(move || {
            let offered = bus::decode(&payload)?;
            desired::decide(&node, held.as_deref(), &installed, &offered)
        });
        let decided: Result<Decision, DesiredError> = decided.await?;
        let within = |span: Span| {
            trace::continue_from(&span, Some(&headers));
            span
        };
        match decided {
            Ok(Decision::Keep) => {
                debug!("the desired state is the one in force");
                Ok(())
            }
            Ok(Decision::Adopt(next)) => {
                let span = within(info_span!("adopt", version = %next.version, trace_id = Empty));
                self.adopt(next).instrument(span).await
            }
            Err(refused) => {
                let span = within(info_span!("refuse", trace_id = Empty));
                self.refuse(refused).instrument(span).await
            }
        }
    }

    /// The deployments whose wanted revision has been installed, by what can be seen now: an update may arrive before what the
    /// one before it came to is recorded. It is the moment when an older agent's workload is still known by its document, too.
    fn installed(&mut self, observers: &Observers) -> BTreeSet<DeploymentId> {
        self.look(observers);
        let Some(force) = &self.force else { return BTreeSet::new() };
        let statuses = self.statuses(force, &self.journal.recorded().statuses);
        statuses.into_iter().filter(|(_, status)| status.was_installed).map(|(id, _)| id).collect()
    }

    async fn adopt(&mut self, next: Desired) -> anyhow::Result<()> {
        let force = self.resolve(next.into());
        let version = force.desired.version;
        let (file, desired) = (self.file.clone(), force.desired.clone());
        let saving = tokio::spawn(disk::blocking(move || desired::save(&file, &desired)));
        self.prepare_early(&force);
        if let Err(reason) = saving.await? {
            self.early.abort_all();
            error!(error = &reason as &dyn std::error::Error, %version, "not adopted");
            let reason = format!("version {version} could not be written to the disk: {reason}");
            return self.list_refusal(reason).await;
        }
        self.unsaved = false;
        process::stop_point("edge-node.adopted");
        info!(%version, deployments = force.desired.deployments.len(), "adopted");
        self.trace = trace::current_text();
        self.put_in_force(force);
        Ok(())
    }

    /// Begins to fetch and to prepare new revisions of what runs. Nobody sees it, so this need not wait for the desired
    /// state to be on the disk; should that fail, what was prepared is given up with the next revision. A revision that
    /// was prepared and then withdrawn is given up.
    fn prepare_early(&mut self, force: &Force) {
        // What an older desired state had begun is done by the workers, where it is still wanted.
        self.early.abort_all();
        let foreseen = std::mem::take(&mut self.foreseen);
        for resolved in resolve::each(&force.resolution) {
            let Ok(launch) = &resolved.launch else { continue };
            let Some(running) = self.actual.get(&(resolved.id.clone(), launch.runtime)) else { continue };
            let runtime = self.runtimes.get(launch.runtime).filter(|_| !self.blind.contains_key(launch.runtime));
            let Some(runtime) = runtime.cloned() else { continue };
            let id = resolved.id.clone();
            if running.digest == resolved.digest {
                if foreseen.get(&id).is_some_and(|digest| *digest != resolved.digest) {
                    self.early.spawn(async move { runtime.give_up(id).await });
                }
            } else if self.foreseen.len() < EARLY {
                self.foreseen.insert(id, resolved.digest);
                let workload = self.artifacts.want_early(resolved, launch, &runtime, Instant::now());
                self.early.spawn(async move {
                    let Ok(workload) = workload.await else { return };
                    let call = Call::within(worker::PREPARE_LIMIT);
                    // A failure is met again, and told, by the worker that needs the preparation.
                    let _met_again = timeout(worker::PREPARE_LIMIT, runtime.prepare(workload, call)).await;
                });
            }
        }
    }

    async fn refuse(&self, refused: DesiredError) -> anyhow::Result<()> {
        let security = refused.is_security_event();
        warn!(
            error = &refused as &dyn std::error::Error,
            security, "desired state refused; the last one stays in force"
        );
        self.list_refusal(refused.to_string()).await
    }

    async fn list_refusal(&self, reason: String) -> anyhow::Result<()> {
        let subject = Subject::DesiredNode(self.node.clone()).to_string();
        let trace = trace::current_text();
        self.journal.with(move |journal| journal.refuse(subject, &reason, trace)).await
    }

    /// Does what an operator asks for. The deployment's history is told first.
    async fn operate(&mut self, operation: Operation) -> anyhow::Result<()> {
        let Operation { deed, deployment, component, actor, done } = operation;
        let jobs = match deed {
            Deed::Retry => Ok(Vec::new()),
            Deed::Restart => self.restart_jobs(&deployment, component.as_ref()),
        };
        let jobs = match jobs {
            Ok(jobs) => jobs,
            Err(reason) => {
                tell(done, Err(reason));
                return Ok(());
            }
        };
        let (code, message) = (deed.as_str(), format!("{} by {actor}", deed.as_str()));
        let noted =
            self.journal.with(move |journal| journal.note_call(&deployment, component.as_ref(), code, &message));
        let refused = match noted.await? {
            Ok(true) => None,
            Ok(false) => Some("this node has no such deployment".to_owned()),
            Err(error) => Some(format!("nothing was done, because the history could not be written: {error}")),
        };
        if let Some(reason) = refused {
            tell(done, Err(reason));
            return Ok(());
        }
        info!(%deployment, deed = code, actor, "an operator's call");
        match deed {
            Deed::Restart => {
                self.busy.insert(deployment, Busy::Working);
                self.restarts.insert(deployment, done);
                self.workers.spawn(worker::work(deployment, jobs));
            }
            Deed::Retry => {
                self.retry(&deployment).await?;
                tell(done, Ok(()));
            }
        }
        Ok(())
    }

    /// The steps that restart what runs of a deployment, or why nothing can be restarted now.
    fn restart_jobs(&self, deployment: &DeploymentId, component: Option<&ComponentName>) -> Result<Vec<Job>, String> {
        if matches!(self.busy.get(deployment), Some(Busy::Working)) {
            return Err("the node is at work on this deployment; try again in a moment".to_owned());
        }
        let is_meant = |id: &WorkloadId| {
            id.deployment == *deployment && component.is_none_or(|component| *component == id.component)
        };
        let meant = self.actual.keys().filter(|(id, runtime)| is_meant(id) && !self.blind.contains_key(runtime));
        let job = |(id, runtime): &(WorkloadId, &'static str)| {
            Some(Job::Restart { runtime: self.runtimes.get(runtime)?.clone(), id: id.clone() })
        };
        let jobs: Vec<_> = meant.filter_map(job).collect();
        if jobs.is_empty() { Err("nothing of it runs here".to_owned()) } else { Ok(jobs) }
    }

    /// Has everything of a deployment that failed tried again, also a revision that was refused.
    async fn retry(&mut self, deployment: &DeploymentId) -> anyhow::Result<()> {
        self.attempts.forget_obstacles(deployment);
        self.artifacts.retry(deployment, Instant::now());
        let Some(force) = &self.force else { return Ok(()) };
        if force.desired.deployments.get(deployment).is_none_or(|deployment| deployment.refused().is_none()) {
            return Ok(());
        }
        let mut desired = Desired::clone(&force.desired);
        let way_back = desired.deployments.get_mut(deployment).and_then(|deployment| deployment.way_back.as_mut());
        way_back.into_iter().for_each(|way_back| way_back.refused = None);
        self.unsaved = true;
        let next = self.resolve(desired.into());
        self.put_in_force(next);
        self.keep_ways_back().await
    }

    /// Takes what a worker has done.
    fn note(&mut self, Done { deployment, outcomes, runtimes, ended }: Done, observers: &Observers) {
        let failed = outcomes.iter().find_map(|outcome| outcome.result.as_ref().err().map(StepError::message));
        if let Some(done) = self.restarts.remove(&deployment) {
            tell(done, failed.map_or(Ok(()), Err));
        }
        for worker::Outcome { id, aim, result } in outcomes {
            match (result, aim) {
                (Ok(()), Aim::Started(digest)) => self.attempts.applied(&id, digest, ended),
                (Ok(()), Aim::Prepared(digest)) => self.attempts.prepared(&id, digest),
                (Ok(()), Aim::Stopped) => self.attempts.forget(&id),
                // The runtime keeps it running, as before.
                (_, Aim::Restarted) => {}
                (Err(reason), aim) => self.attempts.failed(&id, aim.digest(), &reason, ended),
            }
        }
        runtimes.iter().for_each(|runtime| observers.ask(runtime));
        self.busy.insert(deployment, Busy::Unseen { since: ended, runtimes });
    }

    /// Takes what the observers have seen.
    fn look(&mut self, observers: &Observers) {
        self.looked = Instant::now();
        self.actual.clear();
        self.blind.clear();
        for (name, view) in observers.views() {
            for (id, mut observed) in view.found {
                let force = self.force.as_ref();
                let deployment = force.and_then(|force| force.desired.deployments.get(&id.deployment));
                observed.digest = component_digest::known_as(deployment, &id, observed.digest);
                if view.blindness.is_none() {
                    self.attempts.seen(&id, observed.digest, &observed.condition, self.looked);
                }
                self.actual.insert((id, name), observed);
            }
            self.blind.extend(view.blindness.map(|blindness| (name, blindness)));
        }
        self.busy.retain(|_, busy| match busy {
            Busy::Working => true,
            Busy::Unseen { since, runtimes } => {
                runtimes.retain(|runtime| !observers.has_looked_since(runtime, *since));
                !runtimes.is_empty()
            }
        });
        self.gauges.workloads(self.actual.len());
    }

    /// One look, and what follows from it.
    async fn pass(&mut self, observers: &Observers) -> anyhow::Result<()> {
        self.look(observers);
        let Some(mut force) = self.force.clone() else { return Ok(()) };
        let recorded = self.journal.recorded();
        let mut statuses = self.statuses(&force, &recorded.statuses);
        let verdicts = decide::verdicts(&force.desired, &statuses);
        if !verdicts.is_empty() {
            force = self.carry_out(&force, verdicts).await?;
            statuses = self.statuses(&force, &recorded.statuses);
        }
        let jobs = self.jobs(&force);
        let version = force.desired.version;
        let is_news = recorded.version != version.get() || *recorded.statuses != statuses;
        if jobs.is_empty() && !is_news {
            return self.keep_ways_back().await;
        }
        let span = info_span!("reconcile", %version, deployments = jobs.len(), trace_id = Empty);
        if let Some(parent) = &self.trace {
            trace::continue_from_text(&span, parent);
        }
        let settled = |state| matches!(state, State::Installed | State::Failed | State::Removed);
        if jobs.is_empty() && self.busy.is_empty() && statuses.values().all(|status| settled(status.state())) {
            self.trace = None;
        }
        // Before the statuses are written: a start has nothing to wait for.
        for (deployment, jobs) in jobs {
            self.busy.insert(deployment, Busy::Working);
            self.workers.spawn(worker::work(deployment, jobs).instrument(span.clone()));
        }
        if is_news {
            let trace = span.in_scope(trace::current_text);
            self.journal.with(move |journal| journal.record(version, statuses, trace)).await?;
        }
        self.gauges.reconciled(self.looked.elapsed());
        self.keep_ways_back().await
    }

    /// Takes the ways back of updates that failed, and gives up those of updates that are installed.
    async fn carry_out(&mut self, force: &Force, verdicts: BTreeMap<DeploymentId, Verdict>) -> anyhow::Result<Force> {
        let mut desired = Desired::clone(&force.desired);
        let mut is_refused = false;
        for (id, verdict) in verdicts {
            let Some(deployment) = desired.deployments.get_mut(&id) else { continue };
            match verdict {
                Verdict::Installed => deployment.way_back = None,
                Verdict::Refused(failure) => {
                    warn!(deployment = %id, digest = %deployment.wanted.digest, code = failure.code,
                        reason = failure.message, "an update failed");
                    is_refused = true;
                    deployment.way_back.iter_mut().for_each(|way_back| way_back.refused = Some(failure.clone()));
                }
            }
        }
        self.unsaved = true;
        let next = self.resolve(desired.into());
        if is_refused {
            self.early.abort_all();
            self.give_up(force, &next);
        }
        self.put_in_force(next.clone());
        if is_refused {
            self.keep_ways_back().await?;
            process::stop_point("edge-node.refused");
        }
        Ok(next)
    }

    /// Has runtimes give up what they have prepared of revisions that are in force no more, where what runs stays.
    fn give_up(&mut self, before: &Force, next: &Force) {
        for resolved in resolve::each(&before.resolution) {
            let Ok(launch) = &resolved.launch else { continue };
            let Some(running) = self.actual.get(&(resolved.id.clone(), launch.runtime)) else { continue };
            let stays = resolve::find(&next.resolution, &resolved.id).is_some_and(|it| it.digest == running.digest);
            let Some(runtime) = self.runtimes.get(launch.runtime).filter(|_| stays).cloned() else { continue };
            if running.digest != resolved.digest {
                let id = resolved.id.clone();
                self.early.spawn(async move { runtime.give_up(id).await });
            }
        }
    }

    /// Writes ways back that have changed. What cannot be written is in force all the same, until the agent ends.
    async fn keep_ways_back(&mut self) -> anyhow::Result<()> {
        let Some(desired) = self.force.as_ref().filter(|_| self.unsaved).map(|force| force.desired.clone()) else {
            return Ok(());
        };
        let file = self.file.clone();
        match disk::blocking(move || desired::save(&file, &desired)).await {
            Ok(()) => self.unsaved = false,
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "what became of an update is not on the disk")
            }
        }
        Ok(())
    }

    fn view<'a>(&'a self, force: &'a Force) -> Look<'a> {
        Look {
            desired: &force.desired,
            resolution: &force.resolution,
            actual: &self.actual,
            blind: &self.blind,
            attempts: &self.attempts,
            now: self.looked,
            taking_up: self.looked < self.begun + TAKE_UP,
        }
    }

    /// The steps whose time has come and whose content is at hand, by deployment.
    fn jobs(&mut self, force: &Force) -> BTreeMap<DeploymentId, Vec<Job>> {
        self.artifacts.settle();
        let due = decide::due(&self.view(force), |deployment| self.busy.contains_key(deployment));
        let mut jobs: BTreeMap<DeploymentId, Vec<Job>> = BTreeMap::new();
        for step in due {
            let deployment = step.id().deployment;
            if let Some(job) = self.job(force, step) {
                jobs.entry(deployment).or_default().push(job);
            }
        }
        jobs
    }

    fn job(&mut self, force: &Force, step: Step) -> Option<Job> {
        match step {
            Step::Stop { id, runtime } => Some(Job::Stop { runtime: self.runtimes.get(runtime)?.clone(), id }),
            Step::Prepare { id } => {
                let resolved = resolve::find(&force.resolution, &id)?;
                let launch = resolved.launch.as_ref().ok()?;
                let runtime = self.runtimes.get(launch.runtime)?.clone();
                let workload = self.artifacts.want(resolved, launch, &runtime, self.looked)?.clone();
                Some(Job::Prepare { runtime, workload: Box::new(workload) })
            }
            Step::Start { id, leaves } => {
                let resolved = resolve::find(&force.resolution, &id)?;
                let launch = resolved.launch.as_ref().ok()?;
                let runtime = self.runtimes.get(launch.runtime)?.clone();
                let Some(workload) = self.artifacts.want(resolved, launch, &runtime, self.looked) else {
                    // Fetching counts (DEV-26), but not the time in which the site cannot be reached.
                    match self.artifacts.obstacle(&id) {
                        None => self.attempts.begun(&id, resolved.digest, self.looked),
                        Some(_) => self.attempts.waits(&id, resolved.digest),
                    }
                    return None;
                };
                let ports = runtime.ports(workload);
                if decide::waits_for_ports(&self.view(force), &ports) {
                    return None;
                }
                let workload = self.artifacts.take(&id)?;
                self.attempts.begun(&id, resolved.digest, self.looked);
                let leaves = leaves.into_iter().filter_map(|name| self.runtimes.get(name).cloned()).collect();
                Some(Job::Start { runtime, workload, leaves, timeout: launch.timeout })
            }
        }
    }

    fn statuses(&self, force: &Force, before: &Statuses) -> Statuses {
        decide::statuses(&self.view(force), before, |id| self.artifacts.obstacle(id))
    }

    fn wake(&self) -> Instant {
        let latest = Instant::now() + TIMER;
        let Some(force) = &self.force else { return latest };
        let take_up = [self.begun + TAKE_UP].into_iter();
        decide::wake(&self.view(force), self.artifacts.retries().chain(take_up), latest)
    }
}

/// Tells whoever asked for an operation what became of it. Nobody may be left to hear it.
fn tell(done: oneshot::Sender<Result<(), String>>, result: Result<(), String>) {
    let _gone = done.send(result);
}
