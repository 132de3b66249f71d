//! Containers as users run them: from the folder of an application to an answering container on a node, and back.
//!
//! The agent runs as a user of the engine's group, who has no rights besides.
//!
//! The Docker Engine is started by the test, which needs root and the programs that `make setup` installs; without them it says
//! that it was not run.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use std::{
    env, fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use end_to_end::{Process, after, edgectl, edgectl_json, edgectl_ok, kill_runners, program, sample};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use testkit::{
    BusyboxImage, DockerEngine, DockerRegistry, NotRun, docker_compose_binary, loopback, nats_server_binary, wait_for,
};

const NAME: &str = "an_application_of_containers_is_deployed_updated_and_removed";

fn main() {
    // Cargo hands the filter of the whole run to every target.
    let arguments: Vec<String> = env::args().skip(1).collect();
    let filters: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    if !filters.is_empty() && !filters.iter().any(|filter| NAME.contains(filter.as_str())) {
        return;
    }
    if arguments.iter().any(|argument| argument == "--list") {
        println!("{NAME}: test");
        return;
    }
    match DockerEngine::start() {
        Err(NotRun(reason)) => println!("test {NAME} ... not run: {reason}"),
        Ok(mut engine) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            runtime.block_on(containers(&mut engine));
            println!("test {NAME} ... ok");
        }
    }
}

/// Nobody else's number. The user need not have a name.
const USER: u32 = 61_234;

/// A user without rights who is in the group of the engine, with a folder that is the user's.
struct User(TempDir);

impl User {
    fn with_folder() -> Self {
        let folder = TempDir::new().unwrap();
        chown(folder.path(), Some(USER), Some(USER)).unwrap();
        Self(folder)
    }

    /// Copies a file into the folder: where it comes from, the user need not be let in.
    fn give(&self, file: &Path) -> PathBuf {
        let given = self.0.path().join(file.file_name().unwrap());
        fs::copy(file, &given).unwrap();
        chown(&given, Some(USER), Some(USER)).unwrap();
        given
    }

    /// The command that runs a program as this user.
    fn command(&self, engine: &DockerEngine, program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command.arg(format!("--reuid={USER}")).arg(format!("--regid={USER}"));
        command.arg(format!("--groups={}", engine.group())).arg("--no-new-privs").arg("--").arg(program);
        command.current_dir(self.0.path());
        command
    }
}

/// A folder whose Wasm workloads are killed with it, because they outlive their agents when a test fails.
struct Folder(TempDir);

impl Drop for Folder {
    fn drop(&mut self) {
        kill_runners(self.0.path());
    }
}

/// The example with the image that its author would have built.
fn example(folder: &Path, words: &str) -> PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/hello-compose");
    let to = folder.join(words);
    fs::create_dir_all(to.join("pages")).unwrap();
    for file in ["margo.yaml", "pages/compose.yaml"] {
        fs::copy(from.join(file), to.join(file)).unwrap();
    }
    BusyboxImage::new(words).write_layout(&to.join("images/hello-compose"), "hello-compose:1.0.0");
    to
}

