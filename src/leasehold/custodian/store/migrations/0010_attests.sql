-- What each instance showed last (N-10), out of the row that every one of its heartbeats rewrites: it is
-- tens of kilobytes, and SQLite writes a changed row whole.
CREATE TABLE attests (
    instance TEXT PRIMARY KEY REFERENCES instances (id),
    attest BLOB NOT NULL
) STRICT;

INSERT INTO attests (instance, attest) SELECT id, attest FROM instances WHERE LENGTH(attest) > 0;

ALTER TABLE instances DROP COLUMN attest;
