//! What the network answers to what a relayed socket has sent: ICMP errors, out of the socket's error queue (ip(7),
//! `IP_RECVERR`).

#![allow(unsafe_code)]

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};

use protocol_stun::relay::IcmpError;

use crate::options;

/// Room for the control messages of one error: `sock_extended_err`, the offender's address, and a time stamp.
const CONTROL: usize = 256;
/// Bytes of the packet that caused the error; they are not looked at.
const QUOTED: usize = 64;

/// Has the kernel keep ICMP errors for [`next`]. Without it they are not reported; the socket works.
pub(crate) fn enable(socket: BorrowedFd<'_>, is_ipv4: bool) -> io::Result<()> {
    let (level, option) =
        if is_ipv4 { (libc::IPPROTO_IP, libc::IP_RECVERR) } else { (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) };
    options::set(socket, level, option, 1)
}

/// The next error, and the peer to whom the packet went that caused it. `Ok(None)`: an error that did not come by ICMP.
///
/// # Errors
/// `WouldBlock` when there is none.
pub(crate) fn next(socket: BorrowedFd<'_>) -> io::Result<Option<(SocketAddr, IcmpError)>> {
    let mut name = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut quoted = [0u8; QUOTED];
    let mut control = Control([0; CONTROL]);
    let mut vector = libc::iovec { iov_base: quoted.as_mut_ptr().cast(), iov_len: quoted.len() };
    // SAFETY: all bits zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_name = name.as_mut_ptr().cast();
    message.msg_namelen = libc::socklen_t::try_from(size_of::<libc::sockaddr_storage>()).unwrap_or(0);
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL;
    // SAFETY: every pointer in `message` points to memory of the length beside it that outlives the call.
    let received = unsafe {
        libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT)
    };
    if received < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed before the call, so every byte is initialised whatever the kernel wrote.
    let Some(peer) = address(unsafe { name.assume_init_ref() }) else { return Ok(None) };
    let filled = control.0.get(..message.msg_controllen.min(CONTROL)).unwrap_or_default();
    Ok(extended(filled).map(|error| (protocol_stun::plain(peer), error)))
}

#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// `struct sock_extended_err` out of control messages (cmsg(3)): errno, origin, type, code, padding, info.
fn extended(mut control: &[u8]) -> Option<IcmpError> {
    const HEADER: usize = size_of::<libc::cmsghdr>();
    while let Some((header, rest)) = control.split_at_checked(HEADER) {
        let length = usize::from_ne_bytes(*header.first_chunk()?);
        let level = i32::from_ne_bytes(*header.get(8..)?.first_chunk()?);
        let kind = i32::from_ne_bytes(*header.get(12..)?.first_chunk()?);
        let data = rest.get(..length.checked_sub(HEADER)?)?;
        let is_error = matches!(
            (level, kind),
            (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
        );
        if let (true, [_, _, _, _, origin, icmp, code, _, i0, i1, i2, i3, ..]) = (is_error, data) {
            let by_icmp = matches!(*origin, libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6);
            let info = u32::from_ne_bytes([*i0, *i1, *i2, *i3]);
            return by_icmp.then_some(IcmpError { kind: *icmp, code: *code, data: info });
        }
        control = rest.get(data.len().next_multiple_of(size_of::<usize>())..)?;
    }
    None
}

fn address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that it is a sockaddr_in, which is shorter and no stricter in its alignment.
            let v4 = unsafe { &*std::ptr::from_ref(storage).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddr::new(IpAddr::V4(ip), u16::from_be(v4.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that it is a sockaddr_in6, which is shorter and no stricter in its alignment.
            let v6 = unsafe { &*std::ptr::from_ref(storage).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddr::new(IpAddr::V6(ip), u16::from_be(v6.sin6_port)))
        }
        _ => None,
    }
}
