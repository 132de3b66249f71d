//! How sites and nodes are kept: the only file that knows SQL.

use api::{AdmittedNode, CreateNode, CreateSite, Node, NodeState, Reachability, Site};
use jiff::Timestamp;
use margo::{ClientName, DeviceId, NodeId, TenantName};
use serde::de::DeserializeOwned;
use sqlx::{Row, Sqlite, SqliteConnection, SqlitePool, Transaction, sqlite::SqliteRow};

use crate::{
    domain::{Capabilities, Health, Position, Taken},
    error::StoreError,
};

/// The database of one tenant's sites and nodes.
#[derive(Clone)]
pub struct Store {
    pool: SqlitePool,
    tenant: TenantName,
}

/// Whether a report found whom it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// It is recorded, or was overtaken by a newer one.
    Known,
    /// Nobody added them.
    Unknown,
}

impl Store {
    /// Brings the tables to their newest form.
    pub async fn open(pool: SqlitePool, tenant: TenantName) -> Result<Self, sqlx::migrate::MigrateError> {
        sqlx::migrate!().run(&pool).await?;
        Ok(Self { pool, tenant })
    }

    /// A transaction for one order. Others wait until it ends.
    pub async fn begin(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        Ok(self.pool.begin().await?)
    }

    /// What of a new site is taken.
    pub async fn taken_of_site(&self, tx: &mut SqliteConnection, site: &CreateSite) -> Result<Taken, StoreError> {
        let name = self.client_exists(tx, &site.name.client()).await?;
        Ok(Taken { name, key: self.owner_of_key(tx, &site.public_key).await? })
    }

    /// What of a new node is taken.
    pub async fn taken_of_node(&self, tx: &mut SqliteConnection, node: &CreateNode) -> Result<Taken, StoreError> {
        let name = sqlx::query("SELECT 1 FROM nodes WHERE tenant = $1 AND client = $2 AND node = $3")
            .bind(self.tenant.as_str())
            .bind(node.name.client.as_str())
            .bind(node.name.node.as_str())
            .fetch_optional(&mut *tx)
            .await?
            .is_some();
        Ok(Taken { name, key: self.owner_of_key(tx, &node.public_key).await? })
    }

    /// Whether somebody added this client.
    pub async fn client_exists(&self, tx: &mut SqliteConnection, client: &ClientName) -> Result<bool, StoreError> {
        let row = sqlx::query("SELECT 1 FROM clients WHERE tenant = $1 AND name = $2")
            .bind(self.tenant.as_str())
            .bind(client.as_str())
            .fetch_optional(tx)
            .await?;
        Ok(row.is_some())
    }

    /// Keys are compared over all tenants: the servers' lists of users are.
    async fn owner_of_key(&self, tx: &mut SqliteConnection, key: &str) -> Result<Option<String>, StoreError> {
        let owner = sqlx::query_scalar(
            "SELECT 'site ' || name FROM clients WHERE public_key = $1
             UNION ALL SELECT 'node ' || client || '/' || node FROM nodes WHERE public_key = $1",
        )
        .bind(key)
        .fetch_optional(tx)
        .await?;
        Ok(owner)
    }

    /// Adds a site and the client that is its LO.
    pub async fn insert_site(&self, tx: &mut SqliteConnection, site: &CreateSite) -> Result<(), StoreError> {
        let (tenant, client) = (self.tenant.as_str(), site.name.client());
        sqlx::query("INSERT INTO clients (tenant, name, public_key) VALUES ($1, $2, $3)")
            .bind(tenant)
            .bind(client.as_str())
            .bind(&site.public_key)
            .execute(&mut *tx)
            .await?;
        sqlx::query("INSERT INTO sites (tenant, name, orchestrator) VALUES ($1, $2, $3)")
            .bind(tenant)
            .bind(site.name.as_str())
            .bind(client.as_str())
            .execute(tx)
            .await?;
        Ok(())
    }

