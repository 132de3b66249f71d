//! A server that gives out the tokens of a registry: signed, for the accounts and the rights that it knows.

use std::{
    fs,
    sync::atomic::{AtomicUsize, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use axum::{
    extract::{Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use rcgen::{CertificateParams, KeyPair};
use serde::Deserialize;
use serde_json::json;

use super::*;

pub const USERNAME: &str = "press";
pub const PASSWORD: &str = "open sesame";

const SERVICE: &str = "registry of a test";
const ISSUER: &str = "tokens of a test";

pub struct TokenServer {
    pub url: String,
    /// How many tokens were asked for.
    pub asked: Arc<AtomicUsize>,
    /// How many of the next tokens open nothing.
    pub useless: Arc<AtomicUsize>,
    signer: Arc<Signer>,
    folder: TempDir,
}

struct Signer {
    key: EcdsaKeyPair,
    certificate: Vec<u8>,
}

impl Signer {
    fn token(&self, name: &str, actions: &[&str]) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let header = json!({ "typ": "JWT", "alg": "ES256", "x5c": [BASE64.encode(&self.certificate)] });
        let claims = json!({
            "iss": ISSUER, "sub": USERNAME, "aud": SERVICE, "jti": "1",
            "iat": now, "nbf": now - 60, "exp": now + 300,
            "access": [{ "type": "repository", "name": name, "actions": actions }],
        });
        let part = |value: &serde_json::Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", BASE64URL_NOPAD.encode(signature.as_ref()))
    }
}

#[derive(Deserialize)]
struct Asked {
    service: String,
    scope: String,
}

#[derive(Clone)]
struct Answering {
    signer: Arc<Signer>,
    asked: Arc<AtomicUsize>,
    useless: Arc<AtomicUsize>,
}

async fn token(State(server): State<Answering>, headers: HeaderMap, Query(asked): Query<Asked>) -> Response {
    server.asked.fetch_add(1, Ordering::SeqCst);
    let right = format!("Basic {}", BASE64.encode(format!("{USERNAME}:{PASSWORD}").as_bytes()));
    if headers.get("authorization").is_none_or(|given| given != right.as_str()) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let scope: Vec<&str> = asked.scope.split(':').collect();
    let ["repository", name, "pull"] = scope[..] else { return StatusCode::BAD_REQUEST.into_response() };
    if asked.service != SERVICE {
        return StatusCode::BAD_REQUEST.into_response();
    }
    let spend = |left: usize| left.checked_sub(1);
    let useless = server.useless.fetch_update(Ordering::SeqCst, Ordering::SeqCst, spend).is_ok();
    let name = if useless { "another" } else { name };
    let token = server.signer.token(name, &["pull"]);
    axum::Json(json!({ "token": token, "expires_in": 300 })).into_response()
}

impl TokenServer {
    pub async fn start() -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["tokens".to_owned()]).unwrap().self_signed(&key).unwrap();
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("tokens.pem"), certificate.pem()).unwrap();
        let signing = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.serialized_der()).unwrap();
        let signer = Arc::new(Signer { key: signing, certificate: certificate.der().to_vec() });
        let (asked, useless) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let answering = Answering { signer: signer.clone(), asked: asked.clone(), useless: useless.clone() };
        let address = serve(Router::new().route("/token", get(token)).with_state(answering)).await;
        Self { url: format!("http://{address}"), asked, useless, signer, folder }
    }

    /// Starts a registry that takes this server's tokens.
    pub async fn registry(&self) -> DockerRegistry {
        let (realm, roots) = (format!("{}/token", self.url), self.folder.path().join("tokens.pem"));
        let auth = format!(
            "auth: {{ token: {{ realm: {realm:?}, service: {SERVICE:?}, issuer: {ISSUER:?}, rootcertbundle: {roots:?} }} }}"
        );
        DockerRegistry::start_with(&auth).await
    }

    /// The header that lets a test do these things in a repository.
    pub fn header(&self, name: &str, actions: &str) -> String {
        format!("Bearer {}", self.signer.token(name, &actions.split(',').collect::<Vec<_>>()))
    }
}
