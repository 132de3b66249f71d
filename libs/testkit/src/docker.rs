//! A Docker Engine of a test's own, and an image to run on it.

use std::{
    fmt, fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use margo::Digest;
use serde_json::json;
use tar::{Builder, Header};
use tempfile::TempDir;

use crate::kill_programs_of;

/// What a start takes on a loaded machine; usually it is a second.
const PATIENCE: Duration = Duration::from_secs(60);

/// Statically linked, so that it runs in an image that holds nothing else.
const BUSYBOX: &str = "/bin/busybox";

/// Why a test or a measurement that needs Docker was not run.
#[derive(Debug)]
pub struct NotRun(pub String);

impl fmt::Display for NotRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotRun {}

/// Returns the program of Compose that `make setup` installed.
pub fn docker_compose_binary() -> PathBuf {
    let pinned = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/bin/docker-compose");
    fs::canonicalize(&pinned).unwrap_or(pinned)
}

/// A running Docker Engine with folders, a network and mounts of its own, so that it meets no other engine of the machine. It
/// ends with this value, or with the process that started it.
pub struct DockerEngine {
    daemon: Option<Child>,
    folder: TempDir,
}

impl DockerEngine {
    /// Starts an engine and waits until it answers. Without root, or where a program is missing, nothing is started.
    pub fn start() -> Result<Self, NotRun> {
        if !rustix::process::geteuid().is_root() {
            return Err(NotRun("starting Docker Engine needs root".to_owned()));
        }
        let is_there = |program: &str| {
            let found = Command::new("sh").args(["-c", "command -v \"$0\"", program]).stdout(Stdio::null()).status();
            found.is_ok_and(|status| status.success())
        };
        for program in
            ["dockerd", "containerd", "runc", "iptables", "unshare", "nsenter", "setpriv", "ip", "curl", BUSYBOX]
        {
            if !is_there(program) {
                return Err(NotRun(format!("{program} is missing (make setup)")));
            }
        }
        if !docker_compose_binary().is_file() {
            return Err(NotRun("docker-compose is missing (make setup installs it where Go is)".to_owned()));
        }
        let folder = tempfile::Builder::new().prefix("docker-").tempdir().expect("a folder for an engine");
        // The socket is for a group. What else lies here is closed to others by itself.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).expect("opening a folder");
        // Where the command `docker` looks for its part `compose`.
        let plugins = folder.path().join("cli-plugins");
        fs::create_dir(&plugins).expect("making a folder");
        symlink(docker_compose_binary(), plugins.join("docker-compose")).expect("linking a program");
        let mut engine = Self { daemon: None, folder };
        engine.launch().map_err(|reason| NotRun(format!("Docker Engine does not start here: {reason}")))?;
        Ok(engine)
    }

    /// Starts the daemon, whose data is what an earlier one left. Fails with the end of its log.
    fn launch(&mut self) -> Result<(), String> {
        let path = |name: &str| self.folder.path().join(name);
        let log = fs::OpenOptions::new().create(true).append(true).open(path("log")).expect("a file for the log");
        let same = log.try_clone().expect("the log is open");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "unshare", "--net", "--mount", "sh", "-c"]);
        command.arg("ip link set lo up && exec dockerd \"$@\"").arg("dockerd");
        for (option, name) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")] {
            command.arg(option).arg(path(name));
        }
        command.arg("--host").arg(format!("unix://{}", self.socket().display())).args(["--log-level", "warn"]);
        let child = command.stdin(Stdio::null()).stdout(log).stderr(same).spawn();
        self.daemon = Some(child.map_err(|error| error.to_string())?);
        let begin = Instant::now();
        while self.docker(&["version"]).is_none() {
            let ended = self.daemon.as_mut().and_then(|daemon| daemon.try_wait().ok().flatten());
            if ended.is_some() || begin.elapsed() > PATIENCE {
                let log = fs::read_to_string(path("log")).unwrap_or_default();
                return Err(log.lines().rev().take(3).collect::<Vec<_>>().join("; "));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// The socket at which the engine is asked.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    /// The group that may use the engine.
    pub fn group(&self) -> u32 {
        fs::metadata(self.socket()).expect("an engine that runs has a socket").gid()
    }

    /// Returns the command `docker`, with its part `compose`, as a person on this engine's host has it.
    pub fn command(&self) -> Command {
        let mut command = Command::new("docker");
        command.env("DOCKER_CONFIG", self.folder.path()).arg("--host");
        command.arg(format!("unix://{}", self.socket().display()));
        command
    }

    /// Returns the file of the network that this engine's host has: what a thread enters in order to be there.
    pub fn network(&self) -> Option<PathBuf> {
        Some(format!("/proc/{}/ns/net", self.daemon.as_ref()?.id()).into())
    }

    /// Runs the command `docker` as a person would, and returns what it writes; `None` when it fails.
    pub fn docker(&self, arguments: &[&str]) -> Option<String> {
        let output = self.command().args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Gets what answers at this address on the host, as this engine's host is: it has a network of its own.
    pub fn get(&self, address: &str) -> Option<String> {
        let daemon = self.daemon.as_ref()?.id().to_string();
        let url = format!("http://{address}");
        let mut command = Command::new("nsenter");
        command.args(["--target", &daemon, "--net", "curl", "--silent", "--fail", "--max-time", "2", &url]);
        let output = command.output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Stops the engine as an operator would. Containers stop too.
    pub fn stop(&mut self) {
        let Some(mut daemon) = self.daemon.take() else { return };
        let pid = i32::try_from(daemon.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            // Fails only when it has ended.
            let _ended = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _status = daemon.wait();
    }

    /// Ends the engine and its containers all at once, as a host that loses its power does: nobody is told before.
    pub async fn cut_power(&mut self) {
        let containers = self.docker(&["ps", "--quiet"]).unwrap_or_default();
        let processes: Vec<_> = containers.lines().filter_map(|container| self.process(container)).collect();
        // The daemon first, or it would start again what ends.
        if let Some(mut daemon) = self.daemon.take() {
            let _ended = daemon.kill();
            let _status = daemon.wait();
        }
        for process in processes {
            // It may have ended since.
            let _ended = rustix::process::kill_process(process, rustix::process::Signal::KILL);
        }
        // The daemon's own daemon, and what that has started for each container.
        kill_programs_of(self.folder.path()).await;
        // What a host keeps in memory. The next daemons would take other processes of these numbers, or dead ones that nobody has
        // waited for, for those that wrote them.
        let _absent = fs::remove_file(self.folder.path().join("pid"));
        let _absent = fs::remove_dir_all(self.folder.path().join("exec"));
    }

    /// The process of a container that runs.
    fn process(&self, container: &str) -> Option<rustix::process::Pid> {
        let pid = self.docker(&["inspect", "--format", "{{.State.Pid}}", container])?;
        rustix::process::Pid::from_raw(pid.parse().ok()?)
    }

    /// Starts the engine again with what it had.
    pub fn restart(&mut self) {
        self.stop();
        self.launch().expect("the engine has started here before");
    }
}

impl Drop for DockerEngine {
    fn drop(&mut self) {
        // What still runs would have to be waited for.
        if let Some(running) = self.docker(&["ps", "--all", "--quiet"]) {
            for container in running.lines() {
                self.docker(&["rm", "--force", container]);
            }
        }
        self.stop();
    }
}

/// An image of one layer with busybox in it, as the blobs of an OCI image.
pub struct BusyboxImage {
    /// The image's OCI manifest.
    pub manifest: Vec<u8>,
    /// Its config, whose digest is the image's id.
    pub config: Vec<u8>,
    /// Its one layer.
    pub layer: Vec<u8>,
}

impl BusyboxImage {
    /// Makes an image whose web page says this. The same words make the same image.
    pub fn new(words: &str) -> Self {
        let mut layer = Builder::new(Vec::new());
        let put = |layer: &mut Builder<Vec<u8>>, path: &str, mode: u32, content: &[u8]| {
            let mut header = Header::new_ustar();
            header.set_mode(mode);
            header.set_size(content.len() as u64);
            header.set_mtime(0);
            layer.append_data(&mut header, path, content).expect("writing to memory");
        };
        put(&mut layer, "bin/busybox", 0o755, &fs::read(BUSYBOX).expect("busybox is installed"));
        put(&mut layer, "www/index.html", 0o644, words.as_bytes());
        for applet in ["sh", "cat", "date", "echo", "httpd", "mv", "sleep", "true", "wget"] {
            let mut header = Header::new_ustar();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            header.set_size(0);
            header.set_mtime(0);
            layer.append_link(&mut header, format!("bin/{applet}"), "busybox").expect("writing to memory");
        }
        let layer = layer.into_inner().expect("writing to memory");
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "config": { "Cmd": ["sh"] },
            "rootfs": { "type": "layers", "diff_ids": [Digest::of(&layer).to_string()] },
        });
        let config = config.to_string().into_bytes();
        let blob = |kind: &str, bytes: &[u8]| json!({ "mediaType": format!("application/vnd.oci.image.{kind}"), "digest": Digest::of(bytes).to_string(), "size": bytes.len() });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": blob("config.v1+json", &config),
            "layers": [blob("layer.v1.tar", &layer)],
        });
        Self { manifest: manifest.to_string().into_bytes(), config, layer }
    }

    /// Writes the image into an image layout, as tools for images do. The folder is made.
    pub fn write_layout(&self, folder: &Path, name: &str) {
        let blobs = folder.join("blobs/sha256");
        fs::create_dir_all(&blobs).expect("making a folder");
        for bytes in [&self.manifest, &self.config, &self.layer] {
            fs::write(blobs.join(Digest::of(bytes).hex()), bytes).expect("writing a blob");
        }
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": Digest::of(&self.manifest).to_string(),
                "size": self.manifest.len(),
                "annotations": { "org.opencontainers.image.ref.name": name },
            }],
        });
        fs::write(folder.join("index.json"), index.to_string()).expect("writing the index");
        fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("writing the marker");
    }

    /// The id of the image.
    pub fn id(&self) -> Digest {
        Digest::of(&self.config)
    }
}
