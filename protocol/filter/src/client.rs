//! A client's table: which peer serves which destination, and what is to be done where none does.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use protocol_identity::ResourceId;
use protocol_packet::{Headers, IcmpKind, Ip, Quoted, TcpFlags, Transport};

use crate::peer::refusal;
use crate::table::Index;
use crate::{Reason, ReplyBuf, Service, TrafficFilter};

/// Which of the client's peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerSlot(pub u32);

/// What is known about access to a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nobody has asked yet.
    Unknown,
    /// Asked for; packets wait.
    Pending,
    /// Through this peer.
    Granted(PeerSlot),
    /// Refused; packets are refused at once until `again`, and the next one after that asks anew.
    Denied {
        /// When to ask anew, on the machine's clock.
        again: Duration,
    },
}

/// What to do with a packet of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Outward {
    /// Send it to this peer.
    ToPeer {
        /// The peer.
        peer: PeerSlot,
        /// The packet's own length, bytes.
        length: usize,
    },
    /// Ask for access (and set [`Access::Pending`]); the packet may wait.
    AskAccess(ResourceId),
    /// Access has been asked for; the packet may wait.
    Wait(ResourceId),
    /// Count it as dropped, and give what is in the reply buffer back to the host.
    Refuse(Reason),
    /// Count it as dropped.
    Drop(Reason),
}

#[derive(Debug, Clone)]
struct Entry {
    resource: ResourceId,
    prefixes: Vec<IpNet>,
    filters: Vec<TrafficFilter>,
    access: Access,
    /// The peer that serves it, or served it last: it may still tell of ends.
    served_by: Option<PeerSlot>,
}

/// The resources that a client knows, by destination.
#[derive(Debug, Clone, Default)]
pub struct ClientTable {
    inner: Vec<IpAddr>,
    entries: Vec<Entry>,
    places: HashMap<ResourceId, usize>,
    index: Index,
}

impl ClientTable {
    /// A table without resources, for the device with these inner addresses.
    pub fn new(inner: Vec<IpAddr>) -> Self {
        Self { inner, ..Self::default() }
    }

    /// Replaces the device's own inner addresses.
    pub fn set_inner(&mut self, inner: Vec<IpAddr>) {
        self.inner = inner;
    }

    /// Adds a resource, or replaces its prefixes and filters; what is known about access stays. Names have the
    /// prefixes of their mapped addresses.
    pub fn put(&mut self, resource: ResourceId, prefixes: Vec<IpNet>, filters: Vec<TrafficFilter>) {
        self.put_all([(resource, prefixes, filters)]);
    }

    /// [`Self::put`] for many at once, which costs little more than for one.
    pub fn put_all(&mut self, all: impl IntoIterator<Item = (ResourceId, Vec<IpNet>, Vec<TrafficFilter>)>) {
        for (resource, prefixes, filters) in all {
            match self.entry(resource) {
                Some(entry) => (entry.prefixes, entry.filters) = (prefixes, filters),
                None => {
                    let access = Access::Unknown;
                    self.places.insert(resource, self.entries.len());
                    self.entries.push(Entry { resource, prefixes, filters, access, served_by: None });
                }
            }
        }
        self.rebuild();
    }

    fn entry(&mut self, resource: ResourceId) -> Option<&mut Entry> {
        self.places.get(&resource).and_then(|at| self.entries.get_mut(*at))
    }

    /// Removes a resource.
    pub fn remove(&mut self, resource: ResourceId) {
        self.retain(|kept| kept != resource);
    }

