-- Which report of a node is the newest one we hold.
CREATE TABLE nodes (
    tenant TEXT NOT NULL,
    node TEXT NOT NULL,
    generation INTEGER NOT NULL,
    incarnation INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    reported_at INTEGER NOT NULL, -- Unix nanoseconds of the node's clock
    PRIMARY KEY (tenant, node)
) STRICT, WITHOUT ROWID;

-- The current status. A node speaks only of its own deployments, so the node is part of the key: what one node claims
-- never covers what another one said.
CREATE TABLE deployments (
    tenant TEXT NOT NULL,
    node TEXT NOT NULL,
    id TEXT NOT NULL,
    digest TEXT NOT NULL,
    state TEXT NOT NULL,
    failure TEXT,               -- JSON
    components TEXT NOT NULL,   -- JSON
    adopted_manifest_version INTEGER NOT NULL,
    reported_at INTEGER NOT NULL, -- Unix nanoseconds of the node's clock
    -- The report that named it last, or that no longer named it: what has another one than its node has is gone.
    generation INTEGER NOT NULL,
    incarnation INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (tenant, node, id)
) STRICT, WITHOUT ROWID;

-- What nodes refused, as their newest report has it.
CREATE TABLE refusals (
    tenant TEXT NOT NULL,
    node TEXT NOT NULL,
    place INTEGER NOT NULL,
    subject TEXT NOT NULL,
    reason TEXT NOT NULL,
    at INTEGER NOT NULL,        -- Unix nanoseconds of the node's clock
    PRIMARY KEY (tenant, node, place)
) STRICT, WITHOUT ROWID;

-- Transitions, the newest of each deployment.
CREATE TABLE history (
    tenant TEXT NOT NULL,
    node TEXT NOT NULL,
    generation INTEGER NOT NULL,
    incarnation INTEGER NOT NULL,
    number INTEGER NOT NULL,
    deployment TEXT NOT NULL,
    digest TEXT NOT NULL,
    component TEXT,
    state TEXT NOT NULL,
    failure TEXT,               -- JSON
    adopted_manifest_version INTEGER NOT NULL,
    at INTEGER NOT NULL,        -- Unix nanoseconds of the node's clock
    PRIMARY KEY (tenant, node, generation, incarnation, number)
) STRICT, WITHOUT ROWID;

CREATE INDEX history_of_a_deployment ON history (tenant, deployment, node, generation, incarnation, number);

-- How far each stream of the bus has been copied into these tables. A copy that does not fit its stream is made anew.
CREATE TABLE copies (
    tenant TEXT NOT NULL,
    stream TEXT NOT NULL,
    id TEXT NOT NULL,           -- the identity of the stream
    sequence INTEGER NOT NULL,  -- the last message that was taken
    PRIMARY KEY (tenant, stream)
) STRICT, WITHOUT ROWID;
