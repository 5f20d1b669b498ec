//! How each record is laid out in its table. All SQL that touches a record is built here, and begins with the account.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use protocol_identity::{AccountId, GroupId, PrincipalId, ResourceId};
use uuid::Uuid;

use super::columns::{
    read_device, read_gateway, read_grant, read_group, read_policy, read_principal, read_relay,
    read_resource, read_site, read_token, uuid, values,
};
use super::db::{Db, Row};
use crate::model::{Key, Kind, Object};
use crate::storage::{Page, StorageError};

/// A set that is kept beside its record: table, and which of the record's sets.
struct Link {
    table: &'static str,
    get: fn(&Object) -> Vec<Uuid>,
    set: fn(&mut Object, BTreeSet<Uuid>),
}

/// A record's table: its name and its columns after account and id.
struct Layout {
    table: &'static str,
    columns: &'static [&'static str],
    links: &'static [Link],
    read: fn(&Row) -> Result<Object, StorageError>,
}

const NO_LINKS: &[Link] = &[];

const MEMBERS: Link = Link {
    table: "group_members",
    get: |object| match object {
        Object::Group(group) => group.members.iter().map(|id| id.0).collect(),
        _ => Vec::new(),
    },
    set: |object, ids| {
        if let Object::Group(group) = object {
            group.members = ids.into_iter().map(PrincipalId).collect();
        }
    },
};

const POLICY_GROUPS: Link = Link {
    table: "policy_groups",
    get: |object| match object {
        Object::Policy(policy) => policy.groups.iter().map(|id| id.0).collect(),
        _ => Vec::new(),
    },
    set: |object, ids| {
        if let Object::Policy(policy) = object {
            policy.groups = ids.into_iter().map(GroupId).collect();
        }
    },
};

const POLICY_RESOURCES: Link = Link {
    table: "policy_resources",
    get: |object| match object {
        Object::Policy(policy) => policy.resources.iter().map(|id| id.0).collect(),
        _ => Vec::new(),
    },
    set: |object, ids| {
        if let Object::Policy(policy) = object {
            policy.resources = ids.into_iter().map(ResourceId).collect();
        }
    },
};

fn layout(kind: Kind) -> Layout {
    let (table, columns, links, read): (_, &'static [&'static str], _, fn(&Row) -> _) = match kind {
        Kind::Site => ("sites", &["name", "description", "created_at"], NO_LINKS, read_site),
        Kind::Principal => {
            ("principals", &["name", "disabled", "labels", "created_at"], NO_LINKS, read_principal)
        }
        Kind::Group => ("groups", &["name", "everyone", "created_at"], &[MEMBERS], read_group),
        Kind::Token => (
            "tokens",
            &[
                "name",
                "kind",
                "hash",
                "site",
                "principal",
                "region",
                "latitude",
                "longitude",
                "scopes",
                "many",
                "identity",
                "expires_at",
                "last_used_at",
                "created_at",
            ],
            NO_LINKS,
            read_token,
        ),
        Kind::Gateway => (
            "gateways",
            &[
                "name",
                "site",
                "token",
                "identity",
                "host",
                "draining",
                "version",
                "last_seen_at",
                "created_at",
            ],
            NO_LINKS,
            read_gateway,
        ),
        Kind::Device => (
            "devices",
            &[
                "name",
                "principal",
                "token",
                "identity",
                "host",
                "verified",
                "disabled",
                "os",
                "os_version",
                "version",
                "last_seen_at",
                "created_at",
            ],
            NO_LINKS,
            read_device,
        ),
        Kind::Relay => (
            "relays",
            &[
                "name",
                "region",
                "latitude",
                "longitude",
                "addresses",
                "token",
                "identity",
                "version",
                "last_seen_at",
                "created_at",
            ],
            NO_LINKS,
            read_relay,
        ),
        Kind::Resource => (
            "resources",
            &[
                "name",
                "address",
                "site",
                "listed",
                "filters",
                "labels",
                "description",
                "created_at",
                "updated_at",
            ],
            NO_LINKS,
            read_resource,
        ),
        Kind::Policy => (
            "policies",
            &[
                "name",
                "enabled",
                "effect",
                "principal_labels",
                "resource_labels",
                "conditions",
                "max_session_seconds",
                "place",
                "created_at",
                "updated_at",
            ],
            &[POLICY_GROUPS, POLICY_RESOURCES],
            read_policy,
        ),
        Kind::Grant => (
            "grants",
            &[
                "device",
                "resource",
                "gateway",
                "policy",
                "relay",
                "version",
                "source",
                "state",
                "since",
                "ends_at",
                "lease_ends_at",
            ],
            NO_LINKS,
            read_grant,
        ),
    };
    Layout { table, columns, links, read }
}

