//! JWTs as NATS servers read them: signed with NKeys (`alg` is `ed25519-nkey`), with what is claimed below `nats`.
//!
//! No crate is used for these. Those that exist put limits into the JWTs of users, which a server refuses under a scoped
//! signing key, or know no scopes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::BASE64URL_NOPAD;
use margo::UserNkey;
use nkeys::KeyPair;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The header of every JWT of NATS.
const HEADER: &[u8] = br#"{"typ":"JWT","alg":"ed25519-nkey"}"#;

/// The longest JWT that is read. That of an account with 5,000 revoked keys has 468 kB.
const LONGEST: usize = 4 << 20;

/// What a JWT claims. Times are seconds since 1970, as in the JWT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// When it was issued.
    pub iat: u64,
    /// The public key that signed it.
    pub iss: String,
    /// The public key that it is about.
    pub sub: String,
    /// The name that the subject has.
    pub name: String,
    /// When it expires. One without this field never does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exp: Option<u64>,
    /// An id of this very JWT. A server that is started with the JWT of an account takes one of the same id for the one that
    /// it has, however old that is; and without ids all have the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// What NATS makes of it: the kind, and what belongs to that kind.
    pub nats: Value,
}

/// A text that is no JWT of NATS, or that the key that it names did not sign.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidJwt {
    /// The text does not have the form of a JWT. The text is not repeated, for it may be long.
    #[error("not a JWT of NATS: {0}")]
    Form(&'static str),
    /// The signature is not that of the issuer.
    #[error("the JWT is not signed by its issuer")]
    Signature,
    /// The JWT is about another key, or is that of something else than a user.
    #[error("the JWT is not that of the user {0}")]
    OtherUser(UserNkey),
}

/// Signs claims with the key of their issuer.
pub(crate) fn sign(signer: &KeyPair, claims: &Claims) -> String {
    debug_assert_eq!(signer.public_key(), claims.iss, "a JWT names the key that signs it");
    let body = serde_json::to_vec(claims).expect("texts, numbers and JSON values have a JSON form");
    let text = format!("{}.{}", BASE64URL_NOPAD.encode(HEADER), BASE64URL_NOPAD.encode(&body));
    let signature = signer.sign(text.as_bytes()).expect("a key pair that has its seed signs");
    format!("{text}.{}", BASE64URL_NOPAD.encode(&signature))
}

/// Reads a JWT, and fails when the issuer that it names did not sign it. Whether the issuer may issue it is for the caller to
/// say.
pub fn read(jwt: &str) -> Result<Claims, InvalidJwt> {
    if jwt.len() > LONGEST {
        return Err(InvalidJwt::Form("it is too long"));
    }
    let (text, signature) = jwt.rsplit_once('.').ok_or(InvalidJwt::Form("it does not have three parts"))?;
    let (header, body) = text.split_once('.').ok_or(InvalidJwt::Form("it does not have three parts"))?;
    let decode = |part: &str| {
        BASE64URL_NOPAD.decode(part.as_bytes()).map_err(|_| InvalidJwt::Form("a part of it is no base64 of URLs"))
    };
    let header: Value = serde_json::from_slice(&decode(header)?).map_err(|_| InvalidJwt::Form("its header"))?;
    if header.get("alg").and_then(Value::as_str) != Some("ed25519-nkey") {
        return Err(InvalidJwt::Form("its algorithm is another one"));
    }
    let claims: Claims = serde_json::from_slice(&decode(body)?).map_err(|_| InvalidJwt::Form("its claims"))?;
    let issuer = KeyPair::from_public_key(&claims.iss).map_err(|_| InvalidJwt::Form("its issuer is no key"))?;
    issuer.verify(text.as_bytes(), &decode(signature)?).map_err(|_| InvalidJwt::Signature)?;
    Ok(claims)
}

/// Reads the JWT of this user. It fails for every other JWT, however well signed it is.
pub fn read_user(jwt: &str, user: &UserNkey) -> Result<Claims, InvalidJwt> {
    let claims = read(jwt)?;
    let is_user = claims.nats.get("type").and_then(Value::as_str) == Some("user");
    if !is_user || claims.sub != user.as_str() {
        return Err(InvalidJwt::OtherUser(user.clone()));
    }
    Ok(claims)
}

impl Claims {
    /// How long the JWT is valid from its issue on. `None` stands for ever.
    pub fn life(&self) -> Option<Duration> {
        self.exp.map(|exp| Duration::from_secs(exp.saturating_sub(self.iat)))
    }
}

/// The time of this machine's clock in seconds since 1970, as JWTs have it.
#[expect(clippy::disallowed_methods, reason = "a JWT is dated by the wall clock, and servers judge it by theirs")]
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims(signer: &KeyPair, sub: &str) -> Claims {
        Claims {
            iat: 1_700_000_000,
            iss: signer.public_key(),
            sub: sub.to_owned(),
            name: "plant".to_owned(),
            exp: Some(1_700_000_090),
            jti: None,
            nats: json!({"type": "user", "version": 2}),
        }
    }

    #[test]
    fn what_is_signed_is_read_and_nothing_of_it_can_be_changed() {
        let signer = KeyPair::new_account();
        let user = crate::nats::generate().1;
        let wanted = claims(&signer, user.as_str());
        let jwt = sign(&signer, &wanted);
        assert_eq!(read(&jwt), Ok(wanted.clone()));
        assert_eq!(read_user(&jwt, &user), Ok(wanted.clone()));
        assert_eq!(wanted.life(), Some(Duration::from_secs(90)));

        let [header, _, signature] = jwt.split('.').collect::<Vec<_>>()[..] else { panic!("{jwt}") };
        let forged = Claims { name: "other".to_owned(), ..wanted };
        let body = BASE64URL_NOPAD.encode(&serde_json::to_vec(&forged).unwrap());
        assert_eq!(read(&format!("{header}.{body}.{signature}")), Err(InvalidJwt::Signature));
        let none = BASE64URL_NOPAD.encode(br#"{"typ":"JWT","alg":"none"}"#);
        assert!(matches!(read(&format!("{none}.{body}.")), Err(InvalidJwt::Form(_))));
        for bad in ["", "a", "a.b", "a.b.c", "....", &jwt[1..], &"x".repeat(LONGEST + 1)] {
            assert!(read(bad).is_err());
        }
    }

    #[test]
    fn the_jwt_of_somebody_else_is_not_taken() {
        let signer = KeyPair::new_account();
        let (user, other) = (crate::nats::generate().1, crate::nats::generate().1);
        let jwt = sign(&signer, &claims(&signer, other.as_str()));
        assert_eq!(read_user(&jwt, &user), Err(InvalidJwt::OtherUser(user.clone())));
        let account = Claims { nats: json!({"type": "account"}), ..claims(&signer, user.as_str()) };
        assert_eq!(read_user(&sign(&signer, &account), &user), Err(InvalidJwt::OtherUser(user)));
    }
}
