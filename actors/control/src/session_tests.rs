//! The directory and its sessions, with the office and the registry as inboxes and the node's machine at the other end.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use actors_runtime::{Full, Inbox, Intensity, LaneKind, Reply, Restart, Row, Universe};
use protocol_control::{
    CloseReason, ControlEnd, ControlOutput, DEAD_AFTER, FromNode, Introduction, NodeOutput, NodeSession,
    SessionError, ToNode,
};
use protocol_identity::{AccountId, GatewayId, IdentityKey, TokenId, TokenKind};

use crate::clock::Clock;
use crate::device_session::{Command, DeviceSession, Node, Peer};
use crate::directory::{self, Accept, Directory};
use crate::grant_office::{self, GrantOffice};
use crate::keys::ONLY;
use crate::link::{LinkReceiver, MAX_FRAMES, link};
use crate::model::Object;
use crate::relay_registry::RelayRegistry;
use crate::storage::{Action, Change, Committed};
use crate::testing::{Memory, gateway, gateway_hello, noon, site, token};

const ROWS: &[Row<()>] = &[
    row("RelayRegistry", "-", Restart::Always),
    row("GrantOffice", "-", Restart::Always),
    row("Directory", "-", Restart::Always),
    row("DeviceSession", "Directory", Restart::Never),
];

const fn row(kind: &'static str, parent: &'static str, restart: Restart) -> Row<()> {
    Row {
        kind,
        parent,
        each: "test",
        lane: LaneKind::Control,
        mailbox: 512,
        full: Full::Refuse,
        ring: 0,
        restart,
        intensity: Intensity { restarts: 5, within: Duration::from_secs(60) },
        start: None,
    }
}

struct Stage {
    universe: Universe,
    directory: actors_runtime::Address<Directory>,
    office: Inbox<GrantOffice>,
    _registry: Inbox<RelayRegistry>,
    stored: Arc<Memory>,
}

/// The other end of a session.
struct Far {
    node: NodeSession,
    identity: IdentityKey,
    link: LinkReceiver,
    address: actors_runtime::Address<DeviceSession>,
}

fn peer(connection: u64) -> Peer {
    Peer {
        node: Node::Gateway(GatewayId(uuid::Uuid::from_u128(1))),
        account: AccountId(uuid::Uuid::from_u128(1)),
        office: "default".into(),
        key: "default/gateway/office-1".into(),
        token: TokenId(uuid::Uuid::from_u128(1)),
        until: None,
        principal: None,
        source: None,
        connection,
    }
}

impl Stage {
    fn new() -> Self {
        let universe = Universe::new(ROWS);
        let office = universe.inbox::<GrantOffice>("default");
        let registry = universe.inbox::<RelayRegistry>(ONLY);
        let clock = Clock::From(noon(), universe.instant());
        let stored = Arc::new(Memory(Mutex::default()));
        let storage = Arc::clone(&stored);
        let factory = move || Directory::new(clock, storage.clone());
        let directory = universe.start::<Directory>(ONLY, factory).unwrap().address;
        Self { universe, directory, office, _registry: registry, stored }
    }

    /// A gateway comes, as far as the socket's handler takes it.
    fn connect(&mut self, peer: Peer) -> Far {
        let identity = IdentityKey::generate().unwrap();
        let introduction =
            Introduction { name: "office-1".into(), program: "0.1.0".into(), role: gateway_hello() };
        let mut node = NodeSession::new(introduction, Duration::ZERO);
        let mut end = ControlEnd::new([7; 32], Duration::ZERO).unwrap();
        let Some(ControlOutput::Send(challenge)) = end.poll_output() else { panic!("no challenge") };
        node.handle_frame(&challenge, &identity, Duration::ZERO).unwrap();
        let Some(NodeOutput::Send(hello)) = node.poll_output() else { panic!("no hello") };
        end.handle_frame(&hello, Duration::ZERO).unwrap();
        assert!(matches!(end.poll_output(), Some(ControlOutput::Introduced(_))));

        let (sender, receiver) = link();
        let (reply, mut answer) = Reply::channel();
        let start = self.universe.instant();
        let accept = Accept { peer, end, start, link: sender, relay: None, reply };
        self.directory.tell(directory::Command::Accept(Box::new(accept))).unwrap();
        self.universe.settle();
        Far { node, identity, link: receiver, address: answer.try_take().unwrap() }
    }

