//! Logins at a real registry.

use std::sync::atomic::Ordering;

use oci::{PullError, RegistryError, registry::Credentials};

use super::{
    tokens::{PASSWORD, TokenServer, USERNAME},
    *,
};

/// `open sesame` of the account `press`, by bcrypt.
const HTPASSWD: &str = "press:$2y$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW\n";

fn account(password: &str) -> Option<Credentials> {
    Some(Credentials { username: USERNAME.to_owned(), password: password.to_owned() })
}

#[tokio::test]
async fn a_registry_with_passwords_is_read_with_the_right_one_only() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("htpasswd");
    std::fs::write(&file, HTPASSWD).unwrap();
    let auth = format!("auth: {{ htpasswd: {{ realm: test, path: {file:?} }} }}");
    let registry = DockerRegistry::start_with(&auth).await;
    let image = push(&registry, "secret/app", &[100_000, 10], Some("Basic cHJlc3M6b3BlbiBzZXNhbWU=")).await;
    let pull = async |credentials| {
        let (_folder, store) = empty().await;
        let client = Client::of_registry(&registry.url(), credentials, None, None).unwrap();
        client.pull(&store, &image.name, &image.manifest).await
    };
    for wrong in [None, account("guess")] {
        let refused = pull(wrong).await.unwrap_err();
        assert!(matches!(refused, PullError::Unauthorized), "{refused}");
    }
    assert!(pull(account(PASSWORD)).await.unwrap() > 100_010);
    // Asked without a password until the registry wants one, and with it from then on.
    let asked = registry.requests(&format!("manifests/{}", image.manifest)).await;
    assert_eq!(asked.iter().filter(|line| *line == "GET 200").count(), 1, "{asked:?}");
    assert_eq!(registry.requests(&blob_path(&image, 0)).await, ["GET 200"]);
}

#[tokio::test]
async fn a_registry_with_tokens_is_read_with_one_that_its_server_gives_out() {
    let tokens = TokenServer::start().await;
    let registry = tokens.registry().await;
    let image = push(&registry, "secret/app", &[100_000, 10], Some(&tokens.header("secret/app", "pull,push"))).await;
    let pull = async |credentials, server: Option<&str>| {
        let (_folder, store) = empty().await;
        let client = Client::of_registry(&registry.url(), credentials, server, None).unwrap();
        client.pull(&store, &image.name, &image.manifest).await
    };
    // The server is another host and not reached over HTTPS: only because it was named does it get the password.
    let refused = pull(account(PASSWORD), None).await.unwrap_err();
    assert!(matches!(refused, PullError::Registry(RegistryError::Realm(_))), "{refused}");
    let refused = pull(account(PASSWORD), Some("https://auth.example")).await.unwrap_err();
    assert!(matches!(refused, PullError::Registry(RegistryError::Realm(_))), "{refused}");
    assert_eq!(tokens.asked.load(Ordering::SeqCst), 0);

    let refused = pull(account("guess"), Some(&tokens.url)).await.unwrap_err();
    assert!(matches!(refused, PullError::Unauthorized), "{refused}");
    let refused = pull(None, Some(&tokens.url)).await.unwrap_err();
    assert!(matches!(refused, PullError::Unauthorized), "{refused}");

    let before = tokens.asked.load(Ordering::SeqCst);
    assert!(pull(account(PASSWORD), Some(&tokens.url)).await.unwrap() > 100_010);
    // One token serves the manifest and all blobs, also those that are pulled at once.
    assert_eq!(tokens.asked.load(Ordering::SeqCst), before + 1);
    assert_eq!(registry.requests(&blob_path(&image, 0)).await, ["GET 200"]);
}

#[tokio::test]
async fn a_token_that_the_registry_no_longer_accepts_is_asked_for_anew_once() {
    let tokens = TokenServer::start().await;
    let registry = tokens.registry().await;
    let image = push(&registry, "secret/app", &[10], Some(&tokens.header("secret/app", "pull,push"))).await;
    let (_folder, store) = empty().await;
    let client = Client::of_registry(&registry.url(), account(PASSWORD), Some(&tokens.url), None).unwrap();
    tokens.useless.store(1, Ordering::SeqCst);
    client.pull(&store, &image.name, &image.manifest).await.unwrap();
    assert_eq!(tokens.asked.load(Ordering::SeqCst), 2);

    tokens.useless.store(usize::MAX, Ordering::SeqCst);
    let (_folder, store) = empty().await;
    let client = Client::of_registry(&registry.url(), account(PASSWORD), Some(&tokens.url), None).unwrap();
    let refused = client.pull(&store, &image.name, &image.manifest).await.unwrap_err();
    assert!(matches!(refused, PullError::Unauthorized), "{refused}");
    assert_eq!(tokens.asked.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_server_of_tokens_that_answers_nonsense_gives_none() {
    use axum::{http::StatusCode, response::IntoResponse, routing::get};
    for (answer, says) in [
        ((StatusCode::OK, "{}".to_owned()), "no token"),
        ((StatusCode::OK, "secret".to_owned()), "not the JSON"),
        ((StatusCode::OK, format!("{{\"token\":{:?}}}", "x".repeat(70_000))), "longer than"),
        ((StatusCode::OK, "{\"token\":\"a\\nb\"}".to_owned()), "no token"),
        ((StatusCode::IM_A_TEAPOT, String::new()), "418"),
    ] {
        let challenge = move |headers: axum::http::HeaderMap| {
            let host = headers["host"].to_str().unwrap().to_owned();
            let realm = format!("Bearer realm=\"http://{host}/token\",service=\"test\"");
            std::future::ready((StatusCode::UNAUTHORIZED, [("www-authenticate", realm)]))
        };
        let token = move || std::future::ready(answer.clone().into_response());
        let address = serve(Router::new().route("/token", get(token)).fallback(challenge)).await;
        let (_folder, store) = empty().await;
        let client = Client::of_registry(&format!("http://{address}"), account(PASSWORD), None, None).unwrap();
        let error = client.pull(&store, &"app".parse().unwrap(), &Digest::of(b"wanted")).await.unwrap_err();
        assert!(matches!(error, PullError::Registry(RegistryError::Token { .. })), "{error}");
        assert!(error.to_string().contains(says) && !error.to_string().contains("secret"), "{error}");
    }
}
