-- Version 4. What an image's bytes must be by its request, and what they were verified against.

ALTER TABLE jobs ADD COLUMN checksum TEXT;
ALTER TABLE jobs ADD COLUMN verified TEXT;
