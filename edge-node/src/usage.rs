//! What workloads use of the host: asked of the runtimes now and then, and carried by reports that go anyway. For their sake alone
//! a report goes rarely, since every byte that an idle node sends is paid for somewhere.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use margo::State;
use runtime::{Runtime, Stats, WorkloadId};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::journal::Journal;

/// Between two questions. Each makes the kernel look at every page of a workload, which for a hundred small ones takes it some milliseconds.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// How long a runtime may take to tell what one workload uses.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two reports that go for the sake of usage alone.
pub const TELL_AGAIN: Duration = Duration::from_secs(900);

/// Processor time whose growth is worth a report.
const MUCH_TIME: Duration = Duration::from_secs(10);

/// Bytes of memory whose change is worth a report when it is also a quarter of what was told.
const MUCH_MEMORY: u64 = 1 << 20;

/// What each workload uses.
pub type Usage = BTreeMap<WorkloadId, Stats>;

/// Measures what is installed until shutdown.
pub async fn run(
    runtimes: Vec<Arc<dyn Runtime>>,
    journal: Arc<Journal>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    while shutdown.run_until_cancelled(sleep(ASK_AGAIN)).await.is_some() {
        let Some(usage) = shutdown.run_until_cancelled(measure(&runtimes, &journal)).await else { break };
        journal.with(move |journal| journal.measured(usage)).await?;
    }
    Ok(())
}

async fn measure(runtimes: &[Arc<dyn Runtime>], journal: &Journal) -> Usage {
    let mut usage = Usage::new();
    for (deployment, status) in journal.recorded().statuses.iter() {
        for component in status.components.iter().filter(|component| component.state == State::Installed) {
            let id = WorkloadId { deployment: *deployment, component: component.name.clone() };
            for runtime in runtimes {
                // One that cannot tell now tells the next time.
                if let Ok(Ok(stats)) = timeout(PATIENCE, runtime.stats(id.clone())).await {
                    usage.insert(id, stats);
                    break;
                }
            }
        }
    }
    usage
}

/// Whether what is used now is worth a report after what was told last.
pub fn is_worth_telling(told: &Usage, now: &Usage) -> bool {
    let grew = |was: &Stats, is: &Stats| {
        let time = |stats: &Stats| stats.cpu_time.unwrap_or_default();
        let memory = |stats: &Stats| stats.memory.unwrap_or_default();
        let difference = memory(was).abs_diff(memory(is));
        // A workload that was started again counts from zero.
        time(is).saturating_sub(time(was)) >= MUCH_TIME || difference >= MUCH_MEMORY && difference >= memory(was) / 4
    };
    now.iter().any(|(id, is)| told.get(id).is_none_or(|was| grew(was, is)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(seconds: u64, mebibytes: u64) -> Usage {
        let id = WorkloadId {
            deployment: "9db79949-86fb-5e45-910d-8a83dd7391cc".parse().unwrap(),
            component: "hello".parse().unwrap(),
        };
        let stats = Stats { cpu_time: Some(Duration::from_secs(seconds)), memory: Some(mebibytes << 20) };
        Usage::from([(id, stats)])
    }

    #[test]
    fn what_hardly_changed_is_not_worth_a_report() {
        let told = usage(100, 8);
        assert!(is_worth_telling(&Usage::new(), &told));
        assert!(!is_worth_telling(&told, &told) && !is_worth_telling(&told, &Usage::new()));
        assert!(!is_worth_telling(&told, &usage(109, 9)) && !is_worth_telling(&told, &usage(0, 8)));
        assert!(is_worth_telling(&told, &usage(110, 8)));
        assert!(is_worth_telling(&told, &usage(100, 10)) && is_worth_telling(&told, &usage(100, 6)));
    }
}
