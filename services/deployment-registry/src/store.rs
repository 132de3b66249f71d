//! Assignments, deployments and orders in SQL; the only file that knows how they are kept.

use std::{collections::BTreeMap, error::Error, str::FromStr};

use api::{AppRef, AssignmentState, DesiredDeployment};
use bus::{Repository, proto::GitWrite};
use margo::{AssignmentName, DeploymentId, Digest, NodeId, TenantName};
use outbox::Outbox;
use serde::de::DeserializeOwned;
use sqlx::{QueryBuilder, Row, SqliteConnection, SqlitePool, sqlite::SqliteRow};

use crate::{
    domain::{Assignment, Change, Deployment},
    error::StoreError,
};

/// Orders that are shown: the newest ones.
const SHOWN_ORDERS: i64 = 1_000;

/// Rows of one statement: SQLite takes at most 32,766 values, and a deployment has eleven.
const ROWS: usize = 1_000;

/// Deployments without their documents, of which a tenant may have gigabytes.
macro_rules! deployments {
    ($rest:literal) => {
        concat!(
            r#"SELECT id, assignment, node, app, version, profile, revision, "order", digest
               FROM deployments WHERE tenant = $1 "#,
            $rest
        )
    };
}

/// What the service holds of one tenant.
pub struct Store {
    pool: SqlitePool,
    outbox: Outbox,
    tenant: TenantName,
}

/// A document that a node holds.
pub struct HeldDocument {
    /// The deployment.
    pub id: DeploymentId,
    /// Exact bytes of the ApplicationDeployment.
    pub document: Vec<u8>,
}

impl Store {
    /// Prepares the tables.
    pub async fn open(pool: SqlitePool, outbox: Outbox, tenant: TenantName) -> anyhow::Result<Self> {
        sqlx::migrate!().run(&pool).await?;
        Ok(Self { pool, outbox, tenant })
    }

    /// One assignment with its deployments.
    pub async fn load(&self, name: &AssignmentName) -> Result<Option<Assignment>, StoreError> {
        let row = sqlx::query("SELECT * FROM assignments WHERE tenant = $1 AND name = $2");
        let row = row.bind(self.tenant.as_str()).bind(name.as_str()).fetch_optional(&self.pool).await?;
        let Some(row) = row else { return Ok(None) };
        let mut assignment = read_assignment(&row)?;
        let rows = sqlx::query(deployments!("AND assignment = $2"));
        for row in rows.bind(self.tenant.as_str()).bind(name.as_str()).fetch_all(&self.pool).await? {
            let (_, node, deployment) = read_deployment(&row)?;
            assignment.deployments.insert(node, deployment);
        }
        Ok(Some(assignment))
    }

    /// All assignments with their deployments, by name.
    pub async fn list(&self) -> Result<BTreeMap<AssignmentName, Assignment>, StoreError> {
        let rows = sqlx::query("SELECT * FROM assignments WHERE tenant = $1");
        let rows = rows.bind(self.tenant.as_str()).fetch_all(&self.pool).await?;
        let assignments: Result<BTreeMap<_, _>, _> = rows
            .iter()
            .map(|row| read_assignment(row).map(|assignment| (assignment.name.clone(), assignment)))
            .collect();
        let mut assignments = assignments?;
        let rows = sqlx::query(deployments!("")).bind(self.tenant.as_str());
        for row in rows.fetch_all(&self.pool).await? {
            let (name, node, deployment) = read_deployment(&row)?;
            if let Some(assignment) = assignments.get_mut(&name) {
                assignment.deployments.insert(node, deployment);
            }
        }
        Ok(assignments)
    }

    /// Active assignments that name sites, by name: what nodes that join may come to match.
    pub async fn standing_for_sites(&self) -> Result<Vec<AssignmentName>, StoreError> {
        let rows = sqlx::query(
            "SELECT name FROM assignments
             WHERE tenant = $1 AND state = 'active' AND json_array_length(spec, '$.targets.sites') > 0 ORDER BY name",
        );
        let rows = rows.bind(self.tenant.as_str()).fetch_all(&self.pool).await?;
        rows.iter().map(|row| parse(row, "name")).collect()
    }

    /// All deployments, by node and assignment.
    pub async fn deployments(&self) -> Result<Vec<DesiredDeployment>, StoreError> {
        let rows = sqlx::query(deployments!("ORDER BY node, assignment"));
        let rows = rows.bind(self.tenant.as_str()).fetch_all(&self.pool).await?;
        let read = |row| {
            let (assignment, node, it) = read_deployment(row)?;
            Ok(DesiredDeployment {
                id: it.id,
                assignment,
                node,
                app: it.app.id,
                version: it.app.version,
                profile: it.profile,
                digest: it.digest.map(|digest| digest.to_string()),
                revision: it.revision,
            })
        };
        rows.iter().map(read).collect()
    }

