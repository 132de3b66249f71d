//! How sites and nodes are kept: the only file that knows SQL.
//!
//! **Layout.** `clients` and `nodes` hold who was added, `nodes` also how the LO judges the node, and the document with what
//! the node can do; `sites` what belongs to each place and what its LO last said. `identities` holds every key that a client
//! or a node has or had. An identity is the key of that table, so none is there twice, whoever had it and whether or not it
//! is in force.
//!
//! **Updates.** An order adds rows and its commit in one transaction. A key that is replaced or revoked stays as a former one.
//! Reports change a row that an order has made, and never make one: capabilities only when they are newer than those held, by
//! the node's own count; an LO's judgement always, because it arrives in the order of a stream that keeps only the last one.
//!
//! **After a crash.** Whoever was added and not answered is found by name and identity when the order is repeated. A report
//! that was not acknowledged comes again and changes nothing the second time.

use std::collections::BTreeMap;

use ::store::{Access, Database, MAX_ROWS, Migrations, Row, StoreError, Table, Transaction, json};
use api::{CreateNode, CreateSite, Member, Members, Node, NodeState, Reachability, Refusal, Site, Targets};
use bus::report::{self, Capabilities, Position, SiteHealth};
use margo::{ClientName, DeviceId, Identity, NodeId, SiteName, TenantName};
use serde_json::Value;
use service::fair_share;

use crate::domain::{Holder, Keys, Owner, Taken, device_id, is_newer};

static CLIENTS: Table = Table::new("clients", &["name"]);
static SITES: Table = Table::new("sites", &["name"]);
static NODES: Table = Table::new("nodes", &["client", "node"]);
static IDENTITIES: Table = Table::new("identities", &["identity"]);

const MIGRATIONS: Migrations = Migrations::new(&[(1, "nodes", include_str!("../migrations/1_nodes.sql"))]);

/// The most bytes of all nodes in one answer, and about what one has without its capabilities.
const LIST: usize = 7 << 20;
const LISTED: usize = 600;

/// The database of one tenant's sites and nodes.
#[derive(Clone)]
pub struct Store {
    database: Database,
    tenant: TenantName,
}

/// Whether a report found whom it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// The report is recorded, or was overtaken by a newer one.
    Known,
    /// Nobody added the site or the node that the report is about.
    Unknown,
    /// The report speaks of another device than the node is: a node speaks only for itself.
    OtherDevice {
        /// The device that the node is.
        wanted: DeviceId,
    },
}

impl Store {
    /// Brings the tables to their newest form.
    pub async fn open(database: Database, tenant: TenantName) -> anyhow::Result<Self> {
        database.migrate(&MIGRATIONS).await?;
        Ok(Self { database, tenant })
    }

    /// Begins the transaction of one order. Others wait until it ends.
    pub async fn begin(&self) -> Result<Transaction, StoreError> {
        self.database.begin().await
    }

    /// What of a new site is taken.
    pub async fn taken_of_site(&self, tx: &mut Transaction, site: &CreateSite) -> Result<Taken, StoreError> {
        let name = self.client_exists(&mut *tx, &site.name.client()).await?;
        Ok(Taken { name, identity: self.holder_of(tx, &site.identity).await? })
    }

    /// What of a new node is taken.
    pub async fn taken_of_node(&self, tx: &mut Transaction, node: &CreateNode) -> Result<Taken, StoreError> {
        let name = self.device_of(tx, &node.name).await?.is_some();
        Ok(Taken { name, identity: self.holder_of(tx, &node.identity).await? })
    }

    /// Whether somebody added this client.
    pub async fn client_exists(&self, on: impl Into<Access<'_>>, client: &ClientName) -> Result<bool, StoreError> {
        let query = CLIENTS.query("SELECT name FROM clients WHERE tenant = $1 AND name = $2");
        let query = query.bind(self.tenant.as_str()).bind(client.as_str());
        Ok(query.fetch_optional(on).await?.is_some())
    }

