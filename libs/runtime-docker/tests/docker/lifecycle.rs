//! What becomes of one workload.

use std::time::Duration;

use runtime::{Condition, Runtime, RuntimeError, Stats};
use serde_json::json;
use testkit::{DockerEngine, wait_for};

use crate::node::{Node, Wanted, call, failure};

/// A web server with a health check, and one that only runs.
const SHOP: &str = "
services:
  web:
    image: one:1
    command: [httpd, -f, -p, '80', -h, /www]
    init: true
    ports: ['8081:80']
    environment: { GREETING: '${GREETING:-none}', PLAIN: 'a$$b' }
    env_file: web.env
    healthcheck: { test: [CMD, /bin/busybox, wget, -q, -O, /dev/null, 'http://127.0.0.1/'], interval: 1s }
  side:
    image: one:1
    command: [sleep, '1000']
    init: true
    depends_on: [web]
    volumes: ['/cache']
";

fn containers(engine: &DockerEngine) -> String {
    engine.docker(&["ps", "--all", "--no-trunc", "--format", "{{.ID}} {{.Names}} {{.Status}}"]).unwrap()
}

pub async fn a_workload_is_applied_updated_and_removed_and_leaves_nothing(engine: &mut DockerEngine) {
    let node = Node::new(engine).await;
    node.runtime.detect().await.unwrap();
    assert!(node.runtime.observe().await.unwrap().is_empty());
    let wanted = Wanted { compose: SHOP, values: &[("GREETING", "it's $me")], ..Wanted::default() };
    let first = node.workload(&wanted).await;
    assert_eq!(node.runtime.ports(&first).into_iter().collect::<Vec<_>>(), [8081]);
    // Prepared, it has its image in the engine and no container.
    node.runtime.prepare(first.clone(), call()).await.unwrap();
    assert!(engine.docker(&["images", "--format", "{{.Repository}}"]).unwrap().contains("edgewright.local/image"));
    assert_eq!((containers(engine).as_str(), node.observed(&first.id).await), ("", None));
    node.runtime.apply(first.clone(), call()).await.unwrap();
    let up = node.is_up(&first).await;
    let parts: Vec<_> = up.parts.iter().map(|part| (part.name.as_str(), part.condition.is_up())).collect();
    assert_eq!(parts, [("side-1", true), ("web-1", true)]);
    assert_eq!((&up.condition, up.restarts), (&Condition::Running { endpoint: Some("127.0.0.1:8081".into()) }, 0));
    assert_eq!(engine.get("127.0.0.1:8081").as_deref(), Some("one"));
    let ids = |containers: &str, name: &str| {
        let line = containers.lines().find(|line| line.contains(name)).unwrap();
        line.split(' ').next().unwrap().to_owned()
    };
    let before = containers(engine);
    let set = engine.docker(&["inspect", "--format", "{{json .Config.Env}}", &ids(&before, "-web-1")]).unwrap();
    // DEV-33 with the last one.
    let collector = "HTTP_OTEL_EXPORTER_OTLP_ENDPOINT=http://192.0.2.7:4318";
    for variable in ["GREETING=it's $me", "PLAIN=a$b", "FROM_FILE=yes", collector] {
        assert!(set.contains(variable), "{variable}: {set}");
    }
    let shown = engine.docker(&["exec", &ids(&before, "-web-1"), "sh", "-c", "cat $OTEL_EXPORTER_OTLP_CERTIFICATE"]);
    assert_eq!(shown.as_deref(), Some("a certificate"));

    // The same again changes nothing.
    node.apply(&first).await;
    assert_eq!(ids(&containers(engine), "-web-1"), ids(&before, "-web-1"));

    // An update replaces what changed and leaves alone what did not. Everything that can fail early is done before.
    let text = SHOP.replacen("image: one:1", "image: two:1", 1);
    let second = node.workload(&Wanted { compose: &text, images: &["one", "two"], ..wanted }).await;
    node.runtime.prepare(second.clone(), call()).await.unwrap();
    assert_eq!(
        engine.get("127.0.0.1:8081").as_deref(),
        Some("one"),
        "the old one answers while the new one is prepared"
    );
    node.runtime.apply(second.clone(), call()).await.unwrap();
    node.is_up(&second).await;
    assert_eq!(engine.get("127.0.0.1:8081").as_deref(), Some("two"));
    let after = containers(engine);
    assert_ne!(ids(&after, "-web-1"), ids(&before, "-web-1"));
    assert_eq!(ids(&after, "-side-1"), ids(&before, "-side-1"), "nothing about it has changed");

    // A revision that can never run leaves what runs alone.
    let wrong = SHOP.replace("init: true", "privileged: true");
    let (third, blobs) = node.foreseen(&Wanted { compose: &wrong, ..Wanted::default() }).await;
    for bytes in blobs.values() {
        node.content.put(bytes).await.unwrap();
    }
    let refused = node.runtime.needs(&third).await.unwrap_err();
    assert!(matches!(&refused, RuntimeError::Invalid(rule) if rule.contains("privileged")), "{refused}");
    let refused = node.runtime.apply(third, call()).await.unwrap_err();
    assert!(matches!(refused, RuntimeError::Invalid(_)), "{refused}");
    assert_eq!(node.is_up(&second).await.digest, second.digest);

    node.remove(&second.id).await;
    assert_eq!(containers(engine), "");
    let networks = engine.docker(&["network", "ls", "--quiet", "--filter", "label=dev.edgewright.agent"]).unwrap();
    let volumes = engine.docker(&["volume", "ls", "--quiet"]).unwrap();
    assert_eq!((networks, volumes), (String::new(), String::new()), "also those without a name");
    assert_eq!(engine.docker(&["images", "--quiet", "--all"]).unwrap(), "", "unused images of ours go");
    let workloads = node.folder.path().join("docker/workloads");
    assert_eq!(workloads.read_dir().unwrap().count(), 0);
    node.remove(&second.id).await;
}

