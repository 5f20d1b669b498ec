//! What the lanes have to be told, gathered so that a burst of messages costs each device one table.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use actors_runtime::{Cx, Reply};
use actors_tunnel::{GatewayApply, PeerConfig, PeerName, PeersCommand, host_addresses, lasting_time};
use protocol_control::{Answer, Applied, FromNode, ResourceAddress, UnsignedAnswer};
use protocol_filter::{GatewayRules, PeerGrants};
use protocol_identity::{DeviceId, GrantId};
use protocol_traversal::Hygiene;
use protocol_tunnel::{TunnelIndex, lane_of};
use tokio::time::Instant;

use super::{Admissions, FORGET_AFTER, OWN_FOR, REFRESH_NAMES, TRY_AGAIN, candidate_addresses};

/// What the lanes do not know yet.
#[derive(Default)]
pub(super) struct Lanes {
    relays: bool,
    retain: bool,
    changed: BTreeSet<DeviceId>,
    gone: BTreeSet<u16>,
    /// A flush is on its way.
    soon: bool,
    /// The host's own addresses, and when they were read.
    own: Option<(Instant, Vec<IpAddr>)>,
    /// What the host's packet filter was told last.
    own_resources: Vec<IpAddr>,
}

impl Lanes {
    /// A device's session or grants are different.
    pub(super) fn change(&mut self, device: DeviceId) {
        self.changed.insert(device);
    }

    /// A session is over.
    pub(super) fn gone(&mut self, slot: u16) {
        self.gone.insert(slot);
    }

    /// The relays are different.
    pub(super) fn relays_changed(&mut self) {
        self.relays = true;
    }

    /// No session but those that are known here may be left.
    pub(super) fn retain(&mut self) {
        self.retain = true;
    }

    fn is_empty(&self) -> bool {
        !self.relays && !self.retain && self.changed.is_empty() && self.gone.is_empty()
    }
}

impl Admissions {
    /// Tells the lanes when everything that waits in our mailbox has had its turn.
    pub(super) fn flush_soon(&mut self, cx: &mut Cx<Self>) {
        if !std::mem::replace(&mut self.lanes.soon, true) {
            cx.spawn(std::future::ready(()), |me, (), cx| {
                me.lanes.soon = false;
                me.flush(cx);
            });
        }
    }

    /// Tells the lanes what they do not know yet; what does not fit into their mailbox follows a little later.
    pub(super) fn flush(&mut self, cx: &mut Cx<Self>) {
        if self.lanes.relays && self.tell_peers(PeersCommand::Relays(self.relays.clone()), cx) {
            self.lanes.relays = false;
        }
        while let Some(slot) = self.lanes.gone.first().copied() {
            if !self.tell_peers(PeersCommand::Disconnect { slot }, cx) {
                break;
            }
            self.lanes.gone.remove(&slot);
        }
        self.push_changed(cx);
        self.tell_own_resources(cx);
        if self.lanes.retain && self.tell_peers(PeersCommand::Retain(self.slots.clone()), cx) {
            self.lanes.retain = false;
        }
        if !self.lanes.is_empty() && !std::mem::replace(&mut self.lanes.soon, true) {
            let pause = cx.sleep(TRY_AGAIN);
            cx.spawn(pause, |me, (), cx| {
                me.lanes.soon = false;
                me.flush(cx);
            });
        }
        self.set_alarm(cx);
    }

    fn push_changed(&mut self, cx: &mut Cx<Self>) {
        // A session that is to go may have the place of one that is to come.
        if self.lanes.changed.is_empty() || !self.lanes.gone.is_empty() {
            return;
        }
        let own = self.own_addresses(cx);
        let rules = self.rules(&own);
        while let Some(id) = self.lanes.changed.first().copied() {
            if !self.push(id, &own, &rules, cx) {
                break;
            }
            self.lanes.changed.remove(&id);
        }
    }

    /// Tells the lanes of one device at once, and of everything else soon.
    pub(super) fn push_now(&mut self, id: DeviceId, cx: &mut Cx<Self>) {
        let own = self.own_addresses(cx);
        let rules = self.rules(&own);
        if !self.lanes.gone.is_empty() || !self.push(id, &own, &rules, cx) {
            self.lanes.change(id);
        }
        self.flush_soon(cx);
    }

    fn rules(&self, own: &[IpAddr]) -> Arc<GatewayRules> {
        let inner =
            self.gateway.iter().flat_map(|(_, inner)| [IpAddr::from(inner.v4), IpAddr::from(inner.v6)]);
        let own = own.iter().copied().chain(inner).collect();
        Arc::new(GatewayRules { own, ceiling: self.settings.ceiling.clone(), ..GatewayRules::default() })
    }

