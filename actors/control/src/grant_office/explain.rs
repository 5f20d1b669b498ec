//! What would be decided, and why: for an administrator.

use std::net::IpAddr;

use jiff::Timestamp;
use protocol_identity::{DeviceId, PrincipalId, ResourceId};
use protocol_policy::{Context, Decision, Request};

use super::office::{Office, out_of_service};

/// Who would ask.
#[derive(Debug, Clone, Copy)]
pub enum Asker {
    /// A device, with all that is known of it.
    Device(DeviceId),
    /// A principal, from a device of which nothing is known.
    Principal(PrincipalId),
}

/// What to decide about.
#[derive(Debug, Clone)]
pub struct Question {
    /// Who.
    pub asker: Asker,
    /// What for.
    pub resource: ResourceId,
    /// When; now if not given.
    pub at: Option<Timestamp>,
    /// From where; as the device is connected if not given.
    pub source: Option<IpAddr>,
}

impl Office {
    /// Decides without doing anything. `None`: there is no such device.
    pub fn explain(&self, question: &Question, now: Timestamp) -> Option<Decision> {
        let at = question.at.unwrap_or(now);
        let (principal, context) = match question.asker {
            Asker::Device(id) => {
                let device = self.model.devices.get(&id)?;
                if device.disabled {
                    return Some(out_of_service());
                }
                let connected = self.devices.get(&id).and_then(|online| online.source);
                (device.principal, self.context(device, question.source.or(connected)))
            }
            Asker::Principal(id) => {
                let country = question.source.and_then(|source| self.countries.of(source));
                (id, Context { source: question.source, country, ..Context::default() })
            }
        };
        let request = Request { principal, resource: question.resource, context: &context, since: at };
        Some(self.model.index.explain(&request, at))
    }
}
