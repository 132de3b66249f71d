//! Starts and ends the agent under test: as a task of this process, so that a test sees its runtimes and its spans.

use std::{path::Path, sync::Arc};

use bus::User;
use edge_node::{Config, SpanBuffer};
use runtime::{Condition, Runtime};
use runtime_null::NullRuntime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{site::Site, testing::node};

/// The agent of this crate as a task, on a site and a disk of the test's.
pub struct Agent {
    shutdown: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Agent {
    pub fn start(site: &Site, data: &Path, runtime: &Arc<NullRuntime>, spans: SpanBuffer) -> Self {
        Self::with(site, data, &[runtime], spans)
    }

    pub fn with(site: &Site, data: &Path, runtimes: &[&Arc<NullRuntime>], spans: SpanBuffer) -> Self {
        Self::run(site, data, runtimes.iter().map(|runtime| (*runtime).clone() as Arc<dyn Runtime>).collect(), spans)
    }

    /// With runtimes of any kind.
    pub fn run(site: &Site, data: &Path, runtimes: Vec<Arc<dyn Runtime>>, spans: SpanBuffer) -> Self {
        let config = Config {
            node: node(),
            bus: site.nats.login(&User::Node(node())),
            minter: "http://site".to_owned(),
            minter_tls: None,
            data: data.to_owned(),
            has_collector: false,
        };
        let shutdown = CancellationToken::new();
        let run = edge_node::run(config, runtimes, spans, shutdown.clone());
        Self { shutdown, task: tokio::spawn(run) }
    }

    pub async fn stop(self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        self.task.await.unwrap()
    }
}

/// A runtime whose workloads are up at once and say where they answer.
pub fn null() -> Arc<NullRuntime> {
    let runtime = NullRuntime::default();
    runtime.set_next(Ok(Condition::Running { endpoint: Some("http://127.0.0.1:8080/".to_owned()) }));
    Arc::new(runtime)
}
