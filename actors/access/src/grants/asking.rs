//! Asking for access, and what comes of it.

use std::time::Duration;

use actors_runtime::{Cx, Reply};
use actors_tunnel::{PeerConfig, PeerName, PeersCommand, RouterChange, host_addresses, lasting_time};
use ipnet::IpNet;
use protocol_control::{
    Answer, DenyReason, FromNode, GatewayRefusal, Granted, MappedName, Offer, RequestAccess, ResourceAddress,
};
use protocol_filter::{Access, PeerSlot};
use protocol_identity::{GatewayId, ResourceId};
use protocol_traversal::Hygiene;
use protocol_tunnel::TunnelIndex;

use super::known::{Gateway, Known, Stand, Term};
use super::{Decided, Grants};
use crate::pins::Pinned;

/// A request that control or the gateway does not answer within this is given up, so that applications fail.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long a refusal is repeated without asking control again.
const DENIED_FOR: Duration = Duration::from_secs(2);
/// How often control is asked for another gateway while one does not answer.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

impl Grants {
    pub(super) fn want(&mut self, resource: ResourceId, decided: Option<Reply<Decided>>, cx: &mut Cx<Self>) {
        let Some(known) = self.resources.get_mut(&resource) else {
            if let Some(decided) = decided {
                decided.send(Decided::Unknown);
            }
            return;
        };
        if let Stand::Granted { families: (has_v4, has_v6), .. } = known.stand {
            if let Some(decided) = decided {
                decided.send(Decided::Granted { has_v4, has_v6 });
            }
            return;
        }
        known.waiting.extend(decided);
        if !matches!(known.stand, Stand::Asked { .. }) {
            self.ask(resource, cx);
        }
    }

    pub(super) fn lookup(&mut self, mapped: MappedName, decided: Reply<Decided>, cx: &mut Cx<Self>) {
        let found = self.resources.iter_mut().find(
            |(_, known)| matches!(&known.view.address, ResourceAddress::Dns(name) if *name == mapped.name),
        );
        let Some((resource, known)) = found else {
            decided.send(Decided::Unknown);
            return;
        };
        let resource = *resource;
        if known.mapped.as_ref() != Some(&mapped) {
            known.mapped = Some(mapped);
            // The gateway translates the stand-ins that it was told.
            if matches!(known.stand, Stand::Granted { .. }) {
                known.stand = Stand::Unused;
            }
            self.put_route(resource);
        }
        self.want(resource, Some(decided), cx);
    }

    pub(super) fn ask(&mut self, resource: ResourceId, cx: &mut Cx<Self>) {
        let Some((device, ..)) = &self.device else { return self.offline(resource) };
        let device = *device;
        if !self.up {
            return self.offline(resource);
        }
        self.next_request += 1;
        let request = self.next_request;
        let slot = self.free_slot();
        let Some(known) = self.resources.get_mut(&resource) else { return };
        let offer = Offer::sign(
            &self.settings.identity,
            device,
            resource,
            self.settings.wireguard.public(),
            self.settings.kem.public(),
            TunnelIndex { slot, lane: 0 }.receiver_index(),
            self.candidates.clone(),
        );
        match &mut known.stand {
            Stand::Granted { renewing, term, .. } => {
                *renewing = true;
                term.renew = None;
            }
            Stand::Unused | Stand::Asked { .. } | Stand::Denied(_) | Stand::Offline => {
                known.stand = Stand::Asked { request };
                self.route(RouterChange::Access { resource, access: Access::Pending });
            }
        }
        let name = self.resources.get(&resource).and_then(|known| known.mapped.clone());
        self.say(FromNode::RequestAccess(RequestAccess { request, offer, name }), cx);
        let sleep = cx.sleep(ANSWER_WITHIN);
        cx.spawn(sleep, move |me, (), cx| {
            let unanswered = me.resources.get(&resource).is_some_and(
                |known| matches!(known.stand, Stand::Asked { request: asked } if asked == request),
            );
            if unanswered {
                tracing::warn!(%resource, "nobody answered a request for access");
                me.offline(resource);
                me.flush(cx);
            }
        });
    }

