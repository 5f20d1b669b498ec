//! How grants change, and how flows end.

use std::sync::Arc;
use std::time::Duration;

use protocol_packet::protocol;

use super::{Applied, Output, PeerFilter};
use crate::flow::{Flow, FlowEnd, State};
use crate::flows::Slot;
use crate::{GatewayRules, GrantVersion, PeerGrants, Service};

impl PeerFilter {
    /// Puts a table in force. Flows that no grant in it allows are cut; the others go on, by another grant if need be.
    ///
    /// A table of the version that is in force replaces it: a name may have new addresses.
    pub fn apply(&mut self, grants: PeerGrants, now: Duration) -> Applied {
        if grants.version() < self.grants.version() || grants.version() < self.revoked {
            return Applied::Stale;
        }
        self.grants = grants;
        self.reconsider_all(now);
        Applied::InForce
    }

    /// Drops everything until a table of this version or a newer one is applied.
    ///
    /// Flows are not cut yet, since that table may keep them: it must follow, even if it is empty.
    pub fn revoke(&mut self, version: GrantVersion) {
        self.revoked = self.revoked.max(version);
    }

    /// Replaces the rules of the gateway's host, and cuts the flows that they no longer admit.
    pub fn configure(&mut self, rules: Arc<GatewayRules>, now: Duration) {
        self.flows.set_most(rules.limits.flows);
        self.rules = rules;
        self.reconsider_all(now);
    }

    /// Ends all flows: the peer is gone.
    pub fn close(&mut self, now: Duration) {
        for slot in self.flows.slots() {
            self.cut(slot, FlowEnd::PeerGone, now);
            self.flows.remove(slot);
        }
        self.grants = PeerGrants::none(self.grants.version());
    }

    /// Forgets all flows and tells of each, without a word to its ends: whoever serves the peer next may carry them on.
    pub fn release(&mut self) {
        for slot in self.flows.slots() {
            match self.flows.get(slot).map(|flow| flow.state) {
                Some(State::Cut) => {
                    self.flows.remove(slot);
                }
                Some(State::Opening | State::Open | State::Closing) => self.forget(slot, FlowEnd::PeerGone),
                None => {}
            }
        }
    }

    /// Ends the flows whose time has come.
    pub fn handle_timeout(&mut self, now: Duration) {
        while let Some(slot) = self.flows.due(now) {
            let Some(flow) = self.flows.get(slot) else { return };
            let (state, grant_ended) = (flow.state, flow.ticket.ends <= now);
            match state {
                State::Cut => {
                    self.flows.remove(slot);
                }
                State::Opening | State::Open | State::Closing if grant_ended => {
                    self.reconsider(slot, FlowEnd::GrantEnded, now);
                }
                State::Closing => self.forget(slot, FlowEnd::Closed),
                State::Opening | State::Open => self.forget(slot, FlowEnd::Idle),
            }
        }
    }

    fn reconsider_all(&mut self, now: Duration) {
        for slot in self.flows.slots() {
            self.reconsider(slot, FlowEnd::Revoked, now);
        }
    }

    /// Keeps a flow that a grant still allows, and cuts it otherwise. Says whether it lives.
    pub(super) fn reconsider(&mut self, slot: Slot, end: FlowEnd, now: Duration) -> bool {
        let Some(flow) = self.flows.get(slot) else { return false };
        if flow.state == State::Cut {
            return false;
        }
        let ticket = self.still_admitted(flow, service_of(flow), now).cloned();
        match (ticket, self.flows.get_mut(slot)) {
            (Some(ticket), Some(flow)) => {
                flow.ticket = ticket;
                self.flows.schedule(slot);
                true
            }
            (None, _) | (_, None) => {
                self.cut(slot, end, now);
                false
            }
        }
    }

    /// Ends a flow against its ends' will: TCP is reset on both sides, and remembered for a while.
    fn cut(&mut self, slot: Slot, end: FlowEnd, now: Duration) {
        let Some(flow) = self.flows.get_mut(slot) else { return };
        if flow.state == State::Cut {
            return;
        }
        self.outputs.push_back(Output::FlowEnded(flow.record(end)));
        if flow.protocol != protocol::TCP {
            self.flows.remove(slot);
            return;
        }
        if !flow.is_closing() {
            self.outputs.extend(flow.resets_to_device().map(Output::ToPeer));
            self.outputs.extend(flow.resets_to_resource().map(Output::ToResource));
        }
        flow.state = State::Cut;
        flow.last = now;
        self.flows.schedule(slot);
    }

    /// Ends a flow that is over by itself.
    fn forget(&mut self, slot: Slot, end: FlowEnd) {
        if let Some(flow) = self.flows.remove(slot) {
            self.outputs.push_back(Output::FlowEnded(flow.record(end)));
        }
    }
}

fn service_of(flow: &Flow) -> Service {
    match flow.protocol {
        protocol::TCP => Service::Tcp(flow.shown.port()),
        protocol::UDP => Service::Udp(flow.shown.port()),
        _ => Service::Icmp,
    }
}
