-- Version 5. Volumes by cloning: what a request says of it, how a volume was made, and the golden volumes.

ALTER TABLE jobs ADD COLUMN clone TEXT NOT NULL DEFAULT 'auto';
ALTER TABLE jobs ADD COLUMN method TEXT;

-- What is known of golden volumes beside what they say themselves, which decides.
CREATE TABLE golden (
    digest       TEXT NOT NULL,
    image_type   TEXT NOT NULL,
    image_url    TEXT NOT NULL,
    sha512       TEXT,
    clones       INTEGER NOT NULL DEFAULT 0,
    made_at      TEXT NOT NULL,
    last_used_at TEXT NOT NULL,
    PRIMARY KEY (digest, image_type)
) STRICT;

-- What an object was when it was read is needed as long as its image is cached or has a golden volume.
CREATE TABLE objects_read (
    identity   TEXT PRIMARY KEY,
    validator  TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    digest     TEXT NOT NULL
) STRICT;
INSERT INTO objects_read SELECT identity, validator, size_bytes, digest FROM objects;
DROP TABLE objects;
ALTER TABLE objects_read RENAME TO objects;
CREATE INDEX objects_by_digest ON objects (digest);