    /// Tells the lanes what a device may reach now, and control when they let it. `false`: they were not told.
    fn push(&mut self, id: DeviceId, own: &[IpAddr], rules: &Arc<GatewayRules>, cx: &mut Cx<Self>) -> bool {
        let now = cx.now();
        let Some(device) = self.devices.get_mut(&id) else { return true };
        device.forget_at =
            if device.grants.is_empty() { device.forget_at.or(Some(now + FORGET_AFTER)) } else { None };
        let specs = device.specs();
        let granted = specs.iter().flat_map(|spec| spec.destination.prefixes()).collect();
        let hygiene = Hygiene { own: own.to_vec(), granted, ..Hygiene::default() };
        let slot = device.slot;
        let config = PeerConfig {
            slot,
            name: PeerName::Device(id),
            private: self.settings.wireguard.clone(),
            public: device.offer.wireguard,
            secret: device.secret.clone(),
            remote_index: device.offer.index,
            inner: device.inner,
            candidates: device.candidates.clone(),
            hygiene,
            rules: Some(rules.clone()),
        };
        let apply = GatewayApply { grants: PeerGrants::compile(device.version, specs), rules: rules.clone() };
        let addresses = candidate_addresses(&device.candidates);
        let confirm = !device.unconfirmed.is_empty();
        if !self.tell_peers(PeersCommand::Connect(Box::new(config)), cx)
            || !self.tell_peers(PeersCommand::Apply { slot, apply: Box::new(apply) }, cx)
        {
            return false;
        }
        if confirm {
            let (done, confirmed) = Reply::channel();
            if !self.tell_peers(PeersCommand::Permit { addresses, done }, cx) {
                return false;
            }
            let grants = self.devices.get_mut(&id).map(|device| std::mem::take(&mut device.unconfirmed));
            cx.spawn(confirmed, move |me, _, cx| {
                grants.into_iter().flatten().for_each(|grant| me.applied(id, grant, cx));
            });
        }
        true
    }

    fn applied(&self, device: DeviceId, grant: GrantId, cx: &Cx<Self>) {
        let Some((gateway, addresses)) = self.gateway else { return };
        let Some(device) = self.devices.get(&device) else { return };
        let Some(held) = device.grants.get(&grant) else { return };
        let lane = lane_of(device.inner.v4.into(), self.settings.lanes);
        let unsigned = UnsignedAnswer {
            gateway,
            grant,
            wireguard: self.settings.wireguard.public(),
            ciphertext: device.ciphertext.clone(),
            index: TunnelIndex { slot: device.slot, lane }.receiver_index(),
            device_index: device.offer.index,
            addresses,
            candidates: self.candidates.clone(),
        };
        let answer = Answer::sign(&self.settings.identity, &device.offer, unsigned);
        let (has_v4, has_v6) = held.families();
        let applied = Applied { grant, version: held.authorize.version, answer, has_v4, has_v6 };
        self.say(FromNode::Applied(Box::new(applied)), cx);
    }

    fn own_addresses(&mut self, cx: &Cx<Self>) -> Vec<IpAddr> {
        let now = cx.now();
        match &self.lanes.own {
            Some((read, own)) if now < *read + OWN_FOR => own.clone(),
            Some(_) | None => {
                let own = host_addresses(&self.settings.tun);
                self.lanes.own = Some((now, own.clone()));
                own
            }
        }
    }

    /// The packet filter of the host lets devices in to those of its addresses that are resources.
    fn tell_own_resources(&mut self, cx: &Cx<Self>) {
        let own = self.own_addresses(cx);
        let granted: BTreeSet<IpAddr> = self
            .devices
            .values()
            .flat_map(|device| device.grants.values())
            .filter_map(|held| match held.authorize.resource.address {
                ResourceAddress::Ip(address) if own.contains(&address) => Some(address),
                ResourceAddress::Ip(_) | ResourceAddress::Cidr(_) | ResourceAddress::Dns(_) => None,
            })
            .collect();
        let granted: Vec<IpAddr> = granted.into_iter().collect();
        if self.lanes.own_resources != granted && self.own_resources.tell(granted.clone()).is_ok() {
            self.lanes.own_resources = granted;
        }
    }

    fn set_alarm(&mut self, cx: &mut Cx<Self>) {
        let now = cx.now();
        let mut next: Option<Instant> = None;
        let mut earlier = |at: Instant| next = Some(next.map_or(at, |next| next.min(at)));
        let mut names = false;
        let lasting = lasting_time();
        for device in self.devices.values() {
            device.forget_at.into_iter().for_each(&mut earlier);
            for held in device.grants.values() {
                names |= held.name().is_some();
                earlier(now + held.ends.saturating_sub(lasting));
            }
        }
        self.refresh_at = if names { Some(self.refresh_at.unwrap_or(now + REFRESH_NAMES)) } else { None };
        self.refresh_at.into_iter().for_each(&mut earlier);
        match next {
            Some(at) => cx.wake_at(at),
            None => cx.wake_never(),
        }
    }

    /// Devices that have had no grant for a while lose their session.
    pub(super) fn forget_idle(&mut self, now: Instant) {
        let (slots, lanes) = (&mut self.slots, &mut self.lanes);
        self.devices.retain(|_, device| {
            let stays = device.forget_at.is_none_or(|at| now < at);
            if !stays {
                slots.remove(&device.slot);
                lanes.gone(device.slot);
            }
            stays
        });
    }
}
