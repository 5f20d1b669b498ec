-- Whether an administrator takes a gateway out of service: it keeps what it has, and gets nothing new.
ALTER TABLE gateways ADD COLUMN draining INTEGER NOT NULL DEFAULT 0;
