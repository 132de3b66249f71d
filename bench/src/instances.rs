//! What an instance of a component costs: `wasm_instantiate_us`.
//!
//! Every request to a WebAssembly service gets an instance of its own. The runner says at its control socket how many it made and how
//! long that took, so what is measured is what serves.

use std::{fs, path::Path, time::Instant};

use anyhow::{Context, ensure};
use end_to_end::{Platform, sample};
use runtime_wasm::{
    ask,
    spec::{CONTROL, Command, Status},
};
use wasmtime::{
    Engine, Store,
    component::{Component, InstancePre, Linker, ResourceTable},
};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView};

use crate::{
    Effort, Samples,
    platform::{self, NODES},
    watch::PORT,
};

/// The instances of which one sample is the mean.
const INSTANCES: u32 = 200;

pub async fn measure(effort: Effort) -> anyhow::Result<Vec<Samples>> {
    let mut running = Platform::with_sample(None).await;
    let control = platform::find(&running.node(NODES[0]), CONTROL)?;
    let workload = control.parent().context("a socket lies in a folder")?;
    let url = format!("http://{}:{PORT}/", running.node_address(NODES[0]));
    let client = reqwest::Client::new();
    let plain = Plain::of(&sample().join("hello.wasm"))?;
    crate::machine::rest(&platform::all_processes(&mut running)).await?;
    let mut samples = Samples::new("wasm_instantiate_us");
    for _ in 0..effort.of(2, 20, 60) {
        let before = status(workload).await?;
        for _ in 0..INSTANCES {
            let answer = client.get(&url).send().await.and_then(reqwest::Response::error_for_status);
            answer.context("asking the application")?.bytes().await.context("reading its answer")?;
        }
        let after = status(workload).await?;
        let made = after.requests - before.requests;
        ensure!(made >= INSTANCES.into(), "the runner counts {made} requests of {INSTANCES}");
        let took = after.instantiating.saturating_sub(before.instantiating);
        samples.values.push(took.as_secs_f64() * 1e6 / made as f64);

        let begin = Instant::now();
        for _ in 0..INSTANCES {
            plain.make().await?;
        }
        samples.references.push(begin.elapsed().as_secs_f64() * 1e6 / f64::from(INSTANCES));
    }
    Ok(vec![samples])
}

async fn status(workload: &Path) -> anyhow::Result<Status> {
    ask(workload, Command::Status).await.context("asking the runner")
}

/// The same component as wasmtime alone has it: no limits, no epochs, nothing of this node.
struct Plain {
    engine: Engine,
    component: InstancePre<State>,
}

struct State {
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: NoRequests,
}

struct NoRequests;

impl WasiHttpHooks for NoRequests {
    fn send_request(
        &mut self,
        _request: http::Request<WasiBody>,
        _options: Option<RequestOptions>,
        _processed: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = wasmtime_wasi_http::Result<Sent>> + Send> {
        Box::new(async { Err(Error::HttpRequestDenied) })
    }
}

type Sent = (http::Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>);

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.hooks }
    }
}

impl Plain {
    fn of(component: &Path) -> anyhow::Result<Self> {
        let engine = Engine::default();
        let bytes = fs::read(component).with_context(|| format!("reading {}", component.display()))?;
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
        let component = linker.instantiate_pre(&Component::new(&engine, bytes)?)?;
        Ok(Self { engine, component })
    }

    async fn make(&self) -> anyhow::Result<()> {
        let (table, wasi, http) = (ResourceTable::new(), WasiCtx::builder().build(), WasiHttpCtx::new());
        let mut store = Store::new(&self.engine, State { table, wasi, http, hooks: NoRequests });
        self.component.instantiate_async(&mut store).await?;
        Ok(())
    }
}
