//! How a member of a server (a site at the hub, a node at its site) keeps the newest JWT of its key.
//!
//! **Layout.** One file beside the member's data holds the JWT. [`bus::Jwt::File`] reads it at each login.
//!
//! **Updates.** The server's minter is asked, without proof of who asks, because a JWT is of no use without the seed: when
//! there is none, when the server refuses the login, and when a third of its life is over. So a member that slept past the end
//! of its JWT comes back by itself, and so do all members after their server got new keys. Asks are spread by jitter, and pauses
//! grow while nothing comes of them.
//!
//! **After a crash.** The file is whole, the old or the new one. A JWT that does not fit is found out at the next login.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use bus::{Bus, Jwt, Login};
use identity::{
    jwt::{self, Claims},
    tls::ClientConfig,
};
use margo::UserNkey;
use process::{Backoff, due, jittered};
use reqwest::{StatusCode, redirect::Policy};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// The first and the longest pause between asks that lead to no login.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How long an answer of the minter may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The longest answer that is read. A member's JWT has some 500 bytes.
const LONGEST_ANSWER: usize = 16 << 10;

/// The keeper of one member's JWT.
pub struct Renewal {
    http: reqwest::Client,
    url: String,
    key: UserNkey,
    file: PathBuf,
    expires: watch::Sender<Option<u64>>,
}

impl Renewal {
    /// Keeps the JWT in the file of this login, from the minter at this base URL. `tls` says which certificates are believed
    /// where that is https. A login whose JWT stands in no file stays as it is, and then this returns `None`.
    pub fn new(login: &Login, minter: &str, tls: Option<Arc<ClientConfig>>) -> anyhow::Result<Option<Self>> {
        let Jwt::File(file) = &login.jwt else { return Ok(None) };
        let key = identity::nats::public_key(&login.seed).with_context(|| format!("the seed of {}", login.user))?;
        let base = reqwest::Url::parse(minter).ok().filter(|base| matches!(base.scheme(), "http" | "https"));
        ensure!(base.is_some(), "the minter's address {minter:?} is not http:// or https://, a host and a port");
        let url = format!("{}/v1/jwt/{key}", minter.trim_end_matches('/'));
        let mut http = reqwest::Client::builder().redirect(Policy::none()).no_proxy().timeout(ANSWER_WITHIN);
        // It asks again in weeks. A connection kept until then takes one of the places that all behind its address share.
        http = http.pool_max_idle_per_host(0);
        if let Some(tls) = tls {
            http = http.tls_backend_preconfigured((*tls).clone());
        }
        let http = http.build().context("making an HTTP client")?;
        Ok(Some(Self { http, url, key, file: file.clone(), expires: watch::Sender::default() }))
    }

    /// When the JWT held expires, in seconds since 1970. It is `None` while none is held, and for one without an end.
    pub fn expires(&self) -> watch::Receiver<Option<u64>> {
        self.expires.subscribe()
    }

    /// Keeps the JWT until shutdown. `bus` is the connection that logs in with it.
    pub async fn run(self, bus: Bus, shutdown: CancellationToken) -> anyhow::Result<()> {
        let (mut refusals, mut connections) = (bus.refusals(), bus.connections());
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let held = self.held().await;
        self.tell(held.as_ref());
        let mut next = held.map_or_else(|| Some(Instant::now()), |held| renew_at(&held, jwt::now()));
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                Ok(()) = connections.changed() => backoff.reset(),
                Ok(()) = refusals.changed() => {
                    // An ask that is planned soon stays: attempts to connect come faster than asks may.
                    let soon = Instant::now() + LONGEST_PAUSE;
                    next = next.filter(|next| *next < soon).or_else(|| Some(Instant::now() + backoff.pause()));
                }
                () = due(next) => next = match self.renew().await {
                    Ok(claims) => {
                        self.tell(Some(&claims));
                        renew_at(&claims, claims.iat)
                    }
                    Err(error) => {
                        let pause = backoff.pause();
                        debug!(error = format!("{error:#}"), ?pause, user = %bus.user(), "no JWT from the minter");
                        Some(Instant::now() + pause)
                    }
                },
            }
        }
    }

    /// The JWT in the file, if it is that of this key.
    async fn held(&self) -> Option<Claims> {
        let path = self.file.clone();
        let text = disk::blocking(move || disk::read_optional(&path)).await;
        let text = text.inspect_err(|error| warn!(%error, file = %self.file.display(), "reading the JWT")).ok()??;
        jwt::read_user(String::from_utf8_lossy(&text).trim(), &self.key).ok()
    }

    /// Asks the minter, and keeps its answer.
    async fn renew(&self) -> anyhow::Result<Claims> {
        let mut answer = self.http.get(&self.url).send().await.context("asking the minter")?;
        ensure!(answer.status() == StatusCode::OK, "the minter answers {}", answer.status());
        let mut text = Vec::new();
        while let Some(piece) = answer.chunk().await.context("reading the minter's answer")? {
            ensure!(text.len() + piece.len() <= LONGEST_ANSWER, "the minter's answer is too long");
            text.extend_from_slice(&piece);
        }
        let text = String::from_utf8(text).context("the minter's answer is no text")?;
        let claims = jwt::read_user(text.trim(), &self.key).context("the minter's answer")?;
        let file = self.file.clone();
        disk::blocking(move || disk::write_private(&file, text.trim().as_bytes())).await.context("keeping the JWT")?;
        info!(expires = claims.exp, "a new JWT");
        Ok(claims)
    }

    fn tell(&self, held: Option<&Claims>) {
        self.expires.send_replace(held.and_then(|held| held.exp));
    }
}

