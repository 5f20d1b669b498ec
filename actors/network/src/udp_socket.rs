//! Reads one UDP socket of a packet lane and hands what arrives to the lane's demultiplexer.
//!
//! - Parent: the process's root; one for each lane and address family.
//! - Core: none; it only reads.
//! - When it dies: it is restarted on the descriptor that the lane owns. Datagrams wait in the socket's buffer meanwhile;
//!   sending goes on, because peers do that themselves.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use actors_runtime::{Actor, Cx, Never, Reply};
use futures_util::Stream;
use protocol_packet::{Batch, Batches, Buffer, Pool};
use quinn_udp::RecvMeta;

use crate::drops::{EdgeDrop, Handing};
use crate::lane_udp::{LaneUdp, OpenUdpError, canonical};

/// A datagram of ours measures less than 1,500 bytes; the rest is room for jumbo probes.
const LIMIT: usize = 2048;
/// Buffers of one receive call, each for up to 64 datagrams of one source (GRO).
const CALL: usize = 8;
/// The largest GRO buffer.
const GRO_BUFFER: usize = 1 << 16;
/// Idle buffers for single datagrams that are kept.
const KEEP: usize = 1024;
/// Idle GRO buffers that are kept: three calls' worth.
const KEEP_LARGE: usize = 24;
/// Receive errors in a row before the lane's other tasks get their turn.
const ERRORS_A_TURN: usize = 16;

/// Datagrams that came together from one source.
#[derive(Debug)]
pub struct Datagrams {
    /// Their payloads, one behind the other.
    pub bytes: Buffer,
    /// Bytes of each; the last may be shorter.
    pub stride: usize,
    /// Who sent them; an IPv4 address is never in its IPv6 form.
    pub from: SocketAddr,
    /// The address of ours that they were sent to.
    pub local: Option<IpAddr>,
    /// The ECN bits of the outer headers (RFC 3168 section 5).
    pub ecn: u8,
}

impl Datagrams {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.chunks(self.stride.max(1))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.bytes.len().div_ceil(self.stride.max(1))
    }
}

/// Takes what arrives on a lane's sockets and passes it to whom it is for.
pub trait Demux {
    /// Takes the datagrams out of `arrived`; those that it leaves are dropped uncounted.
    fn datagrams(&self, arrived: &mut Batch<Datagrams>);
}

impl<F: Fn(&mut Batch<Datagrams>)> Demux for F {
    fn datagrams(&self, arrived: &mut Batch<Datagrams>) {
        self(arrived);
    }
}

/// What a [`UdpSocket`] can be told.
#[derive(Debug)]
pub enum UdpCommand {
    /// Takes another port (0: any), for example after the network changed. Reading and sending go on there.
    Rebind {
        /// The port.
        port: u16,
        /// Hears the new address, or why the old socket stayed.
        done: Option<Reply<Result<SocketAddr, OpenUdpError>>>,
    },
    /// Stops reading, for good.
    Close,
}

/// The reader.
pub struct UdpSocket {
    socket: Rc<LaneUdp>,
    demux: Rc<dyn Demux>,
    limit: usize,
}

impl UdpSocket {
    /// Reads `socket` for `demux`.
    pub fn new(socket: Rc<LaneUdp>, demux: Rc<dyn Demux>) -> Self {
        Self { socket, demux, limit: LIMIT }
    }

    /// Takes datagrams of up to `bytes`; longer ones are dropped and counted.
    pub fn with_limit(mut self, bytes: usize) -> Self {
        self.limit = bytes;
        self
    }
}

impl Actor for UdpSocket {
    const KIND: &'static str = "UdpSocket";
    type Command = UdpCommand;
    type Packets = Never;

    fn started(&mut self, cx: &mut Cx<Self>) {
        if let Some(bytes) = self.socket.buffer_capped() {
            tracing::warn!(
                bytes,
                "the host limits socket buffers: bursts will be lost; raise net.core.rmem_max and wmem_max"
            );
        }
        cx.follow(Reader::new(self.socket.clone(), self.limit), |actor, mut arrived, _| {
            let datagrams = arrived.iter().map(Datagrams::count).sum();
            let _handing = Handing::over(actor.socket.drops(), datagrams);
            actor.demux.datagrams(&mut arrived);
        });
    }

