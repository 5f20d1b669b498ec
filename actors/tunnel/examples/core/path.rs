//! The whole packet path without sockets, devices and actors: route, wait, cut, seal, open, join, filter.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use actors_network::{HostPacket, Landed, Landing, Offload};
use protocol_filter::{
    Access, ClientTable, Destination, GatewayRules, GrantSpec, GrantVersion, Offload as Carried, Outward,
    PeerFilter, PeerGrants, PeerSlot, ReplyBuf, Verdict,
};
use protocol_identity::{GrantId, PolicyId, ResourceId, WireguardKey};
use protocol_packet::{Pool, TcpFlags, TcpSegment, tcp, udp};
use protocol_queue::FairQueue;
use protocol_tunnel::{Limiter, MIN_BUFFER, Opened, Output, Sealed, Tunnel, TunnelConfig, TunnelIndex};

const DEVICE: &str = "100.64.0.2";
const SERVER: &str = "10.78.0.1";
const NETWORK: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const NOW: Duration = Duration::ZERO;

/// Both ends of a lane, and the sessions between them.
pub struct Core {
    pool: Pool,
    table: ClientTable,
    queue: FairQueue<HostPacket>,
    landing: Landing,
    reply: ReplyBuf,
    sessions: Vec<Session>,
}

struct Session {
    client: Tunnel,
    gateway: Tunnel,
    filter: PeerFilter,
    sealed: Box<[u8]>,
    /// Bytes of `sealed`, and of each datagram there.
    on_the_way: (usize, usize),
}

impl Core {
    /// Two ends with so many sessions, each with a grant, that carry at most `room` bytes at once.
    pub fn new(sessions: u16, room: usize) -> Self {
        let (resource, inner) = (ResourceId::fresh(), vec![DEVICE.parse().unwrap()]);
        let mut table = ClientTable::new(inner.clone());
        table.put(resource, vec!["10.78.0.0/16".parse().unwrap()], Vec::new());
        assert!(table.set(resource, Access::Granted(PeerSlot(0))));
        let session = |slot| {
            let mut filter = PeerFilter::new(inner.clone(), Arc::new(GatewayRules::default()), 1);
            let grant = GrantSpec {
                grant: GrantId::fresh(),
                resource,
                policy: PolicyId::fresh(),
                destination: Destination::Cidr("10.78.0.0/16".parse().unwrap()),
                filters: Vec::new(),
                ends: Duration::MAX,
            };
            let _ = filter.apply(PeerGrants::compile(GrantVersion(1), vec![grant]), NOW);
            let (client, gateway) = session(slot);
            let sealed = vec![0; room].into_boxed_slice();
            Session { client, gateway, filter, sealed, on_the_way: (0, 0) }
        };
        Self {
            pool: Pool::new(1 << 17, 0, 4),
            table,
            queue: FairQueue::new(1 << 20),
            landing: Landing::new(Offload::TcpUdp),
            reply: ReplyBuf::new(),
            sessions: (0..sessions).map(session).collect(),
        }
    }

    /// Carries what a TUN device yields as far as the network.
    pub fn seal(&mut self, session: usize, read: &[u8]) {
        let mut packet = HostPacket::with_header(self.pool.filled(read).unwrap()).unwrap();
        let Outward::ToPeer { length, .. } = self.table.outward(packet.bytes(), NOW, &mut self.reply) else {
            panic!("not routed")
        };
        packet.truncate(length);
        let flow = packet.flow();
        self.queue.push(0, flow, packet, NOW, &mut |_, _| panic!("lost"));
        let (_, mut packet) = self.queue.pop(NOW, &mut |_, _| panic!("lost")).unwrap();
        let mut segments = packet.segments(1420).unwrap();
        let (mut end, mut stride) = (0, 0);
        let Session { client, sealed: room, on_the_way, .. } = &mut self.sessions[session];
        while let Some(range) = segments.next(packet.bytes_mut()) {
            let sealed = client.seal(&packet.bytes()[range], &mut room[end..], NOW);
            let Sealed::Datagram(length) = sealed else { panic!("not sealed") };
            stride = stride.max(length);
            end += length;
        }
        *on_the_way = (end, stride);
    }

