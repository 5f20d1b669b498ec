//! One step of a change, with its row in the log.

use jiff::Timestamp;
use protocol_identity::AccountId;
use serde_json::json;
use uuid::Uuid;

use super::db::Db;
use super::{LogEntry, flows, join, tables};
use crate::model::{Key, Kind, Object};
use crate::storage::{Action, Change, Committed, Op, Page, StorageError, Write};

/// All steps of a change.
pub(super) async fn apply_all(db: &mut Db<'_>, write: Write) -> Result<Committed, StorageError> {
    let Write { account, by, at, ops } = write;
    let mut changes = Vec::with_capacity(ops.len());
    for op in ops {
        changes.extend(apply(db, account, &by, at, op).await?);
    }
    Ok(Committed { account, changes })
}

pub(super) async fn apply(
    db: &mut Db<'_>,
    account: AccountId,
    by: &str,
    at: Timestamp,
    op: Op,
) -> Result<Option<Change>, StorageError> {
    let log = |action, kind: Kind, id, name, detail| LogEntry {
        account,
        at,
        by,
        action,
        kind: kind.name(),
        id,
        name,
        detail,
    };
    let nothing = json!({});
    let change = match op {
        Op::Create(object) => {
            put(db, account, &object, false).await?;
            let (id, name) = (object.id(), object.name());
            let sequence = log("created", object.kind(), Some(id), name, &nothing).write(db).await?;
            Change { sequence, action: Action::Put(object) }
        }
        Op::Put(object) => {
            put(db, account, &object, true).await?;
            let (id, name) = (object.id(), object.name());
            let action = if object.kind() == Kind::Grant { "granted" } else { "updated" };
            let detail = match &object {
                Object::Grant(grant) => json!({
                    "device": grant.device, "resource": grant.resource, "gateway": grant.gateway, "policy": grant.policy,
                }),
                _ => nothing,
            };
            let sequence = log(action, object.kind(), Some(id), name, &detail).write(db).await?;
            Change { sequence, action: Action::Put(object) }
        }
        Op::Patch(kind, key, patch) => {
            let not_found = || StorageError::NotFound { kind, key: key.to_string() };
            let mut object = tables::find(db, account, kind, &key).await?.ok_or_else(not_found)?;
            patch(&mut object)?;
            put(db, account, &object, true).await?;
            let (id, name) = (object.id(), object.name());
            let sequence = log("updated", kind, Some(id), name, &nothing).write(db).await?;
            Change { sequence, action: Action::Put(object) }
        }
        Op::Expect(kind, key, expectation) => {
            let not_found = || StorageError::NotFound { kind, key: key.to_string() };
            let object = tables::find(db, account, kind, &key).await?.ok_or_else(not_found)?;
            expectation(&object)?;
            return Ok(None);
        }
        Op::Delete(kind, key) => {
            let not_found = || StorageError::NotFound { kind, key: key.to_string() };
            let object = tables::find(db, account, kind, &key).await?.ok_or_else(not_found)?;
            if let Some((by_kind, by_name)) = user_of(db, account, kind, object.id()).await? {
                return Err(StorageError::InUse { by_kind, by_name });
            }
            flows::bury(db, account, &object, at).await?;
            free_addresses(db, account, &object).await?;
            tables::delete(db, account, kind, object.id()).await?;
            let action = if kind == Kind::Grant { "revoked" } else { "deleted" };
            let sequence = log(action, kind, Some(object.id()), object.name(), &nothing).write(db).await?;
            Change { sequence, action: Action::Deleted(kind, object.id()) }
        }
        Op::End(grant, detail) => {
            tables::delete(db, account, Kind::Grant, grant.0).await?;
            let sequence = log("ended", Kind::Grant, Some(grant.0), None, &detail).write(db).await?;
            Change { sequence, action: Action::Deleted(Kind::Grant, grant.0) }
        }
        Op::Join(join) => {
            let (object, action) = join::join(db, account, at, *join).await?;
            put(db, account, &object, true).await?;
            let sequence =
                log(action, object.kind(), Some(object.id()), object.name(), &nothing).write(db).await?;
            Change { sequence, action: Action::Put(object) }
        }
        Op::Note(note) => {
            let name = note.name.as_deref();
            let sequence = log(note.action, note.kind, note.id, name, &note.detail).write(db).await?;
            Change { sequence, action: Action::Noted }
        }
        Op::NoteOf(by, note) => {
            let name = note.name.as_deref();
            let log = LogEntry { by: &by, ..log(note.action, note.kind, note.id, name, &note.detail) };
            Change { sequence: log.write(db).await?, action: Action::Noted }
        }
        Op::Check(kind, check) => {
            let page = Page { limit: usize::MAX, ..Page::default() };
            check(&tables::list(db, account, kind, &page).await?)?;
            return Ok(None);
        }
    };
    Ok(Some(change))
}

