//! What this node has to tell, on disk: its incarnation, the sequence of its reports, its last status, its transitions.
//!
//! The reconciler records, the reporter drafts reports and settles them with the site's answers. Nothing is told before
//! it is on the disk here, and nothing is forgotten before the site has it on its disk.
//!
//! **Layout.** `identity.json` holds the incarnation and the block of sequences that may be used up; `status.json` the
//! last status of every deployment and the latest refusals; `transitions.jsonl` is the [`Spool`].
//!
//! **Updates.** Each file is replaced whole or appended to, synced. Of one look the transitions are written before the
//! status.
//!
//! **After a crash.** Transitions without their status are recorded once more, with other numbers; none is missing. A
//! sequence that was reserved and not used is skipped. A journal that does not read makes this node one that lost its
//! disk.
//!
//! Reading and writing block, so async code calls everything but [`Journal::statuses`] and [`Journal::changed`] through
//! [`Journal::with`].

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use anyhow::Context;
use bus::{proto, report::MAX_DEPLOYMENTS};
use margo::{ComponentName, DeploymentId, ManifestVersion, State};
use runtime::WorkloadId;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{sync::Notify, time::Instant};
use tracing::{error, warn};

use crate::{
    fit,
    spool::{Numbered, Spool},
    status::{self, DeploymentStatus, Failure, Statuses, Transition},
    usage::{self, Usage},
};

/// Sequences are reserved in blocks: one write for so many reports; a restart skips what was left.
const BLOCK: u64 = 1_000;

/// Transitions in one report, if so many fit into it.
const BATCH: usize = 1_000;

/// As many refusals as an operator reads; the site takes no more.
const REFUSALS: usize = 20;

/// A reason may quote what was refused; this is enough to see what is wrong.
const MAX_REASON: usize = 1_000;

/// The journal. Shared by the tasks of the agent.
pub struct Journal {
    inner: Mutex<Inner>,
    /// What is recorded, apart from the rest, so that a look at it never waits for the disk.
    recorded: Mutex<Recorded>,
    changed: Notify,
}

/// What is recorded of the deployments, on the disk.
#[derive(Clone, Default)]
pub struct Recorded {
    /// The version that the statuses are about; 0 when nothing was recorded yet.
    pub version: u64,
    /// The last status of every deployment.
    pub statuses: Arc<Statuses>,
}

struct Inner {
    folder: PathBuf,
    identity: Identity,
    sequence: u64,
    status: StatusOnDisk,
    spool: Spool,
    capabilities: Vec<u8>,
    /// What workloads use; memory only, for it is measured again.
    usage: Usage,
    /// What the last report told of that, and when.
    told_usage: Usage,
    told_usage_at: Option<Instant>,
    /// Rises with every change of the status.
    generation: u64,
    /// The trace that the last change belongs to.
    trace: Option<String>,
    stored: Stored,
}

/// What the site's STATE holds of us, as far as this life of the agent knows.
#[derive(Default)]
struct Stored {
    stream: String,
    /// How far the stream was.
    sequence: u64,
    generation: u64,
    capabilities: Vec<u8>,
}

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Identity {
    /// 0 while the site has not given one yet.
    incarnation: u64,
    /// No report has used this sequence or a later one.
    reserved: u64,
}

#[derive(Default, Serialize, Deserialize)]
struct StatusOnDisk {
    version: u64,
    deployments: Statuses,
    refusals: Vec<RefusalOnDisk>,
}

#[derive(Clone, Serialize, Deserialize)]
struct RefusalOnDisk {
    subject: String,
    reason: String,
    time: u64,
}

/// A report, and what to settle when it is answered.
pub struct Draft {
    /// The report, without traces and metrics.
    pub request: proto::ReportRequest,
    /// The trace that the news in the report belong to; `None` when there are no news.
    pub trace: Option<String>,
    stream: String,
    generation: u64,
    last: u64,
    lost: u64,
}

