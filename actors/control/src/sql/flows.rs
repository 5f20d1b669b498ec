//! Flows that have ended, as gateways report them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use jiff::Timestamp;
use protocol_control::{Flow, FlowBatch, FlowEnd, FlowPath};
use protocol_identity::{AccountId, DeviceId, GatewayId, GrantId, PolicyId, ResourceId};
use uuid::Uuid;

use super::columns::uuid;
use super::db::{Db, Row, Value};
use crate::model::Object;
use crate::storage::{FlowFilter, Named, StorageError, StoredFlow};

/// Who a device is.
type Who = (Option<String>, Option<(String, String)>);

/// Stores a batch unless it was stored before; says whether it is new.
pub(super) async fn store(
    db: &mut Db<'_>,
    account: AccountId,
    gateway: GatewayId,
    batch: &FlowBatch,
    at: Timestamp,
) -> Result<bool, StorageError> {
    // Numbers of streams are drawn from all 64 bits.
    let (stream, sequence) = (batch.stream.cast_signed(), saturated(batch.sequence));
    let newer = "INSERT INTO flow_streams (account, gateway, stream, sequence, at) VALUES (?, ?, ?, ?, ?) \
                 ON CONFLICT (account, gateway, stream) DO UPDATE SET sequence = excluded.sequence, at = excluded.at \
                 WHERE flow_streams.sequence < excluded.sequence";
    let values = vec![
        (&account).into(),
        (&gateway).into(),
        stream.into(),
        sequence.into(),
        at.as_millisecond().into(),
    ];
    if db.execute(newer, values).await? == 0 {
        return Ok(false);
    }
    let mut names = Names { account, known: BTreeMap::new(), devices: BTreeMap::new() };
    let gateway_name = names.of(db, "gateways", gateway.0).await?;
    for flow in &batch.flows {
        let (device, principal) = names.of_device(db, flow.device).await?;
        let (principal, principal_name) = principal.unzip();
        let resource = names.of(db, "resources", flow.resource.0).await?;
        let policy = names.of(db, "policies", flow.policy.0).await?;
        let sql = "INSERT INTO flows (account, id, gateway, gateway_name, device, device_name, principal, \
                   principal_name, resource, resource_name, policy, policy_name, granted, protocol, source, \
                   destination, name, address, path, started_at, ended_at, packets_in, bytes_in, packets_out, \
                   bytes_out, reason) \
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        let values = vec![
            (&account).into(),
            (&Uuid::now_v7()).into(),
            (&gateway).into(),
            (&gateway_name).into(),
            (&flow.device).into(),
            (&device.unwrap_or_else(|| flow.device.to_string())).into(),
            Value::Text(principal),
            Value::Text(principal_name),
            (&flow.resource).into(),
            (&resource).into(),
            (&flow.policy).into(),
            (&policy).into(),
            (&flow.grant).into(),
            i64::from(flow.protocol).into(),
            (&flow.from).into(),
            (&flow.to).into(),
            Value::Text(flow.name.clone()),
            (&flow.real).into(),
            Value::Text(flow.path.map(|path| path.as_str().to_owned())),
            flow.started.into(),
            flow.ended.into(),
            saturated(flow.packets_in).into(),
            saturated(flow.bytes_in).into(),
            saturated(flow.packets_out).into(),
            saturated(flow.bytes_out).into(),
            flow.end.as_str().into(),
        ];
        db.execute(sql, values).await?;
    }
    Ok(true)
}

