//! A service that a test runs.

use bus::{Login, ServiceName};
use margo::TenantName;
use service::{Base, Health};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::wait_for;

/// A service that runs as a task of the test, as it does in its program.
pub struct Running {
    health: Health,
    shutdown: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    /// Starts a service, which works for the default tenant and has this way to its server. `run` is given what every
    /// service is told, and the token that ends it.
    pub fn start<F>(name: ServiceName, bus: Login, run: impl FnOnce(Base, CancellationToken) -> F) -> Self
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        Self::start_with(name, bus, None, run)
    }

    /// Does the same for a service that answers the tier below, and has this way to its server for that.
    pub fn start_with_front<F>(
        name: ServiceName,
        bus: Login,
        front: Login,
        run: impl FnOnce(Base, CancellationToken) -> F,
    ) -> Self
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        Self::start_with(name, bus, Some(front), run)
    }

    fn start_with<F>(
        name: ServiceName,
        bus: Login,
        front: Option<Login>,
        run: impl FnOnce(Base, CancellationToken) -> F,
    ) -> Self
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let (health, shutdown) = (Health::default(), CancellationToken::new());
        let base = Base { bus, front, readiness: health.service(name), tenant: TenantName::default() };
        let task = tokio::spawn(run(base, shutdown.clone()));
        Self { health, shutdown, task }
    }

    /// Tells whether the service says that it can work.
    pub fn is_ready(&self) -> bool {
        self.health.is_ready()
    }

    /// Waits until the service says that it can work. The test fails when the service ends instead.
    pub async fn ready(&self) {
        wait_for("the service to be ready", async || {
            assert!(!self.task.is_finished(), "the service has ended");
            if self.is_ready() { Ok(()) } else { Err("not ready") }
        })
        .await;
    }

    /// Ends the service as SIGTERM does, and fails when it does not end well.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.expect("the service does not panic").expect("the service ends well");
    }

    /// Ends the service without warning, as a crash does.
    pub async fn kill(self) {
        self.task.abort();
        let ended = self.task.await.expect_err("the service ran until it was killed");
        assert!(ended.is_cancelled(), "{ended}");
    }
}