pub async fn a_failure_tells_exit_code_and_last_lines(engine: &mut DockerEngine) {
    let node = Node::new(engine).await;
    let compose = "services: { web: { image: 'one:1', restart: 'no', \
                   command: [sh, -c, 'echo first; echo the disk is full >&2; exit 3'] } }";
    let workload = node.workload(&Wanted { compose, ..Wanted::default() }).await;
    node.apply(&workload).await;
    let failed = node.sees(&workload.id, "the failure", |it| failure(&it.condition).is_some()).await;
    let (code, message) = failure(&failed.condition).unwrap();
    assert_eq!(code, "exited");
    assert!(message.contains("exit code 3") && message.contains("the disk is full"), "{message}");
    node.remove(&workload.id).await;

    // What Compose itself refuses is told, too, and tried again until it is told otherwise.
    let compose = "services: { web: { image: 'one:1', command: [sleep, '9'], stop_grace_period: soon } }";
    let workload = node.workload(&Wanted { compose, ..Wanted::default() }).await;
    let refused = node.runtime.apply(workload.clone(), call()).await.unwrap_err();
    assert!(matches!(&refused, RuntimeError::Failed { code, .. } if code == "compose"), "{refused}");
    let failed = node.sees(&workload.id, "the failure", |it| failure(&it.condition).is_some()).await;
    assert!(failure(&failed.condition).unwrap().1.contains("soon"), "{failed:?}");
    node.remove(&workload.id).await;
}

