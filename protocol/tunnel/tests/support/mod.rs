//! Two ends of a connection, and what passes between them.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use protocol_identity::{Secret32, WireguardKey};
use protocol_tunnel::{Limiter, Opened, Output, Sealed, Tunnel, TunnelConfig, TunnelIndex};

pub const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
pub const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));

/// Both ends' keys and limiters; makes tunnels of them as often as one restarts.
pub struct Keys {
    pub client: WireguardKey,
    pub gateway: WireguardKey,
    pub preshared: Option<Secret32>,
    pub gateway_limit: u64,
}

impl Keys {
    pub fn new() -> Self {
        Self {
            client: WireguardKey::generate().unwrap(),
            gateway: WireguardKey::generate().unwrap(),
            preshared: Some(Secret32::new([7; 32])),
            gateway_limit: Limiter::DEFAULT_LIMIT,
        }
    }

    pub fn client(&self, now: Duration) -> Tunnel {
        Tunnel::new(self.client_config(), now)
    }

    pub fn gateway(&self, now: Duration) -> Tunnel {
        Tunnel::new(self.gateway_config(), now)
    }

    pub fn client_config(&self) -> TunnelConfig {
        TunnelConfig {
            private: self.client.clone(),
            peer: self.gateway.public(),
            preshared: self.preshared.clone(),
            index: TunnelIndex::new(3, 0),
            limiter: Limiter::new(&self.client.public(), Limiter::DEFAULT_LIMIT),
        }
    }

    pub fn gateway_config(&self) -> TunnelConfig {
        TunnelConfig {
            private: self.gateway.clone(),
            peer: self.client.public(),
            preshared: self.preshared.clone(),
            index: TunnelIndex::new(0x1234, 5),
            limiter: Limiter::new(&self.gateway.public(), self.gateway_limit),
        }
    }
}

/// An IPv4 packet with `tag` in every byte of its payload.
pub fn packet(tag: u8, payload: usize) -> Vec<u8> {
    let len = 20 + payload;
    let mut packet = vec![tag; len];
    packet[..20].fill(0);
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
    packet[12..16].copy_from_slice(&[100, 64, 0, 1]);
    packet[16..20].copy_from_slice(&[100, 64, 0, 2]);
    packet
}

/// The initiations that the machine wants sent.
pub fn initiations(tunnel: &mut Tunnel) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    while let Some(output) = tunnel.poll_output() {
        match output {
            Output::Initiation(message) => messages.push(message.to_vec()),
            Output::Datagram(_) | Output::Established | Output::Expired => {}
        }
    }
    messages
}

/// One fresh initiation.
pub fn fresh_initiation(tunnel: &mut Tunnel, now: Duration) -> Vec<u8> {
    tunnel.initiate(true, now);
    initiations(tunnel).pop().expect("an initiation was asked for")
}

/// Hands a datagram over; what comes of it, and the reply.
pub fn deliver(to: &mut Tunnel, source: IpAddr, datagram: &[u8], now: Duration) -> (Opened, Vec<u8>) {
    let mut out = [0; 2048];
    let opened = to.open(source, datagram, &mut out, now);
    let len = match opened {
        Opened::Reply { len, .. } | Opened::Packet { len, .. } => len,
        Opened::Keepalive | Opened::Cookie | Opened::Dropped(_) => 0,
    };
    (opened, out[..len].to_vec())
}

/// Seals a packet that must leave at once.
pub fn seal(from: &mut Tunnel, packet: &[u8], now: Duration) -> Vec<u8> {
    let mut out = [0; 2048];
    match from.seal(packet, &mut out, now) {
        Sealed::Datagram(len) => out[..len].to_vec(),
        other => panic!("the packet did not leave: {other:?}"),
    }
}

/// A session between the two, confirmed in both directions.
pub fn connect(client: &mut Tunnel, gateway: &mut Tunnel, now: Duration) {
    let initiation = fresh_initiation(client, now);
    let (_, response) = deliver(gateway, CLIENT, &initiation, now);
    let (_, keepalive) = deliver(client, GATEWAY, &response, now);
    let (opened, _) = deliver(gateway, CLIENT, &keepalive, now);
    assert_eq!(opened, Opened::Keepalive);
    assert!(client.is_established() && gateway.is_established());
}

/// A packet of each end arrives at the other.
pub fn assert_both_ways(client: &mut Tunnel, gateway: &mut Tunnel, now: Duration) {
    let there = packet(1, 100);
    let back = packet(2, 100);

    let datagram = seal(client, &there, now);
    let (opened, received) = deliver(gateway, CLIENT, &datagram, now);
    assert!(matches!(opened, Opened::Packet { .. }), "gateway: {opened:?}");
    assert_eq!(received, there);

    let datagram = seal(gateway, &back, now);
    let (opened, received) = deliver(client, GATEWAY, &datagram, now);
    assert!(matches!(opened, Opened::Packet { .. }), "client: {opened:?}");
    assert_eq!(received, back);
}
