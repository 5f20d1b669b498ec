//! A whole process: lanes, the table, shutdown, and messages across threads.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actors_runtime::{
    Actor, Address, Boot, Cx, Full, GAVE_UP_STATUS, Intensity, LaneKind, Never, Rejected, Restart, Row,
    StartError, Tree, TreeHandle,
};

/// What the actors of these tests report, in order.
type Reports = Sender<String>;

struct Context {
    reports: Reports,
}

/// Counts numbers and reports when it has seen `until` of them.
struct Counter {
    reports: Reports,
    seen: u64,
    until: u64,
}

enum Count {
    One,
    Panic,
}

impl Actor for Counter {
    const KIND: &'static str = "Counter";
    type Command = Count;
    type Packets = Never;

    fn started(&mut self, _: &mut Cx<Self>) {
        let thread = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
        self.reports.send(format!("counter on {}", thread.trim())).unwrap();
    }

    fn told(&mut self, command: Count, _: &mut Cx<Self>) {
        match command {
            Count::One => self.seen += 1,
            Count::Panic => panic!("told to"),
        }
        if self.seen == self.until {
            self.reports.send("all counted".into()).unwrap();
        }
    }

    fn stopped(&mut self, _: &mut Cx<Self>) {
        self.reports.send("counter stopped".into()).unwrap();
    }
}

/// Lives on the packet lane and tells the counter, which starts after it, that it has started.
struct Early {
    counter: Address<Counter>,
    reports: Reports,
}

impl Actor for Early {
    const KIND: &'static str = "Early";
    type Command = Never;
    type Packets = Never;

    fn started(&mut self, cx: &mut Cx<Self>) {
        self.reports.send(format!("early on {}", cx.lane_name())).unwrap();
        let _ = self.counter.tell(Count::One);
    }

    fn told(&mut self, command: Never, _: &mut Cx<Self>) {
        match command {}
    }

    fn stopped(&mut self, _: &mut Cx<Self>) {
        self.reports.send("early stopped".into()).unwrap();
    }
}

const TOLD_BY_THREADS: u64 = 4 * 25_000;

fn start_early(boot: &Boot<'_, Context>) -> Result<(), StartError> {
    let (counter, reports) = (boot.address::<Counter>(""), boot.context.reports.clone());
    boot.start(&boot.lane(LaneKind::Packet)?, "", move || {
        move || Early { counter: counter.clone(), reports: reports.clone() }
    })?;
    Ok(())
}

fn start_counter(boot: &Boot<'_, Context>) -> Result<(), StartError> {
    let reports = boot.context.reports.clone();
    boot.start(&boot.lane(LaneKind::Control)?, "", move || {
        move || Counter { reports: reports.clone(), seen: 0, until: TOLD_BY_THREADS + 1 }
    })?;
    Ok(())
}

