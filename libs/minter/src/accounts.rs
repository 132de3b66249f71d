//! Keeps the account at the server equal to what the roll says, so that whoever is revoked is cut off.
//!
//! A server takes whatever its system user pushes: also an older JWT, which brings revoked keys back, and one that a stranger
//! signed, which locks everybody out at its next start. So only JWTs go there that [`identity::Authority`] has just issued or
//! held, which are signed by the operator, and never one that was issued before the one that the server has.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use bus::Bus;
use identity::{AccountJwt, jwt};
use margo::UserNkey;
use process::Backoff;
use serde::Deserialize;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{Minter, metrics};

/// Between comparisons that nobody asked for. They find what somebody else pushed.
const LOOK: Duration = Duration::from_secs(60);

/// A time of issue that no clock shows. It is not followed, for nothing could be issued after it.
const NO_TIME: u64 = 1 << 40;

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    error: Option<ServerError>,
}

#[derive(Deserialize)]
struct ServerError {
    #[serde(default)]
    description: String,
}

/// Compares and pushes until shutdown: on each new roll, on each new connection, and every minute.
pub async fn run(minter: &Minter, bus: &Bus, shutdown: &CancellationToken) -> anyhow::Result<()> {
    let (mut roll, mut connections) = (minter.roll.clone(), bus.connections());
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    let mut look = Instant::now();
    // The accounts of third parties that were pushed on this connection.
    let mut pushed = BTreeMap::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            Ok(()) = roll.changed() => {}
            Ok(()) = connections.changed() => pushed.clear(),
            () = sleep_until(look) => {}
        }
        roll.mark_unchanged();
        connections.mark_unchanged();
        look = match keep(minter, bus, &mut pushed).await {
            Ok(()) => {
                backoff.reset();
                Instant::now() + LOOK
            }
            Err(error) => {
                warn!(error = &*error as &dyn Error, "what is revoked is not in force at the server yet");
                Instant::now() + backoff.pause()
            }
        };
    }
}

/// Makes the server's account what it shall be. The file that the server reads at its start comes first, so a process that
/// dies in between leaves nothing that is weaker than it should be.
async fn keep(minter: &Minter, bus: &Bus, readers: &mut BTreeMap<String, String>) -> anyhow::Result<()> {
    let roll = minter.roll.borrow().clone();
    let revoked = roll.as_deref().map(|roll| minter.refused(roll));
    let mut wanted = issued_after(minter, revoked.clone(), None).await?;
    if !bus.is_connected() {
        // The next connection brings the next look.
        return Ok(());
    }
    let in_force = look_up(minter, bus).await?;
    if in_force != wanted.text {
        if let Ok(claims) = jwt::read(&in_force)
            && claims.iat >= wanted.issued
            && claims.iat < NO_TIME
        {
            wanted = issued_after(minter, revoked.clone(), Some(claims.iat)).await?;
        }
        push(bus, &wanted.text).await?;
        ensure!(look_up(minter, bus).await? == wanted.text, "the server did not keep the account that was pushed");
        let revoked = revoked.as_ref().map(BTreeSet::len);
        info!(revoked, issued = wanted.issued, "the server has a new account");
    }
    let count = revoked.as_ref().map_or(0, BTreeSet::len);
    metrics::REVOKED.with_label_values(&[minter.settings.server.as_str()]).set(count as i64);
    if let Some(roll) = roll {
        minter.enforces(&roll);
    }
    // Last, for what they import is exported now.
    let authority = minter.settings.authority.clone();
    let accounts = tokio::task::spawn_blocking(move || authority.reader_accounts()).await;
    for (account, text) in accounts.context("reading the accounts of third parties")?? {
        if readers.get(&account) != Some(&text) {
            push(bus, &text).await.context("pushing the account of a third party")?;
            readers.insert(account, text);
        }
    }
    Ok(())
}

/// The JWT that the account shall have, which the file of accounts holds when this returns.
async fn issued_after(
    minter: &Minter,
    revoked: Option<BTreeSet<UserNkey>>,
    time: Option<u64>,
) -> anyhow::Result<AccountJwt> {
    let authority = minter.settings.authority.clone();
    let template = minter.settings.members.template();
    let keep = move || authority.keep_account(&template, revoked.as_ref(), time, jwt::now());
    let kept = tokio::task::spawn_blocking(keep).await.context("issuing the account's JWT")?;
    kept.context("issuing the account's JWT")
}

/// The JWT that the server has of the account.
async fn look_up(minter: &Minter, bus: &Bus) -> anyhow::Result<String> {
    let subject = format!("$SYS.REQ.ACCOUNT.{}.CLAIMS.LOOKUP", minter.settings.authority.account());
    let answer = request(bus, subject, bytes::Bytes::new()).await.context("asking for the server's account")?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

async fn push(bus: &Bus, account: &str) -> anyhow::Result<()> {
    let answer = request(bus, "$SYS.REQ.CLAIMS.UPDATE".to_owned(), account.to_owned().into()).await;
    let answer = answer.context("pushing the account")?;
    let answer: Answer = serde_json::from_slice(&answer).context("reading the server's answer to a push")?;
    match answer.error {
        None => Ok(()),
        Some(error) => bail!("the server refused the account: {}", error.description),
    }
}

/// Asks the server itself. Its subjects are none of the platform's.
pub async fn request(bus: &Bus, subject: String, body: bytes::Bytes) -> anyhow::Result<bytes::Bytes> {
    #[expect(clippy::disallowed_methods, reason = "the server's own subjects are no subjects of the platform")]
    let answer = bus.client().request(subject, body).await?;
    Ok(answer.payload)
}