    /// Takes it from there, and says how many packets came out at the other end in how many writes.
    pub fn open(&mut self, session: usize) -> (usize, usize) {
        let Session { gateway, filter, sealed, on_the_way: (end, stride), .. } = &mut self.sessions[session];
        let (mut packets, mut writes) = (0, 0);
        for datagram in sealed[..*end].chunks(*stride) {
            let room = self.landing.room(datagram.len().max(MIN_BUFFER)).unwrap();
            let Opened::Packet { len, .. } = gateway.open(NETWORK, datagram, room, NOW) else {
                panic!("not opened")
            };
            if self.landing.take(len) == Landed::Apart {
                flush(&mut self.landing, filter, &mut self.reply, &mut packets, &mut writes);
            }
        }
        flush(&mut self.landing, filter, &mut self.reply, &mut packets, &mut writes);
        (packets, writes)
    }
}

fn flush(
    landing: &mut Landing,
    filter: &mut PeerFilter,
    reply: &mut ReplyBuf,
    packets: &mut usize,
    writes: &mut usize,
) {
    if let Some(mut run) = landing.run() {
        let carried = Carried { checksum: run.checksum(), segment: run.segment() };
        let verdict = filter.inward(run.bytes_mut(), carried, NOW, reply);
        assert!(matches!(verdict, Verdict::Forward { .. }), "{verdict:?}");
        *packets += run.packets();
        *writes += 1;
        std::hint::black_box(run.with_header());
    }
    landing.begin();
}

fn session(slot: u16) -> (Tunnel, Tunnel) {
    let (ours, theirs) = (WireguardKey::generate().unwrap(), WireguardKey::generate().unwrap());
    let end = |private: &WireguardKey, peer: &WireguardKey, slot| {
        let limiter = Limiter::new(&private.public(), Limiter::DEFAULT_LIMIT);
        let index = TunnelIndex { slot, lane: 0 };
        let (private, peer) = (private.clone(), peer.public());
        Tunnel::new(TunnelConfig { private, peer, preshared: None, index, limiter }, NOW)
    };
    let (mut client, mut gateway) = (end(&ours, &theirs, slot), end(&theirs, &ours, slot));
    client.initiate(true, NOW);
    let Some(Output::Initiation(initiation)) = client.poll_output() else { panic!("no initiation") };
    let mut one = [0; 256];
    let mut other = [0; 256];
    let Opened::Reply { len, .. } = gateway.open(NETWORK, &initiation, &mut one, NOW) else {
        panic!("no answer")
    };
    let Opened::Reply { len, .. } = client.open(NETWORK, &one[..len], &mut other, NOW) else {
        panic!("no session")
    };
    let _ = gateway.open(NETWORK, &other[..len], &mut one, NOW);
    assert!(client.is_established() && gateway.is_established());
    while client.poll_output().is_some() {}
    while gateway.poll_output().is_some() {}
    (client, gateway)
}

/// What a TUN device yields for a bulk transfer: one super-packet of so many TCP packets of the largest size.
pub fn bulk(packets: u32) -> Vec<u8> {
    let payload = [7; 1380];
    joined((0..packets).map(|n| {
        let mut out = vec![0; 1500];
        let segment = TcpSegment {
            source: format!("{DEVICE}:4000").parse().unwrap(),
            destination: format!("{SERVER}:80").parse().unwrap(),
            sequence: n * payload.len() as u32,
            acknowledgement: 1,
            flags: TcpFlags::ACK,
            window: 500,
            mss: None,
            payload: &payload,
        };
        let length = tcp(&mut out, &segment).unwrap();
        out.truncate(length);
        out
    }))
}

/// What it yields for one datagram.
pub fn datagram(length: usize) -> Vec<u8> {
    let mut out = vec![0; 1500];
    let (source, destination) = (format!("{DEVICE}:4001"), format!("{SERVER}:53"));
    let length =
        udp(&mut out, source.parse().unwrap(), destination.parse().unwrap(), &vec![7; length]).unwrap();
    out.truncate(length);
    joined(std::iter::once(out))
}

fn joined(packets: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut landing = Landing::new(Offload::TcpUdp);
    for packet in packets {
        landing.room(packet.len()).unwrap()[..packet.len()].copy_from_slice(&packet);
        assert_eq!(landing.take(packet.len()), Landed::Joined);
    }
    landing.run().unwrap().with_header().to_vec()
}
