-- Version 14. How many requests a job has sent for its image.

ALTER TABLE jobs ADD COLUMN requests INTEGER NOT NULL DEFAULT 0;
