//! What a workload has to do with others on the same engine.

use runtime::Runtime;
use testkit::DockerEngine;

use crate::node::{Node, Wanted, call};

const SLEEP: &str = "services: { web: { image: 'one:1', command: [sleep, '1000'], init: true } }";

pub async fn two_workloads_with_the_same_services_run_side_by_side(engine: &mut DockerEngine) {
    let (node, other_node) = (Node::new(engine).await, Node::new(engine).await);
    let page = |port: u16| {
        format!(
            "services: {{ web: {{ image: 'one:1', command: [httpd, -f, -p, '80', -h, /www], init: true, \
             ports: ['{port}:80'] }} }}\n"
        )
    };
    let deployments = ["9db79949-86fb-5e45-910d-8a83dd7391cc", "9db79949-86fb-5e45-910d-8a83dd7391cd"];
    let texts = [page(8081), page(8082)];
    let mut workloads = Vec::new();
    for (deployment, compose) in deployments.iter().zip(&texts) {
        workloads.push(node.workload(&Wanted { deployment, compose, ..Wanted::default() }).await);
    }
    let third = "00000000-0000-4000-8000-000000000001";
    let third = other_node.workload(&Wanted { deployment: third, compose: SLEEP, ..Wanted::default() }).await;
    other_node.apply(&third).await;
    for workload in &workloads {
        node.apply(workload).await;
    }
    for workload in &workloads {
        node.is_up(workload).await;
    }
    for address in ["127.0.0.1:8081", "127.0.0.1:8082"] {
        assert_eq!(engine.get(address).as_deref(), Some("one"));
    }
    // Each agent sees its own alone.
    assert_eq!(node.runtime.observe().await.unwrap().len(), 2);
    assert_eq!(other_node.runtime.observe().await.unwrap().len(), 1);
    node.remove(&workloads[0].id).await;
    node.is_up(&workloads[1]).await;
    assert_eq!(engine.get("127.0.0.1:8082").as_deref(), Some("one"), "the image that both use stays");
    node.remove(&workloads[1].id).await;
    other_node.is_up(&third).await;
    other_node.remove(&third.id).await;
}

pub async fn what_is_not_ours_is_never_touched(engine: &mut DockerEngine) {
    let node = Node::new(engine).await;
    let workload = node.workload(&Wanted { compose: SLEEP, ..Wanted::default() }).await;
    node.apply(&workload).await;
    node.is_up(&workload).await;
    let image = engine.docker(&["images", "--format", "{{.Repository}}:{{.Tag}}"]).unwrap();
    // Somebody's own container of our image, network and volume, beside ours.
    engine.docker(&["tag", &image, "theirs:1"]).unwrap();
    let theirs = engine.docker(&["run", "--detach", "--init", "--name", "theirs", &image, "sleep", "1000"]).unwrap();
    engine.docker(&["network", "create", "theirs"]).unwrap();
    engine.docker(&["volume", "create", "theirs"]).unwrap();
    node.remove(&workload.id).await;
    let left = |arguments: &[&str]| engine.docker(arguments).unwrap();
    assert_eq!(left(&["ps", "--no-trunc", "--quiet"]), theirs);
    assert!(left(&["images", "--format", "{{.Repository}}"]).contains("theirs"));
    assert!(left(&["network", "ls", "--format", "{{.Name}}"]).lines().any(|name| name == "theirs"));
    assert_eq!(left(&["volume", "ls", "--quiet"]), "theirs");
    for arguments in [&["rm", "--force", "theirs"][..], &["network", "rm", "theirs"], &["volume", "rm", "theirs"]] {
        engine.docker(arguments).unwrap();
    }
    // What they use of ours under our name alone goes with our next removal, when they use it no more. What they have named stays.
    let named = || left(&["images", "--format", "{{.Repository}}:{{.Tag}}"]);
    let other = "services: { web: { image: 'two:1', command: [sleep, '1000'], init: true } }";
    let other = node.workload(&Wanted { compose: other, images: &["two"], ..Wanted::default() }).await;
    node.apply(&other).await;
    let used = named().lines().find(|name| *name != "theirs:1").unwrap().to_owned();
    engine.docker(&["run", "--detach", "--init", "--name", "user", &used, "sleep", "1000"]).unwrap();
    node.remove(&other.id).await;
    assert!(named().contains(&used));
    engine.docker(&["rm", "--force", "user"]).unwrap();
    node.apply(&workload).await;
    node.remove(&workload.id).await;
    assert_eq!(named(), "theirs:1");
    engine.docker(&["rmi", "theirs:1"]).unwrap();
}

/// A workload that is about to run is not robbed of its image by the end of another one.
pub async fn an_image_that_was_prepared_stays_when_another_workload_goes(engine: &mut DockerEngine) {
    let node = Node::new(engine).await;
    let going = node.workload(&Wanted { compose: SLEEP, ..Wanted::default() }).await;
    node.apply(&going).await;
    let deployment = "9db79949-86fb-5e45-910d-8a83dd7391cd";
    let coming = node.workload(&Wanted { deployment, compose: SLEEP, ..Wanted::default() }).await;
    node.runtime.prepare(coming.clone(), call()).await.unwrap();
    node.remove(&going.id).await;
    assert_eq!(engine.docker(&["images", "--quiet"]).unwrap().lines().count(), 1);
    node.runtime.apply(coming.clone(), call()).await.unwrap();
    node.is_up(&coming).await;
    node.remove(&coming.id).await;
    assert_eq!(engine.docker(&["images", "--quiet"]).unwrap(), "");
}

/// The name in the file is one that a registry could serve; no registry is asked, and what the lock does not name never runs.
pub async fn images_are_never_pulled(engine: &mut DockerEngine) {
    let node = Node::new(engine).await;
    let compose = SLEEP.replace("image: 'one:1'", "image: 'one:1', pull_policy: always");
    let (workload, blobs) = node.foreseen(&Wanted { compose: &compose, ..Wanted::default() }).await;
    let archive = &workload.artifact.manifest.layers[0].digest;
    node.content.put(&blobs[archive]).await.unwrap();
    let missing = node.runtime.apply(workload.clone(), call()).await.unwrap_err();
    assert!(missing.to_string().contains("image"), "{missing}");
    assert_eq!(engine.docker(&["ps", "--all", "--quiet"]).unwrap(), "");
    let workload = node.workload(&Wanted { compose: &compose, ..Wanted::default() }).await;
    node.apply(&workload).await;
    node.is_up(&workload).await;
    // Somebody removes the image: it is named again, and comes back with the content.
    node.remove(&workload.id).await;
    assert_eq!(engine.docker(&["images", "--quiet"]).unwrap(), "");
    assert!(node.runtime.needs(&workload).await.unwrap().len() > 1);
    node.apply(&workload).await;
    node.is_up(&workload).await;
    assert_eq!(node.runtime.needs(&workload).await.unwrap().len(), 1, "what the engine has is not fetched");
    node.remove(&workload.id).await;
}
