-- Every row carries its account, and every key and reference begins with it: a row of one account cannot even name a
-- row of another. Ids are UUIDs as text, times are milliseconds since 1970 UTC.

CREATE TABLE accounts (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE sites (
    account TEXT NOT NULL REFERENCES accounts (id),
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    description TEXT,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (account, id),
    UNIQUE (account, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE principals (
    account TEXT NOT NULL REFERENCES accounts (id),
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    disabled INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (account, id),
    UNIQUE (account, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE groups (
    account TEXT NOT NULL REFERENCES accounts (id),
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    everyone INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (account, id),
    UNIQUE (account, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE group_members (
    account TEXT NOT NULL,
    owner TEXT NOT NULL,
    target TEXT NOT NULL,
    PRIMARY KEY (account, owner, target),
    FOREIGN KEY (account, owner) REFERENCES groups (account, id) ON DELETE CASCADE,
    FOREIGN KEY (account, target) REFERENCES principals (account, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX group_members_by_target ON group_members (account, target);

-- What a token lets its holder do is its kind; only hashes are kept.
CREATE TABLE tokens (
    account TEXT NOT NULL REFERENCES accounts (id),
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    hash BLOB NOT NULL UNIQUE,
    site TEXT,
    principal TEXT,
    region TEXT,
    latitude REAL,
    longitude REAL,
    many INTEGER NOT NULL,
    identity TEXT,
    expires_at INTEGER,
    last_used_at INTEGER,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (account, id),
    UNIQUE (account, kind, name),
    FOREIGN KEY (account, site) REFERENCES sites (account, id) ON DELETE RESTRICT,
    FOREIGN KEY (account, principal) REFERENCES principals (account, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX tokens_by_principal ON tokens (account, principal);
CREATE INDEX tokens_by_site ON tokens (account, site);

-- Tunnel addresses of gateways and devices, as the number within the account's range.
CREATE TABLE addresses (
    account TEXT NOT NULL REFERENCES accounts (id),
    host INTEGER NOT NULL,
    PRIMARY KEY (account, host)
) STRICT, WITHOUT ROWID;

CREATE TABLE gateways (
    account TEXT NOT NULL REFERENCES accounts (id),
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    site TEXT NOT NULL,
    token TEXT,
    identity TEXT NOT NULL,
    host INTEGER NOT NULL,
    version TEXT,
    last_seen_at INTEGER,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (account, id),
    UNIQUE (account, name),
    UNIQUE (account, identity),
    FOREIGN KEY (account, site) REFERENCES sites (account, id) ON DELETE RESTRICT,
    FOREIGN KEY (account, host) REFERENCES addresses (account, host)
) STRICT, WITHOUT ROWID;
CREATE INDEX gateways_by_site ON gateways (account, site);

CREATE TABLE devices (
    account TEXT NOT NULL REFERENCES accounts (id),
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    principal TEXT NOT NULL,
    token TEXT,
    identity TEXT NOT NULL,
    host INTEGER NOT NULL,
    verified INTEGER NOT NULL,
    os TEXT,
    os_version TEXT,
    version TEXT,
    last_seen_at INTEGER,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (account, id),
    UNIQUE (account, name),
    UNIQUE (account, identity),
    FOREIGN KEY (account, principal) REFERENCES principals (account, id) ON DELETE CASCADE,
    FOREIGN KEY (account, host) REFERENCES addresses (account, host)
) STRICT, WITHOUT ROWID;
CREATE INDEX devices_by_principal ON devices (account, principal);

CREATE TABLE relays (
    account TEXT NOT NULL REFERENCES accounts (id),
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    region TEXT,
    latitude REAL,
    longitude REAL,
    addresses TEXT NOT NULL,
    token TEXT,
    identity TEXT NOT NULL,
    version TEXT,
    last_seen_at INTEGER,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (account, id),
    UNIQUE (account, name),
    UNIQUE (account, identity)
) STRICT, WITHOUT ROWID;

CREATE TABLE resources (
    account TEXT NOT NULL REFERENCES accounts (id),
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    address TEXT NOT NULL,
    site TEXT NOT NULL,
    listed INTEGER NOT NULL,
    filters TEXT NOT NULL,
    description TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (account, id),
    UNIQUE (account, name),
    FOREIGN KEY (account, site) REFERENCES sites (account, id) ON DELETE RESTRICT
) STRICT, WITHOUT ROWID;
CREATE INDEX resources_by_site ON resources (account, site);

CREATE TABLE policies (
    account TEXT NOT NULL REFERENCES accounts (id),
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    enabled INTEGER NOT NULL,
    effect TEXT NOT NULL,
    conditions TEXT NOT NULL,
    max_session_seconds INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (account, id),
    UNIQUE (account, name)
) STRICT, WITHOUT ROWID;

-- A group that a policy names cannot go: a deny would silently end with it.
CREATE TABLE policy_groups (
    account TEXT NOT NULL,
    owner TEXT NOT NULL,
    target TEXT NOT NULL,
    PRIMARY KEY (account, owner, target),
    FOREIGN KEY (account, owner) REFERENCES policies (account, id) ON DELETE CASCADE,
    FOREIGN KEY (account, target) REFERENCES groups (account, id) ON DELETE RESTRICT
) STRICT, WITHOUT ROWID;
CREATE INDEX policy_groups_by_target ON policy_groups (account, target);

CREATE TABLE policy_resources (
    account TEXT NOT NULL,
    owner TEXT NOT NULL,
    target TEXT NOT NULL,
    PRIMARY KEY (account, owner, target),
    FOREIGN KEY (account, owner) REFERENCES policies (account, id) ON DELETE CASCADE,
    FOREIGN KEY (account, target) REFERENCES resources (account, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX policy_resources_by_target ON policy_resources (account, target);

-- Grants in force, so that a control plane that starts again knows them. Keys are public ones only.
CREATE TABLE grants (
    account TEXT NOT NULL REFERENCES accounts (id),
    id TEXT NOT NULL,
    device TEXT NOT NULL,
    resource TEXT NOT NULL,
    gateway TEXT NOT NULL,
    policy TEXT NOT NULL,
    relay TEXT,
    version INTEGER NOT NULL,
    source TEXT,
    state BLOB NOT NULL,
    since INTEGER NOT NULL,
    ends_at INTEGER,
    lease_ends_at INTEGER NOT NULL,
    PRIMARY KEY (account, id),
    FOREIGN KEY (account, device) REFERENCES devices (account, id) ON DELETE CASCADE,
    FOREIGN KEY (account, resource) REFERENCES resources (account, id) ON DELETE CASCADE,
    FOREIGN KEY (account, gateway) REFERENCES gateways (account, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX grants_by_device ON grants (account, device);
CREATE INDEX grants_by_resource ON grants (account, resource);
CREATE INDEX grants_by_gateway ON grants (account, gateway);

-- The change log: one row for each change, written in the change's own transaction. Its sequence orders everything.
CREATE TABLE changes (
    sequence INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    account TEXT NOT NULL REFERENCES accounts (id),
    at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    kind TEXT NOT NULL,
    id TEXT,
    name TEXT,
    detail TEXT NOT NULL
) STRICT;
CREATE INDEX changes_by_account ON changes (account, sequence);
