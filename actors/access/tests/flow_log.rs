//! The log of flows, with an inbox for the session with control.

#![allow(clippy::unwrap_used, missing_docs)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use actors_access::{ControlSession, FlowLog, FlowLogCommand, FlowMeter, KeptFlows, control_session};
use actors_runtime::{Address, Full, Inbox, Intensity, LaneKind, Restart, Row, Universe};
use actors_tunnel::{EndedFlow, lasting_time};
use protocol_control::{FlowBatch, FlowEnd, FlowPath, FromNode};
use protocol_filter::FlowRecord;
use protocol_identity::{DeviceId, GrantId, PolicyId, ResourceId};
use protocol_traversal::PathKind;

const SECOND: Duration = Duration::from_secs(1);
const MOST: usize = 1 << 20;

struct Log {
    universe: Universe,
    control: Inbox<ControlSession>,
    log: Address<FlowLog>,
    meter: Arc<FlowMeter>,
}

impl Log {
    fn start(path: Option<&Path>, most: usize) -> Self {
        let row = |kind| Row {
            kind,
            parent: "-",
            each: "test",
            lane: LaneKind::Control,
            mailbox: 64,
            full: Full::Refuse,
            ring: 0,
            restart: Restart::Always,
            intensity: Intensity { restarts: 3, within: 10 * SECOND },
            start: None,
        };
        let universe = Universe::new::<()>(&[row("FlowLog"), row("ControlSession")]);
        let control = universe.inbox::<ControlSession>("");
        let meter = Arc::<FlowMeter>::default();
        let (kept, address) = (KeptFlows::open(path, most, meter.clone()), control.address());
        let log = universe.start("", move || FlowLog::new(kept.clone(), address.clone())).unwrap().address;
        universe.settle();
        Self { universe, control, log, meter }
    }

    fn tell(&self, command: FlowLogCommand) {
        self.log.tell(command).unwrap();
        self.universe.settle();
    }

    fn ends(&self, bytes: u64) -> EndedFlow {
        let flow = ended(bytes);
        self.tell(FlowLogCommand::Ended(vec![flow.clone()]));
        flow
    }

    /// What was sent to control since the last look.
    fn sent(&self) -> Vec<FlowBatch> {
        self.universe.settle();
        let told = self.control.take_all().into_iter().map(|command| match command {
            control_session::Command::Say(message) => match *message {
                FromNode::Flows(batch) => *batch,
                other => panic!("{other:?}"),
            },
            control_session::Command::Reconnect | control_session::Command::Pause => panic!("not a message"),
        });
        told.collect()
    }

    fn confirm(&self, batch: &FlowBatch) {
        let (stream, sequence) = batch.id();
        self.tell(FlowLogCommand::Stored { stream, sequence });
    }
}

fn ended(bytes: u64) -> EndedFlow {
    let now = lasting_time();
    let record = FlowRecord {
        grant: GrantId::fresh(),
        resource: ResourceId::fresh(),
        policy: PolicyId::fresh(),
        protocol: 6,
        device: "100.64.0.2:5000".parse().unwrap(),
        destination: "100.96.0.1:80".parse().unwrap(),
        name: Some("wiki.corp.example".into()),
        real: "192.168.1.20".parse().unwrap(),
        started: now.saturating_sub(5 * SECOND),
        last: now,
        packets_in: 3,
        bytes_in: 300,
        packets_out: 4,
        bytes_out: bytes,
        end: FlowEnd::Closed,
    };
    EndedFlow { device: DeviceId::fresh(), path: Some(PathKind::Direct), record }
}

fn bytes(batches: &[FlowBatch]) -> Vec<u64> {
    batches.iter().flat_map(|batch| &batch.flows).map(|flow| flow.bytes_out).collect()
}

