//! What the kernel does with the programs that bring packets to their lanes.

use std::cell::RefCell;
use std::net::UdpSocket as StdSocket;
use std::rc::Rc;

use actors_runtime::{LaneKind, Universe};
use protocol_packet::Batch;
use protocol_tunnel::{Classic, Extended, SOCKET_PROGRAM, TunnelIndex, device_program, lane_of};

use crate::drops::EdgeDrops;
use crate::lane_tun::{LaneTun, TUN_MTU, TunConfig};
use crate::lane_udp::{LaneUdp, OpenUdpError, Sharing, UdpConfig};
use crate::segment::HostPacket;
use crate::testing::{in_bare_namespace, row, tool, until};
use crate::tun_device::TunDevice;
use crate::tun_open::Offload;
use crate::udp_socket::{Datagrams, UdpSocket};

const LANES: u8 = 3;

type Seen = Rc<RefCell<Vec<Vec<Vec<u8>>>>>;

fn seen() -> Seen {
    Rc::new(RefCell::new(vec![Vec::new(); usize::from(LANES)]))
}

fn count(seen: &Seen) -> usize {
    seen.borrow().iter().map(Vec::len).sum()
}

fn universe() -> Universe {
    Universe::new::<()>(&[row("UdpSocket", LaneKind::Packet), row("TunDevice", LaneKind::Packet)])
}

fn open(universe: &Universe, bind: &str, sharing: Sharing) -> Result<Rc<LaneUdp>, OpenUdpError> {
    let config = UdpConfig { sharing, ..UdpConfig::on(bind.parse().unwrap()) };
    universe.block_on(async { LaneUdp::open(config, EdgeDrops::alone()) })
}

/// Sockets that share an address, in the order of their lanes; each notes what it reads.
fn sockets(universe: &Universe, bind: &str, seen: &Seen) -> Vec<Rc<LaneUdp>> {
    let first = open(universe, bind, Sharing::First).unwrap();
    let address = first.local_addr().to_string();
    let mut sockets = vec![first];
    for _ in 1..LANES {
        sockets.push(open(universe, &address, Sharing::Next).unwrap());
    }
    sockets[0].steer(&SOCKET_PROGRAM.map(Classic::bytes)).unwrap();
    for (lane, socket) in sockets.iter().enumerate() {
        let (socket, seen) = (socket.clone(), seen.clone());
        let demux = Rc::new(move |arrived: &mut Batch<Datagrams>| {
            for datagrams in arrived.drain() {
                seen.borrow_mut()[lane].extend(datagrams.iter().map(<[u8]>::to_vec));
            }
        });
        universe.start(&lane.to_string(), move || UdpSocket::new(socket.clone(), demux.clone())).unwrap();
    }
    sockets
}

fn data(lane: u8, number: u8, length: usize) -> Vec<u8> {
    let mut datagram = vec![number; length];
    datagram[..4].copy_from_slice(&4u32.to_le_bytes());
    datagram[4..8].copy_from_slice(&TunnelIndex::new(7, lane).receiver_index().to_le_bytes());
    datagram
}

#[test]
fn datagrams_reach_the_socket_of_their_lane_also_many_at_once() {
    for bind in ["127.0.0.1:0", "[::1]:0"] {
        let (universe, seen) = (universe(), seen());
        let sockets = sockets(&universe, bind, &seen);
        let to = sockets[0].local_addr();
        let sender = open(&universe, bind, Sharing::Alone).unwrap();

        for lane in 0..LANES {
            for number in 0..10 {
                let _ = sender.send(to, &data(lane, number, 200), 0);
            }
            let many: Vec<u8> = (0..20).flat_map(|number| data(lane, number, 1200)).collect();
            let _ = sender.send(to, &many, 1200);
        }

        universe.block_on(until("all datagrams", || count(&seen) == 30 * usize::from(LANES)));
        for (lane, datagrams) in seen.borrow().iter().enumerate() {
            assert_eq!(datagrams.len(), 30, "lane {lane}");
            assert!(datagrams.iter().all(|datagram| usize::from(datagram[5]) == lane));
            let numbers: Vec<u8> = datagrams.iter().map(|datagram| datagram[20]).collect();
            assert_eq!(numbers, (0..10).chain(0..20).collect::<Vec<_>>(), "in order");
        }
    }
}

