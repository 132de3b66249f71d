//! Compares what is wanted with what is, on every signal and on a timer, and acts. The only writer of the desired state.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use async_nats::HeaderMap;
use bus::{Subject, trace};
use bytes::Bytes;
use futures::future::{FutureExt, pending, select_all};
use margo::{ManifestVersion, NodeId};
use runtime::{Condition, Runtime, RuntimeError, Workload, WorkloadId};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, debug, error, field::Empty, info, info_span, warn};

use crate::{
    artifacts::Artifacts,
    attempt::Attempts,
    desired::{self, Decision, Desired, Refused},
    journal::Journal,
    metrics::Gauges,
    plan::{Action, Placed, may_start, plan},
    status::{ComponentStatus, DeploymentStatus, Facts, Statuses, judge},
    wanted::{self, Offered, Order, Orders, Wanted},
};

/// A lost signal costs no more than this.
const TIMER: Duration = Duration::from_secs(30);

/// How long a runtime may take to find what an earlier life of the agent started. Until then such a workload counts as
/// it was, and a restart of the agent makes no history.
const TAKE_UP: Duration = Duration::from_secs(10);

/// A desired state as the site sent it, unverified.
pub struct Candidate {
    /// The trace of the order.
    pub headers: HeaderMap,
    /// [`bus::proto::DesiredNode`], compressed.
    pub payload: Bytes,
}

/// A workload as a runtime shows it.
struct Seen {
    placed: Placed,
    condition: Condition,
}

type Actual = BTreeMap<WorkloadId, Seen>;

/// Brings this node to its desired state and keeps it there.
pub struct Reconciler {
    /// Which node this is.
    pub node: NodeId,
    /// The file of the desired state in force.
    pub file: PathBuf,
    /// Where workloads listen.
    pub address: IpAddr,
    /// By name.
    pub runtimes: BTreeMap<&'static str, Arc<dyn Runtime>>,
    /// Their artifacts.
    pub artifacts: Artifacts,
    /// Where states are recorded.
    pub journal: Arc<Journal>,
    /// What is measured.
    pub gauges: Arc<Gauges>,
    desired: Option<Desired>,
    orders: Orders,
    attempts: Attempts,
    trace: Option<String>,
    begun: Instant,
    /// When the last pass looked.
    looked: Instant,
}

impl Reconciler {
    /// A reconciler with nothing in force: it stops nothing until it knows what shall run.
    pub fn new(
        node: NodeId,
        file: PathBuf,
        address: IpAddr,
        runtimes: &[Arc<dyn Runtime>],
        artifacts: Artifacts,
        journal: Arc<Journal>,
        gauges: Arc<Gauges>,
    ) -> Self {
        let runtimes = runtimes.iter().map(|runtime| (runtime.name(), runtime.clone())).collect();
        let now = Instant::now();
        Self {
            node,
            file,
            address,
            runtimes,
            artifacts,
            journal,
            gauges,
            desired: None,
            orders: Orders::new(),
            attempts: Attempts::default(),
            trace: None,
            begun: now,
            looked: now,
        }
    }

    /// Puts a verified desired state in force.
    pub fn enforce(&mut self, desired: Desired) {
        let offered: Vec<Offered> = self.runtimes.values().map(|it| (it.name(), it.deployment_type())).collect();
        self.orders = wanted::orders(&desired, &offered);
        let wanted = || self.orders.values().flatten();
        let artifacts: BTreeSet<_> = wanted().filter_map(|it| Some(&it.order.as_ref().ok()?.artifact)).collect();
        self.artifacts.retain(&artifacts);
        self.attempts.retain(&wanted().map(|it| (&it.id, &it.digest)).collect());
        self.desired = Some(desired);
    }

