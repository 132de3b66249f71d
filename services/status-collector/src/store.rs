//! How statuses are kept: the only file that knows SQL.
//!
//! **Layout.** `nodes` says which report of each node is the newest that was stored. `deployments` has the current status
//! of each deployment on each node, `refusals` what the node's newest report says it did not accept, `history` the newest
//! transitions of each deployment. The node is part of every key: what one node claims never covers what another one said.
//!
//! **Updates.** A batch of reports is one transaction. Which of them count is decided by [`newest`] on the positions that
//! the same transaction has read. A status is whole, so it replaces all that is held of its node: what it names is written
//! with its position, and what still has another position afterwards is gone and is marked as removed. Every table is
//! written by one statement for many rows, so the cost of a report does not depend on how many are stored.
//!
//! `copies` says how far each stream has been read, in the same transaction; a copy that does not fit its stream is read anew.
//!
//! **After a crash.** A batch is stored whole or not at all, and its messages are acknowledged only afterwards. What comes
//! again is older than or equal to what is held, or is a transition whose number is taken, and changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use ::store::{Database, MAX_ROWS, Migrations, Row, StoreError, Table, Transaction, json};
use api::{ActualDeployment, HistoryAsked, HistoryEntry, Refusal, StatusAsked};
use bus::report::{Events, Position, Status, Transition};
use margo::{ClientName, NodeId, TenantName};
use service::fair_share;

use crate::domain::newest;

/// Transitions that are kept of each deployment on each node; the oldest go first.
const HISTORY: u64 = 200;

/// Refusals in one answer, of all nodes together. What a node says is as long as it likes, and one that says much must not keep
/// the others from being heard: an answer has 8 MiB at most, so the texts are cut there.
const REFUSALS: u64 = 1_000;

/// The most bytes of all deployments in one answer, and about what one has without its failure and its components.
const LIST: usize = 6 << 20;
const LISTED: usize = 450;

/// Deployments that are gone and are remembered of each node; the oldest go first.
const GONE: u64 = 500;

static NODES: Table = Table::new("nodes", &["node"]);
static DEPLOYMENTS: Table = Table::new("deployments", &["node", "id"]);
static REFUSED: Table = Table::new("refusals", &["node", "place"]);
static TRANSITIONS: Table = Table::new("history", &["node", "generation", "incarnation", "number"]);
static COPIES: Table = Table::new("copies", &["stream"]);

const MIGRATIONS: Migrations = Migrations::new(&[(1, "status", include_str!("../migrations/1_status.sql"))]);

/// The database of one tenant's statuses.
#[derive(Clone)]
pub struct Store {
    database: Database,
    tenant: TenantName,
}

/// How far a stream of the bus was copied into the tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// The name of the stream.
    pub stream: &'static str,
    /// The identity that the stream had.
    pub id: String,
    /// The last message that was taken.
    pub sequence: u64,
}

/// What one row of the table `history` is made of: the node, the report that told of the change, and what changed.
type HistoryRow<'a> = (&'a NodeId, Position, &'a Transition);

impl Store {
    /// Brings the tables to their newest form.
    pub async fn open(database: Database, tenant: TenantName) -> anyhow::Result<Self> {
        database.migrate(&MIGRATIONS).await?;
        Ok(Self { database, tenant })
    }

    /// Records a batch of reports, and how far the streams were read for it, in one transaction. What is stored already, or
    /// overtaken, changes nothing.
    pub async fn record(
        &self,
        statuses: Vec<(NodeId, Status)>,
        events: &[(NodeId, Events)],
        copies: &[Copied],
    ) -> Result<(), StoreError> {
        let mut tx = self.database.begin().await?;
        let nodes: Vec<_> = statuses.iter().map(|(node, _)| node).collect::<BTreeSet<_>>().into_iter().collect();
        let held = self.positions(&mut tx, &nodes).await?;
        let reports: Vec<_> = newest(&held, statuses).into_iter().collect();
        for reports in reports.chunks(MAX_ROWS) {
            self.replace_statuses(&mut tx, reports).await?;
            self.replace_refusals(&mut tx, reports).await?;
        }
        self.append_history(&mut tx, events).await?;
        self.note_copies(&mut tx, copies).await?;
        tx.commit().await
    }

