//! Who is at the other end of a Unix socket, by what the kernel noted when it connected.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::sys::socket::{getsockopt, sockopt};

/// `asm-generic/socket.h`; libc does not export it everywhere.
const SO_PEERGROUPS: libc::c_int = 59;
/// Groups looked at. A user of more is let in by the first ones only.
const MOST_GROUPS: usize = 1024;

/// The kernel's word on a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl Peer {
    pub(crate) fn of(stream: &impl AsFd) -> io::Result<Self> {
        let credentials = getsockopt(&stream.as_fd(), sockopt::PeerCredentials)?;
        Ok(Self { uid: credentials.uid(), gid: credentials.gid(), groups: groups(stream)? })
    }
}

/// The supplementary groups that the caller had when it connected.
#[allow(unsafe_code)]
fn groups(stream: &impl AsFd) -> io::Result<Vec<u32>> {
    let mut groups = vec![0u32; MOST_GROUPS];
    let mut length = libc::socklen_t::try_from(size_of::<u32>() * MOST_GROUPS).unwrap_or(0);
    // SAFETY: the descriptor is open while `stream` is borrowed; the kernel writes at most `length` bytes into `groups`,
    // which is that long, and every bit pattern is a u32.
    let result = unsafe {
        libc::getsockopt(
            stream.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        let error = io::Error::last_os_error();
        // Too many groups to look at: none, and the user or the primary group decides.
        return if error.raw_os_error() == Some(libc::ERANGE) { Ok(Vec::new()) } else { Err(error) };
    }
    groups.truncate(length as usize / size_of::<u32>());
    Ok(groups)
}

/// Who may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gate {
    owner: u32,
    group: u32,
}

impl Gate {
    /// As the socket's file says.
    pub(crate) fn of(socket: &Path) -> io::Result<Self> {
        let file = std::fs::metadata(socket)?;
        Ok(Self { owner: nix::unistd::geteuid().as_raw(), group: file.gid() })
    }

    pub(crate) fn admits(self, peer: &Peer) -> bool {
        peer.uid == 0 || peer.uid == self.owner || peer.gid == self.group || peer.groups.contains(&self.group)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn peer(uid: u32, gid: u32, groups: &[u32]) -> Peer {
        Peer { uid, gid, groups: groups.to_vec() }
    }

    #[test]
    fn root_the_owner_and_the_group_are_admitted_and_nobody_else() {
        let gate = Gate { owner: 500, group: 600 };

        assert!(gate.admits(&peer(0, 0, &[])));
        assert!(gate.admits(&peer(500, 1, &[])));
        assert!(gate.admits(&peer(1000, 600, &[])));
        assert!(gate.admits(&peer(1000, 1000, &[27, 600])));
        assert!(!gate.admits(&peer(1000, 1000, &[27, 500])));
    }

    #[test]
    fn the_kernel_tells_who_calls() {
        let (here, _there) = UnixStream::pair().unwrap();

        let peer = Peer::of(&here).unwrap();

        assert_eq!(peer.uid, nix::unistd::geteuid().as_raw());
        let mut own = nix::unistd::getgroups().unwrap().iter().map(|gid| gid.as_raw()).collect::<Vec<_>>();
        let mut told = peer.groups;
        own.sort_unstable();
        told.sort_unstable();
        assert_eq!(told, own);
    }
}
