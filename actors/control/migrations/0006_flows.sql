-- What passed between devices and resources, one row for each flow that has ended. Names are those of the moment: rows
-- outlive what they speak of. Ids are in the order of arrival.
CREATE TABLE flows (
    account TEXT NOT NULL REFERENCES accounts (id),
    id TEXT NOT NULL,
    gateway TEXT NOT NULL,
    gateway_name TEXT NOT NULL,
    device TEXT NOT NULL,
    device_name TEXT NOT NULL,
    principal TEXT,
    principal_name TEXT,
    resource TEXT NOT NULL,
    resource_name TEXT NOT NULL,
    policy TEXT NOT NULL,
    policy_name TEXT NOT NULL,
    granted TEXT NOT NULL,
    protocol INTEGER NOT NULL,
    source TEXT NOT NULL,
    destination TEXT NOT NULL,
    name TEXT,
    address TEXT NOT NULL,
    path TEXT,
    started_at INTEGER NOT NULL,
    ended_at INTEGER NOT NULL,
    packets_in INTEGER NOT NULL,
    bytes_in INTEGER NOT NULL,
    packets_out INTEGER NOT NULL,
    bytes_out INTEGER NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (account, id)
) STRICT, WITHOUT ROWID;

-- How far each process of a gateway has come with its batches of flows: what is not newer is stored already.
CREATE TABLE flow_streams (
    account TEXT NOT NULL REFERENCES accounts (id),
    gateway TEXT NOT NULL,
    stream INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (account, gateway, stream)
) STRICT, WITHOUT ROWID;

-- Names of what was deleted, for the flows that end with it.
CREATE TABLE gone (
    account TEXT NOT NULL REFERENCES accounts (id),
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    principal TEXT,
    principal_name TEXT,
    at INTEGER NOT NULL,
    PRIMARY KEY (account, id)
) STRICT, WITHOUT ROWID;
