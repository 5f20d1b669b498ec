//! The columns of each record: how they are written, and how they are read back.

use std::collections::BTreeSet;

use jiff::Timestamp;
use protocol_control::{Frame, GrantVersion, MAX_FROM_NODE, VERSION, decode, encode};
use protocol_identity::{
    DeviceId, GatewayId, GrantId, GroupId, PolicyId, PrincipalId, RelayId, ResourceId, SiteId, TokenHash,
    TokenId, TokenKind,
};
use protocol_policy::Effect;
use uuid::Uuid;

use super::db::{Row, Value};
use crate::model::{
    Device, Gateway, Grant, GrantState, Group, Object, Policy, Principal, Relay, Resource, Scope, Site,
    Token, parse_address, parse_filter, write_address, write_filter,
};
use crate::storage::StorageError;

fn text(text: impl Into<String>) -> Value {
    Value::Text(Some(text.into()))
}

fn optional<T: ToString>(value: Option<&T>) -> Value {
    Value::Text(value.map(ToString::to_string))
}

fn number(number: impl Into<i64>) -> Value {
    Value::Number(Some(number.into()))
}

fn millis(at: Option<Timestamp>) -> Value {
    Value::Number(at.map(Timestamp::as_millisecond))
}

fn unsigned(number: Option<u64>) -> Value {
    Value::Number(number.map(|number| i64::try_from(number).unwrap_or(i64::MAX)))
}

fn json<T: serde::Serialize>(value: &T, what: &'static str) -> Result<Value, StorageError> {
    serde_json::to_string(value).map(text).map_err(|_| StorageError::Damaged(what))
}

/// What both ends said, in the protocol's own encoding: a later version of this program knows it by its version.
fn grant_state(state: &GrantState) -> Result<Vec<u8>, StorageError> {
    encode(&Frame { version: VERSION, sequence: 0, body: state }).map_err(|_| StorageError::Damaged("grant"))
}

/// The values of the columns, in the layout's order.
pub(super) fn values(object: &Object) -> Result<Vec<Value>, StorageError> {
    Ok(match object {
        Object::Site(it) => {
            vec![text(&it.name), optional(it.description.as_ref()), millis(Some(it.created_at))]
        }
        Object::Principal(it) => vec![
            text(&it.name),
            number(it.disabled),
            json(&it.labels, "principal")?,
            millis(Some(it.created_at)),
        ],
        Object::Group(it) => vec![text(&it.name), number(it.everyone), millis(Some(it.created_at))],
        Object::Token(it) => vec![
            text(&it.name),
            text(token_kind(it.kind)),
            Value::Bytes(it.hash.as_bytes().to_vec()),
            optional(it.site.as_ref()),
            optional(it.principal.as_ref()),
            optional(it.region.as_ref()),
            Value::Real(it.latitude),
            Value::Real(it.longitude),
            text(scopes(&it.scopes)),
            number(it.many),
            optional(it.identity.as_ref()),
            millis(it.expires_at),
            millis(it.last_used_at),
            millis(Some(it.created_at)),
        ],
        Object::Gateway(it) => vec![
            text(&it.name),
            text(it.site.to_string()),
            optional(it.token.as_ref()),
            text(it.identity.to_string()),
            number(it.host),
            number(it.draining),
            optional(it.version.as_ref()),
            millis(it.last_seen_at),
            millis(Some(it.created_at)),
        ],
        Object::Device(it) => vec![
            text(&it.name),
            text(it.principal.to_string()),
            optional(it.token.as_ref()),
            text(it.identity.to_string()),
            number(it.host),
            number(it.verified),
            number(it.disabled),
            optional(it.os.as_ref()),
            optional(it.os_version.as_ref()),
            optional(it.version.as_ref()),
            millis(it.last_seen_at),
            millis(Some(it.created_at)),
        ],
        Object::Relay(it) => vec![
            text(&it.name),
            optional(it.region.as_ref()),
            Value::Real(it.latitude),
            Value::Real(it.longitude),
            json(&it.addresses, "relay")?,
            optional(it.token.as_ref()),
            text(it.identity.to_string()),
            optional(it.version.as_ref()),
            millis(it.last_seen_at),
            millis(Some(it.created_at)),
        ],
        Object::Resource(it) => {
            let (kind, address) = write_address(&it.address);
            let filters: Vec<String> = it.filters.iter().map(write_filter).collect();
            vec![
                text(&it.name),
                text(format!("{kind} {address}")),
                text(it.site.to_string()),
                number(it.listed),
                json(&filters, "resource")?,
                json(&it.labels, "resource")?,
                optional(it.description.as_ref()),
                millis(Some(it.created_at)),
                millis(Some(it.updated_at)),
            ]
        }
        Object::Policy(it) => vec![
            text(&it.name),
            number(it.enabled),
            text(match it.effect {
                Effect::Allow => "allow",
                Effect::Deny => "deny",
            }),
            json(&it.principal_labels, "policy")?,
            json(&it.resource_labels, "policy")?,
            json(&it.conditions, "policy")?,
            unsigned(it.max_session_seconds),
            optional(it.place.as_ref()),
            millis(Some(it.created_at)),
            millis(Some(it.updated_at)),
        ],
        Object::Grant(it) => vec![
            text(it.device.to_string()),
            text(it.resource.to_string()),
            text(it.gateway.to_string()),
            text(it.policy.to_string()),
            optional(it.relay.as_ref()),
            unsigned(Some(it.version.0)),
            optional(it.source.as_ref()),
            Value::Bytes(grant_state(&it.state)?),
            millis(Some(it.since)),
            millis(it.ends_at),
            millis(Some(it.lease_ends_at)),
        ],
    })
}

