//! Reads one queue of the TUN device and hands the host's packets to the lane's router.
//!
//! - Parent: the process's root; one for each queue.
//! - Core: none; super-packets stay whole until they are sealed ([`HostPacket`]).
//! - When it dies: it is restarted on the descriptor that the lane owns. Packets wait in the device's queue meanwhile;
//!   writing goes on, because peers do that themselves.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use actors_runtime::{Actor, Cx, Never};
use futures_util::stream;
use protocol_packet::{BATCH, Batch, Batches, Buffer, Pool};

use crate::acks;
use crate::drops::{EdgeDrop, Handing};
use crate::lane_tun::LaneTun;
use crate::segment::HostPacket;
use crate::virtio::Header;

/// Room for one inner packet: more than the MTU, so that a packet that fills it was cut off by the kernel.
const PACKET: usize = 2048;
/// The largest super-packet with its virtio header, and one byte more.
const SUPER_PACKET: usize = (1 << 16) + crate::virtio::LENGTH;
/// A reader is not woken when somebody deletes its device (epoll says "error" alone, which tokio does not pass on).
const CHECK: Duration = Duration::from_secs(1);
/// Idle packet buffers that are kept.
const KEEP: usize = 1024;
/// Idle buffers for super-packets that are kept.
const KEEP_LARGE: usize = 16;

/// Packets that are read in one turn: more than a turn passes on, so that the device's own queue, which knows no
/// fairness, stays empty.
const AT_ONCE: usize = 2 * BATCH;
/// So many packets back an acknowledgement is looked for that a later one makes superfluous.
const FLOWS: usize = 8;

/// Takes the packets that the host sends into the tunnel.
pub trait PacketSink {
    /// Takes the packets out of `arrived`; those that it leaves are dropped uncounted. `true`: more than it passed on
    /// waits with it, so it wants to be called again soon, also when nothing arrives.
    fn packets(&self, arrived: &mut Batch<HostPacket>) -> bool;
}

impl<F: Fn(&mut Batch<HostPacket>)> PacketSink for F {
    fn packets(&self, arrived: &mut Batch<HostPacket>) -> bool {
        self(arrived);
        false
    }
}

/// What a [`TunDevice`] can be told.
#[derive(Debug)]
pub enum TunCommand {
    /// Stops reading, for good. The device stays until the lane lets go of it.
    Detach,
}

/// The reader.
pub struct TunDevice {
    tun: Rc<LaneTun>,
    sink: Rc<dyn PacketSink>,
}

impl TunDevice {
    /// Reads `tun` for `sink`.
    pub fn new(tun: Rc<LaneTun>, sink: Rc<dyn PacketSink>) -> Self {
        Self { tun, sink }
    }
}

impl Actor for TunDevice {
    const KIND: &'static str = "TunDevice";
    type Command = TunCommand;
    type Packets = Never;

    fn started(&mut self, cx: &mut Cx<Self>) {
        let waits = Rc::new(Cell::new(true));
        let reader = stream::unfold(Reader::new(self.tun.clone(), waits.clone()), Reader::next);
        cx.follow(reader, move |actor, arrived: io::Result<Batch<HostPacket>>, cx| match arrived {
            Ok(mut arrived) => {
                let packets = arrived.iter().map(HostPacket::packets).sum();
                let _handing = Handing::over(actor.tun.drops(), packets);
                waits.set(actor.sink.packets(&mut arrived));
            }
            Err(error) => {
                actor.tun.drops().add(EdgeDrop::TunReadFailed, 1);
                tracing::error!(error = %error, "the TUN device cannot be read any more");
                cx.fail();
            }
        });
        cx.wake_after(CHECK);
    }

    fn woken(&mut self, cx: &mut Cx<Self>) {
        if self.tun.exists() {
            return cx.wake_after(CHECK);
        }
        tracing::error!("somebody deleted the TUN device");
        // Only a new process gets a new device: this gives up after a few tries.
        cx.fail();
    }

    fn told(&mut self, command: TunCommand, cx: &mut Cx<Self>) {
        match command {
            TunCommand::Detach => cx.stop(),
        }
    }
}

