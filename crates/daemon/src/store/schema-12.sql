-- Version 12. Orders of the fleet: what this host has seen of each, and what became of it. What is forgotten was issued
-- no later than `fleet_floor` says.

CREATE TABLE fleet_orders (
    id          TEXT PRIMARY KEY,
    revision    INTEGER NOT NULL,
    issued_at   INTEGER NOT NULL,
    payload     BLOB NOT NULL,
    signer      TEXT NOT NULL,
    traceparent TEXT,
    received_at TEXT NOT NULL,
    report      TEXT,
    published   INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE fleet_floor (
    only      INTEGER PRIMARY KEY CHECK (only = 0),
    issued_at INTEGER NOT NULL
) STRICT;

INSERT INTO fleet_floor VALUES (0, 0);
