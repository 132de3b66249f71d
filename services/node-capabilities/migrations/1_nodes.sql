-- Margo WFM clients: today the LO of each site.
CREATE TABLE clients (
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    identity TEXT NOT NULL UNIQUE,  -- NKey of its user at the hub
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
    identity TEXT NOT NULL UNIQUE,  -- NKey of its user at the site
    reachability TEXT NOT NULL DEFAULT 'unknown',
    since INTEGER,                    -- Unix nanoseconds of the LO's clock
    capabilities TEXT,                -- JSON, as the node sent it
    generation INTEGER,               -- of the report that brought them
    incarnation INTEGER,
    sequence INTEGER,
    PRIMARY KEY (tenant, client, node),
    FOREIGN KEY (tenant, client) REFERENCES clients (tenant, name)
) STRICT, WITHOUT ROWID;
