//! Having a server read its configuration again, after its list of users was rewritten.

use anyhow::{Context as _, bail};
use serde::Deserialize;

use crate::{Bus, Role};

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    description: String,
}

impl Bus {
    /// Has the server at the other end reload its configuration. For [`Role::Reloader`] only; when this returns `Ok`, the
    /// new configuration is in force.
    pub async fn reload_server(&self) -> anyhow::Result<()> {
        debug_assert_eq!(*self.role(), Role::Reloader, "others lack the permission");
        if !self.is_connected() {
            bail!("the server is not connected");
        }
        let subject = format!("$SYS.REQ.SERVER.{}.RELOAD", self.client().server_info().server_id);
        let answer = self.client().request(subject, "".into()).await.context("asking the server to reload")?;
        let answer: Answer =
            serde_json::from_slice(&answer.payload).context("reading the server's answer to a reload")?;
        match answer.error {
            None => Ok(()),
            Some(refusal) => bail!("the server refused to reload: {}", refusal.description),
        }
    }
}