    /// A gateway does not answer: what goes through it is asked for again, so that control can name another one of the
    /// site. One that control still hears is named again, and asked after until it answers.
    pub(super) fn look_elsewhere(&mut self, gateway: GatewayId, cx: &mut Cx<Self>) {
        if !self.up || self.gateways.get(&gateway).is_none_or(|gateway| !gateway.silent) {
            return;
        }
        let through =
            |known: &&Known| matches!(known.stand, Stand::Granted { gateway: at, .. } if at == gateway);
        let resources: Vec<_> =
            self.resources.values().filter(through).map(|known| known.view.resource).collect();
        if resources.is_empty() {
            return;
        }
        resources.into_iter().for_each(|resource| self.ask(resource, cx));
        let sleep = cx.sleep(LOOK_AGAIN);
        cx.spawn(sleep, move |me, (), cx| {
            me.look_elsewhere(gateway, cx);
            me.flush(cx);
        });
    }

    pub(super) fn free_slot(&mut self) -> u16 {
        loop {
            let slot = self.next_slot;
            self.next_slot = self.next_slot.checked_add(1).unwrap_or(1);
            if !self.gateways.values().any(|gateway| gateway.slot == slot) {
                return slot;
            }
        }
    }

    pub(super) fn granted(&mut self, granted: Granted, cx: &mut Cx<Self>) {
        let Granted { request: _, grant, resource, remaining, gateway_name, answer, has_v4, has_v6, name: _ } =
            granted;
        if !self.resources.contains_key(&resource) {
            return;
        }
        let device = self.device.as_ref().map(|(device, ..)| *device);
        let (wireguard, kem) = (self.settings.wireguard.public(), self.settings.kem.public());
        if Some(answer.device) != device || answer.grant != grant || answer.verify(&wireguard, &kem).is_err()
        {
            tracing::error!(%resource, "a gateway's answer has a wrong signature: control or the gateway is lying");
            cx.count_drop("answer_bad_signature", 1);
            return self.deny(resource, DenyReason::Gateway(GatewayRefusal::BadOffer), cx);
        }
        let pinned = match &mut self.pins {
            Some(pins) => pins.check(&answer.gateway.to_string(), answer.identity).unwrap_or_else(|error| {
                tracing::error!(%error, "a gateway's identity cannot be pinned");
                Pinned::Changed
            }),
            None => Pinned::Changed,
        };
        if pinned == Pinned::Changed {
            tracing::error!(
                gateway = gateway_name,
                "the gateway shows another identity key than the pinned one"
            );
            cx.count_drop("gateway_identity_changed", 1);
            return self.deny(resource, DenyReason::Gateway(GatewayRefusal::IdentityChanged), cx);
        }
        let Some(slot) = self.connect(answer, gateway_name, cx) else {
            return self.deny(resource, DenyReason::Gateway(GatewayRefusal::BadOffer), cx);
        };
        let term = Term::of(remaining);
        let Some((gateway, _)) = self.gateways.iter().find(|(_, gateway)| gateway.slot == slot) else {
            return;
        };
        let gateway = *gateway;
        let Some(known) = self.resources.get_mut(&resource) else { return };
        known.stand = Stand::Granted { grant, gateway, term, families: (has_v4, has_v6), renewing: false };
        for waiting in known.waiting.drain(..) {
            waiting.send(Decided::Granted { has_v4, has_v6 });
        }
        tracing::info!(%resource, %grant, "granted");
        self.put_route(resource);
        self.refresh_hygiene(gateway);
        self.route(RouterChange::Access { resource, access: Access::Granted(PeerSlot(slot.into())) });
        self.set_alarm(cx);
    }

