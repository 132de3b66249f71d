//! Who may read a store of artifacts or a repository: whoever has a token that was derived for it, as long as its key is in
//! force.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use api::{KeyAsked, KeyInForce, Problem};
use bus::{Bus, Subject};
use hmac::{Hmac, KeyInit, Mac};
use margo::UserNkey;
use sha2::Sha256;
use tokio::time::Instant;

/// How long an answer holds about whose key is in force, and so how long a token may outlive it.
const FRESH: Duration = Duration::from_secs(5);

/// A token is a name, a key and a MAC: 63, 56 and 64 characters, and two dots. A longer text is none.
const LONGEST: usize = 63 + 56 + 64 + 2;

/// What the tokens of one store are derived with.
#[derive(Clone)]
pub struct TokenSecret {
    mac: Hmac<Sha256>,
    /// What the tokens open. It is part of each, so that none opens anything else.
    purpose: &'static str,
}

impl TokenSecret {
    /// Takes the secret of a store of artifacts, which whoever gives tokens shares with whoever serves the store.
    pub fn new(secret: &str) -> Self {
        Self::of("artifacts", secret)
    }

    /// Takes the secret of the repositories of clients.
    pub fn of_repositories(secret: &str) -> Self {
        Self::of("repositories", secret)
    }

    fn of(purpose: &'static str, secret: &str) -> Self {
        let mac = Hmac::new_from_slice(secret.as_bytes()).expect("HMAC takes a key of any length");
        Self { mac, purpose }
    }

    /// The token of a client or node, for its key: `<name>.<key>.<MAC in hex>`.
    pub fn token(&self, name: &str, key: &UserNkey) -> String {
        let mac = self.mac(name, key.as_str()).finalize().into_bytes();
        format!("{name}.{}.{}", key.as_str(), data_encoding::HEXLOWER.encode(&mac))
    }

    /// Whose token this is, and for which key it was given. `None` when it was not derived with this secret.
    fn holder<'t>(&self, token: &'t str) -> Option<(&'t str, &'t str)> {
        if token.len() > LONGEST {
            return None;
        }
        let (holder, mac) = token.rsplit_once('.')?;
        let (name, key) = holder.split_once('.')?;
        let mac = data_encoding::HEXLOWER.decode(mac.as_bytes()).ok()?;
        self.mac(name, key).verify_slice(&mac).ok()?;
        Some((name, key))
    }

    fn mac(&self, name: &str, key: &str) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        // Neither a name nor a key has a line feed.
        mac.update(format!("edgewright {}\n{name}\n{key}", self.purpose).as_bytes());
        mac
    }
}

/// Decides who may read. A clone is cheap and shares everything.
#[derive(Clone)]
pub struct Readers {
    secret: TokenSecret,
    bus: Bus,
    /// Where the key of a name is asked for.
    minter: Subject,
    /// What was answered last. Only names whose token is right are asked for, so there are no more than members.
    known: Arc<Mutex<BTreeMap<String, Known>>>,
}

#[derive(Clone)]
struct Known {
    key: Option<UserNkey>,
    asked: Instant,
}

impl Readers {
    /// Admits whoever has a token made with `secret`, while `minter` answers a [`KeyAsked`] for its name with its key.
    pub fn new(secret: TokenSecret, bus: Bus, minter: Subject) -> Self {
        Self { secret, bus, minter, known: Arc::default() }
    }

    /// Tells whether this token admits. It fails when nobody knows whether the key is in force; while the minter does not answer,
    /// what it answered last holds.
    pub async fn admit(&self, token: &str) -> Result<bool, Problem> {
        Ok(self.holder(token).await?.is_some())
    }

    /// Returns whose token this is, while it admits. It fails as [`Self::admit`] does.
    pub async fn holder<'t>(&self, token: &'t str) -> Result<Option<&'t str>, Problem> {
        let Some((name, key)) = self.secret.holder(token) else { return Ok(None) };
        let in_force = self.key_of(name).await?;
        Ok(in_force.is_some_and(|in_force| in_force.as_str() == key).then_some(name))
    }

    async fn key_of(&self, name: &str) -> Result<Option<UserNkey>, Problem> {
        let known = self.known().get(name).cloned();
        if let Some(known) = &known
            && known.asked.elapsed() < FRESH
        {
            return Ok(known.key.clone());
        }
        let asked = Instant::now();
        match (key_of(&self.bus, &self.minter, name).await, known) {
            (Ok(key), _) => {
                self.known().insert(name.to_owned(), Known { key: key.clone(), asked });
                Ok(key)
            }
            (Err(_), Some(known)) => Ok(known.key),
            (Err(problem), None) => Err(problem),
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks a minter for the key in force of a client or node.
pub async fn key_of(bus: &Bus, minter: &Subject, name: &str) -> Result<Option<UserNkey>, Problem> {
    let answer: KeyInForce = bus.call(minter, &KeyAsked { name: name.to_owned() }, None).await?;
    Ok(answer.key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_its_holder_s_and_no_change_of_it_is_one() {
        let secret = TokenSecret::new("secret");
        let (key, other): (UserNkey, UserNkey) = (public_key(), public_key());
        let token = secret.token("press", &key);
        assert_eq!(secret.holder(&token), Some(("press", key.as_str())));
        let mac = token.rsplit_once('.').unwrap().1;
        for forged in [
            format!("lathe.{}.{mac}", key.as_str()),
            format!("press.{}.{mac}", other.as_str()),
            token[..token.len() - 1].to_owned(),
            format!("{token}0"),
            token.to_uppercase(),
            format!("press.{}.", key.as_str()),
            "..".to_owned(),
            String::new(),
            "x".repeat(LONGEST + 1),
        ] {
            assert_eq!(secret.holder(&forged), None, "{forged}");
        }
        assert_eq!(TokenSecret::new("another").holder(&token), None);
        assert_eq!(TokenSecret::of_repositories("secret").holder(&token), None);
        assert!(secret.token(&"n".repeat(63), &key).len() <= LONGEST);
    }

    fn public_key() -> UserNkey {
        identity::nats::generate().1
    }
}
