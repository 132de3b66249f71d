//! `edgewright init`, killed where it hurts.

use std::{fs, path::Path, process::Command};

use margo::Digest;
use serde_json::Value;
use tempfile::TempDir;

use end_to_end::{Process, output, program};

fn init(data: &Path) -> Command {
    let mut command = Command::new(program("edgewright"));
    command.arg("init").arg("--data").arg(data);
    command
}

/// The names and hashes in the list of tokens.
fn tokens(data: &Path) -> Vec<(String, String)> {
    let list: Value = serde_json::from_slice(&fs::read(data.join("tokens.json")).unwrap()).unwrap();
    let text = |token: &Value, key: &str| token[key].as_str().unwrap().to_owned();
    list.as_array().unwrap().iter().map(|token| (text(token, "name"), text(token, "digest"))).collect()
}

fn admin(data: &Path) -> (String, String) {
    let token = fs::read_to_string(data.join("admin.token")).unwrap();
    ("admin".to_owned(), Digest::of(token.trim().as_bytes()).to_string())
}

#[tokio::test]
async fn a_hub_whose_making_was_cut_off_at_its_first_token_is_made_whole_by_the_next_start() {
    for point in ["edgewright.admin-token-pending", "edgewright.admin-token-added"] {
        let folder = TempDir::new().unwrap();
        let data = folder.path().join("hub");
        let mut cut = Process::start("init", folder.path(), init(&data).env("EDGEWRIGHT_STOP_POINT", point));
        cut.stopped().await;
        cut.kill();
        assert!(!data.join("admin.token").exists(), "{point}");

        for _ in 0..2 {
            let output = output(&mut init(&data));
            assert!(output.status.success(), "{point}: {}", String::from_utf8_lossy(&output.stderr));
            assert_eq!(tokens(&data), [admin(&data)], "{point}");
        }
        assert!(!data.join("admin.token.pending").exists(), "{point}");
    }
}

#[tokio::test]
async fn an_owner_who_took_the_token_away_keeps_it() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("hub");
    assert!(output(&mut init(&data)).status.success());
    let held = admin(&data);
    fs::remove_file(data.join("admin.token")).unwrap();
    let again = output(&mut init(&data));
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    assert_eq!(tokens(&data), [held]);
    assert!(!data.join("admin.token").exists());
}
