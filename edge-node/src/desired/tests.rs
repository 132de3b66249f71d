use std::fs;

use tempfile::TempDir;

use super::*;
use crate::testing::{self, entry, message, node};

fn deployment(assignment: &str) -> ApplicationDeployment {
    testing::deployment(assignment, Digest::of(b"manifest"))
}

fn held(version: u64, names: &[&str]) -> Desired {
    adopt(None, &[], version, names.iter().map(|name| entry(&deployment(name))).collect())
}

/// What follows from these entries when those deployments have been installed.
fn adopt(held: Option<&Desired>, installed: &[&str], version: u64, entries: Vec<proto::DesiredDeployment>) -> Desired {
    let installed = installed.iter().map(|name| deployment(name).id).collect();
    match decide(&node(), held, &installed, &message(version, entries)).unwrap() {
        Decision::Adopt(desired) => desired,
        Decision::Keep => panic!("version {version} is in force"),
    }
}

/// The deployment `hello` with another artifact.
fn revision(manifest: &str) -> ApplicationDeployment {
    testing::deployment("hello", Digest::of(manifest.as_bytes()))
}

fn digest(document: &ApplicationDeployment) -> Digest {
    Digest::of(&document.to_yaml())
}

fn refusal(held: Option<&Desired>, offered: &proto::DesiredNode) -> DesiredError {
    decide(&node(), held, &BTreeSet::new(), offered).unwrap_err()
}

#[test]
fn dev_14_an_older_version_is_refused_and_the_same_one_changes_nothing() {
    let held = held(5, &["hello"]);
    let older = refusal(Some(&held), &message(4, vec![]));
    assert!(matches!(older, DesiredError::Older { .. }) && older.is_security_event());
    let same = message(5, vec![entry(&deployment("hello"))]);
    assert_eq!(decide(&node(), Some(&held), &BTreeSet::new(), &same).unwrap(), Decision::Keep);
    assert!(matches!(refusal(Some(&held), &message(5, vec![])), DesiredError::Conflict(_)));
}

#[test]
fn a_revision_that_is_at_hand_is_shared_and_one_with_other_bytes_is_not() {
    let held = held(5, &["hello", "other"]);
    let (hello, other) = (deployment("hello").id, deployment("other").id);
    let entries = vec![entry(&deployment("hello")), entry(&testing::deployment("other", Digest::of(b"new")))];
    let next = adopt(Some(&held), &[], 6, entries.clone());
    let shares = |id| Arc::ptr_eq(&held.deployments[id].wanted, &next.deployments[id].wanted);
    assert_eq!((shares(&hello), shares(&other)), (true, false));
    // The digest of what is at hand does not vouch for other bytes.
    let mut forged = entries;
    forged[0].document = [forged[0].document.as_ref(), b"\n"].concat().into();
    let refused = refusal(Some(&held), &message(6, forged));
    assert!(matches!(refused, DesiredError::Digest { .. }), "{refused}");
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

/// A document that is none, under the id of `hello`.
fn unreadable() -> proto::DesiredDeployment {
    let document = "id: 9db79949-86fb-5e45-910d-8a83dd7391cc\nmetadta: {}\n";
    proto::DesiredDeployment {
        id: deployment("hello").id.to_string(),
        digest: Digest::of(document.as_bytes()).to_string(),
        document: document.into(),
    }
}

#[test]
fn a_document_that_cannot_be_read_fails_alone_and_says_where() {
    let desired = adopt(None, &[], 1, vec![unreadable(), entry(&deployment("other"))]);
    assert!(desired.deployments[&deployment("other").id].wanted.content.is_ok());
    let reason = desired.deployments[&deployment("hello").id].wanted.content.clone().unwrap_err();
    assert!(reason.contains(".yaml:2:1") && reason.contains("metadta"), "{reason}");
}

#[test]
fn an_update_has_a_way_back_to_the_revision_that_was_installed_last() {
    let id = deployment("hello").id;
    let way_back = |desired: &Desired| {
        let way_back = desired.deployments[&id].way_back.clone();
        way_back.map(|WayBack { installed, refused }| (installed.digest, refused.is_some()))
    };
    let [one, two, three] = ["one", "two", "three"].map(revision);
    let first = adopt(None, &[], 1, vec![entry(&one)]);
    assert_eq!(way_back(&first), None, "nothing was installed before");
    assert_eq!(way_back(&adopt(Some(&first), &[], 2, vec![entry(&two)])), None, "nor was the first revision");

    let mut second = adopt(Some(&first), &["hello"], 2, vec![entry(&two)]);
    assert_eq!(way_back(&second), Some((digest(&one), false)));
    let third = adopt(Some(&second), &[], 3, vec![entry(&three)]);
    assert_eq!(way_back(&third), Some((digest(&one), false)), "the second one never was installed");
    let third = adopt(Some(&second), &["hello"], 3, vec![entry(&three)]);
    assert_eq!(way_back(&third), Some((digest(&two), false)));
    assert_eq!(way_back(&adopt(Some(&second), &[], 3, vec![entry(&one)])), None, "this is the way back itself");

    // A refusal outlives an order for something else, and not another revision.
    let failure = Failure { runs: Some(digest(&one)), ..Failure::new("exited", "hello", "status 1") };
    second.deployments.get_mut(&id).unwrap().way_back.as_mut().unwrap().refused = Some(failure);
    assert_eq!(second.deployments[&id].in_force().digest, digest(&one));
    let foreign = adopt(Some(&second), &[], 3, vec![entry(&two), entry(&deployment("other"))]);
    assert_eq!(way_back(&foreign), Some((digest(&one), true)));
    assert_eq!(way_back(&adopt(Some(&foreign), &[], 4, vec![entry(&three)])), Some((digest(&one), false)));
    let unreadable = adopt(Some(&first), &["hello"], 2, vec![unreadable()]);
    assert_eq!(way_back(&unreadable), Some((digest(&one), false)));
    assert_eq!(
        way_back(&adopt(Some(&unreadable), &["hello"], 3, vec![entry(&two)])),
        None,
        "nobody can go back to that"
    );

    let folder = TempDir::new().unwrap();
    let path = folder.path().join("desired.json");
    for desired in [second, foreign, unreadable] {
        save(&path, &desired).unwrap();
        assert_eq!(load(&path, &node()).unwrap(), Some(desired));
    }
}

#[test]
fn a_package_may_say_that_a_failed_update_is_left() {
    let first = adopt(None, &[], 1, vec![entry(&revision("one"))]);
    for (what, has_way_back) in [("leave", false), ("restore", true)] {
        let mut two = revision("two");
        let ours = serde_json::json!({ "runtime": "null", "failedUpdate": what });
        two.spec.profile.extensions.insert("x-edgewright-extensions".to_owned(), ours);
        let second = adopt(Some(&first), &["hello"], 2, vec![entry(&two)]);
        assert_eq!(second.deployments[&two.id].way_back.is_some(), has_way_back, "{what}");
    }
}

#[test]
fn dev_21_a_deployment_keeps_the_version_with_which_its_digest_was_adopted() {
    let held = held(5, &["hello"]);
    let next = adopt(Some(&held), &[], 9, vec![entry(&deployment("hello")), entry(&deployment("other"))]);
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
