-- Stops with notice and with a drain (docs/spec/ledger.md, L-14). From `begins` on nothing is leased in the scope,
-- from `ends` on nothing is served; where it stops at once, both are the time of the order. `phase` is how far the
-- stop has come: only acts that are in the log change it, so that no clock takes back what was in force.
ALTER TABLE stops ADD COLUMN begins INTEGER NOT NULL DEFAULT 0;
ALTER TABLE stops ADD COLUMN ends INTEGER NOT NULL DEFAULT 0;
ALTER TABLE stops ADD COLUMN phase TEXT NOT NULL DEFAULT 'full'
    CHECK (phase IN ('notice', 'drain', 'full'));

UPDATE stops SET begins = at, ends = at;
