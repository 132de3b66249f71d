//! Which client is looked at next, and when those are looked at again that could not be. No bus, no git; time is an argument.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use margo::ClientName;
use tokio::time::Instant;

use crate::observer::Look;

/// The pause before a look that was in vain is repeated. It doubles each time, up to the last one.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// How many times as long as it took to read a commit is followed by rest. Orders that follow each other closely share a look,
/// and what their site does with it. The first of them never waits, and a client takes at most a quarter of the time of one
/// reader, however fast orders for it come.
const REST: u32 = 3;

/// Why a client is looked at. What comes first here goes first; among equals, who has waited longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Something was committed, or its site asks: somebody waits for it.
    Asked,
    /// It is one of all, or it failed before.
    Round,
}

/// Clients that are to be looked at. It is lost with the process, and a new process looks at everybody.
#[derive(Debug, Default)]
pub struct Agenda {
    clients: BTreeMap<ClientName, Entry>,
    /// The clients that can be looked at now, in their order.
    queue: BTreeMap<Place, ClientName>,
    /// When something becomes of a client by itself: its rest is over, or its look is to be repeated.
    timers: BTreeSet<(Instant, ClientName)>,
    /// How many places were given.
    places: u64,
}

type Place = (Reason, u64);

#[derive(Debug, Default)]
struct Entry {
    /// How closely it is to be looked at, and why.
    wanted: Option<(Look, Reason)>,
    /// Its place in the queue.
    place: Option<Place>,
    /// Whether somebody looks at it now.
    in_work: bool,
    /// It was looked at a moment ago, and is not looked at again before this time.
    rests_until: Option<Instant>,
    /// The last look was in vain. A signal may have the client looked at before its time.
    retry: Option<Retry>,
}

#[derive(Clone, Copy, Debug)]
struct Retry {
    at: Instant,
    /// How long it waits this time; twice as long the next time.
    pause: Duration,
    look: Look,
}

impl Agenda {
    /// Wants this client looked at, at least so closely and so soon.
    pub fn add(&mut self, client: &ClientName, look: Look, reason: Reason, now: Instant) {
        let entry = self.clients.entry(client.clone()).or_default();
        let held = entry.wanted.unwrap_or((look, reason));
        entry.wanted = Some((held.0.max(look), held.1.min(reason)));
        self.put(client, now);
    }

    /// Gives a client that is wanted its place in the queue, or a timer while it rests. While it is in work, it waits for the end
    /// of that.
    fn put(&mut self, client: &ClientName, now: Instant) {
        let Some(entry) = self.clients.get_mut(client) else { return };
        let Some((_, reason)) = entry.wanted.filter(|_| !entry.in_work) else { return };
        if let Some(until) = entry.rests_until.filter(|until| *until > now) {
            self.timers.insert((until, client.clone()));
            return;
        }
        entry.rests_until = None;
        if entry.place.is_some_and(|(held, _)| held <= reason) {
            return;
        }
        if let Some(held) = entry.place.take() {
            self.queue.remove(&held);
        }
        self.places += 1;
        let place = (reason, self.places);
        entry.place = Some(place);
        self.queue.insert(place, client.clone());
    }

    /// Whether somebody can be looked at now.
    pub fn is_ready(&self) -> bool {
        !self.queue.is_empty()
    }

