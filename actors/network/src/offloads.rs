//! What a lane's edge lets the kernel do to many packets at once: what was asked for, and what it came to.

use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use crate::lane_tun::LaneTun;
use crate::lane_udp::LaneSockets;
use crate::tun_open::Offload;

/// The offload of a lane's edge, as it is asked for or as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offloads {
    /// Of the TUN device.
    pub tun: Offload,
    /// Whether one call may send several datagrams (UDP GSO).
    pub gso: bool,
    /// Whether one call may receive several datagrams as one (UDP GRO).
    pub gro: bool,
}

impl Offloads {
    /// Everything that this crate can use, with what is not wanted left out.
    pub fn wanted(tun: bool, gso: bool, gro: bool) -> Self {
        Self { tun: if tun { Offload::TcpUdp } else { Offload::Off }, gso, gro }
    }

    /// What the kernel granted.
    pub fn granted(sockets: &LaneSockets, tun: &LaneTun) -> Self {
        Self {
            tun: tun.offload(),
            gso: sockets.iter().all(|socket| socket.max_segments() > 1),
            gro: sockets.iter().all(|socket| socket.receives_runs()),
        }
    }

    /// The same for people and programs.
    pub fn report(self) -> OffloadReport {
        let tun = match self.tun {
            Offload::Off => "off",
            Offload::Tcp => "tcp",
            Offload::TcpUdp => "tcp-udp",
        };
        OffloadReport { tun: tun.to_owned(), udp_gso: self.gso, udp_gro: self.gro }
    }
}

/// What the kernel granted, as soon as a lane has found out.
pub type GrantedOffloads = Arc<OnceLock<Offloads>>;

/// [`Offloads`] in a status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffloadReport {
    /// `off`, `tcp` or `tcp-udp`.
    pub tun: String,
    /// Whether one call sends several datagrams.
    pub udp_gso: bool,
    /// Whether one call receives several datagrams.
    pub udp_gro: bool,
}

impl OffloadReport {
    /// In a few words.
    pub fn words(&self) -> String {
        let switch = |on: bool| if on { "on" } else { "off" };
        format!("TUN {}, UDP GSO {}, UDP GRO {}", self.tun, switch(self.udp_gso), switch(self.udp_gro))
    }
}