    /// How far this stream was copied; `None` when nothing is known of it.
    pub async fn copied(&self, stream: &'static str) -> Result<Option<Copied>, StoreError> {
        let query = COPIES.query("SELECT stream, id, sequence FROM copies WHERE tenant = $1 AND stream = $2");
        let row = query.bind(self.tenant.as_str()).bind(stream).fetch_optional(&self.database).await?;
        let read = |row: Row| Ok(Copied { stream, id: row.string("id")?, sequence: row.number("sequence")? });
        row.map(read).transpose()
    }

    /// Notes that a stream is read from its beginning.
    pub async fn begin_copy(&self, stream: &'static str, id: String) -> Result<(), StoreError> {
        let mut tx = self.database.begin().await?;
        let delete = COPIES.query("DELETE FROM copies WHERE tenant = $1 AND stream = $2");
        delete.bind(self.tenant.as_str()).bind(stream).execute(&mut tx).await?;
        self.note_copies(&mut tx, &[Copied { stream, id, sequence: 0 }]).await?;
        tx.commit().await
    }

    async fn note_copies(&self, tx: &mut Transaction, copies: &[Copied]) -> Result<(), StoreError> {
        for copied in copies {
            // Messages that come again have lower sequences; another identity counts anew.
            let insert = COPIES.query(
                "INSERT INTO copies (tenant, stream, id, sequence) VALUES ($1, $2, $3, $4)
                 ON CONFLICT (tenant, stream) DO UPDATE SET id = excluded.id, sequence = CASE
                     WHEN copies.id = excluded.id AND copies.sequence > excluded.sequence THEN copies.sequence
                     ELSE excluded.sequence END",
            );
            let insert = insert.bind(self.tenant.as_str()).bind(copied.stream).bind(&copied.id).bind(copied.sequence);
            insert.execute(&mut *tx).await?;
        }
        Ok(())
    }

    async fn positions(
        &self,
        tx: &mut Transaction,
        nodes: &[&NodeId],
    ) -> Result<BTreeMap<NodeId, Position>, StoreError> {
        let mut positions = BTreeMap::new();
        for nodes in nodes.chunks(MAX_ROWS) {
            let query = NODES
                .query("SELECT node, generation, incarnation, sequence FROM nodes WHERE tenant = $1 AND node IN ")
                .bind(self.tenant.as_str())
                .push_list(nodes.iter().map(|node| node.to_string()));
            for row in query.fetch_all(&mut *tx).await? {
                let position = Position {
                    generation: row.number("generation")?,
                    incarnation: row.number("incarnation")?,
                    sequence: row.number("sequence")?,
                };
                positions.insert(row.parse("node")?, position);
            }
        }
        Ok(positions)
    }

    async fn replace_statuses(&self, tx: &mut Transaction, reports: &[(NodeId, Status)]) -> Result<(), StoreError> {
        let tenant = self.tenant.as_str();
        let positions = NODES
            .query("INSERT INTO nodes (tenant, node, generation, incarnation, sequence, reported_at) ")
            .push_rows(reports, |row, (node, status)| {
                row.bind(tenant)
                    .bind(node.to_string())
                    .bind(status.position.generation)
                    .bind(status.position.incarnation)
                    .bind(status.position.sequence)
                    .bind(status.time)
            })
            .push(
                " ON CONFLICT (tenant, node) DO UPDATE SET generation = excluded.generation,
                  incarnation = excluded.incarnation, sequence = excluded.sequence, reported_at = excluded.reported_at",
            );
        positions.execute(tx).await?;

        // One statement writes a row only once, so of a report that names a deployment twice the last one counts.
        let deployments: BTreeMap<_, _> = reports
            .iter()
            .flat_map(|(node, status)| status.deployments.iter().map(move |deployment| (node, status, deployment)))
            .map(|(node, status, deployment)| ((node, deployment.id), (node, status, deployment)))
            .collect();
        let deployments: Vec<_> = deployments.into_values().collect();
        for rows in deployments.chunks(MAX_ROWS) {
            let statement = DEPLOYMENTS
                .query(
                    "INSERT INTO deployments (tenant, node, id, digest, state, failure, components,
                     adopted_manifest_version, reported_at, generation, incarnation, sequence) ",
                )
                .push_rows(rows, |row, (node, status, deployment)| {
                    row.bind(tenant)
                        .bind(node.to_string())
                        .bind(deployment.id.to_string())
                        .bind(deployment.digest.to_string())
                        .bind(deployment.state.as_str())
                        .bind(deployment.failure.as_ref().map(json))
                        .bind(json(&deployment.components))
                        .bind(deployment.adopted_manifest_version)
                        .bind(status.time)
                        .bind(status.position.generation)
                        .bind(status.position.incarnation)
                        .bind(status.position.sequence)
                })
                .push(
                    " ON CONFLICT (tenant, node, id) DO UPDATE SET digest = excluded.digest, state = excluded.state,
                      failure = excluded.failure, components = excluded.components,
                      adopted_manifest_version = excluded.adopted_manifest_version, reported_at = excluded.reported_at,
                      generation = excluded.generation, incarnation = excluded.incarnation,
                      sequence = excluded.sequence",
                );
            statement.execute(tx).await?;
        }