    /// The newest orders, newest first.
    pub async fn orders(&self) -> Result<Vec<api::Order>, StoreError> {
        let closed = self.outbox.closed().await?;
        let rows = sqlx::query("SELECT * FROM orders WHERE tenant = $1 ORDER BY position DESC LIMIT $2");
        let rows = rows.bind(self.tenant.as_str()).bind(SHOWN_ORDERS).fetch_all(&self.pool).await?;
        rows.iter().map(|row| read_order(row, &closed)).collect()
    }

    /// How many documents each of these nodes holds of other assignments, and their bytes.
    pub async fn other_documents(
        &self,
        assignment: &AssignmentName,
        nodes: impl Iterator<Item = &NodeId>,
    ) -> Result<BTreeMap<NodeId, (usize, usize)>, StoreError> {
        let nodes: Vec<_> = nodes.map(ToString::to_string).collect();
        let rows = sqlx::query(
            "SELECT node, count(*) AS documents, sum(length(document)) AS bytes FROM deployments
             WHERE tenant = $1 AND assignment <> $2 AND document IS NOT NULL
               AND node IN (SELECT value FROM json_each($3)) GROUP BY node",
        );
        let rows = rows.bind(self.tenant.as_str()).bind(assignment.as_str()).bind(json(&nodes));
        let read = |row: &SqliteRow| {
            let sums = (number(row, "documents")? as usize, number(row, "bytes")? as usize);
            Ok((parse::<NodeId>(row, "node")?, sums))
        };
        rows.fetch_all(&self.pool).await?.iter().map(read).collect()
    }

    /// The documents that a node holds of other assignments.
    pub async fn documents(&self, assignment: &AssignmentName, node: &NodeId) -> Result<Vec<HeldDocument>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, document FROM deployments
             WHERE tenant = $1 AND assignment <> $2 AND node = $3 AND document IS NOT NULL",
        );
        let rows = rows.bind(self.tenant.as_str()).bind(assignment.as_str()).bind(node.to_string());
        let read = |row: &SqliteRow| Ok(HeldDocument { id: parse(row, "id")?, document: row.try_get("document")? });
        rows.fetch_all(&self.pool).await?.iter().map(read).collect()
    }

    /// Stores a change and the writes that carry it into Git, whole, if the revision it starts from is still held.
    pub async fn commit(&self, change: &Change, writes: Vec<(Repository, GitWrite)>) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        self.replace_assignment(&mut tx, change).await?;
        self.replace_deployments(&mut tx, change).await?;
        let mut numbers = Vec::with_capacity(writes.len());
        for (repository, write) in writes {
            numbers.push((repository.to_string(), self.outbox.append(&mut tx, &repository, write).await?));
        }
        self.insert_order(&mut tx, change, &numbers).await?;
        tx.commit().await?;
        Ok(())
    }

    async fn replace_assignment(&self, tx: &mut SqliteConnection, change: &Change) -> Result<(), StoreError> {
        let statement = match change.from {
            None => {
                "INSERT INTO assignments (tenant, name, revision, state, spec) VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT DO NOTHING"
            }
            Some(_) => {
                "UPDATE assignments SET revision = $3, state = $4, spec = $5
                 WHERE tenant = $1 AND name = $2 AND revision = $6"
            }
        };
        let Assignment { name, revision, state, spec, .. } = &change.assignment;
        let state = match state {
            AssignmentState::Active => "active",
            AssignmentState::Removed => "removed",
        };
        let mut statement = sqlx::query(statement)
            .bind(self.tenant.as_str())
            .bind(name.as_str())
            .bind(sql_number(*revision))
            .bind(state)
            .bind(json(spec));
        if let Some(from) = change.from {
            statement = statement.bind(sql_number(from));
        }
        match statement.execute(tx).await?.rows_affected() {
            0 => Err(StoreError::Conflict(name.clone())),
            _ => Ok(()),
        }
    }

    async fn replace_deployments(&self, tx: &mut SqliteConnection, change: &Change) -> Result<(), StoreError> {
        let nodes: Vec<_> = change.puts.keys().chain(&change.removes).collect();
        for nodes in nodes.chunks(ROWS) {
            let mut statement = QueryBuilder::new(
                r#"INSERT OR REPLACE INTO deployments
                   (tenant, id, assignment, node, app, version, profile, revision, "order", digest, document) "#,
            );
            statement.push_values(nodes, |mut row, node| {
                let deployment = &change.assignment.deployments[node];
                row.push_bind(self.tenant.as_str())
                    .push_bind(deployment.id.to_string())
                    .push_bind(change.assignment.name.as_str())
                    .push_bind(node.to_string())
                    .push_bind(deployment.app.id.as_str())
                    .push_bind(deployment.app.version.as_str())
                    .push_bind(&deployment.profile)
                    .push_bind(sql_number(deployment.revision))
                    .push_bind(deployment.order.to_string())
                    .push_bind(deployment.digest.map(|digest| digest.to_string()))
                    .push_bind(change.puts.get(node).map(|put| put.document.as_slice()));
            });
            statement.build().execute(&mut *tx).await?;
        }
        Ok(())
    }

    async fn insert_order(
        &self,
        tx: &mut SqliteConnection,
        change: &Change,
        numbers: &[(String, u64)],
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO orders
             (tenant, id, kind, assignment, revision, requested_by, requested_at, reason, trace, writes)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(self.tenant.as_str())
        .bind(change.order.id.to_string())
        .bind(change.kind.as_str())
        .bind(change.assignment.name.as_str())
        .bind(sql_number(change.assignment.revision))
        .bind(&change.order.requested_by)
        .bind(&change.order.requested_at)
        .bind(&change.order.reason)
        .bind(&change.order.trace)
        .bind(json(&numbers))
        .execute(tx)
        .await?;
        Ok(())
    }
}

