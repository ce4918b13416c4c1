-- Full tiles of the log's tree (docs/spec/ledger.md, A-5); `root` is the hash one level above.
CREATE TABLE log_tiles (
    level INTEGER NOT NULL CHECK (level >= 0),
    number INTEGER NOT NULL CHECK (number >= 0),
    hashes BLOB NOT NULL CHECK (LENGTH(hashes) = 8192),
    root BLOB NOT NULL CHECK (LENGTH(root) = 32),
    PRIMARY KEY (level, number)
) STRICT;
