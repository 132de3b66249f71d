//! The keys of one NATS server: whoever holds them says which accounts and users that server has.
//!
//! ```text
//! operator.seed          the operator: signs operator.jwt and nothing else, so it may lie elsewhere afterwards
//! operator.jwt           in the server's configuration
//! operator-signing.seed  signs the JWTs of accounts, and so decides what is revoked
//! system.seed            the system account, which signs the user that pushes and watches
//! account.pub            the account of the platform; its name is that of the folder with the streams
//! services.seed          signs the users of the server's own services
//! members.seed           signs the members, which are sites at the hub and nodes at a site; it is bound to a template
//! readers/<name>.seed    the account of a third party, which signs its users; without this file it has nothing any more
//! ```
//!
//! Each file is made once and then stays. A member's permissions do not stand in its JWT, but in the template that belongs to
//! `members.seed`; the server fills in the name. So whoever steals that key makes members and nothing else. When the file is
//! removed and made anew, all members are refused, and ask for new JWTs by themselves.
//!
//! The JWTs of the accounts stand in a file that the server's configuration includes. It is also the durable record of the
//! time at which the account's JWT was issued: that time rises with every JWT, whatever the clock says, because a server takes
//! the later of two.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use margo::{ClientName, NodeId, TenantName, UserNkey};
use nkeys::{KeyPair, KeyPairType};
use serde_json::{Map, Value, json};

use crate::jwt::{self, Claims};

mod readers;

pub use readers::Shared;

/// The date of every revocation. It lies in the far future: a JWT that was issued by a fast clock would outlive an entry of
/// the present.
const REVOKED_UNTIL: u64 = 1 << 40;

/// Keys or JWTs of a server cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file cannot be read or written.
    #[error("file {path}")]
    File {
        /// The path of the file.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The operator has to vouch for keys that were made anew, and its seed is not there.
    #[error("the operator's seed is needed in {path}: other keys of the server are new")]
    OperatorElsewhere {
        /// Where the seed has to lie for a moment.
        path: String,
    },
    /// A file is there and holds something else.
    #[error("file {path} does not hold {what}")]
    Content {
        /// The path of the file.
        path: String,
        /// What the file should hold.
        what: &'static str,
    },
}

/// The subjects that a user may use. Where a list is empty, the direction is closed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// The subjects that the user may publish.
    pub publish: Vec<String>,
    /// The subjects that the user may subscribe.
    pub subscribe: Vec<String>,
}

/// What every member may do, in the words of the server's templates: `{{name()}}` stands for the member's name, and
/// `{{tag(client)}}` for the client of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// The name of the role, such as `site`.
    pub role: &'static str,
    /// The subjects, with the words in them.
    pub rights: Rights,
    /// The most subscriptions of one connection.
    pub subscriptions: u32,
    /// The most bytes of one message.
    pub payload: u32,
    /// What each third party may ask of the platform's account.
    pub shared: Vec<Shared>,
}

/// The JWT of the platform's account, as it shall be in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountJwt {
    /// The JWT.
    pub text: String,
    /// When it was issued.
    pub issued: u64,
}

/// The keys of one server, with the file of the accounts' JWTs.
pub struct Authority {
    operator: String,
    operator_signing: KeyPair,
    system: KeyPair,
    account: String,
    services: KeyPair,
    members: KeyPair,
    tenant: TenantName,
    folder: PathBuf,
    accounts_file: PathBuf,
}

impl Authority {
    /// Reads the keys in this folder, and makes those that are missing. `accounts_file` is the file of the accounts' JWTs.
    pub fn keep(folder: &Path, accounts_file: &Path, tenant: &TenantName) -> Result<Self, AuthorityError> {
        let public = folder.join("account.pub");
        if disk::read_optional(&public).map_err(file_error(&public))?.is_none() {
            write(&public, &KeyPair::new_account().public_key())?;
        }
        for (name, kind) in SEEDS {
            let path = folder.join(name);
            if disk::read_optional(&path).map_err(file_error(&path))?.is_none() {
                write(&path, &seed(&KeyPair::new(kind)))?;
            }
        }
        let operator = folder.join("operator.jwt");
        let [signing, system, ..] = SEEDS;
        let (signing, system) = (read_key(folder, signing)?, read_key(folder, system)?);
        let nats = json!({
            "type": "operator", "version": 2,
            "signing_keys": [signing.public_key()],
            "system_account": system.public_key(),
        });
        let held = disk::read_optional(&operator).map_err(file_error(&operator))?;
        let held = held.map(|bytes| jwt::read(String::from_utf8_lossy(&bytes).trim()).ok());
        if !matches!(&held, Some(Some(claims)) if claims.nats == nats) {
            let path = folder.join("operator.seed");
            let is_there = disk::read_optional(&path).map_err(file_error(&path))?.is_some();
            match (held, is_there) {
                (_, true) => {}
                (None, false) => write(&path, &seed(&KeyPair::new_operator()))?,
                // Another operator would be another server to everybody.
                (Some(_), false) => {
                    return Err(AuthorityError::OperatorElsewhere { path: path.display().to_string() });
                }
            }
            let key = read_key(folder, ("operator.seed", KeyPairType::Operator))?;
            write(&operator, &issue(&key, key.public_key(), "edgewright", jwt::now(), None, nats))?;
        }
        Self::open(folder, accounts_file, tenant)
    }

