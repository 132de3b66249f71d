//! The cache of compiled code: what is in it runs outside the sandbox, so only what this node made is loaded.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use margo::Digest;
use runtime::Runtime;
use serde_json::json;
use testkit::wait_for;

use crate::{
    alone::Workload,
    component::guest,
    get,
    supervised::{Node, call, id},
};

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

#[tokio::test]
async fn what_another_version_of_the_runner_compiled_goes_when_this_one_has_compiled() {
    let hello = Workload::hello();
    let code = compiled(&hello).await;
    let component = hello.spec.artifact_digest.hex();
    for name in [format!("{component}-0123456789abcdef.cwasm"), format!("{component}-0123456789abcdef.cwasm.mac")] {
        fs::write(hello.spec.cache.join(name), "of another version").unwrap();
    }
    fs::remove_file(&code).unwrap();
    assert_eq!(compiled(&hello).await, code);
    let names: Vec<_> = fs::read_dir(&hello.spec.cache).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[tokio::test]
async fn code_that_no_workload_needs_any_more_goes_and_that_of_the_way_back_stays() {
    let node = Node::new().await;
    let cache = node.folder.path().join("cache");
    let (hello, trap, spin) = (node.component.clone(), guest("trap"), guest("spin"));
    let held = || -> Vec<String> {
        let names = fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut code: Vec<_> = names.filter(|name| name.ends_with(".cwasm")).collect();
        code.sort();
        code
    };
    let wanted = |components: &[&Vec<u8>]| -> Vec<String> {
        let mut digests: Vec<_> = components.iter().map(|component| Digest::of(component).hex()).collect();
        digests.sort();
        digests
    };
    let holds = async |components: &[&Vec<u8>]| {
        let wanted = wanted(components);
        wait_for("the cache to hold what is needed", async || {
            let held = held();
            let is_it = held.len() == wanted.len() && held.iter().zip(&wanted).all(|(name, hex)| name.starts_with(hex));
            if is_it { Ok(()) } else { Err((held, wanted.clone())) }
        })
        .await;
    };
    let settings = json!({ "http": { "port": 8080 } });
    let agent = node.agent().await;
    fs::write(cache.join("not-ours"), "").unwrap();
    agent.apply(node.workload("first"), call()).await.unwrap();
    holds(&[&hello]).await;
    agent.apply(node.made_of("second", &trap, settings.clone()).await, call()).await.unwrap();
    holds(&[&hello, &trap]).await;
    // The next life of the agent looks before anything else.
    drop(agent);
    let agent = node.agent().await;
    assert_eq!(held().len(), 2, "the way back to the first one needs no compiler");
    agent.apply(node.made_of("third", &spin, settings).await, call()).await.unwrap();
    holds(&[&trap, &spin]).await;
    agent.remove(id(), call()).await.unwrap();
    holds(&[]).await;
    assert!(cache.join("not-ours").exists() && fs::read_dir(&cache).unwrap().count() == 1);
}
