//! How assignments, deployments and orders are kept: the only file that knows SQL.
//!
//! **Layout.** `assignments` has one row for each name that was ever given, also after a removal, because names are never
//! used again. `deployments` has one row for each node that has, or had, an assignment, with the exact bytes of its
//! document; the documents may be gigabytes, so only the queries that need them read them. `orders` has one row for each
//! accepted order, with its rows of the outbox, from which follows whether it stands in Git.
//!
//! **Updates.** Whatever an order changes is one transaction: the assignment if it is still at the revision on which the
//! order was decided, the deployments, the writes in the outbox, and the order. An order's position is one more than the
//! greatest committed one; the primary key refuses a second order with the same one.
//!
//! **After a crash.** An order is there whole or not at all. Its answer may be lost: whoever ordered reads the revision,
//! and sees whether it has risen.

use std::collections::BTreeMap;

use ::store::{Database, MAX_ROWS, Migrations, Row, StoreError, Table, Transaction, json};
use api::{AppRef, AssignmentState, DesiredDeployment};
use bus::proto::GitWrite;
use margo::{AssignmentName, DeploymentId, NodeId, RepositoryName, Revision, TenantName};
use outbox::Outbox;

use crate::domain::{Assignment, Change, Deployment};

/// Orders that are shown: the newest ones.
const SHOWN_ORDERS: u64 = 1_000;

static ASSIGNMENTS: Table = Table::new("assignments", &["name"]);
static DEPLOYMENTS: Table = Table::new("deployments", &["id", "node"]);
static ORDERS: Table = Table::new("orders", &["id"]);

const MIGRATIONS: Migrations = Migrations::new(&[(1, "orders", include_str!("../migrations/1_orders.sql"))]);

/// A query for deployments without their documents.
macro_rules! deployments {
    ($rest:literal) => {
        DEPLOYMENTS.query(concat!(
            "SELECT id, assignment, node, device_id, app, version, profile, revision, order_id, digest
             FROM deployments WHERE tenant = $1 ",
            $rest
        ))
    };
}

/// What the service holds of one tenant.
pub struct Store {
    database: Database,
    outbox: Outbox,
    tenant: TenantName,
}

/// A document that a node holds.
pub struct HeldDocument {
    /// The deployment that the document describes.
    pub id: DeploymentId,
    /// Exact bytes of the ApplicationDeployment.
    pub document: Vec<u8>,
}

impl Store {
    /// Brings the tables to their newest form.
    pub async fn open(database: Database, outbox: Outbox, tenant: TenantName) -> anyhow::Result<Self> {
        database.migrate(&MIGRATIONS).await?;
        Ok(Self { database, outbox, tenant })
    }

    /// One assignment with its deployments.
    pub async fn load(&self, name: &AssignmentName) -> Result<Option<Assignment>, StoreError> {
        let mut snapshot = self.database.snapshot().await?;
        let held = ASSIGNMENTS.query("SELECT * FROM assignments WHERE tenant = $1 AND name = $2");
        let held = held.bind(self.tenant.as_str()).bind(name.as_str()).fetch_optional(&mut snapshot).await?;
        let Some(row) = held else { return Ok(None) };
        let mut assignment = read_assignment(&row)?;
        let held = deployments!("AND assignment = $2").bind(self.tenant.as_str()).bind(name.as_str());
        for row in held.fetch_all(&mut snapshot).await? {
            let (_, node, deployment) = read_deployment(&row)?;
            assignment.deployments.insert(node, deployment);
        }
        Ok(Some(assignment))
    }

    /// All assignments with their deployments, by name.
    pub async fn list(&self) -> Result<BTreeMap<AssignmentName, Assignment>, StoreError> {
        let mut snapshot = self.database.snapshot().await?;
        let held = ASSIGNMENTS.query("SELECT * FROM assignments WHERE tenant = $1").bind(self.tenant.as_str());
        let mut assignments = BTreeMap::new();
        for row in held.fetch_all(&mut snapshot).await? {
            let assignment = read_assignment(&row)?;
            assignments.insert(assignment.name.clone(), assignment);
        }
        let held = deployments!("").bind(self.tenant.as_str());
        for row in held.fetch_all(&mut snapshot).await? {
            let (name, node, deployment) = read_deployment(&row)?;
            if let Some(assignment) = assignments.get_mut(&name) {
                assignment.deployments.insert(node, deployment);
            }
        }
        Ok(assignments)
    }

    /// Active assignments that name sites, by name: what nodes that join may come to match.
    pub async fn standing_for_sites(&self) -> Result<Vec<AssignmentName>, StoreError> {
        let query = ASSIGNMENTS.query("SELECT name FROM assignments WHERE tenant = $1 AND standing = 1 ORDER BY name");
        let rows = query.bind(self.tenant.as_str()).fetch_all(&self.database).await?;
        rows.iter().map(|row| row.parse("name")).collect()
    }

    /// All deployments, by node and assignment.
    pub async fn deployments(&self) -> Result<Vec<DesiredDeployment>, StoreError> {
        let query = deployments!("ORDER BY node, assignment").bind(self.tenant.as_str());
        query.fetch_all(&self.database).await?.iter().map(read_desired).collect()
    }

