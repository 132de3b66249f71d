//! What the state of containers means for a workload. No engine and no clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bollard::models::{ContainerSummary, ContainerSummaryStateEnum as EngineState};
use process::Backoff;
use runtime::{Condition, Part};
use tokio::time::Instant;

use crate::{
    engine::{NUMBER, REVISION, SERVICE},
    folder::{Revision, ServiceSpec},
};

/// The pause after the second end in quick succession; the first is followed by a start at once.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A container that was up for so long is well: what was before counts no more.
pub const STEADY: Duration = Duration::from_secs(10);
/// Ends in quick succession after which a container that is up again is not shown so before it is steady: else each round of a
/// crash loop would be two changes of its state, written, reported and stored.
const FLAPPING: u32 = 2;

/// What we are doing to the containers of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Change {
    None,
    /// They are made and started, and those of an older revision stopped.
    Applying,
    /// They are stopped, because they are to be started anew or to go.
    Stopping,
}

/// How a container is, as a list of the engine shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Created,
    Running,
    Restarting,
    Paused,
    Exited,
    /// The engine is about to forget it, or could not.
    Gone,
}

/// What the health check of a container says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// There is none.
    None,
    Starting,
    Healthy,
    Unhealthy,
}

/// One container of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// The id in the engine.
    pub id: String,
    /// The service and the number, such as `web-1`.
    pub name: String,
    pub service: String,
    /// The revision of the service for which it was made.
    pub revision: String,
    pub state: State,
    pub health: Health,
    /// Whether it was started less than a second ago.
    pub is_young: bool,
    /// How it ended last, when that is known.
    pub exit_code: Option<i64>,
    /// Where it answers on the host.
    pub endpoint: Option<String>,
}

impl Container {
    /// Reads an entry of the engine's list; `None` when Compose did not make it as a part of a service.
    pub fn read(summary: &ContainerSummary) -> Option<Self> {
        let labels = summary.labels.as_ref()?;
        let (service, number) = (labels.get(SERVICE)?, labels.get(NUMBER)?);
        let status = summary.status.as_deref().unwrap_or_default();
        let state = match summary.state {
            Some(EngineState::RUNNING | EngineState::STOPPING) => State::Running,
            Some(EngineState::CREATED) => State::Created,
            Some(EngineState::RESTARTING) => State::Restarting,
            Some(EngineState::PAUSED) => State::Paused,
            Some(EngineState::EXITED) => State::Exited,
            Some(EngineState::DEAD | EngineState::REMOVING | EngineState::EMPTY) | None => State::Gone,
        };
        // Every version of the engine says both in these words; newer ones have a field for health too.
        let health = match status {
            _ if status.ends_with("(healthy)") => Health::Healthy,
            _ if status.ends_with("(unhealthy)") => Health::Unhealthy,
            _ if status.ends_with("(health: starting)") => Health::Starting,
            _ => Health::None,
        };
        let exit_code = status.split_once('(').and_then(|(_, rest)| rest.split_once(')')?.0.parse().ok());
        let ports = summary.ports.as_deref().unwrap_or_default();
        let endpoint = ports.iter().find_map(|port| {
            let (address, port) = (port.ip.as_deref()?, port.public_port?);
            Some(if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") })
        });
        Some(Self {
            id: summary.id.clone()?,
            name: format!("{service}-{number}"),
            service: service.clone(),
            revision: labels.get(REVISION).cloned().unwrap_or_default(),
            state,
            health,
            // The engine's own words, so no clock has to agree with its.
            is_young: status.starts_with("Up Less than a second"),
            exit_code,
            endpoint,
        })
    }

    /// Whether it runs, and did not end at once.
    pub fn is_settled(&self) -> bool {
        self.state == State::Running && !self.is_young
    }
}

/// How often a container ended in quick succession, as far as this life of the agent saw it.
#[derive(Clone, Debug)]
pub struct Ends {
    quick: u32,
    backoff: Backoff,
    /// When it was last started; `None` when that was before this life.
    started: Option<Instant>,
    /// When it may be started again.
    pub due: Option<Instant>,
    /// The failure that was shown last.
    pub shown: Option<Condition>,
}

impl Default for Ends {
    fn default() -> Self {
        let backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        Self { quick: 0, backoff, started: None, due: None, shown: None }
    }
}

impl Ends {
    pub fn started(&mut self, now: Instant) {
        self.started = Some(now);
        self.due = None;
    }

