//! Ends the connections that one key has beyond three, so that nobody takes a server's places with one stolen key, and all
//! those of a revoked key: a server that is told of a revocation at the same moment as it lets the key in keeps the connection.
//! It also charges each key for what it sends (`flood`).
//!
//! The server tells of each connection and of its end. What it told is checked against its list of connections at the start,
//! on each new connection of ours and every minute, because what it tells may get lost.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    error::Error,
    time::Duration,
};

use anyhow::{Context, bail};
use bus::Bus;
use futures::StreamExt;
use identity::jwt;
use margo::UserNkey;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    Minter,
    accounts::request,
    flood::{self, Sent},
    metrics,
};

/// How many connections one key may have: the one in use, one that is being made anew, and one whose end the server has not
/// noticed yet.
pub const CONNECTIONS_PER_KEY: usize = 3;

/// Between looks at the server's list.
const LOOK: Duration = Duration::from_secs(60);

/// The pause after a look that failed.
const RETRY: Duration = Duration::from_secs(1);

/// Connections in one page of the list. A page is a message, and each connection has its JWT in it.
const PAGE: usize = 500;

/// The connections of a server's members, by the number that the server gave each. A later connection has a higher number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Logins(HashMap<UserNkey, BTreeMap<u64, Login>>);

/// One connection of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The member's name: the client of a site, or the node's name.
    pub name: String,
    /// When its JWT expires, in seconds since 1970. It is `None` for one without an end.
    pub expires: Option<u64>,
}

impl Logins {
    /// Returns the newest connection of each key.
    pub fn newest(&self) -> impl Iterator<Item = (&UserNkey, &Login)> {
        self.0.iter().filter_map(|(key, logins)| Some((key, logins.values().next_back()?)))
    }

    fn add(&mut self, number: u64, key: UserNkey, login: Login) {
        self.0.entry(key).or_default().insert(number, login);
    }

    fn remove(&mut self, number: u64, key: &UserNkey) {
        if let Some(logins) = self.0.get_mut(key) {
            logins.remove(&number);
            if logins.is_empty() {
                self.0.remove(key);
            }
        }
    }

    /// The connections of this key that have to end: the newest ones, beyond the `allowed` ones. Were it the oldest, a thief
    /// could end the owner's.
    fn surplus(&self, key: &UserNkey, allowed: usize) -> Vec<u64> {
        let logins = self.0.get(key).into_iter().flat_map(BTreeMap::keys);
        logins.skip(allowed).copied().collect()
    }

    /// The key of each connection.
    fn keys(&self) -> HashMap<u64, UserNkey> {
        let logins = self.0.iter().flat_map(|(key, logins)| logins.keys().map(move |number| (*number, key.clone())));
        logins.collect()
    }

    fn next_expiry(&self) -> Option<u64> {
        self.newest().filter_map(|(_, login)| login.expires).min()
    }
}

/// One event of the server about a connection.
#[derive(Deserialize)]
struct Event {
    client: Client,
    /// What the client has sent; only at its end.
    #[serde(default)]
    sent: Counts,
}

#[derive(Default, Deserialize)]
struct Counts {
    #[serde(default)]
    msgs: u64,
    #[serde(default)]
    bytes: u64,
}

#[derive(Deserialize)]
struct Client {
    id: u64,
    #[serde(default)]
    jwt: String,
}

impl From<Counts> for Sent {
    fn from(Counts { msgs, bytes }: Counts) -> Self {
        Self { bytes, messages: msgs }
    }
}

/// What the server counts of an account.
#[derive(Deserialize)]
struct AccountAnswer {
    data: Accounts,
}

#[derive(Deserialize)]
struct Accounts {
    account_statz: Vec<AccountCounts>,
}

#[derive(Deserialize)]
struct AccountCounts {
    received: Counts,
}

/// The server's list of connections, or one page of it.
#[derive(Deserialize)]
struct Page {
    data: Option<PageData>,
}

#[derive(Deserialize)]
struct PageData {
    total: usize,
    #[serde(default)]
    connections: Option<Vec<Connection>>,
}

#[derive(Deserialize)]
struct Connection {
    cid: u64,
    #[serde(default)]
    jwt: String,
    #[serde(default)]
    in_msgs: u64,
    #[serde(default)]
    in_bytes: u64,
}

