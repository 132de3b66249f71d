//! Compose workloads: applied by `docker compose`, observed through the API of Docker Engine.
//!
//! Containers outlive the agent. What is wanted of a workload stands in its folder, and the engine itself starts again what
//! crashes, so a new life of the agent only looks. The parts:
//!
//! - `docker`: the runtime itself; `shared`: what it shares with the supervisors; `slot`: one workload, and what is known of it; `folder`: what is kept of it on disk.
//! - `supervisor`: brings back what somebody stopped or removed, with growing pauses.
//! - `condition`: what the state of containers means for the workload. Pure.
//! - `revision`: from an archive and the lock to the file that `docker compose` is given.
//! - `engine`, `images` and `tool`: the engine's API over its socket, images out of the content store, the program.
//! - `args`: what the operator may set.
//!
//! What is ours carries the label `dev.edgewright.agent` with the id of this agent's data folder; nothing else is touched.
//! Images have the local name `edgewright.local/image:<id>`, since loading keeps no digest of a registry, and the file that
//! Compose is given says `pull_policy: never`, so the engine asks no registry. The tool sees neither the environment of
//! the agent nor the credentials of a person.

mod args;
mod condition;
mod docker;
mod engine;
mod folder;
mod images;
mod revision;
mod shared;
mod slot;
mod supervisor;
mod tool;

pub use args::{DockerArgs, InvalidDockerArgs};
pub use docker::DockerRuntime;
pub use shared::DockerRuntimeConfig;
