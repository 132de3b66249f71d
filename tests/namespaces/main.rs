//! A hub and a site on two hosts, by the steps of `docs/operations.md`, and everything that crosses between them.
//!
//! The hosts are network namespaces with one cable between them. Making them needs root; without it the test says that
//! it was not run.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

mod capture;
mod hosts;

use std::path::{Path, PathBuf};

use end_to_end::{Process, kill_runners, output, program, sample};
use testkit::{nats_server_binary, wait_for};

use crate::{
    capture::Capture,
    hosts::{Host, Hosts, NotRun},
};

const NAME: &str = "a_hub_and_a_site_on_two_hosts_say_nothing_in_clear";

/// Words that people chose, long enough to stand nowhere by chance.
const SITE: &str = "depot-at-the-harbour";
const NODE: &str = "crane-number-seven";
const GREETING: &str = "Ahoy-from-the-quay";

fn main() {
    // Cargo hands the filter of the whole run to every target.
    let filters: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if !filters.is_empty() && !filters.iter().any(|filter| NAME.contains(filter.as_str())) {
        return;
    }
    if std::env::args().any(|argument| argument == "--list") {
        println!("{NAME}: test");
        return;
    }
    match Hosts::new() {
        Err(NotRun(reason)) => println!("test {NAME} ... not run: {reason}"),
        Ok(hosts) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            runtime.block_on(two_hosts(&hosts));
            println!("test {NAME} ... ok");
        }
    }
}

/// A folder whose workloads are killed with it, because they outlive their agents.
struct Folder(tempfile::TempDir);

impl Drop for Folder {
    fn drop(&mut self) {
        kill_runners(self.0.path());
    }
}

impl Folder {
    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn start(&self, host: &Host, name: &str, words: &[&str]) -> Process {
        let mut command = host.command(&program(words[0]));
        Process::start(
            name,
            self.0.path(),
            command.args(&words[1..]).env("EDGEWRIGHT_NATS_SERVER", nats_server_binary()),
        )
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

async fn two_hosts(hosts: &Hosts) {
    let folder = Folder(tempfile::TempDir::new().unwrap());
    let (hub, site) = (folder.file("hub"), folder.file("site"));
    let captures = [Capture::start(&hosts.hub), Capture::start(&hosts.site)];

    // The hub: one command.
    let address = hosts.hub.address.to_string();
    let _hub = folder.start(&hosts.hub, "hub", &["edgewright", "hub", "--data", text(&hub), "--host", &address]);
    let (token, trust) = (hub.join("admin.token"), hub.join("keys/ca/root.pem"));
    let api = format!("https://{address}:8080");
    let edgectl = |words: &[&str]| {
        let mut command = hosts.hub.command(&program("edgectl"));
        command.args(["--api", &api, "--token-file", text(&token), "--trust-file", text(&trust)]).args(words);
        let output = output(&mut command);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.success() { Ok(out.into_owned()) } else { Err(format!("{words:?}: {out}{err}")) }
    };
    wait_for("every central service to answer", async || {
        let status = edgectl(&["co", "status", "-o", "json"])?;
        let found: serde_json::Value = serde_json::from_str(&status).map_err(|error| error.to_string())?;
        if found["missing"].as_array().is_some_and(Vec::is_empty) { Ok(()) } else { Err(status) }
    })
    .await;

    // The site: the file that the centre wrote, and one command.
    let credentials = folder.file("depot.toml");
    edgectl(&["co", "add", "site", SITE, "--credentials", text(&credentials)]).unwrap();
    let address = hosts.site.address.to_string();
    let words = ["edgewright", "site", "--data", text(&site), "--credentials", text(&credentials), "--host", &address];
    let _site = folder.start(&hosts.site, "site", &words);

    // A node, on the site's host.
    let (credentials, name) = (folder.file("crane.toml"), format!("{SITE}/{NODE}"));
    let server = format!("tls://{address}:4323");
    edgectl(&["co", "add", "node", &name, "--credentials", text(&credentials), "--server", &server]).unwrap();
    let node = folder.file("crane");
    let words = ["edge-node", "--credentials", text(&credentials), "--data", text(&node), "--on-exit", "stop"];
    let _node = folder.start(&hosts.site, "crane", &words);

    // An application goes all the way down, and what became of it all the way up.
    edgectl(&["co", "add", "app", text(&sample())]).unwrap();
    let set = format!("greeting={GREETING}");
    edgectl(&["co", "deploy", "hello@1.0.0", "--to", &name, "--set", &set, "--wait"]).unwrap();
    // The site tells its status to the other host.
    let url = format!("https://{address}:4325");
    let (status_token, status_trust) = (site.join("keys/status.token"), site.join("tls/root.pem"));
    let status = ["--token-file", text(&status_token), "--trust-file", text(&status_trust)];
    let mut command = hosts.hub.command(&program("edgectl"));
    command.args(status).args(["lo", "status", "--url", &url, "--site", SITE]);
    let told = output(&mut command);
    let (out, err) = (String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    assert!(told.status.success() && out.contains(NODE), "{out}{err}");

    // The site's host reads the repository of what the site is to run.
    let repository: serde_json::Value =
        serde_json::from_str(&edgectl(&["co", "repository", SITE, "-o", "json"]).unwrap()).unwrap();
    let mut git = hosts.site.command(Path::new("git"));
    let opens = repository["token"].as_str().unwrap().to_owned();
    let header = format!("http.extraHeader=Authorization: Bearer {opens}");
    git.env("GIT_SSL_CAINFO", site.join("tls/root.pem"));
    git.args(["-c", &header, "ls-remote", repository["url"].as_str().unwrap()]);
    let listed = output(&mut git);
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));

    let line = |path: &Path| std::fs::read_to_string(path).unwrap().trim().to_owned();
    let secrets = [line(&token), line(&status_token), line(&site.join("keys/artifacts.secret")), opens];
    let words = [SITE, NODE, GREETING, "hello-component", "INFO {", "CONNECT {", "HTTP/1.1", "Bearer "];
    let needles: Vec<&str> = secrets.iter().map(String::as_str).chain(words).collect();
    for (capture, ports) in captures.into_iter().zip([&[4222, 8080, 8082, 8083, 8084][..], &[4323, 4324, 4325]]) {
        capture.end().is_all_tls(ports, &needles);
    }
}