    /// Takes note of an end, and says when it may be started again: at once after the first.
    pub fn ended(&mut self, now: Instant) {
        if self.started.is_none_or(|started| now.duration_since(started) >= STEADY) {
            *self = Self::default();
        }
        self.quick = self.quick.saturating_add(1);
        let pause = if self.quick == 1 { Duration::ZERO } else { self.backoff.pause() };
        self.due = Some(now + pause);
    }

    /// Whether a container that is up again is not to be shown so yet.
    pub fn is_flapping(&self, now: Instant) -> bool {
        self.quick >= FLAPPING && self.started.is_none_or(|started| now.duration_since(started) < STEADY)
    }

    /// When it will be shown as up if it stays so.
    pub fn steady_at(&self) -> Option<Instant> {
        self.started.filter(|_| self.quick >= FLAPPING).map(|started| started + STEADY)
    }
}

/// How one part is, and which container tells more about its failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    pub part: Part,
    /// The container whose last lines belong into the message of the failure.
    pub container: Option<String>,
}

/// The names of all containers that a revision asks for, each with what is to be seen of its service.
fn expected(revision: &Revision) -> impl Iterator<Item = (String, &ServiceSpec)> {
    revision
        .services
        .iter()
        .flat_map(|(service, spec)| (1..=spec.replicas).map(move |number| (format!("{service}-{number}"), spec)))
}

/// The one of these containers that was made for this part of a revision.
fn made_for<'a>(containers: &'a [Container], name: &str, spec: &ServiceSpec) -> Option<&'a Container> {
    containers.iter().find(|it| it.name == name && it.revision == spec.revision)
}

/// The names of those containers of a revision that run for a while already.
pub fn settled(revision: &Revision, containers: &[Container]) -> impl Iterator<Item = String> {
    let runs =
        move |name: &str, spec: &ServiceSpec| made_for(containers, name, spec).is_some_and(Container::is_settled);
    expected(revision).filter(move |(name, spec)| runs(name, spec)).map(|(name, _)| name)
}

/// Judges every container that the revision asks for. One without a health check counts as up when it has run for a second, else a
/// program that ends at once would pass for one that was installed. `settled` holds the names of those that have. While the workload
/// is being applied, what is not there yet is on its way; what ended with an error has failed at once (DEV-27). While it is
/// being stopped, nothing has failed.
pub fn judge(
    revision: &Revision,
    containers: &[Container],
    ends: &BTreeMap<String, Ends>,
    settled: &BTreeSet<String>,
    change: Change,
    now: Instant,
) -> Vec<Judged> {
    let mut judged = Vec::new();
    for (name, spec) in expected(revision) {
        let container = made_for(containers, &name, spec);
        let known = ends.get(&name);
        let is_flapping = known.is_some_and(|known| known.is_flapping(now));
        let was_up = settled.contains(&name);
        let failed = |code: &str, message: String| Condition::Failed { code: code.to_owned(), message };
        let (condition, tells) = match container {
            None if change == Change::Applying => (Condition::Starting, false),
            None => (failed("removed", "its container was removed".to_owned()), false),
            Some(container) => match (container.state, container.health) {
                (State::Running, Health::Unhealthy) => (failed("unhealthy", "its health check fails".to_owned()), true),
                (State::Running, _) if is_flapping => {
                    let shown = known.and_then(|known| known.shown.clone());
                    (shown.unwrap_or(Condition::Starting), false)
                }
                (State::Running, Health::Starting) | (State::Created, _) => (Condition::Starting, false),
                (State::Running, Health::None) if container.is_young && !was_up => (Condition::Starting, false),
                (State::Running, Health::None | Health::Healthy) => {
                    (Condition::Running { endpoint: container.endpoint.clone() }, false)
                }
                (State::Exited, _) if spec.is_job && container.exit_code == Some(0) => (Condition::Completed, false),
                (State::Exited | State::Restarting, _) => {
                    let code = container.exit_code.map_or_else(|| "unknown".to_owned(), |code| code.to_string());
                    let message = format!("it ended with exit code {code}");
                    // Another round of the same is no news, whatever its last lines are.
                    let shown = known.and_then(|known| known.shown.clone()).filter(|_| is_flapping);
                    match shown {
                        Some(Condition::Failed { message: before, code }) if before.starts_with(&message) => {
                            (Condition::Failed { code, message: before }, false)
                        }
                        _ => (failed("exited", message), true),
                    }
                }
                (State::Paused, _) => (failed("paused", "somebody has paused it".to_owned()), false),
                (State::Gone, _) => (failed("removed", "its container is being removed".to_owned()), false),
            },
        };
        let stops = change == Change::Stopping && matches!(condition, Condition::Failed { .. });
        let condition = if stops { Condition::Starting } else { condition };
        let container = container.filter(|_| tells && !stops).map(|container| container.id.clone());
        judged.push(Judged { part: Part { name, condition }, container });
    }
    judged
}

