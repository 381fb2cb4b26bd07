-- Version 11. Which jobs begin first.

ALTER TABLE jobs ADD COLUMN priority TEXT NOT NULL DEFAULT 'normal';
