//! Compares what is wanted with what is, on every signal and on a timer, and has workers act. The only writer of the
//! desired state.
//!
//! The reconciler itself never waits for a runtime: observers look, one worker for each deployment acts, and fetches run
//! beside both. What it decides stands in [`crate::decide`].
//!
//! What has to be on the disk before what: the desired state before anything is started, stopped or reported because of
//! it; a status before it is reported. Preparing a new revision needs neither, since nobody sees it, and begins while the
//! desired state is being written. A start does not wait for its status to be written: after a crash in between, the next
//! life looks at what runs and records that.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use async_nats::HeaderMap;
use bus::{Subject, trace};
use bytes::Bytes;
use margo::{DeploymentId, Digest, NodeId, State};
use runtime::{Call, Runtime, WorkloadId};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, debug, error, field::Empty, info, info_span, warn};

use crate::{
    artifacts::Artifacts,
    attempt::Attempts,
    decide::{self, Actual, Blind, Look},
    desired::{self, Decision, Desired, DesiredError},
    journal::Journal,
    metrics::Gauges,
    observer::Observers,
    plan::Step,
    resolve::{self, Offered, Resolution},
    status::Statuses,
    worker::{self, Done, Job},
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
    /// Is told the version in force, so that the site need not send it again.
    pub held: watch::Sender<u64>,
}

/// A desired state in force, and how its components are run.
#[derive(Clone)]
struct Force {
    desired: Arc<Desired>,
    resolution: Arc<Resolution>,
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
    held: watch::Sender<u64>,
    force: Option<Force>,
    actual: Actual,
    blind: Blind,
    attempts: Attempts,
    workers: JoinSet<Done>,
    busy: BTreeMap<DeploymentId, Busy>,
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
        let Parts { node, file, runtimes, artifacts, journal, gauges, held } = parts;
        let now = Instant::now();
        Self {
            node,
            file,
            runtimes: runtimes.into_iter().map(|runtime| (runtime.name(), runtime)).collect(),
            artifacts,
            journal,
            gauges,
            held,
            force: None,
            actual: Actual::new(),
            blind: Blind::new(),
            attempts: Attempts::default(),
            workers: JoinSet::new(),
            busy: BTreeMap::new(),
            early: JoinSet::new(),
            foreseen: BTreeMap::new(),
            trace: None,
            begun: now,
            looked: now,
        }
    }

    /// Puts a verified desired state in force.
    pub fn enforce(&mut self, desired: Desired) {
        let force = self.resolve(desired);
        self.put_in_force(force);
    }

    fn resolve(&self, desired: Desired) -> Force {
        let offered: Vec<Offered> =
            self.runtimes.values().map(|runtime| (runtime.name(), runtime.deployment_type())).collect();
        let resolution = Arc::new(resolve::resolve(&desired, &offered));
        Force { desired: Arc::new(desired), resolution }
    }

    fn put_in_force(&mut self, force: Force) {
        let wanted = force.resolution.values().flatten().map(|resolved| (&resolved.id, &resolved.digest)).collect();
        self.artifacts.retain(&wanted);
        self.attempts.retain(&wanted);
        self.held.send_replace(force.desired.version.get());
        self.force = Some(force);
    }

    /// Reconciles until shutdown; what workers have in hand then is finished, if it does not take long.
    pub async fn run(
        mut self,
        mut candidates: mpsc::Receiver<Candidate>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let observers = Observers::start(self.runtimes.values());
        loop {
            self.pass(&observers).await?;
            let wake = self.wake();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(candidate) = candidates.recv() => self.consider(candidate).await?,
                Some(done) = self.workers.join_next() => match done {
                    Ok(done) => self.note(done, &observers),
                    Err(error) => {
                        error!(error = &error as &dyn std::error::Error, "a worker died");
                        return Err(error.into());
                    }
                },
                Some(_) = self.early.join_next() => {}
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
    async fn consider(&mut self, Candidate { headers, payload }: Candidate) -> anyhow::Result<()> {
        let (node, held) = (self.node.clone(), self.force.as_ref().map(|force| force.desired.clone()));
        let decided = tokio::task::spawn_blocking(move || {
            let offered = bus::decode(&payload)?;
            desired::decide(&node, held.as_deref(), &offered)
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

    async fn adopt(&mut self, next: Desired) -> anyhow::Result<()> {
        let force = self.resolve(next);
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
        for resolved in force.resolution.values().flatten() {
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

    /// Takes what a worker has done.
    fn note(&mut self, Done { deployment, outcomes, runtimes, ended }: Done, observers: &Observers) {
        for worker::Outcome { id, digest, result } in outcomes {
            match (result, digest) {
                (Ok(()), Some(digest)) => self.attempts.applied(&id, digest, ended),
                (Ok(()), None) => self.attempts.forget(&id),
                (Err(reason), digest) => self.attempts.failed(&id, digest, &reason, ended),
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
            for (id, observed) in view.found {
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
        let Some(force) = self.force.clone() else { return Ok(()) };
        let jobs = self.jobs(&force);
        let (recorded, version) = (self.journal.recorded(), force.desired.version);
        let statuses = self.statuses(&force, &recorded.statuses);
        let is_news = recorded.version != version.get() || *recorded.statuses != statuses;
        if jobs.is_empty() && !is_news {
            return Ok(());
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
            Step::Start { id, leaves } => {
                let resolved = resolve::find(&force.resolution, &id)?;
                let launch = resolved.launch.as_ref().ok()?;
                let runtime = self.runtimes.get(launch.runtime)?.clone();
                let workload = self.artifacts.want(resolved, launch, &runtime, self.looked)?;
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
