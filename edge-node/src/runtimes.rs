//! Which runtimes this program has: the one place in the agent that names them. What a package may bring for a runtime is
//! checked where packages are made and taken, in `libs/oci/src/layout` and in app-registry.

use std::{net::IpAddr, path::Path, sync::Arc};

use anyhow::Context;
use runtime::{Collector, ReservedPorts, Runtime};
use runtime_docker::{DockerArgs, DockerRuntime};
use runtime_wasm::{WasmArgs, WasmRuntime};

/// The arguments of every runtime that this program has.
#[derive(Debug, clap::Args)]
pub struct RuntimeArgs {
    #[command(flatten)]
    docker: DockerArgs,
    #[command(flatten)]
    wasm: WasmArgs,
}

/// Starts every runtime. Each keeps what it has in a folder of its own below `data`, and its workloads listen on `address`,
/// on no reserved port, and are told of this collector.
pub async fn start(
    args: RuntimeArgs,
    data: &Path,
    address: IpAddr,
    reserved: ReservedPorts,
    collector: Collector,
) -> anyhow::Result<Vec<Arc<dyn Runtime>>> {
    let config = args.docker.config(data, address, reserved.clone(), collector.clone())?;
    let docker = DockerRuntime::new(config).await.context("starting the Docker runtime")?;
    let config = args.wasm.config(data, address, reserved, collector)?;
    let wasm = WasmRuntime::new(config).await.context("starting the wasm runtime")?;
    Ok(vec![Arc::new(docker), Arc::new(wasm)])
}