pub(super) fn table(kind: Kind) -> &'static str {
    layout(kind).table
}

/// Reads the sets of records, which are in the order of their ids: one statement for each set, however many records.
async fn read_links(
    db: &mut Db<'_>,
    account: AccountId,
    layout: &Layout,
    objects: &mut [Object],
) -> Result<(), StorageError> {
    let (Some(first), Some(last)) = (objects.first().map(Object::id), objects.last().map(Object::id)) else {
        return Ok(());
    };
    for link in layout.links {
        let sql = format!(
            "SELECT owner, target FROM {} WHERE account = ? AND owner >= ? AND owner <= ?",
            link.table
        );
        let mut sets = BTreeMap::<Uuid, BTreeSet<Uuid>>::new();
        for row in db.fetch_all(&sql, vec![(&account).into(), (&first).into(), (&last).into()]).await? {
            sets.entry(uuid(&row, "owner")?).or_default().insert(uuid(&row, "target")?);
        }
        for object in &mut *objects {
            (link.set)(object, sets.remove(&object.id()).unwrap_or_default());
        }
    }
    Ok(())
}

pub(super) async fn find(
    db: &mut Db<'_>,
    account: AccountId,
    kind: Kind,
    key: &Key,
) -> Result<Option<Object>, StorageError> {
    let layout = layout(kind);
    let (column, value) = match key {
        Key::Id(id) => ("id", id.to_string()),
        Key::Name(_) if kind == Kind::Grant => return Ok(None),
        Key::Name(name) => ("name", name.clone()),
    };
    let columns = layout.columns.join(", ");
    let sql = format!("SELECT id, {columns} FROM {} WHERE account = ? AND {column} = ?", layout.table);
    match db.fetch_optional(&sql, vec![(&account).into(), (&value).into()]).await? {
        None => Ok(None),
        Some(row) => {
            let mut found = [(layout.read)(&row)?];
            read_links(db, account, &layout, &mut found).await?;
            let [object] = found;
            Ok(Some(object))
        }
    }
}

pub(super) async fn list(
    db: &mut Db<'_>,
    account: AccountId,
    kind: Kind,
    page: &Page,
) -> Result<Vec<Object>, StorageError> {
    let layout = layout(kind);
    let mut sql = format!("SELECT id, {} FROM {} WHERE account = ?", layout.columns.join(", "), layout.table);
    let mut values = vec![(&account).into()];
    if let Some(after) = page.after {
        sql.push_str(" AND id > ?");
        values.push((&after).into());
    }
    if let Some(name) = page.name.as_ref().filter(|_| kind != Kind::Grant) {
        sql.push_str(" AND name = ?");
        values.push(name.into());
    }
    let _ = write!(sql, " ORDER BY id LIMIT {}", i64::try_from(page.limit).unwrap_or(i64::MAX));
    let rows = db.fetch_all(&sql, values).await?;
    let mut objects = rows.iter().map(layout.read).collect::<Result<Vec<_>, _>>()?;
    read_links(db, account, &layout, &mut objects).await?;
    Ok(objects)
}

/// Writes a record that is new (`replace` false) or may be there already.
pub(super) async fn put(
    db: &mut Db<'_>,
    account: AccountId,
    object: &Object,
    replace: bool,
) -> Result<(), StorageError> {
    let layout = layout(object.kind());
    let places = vec!["?"; layout.columns.len() + 2].join(", ");
    let mut sql = format!(
        "INSERT INTO {} (account, id, {}) VALUES ({places})",
        layout.table,
        layout.columns.join(", ")
    );
    if replace {
        let sets: Vec<String> =
            layout.columns.iter().map(|column| format!("{column} = excluded.{column}")).collect();
        let _ = write!(sql, " ON CONFLICT (account, id) DO UPDATE SET {}", sets.join(", "));
    }
    let mut all = vec![(&account).into(), (&object.id()).into()];
    all.extend(values(object)?);
    db.execute(&sql, all).await?;

    for link in layout.links {
        let sql = format!("DELETE FROM {} WHERE account = ? AND owner = ?", link.table);
        db.execute(&sql, vec![(&account).into(), (&object.id()).into()]).await?;
        let sql = format!("INSERT INTO {} (account, owner, target) VALUES (?, ?, ?)", link.table);
        for target in (link.get)(object) {
            db.execute(&sql, vec![(&account).into(), (&object.id()).into(), (&target).into()]).await?;
        }
    }
    Ok(())
}

pub(super) async fn delete(
    db: &mut Db<'_>,
    account: AccountId,
    kind: Kind,
    id: Uuid,
) -> Result<(), StorageError> {
    let sql = format!("DELETE FROM {} WHERE account = ? AND id = ?", table(kind));
    db.execute(&sql, vec![(&account).into(), (&id).into()]).await?;
    Ok(())
}
