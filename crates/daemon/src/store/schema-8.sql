-- Version 8. Unpacked copies of cached images: the disk as a sparse file, by the format that the image was read as.

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
