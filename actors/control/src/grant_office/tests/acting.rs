//! The actor with its neighbours as inboxes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use actors_runtime::{Full, Inbox, Intensity, LaneKind, Restart, Row, Universe};
use protocol_control::{FromNode, RequestAccess, ToNode};

use super::world::*;
use crate::clock::Clock;
use crate::countries::Countries;
use crate::device_session::{self, DeviceSession, Node};
use crate::directory::{self, Directory};
use crate::grant_office::{Command, GrantOffice};
use crate::keys::ONLY;
use crate::model::{Kind, Object};
use crate::relay_registry::{self, RelayRegistry, Relays};
use crate::storage::{Action, Change, Committed, Everything, Op};
use crate::store::{self, Store};
use crate::testing::*;

const ROWS: &[Row<()>] = &[
    row("Store", "-", 64),
    row("RelayRegistry", "-", 64),
    row("Directory", "-", 64),
    row("DeviceSession", "Directory", 2),
    row("GrantOffice", "-", 64),
];

const fn row(kind: &'static str, parent: &'static str, mailbox: usize) -> Row<()> {
    Row {
        kind,
        parent,
        each: "test",
        lane: LaneKind::Control,
        mailbox,
        full: Full::Refuse,
        ring: 0,
        restart: Restart::Always,
        intensity: Intensity { restarts: 5, within: Duration::from_secs(60) },
        start: None,
    }
}

struct Stage {
    universe: Universe,
    office: actors_runtime::Address<GrantOffice>,
    store: Inbox<Store>,
    directory: Inbox<Directory>,
    device: Inbox<DeviceSession>,
    gateway: Inbox<DeviceSession>,
    world: World,
    sequence: u64,
}

impl Stage {
    fn new() -> Self {
        let world = World::new();
        let objects: Vec<Object> = vec![
            world.site.clone().into(),
            world.ci.clone().into(),
            world.engineering.clone().into(),
            world.lan.clone().into(),
            world.policy.clone().into(),
            world.gateway.0.clone().into(),
            world.device.0.clone().into(),
        ];
        let universe = Universe::new(ROWS);
        let store = universe.inbox::<Store>(ONLY);
        let registry = universe.inbox::<RelayRegistry>(ONLY);
        let directory = universe.inbox::<Directory>(ONLY);
        let device = universe.inbox::<DeviceSession>("laptop");
        let gateway = universe.inbox::<DeviceSession>("office-1");
        let storage = Arc::new(Memory(Mutex::new(Everything { sequence: 101, objects })));
        let account = world.account;
        let clock = Clock::From(noon(), universe.instant());
        let office = universe
            .start::<GrantOffice>("default", move || {
                GrantOffice::new(account, DAY, Arc::clone(&storage) as _, Countries::default(), clock)
            })
            .unwrap()
            .address;
        let mut stage = Self { universe, office, store, directory, device, gateway, world, sequence: 101 };
        stage.universe.settle();
        let Some(relay_registry::Command::Tell(account, reply)) = registry.take() else {
            panic!("not asked")
        };
        reply.send(Relays::new(account, Vec::new()));
        // The note that the office starts: its row is the epoch.
        stage.commit(Action::Noted);
        stage
    }

    /// Storage does what it is asked for next, and says so.
    fn commit(&mut self, action: Action) {
        let Some(store::Command::Write { reply, .. }) = self.store.take() else { panic!("nothing to write") };
        let change = Change { sequence: self.sequence, action };
        let committed = Arc::new(Committed { account: self.world.account, changes: vec![change] });
        self.sequence += 1;
        self.office.tell(Command::Changed(Arc::clone(&committed))).unwrap();
        if let Some(reply) = reply {
            reply.send(Ok(committed));
        }
        self.universe.settle();
    }

    fn connect(&mut self) {
        for (node, session) in [
            (Node::Gateway(self.world.gateway.0.id), self.gateway.address()),
            (Node::Device(self.world.device.0.id), self.device.address()),
        ] {
            let source = Some("198.51.100.7".parse().unwrap());
            self.office
                .tell(Command::Attach { node, connection: 1, source, session: session.clone() })
                .unwrap();
        }
        self.universe.settle();
    }

    fn says(&mut self, node: Node, message: FromNode) {
        self.office.tell(Command::Said { node, connection: 1, message: Box::new(message) }).unwrap();
        self.universe.settle();
    }

