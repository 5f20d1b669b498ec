//! The flow table of one peer: bounded, found from both sides, ordered by deadline.

use std::collections::{BTreeSet, HashMap};
use std::hash::BuildHasher;
use std::time::Duration;

use crate::Reason;
use crate::flow::{Endpoint, Flow, FlowKey};
use crate::hash::Seeded;

/// A place in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot(u32);

#[derive(Debug)]
pub(crate) struct Flows {
    slots: Vec<Option<Flow>>,
    free: Vec<Slot>,
    by_device: HashMap<FlowKey, Slot, Seeded>,
    by_resource: HashMap<FlowKey, Slot, Seeded>,
    deadlines: BTreeSet<(Duration, Slot)>,
    most: usize,
}

/// How often another source port is tried. With half of all ports taken, this misses once in 2^64.
const PORT_TRIES: u64 = 64;
/// Source ports below are privileged: servers may trust them.
const FIRST_PORT: u64 = 1024;

impl Flows {
    pub(crate) fn new(most: usize, seed: u64) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_device: HashMap::with_hasher(Seeded(seed)),
            by_resource: HashMap::with_hasher(Seeded(seed)),
            deadlines: BTreeSet::new(),
            most,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_device.len()
    }

    pub(crate) fn set_most(&mut self, most: usize) {
        self.most = most;
    }

    pub(crate) fn find_by_device(&self, key: &FlowKey) -> Option<Slot> {
        self.by_device.get(key).copied()
    }

    pub(crate) fn find_by_resource(&self, key: &FlowKey) -> Option<Slot> {
        self.by_resource.get(key).copied()
    }

    pub(crate) fn get(&self, slot: Slot) -> Option<&Flow> {
        self.slots.get(slot.0 as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: Slot) -> Option<&mut Flow> {
        self.slots.get_mut(slot.0 as usize)?.as_mut()
    }

    /// A source port with which the resource can tell this flow from all others: the device's own if it can be.
    pub(crate) fn outer_port(&self, number: u8, device: Endpoint, real: Endpoint) -> Result<u16, Reason> {
        let taken = |port: u16| {
            let key = FlowKey::new(number, Endpoint::new(device.ip(), port), real);
            self.by_resource.contains_key(&key)
        };
        if !taken(device.port()) {
            return Ok(device.port());
        }
        // The same ports again after a restart, so that connections go on: no seed.
        let start = Seeded(0).hash_one(FlowKey::new(number, device, real));
        (0..PORT_TRIES)
            .map(|attempt| {
                let drawn = Seeded(start).hash_one(attempt) % (0x1_0000 - FIRST_PORT);
                (FIRST_PORT + drawn) as u16
            })
            .find(|port| !taken(*port))
            .ok_or(Reason::PortsExhausted)
    }

    /// Puts a flow in.
    pub(crate) fn insert(&mut self, flow: Flow) -> Result<Slot, Reason> {
        if self.len() >= self.most {
            return Err(Reason::FlowTableFull);
        }
        let (by_device, by_resource) = (flow.device_key(), flow.resource_key());
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(None);
                Slot((self.slots.len() - 1) as u32)
            }
        };
        if let Some(place) = self.slots.get_mut(slot.0 as usize) {
            *place = Some(flow);
        }
        self.by_device.insert(by_device, slot);
        self.by_resource.insert(by_resource, slot);
        self.schedule(slot);
        Ok(slot)
    }

    pub(crate) fn remove(&mut self, slot: Slot) -> Option<Flow> {
        let flow = self.slots.get_mut(slot.0 as usize)?.take()?;
        self.by_device.remove(&flow.device_key());
        self.by_resource.remove(&flow.resource_key());
        self.deadlines.remove(&(flow.scheduled, slot));
        self.free.push(slot);
        Some(flow)
    }

    /// Makes the table look at a flow at its deadline. Not needed when the deadline only moved away: the table looks,
    /// and sees that.
    pub(crate) fn schedule(&mut self, slot: Slot) {
        let Some(flow) = self.slots.get_mut(slot.0 as usize).and_then(Option::as_mut) else { return };
        self.deadlines.remove(&(flow.scheduled, slot));
        flow.scheduled = flow.deadline();
        self.deadlines.insert((flow.scheduled, slot));
    }

    /// When to look next.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// The next flow whose deadline has come; those that had moved away are put back.
    pub(crate) fn due(&mut self, now: Duration) -> Option<Slot> {
        loop {
            let (deadline, slot) = *self.deadlines.first()?;
            if deadline > now {
                return None;
            }
            match self.get(slot) {
                Some(flow) if flow.deadline() > now => self.schedule(slot),
                Some(_) => return Some(slot),
                None => {
                    self.deadlines.pop_first();
                }
            }
        }
    }

    /// All places that are in use.
    pub(crate) fn slots(&self) -> Vec<Slot> {
        self.by_device.values().copied().collect()
    }

    /// One of several real addresses, the same for every packet of a flow, and after a restart too.
    pub(crate) fn choose(key: FlowKey, addresses: usize) -> usize {
        match u64::try_from(addresses) {
            Ok(count) if count > 0 => (Seeded(0).hash_one(key) % count) as usize,
            Ok(_) | Err(_) => 0,
        }
    }
}
