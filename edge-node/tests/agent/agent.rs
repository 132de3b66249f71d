//! The agent under test.

use std::{path::Path, sync::Arc};

use bus::User;
use edge_node::{Config, SpanBuffer};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{double::Double, site::Site, testing::node};

/// The agent of this crate as a task, on a site and a disk of the test's.
pub struct Agent {
    shutdown: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Agent {
    pub fn start(site: &Site, data: &Path, runtime: &Arc<Double>, spans: SpanBuffer) -> Self {
        let config = Config {
            node: node(),
            bus: site.nats.login(&User::Node(node())),
            data: data.to_owned(),
            workload_address: [127, 0, 0, 1].into(),
        };
        let shutdown = CancellationToken::new();
        let run = edge_node::run(config, vec![runtime.clone()], spans, shutdown.clone());
        Self { shutdown, task: tokio::spawn(run) }
    }

    pub async fn stop(self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        self.task.await.unwrap()
    }
}
