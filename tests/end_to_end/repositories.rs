//! The repositories read by stock git from elsewhere, over HTTPS, with what the platform itself hands out.

use std::process::{Command, Output, Stdio};

use end_to_end::{Application, Platform, SiteLayout, output};
use serde_json::Value;
use tempfile::TempDir;
use testkit::wait_for;

const SITES: &[SiteLayout] =
    &[SiteLayout { name: "plant", nodes: &["press"] }, SiteLayout { name: "depot", nodes: &["crane"] }];

/// Stock git with the hub's root certificate, and this token as the password.
fn git(platform: &Platform, token: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new("git");
    // The machine may have certificates and proxies of its own.
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_TERMINAL_PROMPT", "0");
    command.env("GIT_SSL_CAINFO", platform.trust_file()).stdin(Stdio::null());
    let helper = format!("credential.helper=!f() {{ echo username=git; echo password={token}; }}; f");
    output(command.args(["-c", &helper]).args(arguments))
}

fn reads(platform: &Platform, token: &str, arguments: &[&str]) -> String {
    let output = git(platform, token, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or_else(|| panic!("{field} in {value}"))
}

#[tokio::test]
async fn a_site_reads_its_own_repository_and_a_person_all_of_them_with_what_they_were_given() {
    let platform = Platform::start(SITES, Application::Sample).await;
    let of = |site: &str| platform.edgectl_json(&["co", "repository", site]);
    let (plant, depot) = (of("plant"), of("depot"));
    let folder = TempDir::new().unwrap();
    let clone = folder.path().join("plant").display().to_string();
    reads(&platform, text(&plant, "token"), &["clone", "-q", text(&plant, "url"), &clone]);
    let log =
        |path: &str| reads(&platform, text(&plant, "token"), &["-C", path, "log", "--format=%s", "origin/desired"]);
    let before = log(&clone);
    assert!(before.contains("create assignment hello"), "{before}");

    // What was ordered since is one fetch away.
    platform.edgectl_ok(&["co", "update", "hello", "--set", "greeting=Again", "--wait"]);
    reads(&platform, text(&plant, "token"), &["-C", &clone, "fetch", "-q"]);
    let after = log(&clone);
    assert!(after.ends_with(&before) && after.len() > before.len(), "{after}");

    // Nobody else's, and not what people meant.
    let fleet = text(&plant, "url").replace("clients/plant", "fleet");
    for url in [text(&depot, "url"), &fleet] {
        let refused = git(&platform, text(&plant, "token"), &["ls-remote", url]);
        assert!(!refused.status.success() && refused.stdout.is_empty(), "{url}: {refused:?}");
    }
    for url in [text(&plant, "url"), text(&depot, "url"), &fleet] {
        assert!(!reads(&platform, &platform.token(), &["ls-remote", url]).is_empty());
    }

    // The token ends with the key, and the order that brings another key brings another token.
    let file = platform.folder().join("plant-2.toml").display().to_string();
    let replaced = platform.edgectl_json(&["co", "replace-key", "site", "plant", "--credentials", &file]);
    let next = &replaced["repository"];
    let ask = |token: &str| git(&platform, token, &["ls-remote", text(&plant, "url")]).status.success();
    wait_for("the new token to be the one that opens", async || {
        let found = (ask(text(&plant, "token")), ask(text(next, "token")));
        if found == (false, true) { Ok(()) } else { Err(found) }
    })
    .await;
}
