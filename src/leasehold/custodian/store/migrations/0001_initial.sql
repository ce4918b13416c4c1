-- The ledger's tables. Times are milliseconds since the Unix epoch, units are units of budget.
-- For PostgreSQL: INTEGER is bigint, BLOB is bytea, STRICT and WITHOUT ROWID are left out.

CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL CHECK (value >= 0)
) STRICT;

INSERT INTO meta (name, value)
VALUES ('epoch', 1), ('account', 0), ('lease', 0), ('stop', 0), ('extension', 0), ('appraisal', 0);

-- The audit log. `frontier` is the concatenation of the complete subtrees' hashes, left to right.
CREATE TABLE log (
    position INTEGER PRIMARY KEY,
    leaf BLOB NOT NULL
) STRICT;

CREATE TABLE log_head (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    size INTEGER NOT NULL,
    frontier BLOB NOT NULL
) STRICT;

INSERT INTO log_head (one, size, frontier) VALUES (1, 0, x'');

-- M-2: what is available is what the other terms leave, and it is never negative.
CREATE TABLE accounts (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('loan', 'grant', 'key')),
    parent INTEGER REFERENCES accounts (id),
    granted INTEGER NOT NULL CHECK (granted >= 0),
    outstanding INTEGER NOT NULL CHECK (outstanding >= 0),
    settled INTEGER NOT NULL CHECK (settled >= 0),
    written_off INTEGER NOT NULL CHECK (written_off >= 0),
    CHECK (outstanding + settled + written_off <= granted)
) STRICT;

CREATE TABLE models (
    name TEXT PRIMARY KEY,
    digest TEXT NOT NULL,
    sealed_bytes INTEGER NOT NULL,
    engine TEXT NOT NULL,
    added INTEGER NOT NULL
) STRICT;

CREATE TABLE loans (
    name TEXT PRIMARY KEY,
    model TEXT NOT NULL REFERENCES models (name),
    manifest BLOB NOT NULL,
    tariff BLOB NOT NULL,
    policy BLOB NOT NULL,
    instances_max INTEGER NOT NULL,
    dead_man INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('active', 'ended')),
    created INTEGER NOT NULL,
    account INTEGER NOT NULL UNIQUE REFERENCES accounts (id)
) STRICT;

CREATE TABLE consumers (
    name TEXT PRIMARY KEY,
    created INTEGER NOT NULL
) STRICT;

CREATE TABLE keys (
    id TEXT PRIMARY KEY,
    consumer TEXT NOT NULL REFERENCES consumers (name),
    hash BLOB NOT NULL UNIQUE,
    created INTEGER NOT NULL,
    revoked INTEGER
) STRICT;

CREATE TABLE grants (
    loan TEXT NOT NULL REFERENCES loans (name),
    consumer TEXT NOT NULL REFERENCES consumers (name),
    account INTEGER NOT NULL UNIQUE REFERENCES accounts (id),
    PRIMARY KEY (loan, consumer)
) STRICT;

CREATE TABLE key_caps (
    loan TEXT NOT NULL REFERENCES loans (name),
    key TEXT NOT NULL REFERENCES keys (id),
    account INTEGER NOT NULL UNIQUE REFERENCES accounts (id),
    PRIMARY KEY (loan, key)
) STRICT;

-- `floor`: answers to asks numbered up to it are forgotten, so those asks are refused.
CREATE TABLE instances (
    id TEXT PRIMARY KEY,
    loan TEXT NOT NULL REFERENCES loans (name),
    statement_key BLOB NOT NULL,
    machine TEXT NOT NULL,
    verdict BLOB NOT NULL,
    evidence_digest BLOB NOT NULL,
    certificate_expires INTEGER NOT NULL,
    evidence_expires INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('live', 'stopping', 'stopped', 'lost')),
    registered INTEGER NOT NULL,
    seen INTEGER NOT NULL,
    floor INTEGER NOT NULL
) STRICT;

CREATE INDEX instances_by_loan ON instances (loan, state);

CREATE TABLE appraisals (
    id INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    instance TEXT NOT NULL,
    loan TEXT NOT NULL,
    machine TEXT NOT NULL,
    code TEXT NOT NULL,
    verdict BLOB NOT NULL,
    evidence_digest BLOB NOT NULL
) STRICT;

CREATE TABLE nonces (
    nonce BLOB PRIMARY KEY,
    expires INTEGER NOT NULL
) STRICT;

-- A lease's id is `epoch-number`. `claimed` is the highest counter its instance ever reported.
CREATE TABLE leases (
    number INTEGER PRIMARY KEY,
    epoch INTEGER NOT NULL,
    instance TEXT NOT NULL REFERENCES instances (id),
    loan TEXT NOT NULL REFERENCES loans (name),
    consumer TEXT NOT NULL REFERENCES consumers (name),
    key TEXT NOT NULL REFERENCES keys (id),
    granted INTEGER NOT NULL CHECK (granted >= 0),
    settled INTEGER NOT NULL CHECK (settled >= 0),
    released INTEGER NOT NULL CHECK (released >= 0),
    written_off INTEGER NOT NULL CHECK (written_off >= 0),
    claimed INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'closed', 'written_off')),
    opened INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    ended INTEGER,
    statement BLOB,
    CHECK (settled + released + written_off <= granted),
    CHECK (state = 'open' OR settled + released + written_off = granted)
) STRICT;

-- M-3: at most one open lease for a pair (instance, key).
CREATE UNIQUE INDEX leases_open ON leases (instance, key) WHERE state = 'open';
CREATE INDEX leases_due ON leases (expires) WHERE state = 'open';
CREATE INDEX leases_by_loan ON leases (loan, consumer);

CREATE TABLE answers (
    instance TEXT NOT NULL REFERENCES instances (id),
    kind TEXT NOT NULL CHECK (kind IN ('lease', 'extension')),
    sequence INTEGER NOT NULL,
    request BLOB NOT NULL,
    answer BLOB NOT NULL,
    PRIMARY KEY (instance, kind, sequence)
) STRICT, WITHOUT ROWID;

CREATE TABLE extensions (
    id INTEGER PRIMARY KEY,
    loan TEXT NOT NULL,
    consumer TEXT NOT NULL,
    asked INTEGER NOT NULL CHECK (asked >= 0),
    reason TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('open', 'approved', 'denied')),
    approved INTEGER NOT NULL CHECK (approved >= 0),
    opened INTEGER NOT NULL,
    decided INTEGER,
    decided_by TEXT NOT NULL,
    decision TEXT NOT NULL,
    FOREIGN KEY (loan, consumer) REFERENCES grants (loan, consumer)
) STRICT;

CREATE UNIQUE INDEX extensions_open ON extensions (loan, consumer) WHERE status = 'open';
CREATE INDEX extensions_by_grant ON extensions (loan, consumer, id);

CREATE TABLE stops (
    id INTEGER PRIMARY KEY,
    scope TEXT NOT NULL CHECK (scope IN ('consumer', 'enclave', 'loan', 'all')),
    target TEXT NOT NULL,
    reason TEXT NOT NULL,
    actor TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    at INTEGER NOT NULL,
    lifted INTEGER
) STRICT;

CREATE UNIQUE INDEX stops_active ON stops (scope, target) WHERE lifted IS NULL;

-- Which instances a stop found running; they never serve again, whatever is lifted (N-7).
CREATE TABLE stop_instances (
    stop INTEGER NOT NULL REFERENCES stops (id),
    instance TEXT NOT NULL REFERENCES instances (id),
    PRIMARY KEY (stop, instance)
) STRICT;

CREATE INDEX stop_instances_by_instance ON stop_instances (instance);
