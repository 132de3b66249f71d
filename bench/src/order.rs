//! From an order to the application's new answer: `order_to_wasm_ms` and `accepted_ms`.
//!
//! With `OTEL_EXPORTER_OTLP_ENDPOINT` set, the services send their spans there: they tell where an order's time goes.

use std::{fs, net::Ipv4Addr, path::Path, process::Command, time::Duration};

use anyhow::Context;
use end_to_end::{Platform, Process, after, program};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::{
    Effort, Samples,
    platform::{self, NODES},
    rest::{Rest, Targets, Wish},
    watch::{Starts, first_answer, last_of},
};

/// The first orders meet cold caches; they are given and not counted.
const WARM_UP: usize = 5;

/// Between two orders, so that each begins at rest.
const PAUSE: Duration = Duration::from_millis(100);

/// How long an order may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// So many orders for each start by hand.
const ORDERS_PER_START: usize = 4;

pub async fn measure(effort: Effort) -> anyhow::Result<Vec<Samples>> {
    let mut running = Platform::with_sample(std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT").ok()).await;
    let rest = Rest::of(&running);
    let addresses = NODES.map(|node| running.node_address(node));
    let mut starts = Vec::new();
    for node in NODES {
        starts.push(platform::find(&running.node(node), "starts.log")?);
    }
    let by_hand = ByHand::new(&running.node(NODES[0]), after(platform::address(&running)?, 9))?;
    let mut order_to_wasm = Samples::new("order_to_wasm_ms");
    let mut accepted = Samples::new("accepted_ms");
    crate::machine::rest(&platform::all_processes(&mut running)).await?;

    for round in 0..WARM_UP + effort.of(12, 100, 400) {
        let wish = Wish {
            app: "hello".to_owned(),
            greeting: format!("Order {round}."),
            targets: Targets::Nodes(running.nodes()),
        };
        let (etag, asked) = rest.etag("hello").await?;
        sleep(PAUSE).await;
        let mut watchers = Vec::new();
        for (address, starts) in addresses.into_iter().zip(&starts) {
            watchers.push(first_answer(address, &wish.greeting, Some(Starts::of(starts)?), PATIENCE));
        }
        let begin = Instant::now();
        rest.update("hello", &etag, &wish).await?;
        let answered = begin.elapsed();
        let done = last_of(watchers).await.with_context(|| format!("order {round}"))?;
        if round >= WARM_UP {
            order_to_wasm.values.push(milliseconds(done - begin.into_std()));
            accepted.values.push(milliseconds(answered));
            accepted.references.push(milliseconds(asked));
        }
        rest.installed("", NODES.len(), Duration::from_millis(10), PATIENCE).await?;
        if round % ORDERS_PER_START == 0 {
            sleep(PAUSE).await;
            order_to_wasm.references.push(by_hand.start(round).await?);
        }
    }
    Ok(vec![order_to_wasm, accepted])
}

/// Starts the sample application's component without any platform.
pub struct ByHand {
    folder: TempDir,
    spec: Value,
    address: Ipv4Addr,
}

impl ByHand {
    /// With the specification of the workload that runs on this node, on another address.
    pub fn new(node: &Path, address: Ipv4Addr) -> anyhow::Result<Self> {
        let folder = TempDir::new().context("a folder for a workload by hand")?;
        let path = platform::find(node, "spec.json")?;
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let mut spec: Value = serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
        spec["folder"] = folder.path().display().to_string().into();
        spec["listen"] = format!("{address}:{}", crate::watch::PORT).into();
        Ok(Self { folder, spec, address })
    }

    /// Milliseconds from the start of wasm-runner to its first answer.
    pub async fn start(&self, round: usize) -> anyhow::Result<f64> {
        let greeting = format!("By hand {round}.");
        let mut spec = self.spec.clone();
        spec["environment"]["GREETING"] = greeting.clone().into();
        let file = self.folder.path().join("spec.json");
        fs::write(&file, spec.to_string()).with_context(|| format!("writing {}", file.display()))?;
        let watcher = first_answer(self.address, &greeting, None, PATIENCE);
        let begin = std::time::Instant::now();
        let mut command = Command::new(program("wasm-runner"));
        let mut runner = Process::start("by-hand", self.folder.path(), command.arg("--spec").arg(&file));
        let took = last_of(vec![watcher]).await? - begin;
        runner.kill();
        Ok(milliseconds(took))
    }
}

pub fn milliseconds(took: Duration) -> f64 {
    took.as_secs_f64() * 1_000.0
}
