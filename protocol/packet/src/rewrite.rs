//! Rewriting of addresses and ports in place, with every checksum that covers them.

use std::net::IpAddr;

use crate::checksum::{Sum, update, update_partial};
use crate::{Headers, IcmpKind, Transport, Version, protocol};

/// The state of the transport checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksum {
    /// Covers the whole packet, or is absent (UDP).
    #[default]
    Full,
    /// Holds the pseudo-header's sum only (`VIRTIO_NET_HDR_F_NEEDS_CSUM`): whoever sends the packet completes it.
    Partial,
}

/// What to change. `None` leaves a field as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rewrite {
    /// New source address, of the packet's family.
    pub source: Option<IpAddr>,
    /// New destination address, of the packet's family.
    pub destination: Option<IpAddr>,
    /// New source port; the identifier of an echo request.
    pub source_port: Option<u16>,
    /// New destination port; the identifier of an echo reply.
    pub destination_port: Option<u16>,
}

impl Rewrite {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Why a packet was not rewritten. Its bytes are as they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotRewritten {
    /// The new address is of the other IP version.
    #[error("the new address is of the other IP version")]
    Family,
    /// The bytes are not those that the headers were read from.
    #[error("the packet is shorter than its headers")]
    Truncated,
}

/// Which 16-bit fields hold a packet's ports: offsets from the start of its transport header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ports {
    /// TCP or UDP.
    Both,
    /// The identifier of an echo request.
    RequestId,
    /// The identifier of an echo reply.
    ReplyId,
    /// No ports.
    None,
}

/// Where things are in a packet, or in a quoted one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub version: Version,
    pub protocol: u8,
    /// Start of the IP header.
    pub at: usize,
    /// Start of the transport header.
    pub transport: usize,
    pub ports: Ports,
}

impl Layout {
    fn addresses(&self) -> (usize, usize) {
        match self.version {
            Version::V4 => (self.at + 12, 4),
            Version::V6 => (self.at + 8, 16),
        }
    }

    /// Offset of the transport checksum, and whether it covers the addresses.
    fn checksum(&self) -> Option<(usize, bool)> {
        match self.protocol {
            protocol::TCP => Some((self.transport + 16, true)),
            protocol::UDP => Some((self.transport + 6, true)),
            protocol::ICMP => Some((self.transport + 2, false)),
            protocol::ICMPV6 => Some((self.transport + 2, true)),
            _ => None,
        }
    }

    /// Rewrites; a checksum that a quote cut off is not missed.
    pub(crate) fn rewrite(
        &self,
        packet: &mut [u8],
        change: &Rewrite,
        checksum: Checksum,
    ) -> Result<(), NotRewritten> {
        let (at, len) = self.addresses();
        let addresses = at..at + 2 * len;
        if packet.len() < self.transport + 8 || packet.len() < addresses.end {
            return Err(NotRewritten::Truncated);
        }
        let fits = |address: Option<IpAddr>| {
            address.is_none_or(|address| address.is_ipv4() == (self.version == Version::V4))
        };
        if !fits(change.source) || !fits(change.destination) {
            return Err(NotRewritten::Family);
        }

        let old_addresses = sum_of(packet, addresses.clone());
        put_address(packet, at, change.source);
        put_address(packet, at + len, change.destination);
        let new_addresses = sum_of(packet, addresses);
        if self.version == Version::V4 {
            change_word(packet, self.at + 10, |sum| update(sum, old_addresses, new_addresses));
        }

        let (source, destination) = match self.ports {
            Ports::Both => (Some(self.transport), Some(self.transport + 2)),
            Ports::RequestId => (Some(self.transport + 4), None),
            Ports::ReplyId => (None, Some(self.transport + 4)),
            Ports::None => (None, None),
        };
        let ports = self.transport..self.transport + 8;
        let old_ports = port_sum(packet, ports.clone(), self.ports);
        put_port(packet, source, change.source_port);
        put_port(packet, destination, change.destination_port);
        let new_ports = port_sum(packet, ports, self.ports);

        let Some((field, covers_addresses)) = self.checksum() else { return Ok(()) };
        let (old, new) = if covers_addresses {
            (old_addresses.and(old_ports), new_addresses.and(new_ports))
        } else {
            (old_ports, new_ports)
        };
        change_word(packet, field, |sum| match checksum {
            Checksum::Full if self.protocol == protocol::UDP && sum == 0 => 0,
            Checksum::Full => match update(sum, old, new) {
                0 if self.protocol == protocol::UDP => 0xffff,
                updated => updated,
            },
            Checksum::Partial if covers_addresses => update_partial(sum, old_addresses, new_addresses),
            Checksum::Partial => sum,
        });
        Ok(())
    }
}

impl Headers {
    /// Where this packet's fields are.
    pub(crate) fn layout(&self) -> Layout {
        let ports = match self.transport {
            Transport::Tcp(_) | Transport::Udp(_) => Ports::Both,
            Transport::Icmp(icmp) => match icmp.kind {
                IcmpKind::EchoRequest { .. } => Ports::RequestId,
                IcmpKind::EchoReply { .. } => Ports::ReplyId,
                IcmpKind::Error | IcmpKind::Other => Ports::None,
            },
            Transport::Other(_) => Ports::None,
        };
        Layout {
            version: self.version,
            protocol: self.protocol(),
            at: 0,
            transport: self.ip_header_len,
            ports,
        }
    }

    /// Rewrites the packet that these headers were read from, and fixes its checksums incrementally: a packet that
    /// was damaged stays damaged. The headers themselves are not changed.
    ///
    /// # Errors
    /// An address of the other family, or not the packet of these headers.
    pub fn rewrite(
        &self,
        packet: &mut [u8],
        change: &Rewrite,
        checksum: Checksum,
    ) -> Result<(), NotRewritten> {
        if change.is_empty() {
            return Ok(());
        }
        self.layout().rewrite(packet, change, checksum)
    }
}

/// The sum of a range; of nothing when the range is outside.
pub(crate) fn sum_of(packet: &[u8], range: std::ops::Range<usize>) -> Sum {
    Sum::new().bytes(packet.get(range).unwrap_or_default())
}

fn port_sum(packet: &[u8], header: std::ops::Range<usize>, ports: Ports) -> Sum {
    let start = header.start;
    match ports {
        Ports::Both => sum_of(packet, start..start + 4),
        Ports::RequestId | Ports::ReplyId => sum_of(packet, start + 4..start + 6),
        Ports::None => Sum::new(),
    }
}

fn put_address(packet: &mut [u8], at: usize, address: Option<IpAddr>) {
    match address {
        Some(IpAddr::V4(v4)) => put(packet, at, &v4.octets()),
        Some(IpAddr::V6(v6)) => put(packet, at, &v6.octets()),
        None => {}
    }
}

fn put_port(packet: &mut [u8], at: Option<usize>, port: Option<u16>) {
    if let (Some(at), Some(port)) = (at, port) {
        put(packet, at, &port.to_be_bytes());
    }
}

fn put(packet: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = packet.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// Changes the 16-bit word at `at`, if there is one.
pub(crate) fn change_word(packet: &mut [u8], at: usize, change: impl FnOnce(u16) -> u16) {
    if let Some(word) = packet.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<2>()) {
        *word = change(u16::from_be_bytes(*word)).to_be_bytes();
    }
}