    fn told(&mut self, command: UdpCommand, cx: &mut Cx<Self>) {
        match command {
            UdpCommand::Rebind { port, done } => {
                let result = self.socket.rebind(port);
                match (&result, &done) {
                    (Ok(_), _) => tracing::info!("UDP socket has a new port"),
                    (Err(error), None) => tracing::warn!(error = %error, "UDP socket keeps its port"),
                    (Err(_), Some(_)) => {}
                }
                if let Some(done) = done {
                    done.send(result);
                }
            }
            UdpCommand::Close => cx.stop(),
        }
    }
}

/// The stream of batches that arrive on a socket.
struct Reader {
    socket: Rc<LaneUdp>,
    limit: usize,
    /// What the next call reads into; taken out of `large` as they go.
    memory: Vec<Buffer>,
    large: Pool,
    /// For what is no longer than one datagram.
    small: Pool,
    batches: Batches<Datagrams>,
}

impl Reader {
    fn new(socket: Rc<LaneUdp>, limit: usize) -> Self {
        Self {
            socket,
            limit,
            memory: Vec::with_capacity(CALL),
            large: Pool::new(GRO_BUFFER, 0, KEEP_LARGE),
            small: Pool::new(limit, 0, KEEP),
            batches: Batches::default(),
        }
    }

    /// One receive call.
    fn receive(&mut self) -> io::Result<Batch<Datagrams>> {
        while self.memory.len() < CALL {
            self.memory.push(self.large.take());
        }
        let mut meta = [RecvMeta::default(); CALL];
        let mut buffers: [IoSliceMut<'_>; CALL] = std::array::from_fn(|_| IoSliceMut::new(&mut []));
        for (buffer, memory) in buffers.iter_mut().zip(&mut self.memory) {
            *buffer = IoSliceMut::new(memory.whole());
        }
        let count = self.socket.bound().receive(&mut buffers, &mut meta)?;
        let mut batch = self.batches.take();
        for (memory, meta) in self.memory.iter_mut().zip(&meta).take(count) {
            if meta.len == 0 {
                self.socket.drops().add(EdgeDrop::UdpEmpty, 1);
                continue;
            }
            if meta.stride > self.limit {
                self.socket.drops().add(EdgeDrop::UdpTooLong, meta.len.div_ceil(meta.stride) as u64);
                continue;
            }
            memory.set_len(meta.len);
            let bytes = match self.small.filled(memory) {
                Some(small) => small,
                None => std::mem::replace(memory, self.large.take()),
            };
            let (from, ecn) = (canonical(meta.addr), meta.ecn.map_or(0, |ecn| ecn as u8));
            // A call yields no more than fit.
            let _ =
                batch.push(Datagrams { bytes, stride: meta.stride.max(1), from, local: meta.dst_ip, ecn });
        }
        Ok(batch)
    }
}

impl Stream for Reader {
    type Item = Batch<Datagrams>;

