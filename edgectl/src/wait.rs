//! Waiting until an order is carried out on every node, and showing meanwhile how far each of them is.

use std::{
    collections::BTreeMap,
    io::IsTerminal,
    time::{Duration, Instant},
};

use api::{Assignment, Deployment};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use margo::{AssignmentName, DeploymentId, NodeId, State};
use process::escaped;

use crate::{
    client::{Answer, Client},
    failure::Failure,
    tables,
};

/// The pause between two questions: short for a person, and no load for the platform.
const INTERVAL: Duration = Duration::from_millis(300);

/// The state that one deployment shall reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// The node reports the deployment with this digest as installed.
    Installed(String),
    /// The deployment is wanted no longer, and its node reports it as removed or does not know it.
    Removed,
}

/// The goal of each deployment that an order touches, with its node for messages.
pub(crate) type Goals = BTreeMap<DeploymentId, (NodeId, Goal)>;

/// The goals of the order whose answer was this assignment.
pub(crate) fn goals(assignment: &Assignment) -> Goals {
    let placed = assignment.placement.iter().map(|placed| {
        let goal = placed.digest.clone().map_or(Goal::Removed, Goal::Installed);
        (placed.deployment, (placed.node.clone(), goal))
    });
    placed.collect()
}

/// What the deployments say about an order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Deployments are still on their way: a line for each of them.
    Waiting(Vec<String>),
    /// Every deployment is where it shall be.
    Reached,
    /// The order will not come out as given: a line for each deployment that says why.
    Failed(Vec<String>),
}

/// Compares the goals with the deployments. One that failed, or that another order has changed since, makes the whole
/// verdict a failure, whatever the others do.
pub(crate) fn judge(goals: &Goals, deployments: &[Deployment]) -> Verdict {
    let mut waiting = Vec::new();
    let mut failed = Vec::new();
    for (id, (node, goal)) in goals {
        let deployment = deployments.iter().find(|deployment| deployment.desired.id == *id);
        let wanted = deployment.and_then(|deployment| deployment.desired.digest.as_ref());
        let state = deployment.map(|deployment| deployment.state);
        match (goal, wanted) {
            (Goal::Installed(digest), Some(wanted)) if wanted == digest => match state {
                Some(State::Installed) => {}
                Some(State::Failed) => {
                    let failure = deployment.and_then(tables::failure).map(tables::reason);
                    failed.push(format!("{node} failed: {}", failure.as_deref().unwrap_or("it does not say why")));
                }
                _ => waiting.push(format!("{node} is {}", state.unwrap_or(State::Pending))),
            },
            (Goal::Removed, None) if matches!(state, None | Some(State::Removed)) => {}
            (Goal::Removed, None) => waiting.push(format!("{node} is {}", State::Removing)),
            (Goal::Installed(_), _) | (Goal::Removed, Some(_)) => {
                failed.push(format!("{node}: another order has changed it since"));
            }
        }
    }
    match (failed.is_empty(), waiting.is_empty()) {
        (false, _) => Verdict::Failed(failed),
        (true, false) => Verdict::Waiting(waiting),
        (true, true) => Verdict::Reached,
    }
}

/// Asks again and again until the goals are reached, one fails, or the time is over. An outage of the interface does not
/// end the wait, because the order goes on meanwhile.
pub(crate) async fn until_reached(
    client: &Client,
    name: &AssignmentName,
    goals: &Goals,
    timeout: Duration,
) -> Result<Answer<Vec<Deployment>>, Failure> {
    let attempt = format!("waiting for {name}");
    let path = format!("deployments?assignment={name}");
    let end = Instant::now() + timeout;
    let mut progress = Progress::new();
    loop {
        let open = match client.get::<Vec<Deployment>>(&attempt, &path).await {
            Ok(answer) => {
                for (id, (node, _)) in goals {
                    let deployment = answer.body.iter().find(|deployment| deployment.desired.id == *id);
                    progress.show(*id, node, deployment.map_or(State::Pending, |deployment| deployment.state));
                }
                match judge(goals, &answer.body) {
                    Verdict::Reached => return Ok(answer),
                    Verdict::Failed(failed) => {
                        let next = "`edgectl co list deployments` and `edgectl co history …` tell more";
                        return Err(Failure::Failed(format!("{name}: {}\n  next: {next}", failed.join("\n  "))));
                    }
                    Verdict::Waiting(waiting) => waiting.join(", "),
                }
            }
            Err(failure) if failure.is_open() => failure.to_string(),
            Err(failure) => return Err(failure),
        };
        if Instant::now() >= end {
            return Err(Failure::TimedOut(format!("{name} is not done after {} s: {open}", timeout.as_secs())));
        }
        tokio::time::sleep(INTERVAL.min(end.saturating_duration_since(Instant::now()))).await;
    }
}

