//! How statuses are kept: the only file that knows SQL.

use std::collections::{BTreeMap, BTreeSet};

use api::{ActualDeployment, HistoryEntry, RefusalInfo};
use jiff::Timestamp;
use margo::{DeploymentId, NodeId, TenantName};
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{QueryBuilder, Row, Sqlite, SqliteConnection, SqlitePool, sqlite::SqliteRow};

use crate::{
    domain::{EventReport, Position, StatusReport, newest},
    error::StoreError,
};

/// Transitions kept of each deployment.
const HISTORY: i64 = 200;

/// Refusals shown at once.
const REFUSALS: i64 = 1_000;

/// Rows of one statement: their values stay below SQLite's limit of 32,766.
const ROWS: usize = 1_000;

/// The database of one tenant's statuses.
#[derive(Clone)]
pub struct Store {
    pool: SqlitePool,
    tenant: TenantName,
}

/// One row of the table `history`.
type HistoryRow<'a> = (&'a EventReport, &'a crate::domain::Transition);

impl Store {
    /// Brings the tables to their newest form.
    pub async fn open(pool: SqlitePool, tenant: TenantName) -> Result<Self, sqlx::migrate::MigrateError> {
        sqlx::migrate!().run(&pool).await?;
        Ok(Self { pool, tenant })
    }

