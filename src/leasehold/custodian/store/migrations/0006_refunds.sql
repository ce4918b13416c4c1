-- Units of a lease that an operator gave back to its grant. Never more than the lease cost.
CREATE TABLE refunds (
    id INTEGER PRIMARY KEY,
    lease INTEGER NOT NULL REFERENCES leases (number),
    units INTEGER NOT NULL CHECK (units > 0),
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    at INTEGER NOT NULL
) STRICT;

CREATE INDEX refunds_by_lease ON refunds (lease);
CREATE INDEX refunds_by_actor ON refunds (actor);

INSERT INTO meta (name, value) VALUES ('refund', 0);
