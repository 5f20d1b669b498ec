//! Gateways, relays and devices: they join by themselves, and can be renamed and removed.

use actors_control::directory::Presence;
use actors_control::model::{Device, Gateway, Kind, Relay, inner_addresses};
use protocol_identity::IdentityPublic;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::auth::Admin;
use super::body::{check_name, present};
use super::collection::{Change, Collection, Filter, Names, Online, Ref, STATES, YES_NO};
use super::problem::Problem;
use super::{Api, time};

/// Whether a node's session is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// It is.
    Online,
    /// It is, and the node, a relay, takes nothing new: it is about to end.
    Draining,
    /// It is not; what it serves may go on.
    Offline,
}

fn state(id: Uuid, online: &Online) -> NodeState {
    match online.get(&id) {
        Some(Presence::Online) => NodeState::Online,
        Some(Presence::Draining) => NodeState::Draining,
        None => NodeState::Offline,
    }
}

/// The public identity key, as people compare it.
fn fingerprint(identity: &IdentityPublic) -> String {
    identity.to_string()
}

/// A gateway.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Gateway)]
pub struct GatewayView {
    id: Uuid,
    name: String,
    site: Ref,
    state: NodeState,
    /// Taken out of service: it keeps what it has, and gets nothing new.
    draining: bool,
    version: Option<String>,
    /// Its public identity key.
    identity: String,
    inner_ipv4: String,
    inner_ipv6: String,
    last_seen_at: Option<String>,
    created_at: String,
}

/// A relay.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Relay)]
pub struct RelayView {
    id: Uuid,
    name: String,
    region: Option<String>,
    latitude: Option<f64>,
    longitude: Option<f64>,
    /// Its STUN and TURN sockets, as seen from outside.
    addresses: Vec<String>,
    state: NodeState,
    version: Option<String>,
    /// Its public identity key.
    identity: String,
    last_seen_at: Option<String>,
    created_at: String,
}

/// An installation of the client.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Device)]
pub struct DeviceView {
    id: Uuid,
    name: String,
    principal: Ref,
    state: NodeState,
    verified: bool,
    /// Taken out of service: it has no session and no access.
    disabled: bool,
    version: Option<String>,
    /// Operating system and version.
    platform: Option<String>,
    /// Its public identity key.
    identity: String,
    inner_ipv4: String,
    inner_ipv6: String,
    last_seen_at: Option<String>,
    created_at: String,
}

/// A change of a gateway.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GatewayChange {
    name: Option<String>,
    /// Takes it out of service: it keeps what it has, and gets nothing new.
    draining: Option<bool>,
}

/// A change of a relay.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RelayChange {
    name: Option<String>,
    #[serde(default, deserialize_with = "present")]
    region: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    latitude: Option<Option<f64>>,
    #[serde(default, deserialize_with = "present")]
    longitude: Option<Option<f64>>,
}

/// A change of a device.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceChange {
    name: Option<String>,
    verified: Option<bool>,
    /// Takes it out of service: its session and its access end at once.
    disabled: Option<bool>,
}

/// Checks a place on the Earth.
pub fn check_place(latitude: Option<f64>, longitude: Option<f64>) -> Result<(), Problem> {
    if latitude.is_some_and(|degrees| !(-90.0..=90.0).contains(&degrees)) {
        return Err(Problem::field("latitude", "write degrees from -90 to 90"));
    }
    if longitude.is_some_and(|degrees| !(-180.0..=180.0).contains(&degrees)) {
        return Err(Problem::field("longitude", "write degrees from -180 to 180"));
    }
    Ok(())
}

/// Checks a region's name.
pub fn check_region(region: Option<&str>) -> Result<(), Problem> {
    match region {
        Some(text)
            if text.is_empty() || text.chars().count() > 64 || text.chars().any(|c| c.is_ascii_control()) =>
        {
            Err(Problem::field("region", "write 1 to 64 characters, such as frankfurt"))
        }
        Some(_) | None => Ok(()),
    }
}

/// `/gateways`
pub struct Gateways;

impl Collection for Gateways {
    const PATH: &'static str = "gateways";
    const NOUN: &'static str = "gateway";
    type Record = Gateway;
    type View = GatewayView;
    const FILTERS: &'static [Filter] =
        &[Filter::by_ref("site"), Filter::one_of("state", STATES), Filter::one_of("draining", YES_NO)];

