//! The cache of compiled code: what is in it runs outside the sandbox, so only what this node made is loaded.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::{alone::Workload, component::guest, get};

/// The code in the cache of this workload.
fn code(workload: &Workload) -> PathBuf {
    let entries = fs::read_dir(&workload.spec.cache).unwrap().map(|entry| entry.unwrap().path());
    let mut code = entries.filter(|path| path.extension().is_some_and(|extension| extension == "cwasm"));
    let found = code.next().expect("compiled code");
    assert_eq!(code.next(), None);
    found
}

fn mac(code: &Path) -> PathBuf {
    code.with_added_extension("mac")
}

fn made(path: &Path) -> SystemTime {
    fs::metadata(path).unwrap().modified().unwrap()
}

/// Compiles this component, and returns the code.
async fn compiled(workload: &Workload) -> PathBuf {
    workload.start().await.kill().await.unwrap();
    code(workload)
}

#[tokio::test]
async fn a_component_is_compiled_once_and_again_when_the_cache_is_damaged() {
    let hello = Workload::hello();
    let code = compiled(&hello).await;
    let first = made(&code);
    assert_eq!((compiled(&hello).await, made(&code)), (code.clone(), first));

    // As a power cut may leave them.
    for file in [code.clone(), mac(&code)] {
        fs::write(&file, b"half").unwrap();
        compiled(&hello).await;
        assert!(fs::read(&file).unwrap() != b"half", "{}", file.display());
        fs::remove_file(&file).unwrap();
        let mut child = hello.start().await;
        assert_eq!(get(&hello.url()).await.unwrap().0, 200);
        child.kill().await.unwrap();
    }
}

#[tokio::test]
async fn code_that_this_node_did_not_make_for_this_component_is_not_loaded() {
    let hello = Workload::hello();
    let own = compiled(&hello).await;
    let good = fs::read(&own).unwrap();
    // Whole and signed, but by another node, for another component.
    let elsewhere = Workload::new(&guest("trap"));
    fs::write(&elsewhere.spec.cache_key, [8; 32]).unwrap();
    let foreign = compiled(&elsewhere).await;
    // By this node, for another component.
    let mut other = Workload::new(&guest("trap"));
    other.spec.cache_key = hello.spec.cache_key.clone();
    let renamed = compiled(&other).await;

    let plant = |from: &Path| {
        fs::copy(from, &own).unwrap();
        fs::copy(mac(from), mac(&own)).unwrap();
    };
    for from in [&foreign, &renamed] {
        plant(from);
        assert!(fs::read(&own).unwrap() != good);
        let mut child = hello.start().await;
        assert_eq!(get(&hello.url()).await.unwrap().0, 200, "hello answers, and not what was planted");
        child.kill().await.unwrap();
        assert!(fs::read(&own).unwrap() == good, "it was compiled anew");
    }
    // One bit of the code itself.
    let mut changed = good.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    fs::write(&own, &changed).unwrap();
    compiled(&hello).await;
    assert!(fs::read(&own).unwrap() == good);
}

#[tokio::test]
async fn without_the_key_nothing_is_loaded_or_made() {
    let hello = Workload::hello();
    compiled(&hello).await;
    for key in [&b""[..], &[7; 31]] {
        fs::write(&hello.spec.cache_key, key).unwrap();
        let words = hello.refused().await;
        assert!(words.message.contains("cache.key has not 32 bytes"), "{}", words.message);
    }
    fs::remove_file(&hello.spec.cache_key).unwrap();
    assert!(hello.refused().await.message.contains("cache.key"));
}
