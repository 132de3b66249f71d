//! The documents of the bus name every subject that the code has.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use std::collections::BTreeSet;

use bus::Subject;

/// Every kind of subject, with `open` and `close` around what varies.
fn kinds(open: char, close: char) -> BTreeSet<String> {
    let node = "the-client/the-node".parse().unwrap();
    let of_kind = |subject: Subject| match subject {
        Subject::Service(..) => format!("svc.{open}service{close}.{open}verb{close}"),
        Subject::SitePart(..) => format!("site.{open}client{close}.part.{open}id{close}"),
        Subject::NodePart(..) => format!("node.{open}client{close}.{open}node{close}.part.{open}id{close}"),
        named => named
            .to_string()
            .replace("the-client", &format!("{open}client{close}"))
            .replace("the-node", &format!("{open}node{close}"))
            .replace("git.write.deployment-registry", &format!("git.write.{open}service{close}")),
    };
    Subject::one_of_each(&node).into_iter().map(of_kind).collect()
}

fn missing(document: &str, kinds: &BTreeSet<String>, quote: impl Fn(&str) -> String) -> Vec<String> {
    let text = std::fs::read_to_string(format!("{}/../../docs/{document}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    kinds.iter().filter(|kind| !text.contains(&quote(kind))).cloned().collect()
}

#[test]
fn the_manual_names_every_subject() {
    assert_eq!(missing("bus.md", &kinds('<', '>'), |kind| format!("`{kind}`")), Vec::<String>::new());
}

#[test]
fn the_asyncapi_file_names_every_subject() {
    let kinds = kinds('{', '}');
    assert_eq!(missing("asyncapi.yaml", &kinds, |kind| format!("address: {kind}\n")), Vec::<String>::new());
    assert!(
        kinds.contains("desired.{client}.node.{node}") && kinds.contains("git.write.{service}.client.{client}"),
        "{kinds:?}"
    );
}