#[test]
fn a_flow_is_told_to_control_with_all_that_is_known_of_it() {
    let log = Log::start(None, MOST);
    log.tell(FlowLogCommand::Up { takes_flows: true });
    let flow = log.ends(1000);

    log.universe.advance(2 * SECOND);
    let sent = log.sent();

    let told = &sent[0].flows[0];
    assert_eq!(
        (told.device, told.grant, told.resource),
        (flow.device, flow.record.grant, flow.record.resource)
    );
    assert_eq!((told.path, told.bytes_in, told.bytes_out), (Some(FlowPath::Direct), 300, 1000));
    assert_eq!((told.name.as_deref(), told.end), (Some("wiki.corp.example"), FlowEnd::Closed));
    assert!((4_990..=5_010).contains(&(told.ended - told.started)), "{told:?}");
    let year = 365 * 24 * 3600 * 1000;
    assert!(told.started > 50 * year, "not a date: {}", told.started);
    log.confirm(&sent[0]);
    assert_eq!((log.meter.stored(), log.meter.waiting(), log.meter.dropped()), (1, 0, 0));
}

#[test]
fn flows_wait_while_control_is_away_and_go_in_order_when_it_is_back() {
    let log = Log::start(None, MOST);
    log.tell(FlowLogCommand::Up { takes_flows: true });
    log.tell(FlowLogCommand::Down);
    (1..=100).for_each(|n| {
        log.ends(n);
    });
    log.universe.advance(10 * SECOND);
    assert_eq!(log.sent(), []);
    assert_eq!(log.meter.waiting(), 100);

    log.tell(FlowLogCommand::Up { takes_flows: true });
    log.universe.advance(2 * SECOND);

    assert_eq!(bytes(&log.sent()), (1..=100).collect::<Vec<_>>());
}

#[test]
fn a_control_that_stores_no_flows_is_not_sent_any() {
    let log = Log::start(None, MOST);
    log.tell(FlowLogCommand::Up { takes_flows: false });

    log.ends(1);
    log.universe.advance(10 * SECOND);

    assert_eq!((log.sent(), log.meter.waiting()), (Vec::new(), 1));
}

#[test]
fn what_control_has_not_confirmed_outlives_the_process_and_is_sent_under_its_number() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flows.spool");
    let log = Log::start(Some(&path), MOST);
    log.tell(FlowLogCommand::Up { takes_flows: true });
    log.ends(1);
    log.universe.advance(2 * SECOND);
    let first = log.sent();
    log.tell(FlowLogCommand::Down);
    log.ends(2);
    log.universe.stop(&log.log);
    drop(log);

    let log = Log::start(Some(&path), MOST);
    assert_eq!(log.meter.waiting(), 2);
    log.tell(FlowLogCommand::Up { takes_flows: true });
    let again = log.sent();

    assert_eq!(bytes(&again), [1, 2]);
    assert_eq!(again[0], first[0]);
    again.iter().for_each(|batch| log.confirm(batch));
    log.universe.stop(&log.log);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
}

#[test]
fn a_process_that_is_killed_has_written_what_waits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flows.spool");
    let log = Log::start(Some(&path), MOST);
    log.ends(7);
    log.universe.advance(3 * SECOND);
    let written = || std::fs::metadata(&path).unwrap().len() > 0;
    let until = std::time::Instant::now() + 10 * SECOND;
    while !written() && std::time::Instant::now() < until {
        log.universe.settle();
        std::thread::sleep(Duration::from_millis(5));
    }

    let copy = dir.path().join("as-it-was");
    std::fs::copy(&path, &copy).unwrap();
    let log = Log::start(Some(&copy), MOST);
    log.tell(FlowLogCommand::Up { takes_flows: true });

    assert_eq!(bytes(&log.sent()), [7]);
}

#[test]
fn what_has_no_room_is_counted() {
    let log = Log::start(None, 4096);

    (1..=1000).for_each(|n| {
        log.ends(n);
    });
    log.universe.settle();

    assert!(log.meter.dropped() > 800, "{:?}", log.meter);
    assert_eq!(log.meter.dropped() + log.meter.waiting(), 1000);
}