    async fn view(
        _: &Api,
        it: Gateway,
        names: &mut Names<'_>,
        online: &Online,
    ) -> Result<GatewayView, Problem> {
        let inner = inner_addresses(it.host);
        Ok(GatewayView {
            id: it.id.0,
            name: it.name,
            site: names.of(Kind::Site, it.site.0).await?,
            state: state(it.id.0, online),
            draining: it.draining,
            version: it.version,
            identity: fingerprint(&it.identity),
            inner_ipv4: inner.v4.to_string(),
            inner_ipv6: inner.v6.to_string(),
            last_seen_at: it.last_seen_at.map(time),
            created_at: time(it.created_at),
        })
    }
}

impl Change for Gateways {
    type Body = GatewayChange;

    async fn change(
        _: &Api,
        _: &Admin,
        body: GatewayChange,
    ) -> Result<impl FnOnce(&mut Gateway) -> Result<(), String> + Send + 'static, Problem> {
        if let Some(name) = &body.name {
            check_name(name)?;
        }
        Ok(move |gateway: &mut Gateway| {
            gateway.name = body.name.unwrap_or_else(|| gateway.name.clone());
            gateway.draining = body.draining.unwrap_or(gateway.draining);
            Ok(())
        })
    }
}

/// `/relays`
pub struct Relays;

impl Collection for Relays {
    const PATH: &'static str = "relays";
    const NOUN: &'static str = "relay";
    type Record = Relay;
    type View = RelayView;
    const FILTERS: &'static [Filter] = &[Filter::by_ref("region"), Filter::one_of("state", STATES)];

    async fn view(_: &Api, it: Relay, _: &mut Names<'_>, online: &Online) -> Result<RelayView, Problem> {
        Ok(RelayView {
            id: it.id.0,
            name: it.name,
            region: it.region,
            latitude: it.latitude,
            longitude: it.longitude,
            addresses: it.addresses.iter().map(ToString::to_string).collect(),
            state: state(it.id.0, online),
            version: it.version,
            identity: fingerprint(&it.identity),
            last_seen_at: it.last_seen_at.map(time),
            created_at: time(it.created_at),
        })
    }
}

impl Change for Relays {
    type Body = RelayChange;

    async fn change(
        _: &Api,
        _: &Admin,
        body: RelayChange,
    ) -> Result<impl FnOnce(&mut Relay) -> Result<(), String> + Send + 'static, Problem> {
        if let Some(name) = &body.name {
            check_name(name)?;
        }
        check_region(body.region.as_ref().and_then(Option::as_deref))?;
        check_place(body.latitude.flatten(), body.longitude.flatten())?;
        Ok(move |relay: &mut Relay| {
            relay.name = body.name.unwrap_or_else(|| relay.name.clone());
            relay.region = body.region.unwrap_or_else(|| relay.region.clone());
            relay.latitude = body.latitude.unwrap_or(relay.latitude);
            relay.longitude = body.longitude.unwrap_or(relay.longitude);
            Ok(())
        })
    }
}

/// `/devices`
pub struct Devices;

impl Collection for Devices {
    const PATH: &'static str = "devices";
    const NOUN: &'static str = "device";
    type Record = Device;
    type View = DeviceView;
    const FILTERS: &'static [Filter] = &[
        Filter::by_ref("principal"),
        Filter::one_of("state", STATES),
        Filter::one_of("verified", YES_NO),
        Filter::one_of("disabled", YES_NO),
    ];

    async fn view(
        _: &Api,
        it: Device,
        names: &mut Names<'_>,
        online: &Online,
    ) -> Result<DeviceView, Problem> {
        let inner = inner_addresses(it.host);
        let platform = match (it.os, it.os_version) {
            (Some(os), Some(version)) => Some(format!("{os} {version}")),
            (os, _) => os,
        };
        Ok(DeviceView {
            id: it.id.0,
            name: it.name,
            principal: names.of(Kind::Principal, it.principal.0).await?,
            state: state(it.id.0, online),
            verified: it.verified,
            disabled: it.disabled,
            version: it.version,
            platform,
            identity: fingerprint(&it.identity),
            inner_ipv4: inner.v4.to_string(),
            inner_ipv6: inner.v6.to_string(),
            last_seen_at: it.last_seen_at.map(time),
            created_at: time(it.created_at),
        })
    }
}

impl Change for Devices {
    type Body = DeviceChange;

    async fn change(
        _: &Api,
        _: &Admin,
        body: DeviceChange,
    ) -> Result<impl FnOnce(&mut Device) -> Result<(), String> + Send + 'static, Problem> {
        if let Some(name) = &body.name {
            check_name(name)?;
        }
        Ok(move |device: &mut Device| {
            device.name = body.name.unwrap_or_else(|| device.name.clone());
            device.verified = body.verified.unwrap_or(device.verified);
            device.disabled = body.disabled.unwrap_or(device.disabled);
            Ok(())
        })
    }
}
