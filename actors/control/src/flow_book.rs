//! What passed between devices and resources, as gateways report it. And for how long that is kept.
//!
//! - Parent: none; one for each process.
//! - Core: a queue, in front of [`Storage`], which stores each batch once.
//! - When it dies: batches that wait are not confirmed, and their gateways send them again.
//!
//! Told by: sessions of gateways. Tells: those sessions, when a batch is stored.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use actors_runtime::{Actor, Address, Cx, Never};
use protocol_control::{FlowBatch, ToNode};
use protocol_identity::{AccountId, GatewayId};

use crate::clock::Clock;
use crate::device_session::{self, DeviceSession};
use crate::storage::Storage;

/// Batches of one gateway that wait: twice what it has under way, because a session may have begun anew.
const MOST_OF_ONE: usize = 8;
/// Batches of all gateways that wait; at 64 flows of 350 bytes each this is some 50 MB.
const MOST: usize = 2048;
/// How often it is looked for flows that are too old.
const TRIM_EVERY: Duration = Duration::from_secs(3600);
/// Flows that are deleted in one transaction: other writes wait no longer than that.
const TRIM_AT_ONCE: usize = 2000;
/// The pause between two such transactions, in which others write.
const TRIM_PAUSE: Duration = Duration::from_millis(50);

/// A batch that came in.
#[derive(Debug)]
pub struct Reported {
    /// The account of the gateway.
    pub account: AccountId,
    /// The gateway.
    pub gateway: GatewayId,
    /// Its session, which hears when the batch is stored.
    pub session: Address<DeviceSession>,
    /// The flows.
    pub batch: Box<FlowBatch>,
}

/// What the book can be told.
#[derive(Debug)]
pub enum Command {
    /// Store these flows, and say so when they are stored.
    Store(Reported),
}

/// The book of flows.
pub struct FlowBook {
    storage: Arc<dyn Storage>,
    clock: Clock,
    keep: Duration,
    waiting: VecDeque<Reported>,
    of_one: BTreeMap<GatewayId, usize>,
    storing: bool,
    failing: bool,
}

impl FlowBook {
    /// A book that keeps flows for so long.
    pub fn new(storage: Arc<dyn Storage>, clock: Clock, keep: Duration) -> Self {
        Self {
            storage,
            clock,
            keep,
            waiting: VecDeque::new(),
            of_one: BTreeMap::new(),
            storing: false,
            failing: false,
        }
    }

    fn next(&mut self, cx: &mut Cx<Self>) {
        if self.storing {
            return;
        }
        let Some(Reported { account, gateway, session, batch }) = self.waiting.pop_front() else { return };
        self.storing = true;
        let (storage, at) = (Arc::clone(&self.storage), self.clock.now());
        let (stream, sequence) = batch.id();
        let stored = async move { storage.store_flows(account, gateway, *batch, at).await };
        cx.spawn(stored, move |book, stored, cx| {
            book.storing = false;
            if let Some(count) = book.of_one.get_mut(&gateway) {
                *count -= 1;
                if *count == 0 {
                    book.of_one.remove(&gateway);
                }
            }
            match stored {
                Ok(_) => {
                    book.failing = false;
                    let told = ToNode::FlowsStored { stream, sequence };
                    // A session that has no room, or has ended, hears of it when its gateway sends the batch again.
                    let _ = session.tell(device_session::Command::Deliver(Box::new(told)));
                }
                Err(error) => {
                    // Once for each time that it begins; the gateway sends it again.
                    if !std::mem::replace(&mut book.failing, true) {
                        let error = crate::store::with_cause(&error);
                        tracing::warn!(error, "flows cannot be stored; gateways keep them meanwhile");
                    }
                }
            }
            book.next(cx);
        });
    }

    /// Forgets what is too old, a part at a time.
    fn trim(&mut self, cx: &mut Cx<Self>) {
        let Ok(before) = self.clock.now().checked_sub(self.keep) else { return };
        let storage = Arc::clone(&self.storage);
        let trimmed = async move {
            let mut rows = 0;
            for account in storage.accounts().await? {
                loop {
                    let part = storage.trim_flows(account.id, before, TRIM_AT_ONCE).await?;
                    rows += part;
                    if part < TRIM_AT_ONCE as u64 {
                        break;
                    }
                    actors_runtime::time::sleep(TRIM_PAUSE).await;
                }
            }
            Ok::<u64, crate::storage::StorageError>(rows)
        };
        cx.spawn(trimmed, |_, trimmed, cx| {
            match trimmed {
                Ok(0) => {}
                Ok(rows) => tracing::info!(rows, "flows that were kept long enough are deleted"),
                Err(error) => tracing::warn!(%error, "old flows could not be deleted"),
            }
            cx.wake_after(TRIM_EVERY);
        });
    }
}

impl Actor for FlowBook {
    const KIND: &'static str = "FlowBook";
    type Command = Command;
    type Packets = Never;

    fn started(&mut self, cx: &mut Cx<Self>) {
        self.trim(cx);
    }

    fn told(&mut self, Command::Store(reported): Command, cx: &mut Cx<Self>) {
        let count = self.of_one.entry(reported.gateway).or_default();
        if *count >= MOST_OF_ONE || self.waiting.len() >= MOST {
            return cx.count_drop("flow_book_full", 1);
        }
        *count += 1;
        self.waiting.push_back(reported);
        self.next(cx);
    }

    fn woken(&mut self, cx: &mut Cx<Self>) {
        self.trim(cx);
    }
}
