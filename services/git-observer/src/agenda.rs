//! Which clients are to be looked at, and when those are tried again that could not be. No bus, no git; time is an
//! argument.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use margo::ClientName;
use tokio::time::Instant;

use crate::look::Look;

/// The pause before a look that was in vain is repeated. It doubles each time, up to the last one.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// Clients that are to be looked at. It is lost with the process, and a new process looks at everybody.
#[derive(Debug, Default)]
pub struct Agenda {
    now: BTreeMap<ClientName, Look>,
    /// Clients at which the last look was in vain. A signal may bring such a client into `now` before its time.
    later: BTreeMap<ClientName, Retry>,
}

#[derive(Debug)]
struct Retry {
    at: Instant,
    /// How long it waits this time; twice as long the next time.
    pause: Duration,
    look: Look,
}

impl Agenda {
    /// Wants this client looked at, at least so closely: of two looks that are wanted, the closer one stays.
    pub fn add(&mut self, client: ClientName, look: Look) {
        let held = self.now.entry(client).or_insert(look);
        *held = look.max(*held);
    }

    pub fn add_all(&mut self, clients: &BTreeSet<ClientName>, look: Look) {
        clients.iter().for_each(|client| self.add(client.clone(), look));
    }

    /// When the next retry is due; `None` when nothing is to be repeated.
    pub fn due(&self) -> Option<Instant> {
        self.later.values().map(|retry| retry.at).min()
    }

    /// Takes the clients out that are to be looked at now, retries that are due included. The caller reports on each of
    /// them with `done` or `again`.
    pub fn take(&mut self, now: Instant) -> BTreeMap<ClientName, Look> {
        let due: Vec<_> =
            self.later.iter().filter(|(_, retry)| retry.at <= now).map(|(client, _)| client.clone()).collect();
        for client in due {
            let look = self.later[&client].look;
            self.add(client, look);
        }
        std::mem::take(&mut self.now)
    }

    /// Notes that a look succeeded: the next failure begins with the first, short pause.
    pub fn done(&mut self, client: &ClientName) {
        self.later.remove(client);
    }

    /// Notes that a look was in vain, so that it is repeated after a pause.
    pub fn again(&mut self, client: ClientName, look: Look, now: Instant) {
        let pause = self.later.get(&client).map_or(FIRST_RETRY, |retry| (retry.pause * 2).min(LAST_RETRY));
        self.later.insert(client, Retry { at: now + pause, pause, look });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closer_look_is_not_forgotten() {
        let (mut agenda, now) = (Agenda::default(), Instant::now());
        let plant: ClientName = "plant".parse().unwrap();
        agenda.add(plant.clone(), Look::Everything);
        agenda.add(plant.clone(), Look::Changes);
        assert_eq!(agenda.take(now), BTreeMap::from([(plant, Look::Everything)]));
        assert_eq!(agenda.take(now), BTreeMap::new());
    }

    #[test]
    fn what_failed_comes_again_later_and_later_until_it_is_done() {
        let (mut agenda, mut now) = (Agenda::default(), Instant::now());
        let plant: ClientName = "plant".parse().unwrap();
        for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
            agenda.again(plant.clone(), Look::Changes, now);
            assert_eq!(agenda.due(), Some(now + Duration::from_secs(pause)));
            assert_eq!(agenda.take(now), BTreeMap::new());
            now += Duration::from_secs(pause);
            assert_eq!(agenda.take(now).len(), 1);
        }
        agenda.done(&plant);
        assert_eq!((agenda.due(), agenda.take(now + LAST_RETRY).len()), (None, 0));
    }
}
