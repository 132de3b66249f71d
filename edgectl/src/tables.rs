//! What each answer looks like to people: one function for each kind of answer, as text that ends with a line break.

use api::{
    Accepted, ActualComponent, App, Assignment, AssignmentState, Deployment, Failure, HistoryEntry, KeyRevoked, Logs,
    Node, NodeAdmitted, NodeState, Order, PlatformStatus, Reachability, Refusal, RepositoryAccess, Site, SiteAdmitted,
    SiteStatus,
};
use margo::{Identity, ParameterValue};

use crate::output::Table;

/// Stands in a cell whose value is not known.
const NONE: &str = "-";

fn or_none(value: Option<impl ToString>) -> String {
    value.map_or_else(|| NONE.to_owned(), |value| value.to_string())
}

/// Stands for the key of a site or node that has none in force.
const NO_KEY: &str = "revoked";

/// The beginning of the key in force: enough to compare it with another one by eye.
fn key(identity: Option<&Identity>) -> String {
    match identity {
        Some(Identity::Nkey(key)) => key.as_str().chars().take(12).collect(),
        None => NO_KEY.to_owned(),
    }
}

/// A time without the fraction of its second, so that lines are easy to compare.
fn second(time: &str) -> String {
    time.split_once('.').map_or_else(|| time.to_owned(), |(seconds, _)| format!("{seconds}Z"))
}

/// The first twelve hexadecimal digits of a digest: enough to tell two apart by eye.
fn short(digest: &str) -> String {
    digest.chars().take("sha256:".len() + 12).collect()
}

/// Items parted by commas, or the mark for "nothing known" when there are none.
fn joined(items: impl IntoIterator<Item = impl ToString>) -> String {
    let text = items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ");
    if text.is_empty() { NONE.to_owned() } else { text }
}

pub(crate) fn platform(status: &PlatformStatus) -> String {
    let mut services = Table::new(["SERVICE", "VERSION", "REQUESTS", "ERRORS", "STARTED"]);
    for service in &status.services {
        let (requests, errors) = (service.requests.to_string(), service.errors.to_string());
        services.row([service.name.clone(), service.version.clone(), requests, errors, second(&service.started)]);
    }
    for name in &status.missing {
        services.row([name.clone(), "missing".to_owned()]);
    }
    let mut counts = Table::default();
    counts.field("sites", known(status.sites));
    counts.field("nodes", format_args!("{}, {} reachable", known(status.nodes), known(status.reachable)));
    counts.field("deployments", format_args!("{}, {} installed", known(status.deployments), known(status.installed)));
    counts.field("dead letters", known(status.dead_letters));
    format!("{services}\n{counts}{}", refusals(&status.refusals))
}

/// A number, or the word for one that no service tells now.
fn known(number: Option<u64>) -> String {
    number.map_or_else(|| "unknown".to_owned(), |number| number.to_string())
}

/// A table of refusals, or no text at all when there are none.
fn refusals(refusals: &[Refusal]) -> String {
    if refusals.is_empty() {
        return String::new();
    }
    let mut table = Table::new(["REFUSED", "AT", "WHY"]);
    for Refusal { subject, reason, at } in refusals {
        table.row([subject.clone(), second(at), reason.clone()]);
    }
    format!("\n{table}")
}

pub(crate) fn apps(apps: &[App]) -> String {
    let mut table = Table::new(["APP", "NAME", "PROFILES", "ADDED BY", "ADDED AT"]);
    for app in apps {
        let profiles = joined(app.profiles.iter().map(|profile| format!("{} ({})", profile.id, profile.kind)));
        let version = format!("{}@{}", app.id, app.version);
        table.row([version, app.name.clone(), profiles, app.added_by.clone(), second(&app.added_at)]);
    }
    table.to_string()
}

