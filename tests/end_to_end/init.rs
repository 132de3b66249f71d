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

#[tokio::test]
async fn a_third_party_gets_a_file_of_its_own_and_an_account_that_stays() {
    use std::os::unix::fs::PermissionsExt;
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("hub");
    let reader = |name: &str, file: &Path| {
        let mut command = Command::new(program("edgewright"));
        output(command.args(["reader", name]).arg("--data").arg(&data).arg("--credentials").arg(file))
    };
    let accounts = || fs::read_to_string(data.join("nats/accounts.conf")).unwrap().lines().count();
    let files = ["one", "two", "three", "four"].map(|name| folder.path().join(name));
    assert!(!reader("erp", &files[0]).status.success(), "there is no hub yet");
    assert!(output(&mut init(&data)).status.success());
    let before = accounts();
    for file in &files[..2] {
        let made = reader("erp", file);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        assert!(fs::read_to_string(file).unwrap().contains("BEGIN NATS USER JWT"));
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(accounts(), before + 1, "both files are for one account");
    assert_ne!(fs::read(&files[0]).unwrap(), fs::read(&files[1]).unwrap());
    assert!(!reader("erp", &files[0]).status.success(), "a file that is there stays");
    assert!(!reader("*", &files[3]).status.success() && !files[3].exists());

    assert!(reader("mes", &files[2]).status.success());
    // Whoever makes the hub again leaves them their accounts.
    assert!(output(&mut init(&data)).status.success());
    assert_eq!(accounts(), before + 2);
}
