//! `machinery [ROUNDS]`: what actors cost on the packet path. The same core is driven by calls and by actors, in turn, with
//! one peer of full batches and with 1,000 peers of one small packet a batch; prints one JSON object with the medians.
//!
//! A packet of the actor build meets what it meets in a process: a reader's turn, the packet mailbox and the turn of the peer
//! at the end that it comes from, and the packet mailbox and the turn of the peer at the other. Each peer sets its alarm in
//! every turn.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::type_complexity, missing_docs)]

#[path = "../core/path.rs"]
mod path;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use actors_runtime::{
    Actor, Boot, Cx, Full, Intensity, LaneKind, Never, PacketSender, Restart, Row, StartError, Tree,
};
use futures_util::stream;
use path::{Core, bulk, datagram};
use tokio::sync::Notify;

/// Packets of one super-packet: what one UDP send carries.
const BULK: u32 = 45;
/// Peers with one packet each.
const SPARSE: u16 = 1_000;
const REPEATS: usize = 7;
const ALARM: Duration = Duration::from_secs(10);

/// One kind of load.
struct Case {
    name: &'static str,
    peers: u16,
    read: Vec<u8>,
    packets: u32,
    rounds: u32,
}

impl Case {
    fn all(rounds: u32) -> [Self; 2] {
        let sparse = (rounds * BULK / u32::from(SPARSE)).max(2);
        [
            Self { name: "bulk", peers: 1, read: bulk(BULK), packets: BULK, rounds },
            Self {
                name: "sparse",
                peers: SPARSE,
                read: datagram(200),
                packets: SPARSE.into(),
                rounds: sparse,
            },
        ]
    }

    fn core(&self) -> Core {
        Core::new(self.peers, 2 * self.read.len().max(1 << 10))
    }

    fn nanoseconds(&self, took: Duration) -> f64 {
        took.as_nanos() as f64 / f64::from(self.rounds) / f64::from(self.packets)
    }
}

