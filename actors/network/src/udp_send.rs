//! The system-call edge of sending: one `sendmsg` for up to 64 datagrams (UDP GSO, Linux 4.18).
//!
//! quinn-udp receives for us, but its send half turns GSO off for the whole socket after one `EINVAL`, which a single
//! peer with an oversized segment can provoke, and it takes one contiguous slice only. So sending is done here.

use std::io::{self, IoSlice};
use std::net::SocketAddr;

use socket2::{MsgHdr, SockAddr, SockRef};

use crate::drops::EdgeDrop;

/// `UDP_MAX_SEGMENTS` of kernels before 6.9; later ones take more.
pub(crate) const MAX_SEGMENTS: usize = 64;

/// The longest payload of one send: 65,535 less the IPv4 and UDP headers. IPv6 could carry 20 more.
pub(crate) const MAX_PAYLOAD: usize = 65_507;

const ALIGN: usize = size_of::<usize>();
const HEADER: usize = size_of::<libc::cmsghdr>().next_multiple_of(ALIGN);

/// Room for two control messages of at most 8 bytes each.
#[repr(C, align(8))]
struct Control {
    bytes: [u8; 2 * (HEADER + 8)],
}

impl Control {
    fn new() -> (Self, usize) {
        (Self { bytes: [0; 2 * (HEADER + 8)] }, 0)
    }

    /// Appends one control message (cmsg(3)); the next one starts aligned.
    fn push<const N: usize>(&mut self, at: &mut usize, level: i32, kind: i32, data: [u8; N]) {
        let start = *at;
        let (length, level, kind) = ((HEADER + N).to_ne_bytes(), level.to_ne_bytes(), kind.to_ne_bytes());
        let message = length.into_iter().chain(level).chain(kind);
        for (to, from) in self.bytes.iter_mut().skip(start).zip(message) {
            *to = from;
        }
        for (to, from) in self.bytes.iter_mut().skip(start + HEADER).zip(data) {
            *to = from;
        }
        *at = start + HEADER + N.next_multiple_of(ALIGN);
    }
}

/// Sends the concatenation of `parts` as datagrams of `segment` bytes (the last may be shorter), or as one.
pub(crate) fn send_message(
    socket: SockRef<'_>,
    to: SocketAddr,
    parts: &[IoSlice<'_>],
    segment: Option<u16>,
    ecn: u8,
) -> io::Result<()> {
    let address = SockAddr::from(to);
    let (mut control, mut length) = Control::new();
    if ecn != 0 {
        let mark = i32::from(ecn & 0b11).to_ne_bytes();
        match to {
            SocketAddr::V4(_) => control.push(&mut length, libc::IPPROTO_IP, libc::IP_TOS, mark),
            SocketAddr::V6(_) => control.push(&mut length, libc::IPPROTO_IPV6, libc::IPV6_TCLASS, mark),
        }
    }
    if let Some(segment) = segment {
        control.push(&mut length, libc::SOL_UDP, libc::UDP_SEGMENT, segment.to_ne_bytes());
    }
    let mut message = MsgHdr::new().with_addr(&address).with_buffers(parts);
    if let (Some(control), true) = (control.bytes.get(..length), length > 0) {
        message = message.with_control(control);
    }
    loop {
        match socket.sendmsg(&message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether the kernel or the interface may have refused the segmentation rather than the datagrams.
pub(crate) fn blames_segmentation(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EIO | libc::EMSGSIZE | libc::EOPNOTSUPP))
}

/// The counter that a failed send belongs to.
pub(crate) fn blame(error: &io::Error) -> EdgeDrop {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => EdgeDrop::UdpSendFull,
        Some(libc::EMSGSIZE) => EdgeDrop::UdpTooBig,
        Some(
            libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN | libc::EHOSTDOWN | libc::EADDRNOTAVAIL,
        ) => EdgeDrop::UdpUnreachable,
        Some(libc::ECONNREFUSED) => EdgeDrop::UdpRefused,
        Some(libc::EPERM | libc::EACCES) => EdgeDrop::UdpForbidden,
        _ => EdgeDrop::UdpSendFailed,
    }
}
