//! An agent that lives for months needs no more memory than one of yesterday.
//!
//! A program of its own, for it measures the whole process.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

#[path = "../agent/agent.rs"]
#[allow(dead_code, reason = "the tests of the agent use the rest")]
mod agent;
#[path = "../agent/site.rs"]
#[allow(dead_code, reason = "the tests of the agent use the rest")]
mod site;
#[path = "../../src/testing.rs"]
mod testing;

use std::fs;

use bus::proto;
use edge_node::SpanBuffer;
use runtime::Runtime;
use runtime_null::NullRuntime;
use tempfile::TempDir;

use crate::{
    agent::{Agent, null},
    site::Site,
};

const WORKLOADS: usize = 20;
/// The passes after which everything has its final size.
const WARM: usize = 1_000;
const PASSES: usize = 10_000;
/// What the allocator may take more, in KiB: pages that it splits otherwise, and the answers to signs of life. A byte for each
/// workload and pass would be 200.
const SLACK: u64 = 128;

/// Has the agent look again and again, and act on each look.
async fn pass(runtime: &NullRuntime, times: usize) {
    let changed = runtime.changed();
    for _ in 0..times {
        let before = runtime.looks();
        changed.notify_one();
        // All tasks have the one thread of this test: the reconciler's turn comes before the next look.
        while runtime.looks() == before {
            tokio::task::yield_now().await;
        }
    }
}

/// Memory of this process that no file backs, in KiB.
fn anonymous() -> u64 {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

#[tokio::test]
async fn ten_thousand_passes_need_no_more_memory_than_a_thousand() {
    let site = Site::start().await;
    let (data, runtime) = (TempDir::new().unwrap(), null());
    let agent = Agent::start(&site, data.path(), &runtime, SpanBuffer::default());
    let artifact = site.artifact(b"component").await;
    let deployment = |number| testing::entry(&testing::deployment(&format!("hello-{number}"), artifact));
    site.desire(1, (0..WORKLOADS).map(deployment).collect()).await;
    let all_installed = |report: &proto::ReportRequest| {
        let status = report.status.as_ref().unwrap();
        let installed = status.deployments.iter().filter(|deployment| deployment.state() == proto::State::Installed);
        installed.count() == WORKLOADS
    };
    site.report_after(0, "everything to be installed", all_installed).await;

    pass(&runtime, WARM).await;
    let before = anonymous();
    pass(&runtime, PASSES).await;
    let after = anonymous();
    assert!(after <= before + SLACK, "{after} KiB after {PASSES} passes, {before} KiB before");
    assert_eq!(runtime.starts(), WORKLOADS, "the passes changed nothing");
    agent.stop().await.unwrap();
}
