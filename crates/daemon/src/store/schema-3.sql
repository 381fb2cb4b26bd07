-- Version 3. Where volumes were kept, so that a start elsewhere can say what was left behind.

CREATE TABLE volume_places (
    backend      TEXT NOT NULL,
    location     TEXT NOT NULL,
    last_used_at TEXT NOT NULL,
    PRIMARY KEY (backend, location)
) STRICT;

-- Whether a job may take over a volume that nobody has marked as this program's.

ALTER TABLE jobs ADD COLUMN adopt INTEGER NOT NULL DEFAULT 0;

-- Objects by what they are, whatever their URL shows; files by their change time too; URLs
-- of jobs without what signs them.

-- None where a release did not look at it: such a file is hashed before it is served.
ALTER TABLE images ADD COLUMN ctime_ns INTEGER;

-- What an object was when it was read: how its image is found again. The identity is a digest.
-- What was known by URLs without their queries may be mixed up.
DROP TABLE objects;
CREATE TABLE objects (
    identity   TEXT PRIMARY KEY,
    validator  TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    digest     TEXT NOT NULL REFERENCES images (digest) ON DELETE CASCADE
) STRICT;

-- `image_url` is what may be shown. The whole URL, where that is more, is encrypted, and only there
-- until the job has ended; `image_identity` tells repeats of a request.
ALTER TABLE jobs ADD COLUMN image_identity TEXT;
ALTER TABLE jobs ADD COLUMN image_url_sealed BLOB;
UPDATE jobs SET image_url = substr(image_url, 1, instr(image_url, '?') - 1)
    WHERE instr(image_url, '?') > 0 AND state NOT IN ('pending', 'running');