    /// When [`Agenda::wake`] has something to do; `None` when only something that is added will bring it about.
    pub fn due(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Gives those a place in the queue whose rest is over by now, or whose look is to be repeated.
    pub fn wake(&mut self, now: Instant) {
        while let Some((at, client)) = self.timers.pop_first() {
            if at > now {
                self.timers.insert((at, client));
                break;
            }
            let retry = self.clients.get(&client).and_then(|entry| entry.retry).filter(|retry| retry.at <= now);
            match retry {
                Some(retry) => self.add(&client, retry.look, Reason::Round, now),
                None => self.put(&client, now),
            }
        }
    }

    /// Takes the client out that is to be looked at next, if there is one now. The caller reports on it with `done` or `again`.
    pub fn take(&mut self) -> Option<(ClientName, Look)> {
        let (_, client) = self.queue.pop_first()?;
        let entry = self.clients.get_mut(&client)?;
        (entry.place, entry.in_work) = (None, true);
        let (look, _) = entry.wanted.take()?;
        Some((client, look))
    }

    /// Notes that a look succeeded, for which the client's commit was read so long, and has ended now: the next one comes after a
    /// rest, and the next failure begins with the first, short pause.
    pub fn done(&mut self, client: &ClientName, read: Duration, now: Instant) {
        let Some(entry) = self.clients.get_mut(client) else { return };
        entry.in_work = false;
        entry.rests_until = Some(now + read * REST);
        if let Some(retry) = entry.retry.take() {
            self.timers.remove(&(retry.at, client.clone()));
        }
        self.put(client, now);
    }

    /// Notes that a look was in vain, so that it is repeated after a pause.
    pub fn again(&mut self, client: &ClientName, look: Look, now: Instant) {
        let Some(entry) = self.clients.get_mut(client) else { return };
        entry.in_work = false;
        let pause = match entry.retry.take() {
            Some(retry) => {
                self.timers.remove(&(retry.at, client.clone()));
                (retry.pause * 2).min(LAST_RETRY)
            }
            None => FIRST_RETRY,
        };
        let at = now + pause;
        entry.retry = Some(Retry { at, pause, look });
        self.timers.insert((at, client.clone()));
        self.put(client, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients() -> [ClientName; 3] {
        ["plant", "port", "mine"].map(|name| name.parse().unwrap())
    }

    fn taken(agenda: &mut Agenda, now: Instant) -> Option<(ClientName, Look)> {
        agenda.wake(now);
        agenda.take()
    }

    #[test]
    fn a_closer_look_is_not_forgotten() {
        let (mut agenda, now, [plant, ..]) = (Agenda::default(), Instant::now(), clients());
        agenda.add(&plant, Look::Everything, Reason::Round, now);
        agenda.add(&plant, Look::Changes, Reason::Asked, now);
        assert_eq!(taken(&mut agenda, now), Some((plant, Look::Everything)));
        assert_eq!(taken(&mut agenda, now), None);
    }

    #[test]
    fn who_waits_for_a_commit_goes_before_a_round_and_then_who_waited_longest() {
        let (mut agenda, now, [plant, port, mine]) = (Agenda::default(), Instant::now(), clients());
        for client in [&port, &plant, &mine] {
            agenda.add(client, Look::Everything, Reason::Round, now);
        }
        agenda.add(&mine, Look::Changes, Reason::Asked, now);
        let order: Vec<_> = std::iter::from_fn(|| taken(&mut agenda, now)).map(|(client, _)| client).collect();
        assert_eq!(order, [mine, port, plant]);
    }

    #[test]
    fn what_is_signalled_during_a_look_is_looked_at_after_it() {
        let (mut agenda, now, [plant, ..]) = (Agenda::default(), Instant::now(), clients());
        agenda.add(&plant, Look::Changes, Reason::Asked, now);
        assert!(taken(&mut agenda, now).is_some());
        agenda.add(&plant, Look::Changes, Reason::Asked, now);
        assert_eq!((taken(&mut agenda, now), agenda.is_ready(), agenda.due()), (None, false, None));
        agenda.done(&plant, Duration::ZERO, now);
        assert_eq!(taken(&mut agenda, now), Some((plant, Look::Changes)));
    }

    #[test]
    fn what_failed_comes_again_later_and_later_until_it_is_done() {
        let (mut agenda, mut now, [plant, ..]) = (Agenda::default(), Instant::now(), clients());
        agenda.add(&plant, Look::Changes, Reason::Asked, now);
        assert!(taken(&mut agenda, now).is_some());
        for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
            agenda.again(&plant, Look::Changes, now);
            assert_eq!(agenda.due(), Some(now + Duration::from_secs(pause)), "nothing else is on the agenda");
            assert_eq!(taken(&mut agenda, now), None);
            now += Duration::from_secs(pause);
            assert_eq!(taken(&mut agenda, now), Some((plant.clone(), Look::Changes)));
        }
        agenda.done(&plant, Duration::ZERO, now);
        assert_eq!((agenda.due(), taken(&mut agenda, now + LAST_RETRY)), (None, None));
    }

    #[test]
    fn a_signal_has_a_client_looked_at_before_the_time_of_its_retry() {
        let (mut agenda, now, [plant, ..]) = (Agenda::default(), Instant::now(), clients());
        agenda.add(&plant, Look::Everything, Reason::Round, now);
        assert!(taken(&mut agenda, now).is_some());
        agenda.again(&plant, Look::Everything, now);
        agenda.add(&plant, Look::Changes, Reason::Asked, now);
        assert_eq!(taken(&mut agenda, now), Some((plant.clone(), Look::Changes)));
        agenda.again(&plant, Look::Everything, now);
        assert_eq!(agenda.due(), Some(now + 2 * FIRST_RETRY));
    }

    #[test]
    fn after_a_look_a_client_rests_while_others_are_looked_at() {
        let (mut agenda, now, [plant, port, _]) = (Agenda::default(), Instant::now(), clients());
        agenda.add(&plant, Look::Changes, Reason::Asked, now);
        assert!(taken(&mut agenda, now).is_some());
        agenda.done(&plant, Duration::from_millis(10), now);
        assert_eq!(agenda.due(), None, "nobody wants it looked at");
        agenda.add(&plant, Look::Changes, Reason::Asked, now);
        agenda.add(&port, Look::Changes, Reason::Asked, now);
        assert_eq!(taken(&mut agenda, now), Some((port, Look::Changes)));
        agenda.add(&plant, Look::Everything, Reason::Asked, now);
        let rested = now + Duration::from_millis(30);
        assert_eq!(agenda.due(), Some(rested));
        assert_eq!(taken(&mut agenda, rested - Duration::from_millis(1)), None);
        assert_eq!(taken(&mut agenda, rested), Some((plant, Look::Everything)));
        assert_eq!(agenda.due(), None);
    }
}
