//! Flows: what passed between devices and resources, as gateways reported it.

use actix_web::{HttpRequest, web};
use actors_control::storage::{FlowFilter, Named, StoredFlow};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Api;
use super::auth::Admin;
use super::collection::{Filter, ListQuery, Ref};
use super::problem::Problem;

/// A flow that has ended.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Flow)]
pub struct FlowView {
    /// Ids are in the order in which control heard of flows.
    id: Uuid,
    gateway: Ref,
    device: Ref,
    /// Whose device it was; nobody when it was forgotten long before its flow was reported.
    principal: Option<Ref>,
    resource: Ref,
    /// The policy that gave the grant.
    policy: Ref,
    grant: Uuid,
    /// `tcp`, `udp`, `icmp`, or the number of another protocol.
    protocol: String,
    /// The device's end, in the tunnel.
    source: String,
    /// The resource's end as the device addressed it.
    destination: String,
    /// The name that it was addressed by.
    name: Option<String>,
    /// The resource's address as the gateway reached it.
    address: String,
    /// `direct` or `relayed`, when it ended.
    path: Option<String>,
    /// When its first packet came, by the gateway's clock.
    started_at: String,
    /// When its last packet came, by the gateway's clock.
    ended_at: String,
    /// Packets from the device.
    packets_in: u64,
    /// Bytes from the device, IP headers included.
    bytes_in: u64,
    /// Packets to the device.
    packets_out: u64,
    /// Bytes to the device, IP headers included.
    bytes_out: u64,
    /// `closed`, `idle`, `grant_ended`, `revoked` or `peer_gone`.
    end: String,
}

/// A part of the flows.
#[derive(Debug, Serialize, ToSchema)]
pub struct FlowPart {
    /// In the order in which control heard of them.
    items: Vec<FlowView>,
    /// Where the next part begins, if there is more.
    next: Option<String>,
}

/// What flows can be chosen by, beside their time.
pub const FILTERS: [Filter; 4] = [
    Filter::by_ref("principal"),
    Filter::by_ref("device"),
    Filter::by_ref("resource"),
    Filter::by_ref("gateway"),
];
const SINCE: Filter = Filter::by_ref("since");
const UNTIL: Filter = Filter::by_ref("until");

fn reference(Named { id, name }: Named) -> Ref {
    Ref { id, name }
}

fn moment(millis: i64) -> String {
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

impl From<StoredFlow> for FlowView {
    fn from(stored: StoredFlow) -> Self {
        let StoredFlow { id, gateway, device, principal, resource, policy, flow } = stored;
        Self {
            id,
            gateway: reference(gateway),
            device: reference(device),
            principal: principal.map(reference),
            resource: reference(resource),
            policy: reference(policy),
            grant: flow.grant.0,
            protocol: match flow.protocol {
                6 => "tcp".into(),
                17 => "udp".into(),
                1 | 58 => "icmp".into(),
                other => other.to_string(),
            },
            source: flow.from.to_string(),
            destination: flow.to.to_string(),
            name: flow.name,
            address: flow.real.to_string(),
            path: flow.path.map(|path| path.as_str().to_owned()),
            started_at: moment(flow.started),
            ended_at: moment(flow.ended),
            packets_in: flow.packets_in,
            bytes_in: flow.bytes_in,
            packets_out: flow.packets_out,
            bytes_out: flow.bytes_out,
            end: flow.end.as_str().to_owned(),
        }
    }
}

fn time_of(query: &ListQuery, name: &str) -> Result<Option<Timestamp>, Problem> {
    let crooked = |_| Problem::field(name, "not a time; write it as 2026-11-24T10:00:00Z");
    query.filter(name).map(|text| text.parse().map_err(crooked)).transpose()
}

/// `GET /flows`
pub async fn list(
    api: web::Data<Api>,
    admin: Admin,
    request: HttpRequest,
) -> Result<web::Json<FlowPart>, Problem> {
    let [principal, device, resource, gateway] = FILTERS;
    let filters = [principal, device, resource, gateway, SINCE, UNTIL];
    let query = ListQuery::read(request.query_string(), &filters, false)?;
    let chosen = |filter: Filter| query.filter(filter.name).map(str::to_owned);
    let limit = query.limit;
    let filter = FlowFilter {
        after: query.after,
        // One more tells whether there is more.
        limit: limit + 1,
        principal: chosen(principal),
        device: chosen(device),
        resource: chosen(resource),
        gateway: chosen(gateway),
        since: time_of(&query, SINCE.name)?,
        until: time_of(&query, UNTIL.name)?,
    };
    let mut flows = api.storage.flows(admin.account.id, filter).await?;
    let more = flows.len() > limit;
    flows.truncate(limit);
    let next = flows.last().filter(|_| more).map(|flow| flow.id.to_string());
    Ok(web::Json(FlowPart { items: flows.into_iter().map(FlowView::from).collect(), next }))
}
