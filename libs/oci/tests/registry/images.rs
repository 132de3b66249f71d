//! Images for several platforms, and what is too large.

use oci::{Limits, PullError, RegistryError, StoreError};

use super::*;

fn platform(text: &str) -> Platform {
    text.parse().unwrap()
}

/// An index with an image for each of two platforms.
async fn push_index(registry: &DockerRegistry) -> (Digest, Image, Image) {
    let (amd, arm) = (push(registry, "multi", &[10], None).await, push(registry, "multi", &[11, 12], None).await);
    let listed = |image: &Image, text: &str| Descriptor {
        platform: Some(platform(text)),
        ..Descriptor::new(media::MANIFEST, image.manifest, 1_000)
    };
    let manifests = vec![listed(&amd, "linux/amd64"), listed(&arm, "linux/arm64")];
    let index = Index { schema_version: 2, media_type: Some(media::INDEX.to_owned()), manifests };
    let index = serde_json::to_vec(&index).unwrap();
    (registry.push_manifest("multi", None, media::INDEX, &index, None).await, amd, arm)
}

#[tokio::test]
async fn of_an_index_only_what_the_platform_needs_is_pulled() {
    let registry = DockerRegistry::start().await;
    let (index, amd, arm) = push_index(&registry).await;
    let (_folder, store) = empty().await;
    let client = Client::of_registry(&registry.url(), None, None, None).unwrap();
    let held_as = "registry.example/multi".parse().unwrap();
    let pull = |platforms: Vec<Platform>| {
        let (client, store, name, held_as) = (&client, &store, &amd.name, &held_as);
        async move { client.pull_for(store, name, held_as, &index, &platforms).await }
    };
    let nothing = pull(vec![platform("linux/riscv64")]).await.unwrap_err();
    assert!(matches!(nothing, PullError::Registry(RegistryError::NoPlatform { .. })), "{nothing}");

    assert!(pull(vec![platform("linux/arm64/v8")]).await.unwrap() > 23);
    assert!(store.holds(&held_as, &index).await.unwrap());
    assert!(store.holds(&held_as, &arm.manifest).await.unwrap());
    assert!(!store.contains(&amd.manifest) && !store.contains(&amd.layers[0]));
    assert!(matches!(store.any_manifest(&index).await.unwrap(), AnyManifest::Index(_)));
    assert_eq!(pull(vec![platform("linux/arm64/v8")]).await.unwrap(), 0);

    pull(vec![platform("linux/amd64"), platform("linux/arm64")]).await.unwrap();
    assert!(store.holds(&held_as, &amd.manifest).await.unwrap());
}

#[tokio::test]
async fn what_is_larger_than_the_limit_or_the_disk_is_not_begun() {
    let registry = DockerRegistry::start().await;
    let image = push(&registry, "large", &[5_000, 6_000], None).await;
    let (folder, store) = empty().await;
    let client = Client::of_registry(&registry.url(), None, None, None).unwrap();
    let pull = async |limits: Limits| {
        let client = client.clone().limited(limits);
        client.pull(&store, &image.name, &image.manifest).await
    };
    let large = pull(Limits { artifact: 11_001, ..Limits::default() }).await.unwrap_err();
    assert!(matches!(large, PullError::Store(StoreError::TooLarge { limit: 11_001 })), "{large}");
    let full = pull(Limits { reserve: 1 << 60, ..Limits::default() }).await.unwrap_err();
    assert!(matches!(full, PullError::Store(StoreError::NoSpace { .. })), "{full}");
    assert!(registry.requests(&blob_path(&image, 0)).await.is_empty());
    assert_eq!(std::fs::read_dir(folder.path().join("partial")).unwrap().count(), 0);
    // One manifest of a few hundred bytes, two layers and the empty config.
    pull(Limits { artifact: 11_002, ..Limits::default() }).await.unwrap();
}

#[tokio::test]
async fn a_layer_that_several_artifacts_share_comes_once_however_many_pull_it() {
    let registry = DockerRegistry::start().await;
    let (folder, one) = empty().await;
    // Each opening has locks of its own, as each process has.
    let other = ContentStore::open(folder.path()).await.unwrap();
    let image = push(&registry, "shared", &[3_000_000, 10], None).await;
    let second = push(&registry, "shared", &[3_000_000], None).await;
    let client = Client::of_registry(&registry.url(), None, None, None).unwrap();
    let (first, same, third) = tokio::join!(
        client.pull(&one, &image.name, &image.manifest),
        client.pull(&other, &image.name, &image.manifest),
        client.pull(&other, &image.name, &second.manifest),
    );
    let pulled = first.unwrap() + same.unwrap() + third.unwrap();
    for digest in [image.layers[0], image.layers[1], image.manifest, second.manifest] {
        assert_eq!(registry.requests(&digest.to_string()).await.iter().filter(|line| *line == "GET 200").count(), 1);
    }
    assert!((3_000_012..3_010_000).contains(&pulled), "{pulled}");
    assert!(other.holds(&image.name, &image.manifest).await.unwrap());
    assert!(one.holds(&image.name, &second.manifest).await.unwrap());
}
