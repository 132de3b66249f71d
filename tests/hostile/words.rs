//! Texts of hostile clients in what people read: logs, and what edgectl shows.

use std::fs;

use async_nats::HeaderMap;
use bus::{
    NodeVerb, SiteVerb, Subject, proto,
    report::{PROTOCOL, new_session},
};
use end_to_end::Platform;
use prost::Message as _;
use serde_json::json;
use tar::{Builder, Header};

use crate::world::{ghost, ghost_login, hostile, order, plant, platform, site_login};

/// What an attacker would like to have in a log: a line of its own, and a terminal that does what it says.
const FORGED: &str = "forged\n2026-01-01T00:00:00.000000Z ERROR forged: by nobody\r\u{1b}[2J\u{9b}2J\u{2028}\u{202e}";

/// A tar with one entry.
fn archive(path: &str, content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    let mut tar = Builder::new(Vec::new());
    tar.append(&header, content).unwrap();
    tar.into_inner().unwrap()
}

/// Lines of what the processes wrote and edgectl showed that begin as the attacker wished, or do something to a terminal.
fn forged_lines(platform: &Platform) -> Vec<String> {
    let mut texts: Vec<_> = platform
        .process_names()
        .iter()
        .map(|name| fs::read_to_string(platform.folder().join(format!("{name}.log"))).unwrap())
        .collect();
    for folder in [platform.hub(), platform.site("plant"), platform.site("depot")] {
        texts.push(fs::read_to_string(folder.join("nats/server.log")).unwrap());
    }
    for what in ["apps", "nodes", "sites", "deployments", "assignments"] {
        texts.push(platform.edgectl_ok(&["co", "list", what]));
    }
    texts.push(platform.edgectl_ok(&["lo", "status", "--site", "plant"]));
    // A server of another project ends some lines of its log as on another system.
    let lines = texts.iter().flat_map(|text| text.split('\n')).map(|line| line.strip_suffix('\r').unwrap_or(line));
    let forged =
        |line: &&str| line.starts_with("2026-01-01") || line.contains(|c: char| process::steers(c) && c != '\t');
    lines.filter(forged).map(|line| format!("{line:?}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_text_of_an_attacker_forges_a_line_or_steers_a_terminal() {
    let platform = platform().await;
    // Whoever may publish applications.
    let uploads = [
        archive(FORGED, b""),
        archive(&format!("blobs/sha256/{FORGED}"), b""),
        archive(
            "index.json",
            json!({"schemaVersion": 2, "manifests": [{"mediaType": FORGED, "digest": FORGED, "size": 1}]})
                .to_string()
                .as_bytes(),
        ),
        archive("oci-layout", json!({"imageLayoutVersion": FORGED, (FORGED): FORGED}).to_string().as_bytes()),
    ];
    let http = reqwest::Client::new();
    for upload in uploads {
        let request = http.post(format!("{}/apps", platform.api())).bearer_auth(platform.token().trim());
        let answer = request.header("content-type", "application/x-tar").body(upload).send().await.unwrap();
        assert!(answer.status().is_client_error(), "{}", answer.status());
    }
    let body = json!({"name": FORGED, "identity": {"nkey": FORGED}, (FORGED): FORGED});
    let request = http.post(format!("{}/nodes", platform.api())).bearer_auth(platform.token().trim()).json(&body);
    assert!(request.send().await.unwrap().status().is_client_error());

    // The key of a site.
    let site = hostile(&site_login(&platform)).await;
    let message = proto::WindowMessage {
        node: FORGED.into(),
        traceparent: FORGED.into(),
        payload: FORGED.into(),
        ..Default::default()
    };
    let strange = |session: &str| proto::Window {
        protocol: PROTOCOL,
        session: session.into(),
        number: 1,
        state_stream: FORGED.into(),
        messages: vec![message.clone()],
        ..Default::default()
    };
    let bodies = [
        (SiteVerb::Report, strange(FORGED).encode_to_vec()),
        (SiteVerb::Report, strange(&new_session()).encode_to_vec()),
        (SiteVerb::Positions, proto::PositionsRequest { protocol: PROTOCOL, after: FORGED.into() }.encode_to_vec()),
        (SiteVerb::Desired, FORGED.into()),
        (SiteVerb::Store, json!(FORGED).to_string().into()),
    ];
    for (verb, body) in bodies {
        // Some are not answered, because whoever sends such a thing is none of ours.
        let _ = site.request(&Subject::Site(plant(), verb), HeaderMap::new(), body.into()).await;
    }

    // The key of a node.
    let node = hostile(&ghost_login(&platform).await).await;
    let status = proto::NodeStatus { incarnation: 1, sequence: 1, agent: FORGED.into(), ..Default::default() };
    let report = proto::ReportRequest {
        status: Some(status),
        traceparent: FORGED.into(),
        traces: FORGED.into(),
        state_stream: FORGED.into(),
        ..Default::default()
    };
    for (verb, body) in [
        (NodeVerb::Report, report.encode_to_vec()),
        (NodeVerb::Register, FORGED.into()),
        (NodeVerb::Desired, FORGED.into()),
    ] {
        let _ = node.request(&Subject::Node(ghost(), verb), HeaderMap::new(), body.into()).await;
    }

    order(&platform, "plants", "oven", "after-strange-words").await;
    let registry = fs::read_to_string(platform.folder().join("app-registry.log")).unwrap();
    assert!(registry.contains(r"forged\n2026-01-01"), "app-registry did not tell of the uploads:\n{registry}");
    let forged = forged_lines(&platform);
    assert!(forged.is_empty(), "{} lines:\n{}", forged.len(), forged.join("\n"));
}