    /// Adds a node.
    pub async fn insert_node(&self, tx: &mut SqliteConnection, node: &CreateNode) -> Result<(), StoreError> {
        sqlx::query("INSERT INTO nodes (tenant, client, node, device_id, public_key) VALUES ($1, $2, $3, $4, $5)")
            .bind(self.tenant.as_str())
            .bind(node.name.client.as_str())
            .bind(node.name.node.as_str())
            .bind(DeviceId::from(&node.name).as_str())
            .bind(&node.public_key)
            .execute(tx)
            .await?;
        Ok(())
    }

    /// Every client with the key of its user at the hub, sorted by name.
    pub async fn client_keys(&self) -> Result<Vec<(ClientName, String)>, StoreError> {
        let rows = sqlx::query("SELECT name, public_key FROM clients WHERE tenant = $1 ORDER BY name")
            .bind(self.tenant.as_str())
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(|row| Ok((parse(row, "name")?, row.try_get("public_key")?))).collect()
    }

    /// Who may connect at a client's site, sorted by name; `None` when nobody added this client.
    pub async fn admitted(&self, client: &ClientName) -> Result<Option<Vec<AdmittedNode>>, StoreError> {
        let mut tx = self.pool.begin().await?;
        if !self.client_exists(&mut tx, client).await? {
            return Ok(None);
        }
        let rows = sqlx::query("SELECT node, public_key FROM nodes WHERE tenant = $1 AND client = $2 ORDER BY node")
            .bind(self.tenant.as_str())
            .bind(client.as_str())
            .fetch_all(&mut *tx)
            .await?;
        let node =
            |row: &SqliteRow| Ok(AdmittedNode { name: parse(row, "node")?, public_key: row.try_get("public_key")? });
        rows.iter().map(node).collect::<Result<_, _>>().map(Some)
    }

    /// Every site, sorted by name.
    pub async fn sites(&self) -> Result<Vec<Site>, StoreError> {
        let rows = sqlx::query(
            "SELECT sites.name, public_key, adopted_manifest_version, last_seen, refusals,
                 (SELECT count(*) FROM nodes WHERE nodes.tenant = sites.tenant AND client = orchestrator) AS nodes
             FROM sites JOIN clients ON clients.tenant = sites.tenant AND clients.name = orchestrator
             WHERE sites.tenant = $1 ORDER BY sites.name",
        )
        .bind(self.tenant.as_str())
        .fetch_all(&self.pool)
        .await?;
        let site = |row: &SqliteRow| {
            Ok(Site {
                name: parse(row, "name")?,
                public_key: row.try_get("public_key")?,
                nodes: number(row, "nodes")?.unwrap_or_default(),
                adopted_manifest_version: number(row, "adopted_manifest_version")?,
                last_seen: time(row, "last_seen")?,
                refusals: from_json("refusals", row.try_get("refusals")?)?,
            })
        };
        rows.iter().map(site).collect()
    }

    /// Every node, sorted by name.
    pub async fn nodes(&self) -> Result<Vec<Node>, StoreError> {
        let rows = sqlx::query(
            "SELECT client, node, device_id, public_key, reachability, since, capabilities
             FROM nodes WHERE tenant = $1 ORDER BY client, node",
        )
        .bind(self.tenant.as_str())
        .fetch_all(&self.pool)
        .await?;
        let node = |row: &SqliteRow| {
            let capabilities: Option<&str> = row.try_get("capabilities")?;
            Ok(Node {
                name: NodeId::new(parse(row, "client")?, parse(row, "node")?),
                device_id: row.try_get("device_id")?,
                public_key: row.try_get("public_key")?,
                // Whoever is in the table was added and not removed.
                state: NodeState::Active,
                reachability: reachability(row)?,
                since: time(row, "since")?,
                capabilities: capabilities.map(|text| from_json("capabilities", text)).transpose()?,
            })
        };
        rows.iter().map(node).collect()
    }