pub(crate) fn sites(sites: &[Site]) -> String {
    let mut table = Table::new(["SITE", "KEY", "NODES", "MANIFEST", "LAST SEEN", "LOGIN UNTIL", "REFUSALS"]);
    for site in sites {
        table.row([
            site.name.to_string(),
            key(site.identity.as_ref()),
            site.nodes.to_string(),
            or_none(site.adopted_manifest_version),
            or_none(site.last_seen.as_deref().map(second)),
            or_none(site.login_expires.as_deref().map(second)),
            site.refusals.len().to_string(),
        ]);
    }
    let all = sites.iter().flat_map(|site| site.refusals.iter().cloned()).collect::<Vec<_>>();
    format!("{table}{}", refusals(&all))
}

pub(crate) fn nodes(nodes: &[Node]) -> String {
    let mut table = Table::new(["NODE", "KEY", "STATE", "REACHABILITY", "SINCE"]);
    for node in nodes {
        let (state, reachability) = (node_state(node.state).to_owned(), reachability(node.reachability).to_owned());
        let (key, since) = (key(node.identity.as_ref()), or_none(node.since.as_deref().map(second)));
        table.row([node.name.to_string(), key, state, reachability, since]);
    }
    table.to_string()
}

fn node_state(state: NodeState) -> &'static str {
    match state {
        NodeState::Active => "active",
        NodeState::Leaving => "leaving",
        NodeState::Retired => "retired",
    }
}

fn reachability(reachability: Reachability) -> &'static str {
    match reachability {
        Reachability::Reachable => "reachable",
        Reachability::Unreachable => "unreachable",
        Reachability::Unknown => "unknown",
    }
}

fn assignment_state(state: AssignmentState) -> &'static str {
    match state {
        AssignmentState::Active => "active",
        AssignmentState::Removed => "removed",
    }
}

fn app_of(assignment: &Assignment) -> String {
    format!("{}@{}", assignment.spec.app.id, assignment.spec.app.version)
}

fn targets_of(assignment: &Assignment) -> String {
    let nodes = assignment.spec.targets.nodes.iter().map(ToString::to_string);
    joined(nodes.chain(assignment.spec.targets.sites.iter().map(|site| format!("{site}/*"))))
}

pub(crate) fn assignments(assignments: &[Assignment]) -> String {
    let mut table = Table::new(["ASSIGNMENT", "REVISION", "STATE", "APP", "TARGETS", "PLACED ON"]);
    for assignment in assignments {
        let state = assignment_state(assignment.state).to_owned();
        let placed = assignment.placement.iter().filter(|placed| placed.digest.is_some()).count().to_string();
        table.row([
            assignment.name.to_string(),
            assignment.revision.to_string(),
            state,
            app_of(assignment),
            targets_of(assignment),
            placed,
        ]);
    }
    table.to_string()
}

pub(crate) fn assignment(assignment: &Assignment) -> String {
    assignment_after(Table::default(), assignment)
}

pub(crate) fn accepted(accepted: &Accepted) -> String {
    let mut fields = Table::default();
    fields.field("order", &accepted.order);
    assignment_after(fields, &accepted.assignment)
}

fn assignment_after(mut fields: Table, assignment: &Assignment) -> String {
    fields.field("assignment", &assignment.name);
    fields.field("revision", assignment.revision);
    fields.field("state", assignment_state(assignment.state));
    fields.field("app", app_of(assignment));
    fields.field("profile", or_none(assignment.spec.profile.as_ref()));
    fields.field("targets", targets_of(assignment));
    for (name, value) in &assignment.spec.parameters {
        fields.field(&format!("set {name}"), ParameterValue::to_env(value));
    }
    format!("{fields}{}", placement(assignment))
}

/// A table of the nodes on which the assignment is placed, or no text at all when there is none.
fn placement(assignment: &Assignment) -> String {
    if assignment.placement.is_empty() {
        return String::new();
    }
    let mut table = Table::new(["NODE", "DEPLOYMENT", "PROFILE", "DIGEST"]);
    for placed in &assignment.placement {
        let digest = placed.digest.clone().unwrap_or_else(|| "to be removed".to_owned());
        table.row([placed.node.to_string(), placed.deployment.to_string(), placed.profile.clone(), digest]);
    }
    format!("\n{table}")
}