/// What one queue yields.
struct Reader {
    tun: Rc<LaneTun>,
    /// For single packets.
    small: Pool,
    /// For what a call may yield: with offload a super-packet.
    large: Pool,
    batches: Batches<HostPacket>,
    /// Whether packets wait with the sink, so that it must not wait for more.
    waits: Rc<Cell<bool>>,
}

impl Reader {
    fn new(tun: Rc<LaneTun>, waits: Rc<Cell<bool>>) -> Self {
        let large = if tun.header_len() == 0 { PACKET } else { SUPER_PACKET };
        Self {
            tun,
            small: Pool::new(PACKET, 0, KEEP),
            large: Pool::new(large, 0, KEEP_LARGE),
            batches: Batches::default(),
            waits,
        }
    }

    /// Waits for the next batch: what is there, up to [`AT_ONCE`] packets (and the rest of the last super-packet).
    async fn next(self) -> Option<(io::Result<Batch<HostPacket>>, Self)> {
        let mut batch = self.batches.take();
        let mut buffer = self.large.take();
        let mut packets = 0;
        while batch.is_empty() && !self.waits.get() {
            match self.tun.read(buffer.whole()).await {
                Ok(read) => packets += self.took(&mut buffer, read, &mut batch),
                Err(error) => return Some((Err(error), self)),
            }
        }
        while packets < AT_ONCE && !batch.is_full() {
            // An error shows again when the next batch waits.
            let Ok(read) = self.tun.try_read(buffer.whole()) else { break };
            packets += self.took(&mut buffer, read, &mut batch);
        }
        Some((Ok(batch), self))
    }