/// Counts and ends until shutdown.
pub async fn run(minter: &Minter, bus: &Bus, shutdown: &CancellationToken) -> anyhow::Result<()> {
    let account = minter.settings.authority.account();
    let subscribe = async |event: &str| {
        let subject = format!("$SYS.ACCOUNT.{account}.{event}");
        #[expect(clippy::disallowed_methods, reason = "the server's own subjects are no subjects of the platform")]
        let events = bus.client().subscribe(subject).await;
        events.with_context(|| format!("subscribing to the server's {event} events"))
    };
    let (mut begun, mut ended) = (subscribe("CONNECT").await?, subscribe("DISCONNECT").await?);
    let mut connections = bus.connections();
    let mut look = Instant::now();
    let mut look_at_senders = interval(flood::LOOK);
    look_at_senders.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(()),
            Ok(()) = connections.changed() => look = Instant::now(),
            event = begun.next() => {
                let Some(event) = event else { bail!("the subscription to the server's events ended") };
                if let Some((number, key, login, _)) = read_event(minter, &event.payload) {
                    minter.logins.send_modify(|logins| logins.add(number, key.clone(), login));
                    end_surplus(minter, bus, &key).await;
                }
            }
            event = ended.next() => {
                let Some(event) = event else { bail!("the subscription to the server's events ended") };
                if let Some((number, key, _, sent)) = read_event(minter, &event.payload) {
                    minter.logins.send_modify(|logins| logins.remove(number, &key));
                    charge(minter, number, &key, sent);
                    minter.senders().ended(number);
                }
            }
            () = sleep_until(look), if bus.is_connected() => look = Instant::now() + match list(minter, bus).await {
                Ok(logins) => {
                    let keys: Vec<_> = logins.0.keys().cloned().collect();
                    minter.logins.send_replace(logins);
                    for key in keys {
                        end_surplus(minter, bus, &key).await;
                    }
                    LOOK
                }
                Err(error) => {
                    warn!(error = &*error as &dyn Error, "the server's connections are not known");
                    RETRY
                }
            },
            _ = look_at_senders.tick(), if bus.is_connected() => {
                if let Err(error) = look_at(minter, bus).await {
                    debug!(error = &*error as &dyn Error, "what was sent is not known");
                }
            }
        }
        let next = minter.logins.borrow().next_expiry().unwrap_or(0);
        metrics::NEXT_EXPIRY.with_label_values(&[minter.settings.server.as_str()]).set(next as i64);
    }
}

/// The member's connection that this JWT made. Those of services are none.
fn member(minter: &Minter, jwt: &str) -> Option<(UserNkey, Login)> {
    let claims = jwt::read(jwt).ok()?;
    let key = claims.sub.parse().ok()?;
    (claims.iss == minter.settings.authority.members())
        .then_some((key, Login { name: claims.name, expires: claims.exp }))
}

fn read_event(minter: &Minter, payload: &[u8]) -> Option<(u64, UserNkey, Login, Sent)> {
    let Event { client, sent } = serde_json::from_slice(payload).ok()?;
    let (key, login) = member(minter, &client.jwt)?;
    Some((client.id, key, login, sent.into()))
}

/// Charges a key for what one of its connections has sent until now.
fn charge(minter: &Minter, number: u64, key: &UserNkey, sent: Sent) {
    if let Some(pause) = minter.senders().charge(number, key, sent, Instant::now()) {
        warn!(%key, ?pause, "a key sends far more than anybody has to say; it stays out for a while");
        metrics::FLOODS.with_label_values(&[minter.settings.server.as_str()]).inc();
    }
}

/// Charges all members for what they have sent, and ends the connections of those for whom it was too much. While all together
/// have sent little, nobody is looked at.
async fn look_at(minter: &Minter, bus: &Bus) -> anyhow::Result<()> {
    let total = received(minter, bus).await?;
    if !minter.senders().is_due(total) {
        return Ok(());
    }
    let numbers = minter.logins.borrow().keys();
    let mut out = BTreeSet::new();
    for Connection { cid, in_msgs, in_bytes, .. } in connections(minter, bus, false).await? {
        let Some(key) = numbers.get(&cid) else { continue };
        charge(minter, cid, key, Sent { bytes: in_bytes, messages: in_msgs });
        if minter.senders().is_out(key, Instant::now()) {
            out.insert(key);
        }
    }
    minter.senders().keep(&numbers, Instant::now());
    for key in out {
        end_surplus(minter, bus, key).await;
    }
    Ok(())
}