fn components(deployment: &Deployment) -> &[ActualComponent] {
    deployment.actual.as_ref().map_or(&[], |actual| actual.components.as_slice())
}

/// The lines of a log. What steers a terminal is escaped: an application may write anything.
pub(crate) fn logs(logs: &Logs) -> String {
    logs.lines.iter().map(|line| format!("{}\n", process::escaped(line))).collect()
}

/// Why the deployment failed if it did, else where its components answer.
fn details(deployment: &Deployment) -> String {
    match failure(deployment) {
        Some(failure) => reason(failure),
        None => joined(components(deployment).iter().filter_map(|component| component.endpoint.as_deref())),
    }
}

/// The failure of a failed deployment: its own, else that of its first component that reports one.
pub(crate) fn failure(deployment: &Deployment) -> Option<&Failure> {
    let actual = deployment.actual.as_ref().filter(|_| deployment.state == margo::State::Failed)?;
    actual.failure.as_ref().or_else(|| actual.components.iter().find_map(|component| component.failure.as_ref()))
}

/// The code and the message of a failure in one line.
pub(crate) fn reason(failure: &Failure) -> String {
    format!("{}: {}", failure.code, failure.message)
}

pub(crate) fn deployments(deployments: &[Deployment]) -> String {
    let mut table = Table::new(["NODE", "ASSIGNMENT", "APP", "STATE", "DETAILS", "DEPLOYMENT"]);
    for deployment in deployments {
        let desired = &deployment.desired;
        table.row([
            desired.node.to_string(),
            desired.assignment.to_string(),
            format!("{}@{}", desired.app, desired.version),
            deployment.state.to_string(),
            details(deployment),
            desired.id.to_string(),
        ]);
    }
    table.to_string()
}

pub(crate) fn deployment(deployment: &Deployment) -> String {
    let mut fields = Table::default();
    fields.field("deployment", deployment.desired.id);
    fields.field("node", &deployment.desired.node);
    fields.field(
        "assignment",
        format_args!("{}, revision {}", deployment.desired.assignment, deployment.desired.revision),
    );
    fields.field("app", format_args!("{}@{}", deployment.desired.app, deployment.desired.version));
    fields.field("profile", &deployment.desired.profile);
    fields.field("wanted", deployment.desired.digest.as_deref().unwrap_or("to be removed"));
    fields.field("state", deployment.state);
    if let Some(actual) = &deployment.actual {
        fields.field("node holds", &actual.digest);
        fields.field("node says", actual.state);
        fields.field("node said so at", second(&actual.reported_at));
    }
    if let Some(failure) = failure(deployment) {
        fields.field("failure", reason(failure));
        if let Some(runs) = &failure.runs {
            fields.field("runs again", runs);
        }
    }
    if components(deployment).is_empty() {
        return fields.to_string();
    }
    let mut table = Table::new(["COMPONENT", "STATE", "ENDPOINT", "FAILURE"]);
    for component in components(deployment) {
        let failure = component.failure.as_ref().map(reason);
        let (endpoint, failure) = (or_none(component.endpoint.as_ref()), or_none(failure));
        table.row([component.name.clone(), component.state.to_string(), endpoint, failure]);
    }
    format!("{fields}\n{table}")
}

pub(crate) fn history(entries: &[HistoryEntry]) -> String {
    let mut table = Table::new(["AT", "NODE", "COMPONENT", "STATE", "FAILURE", "DIGEST"]);
    for entry in entries {
        table.row([
            second(&entry.at),
            entry.node.to_string(),
            or_none(entry.component.as_ref()),
            entry.state.to_string(),
            or_none(entry.failure.as_ref().map(reason)),
            short(&entry.digest),
        ]);
    }
    table.to_string()
}