pub async fn volumes_survive_updates_and_go_only_when_they_are_to(engine: &mut DockerEngine) {
    let node = Node::new(engine).await;
    let compose = |command: &str| {
        format!(
            "services: {{ web: {{ image: 'one:1', init: true, command: [sh, -c, '{command}'], volumes: ['data:/data'] }} }}\n\
             volumes: {{ data: {{}} }}\n"
        )
    };
    let write = compose("echo kept >> /data/file; sleep 1000");
    let read = compose("busybox cat /data/file; sleep 1000").replace("busybox cat", "/bin/busybox cat");
    let volumes = || engine.docker(&["volume", "ls", "--quiet"]).unwrap();
    let says_kept = async |id: &runtime::WorkloadId| {
        wait_for("the content of the volume", async || {
            let lines = node.runtime.logs(id.clone(), 10).await.unwrap();
            if lines == ["web-1: kept"] { Ok(()) } else { Err(lines) }
        })
        .await;
    };
    let first = node.workload(&Wanted { compose: &write, ..Wanted::default() }).await;
    node.apply(&first).await;
    node.is_up(&first).await;
    let second = node.workload(&Wanted { compose: &read, ..Wanted::default() }).await;
    node.apply(&second).await;
    node.is_up(&second).await;
    says_kept(&second.id).await;
    // Removing the workload leaves the data, and the same deployment finds it again.
    node.remove(&second.id).await;
    assert_eq!(volumes().lines().count(), 1, "{}", volumes());
    let delete = json!({ "volumes": "delete" });
    let third = node.workload(&Wanted { compose: &read, settings: delete, ..Wanted::default() }).await;
    node.apply(&third).await;
    node.is_up(&third).await;
    says_kept(&third.id).await;
    node.remove(&third.id).await;
    assert_eq!(volumes(), "");
    let wrong = node.foreseen(&Wanted { compose: &read, settings: json!({ "volume": 1 }), ..Wanted::default() }).await;
    for bytes in wrong.1.values() {
        node.content.put(bytes).await.unwrap();
    }
    assert!(matches!(node.runtime.needs(&wrong.0).await, Err(RuntimeError::Invalid(_))));
}

pub async fn a_job_that_is_done_counts_as_up(engine: &mut DockerEngine) {
    let node = Node::new(engine).await;
    let compose = "
services:
  setup: { image: 'one:1', command: ['true'] }
  web:
    image: one:1
    command: [sleep, '1000']
    init: true
    depends_on: { setup: { condition: service_completed_successfully } }
";
    let workload = node.workload(&Wanted { compose, ..Wanted::default() }).await;
    node.apply(&workload).await;
    let up = node.is_up(&workload).await;
    assert_eq!(up.parts[0].condition, Condition::Completed);
    assert_eq!(up.condition, Condition::Running { endpoint: None });
    node.remove(&workload.id).await;
}

pub async fn logs_stats_and_restart_go_through_the_trait(engine: &mut DockerEngine) {
    let node = Node::new(engine).await;
    let compose = "services: { web: { image: 'one:1', init: true, scale: 2, \
                   command: [sh, -c, 'echo hello; exec /bin/busybox sleep 1000'] } }";
    let workload = node.workload(&Wanted { compose, ..Wanted::default() }).await;
    node.apply(&workload).await;
    node.is_up(&workload).await;
    let id = workload.id.clone();
    let lines = wait_for("the lines of both containers", async || {
        let lines = node.runtime.logs(id.clone(), 10).await.unwrap();
        if lines.len() == 2 { Ok(lines) } else { Err(lines) }
    });
    let mut lines = lines.await;
    lines.sort();
    assert_eq!(lines, ["web-1: hello", "web-2: hello"]);
    assert_eq!(node.runtime.logs(id.clone(), 1).await.unwrap().len(), 1);
    let Stats { cpu_time, memory } = node.runtime.stats(id.clone()).await.unwrap();
    assert!(cpu_time.unwrap() > Duration::ZERO && memory.unwrap() > 0, "{cpu_time:?} {memory:?}");
    node.runtime.restart(id.clone(), call()).await.unwrap();
    node.is_up(&workload).await;
    wait_for("the lines of both lives", async || {
        let lines = node.runtime.logs(id.clone(), 10).await.unwrap();
        if lines.len() == 4 { Ok(()) } else { Err(lines) }
    })
    .await;
    assert_eq!(node.observed(&id).await.unwrap().restarts, 0, "a restart that was asked for is none by itself");
    node.remove(&id).await;
    for absent in [node.runtime.logs(id.clone(), 1).await.map(|_| ()), node.runtime.stats(id.clone()).await.map(|_| ())]
    {
        assert!(matches!(absent, Err(RuntimeError::Absent(_))));
    }
    assert!(matches!(node.runtime.restart(id, call()).await, Err(RuntimeError::Absent(_))));
}
