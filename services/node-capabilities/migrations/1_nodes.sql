-- Margo WFM clients: today the LO of each site.
CREATE TABLE clients (
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    PRIMARY KEY (tenant, name)
) STRICT, WITHOUT ROWID;

-- Sites, and what their LO last said.
CREATE TABLE sites (
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    orchestrator TEXT NOT NULL,
    adopted_manifest_version INTEGER,
    last_seen INTEGER,                -- Unix nanoseconds of the LO's clock
    refusals TEXT NOT NULL DEFAULT '[]', -- JSON
    PRIMARY KEY (tenant, name),
    UNIQUE (tenant, orchestrator),
    FOREIGN KEY (tenant, orchestrator) REFERENCES clients (tenant, name)
) STRICT, WITHOUT ROWID;

-- Nodes: as ordered, as their LO judges them, and what they said they can do.
CREATE TABLE nodes (
    tenant TEXT NOT NULL,
    client TEXT NOT NULL,
    node TEXT NOT NULL,
    device_id TEXT NOT NULL,
    reachability TEXT NOT NULL DEFAULT 'unknown',
    since INTEGER,                    -- Unix nanoseconds of the LO's clock
    capabilities TEXT,                -- JSON, as the node sent it
    generation INTEGER,               -- of the report that brought them
    incarnation INTEGER,
    sequence INTEGER,
    PRIMARY KEY (tenant, client, node),
    FOREIGN KEY (tenant, client) REFERENCES clients (tenant, name)
) STRICT, WITHOUT ROWID;

-- Every identity that a client or a node has or had. No row is ever deleted or given to another owner.
CREATE TABLE identities (
    identity TEXT NOT NULL PRIMARY KEY, -- NKey of a user at the hub or at a site
    tenant TEXT NOT NULL,
    client TEXT NOT NULL,
    node TEXT NOT NULL,               -- empty: the identity is that of the client itself
    generation INTEGER NOT NULL,      -- how many identities its owner had before it
    in_force INTEGER NOT NULL,        -- 1, or 0 for a former one
    UNIQUE (tenant, client, node, generation),
    FOREIGN KEY (tenant, client) REFERENCES clients (tenant, name)
) STRICT, WITHOUT ROWID;

-- At most one of them lets its owner in.
CREATE UNIQUE INDEX identities_in_force ON identities (tenant, client, node) WHERE in_force = 1;
