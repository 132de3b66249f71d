//! Logins at registries: basic authentication, and tokens that another server gives out.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use data_encoding::BASE64;
use reqwest::{
    RequestBuilder, Response, StatusCode, Url,
    header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, WWW_AUTHENTICATE},
};
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::{PullError, RegistryError, RepositoryName};

/// Redirects in a row that are followed. Registries hand over to their storage, and that perhaps to a nearer one.
const MAX_REDIRECTS: usize = 5;

/// Challenges in a row that are answered: the first tells what is asked for, the second that a token has ended.
const MAX_CHALLENGES: usize = 2;

/// The longest answer of a server of tokens. Tokens that carry certificates take some kilobytes.
const MAX_TOKEN_ANSWER: u64 = 64 << 10;

/// How long a whole answer of a server of tokens may take.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a token counts when its server does not say, as the specification of the tokens has it; also the shortest
/// time that is believed, so that no server has one asked for at every request.
const USUAL_LIFE: Duration = Duration::from_secs(60);

/// The longest time for which a token is kept.
const LONGEST_LIFE: Duration = Duration::from_secs(3600);

/// Tokens that are kept, each for one repository. Beyond that they are asked for again.
const MAX_TOKENS: usize = 256;

/// A name and a password at one registry.
#[derive(Clone)]
pub struct Credentials {
    /// The name of the account.
    pub username: String,
    /// The password, or a token that stands for it. A secret.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// What opens one registry.
pub(crate) struct Login {
    http: reqwest::Client,
    /// The registry's own address. No other server gets a secret, and no other server's challenges count.
    registry: Url,
    credentials: Option<Credentials>,
    /// The only server that may be asked for tokens.
    token_server: Option<Url>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What the registry asks for; `None` until it asks.
    scheme: Option<Scheme>,
    tokens: BTreeMap<RepositoryName, Token>,
}

#[derive(Clone)]
enum Scheme {
    Basic,
    Bearer { realm: Url, service: Option<String> },
}

struct Token {
    header: HeaderValue,
    until: Instant,
}

impl Login {
    pub(crate) fn new(
        http: reqwest::Client,
        registry: Url,
        credentials: Option<Credentials>,
        token_server: Option<Url>,
    ) -> Self {
        Self { http, registry, credentials, token_server, state: Mutex::default() }
    }

    fn is_registry(&self, url: &Url) -> bool {
        url.origin() == self.registry.origin()
    }

    /// Sends a request for a repository, logs in when the registry asks for it, and follows redirects.
    pub(crate) async fn send(
        &self,
        name: &RepositoryName,
        url: Url,
        request: impl Fn(Url) -> RequestBuilder,
    ) -> Result<Response, PullError> {
        let (mut url, mut redirects, mut challenges) = (url, 0, 0);
        loop {
            // A redirect may lead back to the registry itself; then its secret goes along again, and else nowhere.
            let own = self.is_registry(&url);
            let authorization = if own { self.authorization(name).await? } else { None };
            let mut attempt = request(url.clone());
            if let Some(authorization) = &authorization {
                attempt = attempt.header(AUTHORIZATION, authorization);
            }
            let response = attempt.send().await?;
            if own && response.status() == StatusCode::UNAUTHORIZED && challenges < MAX_CHALLENGES {
                challenges += 1;
                if self.take_challenge(response.headers(), name, authorization.as_ref()).await? {
                    continue;
                }
            }
            if !is_redirect(response.status()) {
                return Ok(response);
            }
            redirects += 1;
            url = self.target(&response, redirects)?;
        }
    }

    /// Returns where a redirect leads, when that may be followed.
    fn target(&self, response: &Response, redirects: usize) -> Result<Url, RegistryError> {
        let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
        let target = location.and_then(|location| response.url().join(location).ok());
        match target {
            Some(target)
                if redirects <= MAX_REDIRECTS
                    && (target.scheme() == "https" || self.is_registry(&target))
                    && target.username().is_empty()
                    && target.password().is_none() =>
            {
                Ok(target)
            }
            target => Err(RegistryError::Redirect(target.map_or_else(|| "nowhere".to_owned(), |url| shown(&url)))),
        }
    }

    /// Returns what is sent along to the registry. A token that has ended is asked for anew.
    async fn authorization(&self, name: &RepositoryName) -> Result<Option<HeaderValue>, PullError> {
        // Held while a token is asked for, so that requests at the same time ask once.
        let mut state = self.state.lock().await;
        match state.scheme.clone() {
            None => Ok(None),
            Some(Scheme::Basic) => Ok(self.credentials.as_ref().map(basic)),
            Some(Scheme::Bearer { realm, service }) => {
                if let Some(token) = state.tokens.get(name)
                    && token.until > Instant::now()
                {
                    return Ok(Some(token.header.clone()));
                }
                let token = self.token(&realm, service.as_deref(), name).await?;
                let header = token.header.clone();
                if state.tokens.len() >= MAX_TOKENS {
                    state.tokens.clear();
                }
                state.tokens.insert(name.clone(), token);
                Ok(Some(header))
            }
        }
    }

