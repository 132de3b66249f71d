//! Budgets: how much one client, and one of its nodes, may have stored. Whoever is over its budget is refused, and takes
//! nothing from the others. There is no bus here, and the time is an argument.

use std::collections::HashMap;

use margo::{ClientName, NodeId, NodeName};
use process::{Account, Allowance};
use tokio::time::Instant;

const MIB: u64 = 1 << 20;

/// What a client may send at all: 1 MiB a second, which is a thousand nodes that report each second. At once it may send
/// the last values of some thousand nodes, as after the loss of the hub's stream.
const SENT: Allowance = Allowance { burst: 32 * MIB, per_day: 24 * 3600 * MIB };

/// What a client may put into EVENTS: at most 240 MiB in the seven days for which they are kept, an eighth of the stream. So no
/// client pushes out the history of another one before seven others have done the same.
const EVENTS_OF_CLIENT: Allowance = Allowance { burst: 128 * MIB, per_day: 16 * MIB };

/// What one node of it may put there: the backlog that a node keeps in an outage, and afterwards some thousand transitions a
/// day.
const EVENTS_OF_NODE: Allowance = Allowance { burst: 8 * MIB, per_day: 2 * MIB };

/// Whose budget is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverBudget {
    #[error("the site has sent more than its share; it goes on a little later")]
    Sent,
    #[error("the site's share of EVENTS at the hub is used up; it grows again from hour to hour")]
    Client,
    #[error("the node's share of EVENTS at the hub is used up; it grows again from hour to hour")]
    Node,
}

impl OverBudget {
    /// Returns the word for it in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "rate",
            Self::Client => "events-of-client",
            Self::Node => "events-of-node",
        }
    }
}

struct OfClient {
    sent: Account,
    events: Account,
    nodes: HashMap<NodeName, Account>,
}

/// The budgets of all clients. They begin full when the service starts.
#[derive(Default)]
pub struct Budgets {
    clients: HashMap<ClientName, OfClient>,
}

impl Budgets {
    /// Charges a client for a window of so many bytes.
    pub fn send(&mut self, client: &ClientName, bytes: usize, now: Instant) -> Result<(), OverBudget> {
        if self.of(client, now).sent.spend(SENT, bytes, now) { Ok(()) } else { Err(OverBudget::Sent) }
    }

    /// Charges a node and its client for so many bytes in EVENTS, both or none.
    pub fn events(&mut self, node: &NodeId, bytes: usize, now: Instant) -> Result<(), OverBudget> {
        let client = self.of(&node.client, now);
        if !client.events.spend(EVENTS_OF_CLIENT, bytes, now) {
            return Err(OverBudget::Client);
        }
        let account = client.nodes.entry(node.node.clone()).or_insert_with(|| Account::new(EVENTS_OF_NODE, now));
        if !account.spend(EVENTS_OF_NODE, bytes, now) {
            client.events.give_back(bytes);
            return Err(OverBudget::Node);
        }
        Ok(())
    }

    /// Gives back what was charged for a message that is not in EVENTS after all.
    pub fn give_back_events(&mut self, node: &NodeId, bytes: usize) {
        let Some(client) = self.clients.get_mut(&node.client) else { return };
        client.events.give_back(bytes);
        if let Some(account) = client.nodes.get_mut(&node.node) {
            account.give_back(bytes);
        }
    }

    fn of(&mut self, client: &ClientName, now: Instant) -> &mut OfClient {
        self.clients.entry(client.clone()).or_insert_with(|| OfClient {
            sent: Account::new(SENT, now),
            events: Account::new(EVENTS_OF_CLIENT, now),
            nodes: HashMap::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn node(name: &str) -> NodeId {
        name.parse().unwrap()
    }

    #[test]
    fn a_client_over_its_budget_takes_nothing_from_another() {
        let (mut budgets, now) = (Budgets::default(), Instant::now());
        let (loud, quiet) = ("loud".parse().unwrap(), "quiet".parse().unwrap());
        while budgets.send(&loud, 1 << 20, now).is_ok() {}
        assert_eq!(budgets.send(&loud, 1 << 20, now), Err(OverBudget::Sent));
        assert_eq!(budgets.send(&quiet, 1 << 20, now), Ok(()));
        assert_eq!(budgets.send(&loud, 1 << 20, now + Duration::from_secs(2)), Ok(()), "it earns again");
    }

    #[test]
    fn a_node_over_its_budget_takes_nothing_from_its_neighbour() {
        let (mut budgets, now) = (Budgets::default(), Instant::now());
        let mut taken = 0;
        while budgets.events(&node("plant/loud"), 1 << 18, now).is_ok() {
            taken += 1 << 18;
        }
        assert_eq!(taken, EVENTS_OF_NODE.burst);
        assert_eq!(budgets.events(&node("plant/loud"), 1 << 18, now), Err(OverBudget::Node));
        assert_eq!(budgets.events(&node("plant/quiet"), 1 << 18, now), Ok(()));
        budgets.give_back_events(&node("plant/loud"), 1 << 18);
        assert_eq!(budgets.events(&node("plant/loud"), 1 << 18, now), Ok(()));
    }

    #[test]
    fn the_nodes_of_a_client_share_its_budget() {
        let (mut budgets, now) = (Budgets::default(), Instant::now());
        let names: Vec<_> = (0..100).map(|number| node(&format!("plant/n{number}"))).collect();
        let stored = |it: &&NodeId| budgets.events(it, 8 << 20, now).is_ok();
        assert_eq!(names.iter().filter(stored).count(), 16);
        assert_eq!(budgets.events(&node("other/n0"), 8 << 20, now), Ok(()));
    }

    #[test]
    fn in_seven_days_no_client_fills_a_quarter_of_the_stream() {
        let stream = bus::streams::events_at_hub();
        let most = EVENTS_OF_CLIENT.burst + EVENTS_OF_CLIENT.per_day * (stream.max_age.as_secs() / (24 * 3600));
        assert!(most * 4 <= u64::try_from(stream.max_bytes).unwrap(), "{most}");
    }
}