/// When to ask for the JWT that follows this one; `None` when it has no end. `now` is this machine's clock, and the minter's
/// for a JWT that has just come.
fn renew_at(held: &Claims, now: u64) -> Option<Instant> {
    // Those who began together do not ask together.
    renew_within(held, now).map(|pause| Instant::now() + jittered(pause))
}

/// How long the JWT may be kept at most: until a third of its life is over, so that two thirds are left for a minter that is
/// away.
fn renew_within(held: &Claims, now: u64) -> Option<Duration> {
    let third = held.life()? / 3;
    // One from the future was issued by a clock that differs from ours, so its age is not known.
    let age = now.checked_sub(held.iat).map(Duration::from_secs);
    Some(age.map_or(Duration::ZERO, |age| third.saturating_sub(age)))
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use identity::tls::Peer;
    use testkit::{Certificates, loopback};
    use tokio::net::TcpListener;

    use super::*;

    fn held(exp: Option<u64>) -> Claims {
        let (iss, sub, name) = ("A".to_owned(), "U".to_owned(), "plant".to_owned());
        Claims { iat: 1_000, iss, sub, name, exp, jti: None, nats: Default::default() }
    }

    #[test]
    fn a_login_is_renewed_after_a_third_of_its_life_and_one_without_an_end_never() {
        let within = |now| renew_within(&held(Some(1_900)), now).unwrap().as_secs();
        assert_eq!([within(1_000), within(1_100), within(1_300), within(1_899), within(9_999)], [300, 200, 0, 0, 0]);
        assert_eq!(within(999), 0, "one from the future is asked for anew");
        assert_eq!(renew_within(&held(None), 9_999), None);
    }

    fn login(jwt: Jwt) -> Login {
        let seed = identity::nats::generate().0;
        Login { url: "nats://hub:4222".to_owned(), tls: None, seed, jwt, user: bus::User::Minter }
    }

    fn file() -> Login {
        login(Jwt::File("login.jwt".into()))
    }

    #[tokio::test]
    async fn only_the_minter_of_the_right_root_and_name_is_asked() {
        let certificates = Certificates::default();
        let listener = TcpListener::bind((loopback(), 0)).await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let tls = certificates.server(&Peer::Hub).server().unwrap();
        // It knows nobody, which is an answer all the same.
        let served = service::http::serve(listener, Some(tls), Router::new(), CancellationToken::new());
        let asked = async |tls| {
            let renewal = Renewal::new(&file(), &url, tls).unwrap().unwrap();
            format!("{:?}", renewal.renew().await.unwrap_err())
        };
        let all = async {
            let told = asked(Some(certificates.trust().peer(&Peer::Hub))).await;
            assert!(told.contains("404"), "{told}");
            let told = asked(Some(Certificates::default().trust().peer(&Peer::Hub))).await;
            assert!(told.contains("UnknownIssuer"), "{told}");
            let site = Peer::Site("plant".parse().unwrap());
            let told = asked(Some(certificates.trust().peer(&site))).await;
            assert!(told.contains("not valid for name"), "{told}");
        };
        tokio::select! {
            ended = served => panic!("{ended:?}"),
            () = all => {}
        }
    }

    #[test]
    fn an_address_that_is_none_stops_the_start() {
        assert!(Renewal::new(&file(), "http://hub:8083/", None).unwrap().is_some());
        for wrong in ["", "hub:8083", "nats://hub:4222", "http://"] {
            assert!(Renewal::new(&file(), wrong, None).is_err(), "{wrong}");
        }
        assert!(
            Renewal::new(&login(Jwt::Text(String::new())), "", None).unwrap().is_none(),
            "nothing is to be renewed"
        );
    }
}
