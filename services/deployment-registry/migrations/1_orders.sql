CREATE TABLE assignments (
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    revision INTEGER NOT NULL,
    -- active or removed; the row stays, so the name stays taken.
    state TEXT NOT NULL,
    -- AssignmentSpec as JSON, with the profile that was chosen.
    spec TEXT NOT NULL,
    -- 1: active, and the spec names sites, so that nodes that join may come to match.
    standing INTEGER NOT NULL,
    PRIMARY KEY (tenant, name)
) STRICT;

CREATE INDEX standing_assignments ON assignments (tenant, name) WHERE standing = 1;

CREATE TABLE deployments (
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    assignment TEXT NOT NULL,
    node TEXT NOT NULL,
    device_id TEXT NOT NULL,
    app TEXT NOT NULL,
    version TEXT NOT NULL,
    profile TEXT NOT NULL,
    revision INTEGER NOT NULL,
    order_id TEXT NOT NULL,
    -- Both absent when it is to be removed.
    digest TEXT,
    document BLOB,
    PRIMARY KEY (tenant, id),
    UNIQUE (tenant, assignment, node),
    FOREIGN KEY (tenant, assignment) REFERENCES assignments
) STRICT;

CREATE INDEX deployments_of_a_node ON deployments (tenant, node);

CREATE TABLE orders (
    -- Counts the orders as they were committed.
    position INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    assignment TEXT NOT NULL,
    revision INTEGER NOT NULL,
    requested_by TEXT NOT NULL,
    requested_at TEXT NOT NULL,
    reason TEXT,
    caused_by TEXT,
    trace TEXT,
    -- Its rows of the outbox as JSON: [[repository, number], …]
    writes TEXT NOT NULL,
    UNIQUE (tenant, id),
    FOREIGN KEY (tenant, assignment) REFERENCES assignments
) STRICT;

CREATE INDEX newest_orders ON orders (tenant, position);