    /// Makes or keeps the connection that an answer is for; returns its slot.
    pub(super) fn connect(&mut self, answer: Answer, name: String, cx: &Cx<Self>) -> Option<u16> {
        let candidates = answer.candidates.clone();
        let (slot, secret) = match self.gateways.get(&answer.gateway) {
            Some(held) if held.answer.same_session(&answer) => (held.slot, held.secret.clone()),
            Some(_) | None => {
                let shared = self.settings.kem.decapsulate(&answer.ciphertext).ok()?;
                let slot = TunnelIndex::of(answer.device_index).slot;
                if let Some(old) = self.gateways.get(&answer.gateway)
                    && old.slot != slot
                {
                    self.tell_peers(PeersCommand::Disconnect { slot: old.slot });
                }
                (slot, shared)
            }
        };
        // Another gateway in this slot would mean that a gateway answers with an index that was not offered to it.
        if self.gateways.iter().any(|(id, held)| held.slot == slot && *id != answer.gateway) {
            cx.count_drop("answer_bad_index", 1);
            return None;
        }
        let gateway = answer.gateway;
        let held = self.gateways.get(&gateway).filter(|held| held.slot == slot);
        let (path, silent) = held.map_or((None, false), |held| (held.path, held.silent));
        self.gateways.insert(gateway, Gateway { slot, name, silent, answer, secret, candidates, path });
        if let Some(config) = self.peer_config(gateway) {
            self.tell_peers(PeersCommand::Connect(Box::new(config)));
        }
        Some(slot)
    }

    pub(super) fn peer_config(&self, gateway: GatewayId) -> Option<PeerConfig> {
        let held = self.gateways.get(&gateway)?;
        Some(PeerConfig {
            slot: held.slot,
            name: PeerName::Gateway(gateway),
            private: self.settings.wireguard.clone(),
            public: held.answer.wireguard,
            secret: held.secret.clone(),
            remote_index: held.answer.index,
            inner: held.answer.addresses,
            candidates: held.candidates.clone(),
            hygiene: self.hygiene(gateway),
            rules: None,
        })
    }

    pub(super) fn hygiene(&self, gateway: GatewayId) -> Hygiene {
        let granted = self
            .resources
            .values()
            .filter(|known| matches!(&known.stand, Stand::Granted { gateway: by, .. } if *by == gateway))
            .filter_map(|known| match &known.view.address {
                ResourceAddress::Cidr(net) => Some(net.trunc()),
                ResourceAddress::Ip(address) => Some(IpNet::from(*address)),
                ResourceAddress::Dns(_) => None,
            })
            .collect();
        Hygiene { own: host_addresses(&self.settings.tun), granted, ..Hygiene::default() }
    }

    pub(super) fn refresh_hygiene(&mut self, gateway: GatewayId) {
        if let Some(held) = self.gateways.get(&gateway) {
            let hygiene = self.hygiene(gateway);
            self.tell_peers(PeersCommand::Hygiene { slot: held.slot, hygiene });
        }
    }

    pub(super) fn deny(&mut self, resource: ResourceId, reason: DenyReason, cx: &mut Cx<Self>) {
        let Some(known) = self.resources.get_mut(&resource) else { return };
        tracing::info!(%resource, reason = %reason, "denied");
        known.stand = Stand::Denied(reason.clone());
        for waiting in known.waiting.drain(..) {
            waiting.send(Decided::Denied(reason.clone()));
        }
        let again = lasting_time() + DENIED_FOR;
        self.route(RouterChange::Access { resource, access: Access::Denied { again } });
        self.set_alarm(cx);
    }

    pub(super) fn offline(&mut self, resource: ResourceId) {
        let Some(known) = self.resources.get_mut(&resource) else { return };
        known.stand = Stand::Offline;
        for waiting in known.waiting.drain(..) {
            waiting.send(Decided::Offline);
        }
        let again = lasting_time() + DENIED_FOR;
        self.route(RouterChange::Access { resource, access: Access::Denied { again } });
    }

    pub(super) fn set_alarm(&self, cx: &mut Cx<Self>) {
        let now = lasting_time();
        let next = self
            .resources
            .values()
            .filter_map(|known| match &known.stand {
                Stand::Granted { term, .. } => Some(term.renew.unwrap_or(term.ends)),
                Stand::Unused | Stand::Asked { .. } | Stand::Denied(_) | Stand::Offline => None,
            })
            .min();
        match next {
            Some(at) => cx.wake_at(cx.now() + at.saturating_sub(now)),
            None => cx.wake_never(),
        }
    }
}
