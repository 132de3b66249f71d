-- How far each repository is. Never deleted: numbers must not start again.
CREATE TABLE outbox_repositories (
    repository TEXT PRIMARY KEY,
    -- The number given last.
    last INTEGER NOT NULL,
    -- The highest number known to stand in Git.
    closed INTEGER NOT NULL DEFAULT 0,
    -- 1: Git was found to hold numbers that were never given here. Then no row is published or closed any more.
    foreign_numbers INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Open rows; a row that stands in Git is deleted.
CREATE TABLE outbox_rows (
    repository TEXT NOT NULL REFERENCES outbox_repositories,
    number INTEGER NOT NULL,
    -- The number of the row of fleet.git that the row may not stand in Git before; 0 when there is none.
    follows INTEGER NOT NULL,
    traceparent TEXT,
    -- GitWrite as it travels: protobuf, zstd.
    payload BLOB NOT NULL,
    PRIMARY KEY (repository, number)
) STRICT;
