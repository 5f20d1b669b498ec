//! A lane's UDP socket of one address family.
//!
//! The lane owns the descriptor, not the actor that reads it: [`UdpSocket`](crate::UdpSocket) is restarted on the same
//! one, and the peers of the lane send through it directly, without a message and without ever waiting.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use nix::sys::socket::{setsockopt, sockopt};
use quinn_udp::{RecvMeta, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;

use crate::drops::{EdgeDrop, EdgeDrops};
use crate::udp_send::{self, MAX_PAYLOAD, MAX_SEGMENTS};

/// Asked for in each direction: 4 MiB hold 20 ms at 1.6 Gbit/s, which is longer than a lane may be away.
pub const SOCKET_BUFFER: usize = 4 << 20;

/// Bytes of a ChannelData header (RFC 8656 section 12.4).
const CHANNEL_HEADER: usize = 4;

/// What a socket is opened with.
#[derive(Clone, Debug)]
pub struct UdpConfig {
    /// The local address; the unspecified one takes every address of its family. Port 0 lets the kernel choose.
    pub bind: SocketAddr,
    /// Sends and receives on this interface only.
    pub interface: Option<String>,
    /// `SO_MARK`, which keeps the socket out of the tunnel (see [`Routes`](crate::Routes)).
    pub mark: Option<u32>,
    /// Bytes asked for in each direction.
    pub buffer: usize,
    /// Whether one call may send several datagrams (UDP GSO), where the kernel can.
    pub gso: bool,
    /// Whether one call may receive several datagrams as one (UDP GRO), where the kernel can.
    pub gro: bool,
    /// Whether other lanes' sockets have the same address.
    pub sharing: Sharing,
}

/// Whether a socket has its address alone (`SO_REUSEPORT`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// It has.
    #[default]
    Alone,
    /// It is the first of those that share an address, which nobody else may have.
    First,
    /// It is another one.
    Next,
}