    /// Takes note of what the registry asks for, and tells whether it is worth asking again.
    async fn take_challenge(
        &self,
        headers: &HeaderMap,
        name: &RepositoryName,
        sent: Option<&HeaderValue>,
    ) -> Result<bool, PullError> {
        let Some(scheme) = self.scheme(headers)? else { return Ok(false) };
        let mut state = self.state.lock().await;
        let again = match &scheme {
            // A password that was refused once is refused again.
            Scheme::Basic => self.credentials.is_some() && sent.is_none(),
            Scheme::Bearer { .. } => {
                // Somebody else may have got a newer one meanwhile.
                if state.tokens.get(name).is_some_and(|token| Some(&token.header) == sent) {
                    state.tokens.remove(name);
                }
                true
            }
        };
        state.scheme = Some(scheme);
        Ok(again)
    }

    /// Returns the first way to log in that is known here: tokens, for they say less than the password, else the password.
    fn scheme(&self, headers: &HeaderMap) -> Result<Option<Scheme>, RegistryError> {
        let mut basic = None;
        for header in headers.get_all(WWW_AUTHENTICATE) {
            let Ok(text) = header.to_str() else { continue };
            let Ok(challenges) = http_auth::parse_challenges(text) else { continue };
            for challenge in challenges {
                // Where another server gives out the tokens, the registry itself never gets the password.
                let gets_password = self.token_server.as_ref().is_none_or(|server| self.is_registry(server));
                if challenge.scheme.eq_ignore_ascii_case("basic") && gets_password {
                    basic = Some(Scheme::Basic);
                }
                if !challenge.scheme.eq_ignore_ascii_case("bearer") {
                    continue;
                }
                let parameter = |wanted: &str| {
                    let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(wanted));
                    found.map(|(_, value)| value.to_unescaped())
                };
                let Some(realm) = parameter("realm") else { continue };
                let realm = self.trusted_realm(&realm)?;
                return Ok(Some(Scheme::Bearer { realm, service: parameter("service") }));
            }
        }
        Ok(basic)
    }

    /// Checks that a password may go to this server of tokens.
    fn trusted_realm(&self, realm: &str) -> Result<Url, RegistryError> {
        let url = Url::parse(realm).ok().filter(|url| url.username().is_empty() && url.password().is_none());
        let trusted = |url: &Url| match &self.token_server {
            Some(only) => url.origin() == only.origin(),
            None => url.scheme() == "https" || self.is_registry(url),
        };
        let trusted = url.filter(trusted);
        trusted.ok_or_else(|| RegistryError::Realm(realm.chars().filter(|c| !c.is_control()).take(300).collect()))
    }

    /// Asks for a token that opens one repository for reading, whatever else the registry proposed.
    async fn token(&self, realm: &Url, service: Option<&str>, name: &RepositoryName) -> Result<Token, PullError> {
        let mut url = realm.clone();
        if let Some(service) = service {
            url.query_pairs_mut().append_pair("service", service);
        }
        url.query_pairs_mut().append_pair("scope", &format!("repository:{name}:pull"));
        let mut request = self.http.get(url).timeout(TOKEN_TIMEOUT);
        if let Some(credentials) = &self.credentials {
            request = request.header(AUTHORIZATION, basic(credentials));
        }
        let refused = |reason: String| RegistryError::Token { realm: shown(realm), reason };
        let asked = Instant::now();
        let response = request.send().await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED => return Err(PullError::Unauthorized),
            status => return Err(refused(format!("its answer is {status}")).into()),
        }
        let bytes = read_limited(response, MAX_TOKEN_ANSWER).await?;
        let bytes = bytes.ok_or_else(|| refused("its answer is longer than 64 KiB".to_owned()))?;
        let answer = serde_json::from_slice::<TokenAnswer>(&bytes);
        // The answer is not repeated: it may hold a token.
        let answer = answer.map_err(|_| refused("its answer is not the JSON of a token".to_owned()))?;
        let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty());
        let header = token.and_then(|token| HeaderValue::try_from(format!("Bearer {token}")).ok());
        let mut header = header.ok_or_else(|| refused("its answer holds no token".to_owned()))?;
        header.set_sensitive(true);
        let life = answer.expires_in.map_or(USUAL_LIFE, Duration::from_secs).clamp(USUAL_LIFE, LONGEST_LIFE);
        // A little earlier, because the request travels, and clocks differ.
        Ok(Token { header, until: asked + life.mul_f64(0.9) })
    }
}

