-- Each record of the audit log carries the hash of the one before it in its account. Records from before have neither.

ALTER TABLE changes ADD COLUMN previous TEXT;
ALTER TABLE changes ADD COLUMN hash TEXT;
