//! The change log moves on.

use std::collections::BTreeSet;

use jiff::Timestamp;
use protocol_control::{DenyReason, ToNode};
use protocol_identity::{DeviceId, GrantId, ResourceId};

use super::model::{Model, Touched};
use super::office::{Office, Open, Output};
use crate::storage::{Committed, Everything};

impl Office {
    /// Changes are committed. What they touch is decided again at once. Returns whether they were the next ones: a gap
    /// is never skipped.
    pub fn handle_changed(&mut self, committed: &Committed, now: Timestamp) -> bool {
        let mut touched = Touched::default();
        for change in &committed.changes {
            if change.sequence <= self.model.sequence {
                continue;
            }
            if change.sequence != self.model.sequence + 1 {
                self.output(Output::Reload);
                return false;
            }
            self.model.sequence = change.sequence;
            if committed.account == self.account {
                self.model.apply(change.action.clone(), &mut touched);
            }
        }
        self.look_again(&touched, now);
        true
    }

    /// Everything was read anew after a gap.
    pub fn handle_loaded(&mut self, everything: Everything, now: Timestamp) {
        let (model, stored) = Model::load(everything);
        let stored: BTreeSet<GrantId> = stored.into_iter().map(|grant| grant.id).collect();
        let ended = |grant: &&Open| grant.kept.is_some() && !stored.contains(&grant.id);
        let ended: Vec<GrantId> = self.grants.values().filter(ended).map(|grant| grant.id).collect();
        for id in ended {
            self.revoke(id, DenyReason::Ended, "it was ended");
        }
        let touched = Touched { policy: true, ..Touched::default() };
        self.model = model;
        self.index = self.model.compile();
        let all: Vec<GrantId> = self.grants.keys().copied().collect();
        self.review(&all, now);
        self.refresh_views(&touched, now);
    }

    fn look_again(&mut self, touched: &Touched, now: Timestamp) {
        for id in touched.ended.iter().filter(|id| self.grants.contains_key(id)).copied().collect::<Vec<_>>()
        {
            self.revoke(id, DenyReason::Ended, "an administrator ended it");
        }
        if touched.policy {
            self.index = self.model.compile();
        }
        let ids: Vec<GrantId> = self
            .grants
            .values()
            .filter(|grant| {
                touched.resources.contains(&grant.resource)
                    || touched.devices.contains(&grant.device)
                    || touched.gateways.contains(&grant.gateway)
                    || self
                        .model
                        .devices
                        .get(&grant.device)
                        .is_none_or(|device| touched.principals.contains(&device.principal))
            })
            .map(|grant| grant.id)
            .collect();
        self.review(&ids, now);
        if touched.policy || !touched.resources.is_empty() {
            self.refresh_views(touched, now);
        }
    }

    /// Tells each connected device what is new among the resources that it knows, and what is gone.
    fn refresh_views(&mut self, touched: &Touched, now: Timestamp) {
        let devices: Vec<DeviceId> = self.devices.keys().copied().collect();
        for device in devices {
            let known = self.known_to(device);
            let allowed_now = self.allowed_again(device, touched, now);
            let Some(online) = self.devices.get_mut(&device) else { continue };
            let mut messages = Vec::new();
            for resource in online.known.keys().filter(|resource| !known.contains_key(resource)) {
                messages.push(ToNode::ResourceGone(*resource));
            }
            for (resource, view) in &known {
                if online.known.get(resource) != Some(view) || allowed_now.contains(resource) {
                    messages.push(ToNode::ResourceChanged(view.clone()));
                }
            }
            online.denied.retain(|resource, _| !allowed_now.contains(resource));
            online.known = known;
            for message in messages {
                self.tell_device(device, message);
            }
        }
    }

    /// Resources that the device was denied and is allowed now: it is told of them anew, so that it asks again.
    fn allowed_again(&self, device: DeviceId, touched: &Touched, now: Timestamp) -> Vec<ResourceId> {
        let Some(online) = self.devices.get(&device) else { return Vec::new() };
        if !touched.policy {
            return Vec::new();
        }
        let allowed = |resource: &&ResourceId| {
            let decision = self.decide(device, **resource, online.source, now, now);
            decision.is_some_and(|decision| decision.is_allowed())
        };
        online.denied.keys().filter(allowed).copied().collect()
    }
}
