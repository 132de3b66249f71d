-- How far each repository is. Never deleted: numbers must not start again.
CREATE TABLE outbox_repositories (
    repository TEXT PRIMARY KEY,
    -- The number given last.
    last INTEGER NOT NULL,
    -- The position of the row with that number, also when the row is gone. The greatest of them is the position given
    -- last, and unique: of two transactions that took the same one, the second is refused.
    position INTEGER NOT NULL UNIQUE,
    -- The highest number known to stand in Git.
    closed INTEGER NOT NULL DEFAULT 0,
    -- 1: Git was found to hold numbers that were never given here. Then no row is published or closed any more.
    foreign_numbers INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Open rows; a row that stands in Git is deleted.
CREATE TABLE outbox_rows (
    -- The order in which they were committed, over all repositories.
    position INTEGER PRIMARY KEY,
    repository TEXT NOT NULL REFERENCES outbox_repositories,
    number INTEGER NOT NULL,
    traceparent TEXT,
    -- GitWrite as it travels: protobuf, zstd.
    payload BLOB NOT NULL,
    UNIQUE (repository, number)
) STRICT;