/// What the server has received from the whole account, the services among it.
async fn received(minter: &Minter, bus: &Bus) -> anyhow::Result<Sent> {
    let subject = format!("$SYS.REQ.ACCOUNT.{}.STATZ", minter.settings.authority.account());
    let answer = request(bus, subject, "{}".into()).await.context("asking for the account's counts")?;
    let answer: AccountAnswer = serde_json::from_slice(&answer).context("reading the account's counts")?;
    let [account] = <[_; 1]>::try_from(answer.data.account_statz).ok().context("the server knows no such account")?;
    Ok(account.received.into())
}

/// All connections of members that the server has now.
async fn list(minter: &Minter, bus: &Bus) -> anyhow::Result<Logins> {
    let mut logins = Logins::default();
    for Connection { cid, jwt, .. } in connections(minter, bus, true).await? {
        if let Some((key, login)) = member(minter, &jwt) {
            logins.add(cid, key, login);
        }
    }
    Ok(logins)
}

/// The server's list of the account's connections, with their JWTs or without.
async fn connections(minter: &Minter, bus: &Bus, jwts: bool) -> anyhow::Result<Vec<Connection>> {
    let server = bus.client().server_info().server_id;
    let (mut found, mut offset) = (Vec::new(), 0);
    loop {
        let account = minter.settings.authority.account();
        let body = json!({"auth": jwts, "acc": account, "sort": "cid", "limit": PAGE, "offset": offset});
        let subject = format!("$SYS.REQ.SERVER.{server}.CONNZ");
        let page =
            request(bus, subject, body.to_string().into()).await.context("asking for the server's connections")?;
        let page: Page = serde_json::from_slice(&page).context("reading the server's connections")?;
        let data = page.data.context("the server did not list its connections")?;
        let connections = data.connections.unwrap_or_default();
        offset += connections.len();
        let is_last = connections.is_empty() || offset >= data.total;
        found.extend(connections);
        if is_last {
            return Ok(found);
        }
    }
}

/// Has the server end what this key has too many.
async fn end_surplus(minter: &Minter, bus: &Bus, key: &UserNkey) {
    let is_out = minter.senders().is_out(key, Instant::now());
    let allowed = if is_out || minter.is_revoked(key) { 0 } else { CONNECTIONS_PER_KEY };
    let surplus = minter.logins.borrow().surplus(key, allowed);
    let server = bus.client().server_info().server_id;
    for number in surplus {
        let subject = format!("$SYS.REQ.SERVER.{server}.KICK");
        // The server tells of the end, so nothing is counted here. What it did not end is found by the next look.
        match request(bus, subject, json!({ "cid": number }).to_string().into()).await {
            Ok(_) => {
                if minter.senders().is_news(key, Instant::now()) {
                    warn!(%key, number, allowed, "a connection was ended: its key has more than it is allowed");
                }
                metrics::ENDED.with_label_values(&[minter.settings.server.as_str()]).inc();
            }
            Err(error) => debug!(error = &*error as &dyn Error, number, "a surplus connection was not ended"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login() -> Login {
        Login { name: "plant".to_owned(), expires: None }
    }

    #[test]
    fn the_newest_connections_of_a_key_are_the_surplus() {
        let (key, other) = (identity::nats::generate().1, identity::nats::generate().1);
        let mut logins = Logins::default();
        for number in [9, 1, 5, 7, 3] {
            logins.add(number, key.clone(), login());
            logins.add(number, key.clone(), login());
        }
        logins.add(4, other.clone(), login());
        assert_eq!(logins.surplus(&key, 3), [7, 9]);
        assert!(logins.surplus(&other, 3).is_empty());
        logins.remove(3, &key);
        assert_eq!(logins.surplus(&key, 3), [9]);
        assert_eq!(logins.surplus(&other, 0), [4]);
        for number in [1, 5, 7, 9] {
            logins.remove(number, &key);
        }
        assert_eq!(logins.newest().map(|(key, _)| key).collect::<Vec<_>>(), [&other]);
    }

    #[test]
    fn what_expires_first_is_shown_and_what_is_replaced_is_not() {
        let (key, other) = (identity::nats::generate().1, identity::nats::generate().1);
        let mut logins = Logins::default();
        assert_eq!(logins.next_expiry(), None);
        for (number, key, expires) in [(1, &key, Some(5)), (2, &key, Some(9)), (3, &other, Some(7))] {
            logins.add(number, key.clone(), Login { expires, ..login() });
        }
        assert_eq!(logins.next_expiry(), Some(7));
    }
}
