//! From the death of a workload to its next answer: `dead_workload_back_ms`.

use std::time::Duration;

use anyhow::Context;
use end_to_end::{Platform, after, starts};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use crate::{
    Effort, Samples,
    order::{ByHand, milliseconds},
    platform::{self, NODES},
    watch::{first_answer, last_of},
};

/// A workload that ran for ten seconds is started again at once when it dies; this is a little more.
const STEADY: Duration = Duration::from_millis(10_500);

/// How long a workload may take to come back.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the sample application says until somebody orders another greeting.
const GREETING: &str = "from Edgewright";

pub async fn measure(effort: Effort) -> anyhow::Result<Vec<Samples>> {
    let mut running = Platform::with_sample(None).await;
    let by_hand = ByHand::new(&running.node(NODES[0]), after(platform::address(&running)?, 9))?;
    let mut samples = Samples::new("dead_workload_back_ms");
    crate::machine::rest(&platform::all_processes(&mut running)).await?;
    for round in 0..effort.of(1, 10, 40) {
        sleep(STEADY).await;
        for node in NODES {
            let folder = running.node(node);
            let runner = starts(&folder).into_iter().find(|start| start.is_alive());
            let runner = runner.with_context(|| format!("no workload runs on {node}"))?;
            let begin = Instant::now();
            let pid = Pid::from_raw(runner.pid).context("a process has a number")?;
            kill_process(pid, Signal::KILL).with_context(|| format!("killing the workload of {node}"))?;
            // Until then its port still takes connections.
            while runner.is_alive() {
                tokio::task::yield_now().await;
            }
            let watcher = first_answer(running.node_address(node), GREETING, None, PATIENCE);
            let answered = last_of(vec![watcher]).await.with_context(|| format!("round {round} on {node}"))?;
            samples.values.push(milliseconds(answered - begin.into_std()));
        }
        samples.references.push(by_hand.start(round).await?);
    }
    Ok(vec![samples])
}
