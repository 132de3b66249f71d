//! The repositories over HTTPS, for stock git: to be read, never to be written.
//!
//! A request is judged, takes the place of whoever makes it, and has `git upload-pack` write its answer into a file that has no
//! name; only then is the answer sent, so that whoever reads slowly holds a file and no process. Each holder of a token has one
//! process and a few answers at a time, and all of them together a few processes.

mod access;
mod http;
mod queues;
mod upload_pack;

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::Context;
use bus::Bus;
use margo::TenantName;
use service::ServerConfig;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

pub use self::access::Access;
use self::{http::Repositories, queues::Queues, upload_pack::UploadPack};

/// Where and how the repositories are served.
#[derive(Clone)]
pub struct Serving {
    /// The address on which they are served.
    pub listen: SocketAddr,
    /// The certificate of the listener. Without it the repositories cross the network in clear.
    pub tls: Option<Arc<ServerConfig>>,
    /// The base URL that whoever may read a repository is told.
    pub public_url: String,
    /// The secret that the tokens of clients are derived with.
    pub secret: String,
}

/// A listener with all that it needs to serve repositories.
pub struct Server {
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    repositories: Arc<Repositories>,
}

impl Server {
    /// Listens. Fails when the address is taken.
    pub async fn listen(
        serving: &Serving,
        folder: PathBuf,
        tenant: TenantName,
        bus: Bus,
    ) -> anyhow::Result<(Self, Arc<Access>)> {
        let listener = TcpListener::bind(serving.listen).await;
        let listener = listener.with_context(|| format!("listening on {} for the repositories", serving.listen))?;
        let access = Arc::new(Access::new(serving, tenant, bus));
        let repositories = Arc::new(Repositories {
            folder,
            access: access.clone(),
            queues: Queues::default(),
            upload_pack: UploadPack::default(),
        });
        Ok((Self { listener, tls: serving.tls.clone(), repositories }, access))
    }

    /// Serves until shutdown.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let address = self.listener.local_addr().context("asking for the address of the repositories")?;
        info!(%address, "the repositories are served");
        service::http::serve(self.listener, self.tls, http::router(self.repositories), shutdown).await
    }
}