    /// The device that a node is; `None` when nobody added the node.
    pub async fn device_of(&self, tx: &mut Transaction, node: &NodeId) -> Result<Option<DeviceId>, StoreError> {
        let query =
            NODES.query("SELECT client, node, device_id FROM nodes WHERE tenant = $1 AND client = $2 AND node = $3");
        let query = query.bind(self.tenant.as_str()).bind(node.client.as_str()).bind(node.node.as_str());
        query.fetch_optional(tx).await?.map(|row| row.parse("device_id")).transpose()
    }

    /// Who has this identity, or had it. Identities are compared over all tenants: the servers' lists of users are.
    pub async fn holder_of(&self, tx: &mut Transaction, identity: &Identity) -> Result<Option<Holder>, StoreError> {
        let query = IDENTITIES.query("SELECT identity, client, node, in_force FROM identities WHERE identity = $1");
        let row = query.bind(identity.to_string()).fetch_optional(tx).await?;
        row.map(|row| Ok(Holder { owner: read_owner(&row)?, in_force: row.flag("in_force")? })).transpose()
    }

    /// The keys of a site or node that was added.
    pub async fn keys_of(&self, tx: &mut Transaction, owner: &Owner) -> Result<Keys, StoreError> {
        let (client, node) = columns(owner);
        let query = IDENTITIES.query(
            "SELECT identity, in_force FROM identities WHERE tenant = $1 AND client = $2 AND node = $3
             ORDER BY generation",
        );
        let rows = query.bind(self.tenant.as_str()).bind(client).bind(node).fetch_all(tx).await?;
        let mut keys = Keys::default();
        rows.iter().try_for_each(|row| read_key(row, &mut keys))?;
        Ok(keys)
    }

    /// Keeps the keys that follow from those held by replacing or revoking the one in force.
    pub async fn change_keys(&self, tx: &mut Transaction, owner: &Owner, keys: &Keys) -> Result<(), StoreError> {
        let (client, node) = columns(owner);
        let revoke = IDENTITIES.query(
            "UPDATE identities SET in_force = 0 WHERE tenant = $1 AND client = $2 AND node = $3 AND in_force = 1",
        );
        revoke.bind(self.tenant.as_str()).bind(client).bind(node).execute(&mut *tx).await?;
        let Some(identity) = &keys.in_force else { return Ok(()) };
        let insert = IDENTITIES.query(
            "INSERT INTO identities (identity, tenant, client, node, generation, in_force) VALUES ($1, $2, $3, $4, $5, 1)",
        );
        let insert = insert.bind(identity.to_string()).bind(self.tenant.as_str()).bind(client).bind(node);
        insert.bind(keys.former.len() as u64).execute(tx).await?;
        Ok(())
    }

    /// The keys of all sites and nodes, as the database is at one moment.
    async fn all_keys(&self, on: impl Into<Access<'_>>) -> Result<BTreeMap<Owner, Keys>, StoreError> {
        let query = IDENTITIES.query(
            "SELECT identity, client, node, in_force FROM identities WHERE tenant = $1 ORDER BY client, node, generation",
        );
        let mut all = BTreeMap::<Owner, Keys>::new();
        for row in query.bind(self.tenant.as_str()).fetch_all(on).await? {
            read_key(&row, all.entry(read_owner(&row)?).or_default())?;
        }
        Ok(all)
    }

    /// Adds a site and the client that is its LO.
    pub async fn insert_site(&self, tx: &mut Transaction, site: &CreateSite) -> Result<(), StoreError> {
        let (tenant, client) = (self.tenant.as_str(), site.name.client());
        let insert = CLIENTS.query("INSERT INTO clients (tenant, name) VALUES ($1, $2)");
        insert.bind(tenant).bind(client.as_str()).execute(&mut *tx).await?;
        let insert = SITES.query("INSERT INTO sites (tenant, name, orchestrator) VALUES ($1, $2, $3)");
        insert.bind(tenant).bind(site.name.as_str()).bind(client.as_str()).execute(&mut *tx).await?;
        self.change_keys(tx, &Owner::Site(site.name.clone()), &Keys::first(site.identity.clone())).await
    }

    pub async fn insert_node(&self, tx: &mut Transaction, node: &CreateNode) -> Result<(), StoreError> {
        let insert = NODES.query("INSERT INTO nodes (tenant, client, node, device_id) VALUES ($1, $2, $3, $4)");
        insert
            .bind(self.tenant.as_str())
            .bind(node.name.client.as_str())
            .bind(node.name.node.as_str())
            .bind(String::from(device_id(node)))
            .execute(&mut *tx)
            .await?;
        self.change_keys(tx, &Owner::Node(node.name.clone()), &Keys::first(node.identity.clone())).await
    }

