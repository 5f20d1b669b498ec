//! A UDP socket of the relay: reads runs of datagrams (GRO), sends runs of them (GSO) out of scattered memory.
//!
//! A relay needs what a node's socket does not: the answer must leave from the address that the request came to, also on a
//! host with several; a header is put before each segment on one way and left out on the other, without copying; and
//! thousands of sockets share one piece of memory to read into.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use futures_util::Stream;
use protocol_stun::relay::IcmpError;
use socket2::{Domain, MsgHdr, Protocol, SockAddr, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::gather::Segments;
use crate::options;
use crate::receive::{self, Arrived, CALL, Scratch};

/// Asked for in each direction: 4 MiB hold 20 ms at 1.6 Gbit/s, longer than a lane may be away.
pub const SOCKET_BUFFER: usize = 4 << 20;

/// Most runs of one receive call while they are long ones: what is read stays in the processor's cache until it is sent.
const CALL_OF_MANY: usize = 8;
/// Fewest that are asked for: one more than there are tells that nothing is left.
const CALL_AT_LEAST: usize = 4;
/// Errors of the network taken in one turn.
const ERRORS: usize = 16;
/// `UDP_MAX_SEGMENTS` of kernels before 6.9; later ones take more.
pub(crate) const MAX_SEGMENTS: usize = 64;
/// The longest payload of one send: 65,535 less the IPv4 and UDP headers.
pub(crate) const MAX_PAYLOAD: usize = 65_507;

/// `SK_MEMINFO_DROPS` of `linux/sock_diag.h`.
const MEMINFO_DROPS: usize = 8;
/// A system call a second for each busy socket.
const OVERFLOW_INTERVAL: Duration = Duration::from_secs(1);

/// What a send is: where to, from which of our addresses, with which ECN bits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Envelope {
    pub(crate) to: SocketAddr,
    /// `None`: the socket has only one.
    pub(crate) from: Option<IpAddr>,
    pub(crate) ecn: u8,
}

/// One socket. Belongs to a lane, not to an actor: a restarted actor goes on with it.
pub struct RelaySocket {
    socket: AsyncFd<Socket>,
    local: SocketAddr,
    segments: Cell<usize>,
    /// Runs that the next receive call asks for.
    appetite: Cell<usize>,
    /// Whether errors are left that nothing wakes us for.
    left: Cell<bool>,
    reader: RefCell<Option<Waker>>,
    closed: Cell<bool>,
    /// What the kernel had dropped when it was last asked, and when that was.
    overflow: Cell<(u32, Duration)>,
}

