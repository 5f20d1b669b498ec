//! Forgetting connections over netlink, because the `conntrack` program is on few machines.
//!
//! Constants and layouts: linux/netlink.h, linux/netfilter/nfnetlink.h, linux/netfilter/nfnetlink_conntrack.h.

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, socket,
};

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET` and `…_DELETE`.
const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
/// `NLM_F_REQUEST`, `NLM_F_ACK`, `NLM_F_DUMP`.
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
/// `NLMSG_ERROR` (also a success, with code 0) and `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Bytes of `nlmsghdr` and of it with `nfgenmsg`.
const HEADER: usize = 16;
const HEADERS: usize = 20;
/// `CTA_TUPLE_ORIG`, `CTA_TUPLE_PROTO`, `CTA_PROTO_NUM`.
const TUPLE: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const PROTOCOL_NUMBER: u16 = 1;
/// The kernel sets this bit on attributes that hold attributes.
const TYPE_MASK: u16 = 0x3fff;
const UDP: u8 = 17;

/// Forgets every connection of this network namespace, of both families.
pub fn forget_all() -> Result<()> {
    // A delete request without a tuple means all of them.
    let netlink = open()?;
    send(&netlink, DELETE, REQUEST | ACK, 0, &[])?;
    acknowledged(&netlink)
}

/// Forgets the connections of UDP: TCP's go on.
pub fn forget_udp() -> Result<()> {
    let netlink = open()?;
    send(&netlink, GET, REQUEST | DUMP, 0, &[])?;
    let mut found = Vec::new();
    'dump: loop {
        let answer = receive(&netlink)?;
        for message in messages(&answer) {
            match kind_of(message) {
                Some(DONE) => break 'dump,
                Some(ERROR) => bail!("the kernel refused to list connections"),
                _ => found.extend(udp_tuple(message)),
            }
        }
    }
    for (family, tuple) in found {
        send(&netlink, DELETE, REQUEST | ACK, family, &tuple)?;
        // One that ended meanwhile is as good as forgotten.
        let _gone_by_itself = acknowledged(&netlink);
    }
    Ok(())
}

fn open() -> Result<OwnedFd> {
    let protocol = SockProtocol::NetlinkNetFilter;
    let netlink = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol);
    let netlink = netlink.context("no netlink socket")?;
    bind(netlink.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    Ok(netlink)
}

fn send(netlink: &OwnedFd, kind: u16, flags: u16, family: u8, attributes: &[u8]) -> Result<()> {
    let mut request = Vec::with_capacity(HEADERS + attributes.len());
    request.extend_from_slice(&u32::try_from(HEADERS + attributes.len())?.to_ne_bytes());
    request.extend_from_slice(&kind.to_ne_bytes());
    request.extend_from_slice(&flags.to_ne_bytes());
    request.extend_from_slice(&[0; 8]);
    request.extend_from_slice(&[family, 0, 0, 0]);
    request.extend_from_slice(attributes);
    sendto(netlink.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    Ok(())
}

fn receive(netlink: &OwnedFd) -> Result<Vec<u8>> {
    let mut answer = vec![0; 64 * 1024];
    let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    answer.truncate(length);
    Ok(answer)
}

fn acknowledged(netlink: &OwnedFd) -> Result<()> {
    let answer = receive(netlink)?;
    let code = answer.get(HEADER..HEADER + 4).context("a short answer")?;
    match i32::from_ne_bytes(code.try_into()?) {
        0 => Ok(()),
        error => bail!("the kernel refused: {}", std::io::Error::from_raw_os_error(-error)),
    }
}

/// Cuts an answer into messages; each starts with its length.
fn messages(mut answer: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while let Some(length) = answer.first_chunk::<4>().map(|bytes| u32::from_ne_bytes(*bytes) as usize) {
        let Some(message) = answer.get(..length).filter(|_| length >= HEADER) else { break };
        found.push(message);
        answer = answer.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn kind_of(message: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?))
}

/// Attributes as (type, payload, all of its bytes).
fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8], &[u8])> {
    let mut found = Vec::new();
    while let Some(length) = bytes.first_chunk::<2>().map(|bytes| usize::from(u16::from_ne_bytes(*bytes))) {
        let Some(whole) = bytes.get(..length).filter(|_| length >= 4) else { break };
        let kind = u16::from_ne_bytes([whole[2], whole[3]]) & TYPE_MASK;
        found.push((kind, &whole[4..], whole));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// The family and the tuple attribute of a listed connection, when it is UDP.
fn udp_tuple(message: &[u8]) -> Option<(u8, Vec<u8>)> {
    let family = *message.get(HEADER)?;
    let all = attributes(message.get(HEADERS..)?);
    let (_, inside, whole) = all.into_iter().find(|(kind, ..)| *kind == TUPLE)?;
    let parts = attributes(inside);
    let (_, protocol, _) = parts.into_iter().find(|(kind, ..)| *kind == TUPLE_PROTOCOL)?;
    let number = attributes(protocol).into_iter().find(|(kind, ..)| *kind == PROTOCOL_NUMBER)?;
    (number.1.first() == Some(&UDP)).then(|| (family, whole.to_vec()))
}