    /// Every site, sorted by name.
    pub async fn sites(&self) -> Result<Vec<Site>, StoreError> {
        let mut snapshot = self.database.snapshot().await?;
        let mut keys = self.all_keys(&mut snapshot).await?;
        let query = SITES.query(
            "SELECT name, adopted_manifest_version, last_seen, refusals,
                 (SELECT count(*) FROM nodes WHERE nodes.tenant = sites.tenant AND client = orchestrator) AS nodes
             FROM sites WHERE tenant = $1 ORDER BY name",
        );
        let rows = query.bind(self.tenant.as_str()).fetch_all(&mut snapshot).await?;
        rows.iter().map(|row| read_site(row, &mut keys)).collect()
    }

    /// Every node, sorted by name. All together fit into one answer. When their capabilities are too long for that, the nodes of
    /// the clients with the longest ones come without, so that nobody's words push out another's.
    pub async fn nodes(&self) -> Result<Vec<Node>, StoreError> {
        let mut snapshot = self.database.snapshot().await?;
        let mut keys = self.all_keys(&mut snapshot).await?;
        let query = NODES.query(
            "SELECT client, COUNT(*) AS held, SUM(OCTET_LENGTH(COALESCE(capabilities, ''))) AS bytes
             FROM nodes WHERE tenant = $1 GROUP BY client",
        );
        let (mut sizes, mut held) = (Vec::new(), 0);
        for row in query.bind(self.tenant.as_str()).fetch_all(&mut snapshot).await? {
            sizes.push(row.size("bytes")?);
            held += row.size("held")?;
        }
        let share = fair_share(sizes, LIST.saturating_sub(held * LISTED));
        let query = NODES.query(
            "SELECT nodes.client, node, device_id, reachability, since,
                 CASE WHEN sizes.bytes > $2 THEN NULL ELSE capabilities END AS capabilities
             FROM nodes JOIN (
                 SELECT client, SUM(OCTET_LENGTH(COALESCE(capabilities, ''))) AS bytes
                 FROM nodes WHERE tenant = $1 GROUP BY client) AS sizes ON sizes.client = nodes.client
             WHERE tenant = $1 ORDER BY nodes.client, node",
        );
        let query = query.bind(self.tenant.as_str()).bind(i64::try_from(share).unwrap_or(i64::MAX));
        query.fetch_all(&mut snapshot).await?.iter().map(|row| read_node(row, &mut keys)).collect()
    }

    /// One node with all that is known of it.
    pub async fn node(&self, name: &NodeId) -> Result<Option<Node>, StoreError> {
        let mut snapshot = self.database.snapshot().await?;
        let owner = Owner::Node(name.clone());
        let keys = self.keys_of(&mut snapshot, &owner).await?;
        let query = NODES.query(
            "SELECT client, node, device_id, reachability, since, capabilities
             FROM nodes WHERE tenant = $1 AND client = $2 AND node = $3",
        );
        let query = query.bind(self.tenant.as_str()).bind(name.client.as_str()).bind(name.node.as_str());
        let row = query.fetch_optional(&mut snapshot).await?;
        row.map(|row| read_node(&row, &mut BTreeMap::from([(owner, keys)]))).transpose()
    }

