//! Lines that break, and processes that end half way.

use std::fs;

use oci::{Limits, PullError};
use testkit::{Proxy, wait_for};

use super::*;

/// What each connection carries before it breaks.
const CUT: u64 = 300_000;

const SIZE: usize = 2_000_000;

async fn behind_bad_line() -> (DockerRegistry, Proxy, Image) {
    let registry = DockerRegistry::start().await;
    let image = push(&registry, "large", &[SIZE], None).await;
    let proxy = Proxy::start_cutting(&registry.name(), CUT).await;
    (registry, proxy, image)
}

fn client(proxy: &Proxy, limits: Limits) -> Client {
    Client::of_registry(&format!("http://{}", proxy.address()), None, None, None).unwrap().limited(limits)
}

#[tokio::test]
async fn a_blob_that_outlasts_its_connections_arrives_and_no_byte_comes_twice() {
    let (registry, proxy, image) = behind_bad_line().await;
    let (_folder, store) = empty().await;
    let pulled = client(&proxy, Limits::default()).pull(&store, &image.name, &image.manifest).await.unwrap();
    let manifest = fs::metadata(store.path(&image.manifest)).unwrap().len();
    assert_eq!(pulled, SIZE as u64 + media::EMPTY_CONFIG.len() as u64 + manifest);
    let asked = registry.requests(&blob_path(&image, 0)).await;
    assert!(asked.len() > SIZE / CUT as usize, "{asked:?}");
    assert!(asked.iter().skip(1).all(|line| line == "GET 206"), "{asked:?}");
    store.verified_path(&image.layers[0]).await.unwrap();
}

#[tokio::test]
async fn what_has_come_of_a_blob_survives_the_process_and_is_verified_with_the_rest() {
    let (registry, proxy, image) = behind_bad_line().await;
    let (folder, mut store) = empty().await;
    let one_try = Limits { attempts: 1, ..Limits::default() };
    let (mut lives, mut last) = (0, 0);
    loop {
        lives += 1;
        let pulled = client(&proxy, one_try).pull(&store, &image.name, &image.manifest).await;
        match pulled {
            Ok(_) => break,
            Err(PullError::Transport(_)) => {}
            Err(error) => panic!("{error}"),
        }
        let partial = folder.path().join("partial").join(image.layers[0].hex());
        let held = fs::metadata(partial).map_or(0, |file| file.len());
        assert!(held > last, "{held} bytes after {last}");
        last = held;
        drop(store);
        store = ContentStore::open(folder.path()).await.unwrap();
    }
    assert!(lives > SIZE / CUT as usize, "{lives}");
    assert_eq!(fs::read_dir(folder.path().join("partial")).unwrap().count(), 0);
    let asked = registry.requests(&blob_path(&image, 0)).await;
    assert_eq!(asked.iter().filter(|line| *line == "GET 200").count(), 1, "{asked:?}");
    assert!(store.holds(&image.name, &image.manifest).await.unwrap());
    store.verified_path(&image.layers[0]).await.unwrap();
}

#[tokio::test]
async fn a_part_that_was_damaged_on_the_disk_is_pulled_again() {
    let registry = DockerRegistry::start().await;
    let image = push(&registry, "large", &[SIZE], None).await;
    let (folder, store) = empty().await;
    let partial = folder.path().join("partial").join(image.layers[0].hex());
    for damaged in [vec![0; 1_000], vec![0; SIZE], vec![0; SIZE + 1]] {
        fs::write(&partial, damaged).unwrap();
        let client = Client::of_registry(&registry.url(), None, None, None).unwrap();
        client.pull(&store, &image.name, &image.manifest).await.unwrap();
        store.verified_path(&image.layers[0]).await.unwrap();
        fs::remove_file(store.path(&image.layers[0])).unwrap();
    }
}

#[tokio::test]
async fn a_blob_of_which_only_the_check_was_missing_is_not_pulled_again() {
    let registry = DockerRegistry::start().await;
    let image = push(&registry, "large", &[SIZE], None).await;
    let (folder, store) = empty().await;
    fs::write(folder.path().join("partial").join(image.layers[0].hex()), content(0, SIZE)).unwrap();
    let client = Client::of_registry(&registry.url(), None, None, None).unwrap();
    client.pull(&store, &image.name, &image.manifest).await.unwrap();
    assert_eq!(registry.requests(&blob_path(&image, 0)).await, ["GET 416"]);
    store.verified_path(&image.layers[0]).await.unwrap();
}

#[tokio::test]
async fn a_server_that_ends_every_connection_at_once_is_given_up() {
    let registry = DockerRegistry::start().await;
    let image = push(&registry, "large", &[SIZE], None).await;
    let proxy = Proxy::start_cutting(&registry.name(), 5_000).await;
    let (_folder, store) = empty().await;
    let client = client(&proxy, Limits { attempts: 3, ..Limits::default() });
    client.pull_manifest(&store, &image.name, &image.manifest).await.unwrap();
    let error = client.pull(&store, &image.name, &image.manifest).await.unwrap_err();
    assert!(matches!(error, PullError::Transport(_)), "{error}");
    // The registry takes note of a request that was cut when it sees the end of the connection.
    let asked = wait_for("the registry to know of three requests", async || {
        let asked = registry.requests(&blob_path(&image, 0)).await;
        if asked.len() < 3 { Err(asked) } else { Ok(asked) }
    });
    assert_eq!(asked.await, ["GET 200", "GET 206", "GET 206"]);
}
