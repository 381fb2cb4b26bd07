-- Version 6. Whose signature an image has, as JSON.

ALTER TABLE jobs ADD COLUMN signer TEXT;