impl Journal {
    /// Opens the journal in this folder. A damaged one is set aside: then this node is one that lost its disk, and its
    /// site gives it the next incarnation.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        let inner = match Inner::open(folder) {
            Err(reason) if matches!(reason.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
                let aside = folder.with_extension("damaged");
                error!(error = &reason as &dyn std::error::Error, aside = %aside.display(), "the journal is damaged");
                let _ = fs::remove_dir_all(&aside);
                fs::rename(folder, &aside).with_context(|| format!("setting {} aside", folder.display()))?;
                Inner::open(folder)
            }
            opened => opened,
        };
        let inner = inner.with_context(|| format!("opening the journal in {}", folder.display()))?;
        let recorded = Mutex::new(inner.recorded());
        Ok(Self { inner: Mutex::new(inner), recorded, changed: Notify::new() })
    }

    /// Calls the journal where blocking holds up no async thread.
    pub async fn with<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let journal = self.clone();
        tokio::task::spawn_blocking(move || work(&journal)).await.context("working on the journal")
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there may be something new to tell.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Returns the incarnation that the site gave; 0 when it gave none yet.
    pub fn incarnation(&self) -> u64 {
        self.lock().identity.incarnation
    }

    /// Returns the sequence of the last report that was drafted, in this life of the agent or before; 0 when there was none.
    pub fn sequence(&self) -> u64 {
        self.lock().sequence
    }

    /// Takes the incarnation that the site gave, durably, whichever it is: the site knows what others have seen of us, and our
    /// own disk may be an older or a copied one.
    pub fn set_incarnation(&self, incarnation: u64) -> anyhow::Result<()> {
        let mut inner = self.lock();
        if incarnation != inner.identity.incarnation {
            let identity = Identity { incarnation, ..inner.identity };
            inner.save_identity(identity).context("keeping the incarnation")?;
        }
        Ok(())
    }

    /// Returns what is recorded. Never waits for the disk.
    pub fn recorded(&self) -> Recorded {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn publish(&self, inner: &Inner) {
        *self.recorded.lock().unwrap_or_else(PoisonError::into_inner) = inner.recorded();
    }

    /// Records the statuses that follow from a look, and each transition from those before. The trace is that of the order
    /// that they belong to. A removal that the site has stored since the look is not brought back.
    pub fn record(&self, version: ManifestVersion, mut statuses: Statuses, trace: Option<String>) {
        let mut inner = self.lock();
        let held = &inner.status.deployments;
        statuses.retain(|id, status| status.state() != State::Removed || held.contains_key(id));
        if inner.status.version == version.get() && statuses == *held {
            return;
        }
        let transitions = status::transitions(held, &statuses);
        // First the transitions: after a crash in between the same ones are recorded again, none is missing.
        if !transitions.is_empty()
            && let Err(reason) = inner.spool.append(transitions, now())
        {
            error!(error = &reason as &dyn std::error::Error, "transitions are lost");
        }
        inner.status.version = version.get();
        inner.status.deployments = statuses;
        inner.trace = trace;
        inner.save_status();
        self.publish(&inner);
        drop(inner);
        self.changed.notify_one();
    }

    /// Notes in the history of a deployment, or of one component, that somebody had something done to it. Returns whether the node
    /// has anything to say of it.
    pub fn note_call(
        &self,
        deployment: &DeploymentId,
        component: Option<&ComponentName>,
        code: &str,
        message: &str,
    ) -> io::Result<bool> {
        let mut inner = self.lock();
        let Some(status) = inner.status.deployments.get(deployment) else { return Ok(false) };
        let shown = component.and_then(|name| status.components.iter().find(|shown| shown.name == *name));
        let source = component.map_or(status.name.as_str(), ComponentName::as_str);
        let noted = Transition {
            deployment: *deployment,
            digest: status.digest,
            component: component.cloned(),
            state: shown.map_or_else(|| status.state(), |shown| shown.state),
            failure: Some(Failure::new(code, source, message)),
            adopted: status.adopted,
        };
        inner.spool.append(vec![noted], now())?;
        drop(inner);
        self.changed.notify_one();
        Ok(true)
    }

    /// Lists a refusal for operators. The same one again and again is listed once. The trace is that of what was refused.
    pub fn refuse(&self, subject: String, reason: &str, trace: Option<String>) {
        let reason: String = reason.chars().take(MAX_REASON).collect();
        let mut inner = self.lock();
        let refusals = &mut inner.status.refusals;
        if refusals.last().is_some_and(|last| last.subject == subject && last.reason == reason) {
            return;
        }
        refusals.push(RefusalOnDisk { subject, reason, time: now() });
        let surplus = refusals.len().saturating_sub(REFUSALS);
        refusals.drain(..surplus);
        inner.trace = trace;
        inner.save_status();
        drop(inner);
        self.changed.notify_one();
    }

    /// Sets what this node can do now (Margo's DeviceCapabilitiesManifest, as JSON).
    pub fn describe(&self, capabilities: Vec<u8>) {
        self.lock().capabilities = capabilities;
        self.changed.notify_one();
    }

    /// Whether it is known what this node can do. Nothing is reported before (DEV-09).
    pub fn is_described(&self) -> bool {
        !self.lock().capabilities.is_empty()
    }

    /// Takes what workloads use now. It goes with the next report, and rarely with one of its own.
    pub fn measured(&self, usage: Usage) {
        let mut inner = self.lock();
        inner.usage = usage;
        if inner.is_usage_due() {
            drop(inner);
            self.changed.notify_one();
        }
    }

    /// Returns how many transitions wait.
    pub fn waiting(&self) -> usize {
        self.lock().spool.len()
    }

    /// Whether the site whose STATE stream has this identity lacks anything.
    pub fn is_due(&self, stream: &str) -> bool {
        let inner = self.lock();
        inner.stored.stream != stream
            || inner.stored.generation != inner.generation
            || inner.stored.capabilities != inner.capabilities
            || !inner.spool.is_empty()
            || inner.is_usage_due()
    }

    /// Drafts the next report for the site whose STATE stream has this identity: the status always whole, the capabilities
    /// when the site does not have them.
    pub fn draft(&self, stream: &str) -> io::Result<Draft> {
        let mut inner = self.lock();
        let sequence = inner.next_sequence()?;
        let incarnation = inner.identity.incarnation;
        let same_stream = inner.stored.stream == stream;
        let has_capabilities = same_stream && inner.stored.capabilities == inner.capabilities;
        let capabilities = (!has_capabilities && !inner.capabilities.is_empty()).then(|| proto::NodeCapabilities {
            incarnation,
            sequence,
            document: inner.capabilities.clone().into(),
            generation: 0,
        });
        let status = proto::NodeStatus {
            incarnation,
            sequence,
            version: inner.status.version,
            deployments: newest(&inner.status.deployments).map(|(id, it)| inner.deployment_to_proto(id, it)).collect(),
            refusals: inner.status.refusals.iter().map(refusal_to_proto).collect(),
            time: now(),
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            generation: 0,
        };
        let mut request = proto::ReportRequest {
            status: Some(fit::status(status)),
            capabilities,
            state_stream: inner.stored.stream.clone(),
            state_sequence: inner.stored.sequence,
            ..Default::default()
        };
        let waiting = inner.spool.oldest(BATCH).map(transition_to_proto);
        let transitions = fit::transitions(waiting, fit::room_for_transitions(&request));
        let last = transitions.last().map_or(0, |transition| transition.number);
        let lost = inner.spool.lost();
        let events = proto::NodeEvents { incarnation, sequence, transitions, lost, generation: 0 };
        request.events = (!inner.spool.is_empty()).then_some(events);
        inner.told_usage = inner.usage.clone();
        inner.told_usage_at = Some(Instant::now());
        let trace = inner.trace.clone();
        Ok(Draft { request, trace, stream: stream.to_owned(), generation: inner.generation, last, lost })
    }

    /// Forgets what the site has stored.
    pub fn settle(&self, draft: &Draft, answer: &proto::ReportAnswer) {
        let mut inner = self.lock();
        if answer.stored {
            // A stream made anew meanwhile: what is stored now is in it, what was stored before is gone.
            let same_stream = draft.stream == answer.state_stream;
            let sent = draft.request.capabilities.as_ref().map(|capabilities| capabilities.document.to_vec());
            let before = std::mem::take(&mut inner.stored);
            let kept = if same_stream && before.stream == draft.stream { before.capabilities } else { Vec::new() };
            inner.stored = Stored {
                stream: answer.state_stream.clone(),
                sequence: answer.state_sequence,
                generation: draft.generation,
                capabilities: sent.unwrap_or(kept),
            };
            if inner.generation == draft.generation {
                inner.trace = None;
            }
            inner.forget_removed(draft);
            self.publish(&inner);
        }
        if answer.events_stored
            && draft.request.events.is_some()
            && let Err(reason) = inner.spool.free(draft.last, draft.lost)
        {
            // They stay on disk and are sent again after a restart; numbers tell the reader.
            warn!(error = &reason as &dyn std::error::Error, "spool not freed");
        }
    }
}

