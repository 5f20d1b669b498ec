//! The system-call edge of opening a TUN device: exclusive, several queues, with or without offload.
//!
//! tokio-tun can neither open exclusively nor ask for `IFF_VNET_HDR`. But the first descriptor decides the flags of the
//! whole device: so a descriptor of ours opens it, tokio-tun attaches its queues to it, and ours is then detached and
//! kept, because closing the last descriptor deletes the device with its addresses and routes.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use tokio_tun::Tun;

nix::ioctl_write_int!(tun_set_iff, b'T', 202);
nix::ioctl_write_int!(tun_set_offload, b'T', 208);
nix::ioctl_write_int!(tun_set_queue, b'T', 217);
// Declared as reading, and it writes: the kernel takes the number of a program.
nix::ioctl_write_ptr_bad!(
    tun_set_steering,
    nix::request_code_read!(b'T', 224, size_of::<libc::c_int>()),
    libc::c_int
);
// The kernel declares the argument as a number and writes a whole ifreq.
nix::ioctl_read_bad!(tun_get_iff, nix::request_code_read!(b'T', 210, size_of::<libc::c_uint>()), libc::ifreq);

const TUN_F_CSUM: libc::c_ulong = 0x01;
const TUN_F_TSO4: libc::c_ulong = 0x02;
const TUN_F_TSO6: libc::c_ulong = 0x04;
const TUN_F_USO4: libc::c_ulong = 0x20;
const TUN_F_USO6: libc::c_ulong = 0x40;

/// Whether the kernel may hand over and take packets of up to 64 KiB that are cut later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offload {
    /// One packet a call, of at most the MTU.
    Off,
    /// Super-packets with a virtio header, TCP only: kernels before 6.2 cannot do UDP.
    Tcp,
    /// Super-packets with a virtio header, TCP and UDP.
    TcpUdp,
}

/// Why the device could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenTunError {
    /// Another process holds a device of this name.
    #[error("device {0} is in use by another process")]
    InUse(String),
    /// The name is empty, too long, or has a slash or a space.
    #[error("{0:?} is no name for a network device: 1 to 15 characters, no slash, no space")]
    BadName(String),
    /// There is no `/dev/net/tun`.
    #[error("there is no /dev/net/tun: load the kernel module tun")]
    NoDriver(#[source] io::Error),
    /// The process may not make network devices.
    #[error("not permitted to make a TUN device: CAP_NET_ADMIN is needed, and access to /dev/net/tun")]
    NotPermitted(#[source] io::Error),
    /// Anything else the kernel said.
    #[error("cannot {0}")]
    Failed(&'static str, #[source] io::Error),
}

/// A device with one queue that is read.
pub(crate) struct OpenTun {
    pub(crate) queue: Tun,
    pub(crate) offload: Offload,
    /// Detached queues, kept so that the device lives as long as this.
    _kept: (Option<File>, Option<Tun>),
}

/// Opens `name` exclusively, with as much offload as the kernel has and `wanted` allows.
pub(crate) fn open(name: &str, wanted: Offload) -> Result<OpenTun, OpenTunError> {
    let plain = |c: char| c.is_ascii_graphic() && c != '/';
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || !name.chars().all(plain) || name.contains('%') {
        return Err(OpenTunError::BadName(name.to_owned()));
    }
    let first = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => OpenTunError::NoDriver(error),
            Some(libc::EPERM | libc::EACCES) => OpenTunError::NotPermitted(error),
            _ => OpenTunError::Failed("open /dev/net/tun", error),
        })?;
    let mut flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_MULTI_QUEUE | libc::IFF_TUN_EXCL;
    if wanted != Offload::Off {
        flags |= libc::IFF_VNET_HDR;
    }
    request(first.as_raw_fd(), name, flags, Call::Attach).map_err(|error| match error.raw_os_error() {
        Some(libc::EBUSY) => OpenTunError::InUse(name.to_owned()),
        Some(libc::EPERM | libc::EACCES) => OpenTunError::NotPermitted(error),
        _ => OpenTunError::Failed("make the TUN device", error),
    })?;
    let offload =
        if wanted == Offload::Off { Offload::Off } else { enable_offload(first.as_raw_fd(), wanted)? };
    let (queue, spare) = attach(name)?;
    // The last queue takes the place of one that is detached: this leaves one that is read, at the first place.
    for unread in [first.as_raw_fd()].into_iter().chain(spare.as_ref().map(AsRawFd::as_raw_fd)) {
        detach(unread)?;
    }
    Ok(OpenTun { queue, offload, _kept: (Some(first), spare) })
}