impl UdpConfig {
    /// A socket on every IPv4 address.
    pub fn v4(port: u16) -> Self {
        Self::on(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
    }

    /// A socket on every IPv6 address, and on no IPv4 one.
    pub fn v6(port: u16) -> Self {
        Self::on(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
    }

    /// A socket on one address.
    pub fn on(bind: SocketAddr) -> Self {
        Self {
            bind,
            interface: None,
            mark: None,
            buffer: SOCKET_BUFFER,
            gso: true,
            gro: true,
            sharing: Sharing::Alone,
        }
    }

    /// The same with as much offload as this says.
    pub fn offloaded(mut self, gso: bool, gro: bool) -> Self {
        (self.gso, self.gro) = (gso, gro);
        self
    }

    /// The same with `SO_MARK` set.
    pub fn marked(mut self, mark: u32) -> Self {
        self.mark = Some(mark);
        self
    }
}

/// Why a socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenUdpError {
    /// The host has no support for this address family.
    #[error("the host does not speak this address family")]
    NoSuchFamily(#[source] io::Error),
    /// Somebody else has the port.
    #[error("{0} is in use by another process")]
    InUse(SocketAddr, #[source] io::Error),
    /// The address is not one of this host.
    #[error("{0} is not an address of this host")]
    NotOurAddress(SocketAddr, #[source] io::Error),
    /// The process may not do this.
    #[error("not permitted to {0} (CAP_NET_ADMIN or CAP_NET_RAW is needed)")]
    NotPermitted(&'static str, #[source] io::Error),
    /// Anything else the kernel said.
    #[error("cannot {0}")]
    Failed(&'static str, #[source] io::Error),
}

/// What became of a send. Every loss is counted already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Sent {
    /// The kernel has it.
    Yes,
    /// The send buffer is full; the datagrams are lost.
    WouldBlock,
    /// Some or all of the datagrams are lost, for this reason.
    No(EdgeDrop),
}

/// One lane's socket of one family. Not `Send`: share it on its lane as an `Rc`.
pub struct LaneUdp {
    config: UdpConfig,
    drops: Arc<EdgeDrops>,
    bound: RefCell<Rc<Bound>>,
    /// Segments that one call may carry; 1 once the host proved unable to cut them.
    segments: Cell<usize>,
    capped: Cell<Option<usize>>,
    /// Wakes the reader when the socket under it is replaced.
    reader: RefCell<Option<Waker>>,
}

/// An open socket; replaced as a whole when the port changes.
pub(crate) struct Bound {
    socket: tokio::net::UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
    segments: usize,
    gro: bool,
}

impl LaneUdp {
    /// Opens the socket; must be called on the lane, inside its runtime.
    ///
    /// # Errors
    /// See [`OpenUdpError`].
    pub fn open(config: UdpConfig, drops: Arc<EdgeDrops>) -> Result<Rc<Self>, OpenUdpError> {
        let (bound, capped) = Bound::open(&config)?;
        let segments = Cell::new(bound.segments);
        let (bound, capped) = (RefCell::new(Rc::new(bound)), Cell::new(capped));
        Ok(Rc::new(Self { config, drops, bound, segments, capped, reader: RefCell::default() }))
    }

    /// Closes the socket and opens another on `port` (0: any). Senders use the new one at once.
    ///
    /// # Errors
    /// See [`OpenUdpError`]; the old socket stays then.
    pub fn rebind(&self, port: u16) -> Result<SocketAddr, OpenUdpError> {
        let mut config = self.config.clone();
        config.bind.set_port(port);
        let (bound, capped) = Bound::open(&config)?;
        let local = bound.local;
        self.segments.set(bound.segments);
        self.capped.set(capped);
        self.bound.replace(Rc::new(bound));
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Ok(local)
    }

    /// Lets a program of classic BPF choose among the sockets that share this address, in the order in which they were
    /// opened ([`Sharing`]). What it does not decide, the kernel's hash does.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn steer(&self, program: &[[u8; 8]]) -> io::Result<()> {
        steer_sockets(self.bound.borrow().socket.as_raw_fd(), program)
    }

    /// The address and port that the socket has.
    pub fn local_addr(&self) -> SocketAddr {
        self.bound.borrow().local
    }

    /// Bytes of receive buffer that the kernel gave when it gave less than was asked for.
    pub fn buffer_capped(&self) -> Option<usize> {
        self.capped.get()
    }

    /// Datagrams that one call may carry: 1 where the kernel has no UDP GSO.
    pub fn max_segments(&self) -> usize {
        self.segments.get()
    }

    /// Whether one call may receive several datagrams as one.
    pub fn receives_runs(&self) -> bool {
        self.bound.borrow().gro
    }

    /// The counters of this lane's edge.
    pub fn drops(&self) -> &Arc<EdgeDrops> {
        &self.drops
    }

    pub(crate) fn bound(&self) -> Rc<Bound> {
        self.bound.borrow().clone()
    }

    /// Ready when there is something to read on whatever socket this is by then.
    pub(crate) fn poll_readable(&self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self.reader.borrow_mut() {
            Some(reader) => reader.clone_from(task.waker()),
            none => *none = Some(task.waker().clone()),
        }
        self.bound.borrow().socket.poll_recv_ready(task)
    }

    /// Sends `bytes` as datagrams of `segment_size` bytes each (the last may be shorter); 0 sends them as one.
    pub fn send(&self, to: SocketAddr, bytes: &[u8], segment_size: usize) -> Sent {
        self.send_marked(to, bytes, segment_size, 0)
    }

    /// Like [`send`](Self::send), with the two ECN bits of RFC 3168 section 5 in the outer header.
    pub fn send_marked(&self, to: SocketAddr, bytes: &[u8], segment_size: usize, ecn: u8) -> Sent {
        let segment = if segment_size == 0 { bytes.len().max(1) } else { segment_size };
        let per_call = (MAX_PAYLOAD / segment).clamp(1, self.segments.get());
        let mut outcome = Sent::Yes;
        if bytes.is_empty() {
            return worse(outcome, self.call(to, &[], 0, 1, ecn));
        }
        for call in bytes.chunks(segment.saturating_mul(per_call)) {
            outcome = worse(outcome, self.call(to, call, segment, call.len().div_ceil(segment), ecn));
        }
        outcome
    }

    /// Sends one datagram made of `header` and `payload` without copying them together.
    pub fn send_with_header(&self, to: SocketAddr, header: &[u8], payload: &[u8]) -> Sent {
        let parts = [IoSlice::new(header), IoSlice::new(payload)];
        self.counted(self.send_parts(to, &parts, None, 0), 1)
    }

    /// Sends `bytes`, cut into `segment_size`, as ChannelData messages of `channel` (RFC 8656 section 12.4), without
    /// padding, as UDP permits, with these ECN bits in the outer header.
    pub fn send_channel_data(
        &self,
        to: SocketAddr,
        channel: u16,
        bytes: &[u8],
        segment_size: usize,
        ecn: u8,
    ) -> Sent {
        let segment = if segment_size == 0 { bytes.len().max(1) } else { segment_size };
        let framed = segment.saturating_add(CHANNEL_HEADER);
        let Ok(framed_segment) = u16::try_from(framed) else {
            self.drops.add(EdgeDrop::UdpTooBig, bytes.len().div_ceil(segment) as u64);
            return Sent::No(EdgeDrop::UdpTooBig);
        };
        let per_call = (MAX_PAYLOAD / framed).clamp(1, self.segments.get());
        let mut outcome = Sent::Yes;
        for call in bytes.chunks(segment.saturating_mul(per_call)) {
            let whole = channel_header(channel, segment);
            let last = channel_header(channel, (call.len() - 1) % segment + 1);
            let count = call.len().div_ceil(segment);
            let mut parts = [IoSlice::new(&[]); 2 * MAX_SEGMENTS];
            for (n, (pair, bytes)) in parts.chunks_exact_mut(2).zip(call.chunks(segment)).enumerate() {
                let header = if n + 1 == count { &last } else { &whole };
                pair.copy_from_slice(&[IoSlice::new(header), IoSlice::new(bytes)]);
            }
            let parts = parts.get(..2 * count).unwrap_or_default();
            let gso = (count > 1).then_some(framed_segment);
            let sent = match self.send_parts(to, parts, gso, ecn) {
                Err(error) if gso.is_some() && udp_send::blames_segmentation(&error) => {
                    self.one_by_one(parts.chunks(2), to, ecn)
                }
                result => self.counted(result, count),
            };
            outcome = worse(outcome, sent);
        }
        outcome
    }

    fn call(&self, to: SocketAddr, bytes: &[u8], segment: usize, count: usize, ecn: u8) -> Sent {
        let parts = [IoSlice::new(bytes)];
        let gso = if count > 1 { u16::try_from(segment).ok() } else { None };
        match self.send_parts(to, &parts, gso, ecn) {
            Err(error) if gso.is_some() && udp_send::blames_segmentation(&error) => {
                let single: Vec<[IoSlice<'_>; 1]> =
                    bytes.chunks(segment).map(|bytes| [IoSlice::new(bytes)]).collect();
                self.one_by_one(single.iter().map(|one| one.as_slice()), to, ecn)
            }
            result => self.counted(result, count),
        }
    }

    /// The same datagrams without GSO. When all of them go, it was the segmentation that the host refused.
    fn one_by_one<'a>(&self, each: impl Iterator<Item = &'a [IoSlice<'a>]>, to: SocketAddr, ecn: u8) -> Sent {
        let mut outcome = Sent::Yes;
        for parts in each {
            outcome = worse(outcome, self.counted(self.send_parts(to, parts, None, ecn), 1));
        }
        if outcome == Sent::Yes {
            self.segments.set(1);
        }
        outcome
    }

    fn send_parts(&self, to: SocketAddr, parts: &[IoSlice<'_>], gso: Option<u16>, ecn: u8) -> io::Result<()> {
        let bound = self.bound.borrow();
        if to.is_ipv4() != bound.local.is_ipv4() {
            return Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT));
        }
        udp_send::send_message(SockRef::from(&bound.socket), to, parts, gso, ecn)
    }

    fn counted(&self, result: io::Result<()>, datagrams: usize) -> Sent {
        let Err(error) = result else { return Sent::Yes };
        let reason = match error.raw_os_error() {
            Some(libc::EAFNOSUPPORT) => EdgeDrop::UdpNoSocket,
            _ => udp_send::blame(&error),
        };
        self.drops.add(reason, datagrams as u64);
        match reason {
            EdgeDrop::UdpSendFull => Sent::WouldBlock,
            other => Sent::No(other),
        }
    }
}

/// The sockets of a lane, one for each family that the host speaks.
#[derive(Clone)]
pub struct LaneSockets {
    /// The IPv4 socket.
    pub v4: Option<Rc<LaneUdp>>,
    /// The IPv6 socket.
    pub v6: Option<Rc<LaneUdp>>,
    drops: Arc<EdgeDrops>,
}

impl LaneSockets {
    /// The sockets that `v4` and `v6` name. A family that the host does not speak is left out; with neither it fails.
    ///
    /// # Errors
    /// The first error that is not "no such family", or that one when no socket is left.
    pub fn open(
        v4: Option<UdpConfig>,
        v6: Option<UdpConfig>,
        drops: Arc<EdgeDrops>,
    ) -> Result<Self, OpenUdpError> {
        let mut missing = None;
        let mut open = |config: Option<UdpConfig>| match config.map(|c| LaneUdp::open(c, drops.clone())) {
            None => Ok(None),
            Some(Ok(socket)) => Ok(Some(socket)),
            Some(Err(error @ OpenUdpError::NoSuchFamily(_))) => {
                missing = Some(error);
                Ok(None)
            }
            Some(Err(error)) => Err(error),
        };
        let (v4, v6) = (open(v4)?, open(v6)?);
        match missing {
            Some(error) if v4.is_none() && v6.is_none() => Err(error),
            _ => Ok(Self { v4, v6, drops }),
        }
    }

    /// The socket that reaches `to`. The miss is counted.
    pub fn towards(&self, to: SocketAddr) -> Option<&Rc<LaneUdp>> {
        let socket = if to.is_ipv4() { self.v4.as_ref() } else { self.v6.as_ref() };
        if socket.is_none() {
            self.drops.add(EdgeDrop::UdpNoSocket, 1);
        }
        socket
    }

    /// [`LaneUdp::send`] on the socket of the destination's family.
    pub fn send(&self, to: SocketAddr, bytes: &[u8], segment_size: usize) -> Sent {
        self.send_marked(to, bytes, segment_size, 0)
    }

    /// [`LaneUdp::send_marked`] on the socket of the destination's family.
    pub fn send_marked(&self, to: SocketAddr, bytes: &[u8], segment_size: usize, ecn: u8) -> Sent {
        self.towards(to)
            .map_or(Sent::No(EdgeDrop::UdpNoSocket), |udp| udp.send_marked(to, bytes, segment_size, ecn))
    }

    /// [`LaneUdp::send_channel_data`] on the socket of the destination's family.
    pub fn send_channel_data(
        &self,
        to: SocketAddr,
        channel: u16,
        bytes: &[u8],
        segment_size: usize,
        ecn: u8,
    ) -> Sent {
        self.towards(to).map_or(Sent::No(EdgeDrop::UdpNoSocket), |udp| {
            udp.send_channel_data(to, channel, bytes, segment_size, ecn)
        })
    }

    /// [`LaneUdp::send_with_header`] on the socket of the destination's family.
    pub fn send_with_header(&self, to: SocketAddr, header: &[u8], payload: &[u8]) -> Sent {
        self.towards(to)
            .map_or(Sent::No(EdgeDrop::UdpNoSocket), |udp| udp.send_with_header(to, header, payload))
    }

    /// Every socket there is.
    pub fn iter(&self) -> impl Iterator<Item = &Rc<LaneUdp>> {
        self.v4.iter().chain(&self.v6)
    }
}

impl Bound {
    fn open(config: &UdpConfig) -> Result<(Self, Option<usize>), OpenUdpError> {
        let failed = |what| move |error| OpenUdpError::Failed(what, error);
        let domain = Domain::for_address(config.bind);
        let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP)).map_err(
            |error| match error.raw_os_error() {
                Some(libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT) => OpenUdpError::NoSuchFamily(error),
                _ => OpenUdpError::Failed("open a UDP socket", error),
            },
        )?;
        if config.bind.is_ipv6() {
            socket.set_only_v6(true).map_err(failed("keep IPv4 out of the IPv6 socket"))?;
        }
        if let Some(mark) = config.mark {
            socket.set_mark(mark).map_err(|error| refused("mark the socket", error))?;
        }
        if let Some(interface) = &config.interface {
            socket
                .bind_device(Some(interface.as_bytes()))
                .map_err(|error| refused("bind the socket to the interface", error))?;
        }
        let capped = enlarge(&socket, config.buffer);
        if config.sharing == Sharing::First && config.bind.port() != 0 {
            // Sharing would let us in beside another process of the same user.
            take_alone(domain, config.bind)?;
        }
        if config.sharing != Sharing::Alone {
            socket.set_reuse_port(true).map_err(failed("share the port among lanes"))?;
        }
        socket.bind(&config.bind.into()).map_err(|error| match error.raw_os_error() {
            Some(libc::EADDRINUSE) => OpenUdpError::InUse(config.bind, error),
            Some(libc::EADDRNOTAVAIL) if config.bind.ip().is_unspecified() => {
                OpenUdpError::NoSuchFamily(error)
            }
            Some(libc::EADDRNOTAVAIL) => OpenUdpError::NotOurAddress(config.bind, error),
            _ => refused("bind the UDP socket", error),
        })?;
        let state =
            UdpSocketState::new(UdpSockRef::from(&socket)).map_err(failed("set up the UDP socket"))?;
        // quinn-udp 0.6.3 asks for time stamps but has no room for them beside GRO, destination and ECN: the kernel then
        // leaves out the ECN bits. Nobody reads the time stamps.
        setsockopt(&socket, sockopt::ReceiveTimestampns, &false)
            .map_err(|error| OpenUdpError::Failed("set up the UDP socket", error.into()))?;
        let gro = config.gro && state.gro_segments() > 1;
        if !gro {
            // Where the kernel has no such option it is off.
            let _ = setsockopt(&socket, sockopt::UdpGroSegment, &false);
        }
        let segments = if config.gso { state.max_gso_segments().clamp(1, MAX_SEGMENTS) } else { 1 };
        let local = socket.local_addr().map_err(failed("read the socket's address"))?;
        let local = local.as_socket().ok_or_else(|| {
            OpenUdpError::Failed(
                "read the socket's address",
                io::Error::from_raw_os_error(libc::EAFNOSUPPORT),
            )
        })?;
        let socket =
            tokio::net::UdpSocket::from_std(socket.into()).map_err(failed("watch the UDP socket"))?;
        Ok((Self { socket, state, local, segments, gro }, capped))
    }

    /// Reads what is there, one GRO buffer for each of `buffers`.
    pub(crate) fn receive(&self, buffers: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> io::Result<usize> {
        self.socket
            .try_io(Interest::READABLE, || self.state.recv(UdpSockRef::from(&self.socket), buffers, meta))
    }
}

/// The IPv4 form of an IPv4-mapped address; others unchanged.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        IpAddr::V6(_) => address,
    }
}

/// Finds out whether an address is free.
fn take_alone(domain: Domain, bind: SocketAddr) -> Result<(), OpenUdpError> {
    let failed = |error| OpenUdpError::Failed("open a UDP socket", error);
    let socket = Socket::new(domain, Type::DGRAM.cloexec(), Some(Protocol::UDP)).map_err(failed)?;
    if bind.is_ipv6() {
        socket.set_only_v6(true).map_err(failed)?;
    }
    match socket.bind(&bind.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => Err(OpenUdpError::InUse(bind, error)),
        // Any other trouble is met again by the socket that stays.
        Ok(()) | Err(_) => Ok(()),
    }
}

#[allow(unsafe_code)]
fn steer_sockets(fd: RawFd, program: &[[u8; 8]]) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let described = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: an instruction has 8 bytes, the kernel copies `len` of them from `filter` during the call, whatever their
    // alignment, and both the slice and the description live until it returns.
    let result = unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const described).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn channel_header(channel: u16, length: usize) -> [u8; CHANNEL_HEADER] {
    let ([a, b], [c, d]) = (channel.to_be_bytes(), (length as u16).to_be_bytes());
    [a, b, c, d]
}

fn worse(one: Sent, other: Sent) -> Sent {
    if other == Sent::Yes { one } else { other }
}

fn refused(what: &'static str, error: io::Error) -> OpenUdpError {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => OpenUdpError::NotPermitted(what, error),
        _ => OpenUdpError::Failed(what, error),
    }
}

/// Asks for `bytes` in each direction, past the host's limit where the process may, and says what it got if less.
fn enlarge(socket: &Socket, bytes: usize) -> Option<usize> {
    // The kernel doubles the number for its own bookkeeping, and reports the doubled one.
    if setsockopt(socket, sockopt::RcvBufForce, &bytes).is_err() {
        let _ = socket.set_recv_buffer_size(bytes);
    }
    if setsockopt(socket, sockopt::SndBufForce, &bytes).is_err() {
        let _ = socket.set_send_buffer_size(bytes);
    }
    let got = socket.recv_buffer_size().ok()?.min(socket.send_buffer_size().ok()?) / 2;
    (got < bytes).then_some(got)
}