// Reading.

pub(super) fn uuid(row: &Row, column: &'static str) -> Result<Uuid, StorageError> {
    row.text(column)?.parse().map_err(|_| StorageError::Damaged("id"))
}

fn optional_text<T: std::str::FromStr>(row: &Row, column: &'static str) -> Result<Option<T>, StorageError> {
    let text = row.optional_text(column)?;
    text.map(|text| text.parse().map_err(|_| StorageError::Damaged(column))).transpose()
}

fn parsed<T: std::str::FromStr>(row: &Row, column: &'static str) -> Result<T, StorageError> {
    optional_text(row, column)?.ok_or(StorageError::Damaged(column))
}

pub(super) fn timestamp(row: &Row, column: &'static str) -> Result<Timestamp, StorageError> {
    optional_timestamp(row, column)?.ok_or(StorageError::Damaged("time"))
}

fn optional_timestamp(row: &Row, column: &'static str) -> Result<Option<Timestamp>, StorageError> {
    let millis = row.optional_number(column)?;
    millis.map(|at| Timestamp::from_millisecond(at).map_err(|_| StorageError::Damaged("time"))).transpose()
}

fn unjson<T: serde::de::DeserializeOwned>(row: &Row, column: &'static str) -> Result<T, StorageError> {
    serde_json::from_str(&row.text(column)?).map_err(|_| StorageError::Damaged(column))
}

fn host(row: &Row) -> Result<u32, StorageError> {
    u32::try_from(row.number("host")?).map_err(|_| StorageError::Damaged("host"))
}

/// Scopes, separated by commas.
fn scopes(scopes: &BTreeSet<Scope>) -> String {
    scopes.iter().map(|scope| scope.name()).collect::<Vec<_>>().join(",")
}

fn read_scopes(text: &str) -> Result<BTreeSet<Scope>, StorageError> {
    let known = |name: &str| Scope::ALL.into_iter().find(|scope| scope.name() == name);
    let names = text.split(',').filter(|name| !name.is_empty());
    names.map(|name| known(name).ok_or(StorageError::Damaged("token"))).collect()
}

fn token_kind(kind: TokenKind) -> &'static str {
    match kind {
        TokenKind::Admin => "admin",
        TokenKind::Gateway => "gateway",
        TokenKind::Relay => "relay",
        TokenKind::ServiceAccount => "service-account",
    }
}

pub(super) fn read_site(row: &Row) -> Result<Object, StorageError> {
    Ok(Object::Site(Site {
        id: SiteId(uuid(row, "id")?),
        name: row.text("name")?,
        description: row.optional_text("description")?,
        created_at: timestamp(row, "created_at")?,
    }))
}

pub(super) fn read_principal(row: &Row) -> Result<Object, StorageError> {
    Ok(Object::Principal(Principal {
        id: PrincipalId(uuid(row, "id")?),
        name: row.text("name")?,
        disabled: row.yes("disabled")?,
        labels: unjson(row, "labels")?,
        created_at: timestamp(row, "created_at")?,
    }))
}

pub(super) fn read_group(row: &Row) -> Result<Object, StorageError> {
    Ok(Object::Group(Group {
        id: GroupId(uuid(row, "id")?),
        name: row.text("name")?,
        everyone: row.yes("everyone")?,
        members: BTreeSet::new(),
        created_at: timestamp(row, "created_at")?,
    }))
}

pub(super) fn read_token(row: &Row) -> Result<Object, StorageError> {
    let kind = row.text("kind")?;
    let hash = row.bytes("hash")?;
    Ok(Object::Token(Token {
        id: TokenId(uuid(row, "id")?),
        name: row.text("name")?,
        kind: TokenKind::ALL
            .into_iter()
            .find(|known| token_kind(*known) == kind)
            .ok_or(StorageError::Damaged("token"))?,
        hash: TokenHash::from_bytes(hash.try_into().map_err(|_| StorageError::Damaged("token"))?),
        site: optional_text(row, "site")?,
        principal: optional_text(row, "principal")?,
        region: row.optional_text("region")?,
        latitude: row.optional_real("latitude")?,
        longitude: row.optional_real("longitude")?,
        scopes: read_scopes(&row.text("scopes")?)?,
        many: row.yes("many")?,
        identity: optional_text(row, "identity")?,
        expires_at: optional_timestamp(row, "expires_at")?,
        last_used_at: optional_timestamp(row, "last_used_at")?,
        created_at: timestamp(row, "created_at")?,
    }))
}

