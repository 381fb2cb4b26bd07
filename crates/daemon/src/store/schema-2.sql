-- Version 2. What webhooks' receivers have not taken yet.

CREATE TABLE webhook_events (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    receiver   TEXT NOT NULL,
    event      TEXT NOT NULL,
    delivery   TEXT NOT NULL,
    body       TEXT NOT NULL,
    created_at TEXT NOT NULL
) STRICT;
CREATE INDEX webhook_events_by_receiver ON webhook_events (receiver, seq);
