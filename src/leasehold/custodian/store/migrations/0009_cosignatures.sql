-- Who cosigned which size of the audit log (docs/spec/witness.md, J-7): enclaves and witnesses. `seconds` is
-- the cosigner's time, `at` when it came. No entries of the log: a log that grew with every cosignature
-- could never be cosigned to its end.
CREATE TABLE cosignatures (
    name TEXT NOT NULL,
    size INTEGER NOT NULL CHECK (size > 0),
    kind TEXT NOT NULL CHECK (kind IN ('enclave', 'witness')),
    public BLOB NOT NULL CHECK (LENGTH(public) = 32),
    seconds INTEGER NOT NULL CHECK (seconds >= 0),
    signature BLOB NOT NULL CHECK (LENGTH(signature) = 64),
    at INTEGER NOT NULL,
    PRIMARY KEY (name, size)
) STRICT;

CREATE INDEX cosignatures_by_size ON cosignatures (size);
