//! A gateway answers, storage answers, or time passes.

use jiff::Timestamp;
use protocol_control::{Applied, DenyReason, GatewayRefusal, GrantVersion, ToNode};
use protocol_identity::{GatewayId, GrantId};
use protocol_policy::Verdict;

use super::office::{Confirmed, Office, Output};
use crate::model::Kind;
use crate::storage::{Note, Op};

impl Office {
    /// A gateway has installed a grant: it is kept, and then the client is told.
    pub fn handle_applied(&mut self, gateway: GatewayId, applied: Applied) {
        let Some(grant) = self.grants.get_mut(&applied.grant) else { return };
        let fits = grant.gateway == gateway
            && applied.answer.gateway == gateway
            && applied.answer.device == grant.device
            && applied.answer.grant == grant.id;
        // An answer to an older state is followed by the one to the newest.
        if !fits || applied.version != grant.version {
            return;
        }
        // A gateway that is back says what is known: nobody has to hear of it again.
        let known = grant.confirmed.as_ref().is_some_and(|known| {
            known.answer == applied.answer && (known.has_v4, known.has_v6) == (applied.has_v4, applied.has_v6)
        });
        if known && grant.kept == Some(grant.version) && grant.waiting.is_none() {
            return;
        }
        grant.confirmed =
            Some(Confirmed { answer: applied.answer, has_v4: applied.has_v4, has_v6: applied.has_v6 });
        if let Some(record) = Self::record(grant) {
            self.output(Output::Keep(Box::new(record)));
        }
    }

    /// Storage has kept a grant, or has not.
    pub fn handle_kept(&mut self, id: GrantId, version: GrantVersion, kept: bool, now: Timestamp) {
        let Some(grant) = self.grants.get_mut(&id).filter(|grant| grant.version == version) else { return };
        if !kept {
            return self.revoke(id, DenyReason::Ended, "it could not be stored");
        }
        grant.kept = Some(version);
        let request = grant.waiting.take().map_or(0, |waiting| waiting.request);
        let device = grant.device;
        let message = self.grants.get(&id).and_then(|grant| self.granted(grant, request, now));
        if let Some(message) = message {
            self.tell_device(device, ToNode::Granted(Box::new(message)));
        }
        self.schedule(id);
    }

    /// A gateway would not install a grant.
    pub fn handle_refused(&mut self, gateway: GatewayId, id: GrantId, reason: GatewayRefusal) {
        if self.grants.get(&id).is_none_or(|grant| grant.gateway != gateway) {
            return;
        }
        let Some(grant) = self.remove(id) else { return };
        let reason = DenyReason::Gateway(reason);
        self.output(Output::Write(Op::Note(Note {
            action: "refused",
            kind: Kind::Gateway,
            id: Some(gateway.0),
            name: self.model.gateways.get(&gateway).map(|gateway| gateway.name.clone()),
            detail: serde_json::json!({
                "device": grant.device, "resource": grant.resource, "why": reason.to_string(),
            }),
        })));
        self.forget(grant, reason.clone(), &reason.to_string());
    }

    /// A grant has ended at its gateway, by its clock.
    pub fn handle_ended(&mut self, gateway: GatewayId, id: GrantId) {
        if self.grants.get(&id).is_none_or(|grant| grant.gateway != gateway) {
            return;
        }
        if let Some(grant) = self.remove(id) {
            self.forget(grant, DenyReason::Ended, "its time was over");
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        self.model.index.prepare(now);
        for id in self.take_due(now) {
            let Some(grant) = self.grants.get(&id) else { continue };
            if grant.waiting.is_some_and(|waiting| waiting.until <= now) {
                self.revoke(id, DenyReason::NoGateway, "the gateway did not answer");
            } else if grant.lease <= now {
                self.revoke(id, DenyReason::Ended, "its time was over");
            } else if !grant.looked_ahead {
                self.look_ahead(id, now);
            } else {
                self.schedule(id);
            }
        }
        if self.credentials_due <= now {
            self.offer_relays(now);
        }
    }

    /// Shortly before its end, or at half of its lease: does the grant go on?
    fn look_ahead(&mut self, id: GrantId, now: Timestamp) {
        let Some(grant) = self.grants.get_mut(&id) else { return };
        grant.looked_ahead = true;
        let (device, resource, since) = (grant.device, grant.resource, grant.since);
        let at = grant.ends.filter(|ends| *ends <= grant.lease).unwrap_or(now);
        let source = self.devices.get(&device).map_or(grant.source, |online| online.source);
        let verdict = self.decide(device, resource, source, since, at);
        let goes_on = matches!(verdict, Some(Verdict::Allowed { .. }));
        if goes_on && at > now {
            // Another rule carries it on: what holds at its end is what holds from now on.
            self.review_at(id, at, now);
        } else {
            self.review(&[id], now);
        }
    }
}