    /// Records a batch of reports in one transaction. What is stored already, or overtaken, changes nothing.
    pub async fn record(&self, statuses: Vec<StatusReport>, events: &[EventReport]) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        let nodes = statuses.iter().map(|report| &report.node).collect();
        let held = self.positions(&mut tx, nodes).await?;
        let reports: Vec<_> = newest(&held, statuses).into_values().collect();
        self.replace_statuses(&mut tx, &reports).await?;
        self.append_history(&mut tx, events).await?;
        tx.commit().await?;
        Ok(())
    }

    async fn positions(
        &self,
        tx: &mut SqliteConnection,
        nodes: BTreeSet<&NodeId>,
    ) -> Result<BTreeMap<NodeId, Position>, StoreError> {
        if nodes.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut query = QueryBuilder::new("SELECT node, incarnation, sequence FROM nodes WHERE tenant = ");
        query.push_bind(self.tenant.as_str());
        in_list(&mut query, "node", nodes);
        let rows = query.build().fetch_all(tx).await?;
        let position = |row: &SqliteRow| {
            let position = Position { incarnation: number(row, "incarnation")?, sequence: number(row, "sequence")? };
            Ok((parse(row, "node")?, position))
        };
        rows.iter().map(position).collect()
    }

    async fn replace_statuses(&self, tx: &mut SqliteConnection, reports: &[StatusReport]) -> Result<(), StoreError> {
        if reports.is_empty() {
            return Ok(());
        }
        let tenant = self.tenant.as_str();
        let mut query = QueryBuilder::new("INSERT INTO nodes (tenant, node, incarnation, sequence) ");
        query.push_values(reports, |mut row, report| {
            row.push_bind(tenant).push_bind(report.node.to_string());
            row.push_bind(integer(report.position.incarnation)).push_bind(integer(report.position.sequence));
        });
        query.push(
            " ON CONFLICT (tenant, node) DO UPDATE SET incarnation = excluded.incarnation, sequence = excluded.sequence",
        );
        query.build().execute(&mut *tx).await?;

        // A status is whole: what it does not name is gone. The statement below brings back what it does name.
        for report in reports {
            sqlx::query(
                "UPDATE deployments SET state = 'removed', failure = NULL, components = '[]', reported_at = $1
                 WHERE tenant = $2 AND node = $3 AND state <> 'removed'",
            )
            .bind(nanoseconds(report.time))
            .bind(tenant)
            .bind(report.node.to_string())
            .execute(&mut *tx)
            .await?;
        }
        let deployments: Vec<_> =
            reports.iter().flat_map(|report| report.deployments.iter().map(move |status| (report, status))).collect();
        for rows in deployments.chunks(ROWS) {
            let mut query = QueryBuilder::new(
                "INSERT INTO deployments (tenant, node, id, digest, state, failure, components,
                 adopted_manifest_version, reported_at) ",
            );
            query.push_values(rows, |mut row, (report, status)| {
                row.push_bind(tenant).push_bind(report.node.to_string()).push_bind(status.id.to_string());
                row.push_bind(status.digest.to_string()).push_bind(status.state.as_str());
                row.push_bind(status.failure.as_ref().map(json)).push_bind(json(&status.components));
                row.push_bind(integer(status.adopted_manifest_version)).push_bind(nanoseconds(report.time));
            });
            query.push(
                " ON CONFLICT (tenant, node, id) DO UPDATE SET digest = excluded.digest, state = excluded.state,
                 failure = excluded.failure, components = excluded.components,
                 adopted_manifest_version = excluded.adopted_manifest_version, reported_at = excluded.reported_at",
            );
            query.build().execute(&mut *tx).await?;
        }
        self.replace_refusals(tx, reports).await
    }

    async fn replace_refusals(&self, tx: &mut SqliteConnection, reports: &[StatusReport]) -> Result<(), StoreError> {
        let tenant = self.tenant.as_str();
        let mut query = QueryBuilder::new("DELETE FROM refusals WHERE tenant = ");
        query.push_bind(tenant);
        in_list(&mut query, "node", reports.iter().map(|report| &report.node));
        query.build().execute(&mut *tx).await?;
        let refusals: Vec<_> = reports
            .iter()
            .flat_map(|report| (0i64..).zip(&report.refusals).map(move |(place, refusal)| (report, place, refusal)))
            .collect();
        for rows in refusals.chunks(ROWS) {
            let mut query = QueryBuilder::new("INSERT INTO refusals (tenant, node, place, subject, reason, at) ");
            query.push_values(rows, |mut row, (report, place, refusal)| {
                row.push_bind(tenant).push_bind(report.node.to_string()).push_bind(*place);
                row.push_bind(&refusal.subject).push_bind(&refusal.reason).push_bind(nanoseconds(refusal.time));
            });
            query.build().execute(&mut *tx).await?;
        }
        Ok(())
    }

    async fn append_history(&self, tx: &mut SqliteConnection, events: &[EventReport]) -> Result<(), StoreError> {
        let tenant = self.tenant.as_str();
        let transitions: Vec<HistoryRow<'_>> =
            events.iter().flat_map(|report| report.transitions.iter().map(move |one| (report, one))).collect();
        for rows in transitions.chunks(ROWS) {
            let mut query = QueryBuilder::new(
                "INSERT INTO history (tenant, node, incarnation, number, deployment, digest, component, state, failure,
                 adopted_manifest_version, at) ",
            );
            query.push_values(rows, |mut row, (report, transition)| {
                row.push_bind(tenant).push_bind(report.node.to_string());
                row.push_bind(integer(report.incarnation)).push_bind(integer(transition.number));
                row.push_bind(transition.deployment.to_string()).push_bind(transition.digest.to_string());
                row.push_bind(&transition.component).push_bind(transition.state.as_str());
                row.push_bind(transition.failure.as_ref().map(json));
                row.push_bind(integer(transition.adopted_manifest_version)).push_bind(nanoseconds(transition.time));
            });
            query.push(" ON CONFLICT (tenant, node, incarnation, number) DO NOTHING");
            query.build().execute(&mut *tx).await?;
        }
        self.prune_history(tx, transitions).await
    }

    /// Keeps the newest transitions of each deployment, by the node's own count and not by its clock.
    async fn prune_history(
        &self,
        tx: &mut SqliteConnection,
        transitions: Vec<HistoryRow<'_>>,
    ) -> Result<(), StoreError> {
        let touched: BTreeSet<_> =
            transitions.iter().map(|(report, transition)| (transition.deployment, &report.node)).collect();
        for (deployment, node) in touched {
            sqlx::query(
                "DELETE FROM history WHERE (tenant, node, incarnation, number) IN (
                     SELECT tenant, node, incarnation, number FROM history
                     WHERE tenant = $1 AND deployment = $2 AND node = $3
                     ORDER BY incarnation DESC, number DESC LIMIT -1 OFFSET $4)",
            )
            .bind(self.tenant.as_str())
            .bind(deployment.to_string())
            .bind(node.to_string())
            .bind(HISTORY)
            .execute(&mut *tx)
            .await?;
        }
        Ok(())
    }

    /// The current status of every deployment, sorted by node and id.
    pub async fn list(&self) -> Result<Vec<ActualDeployment>, StoreError> {
        let rows = sqlx::query("SELECT * FROM deployments WHERE tenant = $1 ORDER BY node, id")
            .bind(self.tenant.as_str())
            .fetch_all(&self.pool)
            .await?;
        let deployment = |row: &SqliteRow| {
            Ok(ActualDeployment {
                id: parse(row, "id")?,
                node: parse(row, "node")?,
                digest: row.try_get("digest")?,
                state: parse(row, "state")?,
                failure: optional_json(row, "failure")?,
                components: from_json("components", &row.try_get::<String, _>("components")?)?,
                adopted_manifest_version: number(row, "adopted_manifest_version")?,
                reported_at: time(row, "reported_at")?,
            })
        };
        rows.iter().map(deployment).collect()
    }

    /// The transitions of one deployment, newest last.
    pub async fn history(&self, deployment: DeploymentId) -> Result<Vec<HistoryEntry>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM history WHERE tenant = $1 AND deployment = $2 ORDER BY node, incarnation, number",
        )
        .bind(self.tenant.as_str())
        .bind(deployment.to_string())
        .fetch_all(&self.pool)
        .await?;
        let entry = |row: &SqliteRow| {
            Ok(HistoryEntry {
                node: parse(row, "node")?,
                digest: row.try_get("digest")?,
                component: row.try_get("component")?,
                state: parse(row, "state")?,
                failure: optional_json(row, "failure")?,
                adopted_manifest_version: number(row, "adopted_manifest_version")?,
                at: time(row, "at")?,
            })
        };
        rows.iter().map(entry).collect()
    }

    /// What nodes refused, newest last by their clocks.
    pub async fn refusals(&self) -> Result<Vec<RefusalInfo>, StoreError> {
        let rows = sqlx::query(
            "SELECT subject, reason, at FROM refusals WHERE tenant = $1 ORDER BY at DESC, place DESC LIMIT $2",
        )
        .bind(self.tenant.as_str())
        .bind(REFUSALS)
        .fetch_all(&self.pool)
        .await?;
        let refusal = |row: &SqliteRow| {
            Ok(RefusalInfo { subject: row.try_get("subject")?, reason: row.try_get("reason")?, at: time(row, "at")? })
        };
        rows.iter().rev().map(refusal).collect()
    }
}

