//! `GET /v1/jwt/<public key>`: the JWT of a member.

use std::{sync::Arc, time::Instant};

use api::Problem;
use axum::{
    Extension, Router,
    extract::{Path, State},
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};
use identity::jwt;
use margo::UserNkey;
use service::{ProblemResponse, http::Peer};

use crate::{Minter, NoMember, metrics};

/// The media type of a JWT.
const JWT: &str = "application/jwt";

impl Minter {
    /// Hands out the JWTs of members to whoever asks for one by its key, and not too often from one address.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new().route("/v1/jwt/{key}", get(answer)).with_state(self.clone())
    }

    fn jwt(&self, key: &str) -> Result<String, Problem> {
        let unknown = || Problem::not_found("no member has this key");
        let key: UserNkey = key.parse().map_err(|_| unknown())?;
        let member = self.member(&key).map_err(|reason| match reason {
            NoMember::Unknown => unknown(),
            NoMember::NotKnownYet => Problem::unavailable("the list of members is not there yet; try again"),
            NoMember::RevokedNotEnforced => Problem::unavailable("what was revoked is not in force yet; try again"),
        })?;
        Ok(member.mint(&self.settings.authority, &key, jwt::now(), self.settings.life))
    }
}

async fn answer(
    State(minter): State<Arc<Minter>>,
    Extension(Peer(peer)): Extension<Peer>,
    Path(key): Path<String>,
) -> Response {
    let jwt = if minter.rates.take(peer, Instant::now()) {
        minter.jwt(&key)
    } else {
        Err(Problem::new(429, "too many requests from your address; try again in a second"))
    };
    let response = match jwt {
        // What is handed out is the newest at this moment only.
        Ok(jwt) => ([(header::CONTENT_TYPE, JWT), (header::CACHE_CONTROL, "no-store")], jwt).into_response(),
        Err(problem) => ProblemResponse::from(problem).into_response(),
    };
    let status = response.status();
    metrics::ANSWERS.with_label_values(&[minter.settings.server.as_str(), status.as_str()]).inc();
    response
}