    /// Reads the keys in this folder. It fails when one is missing.
    pub fn open(folder: &Path, accounts_file: &Path, tenant: &TenantName) -> Result<Self, AuthorityError> {
        let [operator_signing, system, services, members] = SEEDS.map(|seed| read_key(folder, seed));
        let account = read_line(&folder.join("account.pub"))?;
        let is_account =
            KeyPair::from_public_key(&account).is_ok_and(|key| key.key_pair_type() == KeyPairType::Account);
        if !is_account {
            let path = folder.join("account.pub").display().to_string();
            return Err(AuthorityError::Content { path, what: "the public key of an account" });
        }
        Ok(Self {
            operator: read_line(&folder.join("operator.jwt"))?,
            operator_signing: operator_signing?,
            system: system?,
            account,
            services: services?,
            members: members?,
            tenant: tenant.clone(),
            folder: folder.to_owned(),
            accounts_file: accounts_file.to_owned(),
        })
    }

    /// Returns the JWT of the operator, for the configuration of the server.
    pub fn operator(&self) -> &str {
        &self.operator
    }

    /// Returns the public key of the system account.
    pub fn system_account(&self) -> String {
        self.system.public_key()
    }

    /// Returns the public key of the platform's account.
    pub fn account(&self) -> &str {
        &self.account
    }

    /// Returns the public key that signs members.
    pub fn members(&self) -> String {
        self.members.public_key()
    }

    /// Returns the JWT that the platform's account shall have, which the file of accounts holds when this returns. A new one
    /// is issued when the template, the keys or the revoked users changed, or when the one held was not issued after `above`.
    /// Without a set of revoked users those of the JWT held stay. Blocks.
    pub fn keep_account(
        &self,
        template: &Template,
        revoked: Option<&BTreeSet<UserNkey>>,
        above: Option<u64>,
        now: u64,
    ) -> Result<AccountJwt, AuthorityError> {
        let text = disk::read_optional(&self.accounts_file).map_err(file_error(&self.accounts_file))?;
        let text = String::from_utf8_lossy(text.as_deref().unwrap_or_default()).into_owned();
        let held_of = |account: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(account)?.strip_prefix(": "));
            line.and_then(|text| Some((text.to_owned(), jwt::read(text).ok()?)))
        };
        let revocations = match (revoked, held_of(&self.account)) {
            (Some(revoked), _) => {
                revoked.iter().map(|key| (key.as_str().to_owned(), Value::from(REVOKED_UNTIL))).collect()
            }
            (None, Some((_, Claims { nats, .. }))) => {
                nats.get("revocations").and_then(Value::as_object).cloned().unwrap_or_default()
            }
            (None, None) => Map::new(),
        };
        let signing_keys = json!([self.services.public_key(), template.scope(&self.members)]);
        let mut platform = json!({
            "type": "account", "version": 2, "limits": limits(-1),
            "revocations": revocations, "signing_keys": signing_keys,
        });
        let readers = self.reader_keys()?;
        let exports: Vec<_> = readers.keys().flat_map(|reader| template.exports(reader)).collect();
        if !exports.is_empty() {
            platform["exports"] = exports.into();
        }
        let tenant = self.tenant.as_str();
        let (platform, issued) = self.renewed(held_of(&self.account), &self.account, tenant, platform, above, now);
        let system_account = self.system_account();
        let system = json!({"type": "account", "version": 2, "limits": limits(0)});
        let (system, _) = self.renewed(held_of(&system_account), &system_account, "SYS", system, None, now);
        let mut next = format!(
            "# Written by Edgewright; changes are overwritten.\n{}: {platform}\n{system_account}: {system}\n",
            self.account
        );
        for (reader, key) in readers {
            let account = key.public_key();
            let nats = template.account_of(&reader, &self.account);
            let (text, _) = self.renewed(held_of(&account), &account, reader.as_str(), nats, None, now);
            next += &format!("{account}: {text}\n");
        }
        if next != text {
            disk::write_private(&self.accounts_file, next.as_bytes()).map_err(file_error(&self.accounts_file))?;
        }
        Ok(AccountJwt { text: platform, issued })
    }

    /// The JWT held where it says what is wanted, else a new one that was issued after it and after `above`.
    fn renewed(
        &self,
        held: Option<(String, Claims)>,
        account: &str,
        name: &str,
        nats: Value,
        above: Option<u64>,
        now: u64,
    ) -> (String, u64) {
        let after = |time: Option<u64>| time.map_or(0, |time| time.saturating_add(1));
        let mut last = None;
        if let Some((text, claims)) = held {
            let is_ours = claims.iss == self.operator_signing.public_key();
            if is_ours && claims.nats == nats && claims.iat >= after(above) {
                return (text, claims.iat);
            }
            last = Some(claims.iat);
        }
        let issued = now.max(after(last)).max(after(above));
        let claims = claims(&self.operator_signing, account.to_owned(), name, issued, None, nats);
        let text = serde_json::to_vec(&claims).expect("texts, numbers and JSON values have a JSON form");
        let claims = Claims { jti: Some(margo::Digest::of(&text).hex()), ..claims };
        (jwt::sign(&self.operator_signing, &claims), issued)
    }

    /// Mints the JWT of a site, for the key that its client has. It holds for `life` from `issued` on.
    pub fn site(&self, client: &ClientName, key: &UserNkey, issued: u64, life: Option<Duration>) -> String {
        let expires = life.map(|life| issued.saturating_add(life.as_secs()));
        let nats = json!({"type": "user", "version": 2, "issuer_account": self.account});
        issue(&self.members, key.as_str().to_owned(), client.as_str(), issued, expires, nats)
    }

    /// Mints the JWT of a node at its site. It has no end.
    pub fn node(&self, node: &NodeId, key: &UserNkey, issued: u64) -> String {
        let tags = [format!("client:{}", node.client)];
        let nats = json!({"type": "user", "version": 2, "issuer_account": self.account, "tags": tags});
        issue(&self.members, key.as_str().to_owned(), node.node.as_str(), issued, None, nats)
    }

    /// Mints the JWT of a service of this server, with its rights in it.
    pub fn service(&self, name: &str, key: &UserNkey, rights: &Rights, issued: u64) -> String {
        let mut nats = rights.user();
        nats["issuer_account"] = json!(self.account);
        issue(&self.services, key.as_str().to_owned(), name, issued, None, nats)
    }

    /// Mints the JWT of a user of the system account.
    pub fn system_user(&self, name: &str, key: &UserNkey, rights: &Rights, issued: u64) -> String {
        issue(&self.system, key.as_str().to_owned(), name, issued, None, rights.user())
    }
}

