//! Asks the runtimes now and then what workloads use of the host. Reports that go anyway carry it.

use std::{sync::Arc, time::Duration};

use margo::State;
use runtime::{Runtime, WorkloadId};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{journal::Journal, usage::Usage};

/// Between two questions. Each makes the kernel look at every page of a workload, which for a hundred small ones takes it some
/// milliseconds.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// How long a runtime may take to tell what one workload uses.
const PATIENCE: Duration = Duration::from_secs(5);

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
