//! The flows that ended at this gateway, until control has stored them.
//!
//! - Parent: none (a root on a control lane).
//! - Core: [`Spool`], bounded and in order.
//! - When it dies: the spool is kept, and what is under way is sent again; control stores each batch once. Flows that end
//!   meanwhile wait in the mailbox; what has no room there is counted.
//!
//! While control is away the spool is written to a file every [`SAVE_EVERY`], so that a process that ends loses no more
//! than that.

mod file;

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actors_runtime::{Actor, Address, Cx, Never};
use actors_tunnel::{EndedFlow, lasting_time};
use protocol_control::{Flow, FlowPath, FromNode, Spool};
use protocol_traversal::PathKind;
use tokio::time::Instant;

use crate::control_session::{self, ControlSession};
use file::{Plan, SpoolFile};

/// How often what control has not confirmed is written to the file.
const SAVE_EVERY: Duration = Duration::from_secs(2);

/// What the log can be told.
pub enum FlowLogCommand {
    /// Flows have ended.
    Ended(Vec<EndedFlow>),
    /// The session with control is up.
    Up {
        /// Whether that control stores flows.
        takes_flows: bool,
    },
    /// The session with control is down.
    Down,
    /// Control has stored a batch, and all before it in its stream.
    Stored {
        /// The batch's stream.
        stream: u64,
        /// Its number.
        sequence: u64,
    },
}

/// What became of flow records, for metrics and `status`.
#[derive(Debug, Default)]
pub struct FlowMeter {
    dropped: AtomicU64,
    stored: AtomicU64,
    waiting: AtomicU64,
}

impl FlowMeter {
    /// Records that had no room in the mailbox or the spool.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Records that control has confirmed.
    pub fn stored(&self) -> u64 {
        self.stored.load(Ordering::Relaxed)
    }

    /// Records that wait for control.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Counts records that did not get as far as the log.
    pub fn count_dropped(&self, records: u64) {
        self.dropped.fetch_add(records, Ordering::Relaxed);
    }
}

/// What outlives the log's incarnations; made on its lane.
#[derive(Clone)]
pub struct KeptFlows {
    spool: Rc<RefCell<Spool>>,
    file: Option<Arc<Mutex<SpoolFile>>>,
    meter: Arc<FlowMeter>,
    begun: Instant,
}

impl KeptFlows {
    /// A spool of at most `most` bytes, with what the file of an earlier process still holds. Without a file, and with one
    /// that cannot be used, records are kept in memory alone.
    pub fn open(path: Option<&Path>, most: usize, meter: Arc<FlowMeter>) -> Self {
        let mut spool = Spool::new(rand::random(), most);
        let opened = path.map(|path| SpoolFile::open(path, most));
        let file = match opened {
            Some(Ok((file, batches))) => {
                batches.into_iter().for_each(|batch| spool.restore(batch));
                Some(Arc::new(Mutex::new(file)))
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "the file of flow records cannot be used: an outage longer than this process loses them");
                None
            }
            None => None,
        };
        Self { spool: Rc::new(RefCell::new(spool)), file, meter, begun: actors_runtime::time::now() }
    }
}

/// The log of flows.
pub struct FlowLog {
    kept: KeptFlows,
    control: Address<ControlSession>,
    save_at: Option<Instant>,
    saving: bool,
    is_saved: bool,
}

impl FlowLog {
    /// A log over what its lane keeps.
    pub fn new(kept: KeptFlows, control: Address<ControlSession>) -> Self {
        Self { kept, control, save_at: None, saving: false, is_saved: true }
    }