impl Inner {
    fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let identity: Identity = load(&folder.join("identity.json"))?;
        Ok(Self {
            sequence: identity.reserved,
            identity,
            status: load(&folder.join("status.json"))?,
            spool: Spool::open(&folder.join("transitions.jsonl"))?,
            folder: folder.to_owned(),
            capabilities: Vec::new(),
            usage: Usage::new(),
            told_usage: Usage::new(),
            told_usage_at: None,
            // One ahead of `stored`: the first report of this life is due.
            generation: 1,
            trace: None,
            stored: Stored::default(),
        })
    }

    /// Whether what workloads use is worth a report by itself.
    fn is_usage_due(&self) -> bool {
        self.told_usage_at.is_none_or(|told| told.elapsed() >= usage::TELL_AGAIN)
            && usage::is_worth_telling(&self.told_usage, &self.usage)
    }

    /// A deployment's status with what its components use.
    fn deployment_to_proto(&self, id: &DeploymentId, status: &DeploymentStatus) -> proto::DeploymentStatus {
        let mut deployment = status::to_proto(id, status);
        for (told, component) in deployment.components.iter_mut().zip(&status.components) {
            let id = WorkloadId { deployment: *id, component: component.name.clone() };
            let used = self.usage.get(&id).filter(|_| component.state == State::Installed);
            told.cpu_milliseconds = used.and_then(|used| u64::try_from(used.cpu_time?.as_millis()).ok());
            told.memory_bytes = used.and_then(|used| used.memory);
        }
        deployment
    }

    fn recorded(&self) -> Recorded {
        Recorded { version: self.status.version, statuses: Arc::new(self.status.deployments.clone()) }
    }

    fn next_sequence(&mut self) -> io::Result<u64> {
        let next = self.sequence + 1;
        if next >= self.identity.reserved {
            self.save_identity(Identity { reserved: next + BLOCK, ..self.identity })?;
        }
        self.sequence = next;
        Ok(next)
    }

    fn save_identity(&mut self, identity: Identity) -> io::Result<()> {
        disk::write_private(&self.folder.join("identity.json"), &serde_json::to_vec(&identity)?)?;
        self.identity = identity;
        Ok(())
    }

    /// A status that cannot be written is still reported; after a restart it is found anew by looking.
    fn save_status(&mut self) {
        self.generation += 1;
        self.write_status();
    }

    fn write_status(&self) {
        let text = serde_json::to_vec(&self.status).expect("names, numbers and texts have a JSON form");
        if let Err(reason) = disk::write_private(&self.folder.join("status.json"), &text) {
            warn!(error = &reason as &dyn std::error::Error, "status not kept on disk");
        }
    }

    /// A deployment that is gone stays in the status until a report that says so is stored.
    fn forget_removed(&mut self, draft: &Draft) {
        let Some(told) = &draft.request.status else { return };
        let before = self.status.deployments.len();
        self.status.deployments.retain(|id, status| {
            let same = |it: &&proto::DeploymentStatus| {
                it.id == id.to_string() && it.digest == status.digest.to_string() && it.state() == proto::State::Removed
            };
            status.state() != State::Removed || !told.deployments.iter().any(|it| same(&it))
        });
        if self.status.deployments.len() != before {
            self.write_status();
        }
    }
}

