-- Version 3. Where volumes were kept, so that a start elsewhere can say what was left behind.

CREATE TABLE volume_places (
    backend      TEXT NOT NULL,
    location     TEXT NOT NULL,
    last_used_at TEXT NOT NULL,
    PRIMARY KEY (backend, location)
) STRICT;

-- Whether a job may take over a volume that nobody has marked as this program's.

ALTER TABLE jobs ADD COLUMN adopt INTEGER NOT NULL DEFAULT 0;
