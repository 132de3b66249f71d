//! Requests to a REST interface of the platform, and how its answers and refusals are understood.

use std::{fs, path::Path, sync::Arc, time::Duration};

use api::Problem;
use identity::{plaintext::Plaintext, tls::ClientConfig};
use reqwest::{Method, RequestBuilder, StatusCode, Url, redirect};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::failure::Failure;

/// A server that does not even take the connection by then is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Longer than the 30 s after which the gateway gives up a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(40);

/// Speaks to one interface with one token.
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
    token: String,
}

/// What the platform answered, in two forms.
pub(crate) struct Answer<T> {
    /// The answer exactly as it came, for `-o json`.
    pub(crate) json: Value,
    /// The part of the answer that edgectl understands, for tables and decisions.
    pub(crate) body: T,
}

impl Client {
    /// Fails with wrong usage when the address is not one, or when the file holds nothing that can be a token.
    /// It also fails when the token would cross a network in clear. `tls` says whose certificates are believed; without it
    /// those are that the operating system trusts.
    pub(crate) fn new(
        base: &str,
        token_file: &Path,
        tls: Option<Arc<ClientConfig>>,
        plaintext: Plaintext,
    ) -> Result<Self, Failure> {
        let invalid = |reason: &str| Failure::Usage(format!("{base:?} is no address of the platform: {reason}"));
        let url = Url::parse(base).map_err(|error| invalid(&error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(invalid("it must begin with http:// or https://"));
        }
        plaintext.check_url("the platform", base).map_err(|error| Failure::Usage(error.to_string()))?;
        let token = fs::read_to_string(token_file)
            .map_err(|error| Failure::Usage(format!("reading the token file {}: {error}", token_file.display())))?;
        let token = token.trim().to_owned();
        if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Failure::Usage(format!("the token file {} holds no token", token_file.display())));
        }
        // No redirects: the token goes nowhere but to the address that was named.
        let mut builder =
            reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).redirect(redirect::Policy::none());
        if let Some(tls) = tls {
            builder = builder.tls_backend_preconfigured((*tls).clone());
        }
        if is_this_machine(&url) {
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|error| Failure::Failed(format!("preparing HTTP requests: {error}")))?;
        Ok(Self { http, base: url, token })
    }

    /// A request to a path below `/api/v1`. Callers make paths of checked names only, so nothing is escaped.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}/api/v1/{path}", self.base.as_str().trim_end_matches('/'));
        self.http.request(method, url).bearer_auth(&self.token)
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, attempt: &str, path: &str) -> Result<Answer<T>, Failure> {
        self.send(attempt, self.request(Method::GET, path).timeout(REQUEST_TIMEOUT)).await
    }

    /// Sends a request that gives an order. The gateway answers within seconds, or gives up.
    pub(crate) async fn order<T: DeserializeOwned>(
        &self,
        attempt: &str,
        request: RequestBuilder,
    ) -> Result<Answer<T>, Failure> {
        self.send(attempt, request.timeout(REQUEST_TIMEOUT)).await
    }

    /// Sends a request without a limit of time, such as an upload.
    pub(crate) async fn send<T: DeserializeOwned>(
        &self,
        attempt: &str,
        request: RequestBuilder,
    ) -> Result<Answer<T>, Failure> {
        let unreachable =
            |reason: String| Failure::Unreachable { attempt: attempt.to_owned(), url: self.base.to_string(), reason };
        let response = request.send().await.map_err(|error| unreachable(causes(&error)))?;
        let status = response.status();
        let body = response.bytes().await.map_err(|error| unreachable(causes(&error)))?;
        if !status.is_success() {
            let problem = serde_json::from_slice::<Problem>(&body).unwrap_or_else(|_| foreign(status));
            return Err(Failure::refused(attempt, problem));
        }
        let not_understood =
            |error: serde_json::Error| unreachable(format!("it answers like another program: {error}"));
        let json: Value = serde_json::from_slice(&body).map_err(not_understood)?;
        let body = T::deserialize(&json).map_err(not_understood)?;
        Ok(Answer { json, body })
    }
}

/// Stands for the reason when an error answer holds none, such as that of a proxy.
fn foreign(status: StatusCode) -> Problem {
    Problem::new(status.as_u16(), format!("the answer was {status}, without a reason"))
}

/// Whether the address is of this machine, which no proxy could reach.
fn is_this_machine(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// What an error came from. The error itself only repeats the URL, which the failure names already.
fn causes(error: &reqwest::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), process::chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_address_and_no_token_is_wrong_usage() {
        let folder = tempfile::tempdir().unwrap();
        let [good, empty] = ["good", "empty"].map(|name| folder.path().join(name));
        fs::write(&good, "ew_0\n").unwrap();
        fs::write(&empty, " \n").unwrap();
        let client = |url: &str, file: &Path| Client::new(url, file, None, Plaintext::OnLoopback);
        assert!(client("http://127.0.0.1:8080/", &good).is_ok());
        assert!(client("https://192.0.2.1:8080/", &good).is_ok());
        for (url, file) in [
            ("127.0.0.1", &good),
            ("nats://x", &good),
            ("http://192.0.2.1:8080", &good),
            ("https://x", &empty),
            ("https://x", &folder.path().join("none")),
        ] {
            assert!(matches!(client(url, file), Err(Failure::Usage(_))), "{url} {}", file.display());
        }
    }

    #[test]
    fn a_proxy_is_not_asked_for_this_machine() {
        for (url, here) in [
            ("http://127.0.0.1:1", true),
            ("http://[::1]:1", true),
            ("http://localhost", true),
            ("http://10.0.0.1", false),
        ] {
            assert_eq!(is_this_machine(&Url::parse(url).unwrap()), here, "{url}");
        }
    }
}