pub(crate) fn orders(orders: &[Order]) -> String {
    let mut table = Table::new(["AT", "KIND", "ASSIGNMENT", "REVISION", "BY", "IN GIT", "REASON", "ORDER"]);
    for order in orders {
        table.row([
            second(&order.requested_at),
            order.kind.clone(),
            order.assignment.to_string(),
            order.revision.to_string(),
            order.requested_by.clone(),
            if order.committed { "yes" } else { "not yet" }.to_owned(),
            or_none(order.reason.as_ref()),
            order.id.clone(),
        ]);
    }
    table.to_string()
}

pub(crate) fn site_admitted(site: &SiteAdmitted, credentials: &str) -> String {
    let mut fields = Table::default();
    fields.field("site", &site.name);
    fields.field("order", &site.order);
    fields.field("credentials", credentials);
    if let Some(repository) = &site.repository {
        fields.field("repository", &repository.url);
    }
    fields.to_string()
}

pub(crate) fn repository(repository: &RepositoryAccess) -> String {
    let mut fields = Table::default();
    fields.field("url", &repository.url);
    fields.field("token", &repository.token);
    fields.to_string()
}

pub(crate) fn node_admitted(node: &NodeAdmitted, credentials: &str) -> String {
    let mut fields = Table::default();
    fields.field("node", &node.name);
    fields.field("order", &node.order);
    fields.field("credentials", credentials);
    fields.to_string()
}

pub(crate) fn key_revoked(revoked: &KeyRevoked) -> String {
    let mut fields = Table::default();
    fields.field("name", &revoked.name);
    fields.field("order", &revoked.order);
    fields.field("key", NO_KEY);
    fields.field("former keys", joined(&revoked.former_keys));
    fields.to_string()
}