/// The seeds that are kept, with the kind of each. That of the operator is not among them, for it may lie elsewhere.
const SEEDS: [(&str, KeyPairType); 4] = [
    ("operator-signing.seed", KeyPairType::Operator),
    ("system.seed", KeyPairType::Account),
    ("services.seed", KeyPairType::Account),
    ("members.seed", KeyPairType::Account),
];

impl Rights {
    fn in_jwt(&self) -> (Value, Value) {
        // An empty list of what is allowed would allow everything.
        let one = |list: &[String]| if list.is_empty() { json!({"deny": [">"]}) } else { json!({ "allow": list }) };
        (one(&self.publish), one(&self.subscribe))
    }

    /// What stands below `nats` in the JWT of a user that is bound to no template.
    fn user(&self) -> Value {
        let (publish, subscribe) = self.in_jwt();
        json!({
            "type": "user", "version": 2, "pub": publish, "sub": subscribe,
            "subs": -1, "data": -1, "payload": -1,
        })
    }
}

impl Template {
    fn scope(&self, key: &KeyPair) -> Value {
        let (publish, subscribe) = self.rights.in_jwt();
        let template = json!({
            "pub": publish, "sub": subscribe,
            "subs": self.subscriptions, "data": -1, "payload": self.payload,
        });
        json!({"kind": "user_scope", "key": key.public_key(), "role": self.role, "template": template})
    }
}

/// The limits of an account: there are none but those of JetStream, which are 0 where it shall have no streams.
fn limits(streams: i64) -> Value {
    json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": 0,
        "mem_storage": streams, "disk_storage": streams, "streams": streams, "consumer": streams,
    })
}

/// Signs a JWT that is about `sub`.
fn issue(signer: &KeyPair, sub: String, name: &str, issued: u64, expires: Option<u64>, nats: Value) -> String {
    jwt::sign(signer, &claims(signer, sub, name, issued, expires, nats))
}

fn claims(signer: &KeyPair, sub: String, name: &str, issued: u64, expires: Option<u64>, nats: Value) -> Claims {
    Claims { iat: issued, iss: signer.public_key(), sub, name: name.to_owned(), exp: expires, jti: None, nats }
}

fn seed(key: &KeyPair) -> String {
    key.seed().expect("a new key pair has its seed")
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> AuthorityError {
    let path = path.display().to_string();
    move |source| AuthorityError::File { path, source }
}

fn write(path: &Path, line: &str) -> Result<(), AuthorityError> {
    disk::write_private(path, format!("{line}\n").as_bytes()).map_err(file_error(path))
}

fn read_line(path: &Path) -> Result<String, AuthorityError> {
    let text = fs::read_to_string(path).map_err(file_error(path))?;
    Ok(text.trim().to_owned())
}

fn read_key(folder: &Path, (name, kind): (&str, KeyPairType)) -> Result<KeyPair, AuthorityError> {
    let path = folder.join(name);
    let key = KeyPair::from_seed(&read_line(&path)?).ok().filter(|key| key.key_pair_type() == kind);
    let what = match kind {
        KeyPairType::Operator => "the seed of an operator (SO…)",
        _ => "the seed of an account (SA…)",
    };
    key.ok_or_else(|| AuthorityError::Content { path: path.display().to_string(), what })
}

#[cfg(test)]
mod tests;