/// The answer of a server of tokens. Servers call the same thing by either name.
#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

/// Reads an answer whole; `None` when it is longer than this.
pub(crate) async fn read_limited(mut response: Response, limit: u64) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut bytes = Vec::new();
    while let Some(piece) = response.chunk().await? {
        if (bytes.len() + piece.len()) as u64 > limit {
            return Ok(None);
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(Some(bytes))
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    )
}

fn basic(credentials: &Credentials) -> HeaderValue {
    let pair = format!("{}:{}", credentials.username, credentials.password);
    let mut header = HeaderValue::try_from(format!("Basic {}", BASE64.encode(pair.as_bytes())));
    if let Ok(header) = &mut header {
        header.set_sensitive(true);
    }
    header.expect("base64 is made of characters of headers")
}

/// Shows a URL without its query, which may hold the signature by which a storage lets somebody in.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    let _ = url.set_password(None);
    let _ = url.set_username("");
    url.to_string().chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(registry: &str, token_server: Option<&str>) -> Login {
        let url = |url: &str| Url::parse(url).unwrap();
        Login::new(reqwest::Client::new(), url(registry), None, token_server.map(url))
    }

    #[test]
    fn a_password_goes_to_servers_over_https_to_the_registry_itself_or_to_the_one_that_is_named() {
        let trusts = |login: &Login, realm: &str| login.trusted_realm(realm).is_ok();
        let open = login("https://registry.example", None);
        assert!(trusts(&open, "https://auth.example/token"));
        assert!(trusts(&open, "https://registry.example/token"));
        for realm in [
            "http://registry.example/token",
            "http://auth.example/token",
            "https://me:secret@auth.example/token",
            "file:///etc/passwd",
            "auth.example/token",
            "",
        ] {
            assert!(!trusts(&open, realm), "{realm}");
        }

        let local = login("http://127.0.0.1:5000", None);
        assert!(trusts(&local, "http://127.0.0.1:5000/token"));
        assert!(!trusts(&local, "http://127.0.0.1:5001/token"));
        assert!(!trusts(&local, "http://127.0.0.1:5000@evil.example/token"));

        let named = login("https://registry.example", Some("https://auth.example"));
        assert!(trusts(&named, "https://auth.example/token"));
        assert!(!trusts(&named, "https://registry.example/token"));
        assert!(!trusts(&named, "https://auth.example:444/token"));
    }

    #[test]
    fn tokens_are_preferred_and_nonsense_is_passed_over() {
        let asks = |login: &Login, texts: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for text in texts {
                headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(text));
            }
            match login.scheme(&headers).unwrap() {
                None => "none".to_owned(),
                Some(Scheme::Basic) => "basic".to_owned(),
                Some(Scheme::Bearer { realm, service }) => format!("{realm} {}", service.unwrap_or_default()),
            }
        };
        let open = login("https://registry.example", None);
        let scheme = |texts: &[&'static str]| asks(&open, texts);
        let bearer = r#"Bearer realm="https://a.example/t",service="r\"x",scope="repository:a:pull,push""#;
        assert_eq!(scheme(&[bearer]), r#"https://a.example/t r"x"#);
        assert_eq!(scheme(&["Basic realm=\"x\"", bearer]), r#"https://a.example/t r"x"#);
        assert_eq!(scheme(&["Basic realm=\"x\""]), "basic");
        assert_eq!(scheme(&["Bearer", "Negotiate", "=,=\"", "Basic"]), "basic");
        assert_eq!(scheme(&[]), "none");
        // With another server for the tokens, a registry cannot ask for the password itself.
        let named = login("https://registry.example", Some("https://a.example"));
        assert_eq!(asks(&named, &["Basic realm=\"x\""]), "none");
        assert_eq!(asks(&named, &["Basic realm=\"x\"", bearer]), r#"https://a.example/t r"x"#);
        let itself = login("https://registry.example", Some("https://registry.example"));
        assert_eq!(asks(&itself, &["Basic realm=\"x\""]), "basic");
    }

    #[test]
    fn secrets_are_not_shown() {
        let credentials = Credentials { username: "press".to_owned(), password: "open sesame".to_owned() };
        assert!(!format!("{credentials:?}").contains("sesame"));
        assert!(!format!("{:?}", basic(&credentials)).contains("cHJlc3M"));
        let url = Url::parse("https://me:secret@storage.example/blob?signature=secret").unwrap();
        assert_eq!(shown(&url), "https://storage.example/blob");
    }
}
