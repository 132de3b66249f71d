//! WebAssembly workloads, each in a process of its own: this crate supervises `wasm-runner` and has no wasmtime in it.
//!
//! Runners outlive the agent. What is wanted of a workload stands in its folder (`spec.json`), so a new life of the agent
//! takes a runner that lives up again, untouched, and starts one that does not. The parts:
//!
//! - [`spec`]: what the two programs say to each other, in files, over the channel of a start and the control socket.
//! - `folder`: the folder of one workload, and why two runners of it never take requests at once.
//! - [`port`]: the listening socket of a workload, which outlives every runner of it.
//! - `start`: a runner that is started, gets ready beside the one that answers, and takes over when it is told to.
//! - `supervisor`: keeps one workload running, with growing pauses between deaths in quick succession.
//! - `cache`: which compiled code is still needed.
//! - `wasm`: the runtime itself; `args`: what the operator may set.
//!
//! The tests with real runners are those of the program `wasm-runner`.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use runtime::Runtime;
//! use runtime_wasm::{WasmRuntime, WasmRuntimeConfig};
//!
//! # let data = tempfile::tempdir()?;
//! let config = WasmRuntimeConfig {
//!     runner: "/usr/bin/wasm-runner".into(),
//!     folder: data.path().join("workloads"),
//!     cache: data.path().join("cache"),
//!     cache_key: data.path().join("cache.key"),
//!     address: "127.0.0.1".parse()?,
//!     reserved: "4222,4323-4325".parse()?,
//!     allowed: Default::default(),
//!     collector: Default::default(),
//! };
//! let wasm = WasmRuntime::new(config).await?;
//! assert!(wasm.observe().await?.is_empty());
//! # Ok(())
//! # }
//! ```

mod allowed;
mod args;
mod cache;
mod control;
mod folder;
pub mod port;
mod process_id;
pub mod spec;
mod start;
mod supervisor;
mod tail;
mod wasm;

pub use allowed::{Allowed, Egress};
pub use args::{InvalidWasmArgs, WasmArgs};
pub use control::{ask, ask_port, socket_path};
pub use process_id::ProcessId;
pub use wasm::{WasmRuntime, WasmRuntimeConfig};