const fn row(
    kind: &'static str,
    parent: &'static str,
    ring: usize,
    start: Option<fn(&Boot<'_, u32>) -> Result<(), StartError>>,
) -> Row<u32> {
    Row {
        kind,
        parent,
        each: "peer",
        lane: LaneKind::Packet,
        mailbox: 64,
        full: Full::Refuse,
        ring,
        restart: Restart::Always,
        intensity: Intensity { restarts: 3, within: Duration::from_secs(10) },
        start,
    }
}

static TREE: &[Row<u32>] = &[
    row("Reader", "-", 0, Some(start)),
    row("Sealer", "Reader", 256, None),
    row("Opener", "Reader", 256, None),
];

fn start(boot: &Boot<'_, u32>) -> Result<(), StartError> {
    let rounds = *boot.context;
    boot.try_start::<Reader, _>(&boot.lane(LaneKind::Packet)?, "0", move || {
        Ok(move || Reader { cases: Case::all(rounds).into(), running: None, results: Vec::new() })
    })?;
    Ok(())
}

/// What the actors of one case share: the lane's things.
struct Lane {
    core: RefCell<Core>,
    read: Vec<u8>,
    under_way: Cell<usize>,
    all_arrived: Rc<Notify>,
}

/// The case that is measured.
struct Running {
    case: Case,
    lane: Rc<Lane>,
    sealers: Vec<PacketSender<()>>,
    direct: Core,
    round: u32,
    began: Instant,
    by_calls: Vec<f64>,
    by_actors: Vec<f64>,
}

/// Hands a packet to each peer as soon as the last have arrived.
struct Reader {
    cases: Vec<Case>,
    running: Option<Running>,
    results: Vec<String>,
}

impl Actor for Reader {
    const KIND: &'static str = "Reader";
    type Command = Never;
    type Packets = Never;

    fn started(&mut self, cx: &mut Cx<Self>) {
        let all_arrived = Rc::new(Notify::new());
        self.begin(all_arrived.clone(), cx);
        let rounds = stream::unfold(all_arrived, async |all_arrived| {
            all_arrived.notified().await;
            Some(((), all_arrived))
        });
        cx.follow(rounds, |reader, (), cx| reader.round(cx));
    }

    fn told(&mut self, command: Never, _: &mut Cx<Self>) {
        match command {}
    }
}

impl Reader {
    /// Starts the peers of the next case.
    fn begin(&mut self, all_arrived: Rc<Notify>, cx: &mut Cx<Self>) {
        let Some(case) = self.cases.pop() else {
            self.results.reverse();
            println!("{{{}}}", self.results.join(", "));
            std::process::exit(0);
        };
        let lane = Rc::new(Lane {
            core: RefCell::new(case.core()),
            read: case.read.clone(),
            under_way: Cell::new(0),
            all_arrived: all_arrived.clone(),
        });
        let sealers = (0..usize::from(case.peers)).map(|session| {
            let (here, there) = (lane.clone(), lane.clone());
            let key = format!("{} {session}", case.name);
            let opener = cx.start_child(key.clone(), move || Opener { lane: there.clone(), session });
            let opener = opener.unwrap().packets.unwrap();
            let sealer =
                cx.start_child(key, move || Sealer { lane: here.clone(), session, opener: opener.clone() });
            sealer.unwrap().packets.unwrap()
        });
        let sealers = sealers.collect();
        let (direct, began) = (case.core(), Instant::now());
        let (by_calls, by_actors) = (Vec::new(), Vec::new());
        self.running = Some(Running { case, lane, sealers, direct, round: 0, began, by_calls, by_actors });
        all_arrived.notify_one();
    }

    fn round(&mut self, cx: &mut Cx<Self>) {
        let Some(running) = &mut self.running else { return };
        if running.round > running.case.rounds {
            running.by_actors.push(running.case.nanoseconds(running.began.elapsed()));
            running.round = 0;
            if running.by_actors.len() == REPEATS {
                self.results.push(running.result());
                let all_arrived = running.lane.all_arrived.clone();
                return self.begin(all_arrived, cx);
            }
        }
        if running.round == 0 {
            running.by_calls();
        }
        // The first round fills pools and caches.
        if running.round == 1 {
            running.began = Instant::now();
        }
        running.round += 1;
        running.lane.under_way.set(running.sealers.len());
        for sealer in &running.sealers {
            assert!(sealer.push(()).is_ok(), "the mailbox is full");
        }
    }
}

impl Running {
    fn by_calls(&mut self) {
        let Self { case, direct, .. } = self;
        let sessions = 0..usize::from(case.peers);
        let mut round = || {
            // In the order in which lanes do it.
            for session in sessions.clone() {
                direct.seal(session, &case.read);
            }
            for session in sessions.clone() {
                assert!(direct.open(session).0 > 0);
            }
        };
        round();
        let began = Instant::now();
        (0..case.rounds).for_each(|_| round());
        let took = began.elapsed();
        self.by_calls.push(self.case.nanoseconds(took));
    }

    fn result(&mut self) -> String {
        let median = |values: &mut Vec<f64>| {
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let (calls, actors) = (median(&mut self.by_calls), median(&mut self.by_actors));
        let share = 100.0 * (actors - calls) / actors;
        let name = self.case.name;
        format!(
            r#""{name}_ns_by_calls": {calls:.0}, "{name}_ns_by_actors": {actors:.0}, "{name}_share_percent": {share:.1}"#
        )
    }
}

/// The peer at the end that packets come from.
struct Sealer {
    lane: Rc<Lane>,
    session: usize,
    opener: PacketSender<()>,
}

impl Actor for Sealer {
    const KIND: &'static str = "Sealer";
    type Command = Never;
    type Packets = ();

    fn told(&mut self, command: Never, _: &mut Cx<Self>) {
        match command {}
    }

    fn received(&mut self, (): (), cx: &mut Cx<Self>) {
        self.lane.core.borrow_mut().seal(self.session, &self.lane.read);
        assert!(self.opener.push(()).is_ok(), "the mailbox is full");
        cx.wake_at(cx.now() + ALARM);
    }
}

/// The peer at the other end.
struct Opener {
    lane: Rc<Lane>,
    session: usize,
}

impl Actor for Opener {
    const KIND: &'static str = "Opener";
    type Command = Never;
    type Packets = ();

    fn told(&mut self, command: Never, _: &mut Cx<Self>) {
        match command {}
    }

    fn received(&mut self, (): (), cx: &mut Cx<Self>) {
        let lane = &self.lane;
        let (packets, _) = lane.core.borrow_mut().open(self.session);
        assert!(packets > 0);
        cx.wake_at(cx.now() + ALARM);
        lane.under_way.set(lane.under_way.get() - 1);
        if lane.under_way.get() == 0 {
            lane.all_arrived.notify_one();
        }
    }
}

fn main() {
    let rounds: u32 = std::env::args().nth(1).map_or(5_000, |rounds| rounds.parse().expect("a number"));
    let status = Tree::new(TREE).run(rounds);
    std::process::exit(status.unwrap());
}
