-- Version 10. What a job's time went to, as JSON; the bytes that it moved; and its course, which is read for one job at a
-- time only: its time line and its log, as JSON.

ALTER TABLE jobs ADD COLUMN bound TEXT;
ALTER TABLE jobs ADD COLUMN fetched_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN written_bytes INTEGER NOT NULL DEFAULT 0;

CREATE TABLE courses (
    job_id TEXT PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
    trail  TEXT NOT NULL,
    log    TEXT NOT NULL
) STRICT;