/// Shows the state of each deployment on stderr: on a terminal as a line that changes, else as a line for each change.
struct Progress {
    bars: Option<MultiProgress>,
    shown: BTreeMap<DeploymentId, (State, Option<ProgressBar>)>,
}

impl Progress {
    fn new() -> Self {
        let bars = std::io::stderr().is_terminal().then(MultiProgress::new);
        Self { bars, shown: BTreeMap::new() }
    }

    fn show(&mut self, id: DeploymentId, node: &NodeId, state: State) {
        if self.shown.get(&id).is_some_and(|(shown, _)| *shown == state) {
            return;
        }
        let line = escaped(&format!("{node}  {state}")).into_owned();
        let bar = match (&self.bars, self.shown.remove(&id)) {
            (None, _) => {
                eprintln!("{line}");
                None
            }
            (Some(_), Some((_, Some(bar)))) => Some(bar),
            (Some(bars), _) => {
                let bar = bars.add(ProgressBar::new_spinner());
                bar.set_style(ProgressStyle::with_template("{spinner} {msg}").expect("the template is fixed"));
                bar.enable_steady_tick(Duration::from_millis(100));
                Some(bar)
            }
        };
        if let Some(bar) = &bar {
            bar.set_message(line);
        }
        self.shown.insert(id, (state, bar));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        for (_, bar) in self.shown.values() {
            if let Some(bar) = bar {
                bar.finish_and_clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ID: &str = "9db79949-86fb-5e45-910d-8a83dd7391cc";

    fn deployment(wanted: Option<&str>, state: State) -> Deployment {
        let failure =
            (state == State::Failed).then(|| json!({ "code": "exited", "source": "hello", "message": "status 1" }));
        serde_json::from_value(json!({
            "id": ID, "assignment": "hello", "node": "plant/press", "app": "hello", "version": "1.0.0",
            "profile": "wasm", "digest": wanted, "revision": 1, "state": state,
            "actual": {
                "id": ID, "node": "plant/press", "digest": "a", "state": state, "failure": failure, "components": [],
                "adoptedManifestVersion": 1, "reportedAt": "2026-11-21T10:00:00Z",
            },
        }))
        .unwrap()
    }

    fn judged(goal: Goal, deployment: Option<Deployment>) -> Verdict {
        let goals = Goals::from([(ID.parse().unwrap(), ("plant/press".parse().unwrap(), goal))]);
        judge(&goals, deployment.as_slice())
    }

    fn installed() -> Goal {
        Goal::Installed("a".to_owned())
    }

    #[test]
    fn an_installation_is_reached_with_its_digest_only() {
        assert_eq!(judged(installed(), Some(deployment(Some("a"), State::Installed))), Verdict::Reached);
        for state in [State::Pending, State::Installing] {
            let waiting = Verdict::Waiting(vec![format!("plant/press is {state}")]);
            assert_eq!(judged(installed(), Some(deployment(Some("a"), state))), waiting);
        }
    }

    #[test]
    fn a_failure_ends_the_wait_with_its_code_and_message() {
        let verdict = judged(installed(), Some(deployment(Some("a"), State::Failed)));
        assert_eq!(verdict, Verdict::Failed(vec!["plant/press failed: exited: status 1".to_owned()]));
    }

    #[test]
    fn another_order_ends_the_wait() {
        for (goal, other) in [
            (installed(), Some(deployment(Some("b"), State::Installed))),
            (installed(), Some(deployment(None, State::Removing))),
            (installed(), None),
            (Goal::Removed, Some(deployment(Some("a"), State::Installed))),
        ] {
            assert!(matches!(judged(goal, other), Verdict::Failed(_)));
        }
    }

    #[test]
    fn a_removal_is_reached_when_it_is_gone_or_forgotten() {
        assert_eq!(judged(Goal::Removed, Some(deployment(None, State::Removed))), Verdict::Reached);
        assert_eq!(judged(Goal::Removed, None), Verdict::Reached);
        let removing = judged(Goal::Removed, Some(deployment(None, State::Removing)));
        assert_eq!(removing, Verdict::Waiting(vec!["plant/press is removing".to_owned()]));
    }

    #[test]
    fn an_order_without_nodes_is_reached_at_once() {
        assert_eq!(judge(&Goals::new(), &[]), Verdict::Reached);
    }
}