    fn heard(inbox: &mut Inbox<DeviceSession>) -> Vec<ToNode> {
        inbox
            .take_all()
            .into_iter()
            .map(|command| match command {
                device_session::Command::Deliver(message) => *message,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn grant(&mut self) {
        let (device, gateway) =
            (Node::Device(self.world.device.0.id), Node::Gateway(self.world.gateway.0.id));
        let offer = self.world.client.offer(&self.world.device.0, &self.world.device.1, self.world.lan.id);
        self.says(device, FromNode::RequestAccess(RequestAccess { request: 1, offer, name: None }));
        let Some(ToNode::Authorize(authorize)) = Self::heard(&mut self.gateway).pop() else {
            panic!("not asked")
        };
        let applied = self.world.applied(&authorize);
        self.says(gateway, FromNode::Applied(Box::new(applied)));
        assert!(Self::heard(&mut self.device).is_empty(), "not before it is stored");
        self.commit(Action::Noted);
    }
}

#[test]
fn a_grant_goes_from_the_request_over_the_gateway_and_storage_to_the_client() {
    let mut stage = Stage::new();
    stage.connect();
    assert!(matches!(Stage::heard(&mut stage.gateway)[..], [ToNode::Welcome(_)]));
    assert!(matches!(Stage::heard(&mut stage.device)[..], [ToNode::Welcome(_)]));

    stage.grant();

    assert!(matches!(Stage::heard(&mut stage.device)[..], [ToNode::Granted(_)]));
}

#[test]
fn what_comes_while_the_office_reads_waits_and_is_answered_in_order() {
    let stage = Stage::new();
    let (reply, mut answer) = actors_runtime::Reply::channel();

    stage.office.tell(Command::Settle(104, reply)).unwrap();
    stage.universe.settle();
    assert_eq!(answer.try_take(), None);
    for sequence in [102, 103, 104] {
        let change = Change { sequence, action: Action::Noted };
        let committed = Committed { account: stage.world.account, changes: vec![change] };
        stage.office.tell(Command::Changed(Arc::new(committed))).unwrap();
    }
    stage.universe.settle();

    assert_eq!(answer.try_take(), Some(()));
}

#[test]
fn when_a_revocation_is_settled_the_gateway_has_been_told() {
    let mut stage = Stage::new();
    stage.connect();
    Stage::heard(&mut stage.gateway);
    Stage::heard(&mut stage.device);
    stage.grant();
    let (reply, mut answer) = actors_runtime::Reply::channel();

    let action = Action::Deleted(Kind::Policy, stage.world.policy.id.0);
    let change = Change { sequence: stage.sequence, action };
    let committed = Committed { account: stage.world.account, changes: vec![change] };
    stage.office.tell(Command::Changed(Arc::new(committed))).unwrap();
    stage.office.tell(Command::Settle(stage.sequence, reply)).unwrap();
    stage.universe.settle();

    assert_eq!(answer.try_take(), Some(()));
    assert!(matches!(Stage::heard(&mut stage.gateway)[..], [ToNode::Revoke { .. }]));
    let Some(store::Command::Write { write, .. }) = stage.store.take() else { panic!("nothing to write") };
    assert!(matches!(&write.ops[..], [Op::End(..)]));
}

#[test]
fn a_session_that_does_not_take_a_message_is_cut_instead_of_going_on_without_it() {
    let mut stage = Stage::new();
    stage.connect();
    // The gateway's session takes nothing more: its mailbox holds two.
    stage.directory.take_all();
    while stage.gateway.address().tell(device_session::Command::Gone).is_ok() {}

    let offer = stage.world.client.offer(&stage.world.device.0, &stage.world.device.1, stage.world.lan.id);
    let node = Node::Device(stage.world.device.0.id);
    stage.says(node, FromNode::RequestAccess(RequestAccess { request: 1, offer, name: None }));

    let cut = stage.directory.take_all().into_iter().any(
        |command| matches!(command, directory::Command::Cut(Node::Gateway(id), 1) if id == stage.world.gateway.0.id),
    );
    assert!(cut);
}

#[test]
fn a_message_of_a_replaced_session_is_not_heard() {
    let mut stage = Stage::new();
    stage.connect();
    let node = Node::Gateway(stage.world.gateway.0.id);
    let session = stage.gateway.address().clone();
    stage.office.tell(Command::Attach { node, connection: 2, source: None, session }).unwrap();
    stage.office.tell(Command::Detach { node, connection: 1 }).unwrap();
    stage.universe.settle();
    Stage::heard(&mut stage.gateway);

    let offer = stage.world.client.offer(&stage.world.device.0, &stage.world.device.1, stage.world.lan.id);
    let device = Node::Device(stage.world.device.0.id);
    stage.says(device, FromNode::RequestAccess(RequestAccess { request: 1, offer, name: None }));
    let Some(ToNode::Authorize(authorize)) = Stage::heard(&mut stage.gateway).pop() else {
        panic!("not asked")
    };
    let applied = stage.world.applied(&authorize);
    stage.says(node, FromNode::Applied(Box::new(applied)));

    assert!(stage.store.take().is_none(), "an answer over the old session is not an answer");
}
