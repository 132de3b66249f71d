//! What an operator has this node do at once, beside what is desired of it. Nobody gets a shell: a workload is restarted, or
//! what failed is tried again, and the deployment's history says who had that done.

use margo::{ComponentName, DeploymentId};
use tokio::sync::oneshot;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Stops what runs and starts the same revision again.
    Restart,
    /// Tries again what failed, also a revision that was refused.
    Retry,
}

impl Deed {
    /// The word for it in a deployment's history.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Retry => "retry",
        }
    }
}

/// An operation, and who waits for it.
pub struct Operation {
    pub deed: Deed,
    pub deployment: DeploymentId,
    /// Only this component; `None` for all that the deployment has here.
    pub component: Option<ComponentName>,
    /// The name of the person, as the hub knows it.
    pub actor: String,
    /// Is told that it is done, or why not.
    pub done: oneshot::Sender<Result<(), String>>,
}