        let gone = DEPLOYMENTS
            .query(
                "UPDATE deployments SET state = 'removed', failure = NULL, components = '[]',
                 (reported_at, generation, incarnation, sequence) = (
                     SELECT nodes.reported_at, nodes.generation, nodes.incarnation, nodes.sequence FROM nodes
                     WHERE nodes.tenant = deployments.tenant AND nodes.node = deployments.node)
                 WHERE tenant = $1 AND state <> 'removed' AND (generation, incarnation, sequence) <> (
                     SELECT nodes.generation, nodes.incarnation, nodes.sequence FROM nodes
                     WHERE nodes.tenant = deployments.tenant AND nodes.node = deployments.node)
                 AND node IN ",
            )
            .bind(tenant)
            .push_list(reports.iter().map(|(node, _)| node.to_string()));
        gone.execute(tx).await?;
        self.forget_gone(tx, reports).await
    }

    /// Forgets what has been gone for longest from the nodes that have named very many deployments.
    async fn forget_gone(&self, tx: &mut Transaction, reports: &[(NodeId, Status)]) -> Result<(), StoreError> {
        let tenant = self.tenant.as_str();
        let many = DEPLOYMENTS
            .query("SELECT node FROM deployments WHERE tenant = $1 AND state = 'removed' AND node IN ")
            .bind(tenant)
            .push_list(reports.iter().map(|(node, _)| node.to_string()))
            .push(" GROUP BY node HAVING COUNT(*) > ")
            .push_bind(2 * GONE);
        for row in many.fetch_all(&mut *tx).await? {
            let delete = DEPLOYMENTS.query(
                "DELETE FROM deployments WHERE tenant = $1 AND node = $2 AND state = 'removed'
                 AND (generation, incarnation, sequence) < (
                     SELECT generation, incarnation, sequence FROM deployments
                     WHERE tenant = $1 AND node = $2 AND state = 'removed'
                     ORDER BY generation DESC, incarnation DESC, sequence DESC LIMIT 1 OFFSET $3)",
            );
            delete.bind(tenant).bind(row.text("node")?).bind(GONE - 1).execute(&mut *tx).await?;
        }
        Ok(())
    }

    async fn replace_refusals(&self, tx: &mut Transaction, reports: &[(NodeId, Status)]) -> Result<(), StoreError> {
        let tenant = self.tenant.as_str();
        let delete = REFUSED
            .query("DELETE FROM refusals WHERE tenant = $1 AND node IN ")
            .bind(tenant)
            .push_list(reports.iter().map(|(node, _)| node.to_string()));
        delete.execute(tx).await?;
        let refusals: Vec<_> = reports
            .iter()
            .flat_map(|(node, status)| {
                (0u64..).zip(&status.refusals).map(move |(place, refusal)| (node, place, refusal))
            })
            .collect();
        for rows in refusals.chunks(MAX_ROWS) {
            let insert = REFUSED.query("INSERT INTO refusals (tenant, node, place, subject, reason, at) ").push_rows(
                rows,
                |row, (node, place, refusal)| {
                    row.bind(tenant)
                        .bind(node.to_string())
                        .bind(*place)
                        .bind(&refusal.subject)
                        .bind(&refusal.reason)
                        .bind(refusal.time)
                },
            );
            insert.execute(tx).await?;
        }
        Ok(())
    }

    async fn append_history(&self, tx: &mut Transaction, events: &[(NodeId, Events)]) -> Result<(), StoreError> {
        let tenant = self.tenant.as_str();
        let transitions: Vec<HistoryRow<'_>> = events
            .iter()
            .flat_map(|(node, events)| {
                events.transitions.iter().map(move |transition| (node, events.position, transition))
            })
            .collect();
        for rows in transitions.chunks(MAX_ROWS) {
            let insert = TRANSITIONS
                .query(
                    "INSERT INTO history (tenant, node, generation, incarnation, number, deployment, digest, component,
                     state, failure, adopted_manifest_version, at) ",
                )
                .push_rows(rows, |row, (node, position, transition)| {
                    row.bind(tenant)
                        .bind(node.to_string())
                        .bind(position.generation)
                        .bind(position.incarnation)
                        .bind(transition.number)
                        .bind(transition.deployment.to_string())
                        .bind(transition.digest.to_string())
                        .bind(&transition.component)
                        .bind(transition.state.as_str())
                        .bind(transition.failure.as_ref().map(json))
                        .bind(transition.adopted_manifest_version)
                        .bind(transition.time)
                })
                .push(" ON CONFLICT (tenant, node, generation, incarnation, number) DO NOTHING");
            insert.execute(tx).await?;
        }
        self.prune_history(tx, transitions).await
    }

    /// Keeps the newest transitions of each deployment, by the node's own count and not by its clock.
    async fn prune_history(&self, tx: &mut Transaction, transitions: Vec<HistoryRow<'_>>) -> Result<(), StoreError> {
        let touched: BTreeSet<_> =
            transitions.iter().map(|(node, _, transition)| (transition.deployment, *node)).collect();
        for (deployment, node) in touched {
            // With fewer rows there is no oldest one to keep, and a comparison with nothing deletes nothing.
            let delete = TRANSITIONS.query(
                "DELETE FROM history WHERE tenant = $1 AND deployment = $2 AND node = $3
                 AND (generation, incarnation, number) < (
                     SELECT generation, incarnation, number FROM history
                     WHERE tenant = $1 AND deployment = $2 AND node = $3
                     ORDER BY generation DESC, incarnation DESC, number DESC LIMIT 1 OFFSET $4)",
            );
            delete
                .bind(self.tenant.as_str())
                .bind(deployment.to_string())
                .bind(node.to_string())
                .bind(HISTORY - 1)
                .execute(&mut *tx)
                .await?;
        }
        Ok(())
    }

    /// The current status of every deployment, sorted by node and id.
    ///
    /// All together fit into one answer. When they are too many, the clients that have said most are cut to a fair share:
    /// theirs come without failures and components, and as many as fit, so that nobody's words push out another's.
    pub async fn list(&self) -> Result<Vec<ActualDeployment>, StoreError> {
        let mut snapshot = self.database.snapshot().await?;
        let sizes = DEPLOYMENTS.query(
            "SELECT node, COUNT(*) AS held, SUM(OCTET_LENGTH(COALESCE(failure, '')) + OCTET_LENGTH(components)) AS bytes
             FROM deployments WHERE tenant = $1 GROUP BY node ORDER BY node",
        );
        let mut clients = BTreeMap::<ClientName, (usize, Vec<NodeId>)>::new();
        for row in sizes.bind(self.tenant.as_str()).fetch_all(&mut snapshot).await? {
            let node: NodeId = row.parse("node")?;
            let (size, nodes) = clients.entry(node.client.clone()).or_default();
            *size += row.size("held")? * LISTED + row.size("bytes")?;
            nodes.push(node);
        }
        let share = fair_share(clients.values().map(|(size, _)| *size), LIST);
        let mut listed = Vec::new();
        for (size, nodes) in clients.values() {
            let whole = *size <= share;
            let mut left = if whole { usize::MAX } else { share / LISTED };
            for nodes in nodes.chunks(MAX_ROWS) {
                let found = self.list_of(&mut snapshot, nodes, whole, left).await?;
                left -= found.len();
                listed.extend(found);
            }
        }
        listed.sort_by(|left, right| (&left.node, left.id).cmp(&(&right.node, right.id)));
        Ok(listed)
    }

    /// The deployments of these nodes, at most so many; those that are not gone come first.
    async fn list_of(
        &self,
        snapshot: &mut Transaction,
        nodes: &[NodeId],
        whole: bool,
        most: usize,
    ) -> Result<Vec<ActualDeployment>, StoreError> {
        let columns = if whole {
            "SELECT * FROM deployments WHERE tenant = $1 AND node IN "
        } else {
            "SELECT id, node, digest, state, NULL AS failure, '[]' AS components, adopted_manifest_version, reported_at
             FROM deployments WHERE tenant = $1 AND node IN "
        };
        let query = DEPLOYMENTS
            .query(columns)
            .bind(self.tenant.as_str())
            .push_list(nodes.iter().map(NodeId::to_string))
            .push(" ORDER BY CASE WHEN state = 'removed' THEN 1 ELSE 0 END, node, id LIMIT ")
            .push_bind(i64::try_from(most).unwrap_or(i64::MAX));
        query.fetch_all(snapshot).await?.iter().map(read_deployment).collect()
    }

    /// What a node last said of its deployment, whole. Reads that row and no other.
    pub async fn status(&self, asked: &StatusAsked) -> Result<Option<ActualDeployment>, StoreError> {
        let query = DEPLOYMENTS.query("SELECT * FROM deployments WHERE tenant = $1 AND node = $2 AND id = $3");
        let query = query.bind(self.tenant.as_str()).bind(asked.node.to_string()).bind(asked.id.to_string());
        query.fetch_optional(&self.database).await?.as_ref().map(read_deployment).transpose()
    }

    /// The transitions of one deployment, newest last.
    pub async fn history(&self, asked: HistoryAsked) -> Result<Vec<HistoryEntry>, StoreError> {
        let HistoryAsked { id, node } = asked;
        let query = TRANSITIONS.query("SELECT * FROM history WHERE tenant = $1 AND deployment = $2");
        let mut query = query.bind(self.tenant.as_str()).bind(id.to_string());
        if let Some(node) = node {
            query = query.push(" AND node = ").push_bind(node.to_string());
        }
        let query = query.push(" ORDER BY node, generation, incarnation, number");
        query.fetch_all(&self.database).await?.iter().map(read_transition).collect()
    }

    /// What nodes refused, newest last by their clocks. When there are too many, each node's newest one comes before any
    /// other's second, whatever their clocks say.
    pub async fn refusals(&self) -> Result<Vec<Refusal>, StoreError> {
        let query = REFUSED.query(
            "SELECT node, place, subject, reason, at FROM (
                 SELECT node, place, SUBSTR(subject, 1, 200) AS subject, SUBSTR(reason, 1, 600) AS reason, at,
                     ROW_NUMBER() OVER (PARTITION BY node ORDER BY place DESC) AS nth
                 FROM refusals WHERE tenant = $1) AS ranked
             ORDER BY nth, at DESC LIMIT $2",
        );
        let query = query.bind(self.tenant.as_str()).bind(REFUSALS);
        let mut rows = Vec::new();
        for row in query.fetch_all(&self.database).await? {
            rows.push((row.time("at")?, row.number("place")?, read_refusal(&row)?));
        }
        rows.sort_by_key(|(at, place, _)| (*at, *place));
        Ok(rows.into_iter().map(|(_, _, refusal)| refusal).collect())
    }
}

fn read_deployment(row: &Row) -> Result<ActualDeployment, StoreError> {
    Ok(ActualDeployment {
        id: row.parse("id")?,
        node: row.parse("node")?,
        digest: row.string("digest")?,
        state: row.parse("state")?,
        failure: row.optional("failure", Row::json)?,
        components: row.json("components")?,
        adopted_manifest_version: row.number("adopted_manifest_version")?,
        reported_at: row.time("reported_at")?.to_string(),
    })
}

fn read_transition(row: &Row) -> Result<HistoryEntry, StoreError> {
    Ok(HistoryEntry {
        node: row.parse("node")?,
        digest: row.string("digest")?,
        component: row.optional("component", Row::string)?,
        state: row.parse("state")?,
        failure: row.optional("failure", Row::json)?,
        adopted_manifest_version: row.number("adopted_manifest_version")?,
        at: row.time("at")?.to_string(),
    })
}

fn read_refusal(row: &Row) -> Result<Refusal, StoreError> {
    Ok(Refusal { subject: row.string("subject")?, reason: row.string("reason")?, at: row.time("at")?.to_string() })
}

#[cfg(test)]
mod tests;
