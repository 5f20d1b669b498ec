//! Emptying the connection table over netlink, because the `conntrack` program is on few machines.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result, bail};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, socket,
};

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE` (linux/netfilter/nfnetlink_conntrack.h).
const DELETE_CONNECTIONS: u16 = 1 << 8 | 2;
/// `NLM_F_REQUEST | NLM_F_ACK` (linux/netlink.h).
const REQUEST_WITH_ANSWER: u16 = 1 | 4;

pub fn forget_all() -> Result<()> {
    let netlink =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)
            .context("no netlink socket")?;
    bind(netlink.as_raw_fd(), &NetlinkAddr::new(0, 0))?;

    // A delete request without a tuple means all of them, of both families.
    let mut request = Vec::with_capacity(20);
    request.extend_from_slice(&20_u32.to_ne_bytes());
    request.extend_from_slice(&DELETE_CONNECTIONS.to_ne_bytes());
    request.extend_from_slice(&REQUEST_WITH_ANSWER.to_ne_bytes());
    request.extend_from_slice(&1_u32.to_ne_bytes());
    request.extend_from_slice(&0_u32.to_ne_bytes());
    request.extend_from_slice(&[0; 4]);
    sendto(netlink.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;

    let mut answer = [0_u8; 256];
    let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    let code = answer.get(16..20).filter(|_| length >= 20).context("a short answer")?;
    match i32::from_ne_bytes(code.try_into()?) {
        0 => Ok(()),
        error => bail!("the kernel refused: {}", std::io::Error::from_raw_os_error(-error)),
    }
}
