-- Version 9. What a request says of the guest's partition table.

ALTER TABLE jobs ADD COLUMN expand TEXT;
