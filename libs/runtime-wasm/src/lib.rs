//! WebAssembly workloads, each in a process of its own: this crate supervises `wasm-runner` and has no wasmtime in it.
//!
//! Runners outlive the agent. What is wanted of a workload stands in its folder (`spec.json`), so a new life of the agent
//! takes a runner that lives up again, untouched, and starts one that does not. The parts:
//!
//! - [`spec`]: what the two programs say to each other, in files and over the control socket.
//! - `folder`: the folder of one workload, and why two runners of it can never run at once.
//! - `supervisor`: keeps one workload running, with growing pauses between its starts.
//!
//! The tests with real runners are those of the program `wasm-runner`.

mod control;
mod folder;
mod process;
mod settings;
pub mod spec;
mod supervisor;
mod wasm;

pub use control::{ask, socket_path};
pub use process::ProcessId;
pub use wasm::{WasmRuntime, WasmRuntimeConfig};