fn read_assignment(row: &SqliteRow) -> Result<Assignment, StoreError> {
    let state = match row.try_get("state")? {
        "active" => AssignmentState::Active,
        "removed" => AssignmentState::Removed,
        other => return Err(corrupt(row, "state", format!("{other:?} is no state").into())),
    };
    Ok(Assignment {
        name: parse(row, "name")?,
        revision: number(row, "revision")?,
        state,
        spec: from_json(row, "spec")?,
        deployments: BTreeMap::new(),
    })
}

fn read_deployment(row: &SqliteRow) -> Result<(AssignmentName, NodeId, Deployment), StoreError> {
    let digest: Option<&str> = row.try_get("digest")?;
    let digest = digest.map(str::parse::<Digest>).transpose().map_err(|error| corrupt(row, "digest", error.into()))?;
    let deployment = Deployment {
        id: parse(row, "id")?,
        app: AppRef { id: parse(row, "app")?, version: parse(row, "version")? },
        profile: row.try_get("profile")?,
        revision: number(row, "revision")?,
        order: parse(row, "order")?,
        digest,
    };
    Ok((parse(row, "assignment")?, parse(row, "node")?, deployment))
}

fn read_order(row: &SqliteRow, closed: &BTreeMap<Repository, u64>) -> Result<api::Order, StoreError> {
    let mut committed = true;
    for (repository, number) in from_json::<Vec<(String, u64)>>(row, "writes")? {
        let repository =
            repository.parse().map_err(|error: bus::InvalidSubject| corrupt(row, "writes", error.into()))?;
        committed &= closed.get(&repository).is_some_and(|closed| *closed >= number);
    }
    Ok(api::Order {
        id: row.try_get("id")?,
        kind: row.try_get("kind")?,
        assignment: parse(row, "assignment")?,
        revision: number(row, "revision")?,
        requested_by: row.try_get("requested_by")?,
        requested_at: row.try_get("requested_at")?,
        reason: row.try_get("reason")?,
        trace: row.try_get("trace")?,
        committed,
    })
}

fn parse<T: FromStr<Err: Error + Send + Sync + 'static>>(
    row: &SqliteRow,
    column: &'static str,
) -> Result<T, StoreError> {
    row.try_get::<&str, _>(column)?.parse::<T>().map_err(|error| corrupt(row, column, error.into()))
}

fn from_json<T: DeserializeOwned>(row: &SqliteRow, column: &'static str) -> Result<T, StoreError> {
    serde_json::from_str(row.try_get(column)?).map_err(|error| corrupt(row, column, error.into()))
}

fn number(row: &SqliteRow, column: &'static str) -> Result<u64, StoreError> {
    row.try_get::<i64, _>(column)?
        .try_into()
        .map_err(|error: std::num::TryFromIntError| corrupt(row, column, error.into()))
}

fn corrupt(row: &SqliteRow, column: &'static str, source: Box<dyn Error + Send + Sync>) -> StoreError {
    let key = ["id", "name", "node"].into_iter().find_map(|key| row.try_get::<String, _>(key).ok());
    StoreError::Corrupt { row: key.unwrap_or_default(), column, source }
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("strings, numbers, lists and maps have a JSON form")
}

fn sql_number(number: u64) -> i64 {
    i64::try_from(number).expect("revisions count orders from one; nobody gives 2^63 of them")
}

#[cfg(test)]
mod tests;
