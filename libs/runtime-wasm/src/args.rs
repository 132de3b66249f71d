//! What the operator of a node may set for this runtime.

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use runtime::{Collector, ReservedPorts};

use crate::{Allowed, WasmRuntimeConfig};

/// Arguments of the wasm runtime, to be flattened into those of the agent.
#[derive(Clone, Debug, clap::Args)]
pub struct WasmArgs {
    /// The program wasm-runner. By default the one beside this program.
    #[arg(long, env = "EDGEWRIGHT_NODE_WASM_RUNNER", value_name = "PATH")]
    pub wasm_runner: Option<PathBuf>,
    /// What this node allows components.
    #[command(flatten)]
    pub allowed: Allowed,
}

/// Arguments with which the runtime cannot start.
#[derive(Debug, thiserror::Error)]
pub enum InvalidWasmArgs {
    /// No runner was given, and the place of this program, beside which it is looked for, is unknown.
    #[error("finding this program, beside which wasm-runner is looked for")]
    OwnPlace(#[from] io::Error),
    /// There is no such program.
    #[error("{0} is not there: give the program wasm-runner with --wasm-runner or EDGEWRIGHT_NODE_WASM_RUNNER")]
    NoRunner(String),
}

impl WasmArgs {
    /// Checks the arguments. The runtime keeps what it has below `wasm` in the agent's data folder, and its workloads
    /// listen on this address, on no reserved port, and are told of this collector.
    pub fn config(
        self,
        data: &Path,
        address: IpAddr,
        reserved: ReservedPorts,
        collector: Collector,
    ) -> Result<WasmRuntimeConfig, InvalidWasmArgs> {
        let runner = match self.wasm_runner {
            Some(path) => path,
            None => std::env::current_exe()?.with_file_name("wasm-runner"),
        };
        if !runner.is_file() {
            return Err(InvalidWasmArgs::NoRunner(runner.display().to_string()));
        }
        let (folder, cache) = (data.join("wasm/workloads"), data.join("wasm/cache"));
        let cache_key = data.join("wasm/cache.key");
        let allowed = self.allowed;
        Ok(WasmRuntimeConfig { runner, folder, cache, cache_key, address, reserved, allowed, collector })
    }
}