    /// The sites and nodes that targets name, and the nodes of these sites, as far as they exist.
    pub async fn members(&self, targets: &Targets) -> Result<Members, StoreError> {
        let mut snapshot = self.database.snapshot().await?;
        let mut sites = BTreeMap::<SiteName, ClientName>::new();
        for names in targets.sites.chunks(MAX_ROWS) {
            let query = SITES.query("SELECT name, orchestrator FROM sites WHERE tenant = $1 AND name IN ");
            let query = query.bind(self.tenant.as_str()).push_list(names.iter().map(SiteName::as_str));
            for row in query.fetch_all(&mut snapshot).await? {
                sites.insert(row.parse("name")?, row.parse("orchestrator")?);
            }
        }
        let mut queries = Vec::new();
        let clients: Vec<_> = sites.values().map(ClientName::as_str).collect();
        for clients in clients.chunks(MAX_ROWS) {
            let query = NODES.query("SELECT client, node, device_id FROM nodes WHERE tenant = $1 AND client IN ");
            queries.push(query.bind(self.tenant.as_str()).push_list(clients.iter().copied()));
        }
        // Found by the primary key, also where every node has a client of its own: to `(client, node) IN (…)` SQLite
        // would read all nodes.
        for named in targets.nodes.chunks(MAX_ROWS) {
            let query = NODES
                .query("SELECT client, node, device_id FROM (")
                .push_rows(named, |row, node| row.bind(node.client.as_str()).bind(node.node.as_str()))
                .push(") AS named JOIN nodes ON client = column1 AND node = column2 WHERE tenant = ");
            queries.push(query.push_bind(self.tenant.as_str()));
        }
        let mut nodes = BTreeMap::new();
        for query in queries {
            for row in query.fetch_all(&mut snapshot).await? {
                let member = read_member(&row)?;
                nodes.insert(member.name.clone(), member);
            }
        }
        Ok(Members { sites: sites.into_keys().collect(), nodes: nodes.into_values().collect() })
    }

    /// Keeps what a node can do, unless something newer is held.
    pub async fn record_capabilities(
        &self,
        node: &NodeId,
        capabilities: &Capabilities,
    ) -> Result<Recorded, StoreError> {
        let NodeId { client, node } = node;
        let Capabilities { position, device, document } = capabilities;
        // As it will be answered, which may be several times as long: its length is what counts in an answer for all nodes.
        let document = serde_json::from_str::<Value>(document).map_or_else(|_| document.clone(), |it| it.to_string());
        let mut tx = self.database.begin().await?;
        let query = NODES.query(
            "SELECT client, node, device_id, generation, incarnation, sequence FROM nodes
             WHERE tenant = $1 AND client = $2 AND node = $3",
        );
        let query = query.bind(self.tenant.as_str()).bind(client.as_str()).bind(node.as_str());
        let Some(row) = query.fetch_optional(&mut tx).await? else { return Ok(Recorded::Unknown) };
        let wanted: DeviceId = row.parse("device_id")?;
        if *device != wanted {
            return Ok(Recorded::OtherDevice { wanted });
        }
        if !is_newer(*position, read_position(&row)?) {
            return Ok(Recorded::Known);
        }
        let update = NODES.query(
            "UPDATE nodes SET capabilities = $1, generation = $2, incarnation = $3, sequence = $4
             WHERE tenant = $5 AND client = $6 AND node = $7",
        );
        update
            .bind(document)
            .bind(position.generation)
            .bind(position.incarnation)
            .bind(position.sequence)
            .bind(self.tenant.as_str())
            .bind(client.as_str())
            .bind(node.as_str())
            .execute(&mut tx)
            .await?;
        tx.commit().await?;
        Ok(Recorded::Known)
    }

    /// Keeps what an LO says. It comes in the order of the stream, which holds only the last one: none is older.
    pub async fn record_health(&self, client: &ClientName, health: &SiteHealth) -> Result<Recorded, StoreError> {
        let refusals: Vec<_> = health.refusals.iter().map(shown).collect();
        let mut tx = self.database.begin().await?;
        let update = SITES.query(
            "UPDATE sites SET adopted_manifest_version = $1, last_seen = $2, refusals = $3
             WHERE tenant = $4 AND orchestrator = $5",
        );
        let update = update
            .bind(health.adopted.map(|version| version.get()))
            .bind(health.time)
            .bind(json(&refusals))
            .bind(self.tenant.as_str())
            .bind(client.as_str());
        if update.execute(&mut tx).await? == 0 {
            return Ok(Recorded::Unknown);
        }
        for node in &health.nodes {
            // Most of a site's nodes are as they were: a row that would not change is not written.
            let update = NODES.query(
                "UPDATE nodes SET reachability = $1, since = $2
                 WHERE tenant = $3 AND client = $4 AND node = $5
                   AND (reachability <> $1 OR since IS NULL OR since <> $2)",
            );
            update
                .bind(word(node.reachability))
                .bind(node.since)
                .bind(self.tenant.as_str())
                .bind(client.as_str())
                .bind(node.node.as_str())
                .execute(&mut tx)
                .await?;
        }
        tx.commit().await?;
        Ok(Recorded::Known)
    }
}

