//! What the operator of a node may set for this runtime.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use runtime::{Collector, ReservedPorts};

use crate::DockerRuntimeConfig;

/// Where packages of Docker put the program, which the command `docker compose` runs too.
const PLACES: [&str; 5] = [
    "/usr/local/lib/docker/cli-plugins/docker-compose",
    "/usr/local/libexec/docker/cli-plugins/docker-compose",
    "/usr/lib/docker/cli-plugins/docker-compose",
    "/usr/libexec/docker/cli-plugins/docker-compose",
    "/usr/local/bin/docker-compose",
];

/// Arguments of the Docker runtime, to be flattened into those of the agent.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct DockerArgs {
    /// The program docker-compose, version 2 or newer: the file that `docker compose` runs. By default it is looked for where
    /// packages of Docker put it.
    #[arg(long, env = "EDGEWRIGHT_NODE_DOCKER_COMPOSE", value_name = "PATH")]
    pub docker_compose: Option<PathBuf>,
    /// The socket of Docker Engine. Whoever may write to it is as powerful as root on this host.
    #[arg(long, env = "EDGEWRIGHT_NODE_DOCKER_SOCKET", value_name = "PATH", default_value = "/var/run/docker.sock")]
    pub docker_socket: PathBuf,
}

/// Arguments with which the runtime cannot start.
#[derive(Debug, thiserror::Error)]
pub enum InvalidDockerArgs {
    /// A program was given, and it is not there.
    #[error(
        "{0} is not there: give the program docker-compose with --docker-compose or EDGEWRIGHT_NODE_DOCKER_COMPOSE"
    )]
    NoProgram(String),
}

impl DockerArgs {
    /// Checks the arguments. The runtime keeps what it has below `docker` in the agent's data folder, and its workloads
    /// publish their ports on this address, none of them a reserved one, and are told of this collector. A node without Docker
    /// is no error: the runtime then says that it cannot be used.
    pub fn config(
        self,
        data: &Path,
        address: IpAddr,
        reserved: ReservedPorts,
        collector: Collector,
    ) -> Result<DockerRuntimeConfig, InvalidDockerArgs> {
        let compose = match self.docker_compose {
            Some(path) if path.is_file() => path,
            Some(path) => return Err(InvalidDockerArgs::NoProgram(path.display().to_string())),
            None => PLACES.iter().map(PathBuf::from).find(|path| path.is_file()).unwrap_or_else(|| PLACES[0].into()),
        };
        let folder = data.join("docker");
        Ok(DockerRuntimeConfig { compose, socket: self.docker_socket, folder, address, reserved, collector })
    }
}
