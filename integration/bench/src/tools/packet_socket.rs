//! A socket on an interface that takes and gives whole frames, super-packets included.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    libc,
    sys::socket::{setsockopt, sockopt},
};

/// Room for bursts: frames wait here while the other direction is served.
const BUFFER: usize = 128 << 20;

/// It, bound.
pub struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// Opens one that sees what arrives on an interface, with a virtio header before each frame.
    pub fn open(interface: &str) -> Result<Self> {
        let index = nix::net::if_::if_nametoindex(interface)
            .with_context(|| format!("there is no interface {interface}"))?;
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: socket(2) takes no pointers.
        #[allow(unsafe_code)]
        let descriptor = unsafe {
            libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0)
        };
        if descriptor < 0 {
            return Err(io::Error::last_os_error()).context("a packet socket needs root");
        }
        // SAFETY: the descriptor was just made, and nobody else has it.
        #[allow(unsafe_code)]
        let socket = Self(unsafe { OwnedFd::from_raw_fd(descriptor) });
        socket.set(libc::PACKET_VNET_HDR, 1).context("the kernel gives no virtio headers here")?;
        socket.set(libc::PACKET_IGNORE_OUTGOING, 1)?;
        setsockopt(&socket.0, sockopt::RcvBufForce, &BUFFER)?;
        setsockopt(&socket.0, sockopt::SndBufForce, &BUFFER)?;
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: protocol,
            sll_ifindex: index as i32,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the address lives until the call returns, and its length is its own.
        #[allow(unsafe_code)]
        let done = unsafe { libc::bind(socket.0.as_raw_fd(), (&raw const address).cast(), length) };
        if done != 0 {
            return Err(io::Error::last_os_error()).with_context(|| format!("cannot bind to {interface}"));
        }
        Ok(socket)
    }

    fn set(&self, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
        let length = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: the value lives until the call returns, and its length is its own.
        #[allow(unsafe_code)]
        let done = unsafe {
            libc::setsockopt(self.0.as_raw_fd(), libc::SOL_PACKET, option, (&raw const value).cast(), length)
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Takes a frame; `None` when there is none.
    pub fn take(&self, into: &mut [u8]) -> io::Result<Option<usize>> {
        match nix::unistd::read(&self.0, into) {
            Ok(length) => Ok(Some(length)),
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives a frame.
    pub fn give(&self, frame: &[u8]) -> io::Result<()> {
        nix::unistd::write(&self.0, frame).map(|_| ()).map_err(io::Error::from)
    }
}

/// Sleeps until a frame has arrived on either, or until the time is over.
pub fn wait(one: &PacketSocket, other: &PacketSocket, time: Option<Duration>) -> io::Result<()> {
    let polled =
        |socket: &PacketSocket| libc::pollfd { fd: socket.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let mut both = [polled(one), polled(other)];
    let time = time.map(|time| libc::timespec {
        tv_sec: time.as_secs() as libc::time_t,
        tv_nsec: time.subsec_nanos().into(),
    });
    let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: both descriptors are open, the array has two elements, and array and time live until the call returns.
    #[allow(unsafe_code)]
    let done = unsafe { libc::ppoll(both.as_mut_ptr(), 2, time, std::ptr::null()) };
    let error = io::Error::last_os_error();
    if done < 0 && error.kind() != io::ErrorKind::Interrupted { Err(error) } else { Ok(()) }
}
