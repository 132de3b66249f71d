//! Requests on the bus.

use std::sync::Arc;

use api::{KeyAsked, KeyInForce, Problem, SiteLogin};
use bus::{Bootstrap, Call, bootstrap::Renewal};
use margo::ClientName;
use minter::Minter;
use tokio::sync::watch;

use crate::domain::Keys;

/// What is answered from.
pub struct Answers {
    /// Who is connected, and who is given a login.
    pub minter: Arc<Minter>,
    /// Who makes the hub's streams.
    pub bootstrap: Arc<Bootstrap>,
    /// Whose key is in force; `None` before `fleet.git` was read.
    pub keys: watch::Receiver<Option<Keys>>,
}

impl Answers {
    /// The sites that are connected, each with the end of its login, the one that ends first being first.
    pub async fn logins(self: Arc<Self>, _: Call<()>) -> Result<Vec<SiteLogin>, Problem> {
        let logins = self.minter.logins().borrow().clone();
        let mut sites: Vec<_> = logins
            .newest()
            .map(|(key, login)| SiteLogin {
                client: login.name.clone(),
                key: key.clone(),
                expires: login.expires.and_then(time),
            })
            .collect();
        sites.sort_by(|a, b| {
            (a.expires.is_none(), &a.expires, &a.client).cmp(&(b.expires.is_none(), &b.expires, &b.client))
        });
        Ok(sites)
    }

    /// Has the hub's streams and consumers made where they are missing, for a service that lacks one.
    pub async fn streams(self: Arc<Self>, _: Call<()>) -> Result<(), Problem> {
        self.bootstrap.keep_for().await
    }

    /// Has a stream given a new identity whose writer says that it has lost a part.
    pub async fn renew_stream(self: Arc<Self>, call: Call<Renewal>) -> Result<String, Problem> {
        self.bootstrap.renew_for(call.body).await
    }

    /// The key in force of one client. It is not told while somebody may still be connected with an earlier key of the client,
    /// who would be given what is made for this one.
    pub async fn key(self: Arc<Self>, call: Call<KeyAsked>) -> Result<KeyInForce, Problem> {
        let keys = self.keys.borrow();
        let keys = keys.as_ref().ok_or_else(|| Problem::unavailable("fleet.git was not read yet; try again"))?;
        let client: Option<ClientName> = call.body.name.parse().ok();
        let key = client.and_then(|client| keys.get(&client).cloned());
        if key.as_ref().is_some_and(|key| !self.minter.admits(key)) {
            return Err(Problem::unavailable("what was revoked is not in force yet; try again"));
        }
        Ok(KeyInForce { key })
    }
}

fn time(seconds: u64) -> Option<String> {
    let time = jiff::Timestamp::from_second(i64::try_from(seconds).ok()?).ok()?;
    Some(time.to_string())
}
