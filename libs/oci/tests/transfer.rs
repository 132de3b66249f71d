//! Artifacts go from one store to another over HTTP.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, response::Redirect, routing::get};
use margo::Digest;
use oci::{
    ArtifactManifest, Client, ContentStore, Descriptor, PullError, RepositoryName, StoreError, media,
    server::{Admission, Availability, Policy, router},
};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use tempfile::TempDir;
use testkit::{Proxy, wait_for};
use tokio::net::TcpListener;

const TOKEN: &str = "open sesame";

/// A policy that admits one token, and has nothing that is not in the store.
#[derive(Clone)]
struct OneToken(Availability);

impl Policy for OneToken {
    async fn admit(&self, token: &str) -> Admission {
        if token == TOKEN { Admission::Admitted } else { Admission::Refused }
    }

    async fn provide(&self, _: &RepositoryName, _: &Digest) -> Availability {
        self.0
    }
}

async fn serve(router: Router) -> String {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

struct Source {
    _folder: TempDir,
    store: ContentStore,
    url: String,
    hello: RepositoryName,
    manifest: Digest,
    wasm: Digest,
}

/// Serves a store with one artifact.
async fn source() -> Source {
    let (folder, store) = empty().await;
    // The blob is so large that it is sent in several pieces.
    let wasm = b"wasm".repeat(50_000);
    let artifact = ArtifactManifest::artifact(media::WASM_ARTIFACT, vec![Descriptor::of(media::WASM, &wasm)]);
    store.put(media::EMPTY_CONFIG).await.unwrap();
    let (wasm, manifest) = (store.put(&wasm).await.unwrap(), store.put(&artifact.to_json()).await.unwrap());
    let hello: RepositoryName = "demo/hello".parse().unwrap();
    store.link(&hello, &manifest).await.unwrap();
    let url = serve(router(store.clone(), OneToken(Availability::Absent))).await;
    Source { _folder: folder, store, url, hello, manifest, wasm }
}

async fn empty() -> (TempDir, ContentStore) {
    let folder = TempDir::new().unwrap();
    let store = ContentStore::open(folder.path()).await.unwrap();
    (folder, store)
}

#[tokio::test]
async fn an_artifact_is_pulled_whole_and_only_once() {
    let source = source().await;
    let (_folder, store) = empty().await;
    let client = Client::new(&source.url, TOKEN, None).unwrap();
    let bytes = client.pull(&store, &source.hello, &source.manifest).await.unwrap();
    assert!(bytes > 200_000);
    assert!(store.holds(&source.hello, &source.manifest).await.unwrap());
    assert_eq!(client.pull(&store, &source.hello, &source.manifest).await.unwrap(), 0);
}

#[tokio::test]
async fn a_pull_goes_on_where_an_earlier_one_was_cut() {
    let source = source().await;
    let (_folder, store) = empty().await;
    let client = Client::new(&source.url, TOKEN, None).unwrap();
    let hidden = source._folder.path().join("hidden");
    fs::rename(source.store.path(&source.wasm), &hidden).unwrap();
    // The name no longer holds the whole artifact, so its manifest is not given out either.
    let error = client.pull(&store, &source.hello, &source.manifest).await.unwrap_err();
    assert!(matches!(error, PullError::Absent(digest) if digest == source.manifest), "{error}");

    let (manifest, config) = (source.store.manifest(&source.manifest).await.unwrap(), media::EMPTY_CONFIG);
    store.put(&manifest.to_json()).await.unwrap();
    store.put(config).await.unwrap();
    let error = client.pull(&store, &source.hello, &source.manifest).await.unwrap_err();
    assert!(matches!(error, PullError::Absent(digest) if digest == source.wasm), "{error}");

    fs::rename(&hidden, source.store.path(&source.wasm)).unwrap();
    assert_eq!(client.pull(&store, &source.hello, &source.manifest).await.unwrap(), 200_000);
}

#[tokio::test]
async fn a_blob_goes_on_where_its_connection_broke() {
    let source = source().await;
    let proxy = Proxy::start_cutting(source.url.strip_prefix("http://").unwrap(), 80_000).await;
    let (_folder, store) = empty().await;
    let client = Client::new(&format!("http://{}", proxy.address()), TOKEN, None).unwrap();
    client.pull_manifest(&store, &source.hello, &source.manifest).await.unwrap();
    assert_eq!(client.pull_blob(&store, &source.hello, &source.wasm, 200_000).await.unwrap(), 200_000);
    store.verified_path(&source.wasm).await.unwrap();
}

#[tokio::test]
async fn damaged_content_of_which_only_the_end_is_read_is_removed_where_it_lay() {
    let source = source().await;
    let (folder, store) = empty().await;
    let mut damaged = b"wasm".repeat(50_000);
    damaged[199_999] = b'!';
    fs::write(source.store.path(&source.wasm), &damaged).unwrap();
    let partial = folder.path().join("partial").join(source.wasm.hex());
    fs::write(partial, &damaged[..150_000]).unwrap();
    let client = Client::new(&source.url, TOKEN, None).unwrap();
    client.pull_blob(&store, &source.hello, &source.wasm, 200_000).await.unwrap_err();
    assert!(!store.contains(&source.wasm));
    wait_for("the damaged content to be gone", async || {
        if source.store.contains(&source.wasm) { Err("it is there") } else { Ok(()) }
    })
    .await;
}

#[tokio::test]
async fn damaged_content_arrives_nowhere_and_is_removed_where_it_lay() {
    let source = source().await;
    let (_folder, store) = empty().await;
    fs::write(source.store.path(&source.wasm), b"evil".repeat(50_000)).unwrap();
    let client = Client::new(&source.url, TOKEN, None).unwrap();
    client.pull(&store, &source.hello, &source.manifest).await.unwrap_err();
    assert!(!store.contains(&source.wasm));
    assert!(!store.holds(&source.hello, &source.manifest).await.unwrap());
    assert!(!source.store.contains(&source.wasm));
}

#[tokio::test]
async fn another_content_than_the_digest_s_is_refused() {
    let other = serve(Router::new().route("/v2/{*path}", get(|| async { "something else" }))).await;
    let (_folder, store) = empty().await;
    let client = Client::new(&other, TOKEN, None).unwrap();
    let digest = Digest::of(b"wanted");
    let error = client.pull(&store, &"hello".parse().unwrap(), &digest).await.unwrap_err();
    assert!(matches!(error, PullError::Store(StoreError::WrongDigest { wanted, .. }) if wanted == digest), "{error}");
    assert!(!store.contains(&digest));
}

#[tokio::test]
async fn a_token_is_for_one_host_only() {
    let visits = Arc::new(AtomicUsize::new(0));
    let counted = visits.clone();
    let thief =
        serve(Router::new().fallback(move || async move { counted.fetch_add(1, Ordering::SeqCst).to_string() })).await;
    let redirecting = Router::new().fallback(move || async move { Redirect::temporary(&thief) });
    let (_folder, store) = empty().await;
    let client = Client::new(&serve(redirecting).await, TOKEN, None).unwrap();
    let error = client.pull(&store, &"hello".parse().unwrap(), &Digest::of(b"wanted")).await.unwrap_err();
    assert!(matches!(error, PullError::Status { status: StatusCode::TEMPORARY_REDIRECT, .. }), "{error}");
    assert_eq!(visits.load(Ordering::SeqCst), 0);
    for bad in ["", "edgewright", "ftp://host/", "unix:/run/store"] {
        assert!(Client::new(bad, TOKEN, None).is_err(), "{bad}");
    }
}

#[tokio::test]
async fn the_client_knows_why_it_got_nothing() {
    let source = source().await;
    let (_folder, store) = empty().await;
    let pull = async |url: &str, token: &str, name: &str, digest: Digest| {
        let client = Client::new(url, token, None).unwrap();
        client.pull(&store, &name.parse().unwrap(), &digest).await.unwrap_err()
    };
    let wrong_token = pull(&source.url, "guess", "demo/hello", source.manifest).await;
    assert!(matches!(wrong_token, PullError::Unauthorized), "{wrong_token}");
    let wrong_name = pull(&source.url, TOKEN, "hello", source.manifest).await;
    assert!(matches!(wrong_name, PullError::Absent(_)), "{wrong_name}");
    let (_folder, busy) = empty().await;
    let busy = serve(router(busy, OneToken(Availability::Later(Duration::from_secs(7))))).await;
    let later = pull(&busy, TOKEN, "hello", source.manifest).await;
    assert!(matches!(later, PullError::Later(after) if after == Duration::from_secs(7)), "{later}");
}

#[tokio::test]
async fn nobody_is_told_to_wait_for_longer_than_minutes() {
    let (_folder, store) = empty().await;
    for says in ["301", "18446744073709551615", "99999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT", "-1"] {
        let answer = move || async move { (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", says)]) };
        let client = Client::new(&serve(Router::new().fallback(answer)).await, TOKEN, None).unwrap();
        let later = client.pull(&store, &"hello".parse().unwrap(), &Digest::of(b"wanted")).await.unwrap_err();
        let PullError::Later(after) = later else { panic!("{says}: {later}") };
        assert!(after <= Duration::from_secs(300), "{says}: {after:?}");
    }
}

#[tokio::test]
async fn the_read_api_speaks_oci_distribution() {
    let source = source().await;
    let http = reqwest::Client::new();
    let ask = async |method: Method, path: &str, token: Option<&str>| {
        let mut request = http.request(method, format!("{}{path}", source.url));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        request.send().await.unwrap()
    };
    let (manifest, wasm) = (source.manifest, source.wasm);

    let answer = ask(Method::GET, &format!("/v2/demo/hello/manifests/{manifest}"), Some(TOKEN)).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["content-type"], media::MANIFEST);
    assert_eq!(answer.headers()["docker-content-digest"], manifest.to_string().as_str());
    assert_eq!(Digest::of(&answer.bytes().await.unwrap()), manifest);

    let answer = ask(Method::HEAD, &format!("/v2/demo/hello/blobs/{wasm}"), Some(TOKEN)).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["content-length"], "200000");
    assert_eq!(ask(Method::GET, "/v2/", Some(TOKEN)).await.status(), StatusCode::OK);

    for (range, status, content_range, length) in [
        ("bytes=199990-", StatusCode::PARTIAL_CONTENT, Some("bytes 199990-199999/200000"), 10),
        ("bytes=4-7", StatusCode::PARTIAL_CONTENT, Some("bytes 4-7/200000"), 4),
        ("bytes=199999-999999", StatusCode::PARTIAL_CONTENT, Some("bytes 199999-199999/200000"), 1),
        ("bytes=200000-", StatusCode::RANGE_NOT_SATISFIABLE, Some("bytes */200000"), 0),
        ("bytes=0-1,5-6", StatusCode::OK, None, 200_000),
    ] {
        let request = http.get(format!("{}/v2/demo/hello/blobs/{wasm}", source.url)).bearer_auth(TOKEN);
        let answer = request.header("range", range).send().await.unwrap();
        assert_eq!(answer.status(), status, "{range}");
        let found = answer.headers().get("content-range").map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(found.as_deref(), content_range, "{range}");
        let body = answer.bytes().await.unwrap();
        assert_eq!(body.len(), length, "{range}");
        assert!(range != "bytes=4-7" || body == "wasm");
    }

    let none = Digest::of(b"nothing");
    for (path, token, status, code) in [
        ("/v2/".to_owned(), None, StatusCode::UNAUTHORIZED, "UNAUTHORIZED"),
        (format!("/v2/demo/hello/manifests/{manifest}"), Some("guess"), StatusCode::UNAUTHORIZED, "UNAUTHORIZED"),
        (format!("/v2/other/manifests/{manifest}"), Some(TOKEN), StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
        (format!("/v2/other/blobs/{wasm}"), Some(TOKEN), StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
        (format!("/v2/demo/hello/blobs/{none}"), Some(TOKEN), StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
        ("/v2/demo/hello/manifests/latest".to_owned(), Some(TOKEN), StatusCode::BAD_REQUEST, "DIGEST_INVALID"),
        (format!("/v2/..%2f..%2fetc/blobs/{wasm}"), Some(TOKEN), StatusCode::BAD_REQUEST, "NAME_INVALID"),
        ("/v2/demo/hello/tags/list".to_owned(), Some(TOKEN), StatusCode::NOT_FOUND, "UNSUPPORTED"),
    ] {
        let answer = ask(Method::GET, &path, token).await;
        assert_eq!(answer.status(), status, "{path}");
        let body: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        assert_eq!(body["errors"][0]["code"], code, "{path}: {body}");
    }
}