pub(super) fn read_gateway(row: &Row) -> Result<Object, StorageError> {
    Ok(Object::Gateway(Gateway {
        id: GatewayId(uuid(row, "id")?),
        name: row.text("name")?,
        site: parsed(row, "site")?,
        token: optional_text(row, "token")?,
        identity: parsed(row, "identity")?,
        host: host(row)?,
        draining: row.yes("draining")?,
        version: row.optional_text("version")?,
        last_seen_at: optional_timestamp(row, "last_seen_at")?,
        created_at: timestamp(row, "created_at")?,
    }))
}

pub(super) fn read_device(row: &Row) -> Result<Object, StorageError> {
    Ok(Object::Device(Device {
        id: DeviceId(uuid(row, "id")?),
        name: row.text("name")?,
        principal: parsed(row, "principal")?,
        token: optional_text(row, "token")?,
        identity: parsed(row, "identity")?,
        host: host(row)?,
        verified: row.yes("verified")?,
        disabled: row.yes("disabled")?,
        os: row.optional_text("os")?,
        os_version: row.optional_text("os_version")?,
        version: row.optional_text("version")?,
        last_seen_at: optional_timestamp(row, "last_seen_at")?,
        created_at: timestamp(row, "created_at")?,
    }))
}

pub(super) fn read_relay(row: &Row) -> Result<Object, StorageError> {
    Ok(Object::Relay(Relay {
        id: RelayId(uuid(row, "id")?),
        name: row.text("name")?,
        region: row.optional_text("region")?,
        latitude: row.optional_real("latitude")?,
        longitude: row.optional_real("longitude")?,
        addresses: unjson(row, "addresses")?,
        token: optional_text(row, "token")?,
        identity: parsed(row, "identity")?,
        version: row.optional_text("version")?,
        last_seen_at: optional_timestamp(row, "last_seen_at")?,
        created_at: timestamp(row, "created_at")?,
    }))
}

pub(super) fn read_resource(row: &Row) -> Result<Object, StorageError> {
    let damaged = || StorageError::Damaged("resource");
    let address = row.text("address")?;
    let (kind, address) = address.split_once(' ').ok_or_else(damaged)?;
    let filters: Vec<String> = unjson(row, "filters")?;
    Ok(Object::Resource(Resource {
        id: ResourceId(uuid(row, "id")?),
        name: row.text("name")?,
        address: parse_address(kind, address).map_err(|_| damaged())?,
        site: parsed(row, "site")?,
        listed: row.yes("listed")?,
        filters: filters
            .iter()
            .map(|filter| parse_filter(filter).map_err(|_| damaged()))
            .collect::<Result<_, _>>()?,
        labels: unjson(row, "labels")?,
        description: row.optional_text("description")?,
        created_at: timestamp(row, "created_at")?,
        updated_at: timestamp(row, "updated_at")?,
    }))
}

pub(super) fn read_policy(row: &Row) -> Result<Object, StorageError> {
    let effect = row.text("effect")?;
    Ok(Object::Policy(Policy {
        id: PolicyId(uuid(row, "id")?),
        name: row.text("name")?,
        enabled: row.yes("enabled")?,
        effect: match effect.as_str() {
            "allow" => Effect::Allow,
            "deny" => Effect::Deny,
            _ => return Err(StorageError::Damaged("policy")),
        },
        groups: BTreeSet::new(),
        principal_labels: unjson(row, "principal_labels")?,
        resources: BTreeSet::new(),
        resource_labels: unjson(row, "resource_labels")?,
        conditions: unjson(row, "conditions")?,
        max_session_seconds: row.optional_number("max_session_seconds")?.map(i64::unsigned_abs),
        place: row.optional_text("place")?,
        created_at: timestamp(row, "created_at")?,
        updated_at: timestamp(row, "updated_at")?,
    }))
}

pub(super) fn read_grant(row: &Row) -> Result<Object, StorageError> {
    let state = row.bytes("state")?;
    Ok(Grant {
        id: GrantId(uuid(row, "id")?),
        device: DeviceId(uuid(row, "device")?),
        resource: ResourceId(uuid(row, "resource")?),
        gateway: GatewayId(uuid(row, "gateway")?),
        policy: PolicyId(uuid(row, "policy")?),
        relay: optional_text(row, "relay")?,
        version: GrantVersion(row.number("version")?.unsigned_abs()),
        source: optional_text(row, "source")?,
        state: decode::<GrantState>(&state, MAX_FROM_NODE).map_err(|_| StorageError::Damaged("grant"))?.body,
        since: timestamp(row, "since")?,
        ends_at: optional_timestamp(row, "ends_at")?,
        lease_ends_at: timestamp(row, "lease_ends_at")?,
    }
    .into())
}