pub(crate) fn site(status: &SiteStatus) -> String {
    let mut fields = Table::default();
    fields.field("site", &status.site);
    fields.field("hub", if status.hub_connected { "connected" } else { "not connected" });
    if let Some(expires) = &status.login_expires {
        fields.field("login at the hub until", expires);
    }
    fields.field("manifest", or_none(status.manifest_version));
    fields.field("commit", or_none(status.commit.as_ref()));
    fields.field("waiting for the hub", status.waiting);
    let mut nodes = Table::new(["NODE", "REACHABILITY", "INCARNATION", "DESIRED", "INSTALLED"]);
    for node in &status.nodes {
        nodes.row([
            node.name.clone(),
            reachability(node.reachability).to_owned(),
            node.incarnation.to_string(),
            node.desired.to_string(),
            node.installed.to_string(),
        ]);
    }
    format!("{fields}\n{nodes}{}", refusals(&status.refusals))
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::json;

    use super::*;

    /// A public NKey of a user; its seed is nobody's.
    const KEY: &str = "UDLVVGABQKYQVN6VJP7NHSLEA45A5YLS6PNKMIZFV4BBU2HXA5IRUVAL";

    fn of<T: DeserializeOwned>(json: serde_json::Value) -> T {
        serde_json::from_value(json).unwrap()
    }

    /// All tables, one after the other, as they were reviewed. `UPDATE_GOLDEN=1` writes the file anew.
    #[test]
    fn tables_are_as_they_were_reviewed() {
        let refusals = json!([{ "subject": "desired.plant.head", "reason": "forged", "at": "2026-11-21T10:00:00Z" }]);
        let id = "9db79949-86fb-5e45-910d-8a83dd7391cc";
        let assignment = json!({
            "name": "hello", "revision": 3, "app": { "id": "hello", "version": "1.0.0" }, "profile": "wasm",
            "parameters": { "greeting": "Moin", "times": 3 }, "state": "active",
            "targets": { "nodes": ["plant/press"], "sites": ["bakery"] },
            "placement": [
                { "node": "plant/press", "deployment": id, "profile": "wasm", "digest": "sha256:a" },
                { "node": "plant/oven", "deployment": id, "profile": "wasm" },
            ],
        });
        let deployment = |state: &str, failure: serde_json::Value| {
            json!({
                "id": id, "assignment": "hello", "node": "plant/press", "app": "hello", "version": "1.0.0",
                "profile": "wasm", "digest": "sha256:a", "revision": 3, "state": state,
                "actual": {
                    "id": id, "node": "plant/press", "digest": "sha256:a", "state": state, "adoptedManifestVersion": 7,
                    "reportedAt": "2026-11-21T10:00:00Z",
                    "components": [{ "name": "hello", "state": state, "endpoint": "http://127.0.0.1:8080/", "failure": failure }],
                },
            })
        };
        let failed = json!({ "code": "exited", "source": "hello", "message": "\u{1b}[31mstatus 1" });
        let platform_status = of(json!({
            "services": [{
                "name": "git-writer", "id": "x", "version": "0.1.0", "started": "2026-11-21T10:00:00Z", "requests": 12,
                "errors": 1,
            }],
            "missing": ["app-registry"], "sites": 1, "nodes": 2, "reachable": 1, "deployments": 2, "installed": 1,
            "deadLetters": 0, "refusals": refusals,
        }));
        let app = json!({
            "id": "hello", "version": "1.0.0", "name": "Hello", "profiles": [{ "id": "wasm", "type": "custom" }],
            "digest": margo::Digest::of(b""), "addedBy": "ada", "addedAt": "2026-11-21T10:00:00Z",
        });
        let all_sites = json!([
            { "name": "bakery", "formerKeys": [{"nkey": KEY}], "nodes": 0 },
            {
                "name": "plant", "identity": {"nkey": KEY}, "nodes": 2, "adoptedManifestVersion": 7,
                "lastSeen": "2026-11-21T10:00:00Z", "loginExpires": "2027-02-19T10:00:00Z", "refusals": refusals,
            },
        ]);
        let all_nodes = json!([
            {
                "name": "plant/oven", "deviceId": "plant/oven", "formerKeys": [{"nkey": KEY}], "state": "active",
                "reachability": "unknown",
            },
            {
                "name": "plant/press", "deviceId": "plant/press", "identity": {"nkey": KEY}, "state": "active",
                "reachability": "reachable", "since": "2026-11-21T10:00:00Z",
            },
        ]);
        let revoked = json!({ "order": "0193", "name": "plant/oven", "formerKeys": [{"nkey": KEY}] });
        let order = json!({
            "id": "0193", "kind": "create", "assignment": "hello", "revision": 1, "requestedBy": "ada",
            "requestedAt": "2026-11-21T10:00:00Z", "reason": "first try", "committed": true,
        });
        let entry = json!({
            "node": "plant/press", "digest": "sha256:a", "component": "hello", "state": "failed", "failure": failed,
            "adoptedManifestVersion": 7, "at": "2026-11-21T10:00:00Z",
        });
        let site_status = of(json!({
            "site": "plant", "hubConnected": false, "manifestVersion": 7, "commit": "0a1b", "waiting": 2,
            "nodes": [{ "name": "press", "reachability": "unreachable", "incarnation": 1, "desired": 2, "installed": 1 }],
            "refusals": [],
        }));
        let installed = deployment("installed", serde_json::Value::Null);
        let failed = deployment("failed", failed);
        let text = [
            platform(&platform_status),
            apps(&[of(app)]),
            sites(&of::<Vec<_>>(all_sites)),
            nodes(&of::<Vec<_>>(all_nodes)),
            key_revoked(&of(revoked)),
            assignments(&[of(assignment.clone())]),
            accepted(&of(json!({ "order": "0193", "assignment": assignment }))),
            deployments(&[of(installed), of(failed.clone())]),
            self::deployment(&of(failed)),
            history(&[of(entry)]),
            orders(&[of(order)]),
            site(&site_status),
        ]
        .join("----\n");
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tables.txt");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(golden, &text).unwrap();
        }
        assert_eq!(text, std::fs::read_to_string(golden).unwrap());
    }
}
