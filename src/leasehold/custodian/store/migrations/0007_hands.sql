-- What one operator wants and others must approve (docs/spec/ledger.md, L-13). `request` is the exact text
-- of which `digest` is the SHA-256. An operator's hand counts once.
CREATE TABLE proposals (
    id INTEGER PRIMARY KEY,
    request BLOB NOT NULL,
    digest BLOB NOT NULL CHECK (LENGTH(digest) = 32),
    expires INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'done', 'rejected', 'void')),
    closed INTEGER,
    closed_by TEXT NOT NULL,
    reason TEXT NOT NULL
) STRICT;

CREATE INDEX proposals_pending ON proposals (id) WHERE state = 'pending';

CREATE TABLE proposal_hands (
    proposal INTEGER NOT NULL REFERENCES proposals (id),
    operator TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (proposal, operator)
) STRICT;

INSERT INTO meta (name, value) VALUES ('proposal', 0);
