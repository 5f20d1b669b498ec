//! Packets: validated views of IP, TCP, UDP and ICMP; checksums; rewriting in place; replies; pooled buffers.
//!
//! Everything here treats its input as hostile: what is malformed is refused with a [`Malformed`] whose name is a
//! counter, and no input panics. Nothing allocates, except a pool that has to grow.
//!
//! ```
//! use protocol_packet::{Ip, Malformed};
//!
//! assert_eq!(Ip::parse(&[0x45]).unwrap_err(), Malformed::Truncated);
//! ```

#![forbid(unsafe_code)]

mod batch;
mod build;
mod checksum;
mod cut;
mod ecn;
mod icmp;
mod ip;
mod malformed;
mod mss;
mod pool;
mod quote;
mod refuse;
mod rewrite;
mod transport;

pub use batch::{BATCH, Batch, Batches, IntoIter};
pub use build::{NotBuilt, TcpSegment, echo_reply, echo_request, tcp, udp};
pub use checksum::{Sum, update, update_partial};
pub use cut::TcpPieces;
pub use ecn::{CongestionLoss, Ecn, carry_ecn};
pub use icmp::{Icmp, IcmpKind};
pub use ip::{Headers, Ip, Transport, Version};
pub use malformed::Malformed;
pub use mss::{clamp_mss, clamp_syn};
pub use pool::{Buffer, Detached, Pool};
pub use quote::{Quote, Quoted};
pub use refuse::{IcmpError, icmp_error, reset, reset_for};
pub use rewrite::{Checksum, NotRewritten, Rewrite};
pub use transport::{Tcp, TcpFlags, Udp};

/// Protocol numbers (IANA) that are carried.
pub mod protocol {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
}

/// One input for a fuzz target: parses, and runs everything that takes a packet over it.
pub fn fuzz_ip(input: &[u8]) {
    let Ok(ip) = Ip::parse(input) else { return };
    let headers = *ip.headers();
    let mut copy = ip.bytes().to_vec();
    let mut reply = [0u8; 1500];
    let _ = reset_for(&mut reply, &headers);
    for error in [IcmpError::Prohibited, IcmpError::PortUnreachable, IcmpError::TooBig { mtu: 1280 }] {
        if let Ok(length) = icmp_error(&mut reply, ip.bytes(), &headers, error, headers.destination)
            && let Some(written) = reply.get(..length)
        {
            debug_assert!(Ip::parse(written).is_ok(), "we made a packet that we would refuse");
        }
    }
    let _ = echo_reply(&mut reply, &ip);
    if let Some(mut pieces) = TcpPieces::new(&headers, 600) {
        while let Some(length) = pieces.next_into(ip.bytes(), &mut reply) {
            let piece = reply.get(..length).unwrap_or_default();
            debug_assert!(length <= 600 && Ip::parse(piece).is_ok(), "we cut a piece that we would refuse");
        }
    }
    let _ = carry_ecn(&mut copy, Ecn::Ce);
    for checksum in [Checksum::Full, Checksum::Partial] {
        clamp_mss(&mut copy, &headers, 1220, checksum);
        let change = Rewrite {
            source: Some(headers.destination),
            destination: Some(headers.source),
            source_port: Some(1),
            destination_port: Some(2),
        };
        if let Ok(quote) = headers.quote(&copy) {
            let _ = quote.rewrite(&mut copy, &headers, &change, checksum);
        }
        let _ = headers.rewrite(&mut copy, &change, checksum);
        debug_assert!(Ip::parse(&copy).is_ok(), "rewriting broke a packet");
    }
}