const fn row(
    kind: &'static str,
    lane: LaneKind,
    start: fn(&Boot<'_, Context>) -> Result<(), StartError>,
) -> Row<Context> {
    Row {
        kind,
        parent: "-",
        each: "process",
        lane,
        mailbox: 64,
        full: Full::Refuse,
        ring: 0,
        restart: Restart::Always,
        intensity: Intensity { restarts: 2, within: Duration::from_secs(60) },
        start: Some(start),
    }
}

const EARLY: Row<Context> = row("Early", LaneKind::Packet, start_early);
const COUNTER: Row<Context> = row("Counter", LaneKind::Control, start_counter);
static BOTH: [Row<Context>; 2] = [EARLY, COUNTER];
static WITHOUT_COUNTER: [Row<Context>; 1] = [EARLY];
static WITHOUT_EARLY: [Row<Context>; 1] = [COUNTER];

/// Runs a process; `drive` runs on a thread of its own and ends it.
fn run(
    rows: &'static [Row<Context>],
    drive: impl FnOnce(TreeHandle, &Receiver<String>) + Send + 'static,
) -> (Result<i32, StartError>, Vec<String>) {
    let (reports, received) = channel();
    let rest = Arc::new(Mutex::new(Vec::new()));
    let mut driver = None;
    let status = Tree::new(rows).run_with(Context { reports }, |handle| {
        let (handle, rest) = (handle.clone(), Arc::clone(&rest));
        driver = Some(std::thread::spawn(move || {
            drive(handle, &received);
            *rest.lock().unwrap() = received.iter().collect();
        }));
    });
    driver.unwrap().join().unwrap();
    let rest = rest.lock().unwrap().clone();
    (status, rest)
}

/// Waits for a report, generously: a lost wake-up must fail, not hang.
fn wait_for(received: &Receiver<String>, report: &str) {
    loop {
        let next = received.recv_timeout(Duration::from_secs(60)).expect(report);
        if next == report {
            return;
        }
    }
}

#[test]
fn actors_live_on_the_named_threads_of_their_rows_and_stop_in_reverse_order() {
    let (status, rest) = run(&BOTH, |handle, received| {
        wait_for(received, "early on lane-0");
        wait_for(received, "counter on control-0");
        let rows = handle.registry().snapshot();
        assert_eq!(rows.len(), 2);
        assert_eq!(
            (rows[0].kind.as_str(), rows[0].thread.as_str(), rows[0].parent.as_str()),
            ("Early", "lane-0", "-")
        );
        assert_eq!(
            (rows[1].kind.as_str(), rows[1].thread.as_str(), rows[1].capacity),
            ("Counter", "control-0", 64)
        );
        let pulse = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        assert_eq!(pulse.block_on(handle.pulse(Duration::from_secs(60))), Ok(()));
        assert_eq!(handle.address::<Counter>("").key(), "");
        assert!(!handle.address::<Counter>("").has_ended());
        handle.shutdown(3);
    });

    assert_eq!(status.unwrap(), 3);
    assert_eq!(rest, ["counter stopped", "early stopped"]);
}

#[test]
fn no_message_between_threads_is_lost_or_left_lying() {
    let (status, _) = run(&BOTH, |handle, received| {
        let address = handle.address::<Counter>("");
        let tellers: Vec<_> = (0..4)
            .map(|_| {
                let address = address.clone();
                std::thread::spawn(move || {
                    for _ in 0..TOLD_BY_THREADS / 4 {
                        while let Err(Rejected::Full(_)) = address.tell(Count::One) {
                            std::thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        for teller in tellers {
            teller.join().unwrap();
        }
        wait_for(received, "all counted");
        assert_eq!(address.depth(), 0);
        handle.shutdown(0);
    });

    assert_eq!(status.unwrap(), 0);
}

#[test]
fn a_row_taken_away_is_an_actor_that_does_not_start() {
    let (status, rest) = run(&WITHOUT_COUNTER, |handle, received| {
        wait_for(received, "early on lane-0");
        assert_eq!(handle.registry().snapshot().len(), 1);
        handle.shutdown(0);
    });

    assert_eq!(status.unwrap(), 0);
    assert_eq!(rest, ["early stopped"]);
}

#[test]
fn a_process_without_packet_actors_has_no_packet_lane() {
    fn start(boot: &Boot<'_, Context>) -> Result<(), StartError> {
        assert!(boot.lane(LaneKind::Packet).is_err());
        start_counter(boot)
    }
    static ROWS: [Row<Context>; 1] = [row("Counter", LaneKind::Control, start)];

    let (status, _) = run(&ROWS, |handle, _| handle.shutdown(0));

    assert_eq!(status.unwrap(), 0);
}

#[test]
fn a_root_that_gives_up_ends_the_process_with_its_own_status() {
    let (status, rest) = run(&BOTH, |handle, _| {
        let address = handle.address::<Counter>("");
        for _ in 0..3 {
            address.tell(Count::Panic).unwrap();
        }
    });

    assert_eq!(status.unwrap(), GAVE_UP_STATUS);
    assert_eq!(rest.last().unwrap(), "early stopped", "the other roots still stop in order");
}

#[test]
fn a_root_that_cannot_start_ends_the_process_and_stops_the_others() {
    fn cannot(_: &Boot<'_, Context>) -> Result<(), StartError> {
        Err(StartError::failed("cannot open the socket", "no such address"))
    }
    static ROWS: [Row<Context>; 2] = [COUNTER, row("Early", LaneKind::Packet, cannot)];
    let (reports, received) = channel();

    let error = Tree::new(&ROWS).run(Context { reports }).unwrap_err();

    assert_eq!(error.to_string(), "cannot open the socket");
    let rest: Vec<_> = received.iter().collect();
    assert_eq!(rest.last().unwrap(), "counter stopped");
}

#[test]
fn a_kind_starts_once_for_each_key_and_only_where_its_row_says() {
    fn start(boot: &Boot<'_, Context>) -> Result<(), StartError> {
        start_counter(boot)?;
        assert!(matches!(start_counter(boot), Err(StartError::KeyInUse { kind: "Counter", .. })));
        assert!(matches!(start_early(boot), Err(StartError::Table(_))));
        let reports = boot.context.reports.clone();
        let misplaced = boot.start(&boot.lane(LaneKind::Control)?, "", move || {
            move || Early { counter: nobody(), reports: reports.clone() }
        });
        assert!(matches!(misplaced, Err(StartError::NotInTree("Early"))));
        Ok(())
    }
    fn nobody() -> Address<Counter> {
        unreachable!("never built")
    }
    static ROWS: [Row<Context>; 1] = [row("Counter", LaneKind::Control, start)];

    let (status, _) = run(&ROWS, |handle, _| handle.shutdown(0));

    assert_eq!(status.unwrap(), 0);
    assert_eq!(Tree::new(&WITHOUT_EARLY).render().lines().count(), 2);
}

#[test]
fn the_table_is_rendered_with_children_under_their_parents() {
    const INTENSITY: Intensity = Intensity { restarts: 5, within: Duration::from_secs(60) };
    static ROWS: [Row<Context>; 3] = [
        EARLY,
        Row {
            kind: "Child",
            parent: "Early",
            each: "connected device",
            lane: LaneKind::Packet,
            mailbox: 1,
            full: Full::Latest,
            ring: 256,
            restart: Restart::Never,
            intensity: INTENSITY,
            start: None,
        },
        COUNTER,
    ];

    let text = Tree::new(&ROWS).render();

    assert_eq!(
        text,
        "\
actor    one for each      lane     mailbox  when full    ring  restart  gives up after
Early    process           packet   64       refuse       -     always   2 restarts in 60 s
  Child  connected device  packet   1        latest wins  256   never    1 failure
Counter  process           control  64       refuse       -     always   2 restarts in 60 s
"
    );
}

#[test]
fn a_table_that_contradicts_itself_does_not_start() {
    static TWICE: [Row<Context>; 2] = [COUNTER, COUNTER];
    static CHILD_FIRST: [Row<Context>; 2] = [Row { parent: "Early", start: None, ..COUNTER }, EARLY];
    static OTHER_LANE: [Row<Context>; 2] = [EARLY, Row { parent: "Early", start: None, ..COUNTER }];
    static NOBODY_STARTS: [Row<Context>; 1] = [Row { start: None, ..COUNTER }];
    static LATEST_OF_MANY: [Row<Context>; 1] = [Row { full: Full::Latest, ..COUNTER }];

    for rows in [&TWICE[..], &CHILD_FIRST[..], &OTHER_LANE[..], &NOBODY_STARTS[..], &LATEST_OF_MANY[..]] {
        assert!(matches!(Tree::new(rows).validate(), Err(StartError::Table(_))));
    }
    assert!(Tree::new(&BOTH).validate().is_ok());
}
