-- What an admin token may do. Those that are there could do everything, and still can.
ALTER TABLE tokens ADD COLUMN scopes TEXT NOT NULL DEFAULT '';
UPDATE tokens SET scopes = 'admin' WHERE kind = 'admin';
