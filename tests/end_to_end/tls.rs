//! Programs that would speak to others in clear do not start.

use std::{
    net::Ipv4Addr,
    path::Path,
    process::{Command, Output},
};

use tempfile::TempDir;

use end_to_end::{output, program};

/// An address for documentation (RFC 5737), which is nobody's.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

fn edgewright(words: &[&str], data: &Path) -> Output {
    output(Command::new(program("edgewright")).args(words).arg("--data").arg(data))
}

/// Fails unless the program did, with a message that has these words.
fn refused(output: &Output, words: &[&str]) {
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{told}");
    for word in words {
        assert!(told.contains(word), "{word:?} is missing in: {told}");
    }
}

/// Takes everything from one table's heading on out of a settings file.
fn without(file: &Path, heading: &str) {
    let text = std::fs::read_to_string(file).unwrap();
    let (before, rest) = text.split_once(heading).unwrap();
    let after = rest.split_once("\n\n").map_or("", |(_, after)| after);
    std::fs::write(file, format!("{before}{after}")).unwrap();
}

#[test]
fn a_hub_for_others_without_certificates_does_not_start() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("hub");
    let host = ELSEWHERE.to_string();
    let made = edgewright(&["init", "--host", &host], &data);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    without(&data.join("hub.toml"), "[api-tls]");
    let told = ["REST (api-tls in hub.toml)", "192.0.2.1:8080", "--allow-plaintext"];
    refused(&edgewright(&["api-gateway"], &data), &told);
    refused(&edgewright(&["init"], &data), &told);
    let allowed = edgewright(&["init", "--allow-plaintext"], &data);
    assert!(allowed.status.success(), "{}", String::from_utf8_lossy(&allowed.stderr));

    // Without any, because somebody said so: then every start has to say so.
    let plain = folder.path().join("plain");
    assert!(edgewright(&["init", "--host", &host, "--allow-plaintext"], &plain).status.success());
    refused(&edgewright(&["hub"], &plain), &["the hub's NATS server (nats-tls in hub.toml)", "--allow-plaintext"]);
    refused(&edgewright(&["git-writer", "--health", "192.0.2.1:1"], &plain), &["--health", "--allow-plaintext"]);
}

#[test]
fn a_hub_s_certificate_stays_until_it_lacks_a_name() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("hub");
    let (settings, certificate) = (data.join("hub.toml"), data.join("tls/server.pem"));
    let init = || {
        let made = edgewright(&["init"], &data);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        std::fs::read(&certificate).unwrap()
    };
    let first = init();
    assert_eq!(init(), first);
    let text = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, format!("names = [\"hub.example\"]\n{text}")).unwrap();
    let second = init();
    assert_ne!(second, first);
    assert_eq!(init(), second);
}

#[test]
fn an_agent_and_a_user_do_not_send_their_secrets_in_clear() {
    let folder = TempDir::new().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (seed, _) = identity::nats::generate();
    let agent = |name: &str, server: &str, minter: &str| {
        let lines = [("node", "plant/press"), ("server", server), ("minter", minter), ("seed", &seed)];
        let credentials = file(name, &lines.map(|(key, value)| format!("{key} = \"{value}\"\n")).concat());
        let mut command = Command::new(program("edge-node"));
        output(command.arg("--credentials").arg(credentials).arg("--data").arg(folder.path().join("data")))
    };
    let (server, minter) = ("tls://192.0.2.1:4323", "https://192.0.2.1:4325");
    let clear = agent("clear", "nats://192.0.2.1:4323", minter);
    refused(&clear, &["nats://192.0.2.1:4323", "tls://", "--allow-plaintext"]);
    let clear = agent("clear", server, "http://192.0.2.1:4325");
    refused(&clear, &["http://192.0.2.1:4325", "https://", "--allow-plaintext"]);
    refused(&agent("rootless", server, minter), &["rootless", "root-certificates"]);

    let token = file("token", "ew_0\n");
    let mut edgectl = Command::new(program("edgectl"));
    edgectl.args(["--api", "http://192.0.2.1:8080", "--token-file"]).arg(token).args(["co", "status"]);
    refused(&output(&mut edgectl), &["http://192.0.2.1:8080", "https://", "--allow-plaintext"]);
}
