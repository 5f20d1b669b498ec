//! A lane's queue of the TUN device.
//!
//! The lane owns the descriptor, not the actor that reads it: [`TunDevice`](crate::TunDevice) is restarted on the same
//! one, and the peers of the lane write to the host through it directly, without a message and without ever waiting.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::rc::Rc;
use std::sync::Arc;

use crate::drops::{EdgeDrop, EdgeDrops};
use crate::landing::Run;
use crate::tun_open::{self, Offload, OpenTun, OpenTunError};
use crate::virtio::{self, Header};

/// What the inner packets may measure: 1,500 less IPv6 (40), UDP (8) and WireGuard (32).
pub const TUN_MTU: u16 = 1420;

/// Packets that one super-packet of the host stands for at most: what one UDP send carries once they are sealed.
pub const TUN_SEGMENTS: u32 = (65_507 / (TUN_MTU as usize + 32)) as u32;

/// What a device is opened with.
#[derive(Clone, Debug)]
pub struct TunConfig {
    /// The device's name, at most 15 characters.
    pub name: String,
    /// The most offload to ask for.
    pub offload: Offload,
}

/// What became of a write. Every loss is counted already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Written {
    /// The kernel has it.
    Yes,
    /// The queue is full; the packet is lost.
    WouldBlock,
    /// The packet is lost, for this reason.
    No(EdgeDrop),
}

/// One lane's TUN queue. Not `Send`: share it on its lane as an `Rc`. The device goes with the last handle.
pub struct LaneTun {
    name: String,
    open: OpenTun,
    drops: Arc<EdgeDrops>,
}

impl LaneTun {
    /// Opens the device; must be called on the lane, inside its runtime.
    ///
    /// # Errors
    /// See [`OpenTunError`].
    pub fn open(config: &TunConfig, drops: Arc<EdgeDrops>) -> Result<Rc<Self>, OpenTunError> {
        let open = tun_open::open(&config.name, config.offload)?;
        Ok(Rc::new(Self { name: config.name.clone(), open, drops }))
    }

    /// Attaches another queue to the device that another lane of this process has opened, with the offload that it got;
    /// must be called on the lane, inside its runtime. The queues have the order in which they are attached.
    ///
    /// # Errors
    /// See [`OpenTunError`].
    pub fn join(config: &TunConfig, drops: Arc<EdgeDrops>) -> Result<Rc<Self>, OpenTunError> {
        let open = tun_open::join(&config.name, config.offload)?;
        Ok(Rc::new(Self { name: config.name.clone(), open, drops }))
    }

    /// Lets a program of extended BPF choose among the queues. Without one, the kernel remembers on which queue a flow
    /// was written last.
    ///
    /// # Errors
    /// What the kernel says; without `CAP_BPF` it refuses.
    pub fn steer(&self, program: &[[u8; 8]]) -> io::Result<()> {
        tun_open::steer(self.open.queue.as_raw_fd(), program)
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The offload that the kernel granted.
    pub fn offload(&self) -> Offload {
        self.open.offload
    }

    /// The counters of this lane's edge.
    pub fn drops(&self) -> &Arc<EdgeDrops> {
        &self.drops
    }

    /// Hands one whole IP packet, with correct checksums, to the host.
    pub fn write(&self, packet: &[u8]) -> Written {
        if self.open.offload == Offload::Off {
            return self.call(&[IoSlice::new(packet)], 1);
        }
        self.call(&[IoSlice::new(&Header::plain().encode()), IoSlice::new(packet)], 1)
    }

    /// Hands a run of packets to the host in one call.
    pub fn write_run(&self, run: &mut Run<'_>) -> Written {
        let packets = run.packets();
        if self.open.offload == Offload::Off {
            return self.call(&[IoSlice::new(run.bytes())], packets);
        }
        self.call(&[IoSlice::new(run.with_header())], packets)
    }

    fn call(&self, parts: &[IoSlice<'_>], packets: usize) -> Written {
        let result = loop {
            let result = match parts {
                [one] => nix::unistd::write(self.descriptor(), one),
                several => nix::sys::uio::writev(self.descriptor(), several),
            };
            match result {
                Err(nix::Error::EINTR) => {}
                other => break other,
            }
        };
        let reason = match result {
            Ok(_) => return Written::Yes,
            Err(nix::Error::EAGAIN | nix::Error::ENOBUFS | nix::Error::ENOMEM) => EdgeDrop::TunWriteFull,
            Err(nix::Error::EIO | nix::Error::EBADFD | nix::Error::ENODEV) => EdgeDrop::TunDown,
            Err(nix::Error::EINVAL | nix::Error::EMSGSIZE) => EdgeDrop::TunWriteRefused,
            Err(_) => EdgeDrop::TunWriteFailed,
        };
        self.drops.add(reason, packets as u64);
        if reason == EdgeDrop::TunWriteFull { Written::WouldBlock } else { Written::No(reason) }
    }

    /// Whether the device is still there.
    pub fn exists(&self) -> bool {
        tun_open::is_attached(self.open.queue.as_raw_fd())
    }

    /// Bytes that precede each packet that is read.
    pub(crate) fn header_len(&self) -> usize {
        if self.open.offload == Offload::Off { 0 } else { virtio::LENGTH }
    }

    /// Waits for a packet (preceded by its virtio header when offload is on).
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.open.queue.recv(buffer).await
    }

    /// A packet if there is one.
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.open.queue.try_recv(buffer)
    }

    #[allow(unsafe_code)]
    fn descriptor(&self) -> BorrowedFd<'_> {
        // SAFETY: the queue owns the descriptor and outlives the borrow, which is bound to `self`.
        unsafe { BorrowedFd::borrow_raw(self.open.queue.as_raw_fd()) }
    }
}
