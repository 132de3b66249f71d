//! Pulls from a real registry, with and without a login, and over lines that break.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod images;
mod lines;
mod logins;
mod redirects;
mod referrers;
mod tokens;

use std::{net::SocketAddr, sync::Arc};

use axum::Router;
use margo::Digest;
use oci::{AnyManifest, ArtifactManifest, Client, ContentStore, Descriptor, Index, Platform, RepositoryName, media};
use tempfile::TempDir;
use testkit::DockerRegistry;
use tokio::net::TcpListener;

/// An image as it was pushed.
struct Image {
    name: RepositoryName,
    manifest: Digest,
    layers: Vec<Digest>,
}

/// Content that does not repeat itself, so that no part of it stands for another.
fn content(seed: u8, size: usize) -> Vec<u8> {
    let mut state = u64::from(seed) + 1;
    let mut next = || {
        // The generator of xorshift64.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..size).map(|_| next()).collect()
}

/// Pushes an image with layers of these sizes.
async fn push(registry: &DockerRegistry, name: &str, sizes: &[usize], authorization: Option<&str>) -> Image {
    let mut layers = Vec::new();
    for (seed, size) in sizes.iter().enumerate() {
        let content = content(seed as u8, *size);
        let digest = registry.push_blob(name, &content, authorization).await;
        layers.push(Descriptor::new("application/vnd.oci.image.layer.v1.tar", digest, *size as u64));
    }
    registry.push_blob(name, media::EMPTY_CONFIG, authorization).await;
    let digests = layers.iter().map(|layer| layer.digest).collect();
    let manifest = ArtifactManifest::artifact("application/vnd.example.image", layers).to_json();
    let manifest = registry.push_manifest(name, None, media::MANIFEST, &manifest, authorization).await;
    Image { name: name.parse().unwrap(), manifest, layers: digests }
}

async fn empty() -> (TempDir, ContentStore) {
    let folder = TempDir::new().unwrap();
    let store = ContentStore::open(folder.path()).await.unwrap();
    (folder, store)
}

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

fn blob_path(image: &Image, layer: usize) -> String {
    format!("/v2/{}/blobs/{}", image.name, image.layers[layer])
}
