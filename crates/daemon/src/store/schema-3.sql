-- Version 3. Whether a job may take over a volume that nobody has marked as this program's.

ALTER TABLE jobs ADD COLUMN adopt INTEGER NOT NULL DEFAULT 0;