#[test]
fn what_a_relay_sends_reaches_the_first_socket_and_an_unknown_lane_some_socket() {
    let (universe, seen) = (universe(), seen());
    let sockets = sockets(&universe, "127.0.0.1:0", &seen);
    let to = sockets[0].local_addr();

    for n in 0..20u8 {
        // From many ports, so that a hash would spread them.
        let sender = StdSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(&[0x40, n, 0, 16, 4, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], to).unwrap();
        sender.send_to(&[&[1, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[n; 12]].concat(), to).unwrap();
    }
    universe.block_on(until("all messages", || count(&seen) == 40));
    assert_eq!(seen.borrow()[0].len(), 40);

    let sender = StdSocket::bind("127.0.0.1:0").unwrap();
    sender.send_to(&data(200, 0, 100), to).unwrap();
    universe.block_on(until("the one of no lane", || count(&seen) == 41));
}

#[test]
fn nobody_else_gets_in_beside_the_first() {
    let universe = universe();
    let first = open(&universe, "127.0.0.1:0", Sharing::First).unwrap();

    let second = open(&universe, &first.local_addr().to_string(), Sharing::First);

    assert!(matches!(second.err(), Some(OpenUdpError::InUse(..))));
}

#[test]
fn the_hosts_packets_reach_the_queue_of_their_destinations_lane() {
    in_bare_namespace(|| {
        let (universe, seen) = (universe(), seen());
        let queues = universe.block_on(async {
            let mut config = TunConfig { name: "postern0".to_owned(), offload: Offload::TcpUdp };
            let first = LaneTun::open(&config, EdgeDrops::alone()).unwrap();
            config.offload = first.offload();
            let mut queues = vec![first];
            for _ in 1..LANES {
                queues.push(LaneTun::join(&config, EdgeDrops::alone()).unwrap());
            }
            queues
        });
        let steered = queues[0].steer(&device_program(LANES).map(Extended::bytes));
        for (lane, queue) in queues.iter().enumerate() {
            let (queue, seen) = (queue.clone(), seen.clone());
            let sink = Rc::new(move |arrived: &mut Batch<HostPacket>| {
                seen.borrow_mut()[lane].extend(arrived.drain().map(|packet| packet.bytes().to_vec()));
            });
            universe.start(&lane.to_string(), move || TunDevice::new(queue.clone(), sink.clone())).unwrap();
        }
        std::fs::write("/proc/sys/net/ipv6/conf/postern0/addr_gen_mode", "1").unwrap();
        tool("ip addr add 10.9.0.1/16 dev postern0");
        tool("ip -6 addr add fd09::1/64 dev postern0 nodad");
        tool(&format!("ip link set postern0 mtu {TUN_MTU} up"));

        let (v4, v6) = (StdSocket::bind("10.9.0.1:0").unwrap(), StdSocket::bind("[fd09::1]:0").unwrap());
        for host in 2..62u16 {
            v4.send_to(b"to a device", format!("10.9.1.{host}:9").as_str()).unwrap();
            v6.send_to(b"to a device", format!("[fd09::{host:x}]:9").as_str()).unwrap();
        }

        universe.block_on(until("all packets", || count(&seen) >= 120));
        for (lane, packets) in seen.borrow().iter().enumerate() {
            for packet in packets {
                let destination = match packet[0] >> 4 {
                    4 => std::net::IpAddr::from(<[u8; 4]>::try_from(&packet[16..20]).unwrap()),
                    _ => std::net::IpAddr::from(<[u8; 16]>::try_from(&packet[24..40]).unwrap()),
                };
                if steered.is_ok() {
                    assert_eq!(usize::from(lane_of(destination, LANES)), lane, "{destination}");
                }
            }
            assert!(steered.is_err() || packets.len() >= 40, "{} packets", packets.len());
        }
        if let Err(error) = steered {
            println!("the kernel refuses the program ({error}); it spreads flows by itself");
        }
    });
}
