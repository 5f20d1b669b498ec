//! One receive call for many datagrams (recvmmsg(2)), and what the kernel says of each.
//!
//! Ours, because a relay opens a socket for each allocation: what a general library finds out and asks for at every socket
//! costs more system calls than the rest of an allocation, and time stamps that nobody reads cost with each packet.

#![allow(unsafe_code)]

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;

use socket2::Socket;

use crate::options;

/// Most runs of one call. Sparse traffic of many clients comes one datagram a run.
pub(crate) const CALL: usize = 32;
/// The largest GRO buffer.
const BUFFER: usize = 1 << 16;
/// Room for the control messages of one run: ECN, segment size, destination; of IPv6 they take 88 bytes.
const CONTROL: usize = 96;
const ALIGN: usize = size_of::<usize>();
const HEADER: usize = size_of::<libc::cmsghdr>().next_multiple_of(ALIGN);

/// The memory that a lane's sockets are read into.
pub(crate) struct Scratch(Box<[u8]>);

impl Scratch {
    pub(crate) fn new() -> Self {
        Self(vec![0; CALL * BUFFER].into_boxed_slice())
    }
}

/// Datagrams that arrived together from one source: each `stride` bytes long, the last may be shorter.
pub(crate) struct Arrived<'a> {
    pub(crate) from: SocketAddr,
    /// The address of ours that they came to; only of sockets that have more than one.
    pub(crate) local: Option<IpAddr>,
    pub(crate) ecn: u8,
    pub(crate) bytes: &'a [u8],
    pub(crate) stride: usize,
}

/// Asks for what [`receive`] looks at. Datagrams that leave are not fragmented, whatever the path's MTU is thought to be.
pub(crate) fn prepare(socket: &Socket, local: SocketAddr) -> io::Result<()> {
    let set = |level, option, value| options::set(socket.as_fd(), level, option, value);
    let choice = i32::from(local.ip().is_unspecified());
    if local.is_ipv4() {
        set(libc::IPPROTO_IP, libc::IP_RECVTOS, 1)?;
        set(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)?;
        set(libc::IPPROTO_IP, libc::IP_PKTINFO, choice)?;
    } else {
        set(libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
        set(libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)?;
        set(libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 1)?;
        set(libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, choice)?;
    }
    // Without it every datagram comes by itself, and works.
    let _ = set(libc::SOL_UDP, libc::UDP_GRO, 1);
    Ok(())
}

/// Takes what waits, at most `most` runs. Gives how many there were; `each` saw them in order.
///
/// # Errors
/// What the kernel says; `WouldBlock` when there was nothing.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    scratch: &mut Scratch,
    most: usize,
    mut each: impl FnMut(Arrived<'_>),
) -> io::Result<usize> {
    let mut names = [const { MaybeUninit::<Name>::uninit() }; CALL];
    let mut controls = [const { MaybeUninit::<Control>::uninit() }; CALL];
    let mut vectors = [const { MaybeUninit::<libc::iovec>::uninit() }; CALL];
    let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; CALL];
    let places = names.iter_mut().zip(&mut controls).zip(&mut vectors).zip(&mut headers);
    let mut asked = 0;
    for ((((name, control), vector), header), buffer) in
        places.zip(scratch.0.chunks_exact_mut(BUFFER)).take(most)
    {
        // SAFETY: all bits zero is a valid mmsghdr.
        let header = &mut header.write(unsafe { MaybeUninit::zeroed().assume_init() }).msg_hdr;
        header.msg_name = ptr::from_mut(name.write(Name([0; NAME]))).cast();
        header.msg_namelen = NAME as libc::socklen_t;
        header.msg_iov =
            vector.write(libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() });
        header.msg_iovlen = 1;
        header.msg_control = ptr::from_mut(control.write(Control([0; CONTROL]))).cast();
        header.msg_controllen = CONTROL;
        asked += 1;
    }
    let count = loop {
        // SAFETY: the first `asked` headers are filled in, and every pointer in them is to memory of the length beside it
        // that outlives the call and that nothing else refers to.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr().cast(),
                asked,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        match usize::try_from(received) {
            Ok(count) => break count,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    };
    let filled = headers.iter().zip(&names).zip(&controls).zip(scratch.0.chunks_exact(BUFFER));
    for (((header, name), control), buffer) in filled.take(count) {
        // SAFETY: the kernel fills at most as many as it was asked for, and those were initialised before.
        let (header, name, control) =
            unsafe { (header.assume_init_ref(), name.assume_init_ref(), control.assume_init_ref()) };
        // A source of another family cannot be: sockets of IPv6 are for nothing else.
        let Some(from) = name.address() else { continue };
        let told = control.told(header.msg_hdr.msg_controllen);
        let bytes = buffer.get(..header.msg_len as usize).unwrap_or_default();
        each(Arrived {
            from: protocol_stun::plain(from),
            local: told.local,
            ecn: told.ecn,
            bytes,
            stride: told.segment.unwrap_or(bytes.len()).max(1),
        });
    }
    Ok(count)
}

/// `sizeof(struct sockaddr_in6)`; that of IPv4 is shorter.
const NAME: usize = 28;

/// A socket address as the kernel writes it.
#[repr(C, align(8))]
struct Name([u8; NAME]);