    /// One deployment. Reads its row and no other.
    pub async fn deployment(&self, id: DeploymentId) -> Result<Option<DesiredDeployment>, StoreError> {
        let query = deployments!("AND id = $2").bind(self.tenant.as_str()).bind(id.to_string());
        query.fetch_optional(&self.database).await?.as_ref().map(read_desired).transpose()
    }

    /// The newest orders, newest first.
    pub async fn orders(&self) -> Result<Vec<api::Order>, StoreError> {
        let query = ORDERS.query("SELECT * FROM orders WHERE tenant = $1 ORDER BY position DESC LIMIT $2");
        let rows = query.bind(self.tenant.as_str()).bind(SHOWN_ORDERS).fetch_all(&self.database).await?;
        let writes = rows.iter().map(read_writes).collect::<Result<Vec<_>, _>>()?;
        let repositories = writes.iter().flatten().map(|(repository, _)| repository.clone()).collect();
        let closed = self.outbox.closed(&repositories).await?;
        let is_closed = |(repository, number): &(RepositoryName, u64)| closed.get(repository) >= Some(number);
        rows.iter().zip(writes).map(|(row, writes)| read_order(row, writes.iter().all(is_closed))).collect()
    }

    /// How many documents each of these nodes holds of other assignments, and their bytes. A node without one is missing.
    pub async fn other_documents(
        &self,
        assignment: &AssignmentName,
        nodes: impl Iterator<Item = &NodeId>,
    ) -> Result<BTreeMap<NodeId, (usize, usize)>, StoreError> {
        let nodes: Vec<_> = nodes.map(ToString::to_string).collect();
        let mut documents = BTreeMap::new();
        for nodes in nodes.chunks(MAX_ROWS) {
            let query = DEPLOYMENTS
                .query(
                    "SELECT node, count(*) AS documents, CAST(sum(length(document)) AS BIGINT) AS bytes FROM deployments
                     WHERE tenant = $1 AND assignment <> $2 AND document IS NOT NULL AND node IN ",
                )
                .bind(self.tenant.as_str())
                .bind(assignment.as_str())
                .push_list(nodes)
                .push(" GROUP BY node");
            for row in query.fetch_all(&self.database).await? {
                documents.insert(row.parse("node")?, (row.size("documents")?, row.size("bytes")?));
            }
        }
        Ok(documents)
    }

    /// The documents that a node holds of other assignments.
    pub async fn documents(&self, assignment: &AssignmentName, node: &NodeId) -> Result<Vec<HeldDocument>, StoreError> {
        let query = DEPLOYMENTS.query(
            "SELECT id, document FROM deployments
             WHERE tenant = $1 AND assignment <> $2 AND node = $3 AND document IS NOT NULL",
        );
        let query = query.bind(self.tenant.as_str()).bind(assignment.as_str()).bind(node.to_string());
        let read = |row: &Row| Ok(HeldDocument { id: row.parse("id")?, document: row.bytes("document")? });
        query.fetch_all(&self.database).await?.iter().map(read).collect()
    }

    /// Stores a change and the writes that carry it into Git, whole, if the revision that it starts from is still held.
    /// Fails with [`StoreError::Conflict`] if it is not.
    pub async fn commit(&self, change: &Change, writes: Vec<(RepositoryName, GitWrite)>) -> Result<(), StoreError> {
        let mut tx = self.database.begin().await?;
        self.replace_assignment(&mut tx, change).await?;
        self.replace_deployments(&mut tx, change).await?;
        let appended = self.outbox.append_all(&mut tx, writes).await?;
        self.insert_order(&mut tx, change, &appended).await?;
        tx.commit().await?;
        process::stop_point("deployment-registry.committed");
        self.outbox.wake(&appended);
        Ok(())
    }

    async fn replace_assignment(&self, tx: &mut Transaction, change: &Change) -> Result<(), StoreError> {
        let Assignment { name, revision, state, spec, .. } = &change.assignment;
        let standing = *state == AssignmentState::Active && !spec.targets.sites.is_empty();
        let statement = match change.from {
            None => ASSIGNMENTS.query(
                "INSERT INTO assignments (tenant, name, revision, state, spec, standing)
                 VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
            ),
            Some(_) => ASSIGNMENTS.query(
                "UPDATE assignments SET revision = $3, state = $4, spec = $5, standing = $6
                 WHERE tenant = $1 AND name = $2 AND revision = $7",
            ),
        };
        let mut statement = statement
            .bind(self.tenant.as_str())
            .bind(name.as_str())
            .bind(revision.get())
            .bind(word(*state))
            .bind(json(spec))
            .bind(standing);
        if let Some(from) = change.from {
            statement = statement.bind(from.get());
        }
        match statement.execute(tx).await? {
            0 => Err(ASSIGNMENTS.conflict(name)),
            _ => Ok(()),
        }
    }

