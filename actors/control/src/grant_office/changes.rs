//! The change log moves on.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use protocol_control::{DenyReason, ResourceView, ToNode};
use protocol_identity::{DeviceId, GrantId, ResourceId};
use protocol_policy::Verdict;

use super::model::{Model, Touched};
use super::office::{Office, Open, Output};
use crate::countries::Countries;
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
                self.model.apply(change.action.clone(), &mut touched, now);
            }
        }
        self.look_again(&mut touched, now);
        true
    }

    /// Everything was read anew after a gap.
    pub fn handle_loaded(&mut self, everything: Everything, now: Timestamp) {
        let (model, stored) = Model::load(everything, now);
        let stored: BTreeSet<GrantId> = stored.into_iter().map(|grant| grant.id).collect();
        let ended = |grant: &&Open| grant.kept.is_some() && !stored.contains(&grant.id);
        let ended: Vec<GrantId> = self.grants.values().filter(ended).map(|grant| grant.id).collect();
        for id in ended {
            self.revoke(id, DenyReason::Ended, "it was ended");
        }
        self.model = model;
        let all: Vec<GrantId> = self.grants.keys().copied().collect();
        self.review(&all, now);
        let touched = Touched {
            principals: self.model.records.principals.keys().copied().collect(),
            ..Touched::default()
        };
        self.refresh_views(&touched, now);
    }

    /// Addresses are in other countries now.
    pub fn handle_countries(&mut self, countries: Countries, now: Timestamp) {
        self.countries = countries;
        let all: Vec<GrantId> = self.grants.keys().copied().collect();
        self.review(&all, now);
        let touched = Touched { devices: self.devices.keys().copied().collect(), ..Touched::default() };
        self.refresh_views(&touched, now);
    }

    fn look_again(&mut self, touched: &mut Touched, now: Timestamp) {
        for id in touched.ended.iter().filter(|id| self.grants.contains_key(id)).copied().collect::<Vec<_>>()
        {
            self.revoke(id, DenyReason::Ended, "an administrator ended it");
        }
        for principal in &touched.principals {
            touched.devices.extend(self.model.devices_of(*principal));
        }
        let mut ids = BTreeSet::new();
        for device in &touched.devices {
            ids.extend(self.grants_of_device(*device).map(|grant| grant.id));
        }
        for resource in &touched.resources {
            ids.extend(self.grants_for(*resource).map(|grant| grant.id));
        }
        for gateway in &touched.gateways {
            ids.extend(self.grants_at(*gateway).map(|grant| grant.id));
        }
        self.review(&ids.into_iter().collect::<Vec<_>>(), now);
        if touched.views || !touched.devices.is_empty() {
            self.refresh_views(touched, now);
        }
    }

    /// Tells each connected device what is new among the resources that it knows, and what is gone. Of devices that were
    /// not touched themselves, only the touched resources are looked at.
    fn refresh_views(&mut self, touched: &Touched, now: Timestamp) {
        let devices: BTreeSet<DeviceId> = if touched.resources.is_empty() {
            // Of thousands that are connected, a change mostly touches one.
            let of_principals =
                touched.principals.iter().flat_map(|principal| self.model.devices_of(*principal));
            let touched = touched.devices.iter().copied().chain(of_principals);
            touched.filter(|device| self.devices.contains_key(device)).collect()
        } else {
            self.devices.keys().copied().collect()
        };
        for device in devices {
            let whole = self.is_touched(device, touched);
            let allowed_now = self.allowed_again(device, touched, whole, now);
            let known: BTreeMap<ResourceId, Option<ResourceView>> = if whole {
                let mut known: BTreeMap<_, _> =
                    self.known_to(device).into_iter().map(|(id, view)| (id, Some(view))).collect();
                let before = self.devices.get(&device).map(|online| online.known.keys().copied());
                for gone in before.into_iter().flatten() {
                    known.entry(gone).or_insert(None);
                }
                known
            } else {
                touched
                    .resources
                    .iter()
                    .map(|resource| (*resource, self.seen_by(device, *resource)))
                    .collect()
            };
            let Some(online) = self.devices.get_mut(&device) else { continue };
            online.denied.retain(|resource, _| !allowed_now.contains(resource));
            let mut messages = Vec::new();
            for (resource, view) in known {
                match view {
                    Some(view) => {
                        if online.known.get(&resource) != Some(&view) || allowed_now.contains(&resource) {
                            messages.push(ToNode::ResourceChanged(view.clone()));
                        }
                        online.known.insert(resource, view);
                    }
                    None => {
                        if online.known.remove(&resource).is_some() {
                            messages.push(ToNode::ResourceGone(resource));
                        }
                    }
                }
            }
            for message in messages {
                self.tell_device(device, message);
            }
        }
    }

    fn is_touched(&self, device: DeviceId, touched: &Touched) -> bool {
        let principal = self.model.devices.get(&device).map(|device| device.principal);
        touched.devices.contains(&device)
            || principal.is_some_and(|principal| touched.principals.contains(&principal))
    }

    /// A resource as a device sees it, if the device knows it.
    fn seen_by(&self, device: DeviceId, resource: ResourceId) -> Option<ResourceView> {
        let principal = self.model.devices.get(&device)?.principal;
        self.model.index.learns(principal, resource).then_some(())?;
        self.model.records.resources.get(&resource).map(|resource| self.model.view(resource))
    }

    /// Resources that the device was denied and is allowed now: it is told of them anew, so that it asks again.
    fn allowed_again(
        &self,
        device: DeviceId,
        touched: &Touched,
        whole: bool,
        now: Timestamp,
    ) -> Vec<ResourceId> {
        let Some(online) = self.devices.get(&device) else { return Vec::new() };
        let allowed = |resource: &&ResourceId| {
            (whole || touched.resources.contains(resource))
                && matches!(
                    self.decide(device, **resource, online.source, now, now),
                    Some(Verdict::Allowed { .. })
                )
        };
        online.denied.keys().filter(allowed).copied().collect()
    }
}
