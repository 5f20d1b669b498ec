//! A node says hello: it is found by its identity, or made.

use jiff::Timestamp;
use protocol_control::RoleHello;
use protocol_identity::{AccountId, DeviceId, GatewayId, IdentityPublic, RelayId, TokenKind};

use super::db::Db;
use super::write::by_id;
use super::{columns, tables};
use crate::model::{Device, Gateway, Kind, MAX_HOST, Object, Principal, Relay, Token};
use crate::storage::{Join, StorageError};

/// The record to write, and what the log says: `joined` for a new one.
pub(super) async fn join(
    db: &mut Db<'_>,
    account: AccountId,
    at: Timestamp,
    join: Join,
) -> Result<(Object, &'static str), StorageError> {
    // The token is read again in this transaction: it may have been deleted since the connection was made.
    let token = tables::find(db, account, Kind::Token, &by_id(join.token.id.0)).await?;
    let Some(Object::Token(token)) = token else {
        return Err(StorageError::NotFound { kind: Kind::Token, key: join.token.id.to_string() });
    };
    pin_token(db, account, &token, join.identity).await?;

    let (kind, fits) = match join.role {
        RoleHello::Client { .. } => (Kind::Device, token.kind == TokenKind::ServiceAccount),
        RoleHello::Gateway { .. } => (Kind::Gateway, token.kind == TokenKind::Gateway),
        RoleHello::Relay { .. } => (Kind::Relay, token.kind == TokenKind::Relay),
    };
    if !fits {
        return Err(StorageError::OtherInstallation);
    }
    if let Some(principal) = token.principal
        && let Some(Object::Principal(Principal { disabled: true, .. })) =
            tables::find(db, account, Kind::Principal, &by_id(principal.0)).await?
    {
        return Err(StorageError::Disabled(Kind::Principal));
    }
    match by_identity(db, account, kind, &join.identity).await? {
        Some(Object::Device(Device { disabled: true, .. })) => Err(StorageError::Disabled(Kind::Device)),
        Some(object) => Ok((seen(object, &token, at, join)?, "connected")),
        // A join token that has ended lets nobody new in; those that are in go on by their identity.
        None if token.is_expired(at) => {
            Err(StorageError::NotFound { kind: Kind::Token, key: token.id.to_string() })
        }
        None => Ok((made(db, account, &token, at, join, kind).await?, "joined")),
    }
}

/// A token that is for one installation belongs to the first that uses it.
async fn pin_token(
    db: &mut Db<'_>,
    account: AccountId,
    token: &Token,
    identity: IdentityPublic,
) -> Result<(), StorageError> {
    match token.identity {
        Some(pinned) if pinned != identity => Err(StorageError::OtherInstallation),
        None if !token.many => {
            let pinned = Token { identity: Some(identity), ..token.clone() };
            tables::put(db, account, &Object::Token(pinned), true).await
        }
        Some(_) | None => Ok(()),
    }
}

async fn by_identity(
    db: &mut Db<'_>,
    account: AccountId,
    kind: Kind,
    identity: &IdentityPublic,
) -> Result<Option<Object>, StorageError> {
    let sql = format!("SELECT id FROM {} WHERE account = ? AND identity = ?", tables::table(kind));
    match db.fetch_optional(&sql, vec![(&account).into(), identity.into()]).await? {
        None => Ok(None),
        Some(row) => tables::find(db, account, kind, &by_id(columns::uuid(&row, "id")?)).await,
    }
}

/// A node that is known. One that comes with a token of another site or principal is not the same installation.
fn seen(object: Object, token: &Token, at: Timestamp, join: Join) -> Result<Object, StorageError> {
    match (object, join.role) {
        (Object::Gateway(gateway), RoleHello::Gateway { .. }) if Some(gateway.site) == token.site => {
            Ok(Object::Gateway(Gateway {
                token: Some(token.id),
                version: Some(join.version),
                last_seen_at: Some(at),
                ..gateway
            }))
        }
        (Object::Device(device), RoleHello::Client { os, os_version })
            if Some(device.principal) == token.principal =>
        {
            Ok(Object::Device(Device {
                token: Some(token.id),
                os: Some(os),
                os_version: Some(os_version),
                version: Some(join.version),
                last_seen_at: Some(at),
                ..device
            }))
        }
        (Object::Relay(relay), RoleHello::Relay { addresses, region, coordinates, .. }) => {
            // What an administrator set stays; what was never set follows the relay.
            Ok(Object::Relay(Relay {
                region: relay.region.or(Some(region).filter(|region| !region.is_empty())),
                latitude: relay.latitude.or(coordinates.map(|at| at.0)),
                longitude: relay.longitude.or(coordinates.map(|at| at.1)),
                addresses,
                token: Some(token.id),
                version: Some(join.version),
                last_seen_at: Some(at),
                ..relay
            }))
        }
        _ => Err(StorageError::OtherInstallation),
    }
}

