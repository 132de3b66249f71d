//! Cuts off who sends much more than anybody has to say, and lets it in again when it has made up for that.
//!
//! The services drop what is beyond an asker's share, but all of it has come through the server by then, on the one connection
//! that carries everybody's requests to a service; when the service cannot keep up with that, the server ends the connection, and
//! what others asked is lost. So the server's own count of what each connection has sent decides: a key that is over its
//! allowance loses its connections, and every further one at once, until its debt is paid. Nobody else notices.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use margo::UserNkey;
use process::{Account, Allowance};
use tokio::time::Instant;

/// Between looks at what was sent.
pub const LOOK: Duration = Duration::from_secs(2);

/// What all members together may send between two looks at each of them. As long as they send less, nobody can be over its
/// allowance by more than this, and a look costs the same however many they are.
const QUIET: u64 = 16 << 20;

/// What one key may send: 4 MiB a second, and 128 MiB at once. A site may have 1 MiB a second stored, and after a long outage
/// 32 MiB at once; what waits for an answer may be sent again meanwhile.
const ALLOWANCE: Allowance = Allowance { burst: 128 << 20, per_day: 24 * 3600 * PER_SECOND };
const PER_SECOND: u64 = 4 << 20;

/// What a message counts beside its bytes, for somebody has to look at it.
const MESSAGE: u64 = 512;

/// The shortest and the longest time for which a key stays out.
const PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));

/// Between lines in the log about the connections of one key, which may come again hundreds of times a second.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// What a connection has sent since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Bytes of all messages.
    pub bytes: u64,
    /// How many messages they were.
    pub messages: u64,
}

impl Sent {
    fn amount(self, before: Self) -> u64 {
        let messages = self.messages.saturating_sub(before.messages);
        self.bytes.saturating_sub(before.bytes).saturating_add(messages.saturating_mul(MESSAGE))
    }
}

/// What each key has sent, and which keys stay out for a while. There is no bus here, and the time is an argument.
#[derive(Debug, Default)]
pub struct Senders {
    /// What each connection had sent at the last look.
    seen: HashMap<u64, Sent>,
    accounts: BTreeMap<UserNkey, Account>,
    out: BTreeMap<UserNkey, Instant>,
    /// When it was last told of a key that its connections are ended.
    told: BTreeMap<UserNkey, Instant>,
    /// What all together had sent when each of them was looked at last.
    total: Option<Sent>,
}

impl Senders {
    /// Charges a key for what its connection has sent until now. Returns for how long the key stays out, when it has sent too much
    /// and is not out already.
    pub fn charge(&mut self, number: u64, key: &UserNkey, sent: Sent, now: Instant) -> Option<Duration> {
        let before = self.seen.insert(number, sent).unwrap_or_default();
        let amount = sent.amount(before);
        let account = self.accounts.entry(key.clone()).or_insert_with(|| Account::new(ALLOWANCE, now));
        if account.spend(ALLOWANCE, usize::try_from(amount).unwrap_or(usize::MAX), now) {
            return None;
        }
        let pause = Duration::from_secs(amount / PER_SECOND).clamp(PAUSE.0, PAUSE.1);
        let until = now + pause;
        let known = self.is_out(key, now);
        let held = self.out.entry(key.clone()).or_insert(until);
        *held = until.max(*held);
        (!known).then_some(pause)
    }

    /// Whether each member has to be looked at, now that all together have sent this: when it may be too much for one of them, when
    /// somebody is to stay out, and when the server has begun to count anew.
    pub fn is_due(&mut self, total: Sent) -> bool {
        let quiet = self.total.is_some_and(|before| {
            let counts_on = total.bytes >= before.bytes && total.messages >= before.messages;
            counts_on && total.amount(before) <= QUIET
        });
        if quiet && self.out.is_empty() {
            return false;
        }
        self.total = Some(total);
        true
    }

    /// Forgets a connection that has ended.
    pub fn ended(&mut self, number: u64) {
        self.seen.remove(&number);
    }

    /// Forgets all connections but these, and the keys whose time is over and those that owe nothing.
    pub fn keep(&mut self, numbers: &HashMap<u64, UserNkey>, now: Instant) {
        self.seen.retain(|number, _| numbers.contains_key(number));
        self.out.retain(|_, until| *until > now);
        self.accounts.retain(|_, account| !account.is_full(ALLOWANCE, now));
        self.told.retain(|_, at| now.duration_since(*at) < TELL_AGAIN);
    }