/// Attaches one more queue, behind the others.
pub(crate) fn join(name: &str, offload: Offload) -> Result<OpenTun, OpenTunError> {
    let (queue, spare) = attach(name)?;
    spare.as_ref().map(AsRawFd::as_raw_fd).map_or(Ok(()), detach)?;
    Ok(OpenTun { queue, offload, _kept: (None, spare) })
}

/// A queue and a spare one: one queue alone would be attached without `IFF_MULTI_QUEUE`, and be refused.
fn attach(name: &str) -> Result<(Tun, Option<Tun>), OpenTunError> {
    let failed = |error| OpenTunError::Failed("attach a queue to the TUN device", error);
    let mut queues =
        Tun::builder().name(name).queues(2).build().map_err(|error| failed(io::Error::other(error)))?;
    let spare = queues.pop();
    match queues.pop() {
        Some(queue) => Ok((queue, spare)),
        None => Err(failed(io::ErrorKind::NotFound.into())),
    }
}

/// The kernel spreads packets over attached queues only: nobody reads this one.
fn detach(unread: RawFd) -> Result<(), OpenTunError> {
    request(unread, "", libc::IFF_DETACH_QUEUE, Call::Queue)
        .map_err(|error| OpenTunError::Failed("detach a queue of the TUN device", error))
}

/// Loads a program of extended BPF and lets it choose the queue of each packet.
pub(crate) fn steer(queue: RawFd, program: &[[u8; 8]]) -> io::Result<()> {
    let program = load(program)?;
    let number = program.as_raw_fd();
    set_steering(queue, &number)
}

/// The part of `union bpf_attr` that loading a program needs (linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct LoadProgram {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TYPE_SOCKET_FILTER: u32 = 1;

#[allow(unsafe_code)]
fn load(program: &[[u8; 8]]) -> io::Result<OwnedFd> {
    let attributes = LoadProgram {
        kind: BPF_PROG_TYPE_SOCKET_FILTER,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        // It calls nothing that asks for a certain one.
        license: c"".as_ptr() as u64,
        ..LoadProgram::default()
    };
    // SAFETY: the kernel reads the attributes, the instructions and the text that they point to during the call only; all
    // of them outlive it.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attributes, size_of::<LoadProgram>())
    };
    let number = RawFd::try_from(result).unwrap_or(-1);
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[allow(unsafe_code)]
fn set_steering(queue: RawFd, program: &RawFd) -> io::Result<()> {
    // SAFETY: the kernel reads one number during the call; both descriptors are open.
    unsafe { tun_set_steering(queue, program) }.map(|_| ()).map_err(io::Error::from)
}

fn enable_offload(fd: RawFd, wanted: Offload) -> Result<Offload, OpenTunError> {
    let tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
    if wanted == Offload::TcpUdp && set_offload(fd, tcp | TUN_F_USO4 | TUN_F_USO6).is_ok() {
        return Ok(Offload::TcpUdp);
    }
    set_offload(fd, tcp).map_err(|error| OpenTunError::Failed("enable offload on the TUN device", error))?;
    Ok(Offload::Tcp)
}

/// Whether the queue still belongs to a device.
#[allow(unsafe_code)]
pub(crate) fn is_attached(fd: RawFd) -> bool {
    // SAFETY: all zeroes is a valid ifreq; the kernel writes it during the call only, and the descriptor is open.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        tun_get_iff(fd, &raw mut request).is_ok()
    }
}

enum Call {
    Attach,
    Queue,
}

#[allow(unsafe_code)]
fn request(fd: RawFd, name: &str, flags: i32, call: Call) -> io::Result<()> {
    // SAFETY: all zeroes is a valid ifreq; the kernel reads it during the call only, and the descriptor is open.
    let result = unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        let argument = &raw const request as libc::c_ulong;
        match call {
            Call::Attach => tun_set_iff(fd, argument),
            Call::Queue => tun_set_queue(fd, argument),
        }
    };
    result.map(|_| ()).map_err(io::Error::from)
}

#[allow(unsafe_code)]
fn set_offload(fd: RawFd, flags: libc::c_ulong) -> io::Result<()> {
    // SAFETY: this request takes a number, no pointer; the descriptor is open.
    unsafe { tun_set_offload(fd, flags) }.map(|_| ()).map_err(io::Error::from)
}
