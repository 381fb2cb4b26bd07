-- Version 3. Where volumes were kept, so that a start elsewhere can say what was left behind.

CREATE TABLE volume_places (
    backend      TEXT NOT NULL,
    location     TEXT NOT NULL,
    last_used_at TEXT NOT NULL,
    PRIMARY KEY (backend, location)
) STRICT;