    /// Whether people are to be told that connections of this key are ended: once in a while, however often it comes again.
    pub fn is_news(&mut self, key: &UserNkey, now: Instant) -> bool {
        if self.told.get(key).is_some_and(|at| now.duration_since(*at) < TELL_AGAIN) {
            return false;
        }
        self.told.insert(key.clone(), now);
        true
    }

    /// Whether this key stays out now.
    pub fn is_out(&self, key: &UserNkey, now: Instant) -> bool {
        self.out.get(key).is_some_and(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn key() -> UserNkey {
        identity::nats::generate().1
    }

    fn bytes(bytes: u64) -> Sent {
        Sent { bytes, messages: 0 }
    }

    #[test]
    fn who_sends_as_fast_as_it_can_stays_out_and_nobody_with_it() {
        let (mut senders, mut now, loud, quiet) = (Senders::default(), Instant::now(), key(), key());
        assert_eq!(senders.charge(1, &loud, bytes(100 * MIB), now), None);
        assert_eq!(senders.charge(2, &quiet, bytes(MIB), now), None);
        now += LOOK;
        assert_eq!(senders.charge(1, &loud, bytes(180 * MIB), now), Some(Duration::from_secs(20)));
        assert!(senders.is_out(&loud, now) && !senders.is_out(&quiet, now));
        // It is told once, also when it comes back and goes on.
        assert_eq!(senders.charge(3, &loud, bytes(400 * MIB), now + Duration::from_secs(10)), None);
        assert!(senders.is_out(&loud, now + Duration::from_secs(39)));
        assert!(!senders.is_out(&loud, now + Duration::from_secs(41)));
    }

    #[test]
    fn each_member_is_looked_at_only_when_all_together_have_sent_much() {
        let (mut senders, now, key) = (Senders::default(), Instant::now(), key());
        assert!(senders.is_due(bytes(0)), "nobody was looked at yet");
        assert!(!senders.is_due(bytes(10 * MIB)) && !senders.is_due(bytes(16 * MIB)));
        assert!(senders.is_due(bytes(17 * MIB)));
        assert!(!senders.is_due(bytes(20 * MIB)));
        assert!(!senders.is_due(Sent { bytes: 20 * MIB, messages: 20_000 }));
        assert!(senders.is_due(Sent { bytes: 20 * MIB, messages: 40_000 }), "messages count, too");
        assert!(senders.is_due(bytes(MIB)), "another server");
        senders.charge(1, &key, bytes(300 * MIB), now).unwrap();
        assert!(senders.is_due(bytes(MIB)), "somebody is out");
        senders.keep(&HashMap::new(), now + PAUSE.1 + LOOK);
        assert!(!senders.is_due(bytes(MIB)));
    }

    #[test]
    fn what_members_have_to_say_is_never_too_much() {
        let (mut senders, mut now, key) = (Senders::default(), Instant::now(), key());
        let mut sent = Sent { bytes: 64 * MIB, messages: 1_000 };
        for _ in 0..1_000 {
            assert_eq!(senders.charge(1, &key, sent, now), None);
            now += LOOK;
            sent = Sent { bytes: sent.bytes + 4 * MIB, messages: sent.messages + 4_000 };
        }
    }

    #[test]
    fn many_messages_of_nothing_count_too() {
        let (mut senders, now, key) = (Senders::default(), Instant::now(), key());
        let sent = Sent { bytes: 0, messages: 1_000_000 };
        assert_eq!(senders.charge(1, &key, sent, now), Some(PAUSE.1));
    }

    #[test]
    fn who_comes_again_and_again_is_told_of_once_a_minute() {
        let (mut senders, now, loud, other) = (Senders::default(), Instant::now(), key(), key());
        assert_eq!((0..500).filter(|_| senders.is_news(&loud, now)).count(), 1);
        assert!(senders.is_news(&other, now) && senders.is_news(&loud, now + TELL_AGAIN));
    }

    #[test]
    fn nothing_is_remembered_of_who_is_gone_and_owes_nothing() {
        let (mut senders, now, key) = (Senders::default(), Instant::now(), key());
        senders.charge(1, &key, bytes(200 * MIB), now);
        senders.keep(&HashMap::new(), now);
        assert!(senders.seen.is_empty() && senders.is_out(&key, now));
        senders.keep(&HashMap::new(), now + Duration::from_secs(3_600));
        assert!(senders.out.is_empty() && senders.accounts.is_empty());
    }
}
