-- Whether an administrator takes a device out of service: it has no session and no grant, and keeps its name and addresses.
ALTER TABLE devices ADD COLUMN disabled INTEGER NOT NULL DEFAULT 0;