    async fn replace_deployments(&self, tx: &mut Transaction, change: &Change) -> Result<(), StoreError> {
        let nodes: Vec<_> = change.puts.keys().chain(&change.removes).collect();
        for nodes in nodes.chunks(MAX_ROWS) {
            let statement = DEPLOYMENTS
                .query(
                    "INSERT INTO deployments
                     (tenant, id, assignment, node, device_id, app, version, profile, revision, order_id, digest,
                      document) ",
                )
                .push_rows(nodes, |row, node| {
                    let deployment = &change.assignment.deployments[*node];
                    row.bind(self.tenant.as_str())
                        .bind(deployment.id.to_string())
                        .bind(change.assignment.name.as_str())
                        .bind(node.to_string())
                        .bind(deployment.device.as_str())
                        .bind(deployment.app.id.as_str())
                        .bind(deployment.app.version.as_str())
                        .bind(&deployment.profile)
                        .bind(deployment.revision.get())
                        .bind(deployment.order.to_string())
                        .bind(deployment.digest.map(|digest| digest.to_string()))
                        .bind(change.puts.get(*node).map(|put| put.document.as_slice()))
                })
                .push(
                    " ON CONFLICT (tenant, id) DO UPDATE SET app = excluded.app, version = excluded.version,
                      profile = excluded.profile, revision = excluded.revision, order_id = excluded.order_id,
                      digest = excluded.digest, document = excluded.document",
                );
            statement.execute(tx).await?;
        }
        Ok(())
    }

    async fn insert_order(
        &self,
        tx: &mut Transaction,
        change: &Change,
        numbers: &[(RepositoryName, u64)],
    ) -> Result<(), StoreError> {
        let numbers: Vec<_> = numbers.iter().map(|(repository, number)| (repository.to_string(), number)).collect();
        let insert = ORDERS.query(
            "INSERT INTO orders
             (position, tenant, id, kind, assignment, revision, requested_by, requested_at, reason, caused_by, trace,
              writes)
             VALUES ((SELECT coalesce(max(position), 0) + 1 FROM orders), $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        );
        insert
            .bind(self.tenant.as_str())
            .bind(change.order.id.to_string())
            .bind(change.kind.as_str())
            .bind(change.assignment.name.as_str())
            .bind(change.assignment.revision.get())
            .bind(change.order.requested_by.as_str())
            .bind(&change.order.requested_at)
            .bind(&change.order.reason)
            .bind(&change.order.caused_by)
            .bind(&change.order.trace)
            .bind(json(&numbers))
            .execute(tx)
            .await?;
        Ok(())
    }
}

fn word(state: AssignmentState) -> &'static str {
    match state {
        AssignmentState::Active => "active",
        AssignmentState::Removed => "removed",
    }
}

fn read_desired(row: &Row) -> Result<DesiredDeployment, StoreError> {
    let (assignment, node, deployment) = read_deployment(row)?;
    Ok(DesiredDeployment {
        id: deployment.id,
        assignment,
        node,
        app: deployment.app.id,
        version: deployment.app.version,
        profile: deployment.profile,
        digest: deployment.digest.map(|digest| digest.to_string()),
        revision: deployment.revision.get(),
    })
}

fn read_assignment(row: &Row) -> Result<Assignment, StoreError> {
    let text = row.text("state")?;
    let states = [AssignmentState::Active, AssignmentState::Removed];
    let state = states.into_iter().find(|state| word(*state) == text);
    Ok(Assignment {
        name: row.parse("name")?,
        revision: Revision::new(row.number("revision")?),
        state: state.ok_or_else(|| row.invalid("state", format!("{text:?} is no state")))?,
        spec: row.json("spec")?,
        deployments: BTreeMap::new(),
    })
}

fn read_deployment(row: &Row) -> Result<(AssignmentName, NodeId, Deployment), StoreError> {
    let deployment = Deployment {
        id: row.parse("id")?,
        device: row.parse("device_id")?,
        app: AppRef { id: row.parse("app")?, version: row.parse("version")? },
        profile: row.string("profile")?,
        revision: Revision::new(row.number("revision")?),
        order: row.parse("order_id")?,
        digest: row.optional("digest", Row::parse)?,
    };
    Ok((row.parse("assignment")?, row.parse("node")?, deployment))
}

/// The rows of the outbox that an order has written.
fn read_writes(row: &Row) -> Result<Vec<(RepositoryName, u64)>, StoreError> {
    let named = |(repository, number): (String, u64)| {
        let repository = repository.parse::<RepositoryName>().map_err(|error| row.invalid("writes", error))?;
        Ok::<_, StoreError>((repository, number))
    };
    row.json::<Vec<(String, u64)>>("writes")?.into_iter().map(named).collect()
}

fn read_order(row: &Row, committed: bool) -> Result<api::Order, StoreError> {
    Ok(api::Order {
        id: row.string("id")?,
        kind: row.string("kind")?,
        assignment: row.parse("assignment")?,
        revision: row.number("revision")?,
        requested_by: row.string("requested_by")?,
        requested_at: row.string("requested_at")?,
        reason: row.optional("reason", Row::string)?,
        trace: row.optional("trace", Row::string)?,
        committed,
    })
}

#[cfg(test)]
mod tests;