    /// Reconciles until shutdown; a pass in hand is finished.
    pub async fn run(
        mut self,
        mut candidates: mpsc::Receiver<Candidate>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        self.pass().await;
        loop {
            let wake = self.wake();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                Some(candidate) = candidates.recv() => {
                    if !self.consider(&candidate) {
                        continue;
                    }
                }
                () = changed(&self.runtimes) => {}
                () = self.artifacts.changed() => {}
                () = sleep_until(wake) => {}
            }
            self.pass().await;
        }
    }

    /// Adopts a desired state that is newer and verified; gives whether it did.
    fn consider(&mut self, candidate: &Candidate) -> bool {
        let decided = bus::decode(&candidate.payload)
            .map_err(Refused::from)
            .and_then(|offered| desired::decide(&self.node, self.desired.as_ref(), &offered));
        let within = |span: Span| {
            trace::continue_from(&span, Some(&candidate.headers));
            span
        };
        match decided {
            Ok(Decision::Keep) => {
                debug!("the desired state is the one in force");
                false
            }
            Ok(Decision::Adopt(next)) => {
                within(info_span!("adopt", version = %next.version, trace_id = Empty)).in_scope(|| self.adopt(next))
            }
            Err(refused) => {
                within(info_span!("refuse", trace_id = Empty)).in_scope(|| self.refuse(&refused));
                false
            }
        }
    }

    fn adopt(&mut self, next: Desired) -> bool {
        if let Err(reason) = desired::save(&self.file, &next) {
            error!(error = &reason as &dyn std::error::Error, version = %next.version, "not adopted");
            let reason = format!("version {} could not be written to the disk: {reason}", next.version);
            self.journal.refuse(self.subject(), &reason);
            return false;
        }
        process::stop_point("edge-node.adopted");
        info!(version = %next.version, deployments = next.deployments.len(), "adopted");
        self.trace = trace::current_text();
        self.enforce(next);
        true
    }

    fn refuse(&self, refused: &Refused) {
        let security = refused.is_security_event();
        warn!(
            error = refused as &dyn std::error::Error,
            security, "desired state refused; the last one stays in force"
        );
        self.journal.refuse(self.subject(), &refused.to_string());
    }

    fn subject(&self) -> String {
        Subject::DesiredNode(self.node.clone()).to_string()
    }

    /// One look, and what follows from it.
    async fn pass(&mut self) {
        let Some(version) = self.desired.as_ref().map(|desired| desired.version) else { return };
        self.looked = Instant::now();
        let Some(actual) = self.observe().await else { return };
        let actions = self.due(&actual);
        let news = self.journal.would_change(version, |before| self.statuses(before, &actual, version));
        if actions.is_empty() && !news {
            return;
        }
        let span = info_span!("reconcile", %version, actions = actions.len(), trace_id = Empty);
        if let Some(parent) = &self.trace {
            trace::continue_from_text(&span, parent);
        }
        self.act(version, &actual, actions).instrument(span).await;
        self.gauges.reconciled(self.looked.elapsed());
    }

    async fn act(&mut self, version: ManifestVersion, actual: &Actual, actions: Vec<Action>) {
        self.journal.record(version, |before| self.statuses(before, actual, version));
        if !actions.is_empty() {
            for action in actions {
                match action {
                    Action::Stop { runtime, id } => self.stop(&runtime, id).await,
                    Action::Start(id) => self.start(id).await,
                }
            }
            let Some(actual) = self.observe().await else { return };
            self.journal.record(version, |before| self.statuses(before, &actual, version));
        }
        if self.journal.is_settled() {
            self.trace = None;
        }
    }

    /// Everything that runs here; none when a runtime cannot tell: then nothing is done on a guess.
    async fn observe(&mut self) -> Option<Actual> {
        let mut actual = Actual::new();
        for (name, runtime) in &self.runtimes {
            match runtime.observe().await {
                Ok(observed) => actual.extend(observed.into_iter().map(|it| {
                    let placed = Placed { runtime: (*name).to_owned(), digest: it.digest };
                    (it.id, Seen { placed, condition: it.condition })
                })),
                Err(reason) => {
                    warn!(runtime = name, error = &reason as &dyn std::error::Error, "not observed");
                    return None;
                }
            }
        }
        for (id, seen) in &actual {
            self.attempts.seen(id, seen.placed.digest, &seen.condition, self.looked);
        }
        self.gauges.workloads(actual.len());
        Some(actual)
    }

    /// The steps of the plan whose time has come.
    fn due(&mut self, actual: &Actual) -> Vec<Action> {
        let is = actual.iter().map(|(id, seen)| (id.clone(), seen.placed.clone())).collect();
        let mut due = plan(&wanted::workloads(&self.orders), &is);
        due.retain(|action| match action {
            Action::Stop { id, .. } => self.attempts.may_try(id, self.looked),
            Action::Start(id) => {
                let Some(Wanted { order: Ok(order), .. }) = find(&self.orders, id) else { return false };
                self.attempts.may_try(id, self.looked)
                    && self.turn(id, actual)
                    && self.artifacts.want(&order.artifact, self.looked)
            }
        });
        due
    }

    /// Whether all that it waits for is there (DEV-26).
    fn turn(&self, id: &WorkloadId, actual: &Actual) -> bool {
        let Some(deployment) = self.desired.as_ref().and_then(|desired| desired.deployments.get(&id.deployment)) else {
            return false;
        };
        let components = &deployment.content.spec.profile.components;
        may_start(components, &id.component, |name| {
            let id = WorkloadId { deployment: id.deployment, component: name.clone() };
            let seen = actual.get(&id).filter(|seen| seen.placed.digest == deployment.digest);
            seen.map(|seen| matches!(seen.condition, Condition::Running { .. }))
        })
    }

    async fn stop(&mut self, runtime: &str, id: WorkloadId) {
        info!(workload = %id, runtime, "stopping");
        let Some(runtime) = self.runtimes.get(runtime) else { return };
        match runtime.remove(id.clone()).instrument(info_span!("remove", workload = %id)).await {
            Ok(()) => self.attempts.forget(&id),
            Err(reason) => {
                warn!(workload = %id, error = &reason as &dyn std::error::Error, "not stopped");
                self.attempts.failed(&id, None, &reason, self.looked);
            }
        }
    }

    async fn start(&mut self, id: WorkloadId) {
        let Some(Wanted { digest, order: Ok(order), .. }) = find(&self.orders, &id) else { return };
        let Some(artifact) = self.artifacts.take(&order.artifact) else { return };
        let Some(runtime) = self.runtimes.get(order.runtime) else { return };
        let workload = Workload {
            id: id.clone(),
            digest: *digest,
            artifact: artifact.path,
            artifact_digest: artifact.digest,
            environment: order.environment.clone(),
            settings: order.settings.clone(),
            address: self.address,
        };
        info!(workload = %id, %digest, runtime = order.runtime, "starting");
        let span = info_span!("apply", workload = %id, %digest, runtime = order.runtime);
        let applied: Result<(), RuntimeError> = runtime.apply(workload).instrument(span).await;
        process::stop_point("edge-node.started");
        match applied {
            Ok(()) => self.attempts.applied(&id, *digest, Instant::now()),
            Err(reason) => {
                warn!(workload = %id, error = &reason as &dyn std::error::Error, "not started");
                self.attempts.failed(&id, Some(*digest), &reason, self.looked);
            }
        }
    }

    /// The status that follows from a look.
    fn statuses(&self, before: &Statuses, actual: &Actual, version: ManifestVersion) -> Statuses {
        let mut after = Statuses::new();
        for (id, deployment) in self.desired.iter().flat_map(|desired| &desired.deployments) {
            let was = before.get(id).filter(|was| was.digest == deployment.digest);
            let components = self.orders[id].iter().map(|wanted| {
                let was = was.and_then(|was| was.components.iter().find(|it| it.name == wanted.id.component));
                self.component(wanted, was, actual)
            });
            let status = DeploymentStatus {
                name: deployment.content.metadata.name.clone(),
                digest: deployment.digest,
                adopted: deployment.adopted,
                components: components.collect(),
            };
            after.insert(*id, status);
        }
        for (id, was) in before.iter().filter(|(id, _)| !self.orders.contains_key(id)) {
            let there = |name: &_| actual.contains_key(&WorkloadId { deployment: *id, component: Clone::clone(name) });
            after.insert(*id, was.leaving(version, there));
        }
        after
    }

    fn component(&self, wanted: &Wanted, was: Option<&ComponentStatus>, actual: &Actual) -> ComponentStatus {
        let seen = actual.get(&wanted.id).filter(|seen| seen.placed.digest == wanted.digest);
        let condition = seen.map(|seen| &seen.condition);
        let taking_up = self.looked < self.begun + TAKE_UP && !self.attempts.is_applied(&wanted.id);
        if let (Some(Condition::Starting), Some(was), true) = (condition, was, taking_up) {
            return was.clone();
        }
        let (obstacle, timeout) = match &wanted.order {
            Err(obstacle) => (Some(obstacle), None),
            Ok(Order { artifact, timeout, .. }) => {
                (self.attempts.obstacle(&wanted.id).or_else(|| self.artifacts.obstacle(artifact)), *timeout)
            }
        };
        let overdue = self.attempts.is_overdue(&wanted.id, timeout, self.looked);
        let turn = self.turn(&wanted.id, actual);
        judge(&wanted.id.component, &Facts { condition, obstacle, turn, overdue })
    }

    /// When to look again though nobody calls. Only times after the last look: what was due then has been tried.
    fn wake(&self) -> Instant {
        let timeouts = self.orders.values().flatten().filter_map(|wanted| {
            let order = wanted.order.as_ref().ok()?;
            self.attempts.deadline(&wanted.id, order.timeout?)
        });
        let times = self.attempts.retries().chain(self.artifacts.retries()).chain(timeouts);
        let times = times.chain([self.begun + TAKE_UP]).filter(|time| *time > self.looked);
        times.fold(Instant::now() + TIMER, Instant::min)
    }
}

fn find<'a>(orders: &'a Orders, id: &WorkloadId) -> Option<&'a Wanted> {
    orders.get(&id.deployment)?.iter().find(|wanted| wanted.id == *id)
}

/// Waits until a runtime calls.
async fn changed(runtimes: &BTreeMap<&'static str, Arc<dyn Runtime>>) {
    if runtimes.is_empty() {
        return pending().await;
    }
    let changed = runtimes.values().map(|runtime| {
        let changed = runtime.changed();
        async move { changed.notified().await }.boxed()
    });
    select_all(changed).await;
}
