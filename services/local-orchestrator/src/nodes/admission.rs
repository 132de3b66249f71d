//! Who may connect at the site: the nodes whose NODE file is in force, under the signed head. No unsigned word admits anybody,
//! every road can, and what is revoked follows from the files alone. The minter of the nodes' logins is told.
//!
//! Nothing is kept here: what is in force is on the disk, and each life begins with telling it. Before anything is in force,
//! nobody is given a login, and whoever has one keeps it.

use std::{collections::BTreeSet, sync::Arc};

use bus::User;
use margo::{Identity, UserNkey};
use minter::{Roll, Rolls};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::health::Pulses;
use crate::{down::InForce, site::Site};

/// Tells the minter, and those who judge who is heard, of the nodes in force.
pub struct Admission {
    site: Arc<Site>,
    pulses: Arc<Pulses>,
    in_force: watch::Receiver<Option<Arc<InForce>>>,
    roll: watch::Sender<Option<Arc<Roll>>>,
}

impl Admission {
    /// Tells what is in force now. Returns also what the minter depends on: `None` before anything is in force.
    pub fn new(site: Arc<Site>, pulses: Arc<Pulses>, in_force: watch::Receiver<Option<Arc<InForce>>>) -> (Self, Rolls) {
        let (roll, told) = watch::channel(None);
        let admission = Self { site, pulses, in_force, roll };
        admission.tell();
        (admission, told)
    }

    /// Tells of every change until shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        // The sender lives as long as the adopter, which ends at shutdown.
        while let Some(Ok(())) = shutdown.run_until_cancelled(self.in_force.changed()).await {
            self.tell();
        }
        Ok(())
    }

    fn tell(&self) {
        let Some(in_force) = self.in_force.borrow().clone() else { return };
        let roll = roll(&self.site, &in_force);
        let generations = in_force.identities.iter().map(|(name, node)| (name.clone(), node.generation()));
        self.site.set_generations(generations.filter(|(_, generation)| *generation > 0).collect());
        let nodes = in_force.identities.iter().filter(|(_, node)| node.identity.is_some());
        self.pulses.know(&nodes.map(|(name, node)| (name.clone(), node.generation())).collect());
        self.roll.send_if_modified(|held| {
            let differs = held.as_deref() != Some(&roll);
            if differs {
                *held = Some(Arc::new(roll));
            }
            differs
        });
    }
}

/// The keys that are in force and those that are former ones.
fn roll(site: &Site, in_force: &InForce) -> Roll {
    let key = |Identity::Nkey(key): &Identity| key.clone();
    let members = in_force.identities.iter().filter_map(|(name, node)| {
        let identity = node.identity.as_ref()?;
        Some((key(identity), User::Node(site.node(name))))
    });
    let revoked: BTreeSet<UserNkey> = in_force.identities.values().flat_map(|node| &node.former).map(key).collect();
    Roll { members: members.collect(), revoked }
}
