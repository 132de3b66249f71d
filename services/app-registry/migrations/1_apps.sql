-- An application at a version; a row is never changed.
CREATE TABLE apps (
    tenant      TEXT NOT NULL,
    id          TEXT NOT NULL,
    version     TEXT NOT NULL,
    name        TEXT NOT NULL,
    -- JSON: [{"id", "type"}]
    profiles    TEXT NOT NULL,
    -- Of the package's OCI manifest.
    digest      TEXT NOT NULL,
    -- JSON: component to digest of its OCI manifest.
    lock        TEXT NOT NULL,
    -- Exact text of margo.yaml.
    description TEXT NOT NULL,
    added_by    TEXT NOT NULL,
    -- RFC 3339, for people.
    added_at    TEXT NOT NULL,
    -- Counts the rows of the table as they were added.
    number      INTEGER NOT NULL UNIQUE,
    PRIMARY KEY (tenant, id, version)
) STRICT;