    /// What the office heard since the last time.
    fn heard(&mut self) -> Vec<grant_office::Command> {
        self.office.take_all()
    }

    fn detached(&mut self, connection: u64) -> bool {
        self.heard().iter().any(
            |command| matches!(command, grant_office::Command::Detach { connection: gone, .. } if *gone == connection),
        )
    }
}

impl Far {
    /// What arrives at the node; its answers to pings go back.
    fn read(&mut self, stage: &Stage) -> Result<Vec<ToNode>, SessionError> {
        let mut said = Vec::new();
        while let Some(Some(frame)) = futures_now(self.link.next()) {
            self.node.handle_frame(&frame, &self.identity, stage.universe.now())?;
            while let Some(output) = self.node.poll_output() {
                match output {
                    NodeOutput::Send(bytes) => {
                        // A pong to a session that has ended meanwhile is of no use.
                        let _ = self.address.tell(Command::Frame(bytes));
                    }
                    NodeOutput::Message(message) => said.push(message),
                    NodeOutput::Welcomed(_) => {}
                }
            }
        }
        Ok(said)
    }
}

/// The output of a future that is ready now.
fn futures_now<F: Future>(future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

#[test]
fn a_session_reports_to_its_office_and_carries_both_ways() {
    let mut stage = Stage::new();
    let mut far = stage.connect(peer(1));

    let heard = stage.heard();
    let grant = protocol_identity::GrantId::fresh();
    far.node.send(FromNode::Ended { grant }).unwrap();
    let Some(NodeOutput::Send(bytes)) = far.node.poll_output() else { panic!("nothing to send") };
    far.address.tell(Command::Frame(bytes)).unwrap();
    stage.universe.settle();

    assert!(matches!(heard[..], [grant_office::Command::Attach { connection: 1, .. }]));
    let heard = stage.heard();
    let [grant_office::Command::Said { message, .. }] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!(**message, FromNode::Ended { grant });
    let welcome = protocol_control::Welcome::Relay(protocol_control::RelayState {
        relay: protocol_identity::RelayId::fresh(),
    });
    far.address.tell(Command::Deliver(Box::new(ToNode::Welcome(Box::new(welcome))))).unwrap();
    far.address.tell(Command::Deliver(Box::new(ToNode::Relays(Vec::new())))).unwrap();
    stage.universe.settle();
    assert_eq!(far.read(&stage).unwrap(), [ToNode::Relays(Vec::new())]);
}

#[test]
fn a_node_that_answers_pings_stays_and_one_that_falls_silent_is_gone() {
    let mut stage = Stage::new();
    let mut far = stage.connect(peer(1));

    for _ in 0..20 {
        stage.universe.advance(Duration::from_secs(5));
        far.read(&stage).unwrap();
        stage.universe.settle();
    }
    let alive = !far.address.has_ended();
    stage.universe.advance(DEAD_AFTER + Duration::from_secs(1));

    assert!(alive);
    assert!(far.address.has_ended());
    assert!(stage.detached(1));
}

#[test]
fn a_node_that_does_not_read_is_cut_instead_of_filling_the_memory() {
    let mut stage = Stage::new();
    let far = stage.connect(peer(1));

    for _ in 0..2 {
        for _ in 0..=MAX_FRAMES {
            let _ = far.address.tell(Command::Deliver(Box::new(ToNode::Relays(Vec::new()))));
        }
        stage.universe.settle();
    }

    assert!(far.address.has_ended());
    assert!(stage.detached(1));
}

#[test]
fn the_same_node_again_replaces_its_older_session() {
    let mut stage = Stage::new();
    let mut first = stage.connect(peer(1));

    let second = stage.connect(peer(2));

    assert!(matches!(first.read(&stage), Err(SessionError::Closed(CloseReason::Replaced))));
    assert!(first.address.has_ended() && !second.address.has_ended());
    let heard = stage.heard();
    assert!(matches!(
        heard[..],
        [
            grant_office::Command::Attach { connection: 1, .. },
            grant_office::Command::Detach { connection: 1, .. },
            grant_office::Command::Attach { connection: 2, .. }
        ]
    ));
}

#[test]
fn nonsense_ends_only_the_session_that_it_came_over() {
    let mut stage = Stage::new();
    let mut bad = stage.connect(peer(1));
    let other = Peer {
        node: Node::Gateway(GatewayId(uuid::Uuid::from_u128(2))),
        key: "default/gateway/office-2".into(),
        ..peer(2)
    };
    let good = stage.connect(other);

    bad.address.tell(Command::Frame(vec![0xff; 100])).unwrap();
    stage.universe.settle();

    assert!(matches!(bad.read(&stage), Err(SessionError::Closed(CloseReason::BadMessage))));
    assert!(bad.address.has_ended() && !good.address.has_ended());
    assert!(stage.detached(1));
}

#[test]
fn a_sign_in_that_ends_takes_its_session_along() {
    let mut stage = Stage::new();
    let until = Some(noon() + Duration::from_secs(60));
    let mut far = stage.connect(Peer { until, ..peer(1) });

    for _ in 0..13 {
        stage.universe.advance(Duration::from_secs(4));
        far.read(&stage).unwrap();
        stage.universe.settle();
    }
    let before = far.address.has_ended();
    stage.universe.advance(Duration::from_secs(9));

    assert!(!before);
    assert!(matches!(far.read(&stage), Err(SessionError::Closed(CloseReason::BadToken))));
}

#[test]
fn a_node_that_asks_without_end_is_cut() {
    let mut stage = Stage::new();
    let far = &mut stage.connect(peer(1));

    for _ in 0..300 {
        far.node.send(FromNode::Candidates(Vec::new())).unwrap();
        let Some(NodeOutput::Send(bytes)) = far.node.poll_output() else { panic!("nothing to send") };
        let _ = far.address.tell(Command::Frame(bytes));
    }
    stage.universe.settle();

    assert!(far.address.has_ended());
    let said = |command: &grant_office::Command| matches!(command, grant_office::Command::Said { .. });
    assert_eq!(stage.heard().iter().filter(|command| said(command)).count(), 200);
}

/// A commit that changed nothing, in this place of the log.
fn noted(sequence: u64) -> directory::Command {
    let changes = vec![Change { sequence, action: Action::Noted }];
    directory::Command::Changed(Arc::new(Committed { account: AccountId(uuid::Uuid::from_u128(1)), changes }))
}

#[test]
fn after_a_gap_in_the_log_each_session_is_held_against_what_is_stored() {
    let mut stage = Stage::new();
    let office = site("office");
    let (kept, lost) = (token(TokenKind::Gateway, "kept"), token(TokenKind::Gateway, "lost"));
    let gateways = [gateway("office-1", &office, 1).0, gateway("office-2", &office, 2).0];
    let session = |connection, gateway: &crate::model::Gateway, token: TokenId| Peer {
        node: Node::Gateway(gateway.id),
        key: format!("default/gateway/{}", gateway.name),
        token,
        ..peer(connection)
    };
    let stays = stage.connect(session(1, &gateways[0], kept.id));
    let mut goes = stage.connect(session(2, &gateways[1], lost.id));
    // The second token was deleted in a commit that never came here.
    let stored: Vec<Object> =
        vec![kept.into(), gateways[0].clone().into(), gateways[1].clone().into(), office.into()];
    stage.stored.0.lock().unwrap().objects = stored;

    for sequence in [7, 8] {
        stage.directory.tell(noted(sequence)).unwrap();
    }
    stage.universe.settle();
    assert!(!stays.address.has_ended() && !goes.address.has_ended(), "nothing was missed");
    stage.directory.tell(noted(10)).unwrap();
    stage.universe.settle();

    assert!(matches!(goes.read(&stage), Err(SessionError::Closed(CloseReason::BadToken))));
    assert!(goes.address.has_ended() && !stays.address.has_ended());
}