#[cfg(test)]
mod tests {
    use margo::Digest;
    use runtime::WorkloadId;

    use super::*;

    fn revision(services: &[(&str, u32, bool)]) -> Revision {
        let spec = |is_job: bool, replicas: u32| ServiceSpec { revision: "r".to_owned(), replicas, is_job };
        Revision {
            workload: WorkloadId {
                deployment: "9db79949-86fb-5e45-910d-8a83dd7391cc".parse().unwrap(),
                component: "shop".parse().unwrap(),
            },
            digest: Digest::of(b"document"),
            services: services.iter().map(|(name, count, job)| ((*name).to_owned(), spec(*job, *count))).collect(),
            images: Default::default(),
            ports: Default::default(),
            volumes: Default::default(),
        }
    }

    fn container(name: &str, state: State) -> Container {
        Container {
            id: format!("id-of-{name}"),
            name: name.to_owned(),
            service: name.split('-').next().unwrap().to_owned(),
            revision: "r".to_owned(),
            state,
            health: Health::None,
            is_young: false,
            exit_code: None,
            endpoint: None,
        }
    }

    fn conditions(revision: &Revision, containers: &[Container], change: Change) -> Vec<Condition> {
        let judged = judge(revision, containers, &BTreeMap::new(), &BTreeSet::new(), change, Instant::now());
        judged.into_iter().map(|judged| judged.part.condition).collect()
    }