fn saturated(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Looks names up, each once; what is gone has the name that it had. The id stands in for a name that is not known.
struct Names {
    account: AccountId,
    known: BTreeMap<Uuid, String>,
    devices: BTreeMap<Uuid, Who>,
}

impl Names {
    async fn of(&mut self, db: &mut Db<'_>, table: &str, id: Uuid) -> Result<String, StorageError> {
        if let Some(name) = self.known.get(&id) {
            return Ok(name.clone());
        }
        let sql = format!(
            "SELECT name FROM {table} WHERE account = ? AND id = ? \
             UNION ALL SELECT name FROM gone WHERE account = ? AND id = ?"
        );
        let (account, own) = (Value::from(&self.account), Value::from(&id));
        let row = db.fetch_optional(&sql, vec![account.clone(), own.clone(), account, own]).await?;
        let name = row.map_or_else(|| Ok(id.to_string()), |row| row.text("name"))?;
        self.known.insert(id, name.clone());
        Ok(name)
    }

    async fn of_device(&mut self, db: &mut Db<'_>, device: DeviceId) -> Result<Who, StorageError> {
        let place = match self.devices.entry(device.0) {
            Entry::Occupied(known) => return Ok(known.get().clone()),
            Entry::Vacant(place) => place,
        };
        let sql = "SELECT devices.name AS name, devices.principal AS principal, principals.name AS principal_name \
                   FROM devices JOIN principals ON principals.account = devices.account \
                   AND principals.id = devices.principal WHERE devices.account = ? AND devices.id = ? \
                   UNION ALL SELECT name, principal, principal_name FROM gone WHERE account = ? AND id = ?";
        let (account, id) = (Value::from(&self.account), Value::from(&device));
        let row = db.fetch_optional(sql, vec![account.clone(), id.clone(), account, id]).await?;
        let who = match row {
            Some(row) => {
                let principal = row.optional_text("principal")?.zip(row.optional_text("principal_name")?);
                (Some(row.text("name")?), principal)
            }
            None => (None, None),
        };
        Ok(place.insert(who).clone())
    }
}

/// Keeps the names of what is about to be deleted: flows that end with it are reported a moment later.
pub(super) async fn bury(
    db: &mut Db<'_>,
    account: AccountId,
    object: &Object,
    at: Timestamp,
) -> Result<(), StorageError> {
    let table = match object {
        Object::Device(_) | Object::Principal(_) => "devices",
        Object::Resource(_) => "resources",
        Object::Policy(_) => "policies",
        Object::Gateway(_) => "gateways",
        Object::Site(_) | Object::Relay(_) | Object::Group(_) | Object::Token(_) | Object::Grant(_) => {
            return Ok(());
        }
    };
    let select = match object {
        Object::Device(_) => devices_where("devices.id"),
        // Its devices go with it.
        Object::Principal(_) => devices_where("devices.principal"),
        _ => format!("SELECT account, id, name, NULL, NULL, {AT} FROM {table} WHERE account = ? AND id = ?"),
    };
    let sql = format!(
        "INSERT INTO gone (account, id, name, principal, principal_name, at) {select} ON CONFLICT (account, id) DO NOTHING"
    );
    let values = vec![at.as_millisecond().into(), (&account).into(), (&object.id()).into()];
    db.execute(&sql, values).await?;
    Ok(())
}

/// A number, in the words of both databases.
const AT: &str = "CAST(? AS BIGINT)";

fn devices_where(column: &str) -> String {
    format!(
        "SELECT devices.account, devices.id, devices.name, principals.id, principals.name, {AT} \
         FROM devices JOIN principals ON principals.account = devices.account AND principals.id = devices.principal \
         WHERE devices.account = ? AND {column} = ?"
    )
}

/// The first id that a row of this moment could have.
fn first_id(at: Timestamp) -> Uuid {
    let millis = u128::try_from(at.as_millisecond().max(0)).unwrap_or_default();
    Uuid::from_u128(millis << 80)
}

/// How far a gateway's clock may be ahead of control's for a flow to be found by its time.
const SKEW: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);

