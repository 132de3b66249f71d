//! What comes back, and what the next life of the agent finds.

use std::time::{Duration, Instant};

use runtime::{Condition, Runtime, RuntimeError};
use testkit::{DockerEngine, wait_for};

use crate::node::{Node, Wanted, call, failure};

const SLEEP: &str = "services: { web: { image: 'one:1', command: [sleep, '1000'], init: true } }";

fn web(engine: &DockerEngine) -> String {
    engine.docker(&["ps", "--all", "--quiet", "--filter", "label=com.docker.compose.service=web"]).unwrap()
}

pub async fn a_container_that_is_killed_or_removed_comes_back_and_is_reported(engine: &mut DockerEngine) {
    let node = Node::new(engine).await;
    let process = |container: &str| {
        let pid = engine.docker(&["inspect", "--format", "{{.State.Pid}}", container]);
        pid.filter(|pid| pid != "0")
    };
    // Each with a workload of its own: a second end in quick succession is followed by a pause.
    let [killed, removed] = ["9db79949-86fb-5e45-910d-8a83dd7391cc", "9db79949-86fb-5e45-910d-8a83dd7391cd"];
    for (deployment, arguments) in [(killed, &["kill"][..]), (removed, &["rm", "--force"])] {
        let workload = node.workload(&Wanted { deployment, compose: SLEEP, ..Wanted::default() }).await;
        node.apply(&workload).await;
        node.is_up(&workload).await;
        let (container, changed) = (web(engine), node.runtime.changed());
        let before = process(&container).unwrap();
        let begin = Instant::now();
        engine.docker(&[arguments, &[&container]].concat()).unwrap();
        let command = begin.elapsed();
        wait_for("the container to come back", async || {
            process(&web(engine)).filter(|pid| *pid != before).map(|_| ()).ok_or("away")
        })
        .await;
        let away = begin.elapsed();
        // The looks of the test itself, two commands each, are in it.
        println!("docker {}: back after {away:?}; the command itself took {command:?}", arguments.join(" "));
        tokio::time::timeout(Duration::from_secs(10), changed.notified()).await.expect("the agent is told");
        let back = node.sees(&workload.id, "the restart to be counted", |it| it.restarts == 1 && it.condition.is_up());
        assert_eq!(back.await.digest, workload.digest);
        node.remove(&workload.id).await;
    }
}

pub async fn a_crash_loop_is_not_shown_as_up(engine: &mut DockerEngine) {
    let node = Node::new(engine).await;
    let compose = "services: { web: { image: 'one:1', command: [sh, -c, 'echo I fall; exit 4'] } }";
    let workload = node.workload(&Wanted { compose, ..Wanted::default() }).await;
    node.apply(&workload).await;
    let failed = node.sees(&workload.id, "three rounds", |it| it.restarts >= 3).await;
    let (code, message) = failure(&failed.condition).unwrap_or_else(|| panic!("{failed:?}"));
    assert!(code == "exited" && message.contains("exit code 4") && message.contains("I fall"), "{message}");
    let again = node.sees(&workload.id, "five rounds", |it| it.restarts >= 5).await;
    assert_eq!(again.condition, failed.condition, "each round would be news otherwise");
    node.remove(&workload.id).await;
}

pub async fn the_next_life_of_the_agent_finishes_what_was_begun(engine: &mut DockerEngine) {
    let mut node = Node::new(engine).await;
    let workload = node.workload(&Wanted { compose: SLEEP, ..Wanted::default() }).await;
    node.apply(&workload).await;
    node.is_up(&workload).await;
    let container = web(engine);
    node.begin_anew().await;
    node.is_up(&workload).await;
    assert_eq!(web(engine), container, "what runs is left untouched");
    // Killed after the new revision came into force and before Compose was done: the file says so.
    let in_force = |node: &Node| {
        let folder = format!("docker/workloads/{}.{}/in-force.json", workload.id.deployment, workload.id.component);
        node.folder.path().join(folder)
    };
    let written = std::fs::read_to_string(in_force(&node)).unwrap();
    std::fs::write(in_force(&node), written.replace("\"applied\": true", "\"applied\": false")).unwrap();
    engine.docker(&["rm", "--force", &container]).unwrap();
    node.begin_anew().await;
    node.is_up(&workload).await;
    wait_for("the next life to have written that", async || {
        let written = std::fs::read_to_string(in_force(&node)).unwrap();
        if written.contains("\"applied\": true") { Ok(()) } else { Err(written) }
    })
    .await;
    // What was only prepared is forgotten.
    let compose = SLEEP.replace("one:1", "two:1");
    let other = node.workload(&Wanted { compose: &compose, images: &["two"], ..Wanted::default() }).await;
    node.runtime.prepare(other, call()).await.unwrap();
    let revisions = in_force(&node).with_file_name("revisions");
    let images = || engine.docker(&["images", "--quiet"]).unwrap().lines().count();
    assert_eq!((revisions.read_dir().unwrap().count(), images()), (2, 2));
    node.begin_anew().await;
    assert_eq!(revisions.read_dir().unwrap().count(), 1);
    wait_for("its image to go", async || if images() == 1 { Ok(()) } else { Err(images()) }).await;
    node.remove(&workload.id).await;
}

pub async fn what_was_suspended_is_started_by_the_next_life(engine: &mut DockerEngine) {
    let mut node = Node::new(engine).await;
    let workload = node.workload(&Wanted { compose: SLEEP, ..Wanted::default() }).await;
    node.apply(&workload).await;
    node.is_up(&workload).await;
    node.runtime.suspend().await.unwrap();
    assert_eq!(engine.docker(&["ps", "--quiet"]).unwrap(), "");
    let stopped = web(engine);
    node.begin_anew().await;
    node.is_up(&workload).await;
    assert_eq!(web(engine), stopped);
    node.remove(&workload.id).await;
}

pub async fn an_engine_that_stops_makes_blind_and_takes_nothing_away(engine: &mut DockerEngine) {
    let node = Node::new(engine).await;
    let empty = Node::new(engine).await;
    let workload = node.workload(&Wanted { compose: SLEEP, ..Wanted::default() }).await;
    node.apply(&workload).await;
    node.is_up(&workload).await;
    engine.stop();
    assert!(node.runtime.detect().await.is_err());
    let blind = node.runtime.observe().await.unwrap_err();
    assert!(matches!(blind, RuntimeError::Io { .. }), "{blind}");
    // A node with nothing in the engine has nothing to look for there.
    assert!(empty.runtime.observe().await.unwrap().is_empty());
    let failed = node.runtime.remove(workload.id.clone(), call()).await;
    assert!(failed.is_err(), "it stays until it is really gone");
    engine.restart();
    node.runtime.detect().await.unwrap();
    assert_eq!(node.is_up(&workload).await.condition, Condition::Running { endpoint: None });
    node.remove(&workload.id).await;
}
