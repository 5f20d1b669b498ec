//! The actors of these tests: a table and its peers.
#![allow(dead_code)]

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use actors_runtime::{
    Actor, Address, Child, ChildEnded, Cx, Full, HandoverReceiver, How, Intensity, LaneKind, Never, Restart,
    Row,
};

/// What happened, in order: `(who, what)`.
#[derive(Clone, Default)]
pub struct Log(Rc<RefCell<Vec<(String, Event)>>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Started,
    Stopped,
    Note(u32),
    Packet(u32),
    Woken,
    ChildEnded(How),
}

impl Log {
    pub fn add(&self, who: &str, event: Event) {
        self.0.borrow_mut().push((who.to_string(), event));
    }

    pub fn all(&self) -> Vec<(String, Event)> {
        self.0.borrow().clone()
    }

    pub fn of(&self, who: &str) -> Vec<Event> {
        self.0.borrow().iter().filter(|(name, _)| name == who).map(|(_, event)| *event).collect()
    }

    pub fn notes(&self, who: &str) -> Vec<u32> {
        self.of(who)
            .iter()
            .filter_map(|event| if let Event::Note(n) = event { Some(*n) } else { None })
            .collect()
    }

    pub fn packets(&self, who: &str) -> Vec<u32> {
        self.of(who)
            .iter()
            .filter_map(|event| if let Event::Packet(n) = event { Some(*n) } else { None })
            .collect()
    }

    pub fn starts(&self, who: &str) -> usize {
        self.of(who).iter().filter(|event| **event == Event::Started).count()
    }
}

/// A peer that notes what it is told.
pub struct Peer {
    pub log: Log,
    pub incoming: Option<HandoverReceiver<Vec<u32>>>,
}

pub enum Do {
    Note(u32),
    /// Notes the number and tells itself the next lower one.
    CountDown(u32),
    Watch(Address<Peer>),
    Panic,
    PanicInFuture,
    FinishLater(u32),
    WakeAfter(Duration),
    WakeNever,
    Stop,
    Fail,
}

impl Actor for Peer {
    const KIND: &'static str = "Peer";
    type Command = Do;
    type Packets = Vec<u32>;

    fn started(&mut self, cx: &mut Cx<Self>) {
        self.log.add(cx.key(), Event::Started);
        if let Some(incoming) = &self.incoming {
            cx.follow(incoming.clone(), |me, batch, cx| me.received(batch, cx));
        }
    }

    fn told(&mut self, command: Do, cx: &mut Cx<Self>) {
        match command {
            Do::Note(number) => self.log.add(cx.key(), Event::Note(number)),
            Do::CountDown(number) => {
                self.log.add(cx.key(), Event::Note(number));
                if number > 0 {
                    cx.me().tell(Do::CountDown(number - 1)).unwrap();
                }
            }
            Do::Watch(other) => {
                cx.watch(&other, |how| Do::Note(if how == How::Stopped { 1 } else { 0 }));
            }
            Do::Panic => panic!("told to"),
            Do::PanicInFuture => {
                cx.spawn(async { panic!("told to, in a future") }, |_, (): (), _| {});
            }
            Do::FinishLater(number) => {
                let pause = cx.sleep(Duration::from_secs(1));
                cx.spawn(pause, move |me, (), cx| me.log.add(cx.key(), Event::Note(number)));
            }
            Do::WakeAfter(pause) => cx.wake_after(pause),
            Do::WakeNever => cx.wake_never(),
            Do::Stop => cx.stop(),
            Do::Fail => cx.fail(),
        }
    }

    fn received(&mut self, packets: Vec<u32>, cx: &mut Cx<Self>) {
        for packet in packets {
            assert_ne!(packet, POISON, "a packet that is not survived");
            self.log.add(cx.key(), Event::Packet(packet));
        }
    }

    fn woken(&mut self, cx: &mut Cx<Self>) {
        self.log.add(cx.key(), Event::Woken);
    }

    fn stopped(&mut self, cx: &mut Cx<Self>) {
        self.log.add(cx.key(), Event::Stopped);
    }

    fn count(packets: &Vec<u32>) -> u64 {
        packets.len() as u64
    }
}

/// The packet that a peer panics over.
pub const POISON: u32 = 666;

pub fn peer(log: &Log) -> impl FnMut() -> Peer + 'static {
    let log = log.clone();
    move || Peer { log: log.clone(), incoming: None }
}

/// A parent of peers. Those named in `keys` are started again with it.
pub struct Table {
    pub log: Log,
    pub children: Rc<RefCell<Vec<Child<Peer>>>>,
    pub keys: Rc<RefCell<Vec<&'static str>>>,
}

pub enum TableDo {
    Add(&'static str),
    Remove(&'static str),
    Panic,
    Stop,
}

impl Actor for Table {
    const KIND: &'static str = "Table";
    type Command = TableDo;
    type Packets = Never;

    fn started(&mut self, cx: &mut Cx<Self>) {
        self.log.add("table", Event::Started);
        self.children.borrow_mut().clear();
        for key in self.keys.borrow().iter() {
            let child = cx.start_child(*key, peer(&self.log)).unwrap();
            self.children.borrow_mut().push(child);
        }
    }

    fn told(&mut self, command: TableDo, cx: &mut Cx<Self>) {
        match command {
            TableDo::Add(key) => {
                let child = cx.start_child(key, peer(&self.log)).unwrap();
                self.children.borrow_mut().push(child);
                self.keys.borrow_mut().push(key);
            }
            TableDo::Remove(key) => assert!(cx.stop_child::<Peer>(key)),
            TableDo::Panic => panic!("told to"),
            TableDo::Stop => cx.stop(),
        }
    }

    fn child_ended(&mut self, child: ChildEnded, cx: &mut Cx<Self>) {
        self.log.add(&format!("end of {}", child.key), Event::ChildEnded(child.how));
        if child.how == How::GaveUp {
            cx.fail();
        }
    }

    fn stopped(&mut self, _: &mut Cx<Self>) {
        self.log.add("table", Event::Stopped);
    }
}

pub fn table(log: &Log, children: &Rc<RefCell<Vec<Child<Peer>>>>) -> impl FnMut() -> Table + 'static {
    let (log, children) = (log.clone(), Rc::clone(children));
    let keys = Rc::default();
    move || Table { log: log.clone(), children: Rc::clone(&children), keys: Rc::clone(&keys) }
}

/// A table of actors with this mailbox for peers.
pub fn rows(mailbox: usize, full: Full) -> [Row<()>; 2] {
    rows_with(mailbox, full, Restart::Always, 3)
}

pub fn rows_with(mailbox: usize, full: Full, restart: Restart, restarts: u32) -> [Row<()>; 2] {
    let intensity = Intensity { restarts, within: Duration::from_secs(60) };
    [
        Row {
            kind: "Table",
            parent: "-",
            each: "process",
            lane: LaneKind::Packet,
            mailbox: 8,
            full: Full::Refuse,
            ring: 0,
            restart: Restart::Always,
            intensity: Intensity { restarts: 1, within: Duration::from_secs(600) },
            start: None,
        },
        Row {
            kind: "Peer",
            parent: "Table",
            each: "device",
            lane: LaneKind::Packet,
            mailbox,
            full,
            ring: 4,
            restart,
            intensity,
            start: None,
        },
    ]
}
