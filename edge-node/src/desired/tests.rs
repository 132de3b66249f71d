use std::fs;

use tempfile::TempDir;

use super::*;
use crate::testing::{self, entry, message, node};

fn deployment(assignment: &str) -> ApplicationDeployment {
    testing::deployment(assignment, Digest::of(b"manifest"))
}

fn held(version: u64, names: &[&str]) -> Desired {
    let entries = names.iter().map(|name| entry(&deployment(name))).collect();
    match decide(&node(), None, &message(version, entries)).unwrap() {
        Decision::Adopt(desired) => desired,
        Decision::Keep => unreachable!("nothing is held"),
    }
}

fn refusal(held: Option<&Desired>, offered: &proto::DesiredNode) -> DesiredError {
    decide(&node(), held, offered).unwrap_err()
}

#[test]
fn dev_14_an_older_version_is_refused_and_the_same_one_changes_nothing() {
    let held = held(5, &["hello"]);
    let older = refusal(Some(&held), &message(4, vec![]));
    assert!(matches!(older, DesiredError::Older { .. }) && older.is_security_event());
    let same = message(5, vec![entry(&deployment("hello"))]);
    assert_eq!(decide(&node(), Some(&held), &same).unwrap(), Decision::Keep);
    assert!(matches!(refusal(Some(&held), &message(5, vec![])), DesiredError::Conflict(_)));
}

#[test]
fn dev_15_one_wrong_digest_refuses_everything() {
    let mut wrong = entry(&deployment("other"));
    wrong.digest = Digest::of(b"something else").to_string();
    let refused = refusal(None, &message(1, vec![entry(&deployment("hello")), wrong.clone()]));
    assert!(matches!(refused, DesiredError::Digest { .. }) && refused.is_security_event());
    wrong.digest = "md5:00".to_owned();
    assert!(matches!(refusal(None, &message(1, vec![wrong])), DesiredError::Entry { .. }));
}

#[test]
fn a_document_of_another_device_or_deployment_is_refused() {
    let mut foreign = deployment("hello");
    foreign.metadata.device_id = "plant/lathe".parse().unwrap();
    assert!(matches!(refusal(None, &message(1, vec![entry(&foreign)])), DesiredError::OtherDevice { .. }));
    let mut moved = entry(&deployment("hello"));
    moved.id = deployment("other").id.to_string();
    assert!(matches!(refusal(None, &message(1, vec![moved])), DesiredError::OtherDeployment { .. }));
    let twice = vec![entry(&deployment("hello")), entry(&deployment("hello"))];
    assert!(matches!(refusal(None, &message(1, twice)), DesiredError::Twice(_)));
    assert!(matches!(refusal(None, &message(0, vec![])), DesiredError::Version(_)));
}

#[test]
fn what_is_no_deployment_is_refused_with_its_place() {
    let document = "id: 9db79949-86fb-5e45-910d-8a83dd7391cc\nmetadta: {}\n";
    let broken = proto::DesiredDeployment {
        id: "9db79949-86fb-5e45-910d-8a83dd7391cc".to_owned(),
        digest: Digest::of(document.as_bytes()).to_string(),
        document: document.into(),
    };
    let reason = refusal(None, &message(1, vec![broken])).to_string();
    assert!(reason.contains("9db79949-86fb-5e45-910d-8a83dd7391cc.yaml:2:1"), "{reason}");
    assert!(reason.contains("metadta"), "{reason}");
}

#[test]
fn dev_21_a_deployment_keeps_the_version_with_which_its_digest_was_adopted() {
    let held = held(5, &["hello"]);
    let next = message(9, vec![entry(&deployment("hello")), entry(&deployment("other"))]);
    let Decision::Adopt(next) = decide(&node(), Some(&held), &next).unwrap() else { panic!("version 9 is newer") };
    assert_eq!(next.deployments[&deployment("hello").id].adopted.get(), 5);
    assert_eq!(next.deployments[&deployment("other").id].adopted.get(), 9);
}

#[test]
fn dev_16_what_was_saved_is_loaded() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("desired.json");
    assert_eq!(load(&path, &node()).unwrap(), None);
    for desired in [held(5, &["hello", "other"]), held(6, &[])] {
        save(&path, &desired).unwrap();
        assert_eq!(load(&path, &node()).unwrap(), Some(desired));
    }
}

#[test]
fn a_changed_byte_on_disk_is_found() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("desired.json");
    save(&path, &held(5, &["hello"])).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    for damaged in [text.replace("value: 120", "value: 121"), text[..text.len() / 2].to_owned(), String::new()] {
        assert_ne!(damaged, text);
        fs::write(&path, damaged).unwrap();
        assert!(matches!(load(&path, &node()), Err(LoadError::Damaged { .. })));
    }
}
