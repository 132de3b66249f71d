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

/// How many times as long as it took a look is followed by rest. A look costs as much as its client has documents,
/// whatever has changed, and its site as much again: orders that follow each other closely share one. The first of them
/// never waits, and a client takes at most a quarter of the time, however fast orders for it come.
const REST: u32 = 3;

/// Clients that are to be looked at. It is lost with the process, and a new process looks at everybody.
#[derive(Debug, Default)]
pub struct Agenda {
    wanted: BTreeMap<ClientName, Look>,
    /// Clients that were looked at a moment ago, and until when they are not looked at again.
    resting: BTreeMap<ClientName, Instant>,
    /// Clients at which the last look was in vain. A signal may have such a client looked at before its time.
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
        let held = self.wanted.entry(client).or_insert(look);
        *held = look.max(*held);
    }

    pub fn add_all(&mut self, clients: &BTreeSet<ClientName>, look: Look) {
        clients.iter().for_each(|client| self.add(client.clone(), look));
    }

    /// When the next look is due that cannot be made now; `None` when there is none.
    pub fn due(&self) -> Option<Instant> {
        let rested = self.wanted.keys().filter_map(|client| self.resting.get(client)).copied();
        rested.chain(self.later.values().map(|retry| retry.at)).min()
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
        self.resting.retain(|_, until| *until > now);
        let rests = |client: &ClientName, _: &mut Look| !self.resting.contains_key(client);
        self.wanted.extract_if(.., rests).collect()
    }

    /// Notes that a look succeeded, which took so long and has ended now: the next one comes after a rest, and the next
    /// failure begins with the first, short pause.
    pub fn done(&mut self, client: &ClientName, took: Duration, now: Instant) {
        self.later.remove(client);
        self.resting.insert(client.clone(), now + took * REST);
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
        agenda.done(&plant, Duration::ZERO, now);
        assert_eq!((agenda.due(), agenda.take(now + LAST_RETRY).len()), (None, 0));
    }

    #[test]
    fn after_a_look_a_client_rests_while_others_are_looked_at() {
        let (mut agenda, now) = (Agenda::default(), Instant::now());
        let (plant, port): (ClientName, ClientName) = ("plant".parse().unwrap(), "port".parse().unwrap());
        agenda.done(&plant, Duration::from_millis(10), now);
        assert_eq!(agenda.due(), None, "nobody wants it looked at");
        agenda.add(plant.clone(), Look::Changes);
        agenda.add(port.clone(), Look::Changes);
        assert_eq!(agenda.take(now), BTreeMap::from([(port, Look::Changes)]));
        agenda.add(plant.clone(), Look::Everything);
        let rested = now + Duration::from_millis(30);
        assert_eq!(agenda.due(), Some(rested));
        assert_eq!(agenda.take(rested - Duration::from_millis(1)), BTreeMap::new());
        assert_eq!(agenda.take(rested), BTreeMap::from([(plant, Look::Everything)]));
        assert_eq!(agenda.due(), None);
    }
}