/// Makes of a refusal what is kept and shown; there the time is a text.
fn shown(refusal: &report::Refusal) -> Refusal {
    let report::Refusal { subject, reason, time } = refusal;
    Refusal { subject: subject.clone(), reason: reason.clone(), at: time.to_string() }
}

fn word(reachability: Reachability) -> &'static str {
    match reachability {
        Reachability::Reachable => "reachable",
        Reachability::Unreachable => "unreachable",
        Reachability::Unknown => "unknown",
    }
}

/// The columns that name an owner in `identities`.
fn columns(owner: &Owner) -> (&str, &str) {
    match owner {
        // A site and the client that is its LO have the same name.
        Owner::Site(site) => (site.as_str(), ""),
        Owner::Node(node) => (node.client.as_str(), node.node.as_str()),
    }
}

fn read_owner(row: &Row) -> Result<Owner, StoreError> {
    match row.text("node")? {
        "" => Ok(Owner::Site(row.parse("client")?)),
        _ => Ok(Owner::Node(NodeId::new(row.parse("client")?, row.parse("node")?))),
    }
}

/// Adds the identity of this row to those of its owner. Rows come in the order of generations.
fn read_key(row: &Row, keys: &mut Keys) -> Result<(), StoreError> {
    let identity = row.parse("identity")?;
    if row.flag("in_force")? {
        keys.in_force = Some(identity);
    } else {
        keys.former.push(identity);
    }
    Ok(())
}

fn read_site(row: &Row, keys: &mut BTreeMap<Owner, Keys>) -> Result<Site, StoreError> {
    let name: SiteName = row.parse("name")?;
    let Keys { in_force, former } = keys.remove(&Owner::Site(name.clone())).unwrap_or_default();
    Ok(Site {
        name,
        identity: in_force,
        former_keys: former,
        nodes: row.number("nodes")?,
        // Who is connected, identity knows.
        login_expires: None,
        adopted_manifest_version: row.optional("adopted_manifest_version", Row::number)?,
        last_seen: row.optional("last_seen", Row::time)?.map(|time| time.to_string()),
        refusals: row.json("refusals")?,
    })
}

fn read_member(row: &Row) -> Result<Member, StoreError> {
    let name = NodeId::new(row.parse("client")?, row.parse("node")?);
    // Whoever is in the table was added and not removed.
    Ok(Member { name, device_id: row.parse("device_id")?, state: NodeState::Active })
}

fn read_node(row: &Row, keys: &mut BTreeMap<Owner, Keys>) -> Result<Node, StoreError> {
    let Member { name, device_id, state } = read_member(row)?;
    let Keys { in_force, former } = keys.remove(&Owner::Node(name.clone())).unwrap_or_default();
    // Of a node that may not connect an LO says nothing, so what it said last is over.
    let judged = in_force.is_some();
    Ok(Node {
        name,
        device_id,
        identity: in_force,
        former_keys: former,
        state,
        reachability: if judged { read_reachability(row)? } else { Reachability::Unknown },
        since: row.optional("since", Row::time)?.filter(|_| judged).map(|time| time.to_string()),
        capabilities: row.optional("capabilities", Row::json)?,
    })
}

fn read_reachability(row: &Row) -> Result<Reachability, StoreError> {
    let text = row.text("reachability")?;
    let known = [Reachability::Reachable, Reachability::Unreachable, Reachability::Unknown];
    let found = known.into_iter().find(|reachability| word(*reachability) == text);
    found.ok_or_else(|| row.invalid("reachability", format!("{text:?} is no reachability")))
}

fn read_position(row: &Row) -> Result<Option<Position>, StoreError> {
    let number = |name| row.optional(name, Row::number);
    let Some(generation) = number("generation")? else { return Ok(None) };
    let place = number("incarnation")?.zip(number("sequence")?);
    Ok(place.map(|(incarnation, sequence)| Position { generation, incarnation, sequence }))
}

#[cfg(test)]
mod tests;
