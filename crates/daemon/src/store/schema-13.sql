-- Version 13. The digest of the disk that an image holds, once it has been computed to verify a volume, so that the next
-- verification needs no image.

CREATE TABLE contents (
    digest      TEXT NOT NULL,
    image_type  TEXT NOT NULL,
    disk_bytes  INTEGER NOT NULL,
    disk_digest TEXT NOT NULL,
    used_at     TEXT NOT NULL,
    PRIMARY KEY (digest, image_type)
) STRICT;
