//! What whoever mints for a NATS server does: the service `identity` for the hub's, the local orchestrator for its site's.
//!
//! - [`Roll`] says who is a member and who never is again. It is made from files in Git, and only from these.
//! - [`Minter::router`] hands out JWTs: `GET /v1/jwt/<public key>`, to anybody, because a JWT is of no use without the seed.
//! - [`Minter::run`] keeps the server's account equal to the roll, so that a revoked key is cut off at once, and ends the
//!   connections that a key has beyond three, and all of one that sends far more than anybody has to say.
//!
//! A JWT is handed out only while everything that the roll revokes is in force at the server: so whoever had a key before is cut
//! off before its successor logs in.
//!
//! Nothing is remembered: the file of accounts that the server's configuration includes is written before the server is told,
//! and everything is compared again at the start, on each new connection, on each new roll and every minute.

mod accounts;
mod flood;
mod http;
mod metrics;
mod rates;
mod surplus;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use bus::{Bus, Members, User};
use identity::Authority;
use margo::UserNkey;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use surplus::{CONNECTIONS_PER_KEY, Logins};

use crate::{flood::Senders, rates::Rates};

/// Who may log in as a member of a server, and which keys never may again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roll {
    /// The keys in force, each with the member that has it.
    pub members: BTreeMap<UserNkey, User>,
    /// The keys that are revoked. One that is here is none of a member, whatever `members` says.
    pub revoked: BTreeSet<UserNkey>,
}

/// The roll that holds now, for whoever acts on it. It is `None` while nobody knows it.
pub type Rolls = watch::Receiver<Option<Arc<Roll>>>;

/// What a minter depends on.
pub struct Settings {
    /// The keys of the server.
    pub authority: Arc<Authority>,
    /// Who the members are.
    pub members: Members,
    /// The keys of the server's own services. They are no member's and are never revoked, whatever the roll says.
    pub services: BTreeSet<UserNkey>,
    /// How long the JWT of a site holds.
    pub life: Option<Duration>,
    /// Names the server in metrics.
    pub server: String,
}

/// Mints the JWTs of a server's members.
pub struct Minter {
    settings: Settings,
    roll: Rolls,
    rates: Rates,
    logins: watch::Sender<Logins>,
    senders: Mutex<Senders>,
    /// What the roll revoked when the server was last seen to refuse it.
    enforced: RwLock<BTreeSet<UserNkey>>,
}

impl Minter {
    /// Makes the minter of a server. There is no roll yet while `roll` holds `None`: then nobody is given a JWT, and nothing is
    /// revoked.
    pub fn new(settings: Settings, roll: Rolls) -> Arc<Self> {
        let (rates, logins, senders, enforced) = Default::default();
        Arc::new(Self { settings, roll, rates, logins, senders, enforced })
    }

    /// Keeps the server until shutdown. `bus` is a connection to it as [`User::Minter`].
    pub async fn run(self: Arc<Self>, bus: Bus, shutdown: CancellationToken) -> anyhow::Result<()> {
        tokio::try_join!(accounts::run(&self, &bus, &shutdown), surplus::run(&self, &bus, &shutdown))?;
        Ok(())
    }

    /// The members that are connected, as the server last told.
    pub fn logins(&self) -> watch::Receiver<Logins> {
        self.logins.subscribe()
    }

    /// Whether this key is given a JWT now. Then whoever had another key of its member before is cut off already, so what is made
    /// for this key reaches nobody else.
    pub fn admits(&self, key: &UserNkey) -> bool {
        self.member(key).is_ok()
    }

    /// The member that has this key now.
    fn member(&self, key: &UserNkey) -> Result<User, NoMember> {
        let roll = self.roll.borrow().clone().ok_or(NoMember::NotKnownYet)?;
        if roll.revoked.contains(key) || self.settings.services.contains(key) {
            return Err(NoMember::Unknown);
        }
        let member = roll.members.get(key).cloned().ok_or(NoMember::Unknown)?;
        let enforced = self.enforced.read().unwrap_or_else(PoisonError::into_inner);
        if roll.revoked.is_subset(&enforced) { Ok(member) } else { Err(NoMember::RevokedNotEnforced) }
    }

    /// What each key has sent.
    fn senders(&self) -> MutexGuard<'_, Senders> {
        self.senders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The keys that the server has to refuse by this roll.
    fn refused(&self, roll: &Roll) -> BTreeSet<UserNkey> {
        roll.revoked.difference(&self.settings.services).cloned().collect()
    }

    /// Whether the server has to refuse this key.
    fn is_revoked(&self, key: &UserNkey) -> bool {
        let roll = self.roll.borrow();
        roll.as_ref().is_some_and(|roll| roll.revoked.contains(key)) && !self.settings.services.contains(key)
    }

    /// Notes that the server refuses what this roll revokes.
    fn enforces(&self, roll: &Roll) {
        *self.enforced.write().unwrap_or_else(PoisonError::into_inner) = roll.revoked.clone();
    }
}

/// Why no JWT is given for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoMember {
    /// The roll was not read yet.
    NotKnownYet,
    /// The roll does not have the key, or it is revoked.
    Unknown,
    /// The server does not refuse everybody yet whom the roll revokes.
    RevokedNotEnforced,
}