impl RelaySocket {
    /// Opens a socket on `local` with buffers of `buffer` bytes (the kernel may give less). Inside a lane's event loop.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(local: SocketAddr, buffer: usize) -> io::Result<Rc<Self>> {
        let socket = Socket::new(
            Domain::for_address(local),
            Type::DGRAM.nonblocking().cloexec(),
            Some(Protocol::UDP),
        )?;
        if local.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // A smaller buffer than asked for loses packets in bursts, and works.
        let _ = (socket.set_recv_buffer_size(buffer), socket.set_send_buffer_size(buffer));
        receive::prepare(&socket, local)?;
        socket.bind(&local.into())?;
        let bound = socket.local_addr()?.as_socket().unwrap_or(local);
        Ok(Rc::new(Self {
            socket: register(socket)?,
            local: bound,
            segments: Cell::new(MAX_SEGMENTS),
            appetite: Cell::new(CALL_AT_LEAST),
            left: Cell::default(),
            reader: RefCell::default(),
            closed: Cell::default(),
            overflow: Cell::default(),
        }))
    }

    /// Has errors of the network kept for [`Self::errors`]; when there is one, the socket is readable.
    pub(crate) fn keep_errors(&self) {
        let socket = self.socket.as_fd();
        let kept = crate::icmp::enable(socket, self.local.is_ipv4())
            .and_then(|()| options::set(socket, libc::SOL_SOCKET, libc::SO_SELECT_ERR_QUEUE, 1));
        if let Err(error) = kept {
            tracing::debug!(%error, "ICMP errors are not reported");
        }
    }

    /// Takes the errors of the network that are there; if they are many, some of them, and the rest is another item of
    /// [`Self::readable`].
    pub(crate) fn errors(&self, mut each: impl FnMut(SocketAddr, IcmpError)) {
        for _ in 0..ERRORS {
            match crate::icmp::next(self.socket.as_fd()) {
                Ok(Some((peer, error))) => each(peer, error),
                Ok(None) => {}
                Err(_) => return,
            }
        }
        self.left.set(true);
    }

    /// The address that it is bound to.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Bytes of receive buffer that the kernel gave (it doubles what it is asked for).
    pub fn receive_buffer(&self) -> usize {
        self.socket.get_ref().recv_buffer_size().unwrap_or(0)
    }

    /// Datagrams that the kernel dropped, because the buffer was full, since this was last asked; at most once a second.
    pub(crate) fn overflowed(&self, now: Duration) -> u64 {
        let (before, asked) = self.overflow.get();
        if now < asked + OVERFLOW_INTERVAL {
            return 0;
        }
        let dropped = dropped_by_kernel(self.socket.get_ref()).unwrap_or(before);
        self.overflow.set((dropped, now));
        u64::from(dropped.wrapping_sub(before))
    }

    /// Ends the stream of [`Self::readable`]; the descriptor goes with the last owner.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// An item whenever there may be something to read.
    pub(crate) fn readable(self: &Rc<Self>) -> Readable {
        Readable(Rc::clone(self))
    }

    /// One receive call; `each` sees the runs in order. `false`: nothing was there to read, so if something is, it is an
    /// error of the network.
    ///
    /// # Errors
    /// What the kernel says; the socket is as good as before.
    pub(crate) fn receive(
        &self,
        scratch: &mut Scratch,
        mut each: impl FnMut(Arrived<'_>),
    ) -> io::Result<bool> {
        let asked = self.appetite.get();
        let (mut got, mut runs_are_long) = (0, false);
        let outcome = self.socket.try_io(Interest::READABLE, |socket| {
            got = receive::receive(socket.as_fd(), scratch, asked, |arrived| {
                runs_are_long |= arrived.bytes.len() > arrived.stride;
                each(arrived);
            })?;
            // What comes after this call makes the socket readable anew.
            if got < asked { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        if got > 0 {
            let most = if runs_are_long { CALL_OF_MANY } else { CALL };
            self.appetite.set((2 * got).clamp(CALL_AT_LEAST, most));
            return Ok(true);
        }
        match outcome {
            Ok(()) => Ok(false),
            // Of the network: its answer to something sent earlier. No packet is lost by it.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock || is_of_the_network(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// The reason to count it under.
    pub(crate) fn send(&self, envelope: Envelope, bytes: &[u8]) -> Result<(), &'static str> {
        self.message(envelope, &[IoSlice::new(bytes)], None).map_err(|error| blame(&error))
    }

    /// Sends datagrams, at most [`MAX_SEGMENTS`] and [`MAX_PAYLOAD`] bytes. Gives the number that did not leave, and why
    /// the last of these did not.
    pub(crate) fn send_segments(
        &self,
        envelope: Envelope,
        what: Segments<'_>,
    ) -> Result<(), (u64, &'static str)> {
        let Segments { parts, each, segment, bytes: _ } = what;
        let count = parts.len() / each.max(1);
        if count > 1
            && count <= self.segments.get()
            && let Ok(segment) = u16::try_from(segment)
        {
            match self.message(envelope, parts, Some(segment)) {
                Ok(()) => return Ok(()),
                Err(error) if !blames_segmentation(&error) => return Err((count as u64, blame(&error))),
                Err(_) => {}
            }
        }
        let mut lost = (0, "");
        for datagram in parts.chunks(each.max(1)) {
            if let Err(error) = self.message(envelope, datagram, None) {
                lost = (lost.0 + 1, blame(&error));
            }
        }
        if lost.0 > 0 {
            return Err(lost);
        }
        if count > 1 && count <= self.segments.get() {
            // Each went by itself, so it was the cutting that the host refused.
            self.segments.set(1);
        }
        Ok(())
    }

    fn message(&self, envelope: Envelope, parts: &[IoSlice<'_>], segment: Option<u16>) -> io::Result<()> {
        let to = SockAddr::from(envelope.to);
        let control = Control::of(envelope, segment);
        let mut message = MsgHdr::new().with_addr(&to).with_buffers(parts);
        if !control.filled().is_empty() {
            message = message.with_control(control.filled());
        }
        let mut again = true;
        loop {
            let sent = self.socket.get_ref().sendmsg(&message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
            match sent {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // It may be the network's answer to an earlier one, told at this occasion instead of sending.
                Err(error) if again && is_of_the_network(&error) => again = false,
                Err(error) => return Err(error),
            }
        }
    }
}

/// Has the event loop watch a socket.
#[allow(unsafe_code)]
fn register(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // Errors are urgent data to poll(2), see `keep_errors`.
    let interest = Interest::READABLE | Interest::PRIORITY;
    // SAFETY: a `Socket` owns its descriptor and has the same as long as it lives; the `AsyncFd` owns the socket.
    Ok(unsafe { AsyncFd::register_with_interest(socket, interest) }?)
}

#[cfg(test)]
impl RelaySocket {
    /// Whether packets leave with DF set, so that DONT-FRAGMENT is honoured for all of them.
    #[allow(unsafe_code)]
    pub(crate) fn forbids_fragments(&self) -> bool {
        let mut value: libc::c_int = -1;
        let mut length = 4;
        // SAFETY: the descriptor is open, and `value` has the four bytes that `length` says.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::IPPROTO_IP,
                libc::IP_MTU_DISCOVER,
                (&raw mut value).cast(),
                &raw mut length,
            )
        };
        result == 0 && matches!(value, libc::IP_PMTUDISC_DO | libc::IP_PMTUDISC_PROBE)
    }
}

/// Datagrams that the kernel ever dropped before this socket.
#[allow(unsafe_code)]
fn dropped_by_kernel(socket: &Socket) -> Option<u32> {
    let mut info = [0u32; MEMINFO_DROPS + 1];
    let mut length = libc::socklen_t::try_from(size_of_val(&info)).ok()?;
    // SAFETY: the descriptor is open while `socket` is borrowed; the kernel writes at most `length` bytes into `info`, which
    // is that long, and every bit pattern is a u32.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    (result == 0).then(|| info.get(MEMINFO_DROPS).copied()).flatten()
}

/// See [`RelaySocket::readable`].
pub(crate) struct Readable(Rc<RelaySocket>);

impl Stream for Readable {
    type Item = ();

    fn poll_next(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<()>> {
        let socket = &self.0;
        if socket.closed.get() {
            return Poll::Ready(None);
        }
        match &mut *socket.reader.borrow_mut() {
            Some(reader) => reader.clone_from(task.waker()),
            none => *none = Some(task.waker().clone()),
        }
        if socket.left.take() {
            return Poll::Ready(Some(()));
        }
        // An error here is the end of the event loop.
        Poll::Ready(ready!(socket.socket.poll_read_ready(task)).is_ok().then_some(()))
    }
}

const ALIGN: usize = size_of::<usize>();
const HEADER: usize = size_of::<libc::cmsghdr>().next_multiple_of(ALIGN);

/// The control messages of one send (cmsg(3)): ECN, segment size, source address; the longest is `in6_pktinfo`.
#[repr(C, align(8))]
struct Control {
    bytes: [u8; 3 * (HEADER + 24)],
    length: usize,
}

impl Control {
    fn of(envelope: Envelope, segment: Option<u16>) -> Self {
        let mut control = Self { bytes: [0; 3 * (HEADER + 24)], length: 0 };
        if envelope.ecn != 0 {
            let bits = i32::from(envelope.ecn & 0b11).to_ne_bytes();
            match envelope.to {
                SocketAddr::V4(_) => control.push(libc::IPPROTO_IP, libc::IP_TOS, &bits),
                SocketAddr::V6(_) => control.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &bits),
            }
        }
        if let Some(segment) = segment {
            control.push(libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
        }
        match envelope.from {
            // in_pktinfo: interface (0 for any), source, and a field that is ignored on sending (ip(7)).
            Some(IpAddr::V4(from)) => {
                let mut info = [0u8; 12];
                for (to, from) in info.iter_mut().skip(4).zip(from.octets()) {
                    *to = from;
                }
                control.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            // in6_pktinfo: source, then interface (RFC 3542 §6.1).
            Some(IpAddr::V6(from)) => {
                let mut info = [0u8; 20];
                for (to, from) in info.iter_mut().zip(from.octets()) {
                    *to = from;
                }
                control.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
            None => {}
        }
        control
    }

    fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let start = self.length;
        let length = (HEADER + data.len()).to_ne_bytes();
        let header = length.into_iter().chain(level.to_ne_bytes()).chain(kind.to_ne_bytes());
        for (to, from) in self.bytes.iter_mut().skip(start).zip(header) {
            *to = from;
        }
        for (to, from) in self.bytes.iter_mut().skip(start + HEADER).zip(data) {
            *to = *from;
        }
        self.length = start + HEADER + data.len().next_multiple_of(ALIGN);
    }

    fn filled(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// Whether the kernel or the interface may have refused the cutting rather than the datagrams.
fn blames_segmentation(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EIO | libc::EMSGSIZE | libc::EOPNOTSUPP))
}

/// What the kernel makes of ICMP errors (icmp(7), `icmp_err_convert`).
fn is_of_the_network(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNREFUSED
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::ENOPROTOOPT
                | libc::EOPNOTSUPP
                | libc::EMSGSIZE
                | libc::EPROTO
                | libc::EACCES
        )
    )
}

fn blame(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => "udp_send_full",
        Some(libc::EMSGSIZE) => "udp_too_big",
        Some(
            libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN | libc::EHOSTDOWN | libc::EADDRNOTAVAIL,
        ) => "udp_unreachable",
        Some(libc::ECONNREFUSED) => "udp_refused",
        Some(libc::EPERM | libc::EACCES) => "udp_forbidden",
        _ => "udp_send_failed",
    }
}

/// The source to name when answering: only a socket on the unspecified address has a choice.
pub(crate) fn source(socket: &RelaySocket, local: IpAddr) -> Option<IpAddr> {
    let unspecified = socket.local.ip().is_unspecified();
    (unspecified && !local.is_unspecified() && local != IpAddr::V4(Ipv4Addr::BROADCAST)).then_some(local)
}
