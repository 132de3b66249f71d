//! Who may read which repository.
//!
//! A client's token opens its own repository, as long as the key for which it was made is in force. A token of the REST interface
//! opens every repository, for its holder may see all that by REST.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use api::{Problem, RepositoryAccess, RepositoryAccessAsked, TokenAsked, TokenHeld};
use bus::{Bus, ServiceName, Subject};
use margo::{ClientName, Digest, RepositoryName, TenantName};
use service::{Readers, TokenSecret, key_of};
use tokio::time::Instant;

use super::Serving;

/// How long an answer about a token of the REST interface holds, and so how long one that was taken away may be used.
const FRESH: Duration = Duration::from_secs(5);

/// Answers about tokens that are kept. Only tokens that somebody has are among them.
const KEPT: usize = 1_000;

/// A token of the REST interface is `ew_` and 64 digits.
const TOKEN: (&str, usize) = ("ew_", 67);

/// Whoever a token belongs to. Each has places of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    Client(ClientName),
    Person(String),
}

impl Holder {
    /// Whether this holder may read the repository.
    pub fn may_read(&self, repository: &RepositoryName) -> bool {
        match (self, repository) {
            (Self::Person(_), _) => true,
            (Self::Client(client), RepositoryName::Client(of)) => client == of,
            (Self::Client(_), RepositoryName::Fleet) => false,
        }
    }
}

/// Decides who may read, and makes the tokens of clients.
pub struct Access {
    bus: Bus,
    tenant: TenantName,
    url: String,
    secret: TokenSecret,
    clients: Readers,
    people: Mutex<HashMap<Digest, (Holder, Instant)>>,
}

impl Access {
    pub fn new(serving: &Serving, tenant: TenantName, bus: Bus) -> Self {
        let secret = TokenSecret::of_repositories(&serving.secret);
        let clients = Readers::new(secret.clone(), bus.clone(), minter());
        let url = serving.public_url.trim_end_matches('/').to_owned();
        Self { bus, tenant, url, secret, clients, people: Mutex::default() }
    }

    pub fn tenant(&self) -> &TenantName {
        &self.tenant
    }

    /// Whose token this is; `None` when it is nobody's. Fails when nobody can tell now.
    pub async fn holder(&self, token: &str) -> Result<Option<Holder>, Problem> {
        if token.len() == TOKEN.1 && token.starts_with(TOKEN.0) {
            return self.person(token).await;
        }
        let holder = self.clients.holder(token).await?;
        Ok(holder.and_then(|name| name.parse().ok()).map(Holder::Client))
    }

    async fn person(&self, token: &str) -> Result<Option<Holder>, Problem> {
        let digest = Digest::of(token.as_bytes());
        let now = Instant::now();
        let known = self.people().get(&digest).filter(|(_, asked)| now - *asked < FRESH).cloned();
        if let Some((holder, _)) = known {
            return Ok(Some(holder));
        }
        let subject = Subject::service(ServiceName::ApiGateway, "token");
        let TokenHeld { name } = self.bus.call(&subject, &TokenAsked { digest }, None).await?;
        let holder = name.map(Holder::Person);
        let mut people = self.people();
        people.retain(|_, (_, asked)| now - *asked < FRESH);
        if let Some(holder) = holder.clone().filter(|_| people.len() < KEPT) {
            people.insert(digest, (holder, now));
        }
        Ok(holder)
    }

    /// Where a client's repository is read, and the token that opens it.
    pub async fn of_client(&self, asked: RepositoryAccessAsked) -> Result<RepositoryAccess, Problem> {
        let RepositoryAccessAsked { client, key } = asked;
        let key = match key {
            Some(key) => Some(key),
            None => key_of(&self.bus, &minter(), client.as_str()).await?,
        };
        let key = key.ok_or_else(|| Problem::not_found(format!("no client {client} has a key in force")))?;
        let token = self.secret.token(client.as_str(), &key);
        let repository = RepositoryName::Client(client);
        Ok(RepositoryAccess { url: format!("{}/{}/{repository}.git", self.url, self.tenant), token })
    }

    fn people(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, (Holder, Instant)>> {
        self.people.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who knows the keys in force of clients.
fn minter() -> Subject {
    Subject::service(ServiceName::Identity, "key")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_reads_its_own_repository_and_no_other() {
        let plant = Holder::Client("plant".parse().unwrap());
        let [own, other] = ["plant", "plant2"].map(|name| RepositoryName::Client(name.parse().unwrap()));
        assert!(plant.may_read(&own));
        assert!(!plant.may_read(&other) && !plant.may_read(&RepositoryName::Fleet));
        let ada = Holder::Person("ada".to_owned());
        assert!(ada.may_read(&own) && ada.may_read(&RepositoryName::Fleet));
    }
}
