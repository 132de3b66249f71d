use prost::Message;
use serde_json::json;

use super::*;
use crate::report::limits::MAX_TEXT;

const ID: &str = "9db79949-86fb-5e45-910d-8a83dd7391cc";

fn raw_status() -> proto::NodeStatus {
    proto::NodeStatus {
        incarnation: 1,
        sequence: 7,
        version: 3,
        deployments: vec![proto::DeploymentStatus {
            id: ID.into(),
            digest: Digest::of(b"document").to_string(),
            adopted_manifest_version: 3,
            state: proto::State::Installed.into(),
            failure: None,
            components: vec![proto::ComponentStatus {
                name: "hello".into(),
                state: proto::State::Installed.into(),
                failure: None,
                endpoint: "http://192.0.2.7:8080/".into(),
                ..Default::default()
            }],
        }],
        refusals: vec![],
        time: 1_000_000_000,
        agent: "0.1.0".into(),
        generation: 0,
    }
}

fn refused(change: impl FnOnce(&mut proto::NodeStatus)) -> String {
    let mut raw = raw_status();
    change(&mut raw);
    status(&raw.encode_to_vec()).unwrap_err().to_string()
}

#[test]
fn a_status_is_read_with_its_position() {
    let status = status(&raw_status().encode_to_vec()).unwrap();
    assert_eq!(status.position, Position { generation: 0, incarnation: 1, sequence: 7 });
    assert_eq!(status.deployments[0].state, State::Installed);
    assert_eq!(status.time.to_string(), "1970-01-01T00:00:01Z");
}

#[test]
fn a_state_that_we_do_not_know_is_not_guessed() {
    assert_eq!(refused(|raw| raw.deployments[0].state = 0), "deployments[0].state: 0 is no state");
    let component = refused(|raw| raw.deployments[0].components[0].state = 99);
    assert_eq!(component, "deployments[0].components[0].state: 99 is no state");
}

#[test]
fn every_objection_names_its_field() {
    assert_eq!(refused(|raw| raw.incarnation = 0), "incarnation: must be at least 1");
    assert_eq!(refused(|raw| raw.sequence = 0), "sequence: must be at least 1");
    assert_eq!(refused(|raw| raw.sequence = 1 << 53), "sequence: 9007199254740992 is more than 2^53 - 1");
    assert!(refused(|raw| raw.deployments[0].id = "x".into()).starts_with("deployments[0].id: "));
    assert!(refused(|raw| raw.deployments[0].digest = "md5:1".into()).starts_with("deployments[0].digest: "));
    let twice = refused(|raw| raw.deployments.push(raw.deployments[0].clone()));
    assert_eq!(twice, format!("deployments: {ID} is listed twice"));
    let many = refused(|raw| raw.deployments[0].components = vec![Default::default(); MAX_COMPONENTS + 1]);
    assert_eq!(many, "deployments[0].components: 201 entries are more than 200");
    let many = refused(|raw| raw.deployments = vec![Default::default(); MAX_DEPLOYMENTS + 1]);
    assert_eq!(many, "deployments: 501 entries are more than 500");
}

#[test]
fn transitions_are_limited_in_number_and_checked_like_a_status() {
    let transition = proto::Transition {
        number: 1,
        deployment: ID.into(),
        digest: Digest::of(b"document").to_string(),
        state: proto::State::Failed.into(),
        ..Default::default()
    };
    let raw = |transitions| proto::NodeEvents { incarnation: 1, sequence: 1, transitions, lost: 0, generation: 0 };
    let read = |transitions| events(&raw(transitions).encode_to_vec());
    assert_eq!(read(vec![transition.clone(); MAX_TRANSITIONS]).unwrap().transitions.len(), MAX_TRANSITIONS);
    let many = read(vec![transition.clone(); MAX_TRANSITIONS + 1]).unwrap_err();
    assert_eq!(many.to_string(), "transitions: 2001 entries are more than 2000");
    let wrong = read(vec![proto::Transition { state: 0, ..transition }]).unwrap_err();
    assert_eq!(wrong.to_string(), "transitions[0].state: 0 is no state");
}

#[test]
fn a_long_text_is_cut_and_the_state_beside_it_kept() {
    let mut raw = raw_status();
    raw.deployments[0].failure = Some(proto::Failure { message: "é".repeat(MAX_TEXT + 1), ..Default::default() });
    let status = status(&raw.encode_to_vec()).unwrap();
    assert_eq!(status.deployments[0].failure.as_ref().unwrap().message.chars().count(), MAX_TEXT);
}

#[test]
fn fields_of_a_later_version_are_no_reason_to_refuse() {
    // Field 100, a varint: none of ours.
    let mut bytes = raw_status().encode_to_vec();
    bytes.extend([0xa0, 0x06, 0x01]);
    assert!(status(&bytes).is_ok());
}

#[test]
fn what_is_too_long_is_not_decoded() {
    let bytes = vec![0; super::super::MAX_REPORT + 1];
    assert!(matches!(status(&bytes), Err(Malformed::TooLarge { .. })));
}

fn check(document: impl ToString) -> Result<String, String> {
    let raw =
        proto::NodeCapabilities { incarnation: 1, sequence: 1, document: document.to_string().into(), generation: 0 };
    let read = capabilities(&raw.encode_to_vec());
    read.map(|capabilities| capabilities.document).map_err(|error| error.to_string())
}

#[test]
fn wfm_15_unknown_runtimes_and_deployment_types_are_no_reason_to_refuse() {
    let document = json!({ "properties": {
        "id": "plant/press", "supportedRuntimes": ["oci", "quantum"], "supportedDeploymentTypes": ["punch-cards"],
    }});
    assert_eq!(check(&document), Ok(document.to_string()));
}

#[test]
fn wfm_16_extensions_are_kept() {
    let document = json!({ "properties": { "id": "plant/press" }, "x-acme-extensions": { "colour": "blue" } });
    assert_eq!(check(&document), Ok(document.to_string()));
}

#[test]
fn capabilities_name_a_device() {
    for bad in [json!({}), json!([]), json!(7), json!({ "properties": { "id": 7 } })] {
        assert_eq!(check(&bad).unwrap_err(), "document: properties.id: must be a text", "{bad}");
    }
    let climbing = check(json!({ "properties": { "id": "../press" } })).unwrap_err();
    assert!(climbing.starts_with("document: properties.id: "), "{climbing}");
    let list = check(json!({ "properties": { "id": "plant/press", "supportedRuntimes": "oci" } }));
    assert_eq!(list.unwrap_err(), "document: properties.supportedRuntimes: must be a list of names");
}

#[test]
fn a_capabilities_document_that_nobody_needs_is_too_large() {
    let large = json!({ "properties": { "id": "plant/press" }, "labels": { "x": "y".repeat(MAX_CAPABILITIES) } });
    assert_eq!(check(large).unwrap_err(), "document: larger than 65536 bytes");
    assert!(check("[".repeat(100_000)).is_err());
}