    /// Keeps only the resources for which `keep` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(ResourceId) -> bool) {
        self.entries.retain(|entry| keep(entry.resource));
        self.places = self.entries.iter().enumerate().map(|(at, entry)| (entry.resource, at)).collect();
        self.rebuild();
    }

    /// Sets what is known about access; `false` when there is no such resource.
    pub fn set(&mut self, resource: ResourceId, access: Access) -> bool {
        let Some(entry) = self.entry(resource) else { return false };
        entry.access = access;
        if let Access::Granted(peer) = access {
            entry.served_by = Some(peer);
        }
        true
    }

    /// What is known about access to a resource.
    pub fn access(&self, resource: ResourceId) -> Option<Access> {
        self.places.get(&resource).and_then(|at| self.entries.get(*at)).map(|entry| entry.access)
    }

    /// A peer is gone: what it served is unknown again.
    pub fn forget_peer(&mut self, peer: PeerSlot) {
        for entry in &mut self.entries {
            if entry.access == Access::Granted(peer) {
                entry.access = Access::Unknown;
            }
            if entry.served_by == Some(peer) {
                entry.served_by = None;
            }
        }
    }

    fn rebuild(&mut self) {
        let prefixes = self.entries.iter().enumerate();
        let prefixes = prefixes.flat_map(|(at, entry)| entry.prefixes.iter().map(move |net| (*net, at)));
        self.index = Index::new(prefixes);
    }

    /// The resources at an address, longest prefix first.
    fn at(&self, address: IpAddr) -> impl Iterator<Item = &Entry> {
        self.index.lookup(address).iter().filter_map(|at| self.entries.get(*at))
    }

    /// Decides about a packet of the host.
    pub fn outward(&self, packet: &[u8], now: Duration, out: &mut ReplyBuf) -> Outward {
        let headers = match Ip::parse(packet) {
            Ok(ip) => *ip.headers(),
            Err(malformed) => return Outward::Drop(Reason::Malformed(malformed)),
        };
        if !self.inner.contains(&headers.source) {
            return Outward::Drop(Reason::SpoofedSource);
        }
        let service = match headers.transport {
            Transport::Tcp(tcp) => Service::Tcp(tcp.destination),
            Transport::Udp(udp) => Service::Udp(udp.destination),
            Transport::Icmp(icmp) => match icmp.kind {
                IcmpKind::EchoRequest { .. } => Service::Icmp,
                IcmpKind::Error => return self.error_outward(packet, &headers),
                IcmpKind::EchoReply { .. } | IcmpKind::Other => return Outward::Drop(Reason::NotCarried),
            },
            Transport::Other(_) => return refuse(packet, &headers, Reason::NotCarried, out),
        };
        let length = headers.total_len;
        let mut nearest = Reason::NoResource;
        for entry in self.at(headers.destination) {
            if !TrafficFilter::any(&entry.filters, service) {
                nearest = nearest.or_nearer(Reason::Filtered);
                continue;
            }
            match entry.access {
                Access::Granted(peer) => return Outward::ToPeer { peer, length },
                Access::Pending => return Outward::Wait(entry.resource),
                Access::Unknown => return Outward::AskAccess(entry.resource),
                Access::Denied { again } if again <= now => return Outward::AskAccess(entry.resource),
                // A wider resource may still be granted.
                Access::Denied { .. } => nearest = nearest.or_nearer(Reason::Denied),
            }
        }
        refuse(packet, &headers, nearest, out)
    }

    /// An ICMP error of the host about a packet from a resource.
    fn error_outward(&self, packet: &[u8], headers: &Headers) -> Outward {
        let quote = match headers.quote(packet) {
            Ok(quote) => quote,
            Err(malformed) => return Outward::Drop(Reason::Malformed(malformed)),
        };
        let service = match quote.quoted {
            Quoted::Tcp { source, .. } => Service::Tcp(source),
            Quoted::Udp { source, .. } => Service::Udp(source),
            Quoted::EchoReply { .. } => Service::Icmp,
            Quoted::EchoRequest { .. } => return Outward::Drop(Reason::UnknownQuote),
        };
        if quote.source != headers.destination || quote.destination != headers.source {
            return Outward::Drop(Reason::UnknownQuote);
        }
        let peer = self.at(quote.source).find_map(|entry| match entry.access {
            Access::Granted(peer) if TrafficFilter::any(&entry.filters, service) => Some(peer),
            Access::Granted(_) | Access::Pending | Access::Unknown | Access::Denied { .. } => None,
        });
        match peer {
            Some(peer) => Outward::ToPeer { peer, length: headers.total_len },
            None => Outward::Drop(Reason::UnknownQuote),
        }
    }

    /// Checks a packet from a peer; returns its own length, bytes.
    ///
    /// A peer speaks for the destinations that are granted through it. After a grant has ended, its last peer may still
    /// send a RST or an ICMP error, so that connections end instead of hanging.
    ///
    /// # Errors
    /// Why it is dropped.
    pub fn inward(&self, packet: &[u8], from: PeerSlot) -> Result<usize, Reason> {
        let ip = Ip::parse(packet).map_err(Reason::Malformed)?;
        let headers = ip.headers();
        if !self.inner.contains(&headers.destination) {
            return Err(Reason::NotForPeer);
        }
        let (service, is_end) = match headers.transport {
            Transport::Tcp(tcp) => (Service::Tcp(tcp.source), tcp.flags.has(TcpFlags::RST)),
            Transport::Udp(udp) => (Service::Udp(udp.source), false),
            Transport::Icmp(icmp) => match icmp.kind {
                IcmpKind::EchoReply { .. } => (Service::Icmp, false),
                IcmpKind::Error => (quoted_service(packet, headers)?, true),
                IcmpKind::EchoRequest { .. } | IcmpKind::Other => return Err(Reason::NotCarried),
            },
            Transport::Other(_) => return Err(Reason::NotCarried),
        };
        let speaks = |entry: &Entry| {
            let serves = entry.access == Access::Granted(from) && TrafficFilter::any(&entry.filters, service);
            serves || is_end && entry.served_by == Some(from)
        };
        if self.at(headers.source).any(speaks) { Ok(headers.total_len) } else { Err(Reason::WrongPeer) }
    }
}

/// What the packet asked for that an ICMP error quotes: one of ours, to whom the error seems to come from.
fn quoted_service(packet: &[u8], headers: &Headers) -> Result<Service, Reason> {
    let quote = headers.quote(packet).map_err(Reason::Malformed)?;
    if quote.source != headers.destination || quote.destination != headers.source {
        return Err(Reason::UnknownQuote);
    }
    match quote.quoted {
        Quoted::Tcp { destination, .. } => Ok(Service::Tcp(destination)),
        Quoted::Udp { destination, .. } => Ok(Service::Udp(destination)),
        Quoted::EchoRequest { .. } => Ok(Service::Icmp),
        Quoted::EchoReply { .. } => Err(Reason::UnknownQuote),
    }
}

fn refuse(packet: &[u8], headers: &Headers, reason: Reason, out: &mut ReplyBuf) -> Outward {
    if out.write(|out| refusal(out, packet, headers)) {
        Outward::Refuse(reason)
    } else {
        Outward::Drop(reason)
    }
}