    fn code(condition: &Condition) -> &str {
        match condition {
            Condition::Failed { code, .. } => code,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn dev_27_a_service_is_up_when_each_container_runs_and_is_healthy() {
        let shop = revision(&[("web", 2, false)]);
        let running = || container("web-1", State::Running);
        let second = |health| Container { name: "web-2".into(), health, ..running() };
        let up = Condition::Running { endpoint: None };
        assert_eq!(conditions(&shop, &[running(), second(Health::Healthy)], Change::None), [up.clone(), up.clone()]);
        assert_eq!(conditions(&shop, &[running(), second(Health::Starting)], Change::None)[1], Condition::Starting);
        assert_eq!(code(&conditions(&shop, &[running(), second(Health::Unhealthy)], Change::None)[1]), "unhealthy");
        assert_eq!(code(&conditions(&shop, &[running()], Change::None)[1]), "removed");
        let old = Container { revision: "before".into(), ..running() };
        assert_eq!(conditions(&shop, &[old], Change::Applying), [Condition::Starting, Condition::Starting]);
    }

    #[test]
    fn a_container_without_a_health_check_is_up_when_it_did_not_end_at_once() {
        let shop = revision(&[("web", 1, false)]);
        let young = Container { is_young: true, ..container("web-1", State::Running) };
        let up = Condition::Running { endpoint: None };
        assert_eq!(conditions(&shop, std::slice::from_ref(&young), Change::None), [Condition::Starting]);
        assert_eq!(conditions(&shop, &[container("web-1", State::Running)], Change::None), std::slice::from_ref(&up));
        let checked = Container { health: Health::Healthy, ..young.clone() };
        assert_eq!(conditions(&shop, &[checked], Change::None), std::slice::from_ref(&up));
        // One that comes back was up before.
        let settled = BTreeSet::from(["web-1".to_owned()]);
        let back = judge(&shop, &[young], &BTreeMap::new(), &settled, Change::None, Instant::now());
        assert_eq!(back[0].part.condition, up);
    }

    #[test]
    fn what_has_settled_is_no_more_than_the_revision_has() {
        let shop = revision(&[("web", 2, false)]);
        let running = container("web-1", State::Running);
        let others = [
            Container { revision: "before".to_owned(), ..running.clone() },
            Container { name: "web-3".to_owned(), ..running.clone() },
            Container { name: "side-1".to_owned(), ..running.clone() },
            Container { name: "web-2".to_owned(), is_young: true, ..running.clone() },
        ];
        assert_eq!(settled(&shop, &others).count(), 0);
        let all = [others.as_slice(), &[running]].concat();
        assert_eq!(settled(&shop, &all).collect::<Vec<_>>(), ["web-1"]);
    }

    #[test]
    fn dev_27_a_non_zero_exit_fails_at_once_and_a_job_that_is_done_is_done() {
        let shop = revision(&[("job", 1, true), ("web", 1, false)]);
        let ended = |name: &str, code| Container { exit_code: Some(code), ..container(name, State::Exited) };
        let [job, web] = &conditions(&shop, &[ended("job-1", 0), ended("web-1", 0)], Change::None)[..] else {
            panic!()
        };
        assert_eq!((job, code(web)), (&Condition::Completed, "exited"));
        for change in [Change::None, Change::Applying] {
            let [job, web] = &conditions(&shop, &[ended("job-1", 3), ended("web-1", 137)], change)[..] else {
                panic!()
            };
            assert_eq!((code(job), code(web)), ("exited", "exited"), "{change:?}");
        }
        // It was stopped in order to be started again.
        let stopping = conditions(&shop, &[ended("job-1", 0), ended("web-1", 137)], Change::Stopping);
        assert_eq!(stopping, [Condition::Completed, Condition::Starting]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_end_is_followed_by_a_start_at_once_and_a_crash_loop_is_not_shown_as_up() {
        let mut ends = Ends::default();
        let begin = Instant::now();
        ends.ended(begin);
        assert_eq!(ends.due, Some(begin));
        ends.started(begin);
        assert!(!ends.is_flapping(begin));
        ends.ended(begin);
        assert!(ends.due.unwrap() >= begin + FIRST_PAUSE / 2);
        ends.started(begin);
        assert!(ends.is_flapping(begin) && !ends.is_flapping(begin + STEADY));
        let shop = revision(&[("web", 1, false)]);
        let failed = Condition::Failed { code: "exited".into(), message: "with 3".into() };
        ends.shown = Some(failed.clone());
        let known = BTreeMap::from([("web-1".to_owned(), ends.clone())]);
        let running = [container("web-1", State::Running)];
        assert_eq!(judge(&shop, &running, &known, &BTreeSet::new(), Change::None, begin)[0].part.condition, failed);
        let later = judge(&shop, &running, &known, &BTreeSet::new(), Change::None, begin + STEADY);
        assert_eq!(later[0].part.condition, Condition::Running { endpoint: None });
        ends.ended(begin + 2 * STEADY);
        assert_eq!(ends.due, Some(begin + 2 * STEADY), "a steady run forgets what was before");
    }

    #[test]
    fn the_list_of_the_engine_is_read() {
        let labels = [(SERVICE, "web"), (NUMBER, "1"), (REVISION, "r")];
        let summary = |state, status: &str| ContainerSummary {
            id: Some("id-of-web-1".into()),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            state: Some(state),
            status: Some(status.to_owned()),
            ..ContainerSummary::default()
        };
        let read = |state, status| Container::read(&summary(state, status)).unwrap();
        assert_eq!(read(EngineState::RUNNING, "Up 2 seconds"), container("web-1", State::Running));
        assert!(read(EngineState::RUNNING, "Up Less than a second").is_young);
        assert_eq!(read(EngineState::RUNNING, "Up 2 minutes (healthy)").health, Health::Healthy);
        assert_eq!(read(EngineState::RUNNING, "Up 1 second (health: starting)").health, Health::Starting);
        assert_eq!(read(EngineState::EXITED, "Exited (137) 3 seconds ago").exit_code, Some(137));
        assert_eq!(read(EngineState::RESTARTING, "Restarting (1) 3 seconds ago").exit_code, Some(1));
        assert_eq!(Container::read(&ContainerSummary::default()), None);
    }
}