/// The deployments that a report may name: those that are gone give way first.
fn newest(statuses: &Statuses) -> impl Iterator<Item = (&DeploymentId, &DeploymentStatus)> {
    let mut named: Vec<_> = statuses.iter().collect();
    named.sort_by_key(|(_, status)| status.state() == State::Removed);
    named.truncate(MAX_DEPLOYMENTS);
    named.into_iter()
}

fn load<T: DeserializeOwned + Default>(path: &Path) -> io::Result<T> {
    match disk::read_optional(path)? {
        Some(bytes) => Ok(serde_json::from_slice(&bytes)?),
        None => Ok(T::default()),
    }
}

fn transition_to_proto(numbered: &Numbered) -> proto::Transition {
    let Numbered { number, time, transition } = numbered;
    proto::Transition {
        number: *number,
        deployment: transition.deployment.to_string(),
        digest: transition.digest.to_string(),
        component: transition.component.as_ref().map(ToString::to_string).unwrap_or_default(),
        state: status::state_to_proto(transition.state),
        failure: transition.failure.as_ref().map(Into::into),
        adopted_manifest_version: transition.adopted.get(),
        time: *time,
    }
}

fn refusal_to_proto(refusal: &RefusalOnDisk) -> proto::Refusal {
    let RefusalOnDisk { subject, reason, time } = refusal.clone();
    proto::Refusal { subject, reason, time }
}

/// The wall clock, for people.
#[expect(clippy::disallowed_methods, reason = "the time is shown to people and never compared")]
fn now() -> u64 {
    let elapsed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "journal/tests.rs"]
mod tests;