async fn containers(engine: &mut DockerEngine) {
    let folder = Folder(TempDir::new().unwrap());
    let data = folder.0.path().join("data");
    let context = data.join("edgectl.toml");
    let here = loopback();
    let mut command = Command::new(program("edgewright"));
    command.arg("up").arg("--data").arg(&data).args(["--host", &here.to_string()]);
    command.args(["--sample", &sample().display().to_string()]);
    command.env("EDGEWRIGHT_NATS_SERVER", nats_server_binary()).stdin(Stdio::null());
    let mut up = Process::start("up", folder.0.path(), &mut command);
    wait_for("`up` to say that everything runs", async || {
        if up.log().contains("Everything runs") { Ok(()) } else { Err(up.log()) }
    })
    .await;

    // A node with Docker beside two without.
    let credentials = folder.0.path().join("dock.toml").display().to_string();
    let server = format!("tls://{here}:4323");
    edgectl_ok(&context, &["co", "add", "node", "plant/dock", "--credentials", &credentials, "--server", &server]);
    let address = after(here, 3);
    let user = User::with_folder();
    let mut command = user.command(engine, &user.give(&program("edge-node")));
    // Beside the agent, where it looks for it.
    user.give(&program("wasm-runner"));
    command.arg("--credentials").arg(user.give(Path::new(&credentials)));
    command.args(["--workload-address", &address.to_string(), "--data"]).arg(user.0.path().join("data"));
    command.arg("--docker-socket").arg(engine.socket());
    command.arg("--docker-compose").arg(user.give(&docker_compose_binary()));
    let dock = Process::start("dock", folder.0.path(), &mut command);
    let types = || {
        let nodes = edgectl_json(&context, &["co", "list", "nodes"]);
        let found = nodes.as_array().unwrap().iter().find(|node| node.to_string().contains("dock"));
        found.map(Value::to_string).unwrap_or_default()
    };

    // The package is checked where it is made.
    let app = example(folder.0.path(), "one");
    let compose = app.join("pages/compose.yaml");
    let good = fs::read_to_string(&compose).unwrap();
    fs::write(&compose, good.replacen("init: true", "privileged: true", 1)).unwrap();
    let refused = edgectl(&context, &["co", "add", "app", &app.display().to_string()]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("services.writer.privileged"), "{told}");
    fs::write(&compose, &good).unwrap();
    edgectl_ok(&context, &["co", "add", "app", &app.display().to_string()]);
    edgectl_ok(&context, &["co", "add", "app", &app.display().to_string()]);

    let page = format!("{address}:8088");
    let says = async |greeting: &str| {
        wait_for("the page to say the greeting", async || match engine.get(&page) {
            Some(text) if text.starts_with(greeting) => Ok(()),
            other => Err((other, dock.log())),
        })
        .await;
    };
    let deploy = "co deploy hello-compose@1.0.0 --name pages --to plant/dock --wait";
    wait_for("the node to tell that it runs Compose", async || {
        let types = types();
        if types.contains("compose") || types.contains("docker") { Ok(()) } else { Err(types) }
    })
    .await;
    let status = fs::read_to_string(format!("/proc/{}/status", dock.id())).unwrap();
    assert!(status.contains(&format!("\nUid:\t{USER}\t{USER}\t{USER}\t{USER}\n")), "{status}");
    assert!(status.contains("\nCapEff:\t0000000000000000\n"), "{status}");
    edgectl_ok(&context, &deploy.split(' ').collect::<Vec<_>>());
    says("Hello, it is").await;
    edgectl_ok(&context, &["co", "update", "pages", "--set", "greeting=Moin", "--wait"]);
    says("Moin, it is").await;

    // Nothing of it is left but the volume, which goes only when it is told to.
    edgectl_ok(&context, &["co", "remove", "pages", "--wait"]);
    assert_eq!(engine.docker(&["ps", "--all", "--quiet"]).unwrap(), "");
    assert_eq!(engine.docker(&["images", "--all", "--quiet"]).unwrap(), "");
    let volumes = || engine.docker(&["volume", "ls", "--quiet"]).unwrap().lines().count();
    assert_eq!(volumes(), 1);
    let again = deploy.replace("--name pages", "--name again");
    edgectl_ok(&context, &again.split(' ').collect::<Vec<_>>());
    says("Hello, it is").await;
    assert_eq!(volumes(), 2, "another assignment has volumes of its own");
    let started = || engine.docker(&["ps", "--format", "{{.ID}} {{.CreatedAt}}"]).unwrap();
    let before = started();
    let told = edgectl(&context, &["co", "remove", "again", "--delete-volumes", "--wait"]);
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert_eq!(volumes(), 1, "{told}, {before}, {}", started());
    assert_eq!(engine.docker(&["ps", "--all", "--quiet"]).unwrap(), "");

    // An image of a registry travels in the package too; neither site nor node asks the registry.
    let registry = DockerRegistry::start().await;
    let image = BusyboxImage::new("of a registry");
    for blob in [&image.layer, &image.config] {
        registry.push_blob("acme/pages", blob, None).await;
    }
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let digest = registry.push_manifest("acme/pages", Some("1"), kind, &image.manifest, None).await;
    fs::remove_dir_all(app.join("images")).unwrap();
    let margo = fs::read_to_string(app.join("margo.yaml")).unwrap();
    fs::write(app.join("margo.yaml"), margo.replacen("id: hello-compose", "id: from-registry", 1)).unwrap();
    let name = format!("{}/acme/pages", registry.name());
    let with_image = |image: &str| fs::write(&compose, good.replace("hello-compose:1.0.0", image)).unwrap();
    with_image(&format!("{name}:1"));
    let refused = edgectl(&context, &["co", "add", "app", &app.display().to_string()]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("a digest, such as"), "{told}");
    with_image(&format!("{name}@{digest}"));
    edgectl_ok(&context, &["co", "add", "app", &app.display().to_string()]);
    drop(registry);
    let order = "co deploy from-registry@1.0.0 --name registry --to plant/dock --wait";
    edgectl_ok(&context, &order.split(' ').collect::<Vec<_>>());
    says("Hello, it is").await;
    let runs = engine.docker(&["images", "--format", "{{.Tag}}"]).unwrap();
    assert_eq!(runs, image.id().hex());
    edgectl_ok(&context, &["co", "remove", "registry", "--delete-volumes", "--wait"]);
    assert_eq!((volumes(), engine.docker(&["images", "--all", "--quiet"]).unwrap()), (1, String::new()));

    // Without Docker the node says so soon.
    engine.stop();
    wait_for("the node to tell that it runs no Compose any more", async || {
        let types = types();
        if types.contains("compose") || types.contains("docker") { Err(types) } else { Ok(()) }
    })
    .await;

    // Killed, it would leave what it has started.
    up.signal(Signal::TERM);
    up.ended().await;
}
