//! A change as writes for git-writer: `fleet.git` first, then each client's repository that it touches.

use std::collections::BTreeMap;

use api::AssignmentState;
use bus::proto;
use git_state::layout::{self, AssignmentFile, Placement, PlacementFile};
use margo::{AppId, AppVersion, ClientName, DeploymentId, Digest, RepositoryName, TenantName};
use outbox::{AuditSubject, Object};
use proto::{
    ClientChange, FileChange, FleetChange, GitWrite, PutDeployment, RemoveDeployment, git_write::Change as What,
};
use serde::Serialize;

use crate::domain::{Assignment, Change, Deployment, OrderKind};

/// `nodes/<node>/<deployment>.json`: for readers; nothing acts on it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary<'a> {
    order: String,
    revision: u64,
    app: &'a AppId,
    app_version: &'a AppVersion,
    package_digest: Digest,
    profile: &'a str,
}

/// All writes of a change, in the order in which they are to be numbered.
pub fn writes(tenant: &TenantName, change: &Change) -> Vec<(RepositoryName, GitWrite)> {
    let subject = subject(change);
    let write = |what| change.order.write(&subject, what);
    let mut clients = BTreeMap::<&ClientName, ClientChange>::new();
    for (node, put) in &change.puts {
        let deployment = &change.assignment.deployments[node];
        let summary = Summary {
            order: change.order.id.to_string(),
            revision: deployment.revision.get(),
            app: &deployment.app.id,
            app_version: &deployment.app.version,
            package_digest: put.package,
            profile: &deployment.profile,
        };
        clients.entry(&node.client).or_default().puts.push(PutDeployment {
            node: node.node.to_string(),
            deployment: deployment.id.to_string(),
            document: put.document.clone().into(),
            summary: serde_json::to_vec_pretty(&summary).expect("strings and numbers have a JSON form").into(),
        });
    }
    for node in &change.removes {
        clients.entry(&node.client).or_default().removes.push(RemoveDeployment {
            node: node.node.to_string(),
            deployment: DeploymentId::new(tenant, &change.assignment.name, node).to_string(),
        });
    }
    let fleet = (RepositoryName::Fleet, write(What::Fleet(FleetChange { files: fleet_files(change) })));
    let clients = clients
        .into_iter()
        .map(|(client, change)| (RepositoryName::Client(client.clone()), write(What::Client(change))));
    std::iter::once(fleet).chain(clients).collect()
}

fn subject(change: &Change) -> AuditSubject {
    let Assignment { name, spec, .. } = &change.assignment;
    let count = change.puts.len() + change.removes.len();
    let nodes = if count == 1 { "node" } else { "nodes" };
    let app = format!("{} {}", spec.app.id, spec.app.version);
    let detail = match change.kind {
        OrderKind::Create | OrderKind::Update => format!("{app} on {count} {nodes}"),
        OrderKind::Remove => format!("from {count} {nodes}"),
        OrderKind::Place => format!("{app} on {count} more {nodes}"),
    };
    AuditSubject { verb: change.kind.into(), object: Object::Assignment(name.clone()), detail: Some(detail) }
}

fn fleet_files(change: &Change) -> Vec<FileChange> {
    let Assignment { name, state, .. } = &change.assignment;
    let file = |path, content: Option<Vec<u8>>| FileChange { path, content: content.map(Into::into) };
    let assignment = || file(layout::assignment(name), Some(margo::to_yaml(&assignment_file(&change.assignment))));
    let placement = match state {
        AssignmentState::Active => Some(margo::to_yaml(&placement_file(&change.assignment))),
        AssignmentState::Removed => None,
    };
    let placement = file(layout::placement(name), placement);
    match change.kind {
        // What is meant stays as it is.
        OrderKind::Place => vec![placement],
        OrderKind::Create | OrderKind::Update | OrderKind::Remove => vec![assignment(), placement],
    }
}

fn assignment_file(assignment: &Assignment) -> AssignmentFile {
    let Assignment { name, revision, state, spec, .. } = assignment;
    AssignmentFile {
        name: name.clone(),
        revision: revision.get(),
        state: *state,
        app: spec.app.id.clone(),
        version: spec.app.version.clone(),
        profile: spec.profile.clone().unwrap_or_default(),
        parameters: spec.parameters.clone(),
        nodes: spec.targets.nodes.clone(),
        sites: spec.targets.sites.clone(),
        volumes: spec.volumes,
    }
}

fn placement_file(assignment: &Assignment) -> PlacementFile {
    let placement = |deployment: &Deployment| Placement {
        profile: deployment.profile.clone(),
        revision: deployment.revision.get(),
        order: deployment.order.to_string(),
    };
    let nodes = assignment.deployments.iter().map(|(node, deployment)| (node.clone(), placement(deployment)));
    PlacementFile { assignment: assignment.name.clone(), nodes: nodes.collect() }
}
