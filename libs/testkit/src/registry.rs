//! A registry per test: the program of Debian's package `docker-registry`.

use std::{fs, net::SocketAddr, process::Stdio};

use margo::Digest;
use reqwest::{
    Client, Response,
    header::{AUTHORIZATION, CONTENT_TYPE, LOCATION},
};
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};
use uuid::Uuid;

use crate::{loopback, wait_for};

/// A running registry on an address of its own. It ends with this value, and takes its folder with it.
pub struct DockerRegistry {
    folder: TempDir,
    address: SocketAddr,
    _child: Child,
}

impl DockerRegistry {
    /// Starts a registry that everybody may read and write.
    pub async fn start() -> Self {
        Self::start_with("").await
    }

    /// Starts a registry with this section `auth` in its configuration, which is YAML.
    pub async fn start_with(auth: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("registry-").tempdir().expect("a folder for a registry");
        let address = SocketAddr::from((loopback(), 5000));
        let content = folder.path().join("content");
        let config = format!(
            "version: 0.1\nlog: {{ level: warn }}\nhttp: {{ addr: \"{address}\", secret: of-a-test }}\n\
             storage: {{ filesystem: {{ rootdirectory: {content:?} }} }}\n{auth}\n"
        );
        fs::write(folder.path().join("config.yml"), config).expect("writing the configuration");
        let log = |name| fs::File::create(folder.path().join(name)).expect("a log file");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(folder.path().join("config.yml"))
            .stdin(Stdio::null())
            .stdout(log("access.log"))
            .stderr(log("registry.log"))
            .kill_on_drop(true)
            .spawn()
            .expect("docker-registry starts (make setup installs it)");
        wait_for("docker-registry to open its port", async || match TcpStream::connect(address).await {
            Ok(_) => Ok(()),
            Err(_) => Err(fs::read_to_string(folder.path().join("registry.log")).unwrap_or_default()),
        })
        .await;
        Self { folder, address, _child: child }
    }

    /// Returns the registry's name in references: host and port.
    pub fn name(&self) -> String {
        self.address.to_string()
    }

    /// Returns the base URL, without `/v2`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the requests that were answered so far whose path ends like this, as method and status, such as `GET 200`.
    pub async fn requests(&self, path: &str) -> Vec<String> {
        // The registry writes a request into its log when the answer has gone out. So another one is made, and waited for.
        let last = Uuid::new_v4().to_string();
        Client::new().get(format!("{}/v2/?{last}", self.url())).send().await.expect("an answer of the registry");
        let log = wait_for("the log of the registry", async || {
            let log = fs::read_to_string(self.folder.path().join("access.log")).expect("the log of the registry");
            if log.contains(&last) { Ok(log) } else { Err(log) }
        })
        .await;
        let request = |line: &str| {
            // 127.0.0.1 - - [time] "GET /v2/hello/blobs/sha256:… HTTP/1.1" 200 1234 "" ""
            let (_, rest) = line.split_once("] \"")?;
            let (request, rest) = rest.split_once("\" ")?;
            let mut words = request.split(' ');
            let (method, asked) = (words.next()?, words.next()?);
            asked.ends_with(path).then(|| format!("{method} {}", rest.split(' ').next().unwrap_or_default()))
        };
        log.lines().filter_map(request).collect()
    }

    /// Puts a blob into a repository. `authorization` is the header that lets the test do so.
    pub async fn push_blob(&self, name: &str, content: &[u8], authorization: Option<&str>) -> Digest {
        let (http, digest) = (Client::new(), Digest::of(content));
        let begin = http.post(format!("{}/v2/{name}/blobs/uploads/", self.url()));
        let begun = send(begin, authorization).await;
        let place = begun.headers()[LOCATION].to_str().expect("an address");
        let separator = if place.contains('?') { '&' } else { '?' };
        let end = http.put(format!("{place}{separator}digest={digest}")).body(content.to_vec());
        send(end.header(CONTENT_TYPE, "application/octet-stream"), authorization).await;
        digest
    }

    /// Puts a manifest or an index into a repository, under its digest or a tag.
    pub async fn push_manifest(
        &self,
        name: &str,
        tag: Option<&str>,
        media_type: &str,
        content: &[u8],
        authorization: Option<&str>,
    ) -> Digest {
        let digest = Digest::of(content);
        let reference = tag.map_or_else(|| digest.to_string(), str::to_owned);
        let put = Client::new().put(format!("{}/v2/{name}/manifests/{reference}", self.url()));
        send(put.header(CONTENT_TYPE, media_type).body(content.to_vec()), authorization).await;
        digest
    }
}

async fn send(mut request: reqwest::RequestBuilder, authorization: Option<&str>) -> Response {
    if let Some(authorization) = authorization {
        request = request.header(AUTHORIZATION, authorization);
    }
    let response = request.send().await.expect("an answer of the registry");
    let status = response.status();
    if status.is_success() {
        return response;
    }
    panic!("the registry answers {status}: {}", response.text().await.unwrap_or_default());
}
