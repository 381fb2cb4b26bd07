-- Version 8. What verifications found, how long jobs wait for room, and unpacked copies.

ALTER TABLE jobs ADD COLUMN verification TEXT;
-- From the job's acceptance; none for a job that does not wait.
ALTER TABLE jobs ADD COLUMN room_wait_seconds INTEGER;

-- Unpacked copies of cached images: the disk as a sparse file, by the format that the image was read as.

ALTER TABLE images ADD COLUMN copies INTEGER NOT NULL DEFAULT 0;

CREATE TABLE unpacked (
    digest     TEXT NOT NULL REFERENCES images (digest) ON DELETE CASCADE,
    image_type TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    used_bytes INTEGER NOT NULL,
    inode      INTEGER NOT NULL,
    mtime_ns   INTEGER NOT NULL,
    ctime_ns   INTEGER,
    PRIMARY KEY (digest, image_type)
) STRICT;