    /// Keeps what a node can do, unless something newer is held.
    pub async fn record_capabilities(&self, capabilities: &Capabilities) -> Result<Recorded, StoreError> {
        let Capabilities { node: NodeId { client, node }, position, document } = capabilities;
        let mut tx = self.pool.begin().await?;
        let query =
            sqlx::query("SELECT incarnation, sequence FROM nodes WHERE tenant = $1 AND client = $2 AND node = $3");
        let query = query.bind(self.tenant.as_str()).bind(client.as_str()).bind(node.as_str());
        let Some(row) = query.fetch_optional(&mut *tx).await? else { return Ok(Recorded::Unknown) };
        let held = match (number(&row, "incarnation")?, number(&row, "sequence")?) {
            (Some(incarnation), Some(sequence)) => Some(Position { incarnation, sequence }),
            _ => None,
        };
        if !capabilities.are_newer_than(held) {
            return Ok(Recorded::Known);
        }
        sqlx::query(
            "UPDATE nodes SET capabilities = $1, incarnation = $2, sequence = $3
             WHERE tenant = $4 AND client = $5 AND node = $6",
        )
        .bind(document)
        .bind(integer(position.incarnation))
        .bind(integer(position.sequence))
        .bind(self.tenant.as_str())
        .bind(client.as_str())
        .bind(node.as_str())
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(Recorded::Known)
    }

    /// Keeps what an LO says. It comes in the order of the stream, which holds only the last one: none is older.
    pub async fn record_health(&self, health: &Health) -> Result<Recorded, StoreError> {
        let mut tx = self.pool.begin().await?;
        let site = sqlx::query(
            "UPDATE sites SET adopted_manifest_version = $1, last_seen = $2, refusals = $3
             WHERE tenant = $4 AND orchestrator = $5",
        )
        .bind(health.adopted.map(|version| integer(version.get())))
        .bind(nanoseconds(health.time))
        .bind(serde_json::to_string(&health.refusals).expect("refusals are strings"))
        .bind(self.tenant.as_str())
        .bind(health.client.as_str())
        .execute(&mut *tx)
        .await?;
        if site.rows_affected() == 0 {
            return Ok(Recorded::Unknown);
        }
        for node in &health.nodes {
            sqlx::query(
                "UPDATE nodes SET reachability = $1, since = $2 WHERE tenant = $3 AND client = $4 AND node = $5",
            )
            .bind(word(node.reachability))
            .bind(nanoseconds(node.since))
            .bind(self.tenant.as_str())
            .bind(health.client.as_str())
            .bind(node.node.as_str())
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok(Recorded::Known)
    }
}

fn word(reachability: Reachability) -> &'static str {
    match reachability {
        Reachability::Reachable => "reachable",
        Reachability::Unreachable => "unreachable",
        Reachability::Unknown => "unknown",
    }
}

fn reachability(row: &SqliteRow) -> Result<Reachability, StoreError> {
    let what = "reachability";
    let text: &str = row.try_get(what)?;
    let known = [Reachability::Reachable, Reachability::Unreachable, Reachability::Unknown];
    let found = known.into_iter().find(|reachability| word(*reachability) == text);
    found.ok_or_else(|| StoreError::Corrupt { what, reason: format!("{text:?} is no reachability") })
}

/// SQL has no unsigned integers; whatever enters is below 2^53.
fn integer(counter: u64) -> i64 {
    i64::try_from(counter).expect("counters are checked where they enter")
}

fn nanoseconds(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).expect("times are made from as many nanoseconds")
}

fn from_json<T: DeserializeOwned>(what: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Corrupt { what, reason: error.to_string() })
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(row: &SqliteRow, what: &'static str) -> Result<T, StoreError> {
    let text: &str = row.try_get(what)?;
    text.parse().map_err(|error: T::Err| StoreError::Corrupt { what, reason: error.to_string() })
}

fn number(row: &SqliteRow, what: &'static str) -> Result<Option<u64>, StoreError> {
    let number: Option<i64> = row.try_get(what)?;
    let corrupt = |_| StoreError::Corrupt { what, reason: format!("{number:?} is negative") };
    number.map(u64::try_from).transpose().map_err(corrupt)
}

fn time(row: &SqliteRow, what: &'static str) -> Result<Option<String>, StoreError> {
    let nanoseconds: Option<i64> = row.try_get(what)?;
    let corrupt = |error: jiff::Error| StoreError::Corrupt { what, reason: error.to_string() };
    nanoseconds
        .map(|it| Timestamp::from_nanosecond(it.into()).map(|time| time.to_string()))
        .transpose()
        .map_err(corrupt)
}
