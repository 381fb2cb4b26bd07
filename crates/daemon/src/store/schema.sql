-- Version 1. Times are RFC 3339 in UTC with milliseconds, so that text order is time order.

CREATE TABLE jobs (
    seq               INTEGER PRIMARY KEY AUTOINCREMENT,
    id                TEXT NOT NULL UNIQUE,
    kind              TEXT NOT NULL,
    state             TEXT NOT NULL,
    image_url         TEXT NOT NULL,
    image_type        TEXT NOT NULL,
    volume_name       TEXT,
    volume_size_bytes INTEGER,
    correlation_id    TEXT,
    idempotency_key   TEXT UNIQUE,
    traceparent       TEXT,
    error             TEXT,
    error_code        INTEGER,
    error_type        TEXT,
    cache_hit         INTEGER,
    image_path        TEXT,
    volume_path       TEXT,
    image_digest      TEXT,
    notes             TEXT NOT NULL DEFAULT '[]',
    progress          TEXT,
    attempts          INTEGER NOT NULL DEFAULT 0,
    created_at        TEXT NOT NULL,
    started_at        TEXT,
    updated_at        TEXT NOT NULL,
    finished_at       TEXT
) STRICT;

-- Two jobs can never hold one volume, whatever the code above says.
CREATE UNIQUE INDEX one_job_per_volume ON jobs (volume_name)
    WHERE state IN ('pending', 'running') AND volume_name IS NOT NULL;
CREATE INDEX jobs_by_state ON jobs (state, seq);
CREATE INDEX jobs_by_end ON jobs (finished_at) WHERE finished_at IS NOT NULL;

-- One row for each published cache file; the file's name is its digest.
CREATE TABLE images (
    digest       TEXT PRIMARY KEY,
    image_type   TEXT NOT NULL,
    size_bytes   INTEGER NOT NULL,
    image_url    TEXT NOT NULL,
    inode        INTEGER NOT NULL,
    mtime_ns     INTEGER NOT NULL,
    published_at TEXT NOT NULL,
    last_used_at TEXT NOT NULL
) STRICT;

-- Which digest an object had when it was fetched: how an object without a sidecar is found again.
CREATE TABLE objects (
    image_url  TEXT PRIMARY KEY,
    etag       TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    digest     TEXT NOT NULL REFERENCES images (digest) ON DELETE CASCADE
) STRICT;

-- Downloads that have not ended: how much of the partial file is durable.
CREATE TABLE partials (
    file_name     TEXT PRIMARY KEY,
    image_url     TEXT NOT NULL,
    etag          TEXT NOT NULL,
    size_bytes    INTEGER NOT NULL,
    durable_bytes INTEGER NOT NULL,
    updated_at    TEXT NOT NULL
) STRICT;

-- How fast stages ran, for estimates.
CREATE TABLE measurements (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    stage      TEXT NOT NULL,
    bytes      INTEGER NOT NULL,
    seconds    REAL NOT NULL
) STRICT;
CREATE INDEX measurements_by_stage ON measurements (stage, seq);
