//! Which nodes there are: asked from node-capabilities, which knows what Git knows.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use api::{Members as Found, NodeState, Targets};
use bus::{Bus, ServiceName, Subject};
use margo::{ClientName, DeviceId, NodeId};
use tokio::time::{Instant, timeout};
use tracing::debug;

/// For how long a node that exists is not asked for again.
const TRUST: Duration = Duration::from_secs(3600);

/// A site that names nodes which nobody knows has them asked for once in this time.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// How long a window waits for the answer.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Default)]
struct Known {
    /// When each node was found, and the device that it is.
    nodes: HashMap<NodeId, (Instant, DeviceId)>,
    /// When a site was last found to name a node that nobody knows.
    strangers: HashMap<ClientName, Instant>,
}

/// The nodes that exist, as far as they were asked for.
pub struct Members {
    bus: Bus,
    known: Mutex<Known>,
}

impl Members {
    pub fn new(bus: Bus) -> Self {
        Self { bus, known: Mutex::default() }
    }

    /// Returns those of a client's nodes that do not exist, or of which nobody can say so now.
    pub async fn unknown(&self, client: &ClientName, nodes: BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let now = Instant::now();
        let mut unknown = nodes;
        {
            let mut known = self.lock();
            unknown.retain(|node| known.nodes.get(node).is_none_or(|(since, _)| now.duration_since(*since) >= TRUST));
            let asked = known.strangers.get(client);
            if unknown.is_empty() || asked.is_some_and(|at| now.duration_since(*at) < ASK_AGAIN) {
                return unknown;
            }
            // Noted before the question, so that a second window does not ask in the meantime.
            known.strangers.insert(client.clone(), now);
        }
        let targets = Targets { nodes: unknown.iter().cloned().collect(), sites: Vec::new() };
        let subject = Subject::service(ServiceName::NodeCapabilities, "members");
        let found = match timeout(PATIENCE, self.bus.call::<_, Found>(&subject, &targets, None)).await {
            Ok(Ok(found)) => found.nodes,
            Ok(Err(problem)) => {
                debug!(%client, %problem, "nodes were not asked for");
                return unknown;
            }
            Err(_elapsed) => {
                debug!(%client, "node-capabilities does not answer");
                return unknown;
            }
        };
        let mut known = self.lock();
        for member in found.into_iter().filter(|member| member.state != NodeState::Retired) {
            unknown.remove(&member.name);
            known.nodes.insert(member.name, (now, member.device_id));
        }
        if unknown.is_empty() {
            known.strangers.remove(client);
        }
        unknown
    }

    /// The device that a node is, when the node was found.
    pub fn device(&self, node: &NodeId) -> Option<DeviceId> {
        self.lock().nodes.get(node).map(|(_, device)| device.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
