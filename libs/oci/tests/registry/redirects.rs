//! Registries that hand over to their storage.

use std::sync::Mutex;

use axum::{
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use identity::tls::Peer;
use oci::{Limits, PullError, RegistryError, registry::Credentials};
use testkit::Certificates;
use tokio_util::sync::CancellationToken;

use super::*;

/// Everything that was said to a storage.
type Heard = Arc<Mutex<Vec<HeaderMap>>>;

fn storage(content: &'static [u8]) -> (Router, Heard) {
    let heard = Heard::default();
    let hears = heard.clone();
    let answer = move |headers: HeaderMap| {
        hears.lock().unwrap().push(headers);
        std::future::ready(content)
    };
    (Router::new().fallback(answer), heard)
}

/// A registry at which the password is asked for, and whose blobs are elsewhere.
async fn registry(elsewhere: String) -> String {
    let answer = move |headers: HeaderMap| {
        let answer: Response =
            if headers.get("authorization").is_none_or(|given| given != "Basic cHJlc3M6b3BlbiBzZXNhbWU=") {
                (StatusCode::UNAUTHORIZED, [("www-authenticate", "Basic realm=\"test\"")]).into_response()
            } else {
                Redirect::temporary(&elsewhere).into_response()
            };
        std::future::ready(answer)
    };
    format!("http://{}", serve(Router::new().fallback(answer)).await)
}

fn account() -> Option<Credentials> {
    Some(Credentials { username: "press".to_owned(), password: "open sesame".to_owned() })
}

#[tokio::test]
async fn a_redirect_to_https_is_followed_without_the_password() {
    let certificates = Certificates::default();
    let (router, heard) = storage(b"content");
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let elsewhere = format!("https://{}/blob?signature=1", listener.local_addr().unwrap());
    let tls = certificates.server(&Peer::Hub).server().unwrap();
    tokio::spawn(service::http::serve(listener, Some(tls), router, CancellationToken::new()));

    let tls = certificates.trust().peer(&Peer::Hub);
    let client = Client::of_registry(&registry(elsewhere).await, account(), None, Some(&tls)).unwrap();
    let (_folder, store) = empty().await;
    let digest = Digest::of(b"content");
    client.pull_blob(&store, &"app".parse().unwrap(), &digest, 7).await.unwrap();
    assert!(store.contains(&digest));
    let heard = heard.lock().unwrap();
    assert_eq!(heard.len(), 1);
    assert!(heard[0].get("authorization").is_none(), "{heard:?}");
}

#[tokio::test]
async fn a_redirect_in_clear_or_in_circles_is_not_followed() {
    let (router, heard) = storage(b"content");
    let address = serve(router).await;
    let (_folder, store) = empty().await;
    let digest = Digest::of(b"content");
    for elsewhere in [
        format!("http://{address}/blob"),
        format!("http://me:secret@{address}/"),
        "//[".to_owned(),
        "file:///etc/passwd".to_owned(),
    ] {
        let client = Client::of_registry(&registry(elsewhere.clone()).await, account(), None, None).unwrap();
        let error = client.pull_blob(&store, &"app".parse().unwrap(), &digest, 7).await.unwrap_err();
        assert!(matches!(error, PullError::Registry(RegistryError::Redirect(_))), "{elsewhere}: {error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    assert_eq!(heard.lock().unwrap().len(), 0);

    let circle = Router::new().route("/{*path}", get(|| async { Redirect::temporary("/again") }));
    let url = format!("http://{}", serve(circle).await);
    let client = Client::of_registry(&url, account(), None, None).unwrap().limited(Limits::default());
    let error = client.pull_blob(&store, &"app".parse().unwrap(), &digest, 7).await.unwrap_err();
    assert!(matches!(error, PullError::Registry(RegistryError::Redirect(_))), "{error}");
}

#[tokio::test]
async fn the_challenge_of_a_storage_gets_no_answer() {
    let certificates = Certificates::default();
    let heard = Heard::default();
    let hears = heard.clone();
    let asks = move |headers: HeaderMap| {
        hears.lock().unwrap().push(headers);
        std::future::ready((StatusCode::UNAUTHORIZED, [("www-authenticate", "Basic realm=\"give\"")]))
    };
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let elsewhere = format!("https://{}/blob", listener.local_addr().unwrap());
    let tls = certificates.server(&Peer::Hub).server().unwrap();
    tokio::spawn(service::http::serve(listener, Some(tls), Router::new().fallback(asks), CancellationToken::new()));

    let tls = certificates.trust().peer(&Peer::Hub);
    let client = Client::of_registry(&registry(elsewhere).await, account(), None, Some(&tls)).unwrap();
    let (_folder, store) = empty().await;
    let error = client.pull_blob(&store, &"app".parse().unwrap(), &Digest::of(b"content"), 7).await.unwrap_err();
    assert!(matches!(error, PullError::Unauthorized), "{error}");
    let heard = heard.lock().unwrap();
    assert_eq!(heard.len(), 1);
    assert!(heard[0].get("authorization").is_none(), "{heard:?}");
}