/// Writes a record; a name that is taken is told apart from other failures.
async fn put(
    db: &mut Db<'_>,
    account: AccountId,
    object: &Object,
    replace: bool,
) -> Result<(), StorageError> {
    tables::put(db, account, object, replace).await.map_err(|error| match error {
        StorageError::Database(sqlx::Error::Database(cause)) if cause.is_unique_violation() => {
            StorageError::NameTaken {
                kind: object.kind(),
                name: object.name().unwrap_or_default().to_owned(),
            }
        }
        StorageError::Database(sqlx::Error::Database(cause)) if cause.is_foreign_key_violation() => {
            StorageError::Refused("something that it refers to has just been deleted".into())
        }
        other => other,
    })
}

/// Something that still uses the record and would not go with it.
async fn user_of(
    db: &mut Db<'_>,
    account: AccountId,
    kind: Kind,
    id: Uuid,
) -> Result<Option<(Kind, String)>, StorageError> {
    let users: &[(Kind, &'static str)] = match kind {
        Kind::Site => &[
            (Kind::Resource, "SELECT name FROM resources WHERE account = ? AND site = ? LIMIT 1"),
            (Kind::Gateway, "SELECT name FROM gateways WHERE account = ? AND site = ? LIMIT 1"),
            (Kind::Token, "SELECT name FROM tokens WHERE account = ? AND site = ? LIMIT 1"),
        ],
        Kind::Group => &[(
            Kind::Policy,
            "SELECT policies.name AS name FROM policies JOIN policy_groups ON policy_groups.account = policies.account \
             AND policy_groups.owner = policies.id WHERE policies.account = ? AND policy_groups.target = ? LIMIT 1",
        )],
        Kind::Gateway
        | Kind::Relay
        | Kind::Device
        | Kind::Token
        | Kind::Resource
        | Kind::Principal
        | Kind::Policy
        | Kind::Grant => &[],
    };
    for (kind, sql) in users {
        let row = db.fetch_optional(sql, vec![(&account).into(), (&id).into()]).await?;
        if let Some(row) = row {
            return Ok(Some((*kind, row.text("name")?)));
        }
    }
    Ok(None)
}

/// Gives back the tunnel addresses of a node that goes, or of the devices of a principal that goes. The node's row
/// goes first: it refers to its address.
async fn free_addresses(db: &mut Db<'_>, account: AccountId, object: &Object) -> Result<(), StorageError> {
    let hosts = match object {
        Object::Gateway(gateway) => vec![i64::from(gateway.host)],
        Object::Device(device) => vec![i64::from(device.host)],
        Object::Principal(principal) => {
            let sql = "SELECT host FROM devices WHERE account = ? AND principal = ?";
            let rows = db.fetch_all(sql, vec![(&account).into(), (&principal.id).into()]).await?;
            rows.iter().map(|row| row.number("host")).collect::<Result<_, _>>()?
        }
        _ => return Ok(()),
    };
    tables::delete(db, account, object.kind(), object.id()).await?;
    for host in hosts {
        let sql = "DELETE FROM addresses WHERE account = ? AND host = ?";
        db.execute(sql, vec![(&account).into(), host.into()]).await?;
    }
    Ok(())
}

/// The key of a record by id; what callers inside a transaction mostly have.
pub(super) fn by_id(id: Uuid) -> Key {
    Key::Id(id)
}