    /// `read` bytes were read into `buffer`, which is replaced when it stays in use. Says how many packets that is.
    fn took(&self, buffer: &mut Buffer, read: usize, batch: &mut Batch<HostPacket>) -> usize {
        buffer.set_len(read);
        let length = self.tun.header_len();
        let header = if length == 0 {
            Some(Header::plain())
        } else {
            Header::decode(buffer).map(|(header, _)| header)
        };
        let (Some(header), true) = (header, read > length && (length > 0 || read < PACKET)) else {
            self.tun.drops().add(EdgeDrop::TunReadMalformed, 1);
            return 0;
        };
        let bytes = match buffer.get(length..).and_then(|packet| self.small.filled(packet)) {
            Some(small) => small,
            None => {
                let mut large = std::mem::replace(buffer, self.large.take());
                large.advance(length);
                large
            }
        };
        let packet = match HostPacket::new(header, bytes) {
            Ok(packet) => packet,
            Err(_) => {
                self.tun.drops().add(EdgeDrop::TunSegmentRefused, 1);
                return 0;
            }
        };
        if let Some(upper) = acks::pure(packet.bytes()).filter(|_| length > 0)
            && let Some(last) =
                batch.iter_mut().rev().take(FLOWS).find(|old| acks::same_flow(packet.bytes(), old.bytes()))
            && acks::pure(last.bytes()) == Some(upper)
            && acks::supersedes(packet.bytes(), last.bytes(), upper)
        {
            *last = packet;
            self.tun.drops().add(EdgeDrop::AckSuperseded, 1);
            return 1;
        }
        let packets = packet.packets();
        // The batch has room: nothing is read into a full one.
        let _ = batch.push(packet);
        packets
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use actors_runtime::{LaneKind, Universe};
    use protocol_packet::{Ip, Rewrite, echo_request};

    use super::*;
    use crate::drops::EdgeDrops;
    use crate::landing::{Landed, Landing};
    use crate::lane_tun::{TUN_MTU, TunConfig, Written};
    use crate::testing::{in_bare_namespace, row, tool, until};
    use crate::tun_open::{Offload, OpenTunError};

    fn universe() -> Universe {
        Universe::new::<()>(&[row("TunDevice", LaneKind::Packet)])
    }

    fn config(offload: Offload) -> TunConfig {
        TunConfig { name: "postern0".to_owned(), offload }
    }

    fn open(universe: &Universe, offload: Offload) -> Rc<LaneTun> {
        // A tool that another test starts at this moment has a copy of every descriptor until it runs.
        let tun = universe.block_on(async {
            let mut tun = LaneTun::open(&config(offload), EdgeDrops::alone());
            for _ in 0..100 {
                if matches!(tun, Err(OpenTunError::InUse(_))) {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    tun = LaneTun::open(&config(offload), EdgeDrops::alone());
                }
            }
            tun.unwrap()
        });
        std::fs::write("/proc/sys/net/ipv6/conf/postern0/addr_gen_mode", "1").unwrap();
        tool("ip addr add 10.9.0.1/24 dev postern0");
        tool("ip -6 addr add fd09::1/64 dev postern0 nodad");
        tool(&format!("ip link set postern0 mtu {TUN_MTU} up"));
        tun
    }

    fn reading(universe: &Universe, tun: &Rc<LaneTun>, sink: Rc<dyn PacketSink>) {
        let tun = tun.clone();
        universe.start("0", move || TunDevice::new(tun.clone(), sink.clone())).unwrap();
    }

    #[test]
    fn a_second_opening_is_refused_and_a_later_one_is_not() {
        in_bare_namespace(|| {
            let universe = universe();
            let first = open(&universe, Offload::TcpUdp);

            let second =
                universe.block_on(async { LaneTun::open(&config(Offload::Off), EdgeDrops::alone()) });

            let error = second.err().map(|error| error.to_string());
            assert_eq!(error.as_deref(), Some("device postern0 is in use by another process"));
            drop(first);
            open(&universe, Offload::Off);
        });
    }

    #[test]
    fn a_name_that_no_device_can_have_is_refused() {
        for name in ["", "a/b", "a b", "sixteen-letters-", "tun%d"] {
            let config = TunConfig { name: name.to_owned(), offload: Offload::Off };

            assert!(
                matches!(LaneTun::open(&config, EdgeDrops::alone()), Err(OpenTunError::BadName(_))),
                "{name}"
            );
        }
    }

    #[test]
    fn the_host_answers_what_is_written_and_its_answer_is_read() {
        in_bare_namespace(|| {
            for offload in [Offload::Off, Offload::TcpUdp] {
                let (universe, seen) = (universe(), Rc::new(RefCell::new(Vec::new())));
                let tun = open(&universe, offload);
                assert_eq!(tun.offload(), offload);
                let sink = seen.clone();
                reading(
                    &universe,
                    &tun,
                    Rc::new(move |arrived: &mut Batch<HostPacket>| {
                        sink.borrow_mut().extend(arrived.drain().map(|packet| packet.bytes().to_vec()));
                    }),
                );
                let mut request = [0; 100];
                let length = echo_request(
                    &mut request,
                    "10.9.0.2".parse().unwrap(),
                    "10.9.0.1".parse().unwrap(),
                    1,
                    2,
                    b"ping",
                )
                .unwrap();

                assert_eq!(tun.write(&request[..length]), Written::Yes);

                universe.block_on(until("the answer", || !seen.borrow().is_empty()));
                let seen = seen.borrow();
                let answer = Ip::parse(&seen[0]).unwrap();
                assert_eq!(answer.destination.to_string(), "10.9.0.2");
            }
        });
    }

    #[test]
    fn what_the_kernel_refuses_is_counted() {
        in_bare_namespace(|| {
            let universe = universe();
            let tun = open(&universe, Offload::Off);

            let junk = tun.write(&[0xff; 40]);
            tool("ip link set postern0 down");
            let down = tun.write(&[0x45; 40]);

            assert_eq!(junk, Written::No(EdgeDrop::TunWriteRefused));
            assert_eq!(down, Written::No(EdgeDrop::TunDown));
            assert_eq!(
                (tun.drops().get(EdgeDrop::TunWriteRefused), tun.drops().get(EdgeDrop::TunDown)),
                (1, 1)
            );
        });
    }

    fn flush(tun: &LaneTun, landing: &mut Landing) {
        if let Some(mut run) = landing.run() {
            let headers = *Ip::parse(run.bytes()).unwrap().headers();
            let swap = Rewrite {
                source: Some(headers.destination),
                destination: Some(headers.source),
                ..Rewrite::default()
            };
            let checksum = run.checksum();
            headers.rewrite(run.bytes_mut(), &swap, checksum).unwrap();
            let _ = tun.write_run(&mut run);
        }
        landing.begin();
    }

    /// Sends every packet back with its ends swapped, so that 10.9.0.2 is the host itself seen through the tunnel.
    fn mirror(tun: &Rc<LaneTun>, packets: Rc<Cell<(usize, usize)>>) -> Rc<dyn PacketSink> {
        let tun = tun.clone();
        let landing = RefCell::new(Landing::new(tun.offload()));
        Rc::new(move |arrived: &mut Batch<HostPacket>| {
            let (batches, count) = packets.get();
            packets.set((batches + 1, count + arrived.len()));
            for packet in arrived.iter_mut() {
                let mut segments = packet.segments(usize::from(TUN_MTU)).unwrap();
                while let Some(range) = segments.next(packet.bytes_mut()) {
                    let cut = &packet.bytes()[range];
                    landing.borrow_mut().room(cut.len()).unwrap()[..cut.len()].copy_from_slice(cut);
                    if landing.borrow_mut().take(cut.len()) == Landed::Apart {
                        flush(&tun, &mut landing.borrow_mut());
                    }
                }
            }
            flush(&tun, &mut landing.borrow_mut());
        })
    }

    #[test]
    fn tcp_goes_both_ways_through_cut_and_joined_packets() {
        in_bare_namespace(|| {
            for (offload, here, there) in [
                (Offload::Off, "10.9.0.1", "10.9.0.2"),
                (Offload::Tcp, "10.9.0.1", "10.9.0.2"),
                (Offload::TcpUdp, "10.9.0.1", "10.9.0.2"),
                (Offload::TcpUdp, "fd09::1", "fd09::2"),
            ] {
                let (universe, packets) = (universe(), Rc::new(Cell::new((0, 0))));
                let tun = open(&universe, offload);
                reading(&universe, &tun, mirror(&tun, packets.clone()));
                let sent: Vec<u8> = (0..4_000_000u32).map(|n| (n * 7 / 3) as u8).collect();
                let listener = TcpListener::bind((here, 0)).unwrap();
                let port = listener.local_addr().unwrap().port();
                let server = std::thread::spawn(move || {
                    let (mut stream, _) = listener.accept().unwrap();
                    let mut received = Vec::new();
                    stream.read_to_end(&mut received).unwrap();
                    received
                });
                let (bytes, there) = (sent.clone(), there.to_owned());
                let client = std::thread::spawn(move || {
                    let mut stream = TcpStream::connect((there.as_str(), port)).unwrap();
                    stream.write_all(&bytes).unwrap();
                });

                universe.block_on(until("the transfer", || server.is_finished()));

                client.join().unwrap();
                assert!(server.join().unwrap() == sent, "what arrived differs");
                let superseded = EdgeDrop::AckSuperseded.reason();
                let lost = |(reason, count): &(&str, u64)| *count > 0 && *reason != superseded;
                let lost: Vec<_> = tun.drops().snapshot().filter(lost).collect();
                assert!(lost.is_empty(), "{lost:?}");
            }
        });
    }

    #[test]
    fn datagrams_go_both_ways() {
        in_bare_namespace(|| {
            let (universe, packets) = (universe(), Rc::new(Cell::new((0, 0))));
            let tun = open(&universe, Offload::TcpUdp);
            reading(&universe, &tun, mirror(&tun, packets));
            let server = UdpSocket::bind("10.9.0.1:0").unwrap();
            server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let to = ("10.9.0.2", server.local_addr().unwrap().port());
            let client = UdpSocket::bind("10.9.0.1:0").unwrap();
            for n in 0..100u8 {
                client.send_to(&vec![n; 100 + usize::from(n)], to).unwrap();
            }
            let receiver = std::thread::spawn(move || {
                let mut buffer = [0; 2000];
                for n in 0..100u8 {
                    let (length, _) = server.recv_from(&mut buffer).unwrap();
                    assert_eq!(&buffer[..length], &vec![n; 100 + usize::from(n)][..]);
                }
            });

            universe.block_on(until("all datagrams", || receiver.is_finished()));

            receiver.join().unwrap();
        });
    }

    #[test]
    fn a_deleted_device_ends_the_reader_after_a_few_tries() {
        in_bare_namespace(|| {
            let universe = universe();
            let tun = open(&universe, Offload::Off);
            reading(&universe, &tun, Rc::new(|_: &mut Batch<HostPacket>| {}));
            universe.settle();

            tool("ip link del postern0");
            universe.advance(Duration::from_secs(60));

            assert_eq!(universe.gave_up(), [("TunDevice", "0".to_owned())]);
        });
    }
}