/// Flows in the order of their arrival.
pub(super) async fn list(
    db: &mut Db<'_>,
    account: AccountId,
    filter: &FlowFilter,
) -> Result<Vec<StoredFlow>, StorageError> {
    let mut sql = String::from("SELECT * FROM flows WHERE account = ?");
    let mut values: Vec<Value> = vec![(&account).into()];
    // What ended later also arrived later, so the primary key finds the beginning.
    let since = filter.since.map(|since| first_id(since.saturating_sub(SKEW).unwrap_or(Timestamp::MIN)));
    if let Some(after) = filter.after.max(since) {
        sql.push_str(" AND id > ?");
        values.push((&after).into());
    }
    for (wanted, id, name) in [
        (&filter.principal, "principal", "principal_name"),
        (&filter.device, "device", "device_name"),
        (&filter.resource, "resource", "resource_name"),
        (&filter.gateway, "gateway", "gateway_name"),
    ] {
        let Some(wanted) = wanted else { continue };
        let (column, wanted) = match Uuid::parse_str(wanted) {
            Ok(wanted) => (id, wanted.to_string()),
            Err(_) => (name, wanted.clone()),
        };
        sql.push_str(&format!(" AND {column} = ?"));
        values.push((&wanted).into());
    }
    if let Some(since) = filter.since {
        sql.push_str(" AND ended_at >= ?");
        values.push(since.as_millisecond().into());
    }
    if let Some(until) = filter.until {
        sql.push_str(" AND started_at < ?");
        values.push(until.as_millisecond().into());
    }
    sql.push_str(" ORDER BY id LIMIT ?");
    values.push(i64::try_from(filter.limit).unwrap_or(i64::MAX).into());
    db.fetch_all(&sql, values).await?.iter().map(read).collect()
}

fn named(row: &Row, id: &'static str, name: &'static str) -> Result<Named, StorageError> {
    Ok(Named { id: uuid(row, id)?, name: row.text(name)? })
}

fn parsed<T: std::str::FromStr>(row: &Row, column: &'static str) -> Result<T, StorageError> {
    row.text(column)?.parse().map_err(|_| StorageError::Damaged("flow"))
}

fn counted(row: &Row, column: &'static str) -> Result<u64, StorageError> {
    Ok(row.number(column)?.unsigned_abs())
}

fn read(row: &Row) -> Result<StoredFlow, StorageError> {
    let (device, resource) = (named(row, "device", "device_name")?, named(row, "resource", "resource_name")?);
    let policy = named(row, "policy", "policy_name")?;
    let principal = match row.optional_text("principal")? {
        Some(_) => Some(named(row, "principal", "principal_name")?),
        None => None,
    };
    let path = match row.optional_text("path")?.as_deref() {
        Some("direct") => Some(FlowPath::Direct),
        Some("relayed") => Some(FlowPath::Relayed),
        Some(_) | None => None,
    };
    let end = FlowEnd::named(&row.text("reason")?).ok_or(StorageError::Damaged("flow"))?;
    let flow = Flow {
        grant: GrantId(uuid(row, "granted")?),
        device: DeviceId(device.id),
        resource: ResourceId(resource.id),
        policy: PolicyId(policy.id),
        protocol: u8::try_from(row.number("protocol")?).map_err(|_| StorageError::Damaged("flow"))?,
        from: parsed(row, "source")?,
        to: parsed(row, "destination")?,
        name: row.optional_text("name")?,
        real: parsed(row, "address")?,
        path,
        started: row.number("started_at")?,
        ended: row.number("ended_at")?,
        packets_in: counted(row, "packets_in")?,
        bytes_in: counted(row, "bytes_in")?,
        packets_out: counted(row, "packets_out")?,
        bytes_out: counted(row, "bytes_out")?,
        end,
    };
    let gateway = named(row, "gateway", "gateway_name")?;
    Ok(StoredFlow { id: uuid(row, "id")?, gateway, device, principal, resource, policy, flow })
}

/// Forgets flows that arrived before, at most so many; how many there were. When none is left, also what only they
/// needed.
pub(super) async fn trim(
    db: &mut Db<'_>,
    account: AccountId,
    before: Timestamp,
    most: usize,
) -> Result<u64, StorageError> {
    let (owner, first) = (Value::from(&account), Value::from(&first_id(before)));
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let sql = "DELETE FROM flows WHERE account = ? AND id IN \
               (SELECT id FROM flows WHERE account = ? AND id < ? ORDER BY id LIMIT ?)";
    let rows = db.execute(sql, vec![owner.clone(), owner.clone(), first, most.into()]).await?;
    if rows < most.unsigned_abs() {
        for table in ["flow_streams", "gone"] {
            let sql = format!("DELETE FROM {table} WHERE account = ? AND at < ?");
            db.execute(&sql, vec![owner.clone(), before.as_millisecond().into()]).await?;
        }
    }
    Ok(rows)
}