fn in_list<'a>(query: &mut QueryBuilder<Sqlite>, column: &str, nodes: impl IntoIterator<Item = &'a NodeId>) {
    query.push(format_args!(" AND {column} IN ("));
    let mut list = query.separated(", ");
    for node in nodes {
        list.push_bind(node.to_string());
    }
    query.push(")");
}

/// SQL has no unsigned integers; whatever enters is below 2^53.
fn integer(counter: u64) -> i64 {
    i64::try_from(counter).expect("counters are checked where they enter")
}

fn nanoseconds(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).expect("times are made from as many nanoseconds")
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("strings and lists always have a JSON form")
}

fn from_json<T: DeserializeOwned>(what: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Corrupt { what, reason: error.to_string() })
}

fn optional_json<T: DeserializeOwned>(row: &SqliteRow, what: &'static str) -> Result<Option<T>, StoreError> {
    row.try_get::<Option<String>, _>(what)?.map(|text| from_json(what, &text)).transpose()
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(row: &SqliteRow, what: &'static str) -> Result<T, StoreError> {
    let text: &str = row.try_get(what)?;
    text.parse().map_err(|error: T::Err| StoreError::Corrupt { what, reason: error.to_string() })
}

fn number(row: &SqliteRow, what: &'static str) -> Result<u64, StoreError> {
    let number: i64 = row.try_get(what)?;
    number.try_into().map_err(|_| StoreError::Corrupt { what, reason: format!("{number} is negative") })
}

fn time(row: &SqliteRow, what: &'static str) -> Result<String, StoreError> {
    let nanoseconds: i64 = row.try_get(what)?;
    let time = Timestamp::from_nanosecond(nanoseconds.into());
    time.map(|time| time.to_string()).map_err(|error| StoreError::Corrupt { what, reason: error.to_string() })
}