impl Name {
    fn address(&self) -> Option<SocketAddr> {
        let bytes = &self.0;
        let port = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
        match i32::from(u16::from_ne_bytes(*bytes.first_chunk()?)) {
            libc::AF_INET => {
                let ip: [u8; 4] = *bytes.get(4..)?.first_chunk()?;
                Some(SocketAddr::new(Ipv4Addr::from(ip).into(), port))
            }
            libc::AF_INET6 => {
                let ip: [u8; 16] = *bytes.get(8..)?.first_chunk()?;
                let scope = u32::from_ne_bytes(*bytes.get(24..)?.first_chunk()?);
                Some(SocketAddrV6::new(ip.into(), port, 0, scope).into())
            }
            _ => None,
        }
    }
}

/// Control messages as the kernel writes them (cmsg(3)).
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// What they say.
#[derive(Default)]
struct Told {
    segment: Option<usize>,
    ecn: u8,
    local: Option<IpAddr>,
}

impl Control {
    fn told(&self, length: usize) -> Told {
        let mut told = Told::default();
        let mut rest = self.0.get(..length.min(CONTROL)).unwrap_or_default();
        while let Some((level, kind, data, next)) = message(rest) {
            match (level, kind) {
                (libc::IPPROTO_IP, libc::IP_TOS) => told.ecn = data.first().map_or(0, |tos| tos & 0b11),
                // An int, as all of IPv6.
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    told.ecn = number(data).map_or(0, |class| (class & 0b11) as u8);
                }
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    told.segment = number(data).and_then(|size| usize::try_from(size).ok());
                }
                // in_pktinfo: interface, the address that it came in by, and the one in the header.
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let ip: Option<&[u8; 4]> = data.get(8..).and_then(|data| data.first_chunk());
                    told.local = ip.map(|ip| Ipv4Addr::from(*ip).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    told.local = data.first_chunk::<16>().map(|ip| Ipv6Addr::from(*ip).into());
                }
                _ => {}
            }
            rest = next;
        }
        told
    }
}

fn number(data: &[u8]) -> Option<i32> {
    data.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes))
}

/// Level, kind and data of the first one, and those behind it.
fn message(control: &[u8]) -> Option<(i32, i32, &[u8], &[u8])> {
    let (header, rest) = control.split_at_checked(HEADER)?;
    let length = usize::from_ne_bytes(*header.first_chunk()?);
    let level = i32::from_ne_bytes(*header.get(ALIGN..)?.first_chunk()?);
    let kind = i32::from_ne_bytes(*header.get(ALIGN + 4..)?.first_chunk()?);
    let data = rest.get(..length.checked_sub(HEADER)?)?;
    let next = rest.get(data.len().next_multiple_of(ALIGN)..).unwrap_or_default();
    Some((level, kind, data, next))
}

#[cfg(test)]
mod tests {
    use socket2::{Domain, SockAddr, Type};

    use super::*;

    fn socket(local: &str) -> (Socket, SocketAddr) {
        let local: SocketAddr = local.parse().unwrap();
        let socket = Socket::new(Domain::for_address(local), Type::DGRAM.nonblocking(), None).unwrap();
        prepare(&socket, local).unwrap();
        socket.bind(&local.into()).unwrap();
        let local = socket.local_addr().unwrap().as_socket().unwrap();
        (socket, local)
    }

    /// Source, destination, ECN, length of segments, bytes.
    type Taken = (SocketAddr, Option<IpAddr>, u8, usize, Vec<u8>);

    fn take(socket: &Socket, most: usize) -> Vec<Taken> {
        let mut got = Vec::new();
        let each = |a: Arrived<'_>| got.push((a.from, a.local, a.ecn, a.stride, a.bytes.to_vec()));
        let count = receive(socket.as_fd(), &mut Scratch::new(), most, each).unwrap();
        assert_eq!(count, got.len());
        got
    }

    #[test]
    fn many_datagrams_come_in_one_call_and_no_more_than_asked_for() {
        let ((sender, from), (socket, to)) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
        for n in 0..10u8 {
            sender.send_to(&vec![n; 1 + usize::from(n)], &to.into()).unwrap();
        }

        let first = take(&socket, 4);
        let then = take(&socket, CALL);

        assert_eq!((first.len(), then.len()), (4, 6));
        for (n, (source, local, ecn, stride, bytes)) in first.into_iter().chain(then).enumerate() {
            assert_eq!((source, local, ecn, stride), (from, None, 0, n + 1));
            assert_eq!(bytes, vec![n as u8; n + 1]);
        }
        let nothing = receive(socket.as_fd(), &mut Scratch::new(), CALL, |_| unreachable!());
        assert_eq!(nothing.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_socket_with_a_choice_is_told_where_to_and_every_one_of_congestion() {
        for (listen, to, from) in [("0.0.0.0:0", "127.0.0.2", "127.0.0.1:0"), ("[::]:0", "::1", "[::1]:0")] {
            let ((socket, local), (sender, from)) = (socket(listen), socket(from));
            let to = SocketAddr::new(to.parse().unwrap(), local.port());
            if to.is_ipv4() {
                sender.set_tos_v4(0b11).unwrap();
            } else {
                options::set(sender.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_TCLASS, 0b11).unwrap();
            }

            sender.send_to(b"hello", &SockAddr::from(to)).unwrap();

            assert_eq!(take(&socket, CALL), [(from, Some(to.ip()), 0b11, 5, b"hello".to_vec())]);
        }
    }

    #[test]
    fn what_was_sent_in_one_piece_comes_in_one_piece_with_the_size_of_its_segments() {
        let ((sender, from), (socket, to)) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
        options::set(sender.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 100).unwrap();

        sender.send_to(&[7; 250], &to.into()).unwrap();

        assert_eq!(take(&socket, CALL), [(from, None, 0, 100, vec![7; 250])]);
    }
}
