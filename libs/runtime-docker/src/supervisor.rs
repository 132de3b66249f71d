//! Brings back what somebody stopped or removed, and finishes what was begun.
//!
//! The engine itself starts again what crashes, with pauses of its own. What a person stops, kills or removes it leaves alone,
//! and so does it with what an agent left half applied. One task for each workload looks after that: whenever the engine tells
//! of a container of the workload, and on a timer.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bollard::{
    models::{EventActor, EventMessage},
    query_parameters::{InspectContainerOptions, StartContainerOptions},
};
use futures::StreamExt;
use process::{Backoff, chain};
use runtime::{RuntimeError, WorkloadId};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tracing::{info, warn};

use crate::{
    condition::{Change, Container, State},
    engine::{AGENT, COMPONENT, DEPLOYMENT, NUMBER, REVISION, SERVICE, failed, is_absent, is_conflict},
    folder::InForce,
    shared::Shared,
    slot::Slot,
};

/// A lost event costs no more than this.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Between two attempts, at an engine that is away or with a file that cannot be applied.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
/// When a container that was just started has run long enough to count as up, which no event tells.
const SETTLED: Duration = Duration::from_secs(1);
/// How long the engine may take to note that a container has ended.
const BARRIER: Duration = Duration::from_secs(2);
/// For what is brought back: more than any start of a container takes on a loaded node.
const LIMIT: Duration = Duration::from_secs(60);

/// Looks after one workload for ever. May be dropped at any line.
pub async fn supervise(shared: Arc<Shared>, slot: Arc<Slot>) {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    if slot.view().failure.is_some() {
        sleep(backoff.pause()).await;
    }
    loop {
        match tend(&shared, &slot).await {
            Ok(next) => {
                backoff.reset();
                tokio::select! {
                    () = slot.wake.notified() => {}
                    () = sleep_until(next.unwrap_or_else(|| Instant::now() + LOOK_AGAIN)) => {}
                }
            }
            Err(error) => {
                warn!(workload = %slot.id, error = &error as &dyn std::error::Error, "not looked after");
                // Not woken before: the attempt itself makes events.
                sleep(backoff.pause()).await;
            }
        }
        // A container may be steady by now, which no event tells.
        shared.changed.notify_one();
    }
}

/// Brings back what is to run and does not. Returns when to look again, if that is soon.
async fn tend(shared: &Shared, slot: &Slot) -> Result<Option<Instant>, RuntimeError> {
    let turn = slot.turn.lock().await;
    let Some(in_force) = slot.in_force().filter(|_| !turn.is_removed) else { return Ok(None) };
    if !in_force.applied {
        let _changing = slot.changing(Change::Applying);
        info!(workload = %slot.id, "applying what an earlier attempt left half done");
        shared.up(slot, &in_force, Instant::now() + LIMIT).await?;
        return Ok(None);
    }
    let containers = shared.containers(&slot.id).await?;
    let now = Instant::now();
    let (due, next) = what_is_due(slot, &in_force, &containers, now);
    for container in due.stopped {
        info!(workload = %slot.id, container = container.name, "starting a container that was stopped");
        let client = shared.engine.client().await?;
        match timeout_at(now + LIMIT, client.start_container(&container.id, None::<StartContainerOptions>)).await {
            Ok(Ok(())) => {}
            // Somebody was faster, or it is gone; the event of that wakes us.
            Ok(Err(error)) if is_conflict(&error) || is_absent(&error) => {}
            Ok(Err(error)) => return Err(failed(format!("starting container {}", container.name))(error)),
            Err(_elapsed) => {
                let message = format!("container {} does not start", container.name);
                return Err(RuntimeError::Failed { code: "timeout".to_owned(), message });
            }
        }
    }
    if !due.missing.is_empty() {
        info!(workload = %slot.id, services = ?due.missing, "making containers that were removed");
        shared.up_services(slot, &in_force, &due.missing, now + LIMIT).await?;
    }
    Ok(next)
}

/// What is to be brought back now.
#[derive(Default)]
struct Due<'a> {
    stopped: Vec<&'a Container>,
    missing: BTreeSet<String>,
}

fn what_is_due<'a>(
    slot: &Slot,
    in_force: &InForce,
    containers: &'a [Container],
    now: Instant,
) -> (Due<'a>, Option<Instant>) {
    let view = slot.view();
    let mut due = Due::default();
    let mut next = None;
    for (service, spec) in &in_force.revision.services {
        for number in 1..=spec.replicas {
            let name = format!("{service}-{number}");
            let known = view.ends.get(&name);
            let mut wait = |at: Option<Instant>| next = [next, at].into_iter().flatten().min();
            wait(known.and_then(|known| known.steady_at()).filter(|at| *at > now));
            let pause = known.and_then(|known| known.due).filter(|due| *due > now);
            let found = containers.iter().find(|it| it.name == name && it.revision == spec.revision);
            if found.is_some_and(|found| found.is_young) {
                wait(Some(now + SETTLED));
            }
            let is_wanted = match found.map(|found| found.state) {
                None | Some(State::Created) => true,
                Some(State::Exited) => !spec.is_job,
                Some(State::Running | State::Restarting | State::Paused | State::Gone) => false,
            };
            match (is_wanted, pause, found) {
                (false, ..) => {}
                (true, Some(later), _) => wait(Some(later)),
                (true, None, Some(found)) => due.stopped.push(found),
                (true, None, None) => {
                    due.missing.insert(service.clone());
                }
            }
        }
    }
    (due, next)
}

/// Listens to the engine for ever, as soon as there is a workload.
pub async fn listen(shared: Arc<Shared>) {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        shared.has_workloads().await;
        let label = format!("{AGENT}={}", shared.agent);
        match shared.engine.events(label).await {
            Ok(events) => {
                let mut events = std::pin::pin!(events);
                // What happened before is found by looking.
                shared.wake_all();
                // What an earlier life prepared and did not start goes, and what was not removed when it should have been.
                shared.drop_images(BTreeSet::new()).await;
                while let Some(event) = events.next().await {
                    match event {
                        Ok(event) => {
                            backoff.reset();
                            take(&shared, event).await;
                        }
                        Err(error) => {
                            warn!(error = &error as &dyn std::error::Error, "Docker Engine is heard no more");
                            break;
                        }
                    }
                }
                shared.wake_all();
            }
            Err(error) => {
                tracing::debug!(reason = chain(&error), "Docker Engine is not heard");
            }
        }
        sleep(backoff.pause()).await;
    }
}

async fn take(shared: &Shared, event: EventMessage) {
    let EventActor { id: container, attributes } = event.actor.unwrap_or_default();
    let attributes = attributes.unwrap_or_default();
    let action = event.action.unwrap_or_default();
    if let (true, Some(container)) = (action == "die", container) {
        // The engine tells of an end before its list knows it. Looking at the container itself waits for that.
        let looked = async {
            shared.engine.client().await.ok()?.inspect_container(&container, None::<InspectContainerOptions>).await.ok()
        };
        let _it_may_be_gone = timeout(BARRIER, looked).await;
    }
    let text = |key: &str| attributes.get(key).map(String::as_str);
    let id =
        || Some(WorkloadId { deployment: text(DEPLOYMENT)?.parse().ok()?, component: text(COMPONENT)?.parse().ok()? });
    if let Some(slot) = id().and_then(|id| shared.slot_of(&id)) {
        let container = format!("{}-{}", text(SERVICE).unwrap_or_default(), text(NUMBER).unwrap_or_default());
        slot.happened(&action, &container, text(REVISION), Instant::now());
        slot.wake.notify_one();
    }
    shared.changed.notify_one();
}