    fn poll_next(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        for _ in 0..ERRORS_A_TURN {
            if ready!(this.socket.poll_readable(task)).is_err() {
                // The event loop is going away.
                return Poll::Ready(None);
            }
            match this.receive() {
                Ok(batch) if batch.is_empty() => {}
                Ok(batch) => return Poll::Ready(Some(batch)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // ICMP errors of earlier sends arrive here too; the socket is as good as before.
                Err(_) => this.socket.drops().add(EdgeDrop::UdpReceiveFailed, 1),
            }
        }
        task.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::time::Duration;

    use actors_runtime::{LaneKind, Universe};

    use super::*;
    use crate::drops::EdgeDrops;
    use crate::lane_udp::{LaneSockets, Sent, UdpConfig};
    use crate::testing::{in_bare_namespace, row, tool, until};

    type Seen = Rc<RefCell<Vec<(SocketAddr, Vec<u8>, u8)>>>;

    fn universe() -> Universe {
        Universe::new::<()>(&[row("UdpSocket", LaneKind::Packet)])
    }

    fn open(universe: &Universe, bind: &str) -> Rc<LaneUdp> {
        universe.block_on(async {
            LaneUdp::open(UdpConfig::on(bind.parse().unwrap()), EdgeDrops::alone()).unwrap()
        })
    }

    fn collect(seen: &Seen) -> Rc<dyn Demux> {
        let seen = seen.clone();
        Rc::new(move |arrived: &mut Batch<Datagrams>| {
            seen.borrow_mut().extend(
                arrived
                    .drain()
                    .flat_map(|d| d.iter().map(|bytes| (d.from, bytes.to_vec(), d.ecn)).collect::<Vec<_>>()),
            );
        })
    }

    fn reading(
        universe: &Universe,
        socket: &Rc<LaneUdp>,
        demux: Rc<dyn Demux>,
    ) -> actors_runtime::Address<UdpSocket> {
        let socket = socket.clone();
        universe.start("0", move || UdpSocket::new(socket.clone(), demux.clone())).unwrap().address
    }

    #[test]
    fn segments_sent_in_one_call_arrive_as_single_datagrams() {
        for bind in ["127.0.0.1:0", "[::1]:0"] {
            let (universe, seen) = (universe(), Seen::default());
            let (sender, receiver) = (open(&universe, bind), open(&universe, bind));
            reading(&universe, &receiver, collect(&seen));
            let bytes: Vec<u8> = (0..100u32 * 1200 + 700).map(|n| (n / 1200) as u8).collect();

            let sent = sender.send_marked(receiver.local_addr(), &bytes, 1200, 0b10);

            assert_eq!(sent, Sent::Yes);
            universe.block_on(until("all datagrams", || seen.borrow().len() == 101));
            for (n, (from, datagram, ecn)) in seen.borrow().iter().enumerate() {
                assert_eq!((*from, *ecn), (sender.local_addr(), 0b10));
                assert_eq!(datagram, &vec![n as u8; if n == 100 { 700 } else { 1200 }]);
            }
        }
    }

    #[test]
    fn each_segment_of_channel_data_has_its_own_header() {
        let (universe, seen) = (universe(), Seen::default());
        let (sender, receiver) = (open(&universe, "127.0.0.1:0"), open(&universe, "127.0.0.1:0"));
        reading(&universe, &receiver, collect(&seen));
        let bytes: Vec<u8> = (0..70u32 * 1000 + 13).map(|n| (n / 1000) as u8).collect();

        let sent = sender.send_channel_data(receiver.local_addr(), 0x4007, &bytes, 1000, 0b01);
        let alone = sender.send_with_header(receiver.local_addr(), b"head", b"payload");

        assert_eq!((sent, alone), (Sent::Yes, Sent::Yes));
        universe.block_on(until("all datagrams", || seen.borrow().len() == 72));
        for (n, (_, datagram, ecn)) in seen.borrow().iter().take(71).enumerate() {
            assert_eq!(*ecn, 0b01);
            let length = if n == 70 { 13u16 } else { 1000 };
            assert_eq!(datagram[..4], [0x40, 0x07, length.to_be_bytes()[0], length.to_be_bytes()[1]]);
            assert_eq!(datagram[4..], vec![n as u8; usize::from(length)]);
        }
        assert_eq!(seen.borrow()[71].1, b"headpayload");
    }

    #[test]
    fn an_oversized_segment_is_counted_and_does_not_end_segmentation() {
        in_bare_namespace(|| {
            tool("ip link set lo mtu 1500 up");
            let (universe, seen) = (universe(), Seen::default());
            let (sender, receiver) = (open(&universe, "127.0.0.1:0"), open(&universe, "127.0.0.1:0"));
            reading(&universe, &receiver, collect(&seen));

            let large = sender.send(receiver.local_addr(), &[1; 6000], 2000);
            let small = sender.send(receiver.local_addr(), &[2; 2800], 1400);

            assert_eq!((large, small), (Sent::No(EdgeDrop::UdpTooBig), Sent::Yes));
            assert_eq!(sender.drops().get(EdgeDrop::UdpTooBig), 3);
            assert!(sender.max_segments() > 1);
            universe.block_on(until("two datagrams", || seen.borrow().len() == 2));
        });
    }

    #[test]
    fn losses_are_counted_under_their_reason() {
        in_bare_namespace(|| {
            tool("ip link set lo up");
            let (universe, drops) = (universe(), EdgeDrops::alone());
            let sockets = universe
                .block_on(async { LaneSockets::open(Some(UdpConfig::v4(0)), None, drops.clone()).unwrap() });

            let nowhere = sockets.send("192.0.2.1:9".parse().unwrap(), b"x", 0);
            let wrong_family = sockets.send("[2001:db8::1]:9".parse().unwrap(), b"x", 0);

            assert_eq!(nowhere, Sent::No(EdgeDrop::UdpUnreachable));
            assert_eq!(wrong_family, Sent::No(EdgeDrop::UdpNoSocket));
            let counted: Vec<_> = drops.snapshot().filter(|(_, count)| *count > 0).collect();
            assert_eq!(counted, [("udp_unreachable", 1), ("udp_no_socket", 1)]);
        });
    }

    #[test]
    fn a_taken_port_and_a_foreign_address_are_named() {
        let universe = universe();
        let taken = open(&universe, "127.0.0.1:0").local_addr();
        let socket = open(&universe, "127.0.0.1:0");

        universe.block_on(async {
            let again = LaneUdp::open(UdpConfig::on(taken), EdgeDrops::alone());
            let foreign = LaneUdp::open(UdpConfig::on("192.0.2.77:0".parse().unwrap()), EdgeDrops::alone());

            assert!(matches!(socket.rebind(socket.local_addr().port()), Err(OpenUdpError::InUse(..))));
            // The first socket of this test was dropped, so its port is free again.
            assert!(again.is_ok());
            assert!(matches!(foreign, Err(OpenUdpError::NotOurAddress(..))));
        });
    }

    #[test]
    fn after_a_rebind_reading_goes_on_at_the_new_port() {
        let (universe, seen) = (universe(), Seen::default());
        let (sender, receiver) = (open(&universe, "127.0.0.1:0"), open(&universe, "127.0.0.1:0"));
        let address = reading(&universe, &receiver, collect(&seen));
        universe.settle();
        let old = receiver.local_addr();

        let (done, answer) = Reply::channel();
        address.tell(UdpCommand::Rebind { port: 0, done: Some(done) }).unwrap();
        universe.settle();
        let new = universe.block_on(answer).unwrap().unwrap();
        let _ = sender.send(new, b"hello", 0);

        assert_ne!(old, new);
        assert_eq!(receiver.local_addr(), new);
        universe.block_on(until("the datagram", || seen.borrow().len() == 1));
    }

    #[test]
    fn a_panic_over_a_datagram_costs_only_that_batch() {
        let (universe, seen, drops) = (universe(), Seen::default(), Rc::new(Cell::new(0)));
        let (sender, receiver) = (open(&universe, "127.0.0.1:0"), open(&universe, "127.0.0.1:0"));
        let good = collect(&seen);
        let panicked = drops.clone();
        let demux = move |arrived: &mut Batch<Datagrams>| {
            if arrived.iter().any(|datagram| &datagram.bytes[..] == b"bad") {
                panicked.set(panicked.get() + 1);
                panic!("on purpose");
            }
            good.datagrams(arrived);
        };
        reading(&universe, &receiver, Rc::new(demux));
        universe.settle();

        let _ = sender.send(receiver.local_addr(), b"bad", 0);
        universe.block_on(until("the panic", || drops.get() == 1));
        universe.settle();
        let _ = sender.send(receiver.local_addr(), b"good", 0);
        universe.advance(Duration::from_secs(5));

        universe.block_on(until("the next datagram", || seen.borrow().len() == 1));
        assert_eq!(receiver.drops().get(EdgeDrop::ReaderPanicked), 1);
        assert_eq!(universe.registry().snapshot()[0].restarts, 1);
    }

    #[test]
    fn datagrams_that_are_empty_or_too_long_are_counted() {
        let (universe, seen) = (universe(), Seen::default());
        let (sender, receiver) = (open(&universe, "127.0.0.1:0"), open(&universe, "127.0.0.1:0"));
        reading(&universe, &receiver, collect(&seen));

        let to = receiver.local_addr();
        let _ = (sender.send(to, &[], 0), sender.send(to, &[0; 4000], 0), sender.send(to, b"good", 0));

        universe.block_on(until("the good one", || seen.borrow().len() == 1));
        assert_eq!(receiver.drops().get(EdgeDrop::UdpEmpty), 1);
        assert_eq!(receiver.drops().get(EdgeDrop::UdpTooLong), 1);
    }
}