    fn time(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.kept.begun)
    }

    /// Sends what may be sent, and sets the alarm.
    fn settle(&mut self, cx: &mut Cx<Self>) {
        let now = cx.now();
        let time = self.time(now);
        let mut spool = self.kept.spool.borrow_mut();
        while let Some(batch) = spool.poll_output(time) {
            let message = FromNode::Flows(Box::new(batch));
            if self.control.tell(control_session::Command::Say(Box::new(message))).is_err() {
                // It is sent again when it is not confirmed.
                cx.count_drop("control_outgoing_full", 1);
            }
        }
        let dropped = spool.take_dropped();
        if dropped > 0 {
            tracing::warn!(dropped, "the oldest flow records had no room while control was away");
            self.kept.meter.count_dropped(dropped);
        }
        self.kept.meter.waiting.store(spool.len() as u64, Ordering::Relaxed);
        if self.kept.file.is_some() && !self.is_saved {
            self.save_at.get_or_insert(now + SAVE_EVERY);
        }
        let due = spool.poll_timeout().map(|due| self.kept.begun + due);
        match due.into_iter().chain(self.save_at).min() {
            Some(at) => cx.wake_at(at),
            None => cx.wake_never(),
        }
    }

    /// Writes what is not in the file yet, beside the lane.
    fn save(&mut self, cx: &mut Cx<Self>) {
        let Some(file) = self.kept.file.clone() else { return };
        if std::mem::replace(&mut self.saving, true) {
            // Once more when that is through.
            self.save_at = Some(cx.now() + SAVE_EVERY);
            return;
        }
        self.is_saved = true;
        let plan = self.plan(&file);
        let written = tokio::task::spawn_blocking(move || lock(&file).carry_out(plan));
        cx.spawn(written, |log, written, cx| {
            log.saving = false;
            if let Ok(Err(error)) = written {
                tracing::warn!(%error, "flow records cannot be written to their file");
                log.is_saved = false;
            }
            log.settle(cx);
        });
    }

    fn plan(&self, file: &Mutex<SpoolFile>) -> Plan {
        let mut spool = self.kept.spool.borrow_mut();
        spool.seal();
        lock(file).plan(spool.batches())
    }
}

fn lock(file: &Mutex<SpoolFile>) -> std::sync::MutexGuard<'_, SpoolFile> {
    file.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A flow as control stores it.
fn flow(ended: EndedFlow) -> Flow {
    let EndedFlow { device, path, record } = ended;
    let (lasting, unix) = (lasting_time(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
    let wall = |at: Duration| {
        let at = unix.saturating_sub(lasting.saturating_sub(at));
        i64::try_from(at.as_millis()).unwrap_or(i64::MAX)
    };
    Flow {
        grant: record.grant,
        device,
        resource: record.resource,
        policy: record.policy,
        protocol: record.protocol,
        from: record.device,
        to: record.destination,
        name: record.name,
        real: record.real,
        path: path.map(|path| match path {
            PathKind::Direct => FlowPath::Direct,
            PathKind::Relayed => FlowPath::Relayed,
        }),
        started: wall(record.started),
        ended: wall(record.last),
        packets_in: record.packets_in,
        bytes_in: record.bytes_in,
        packets_out: record.packets_out,
        bytes_out: record.bytes_out,
        end: record.end,
    }
}

impl Actor for FlowLog {
    const KIND: &'static str = "FlowLog";
    type Command = FlowLogCommand;
    type Packets = Never;

    fn started(&mut self, cx: &mut Cx<Self>) {
        self.settle(cx);
    }

    fn told(&mut self, command: FlowLogCommand, cx: &mut Cx<Self>) {
        let time = self.time(cx.now());
        {
            let mut spool = self.kept.spool.borrow_mut();
            match command {
                FlowLogCommand::Ended(flows) => {
                    flows.into_iter().for_each(|ended| spool.handle_flow(flow(ended), time));
                    self.is_saved = false;
                }
                FlowLogCommand::Up { takes_flows: true } => spool.handle_up(),
                FlowLogCommand::Up { takes_flows: false } => {
                    tracing::warn!("this control is older than the gateway and stores no flow records");
                    spool.handle_down();
                }
                FlowLogCommand::Down => spool.handle_down(),
                FlowLogCommand::Stored { stream, sequence } => {
                    let before = spool.len();
                    spool.handle_stored((stream, sequence), time);
                    let stored = before.saturating_sub(spool.len()) as u64;
                    self.kept.meter.stored.fetch_add(stored, Ordering::Relaxed);
                    self.is_saved = false;
                }
            }
        }
        self.settle(cx);
    }

    fn woken(&mut self, cx: &mut Cx<Self>) {
        let now = cx.now();
        self.kept.spool.borrow_mut().handle_timeout(self.time(now));
        if self.save_at.is_some_and(|at| at <= now) {
            self.save_at = None;
            self.save(cx);
        }
        self.settle(cx);
    }

    fn stopped(&mut self, _cx: &mut Cx<Self>) {
        let Some(file) = &self.kept.file else { return };
        let plan = self.plan(file);
        if let Err(error) = lock(file).carry_out(plan) {
            tracing::warn!(%error, "flow records that control has not confirmed are lost");
        }
    }
}
