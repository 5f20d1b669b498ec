//! What there is, for people.

use std::time::Duration;

use actors_tunnel::{PathSummary, lasting_time};
use protocol_control::{DenyReason, InnerAddresses, MappedName, ResourceView};
use protocol_identity::DeviceId;

use super::Grants;
use super::known::Stand;

/// What there is, for people.
#[derive(Debug, Clone, Default)]
pub struct GrantsView {
    /// The device, its principal and its tunnel addresses.
    pub device: Option<(DeviceId, String, InnerAddresses)>,
    /// The resources, by name.
    pub resources: Vec<ResourceStatus>,
}

/// One resource, for people.
#[derive(Debug, Clone)]
pub struct ResourceStatus {
    /// What it is.
    pub view: ResourceView,
    /// The stand-ins of its name.
    pub mapped: Option<MappedName>,
    /// Where access stands.
    pub state: ResourceState,
    /// The gateway that serves it.
    pub gateway: Option<String>,
    /// The path in use.
    pub path: Option<PathSummary>,
    /// When the grant ends, from now.
    pub remaining: Option<Duration>,
}

/// Where access to a resource stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResourceState {
    /// In force.
    Granted,
    /// Refused.
    Denied(DenyReason),
    /// Not used so far.
    Unused,
    /// Asked for.
    Asked,
    /// Control is away or did not answer.
    Offline,
}

impl Grants {
    pub(super) fn view(&self) -> GrantsView {
        let now = lasting_time();
        let mut resources: Vec<ResourceStatus> = self
            .resources
            .values()
            .map(|known| {
                let (state, gateway, remaining) = match &known.stand {
                    Stand::Unused => (ResourceState::Unused, None, None),
                    Stand::Asked { .. } => (ResourceState::Asked, None, None),
                    Stand::Granted { gateway, term, .. } => (
                        ResourceState::Granted,
                        self.gateways.get(gateway),
                        Some(term.ends.saturating_sub(now)),
                    ),
                    Stand::Denied(reason) => (ResourceState::Denied(reason.clone()), None, None),
                    Stand::Offline => (ResourceState::Offline, None, None),
                };
                ResourceStatus {
                    view: known.view.clone(),
                    mapped: known.mapped.clone(),
                    state,
                    gateway: gateway.map(|gateway| gateway.name.clone()),
                    path: gateway.and_then(|gateway| gateway.path),
                    remaining,
                }
            })
            .collect();
        resources.sort_by(|a, b| a.view.name.cmp(&b.view.name));
        GrantsView { device: self.device.clone(), resources }
    }
}