async fn made(
    db: &mut Db<'_>,
    account: AccountId,
    token: &Token,
    at: Timestamp,
    join: Join,
    kind: Kind,
) -> Result<Object, StorageError> {
    let name = free_name(db, account, kind, &join.name).await?;
    let no_purpose = || StorageError::Damaged("token");
    Ok(match join.role {
        RoleHello::Gateway { .. } => Object::Gateway(Gateway {
            id: GatewayId::fresh(),
            name,
            site: token.site.ok_or_else(no_purpose)?,
            token: Some(token.id),
            identity: join.identity,
            host: free_host(db, account).await?,
            draining: false,
            version: Some(join.version),
            last_seen_at: Some(at),
            created_at: at,
        }),
        RoleHello::Client { os, os_version } => Object::Device(Device {
            id: DeviceId::fresh(),
            name,
            principal: token.principal.ok_or_else(no_purpose)?,
            token: Some(token.id),
            identity: join.identity,
            host: free_host(db, account).await?,
            verified: false,
            disabled: false,
            os: Some(os),
            os_version: Some(os_version),
            version: Some(join.version),
            last_seen_at: Some(at),
            created_at: at,
        }),
        RoleHello::Relay { addresses, region, coordinates, .. } => Object::Relay(Relay {
            id: RelayId::fresh(),
            name,
            region: token.region.clone().or(Some(region).filter(|region| !region.is_empty())),
            latitude: token.latitude.or(coordinates.map(|at| at.0)),
            longitude: token.longitude.or(coordinates.map(|at| at.1)),
            addresses,
            token: Some(token.id),
            identity: join.identity,
            version: Some(join.version),
            last_seen_at: Some(at),
            created_at: at,
        }),
    })
}

/// Up to here nodes that want the same name get a number.
const NUMBERED: u32 = 100;

/// The wanted name with what names may hold, and a number behind it when it is taken.
async fn free_name(
    db: &mut Db<'_>,
    account: AccountId,
    kind: Kind,
    wanted: &str,
) -> Result<String, StorageError> {
    let mut stem: String = wanted
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' })
        .skip_while(|c| !c.is_ascii_alphanumeric())
        .take(56)
        .collect();
    if stem.is_empty() || uuid::Uuid::parse_str(&stem).is_ok() {
        stem = kind.name().to_owned();
    }
    let sql = format!("SELECT name FROM {} WHERE account = ? AND name = ?", tables::table(kind));
    let mut name = stem.clone();
    for number in 2..=NUMBERED {
        if db.fetch_optional(&sql, vec![(&account).into(), (&name).into()]).await?.is_none() {
            return Ok(name);
        }
        name = format!("{stem}-{number}");
    }
    // So many of one name are not told apart by counting: a thousandth would take a thousand looks.
    let drawn = uuid::Uuid::new_v4().simple().to_string();
    Ok(format!("{stem}-{}", drawn.split_at(7).0))
}

/// Takes a tunnel address that nobody has: the next one, or after the last the lowest that was given back.
async fn free_host(db: &mut Db<'_>, account: AccountId) -> Result<u32, StorageError> {
    let sql = "SELECT COALESCE(MAX(host), 0) AS host FROM addresses WHERE account = ?";
    let highest = db.fetch_one(sql, vec![(&account).into()]).await?.number("host")?;
    let host = if highest < i64::from(MAX_HOST) {
        highest + 1
    } else {
        let sql = "SELECT MIN(host) AS host FROM \
                   (SELECT 1 AS host UNION ALL SELECT host + 1 FROM addresses WHERE account = ?) AS free \
                   WHERE host <= ? AND host NOT IN (SELECT host FROM addresses WHERE account = ?)";
        let values = vec![(&account).into(), i64::from(MAX_HOST).into(), (&account).into()];
        db.fetch_one(sql, values).await?.optional_number("host")?.ok_or(StorageError::NoAddressLeft)?
    };
    let sql = "INSERT INTO addresses (account, host) VALUES (?, ?)";
    db.execute(sql, vec![(&account).into(), host.into()]).await?;
    u32::try_from(host).map_err(|_| StorageError::NoAddressLeft)
}
