//! One connected client, gateway or relay.
//!
//! - Parent: [`Directory`](crate::directory::Directory), one child for each connected node.
//! - Core: [`ControlEnd`], a pure machine.
//! - When it dies: the node's socket is closed; it reconnects and receives its full state.
//!
//! Told by: the socket's reader ([`Command::Frame`], [`Command::Gone`]), the [`GrantOffice`] or [`RelayRegistry`]
//! ([`Command::Deliver`]). Tells: the office or the registry what the node says, the [`FlowBook`] of flows. Bounded both ways: the reader waits while
//! the mailbox is full, so that the node's own socket fills; what goes out has a limit of frames and bytes, and a node that
//! does not read is cut.

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use actors_runtime::{Actor, Address, Cx, Never};
use jiff::Timestamp;
use protocol_control::{
    CloseReason, ControlEnd, ControlOutput, FromNode, MAX_FLOWS, RelayState, ToNode, Welcome,
};
use protocol_identity::{AccountId, DeviceId, GatewayId, PrincipalId, RelayId, TokenId};
use tokio::time::Instant;

use crate::clock::Clock;
use crate::flow_book::{self, FlowBook};
use crate::grant_office::{self, GrantOffice};
use crate::keys;
use crate::link::LinkSender;
use crate::relay_registry::{self, RelayRegistry};

/// Requests that a node may send at once, and the rate at which it gets them back.
const BURST: u32 = 200;
const PER_SECOND: u32 = 50;

/// A connected node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Node {
    /// A client.
    Device(DeviceId),
    /// A gateway.
    Gateway(GatewayId),
    /// A relay.
    Relay(RelayId),
}

/// Who is at the other end of a session.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The node.
    pub node: Node,
    /// Its account.
    pub account: AccountId,
    /// The account's name: the key of its office.
    pub office: String,
    /// `<account>/<role>/<name>`: the session's key.
    pub key: String,
    /// The token it came with.
    pub token: TokenId,
    /// When its sign-in ends, for a client.
    pub until: Option<Timestamp>,
    /// The principal, for a client.
    pub principal: Option<PrincipalId>,
    /// Its address as control sees it.
    pub source: Option<IpAddr>,
    /// Tells this session from others of the same node.
    pub connection: u64,
}

/// What a session can be told.
#[derive(Debug)]
pub enum Command {
    /// One binary message came in.
    Frame(Vec<u8>),
    /// Say this to the node.
    Deliver(Box<ToNode>),
    /// The socket is closed.
    Gone,
}

/// One connected node.
pub struct DeviceSession {
    peer: Peer,
    /// Taken over from the greeting; `None` only if the runtime started the session twice.
    end: Option<ControlEnd>,
    link: Option<LinkSender>,
    clock: Clock,
    /// The instant at which the machine's time began.
    start: Instant,
    farewell: Rc<Cell<CloseReason>>,
    tokens: f64,
    filled: Instant,
    talks: Talks,
}

/// Where a node's words go.
#[derive(Clone)]
pub(crate) enum Talks {
    ToOffice(Address<GrantOffice>),
    ToRegistry(Address<RelayRegistry>, Box<relay_registry::Introduced>),
}

/// What a session starts with.
pub(crate) struct Start {
    pub end: ControlEnd,
    pub link: LinkSender,
    pub start: Instant,
}

impl DeviceSession {
    /// A session is built once: [`Start`] is gone after that, and the row says that it is never restarted.
    pub(crate) fn new(
        peer: Peer,
        farewell: Rc<Cell<CloseReason>>,
        talks: Talks,
        clock: Clock,
        rest: Option<Start>,
    ) -> Self {
        let now = actors_runtime::time::now();
        let (end, link, start) = match rest {
            Some(Start { end, link, start }) => (Some(end), Some(link), start),
            None => (None, None, now),
        };
        Self { peer, end, link, clock, start, farewell, tokens: f64::from(BURST), filled: now, talks }
    }

    fn machine_time(&self, cx: &Cx<Self>) -> Duration {
        cx.now().saturating_duration_since(self.start)
    }

    /// Ends the session with a last message that says why.
    fn close(&mut self, reason: CloseReason, cx: &mut Cx<Self>) {
        self.farewell.set(reason);
        cx.stop();
    }

    /// Carries out what the machine wants, and sets the next deadline.
    fn settle(&mut self, cx: &mut Cx<Self>) {
        while let Some(output) = self.end.as_mut().and_then(ControlEnd::poll_output) {
            match output {
                ControlOutput::Send(bytes) => {
                    if self.link.as_ref().is_none_or(|link| link.send(bytes).is_err()) {
                        tracing::debug!(node = %self.peer.key, "the node does not read fast enough");
                        // The last message would not get through either.
                        self.link = None;
                        return self.close(CloseReason::TooSlow, cx);
                    }
                }
                // The greeting took the introduction; the machine refuses a second one.
                ControlOutput::Introduced(_) => {}
                ControlOutput::Message(message) => self.heard(message, cx),
            }
        }
        let Some(end) = &self.end else { return };
        let mut deadline = self.start + end.poll_timeout();
        if let Some(until) = self.peer.until {
            let left = Duration::try_from(until.duration_since(self.clock.now())).unwrap_or_default();
            deadline = deadline.min(cx.now() + left);
        }
        cx.wake_at(deadline);
    }

    /// Says something to the node.
    fn deliver(&mut self, message: &ToNode, cx: &mut Cx<Self>) {
        if let Some(end) = &mut self.end
            && let Err(error) = end.send(message)
        {
            tracing::error!(%error, node = %self.peer.key, "a message could not be encoded");
            return self.close(CloseReason::TooSlow, cx);
        }
        self.settle(cx);
    }

    /// Whether the node may ask once more. It gets [`PER_SECOND`] requests back each second.
    fn may_ask(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = now;
        self.tokens = (self.tokens + passed * f64::from(PER_SECOND)).min(f64::from(BURST));
        let may = self.tokens >= 1.0;
        if may {
            self.tokens -= 1.0;
        }
        may
    }

    /// The node said something.
    fn heard(&mut self, message: FromNode, cx: &mut Cx<Self>) {
        let message = match (self.peer.node, message) {
            (Node::Gateway(gateway), FromNode::Flows(batch)) if batch.flows.len() <= MAX_FLOWS => {
                let session = cx.me().clone();
                let reported = flow_book::Reported { account: self.peer.account, gateway, session, batch };
                let book = cx.address_of::<FlowBook>(keys::ONLY);
                if book.tell(flow_book::Command::Store(reported)).is_err() {
                    // It is not confirmed, and so comes again.
                    cx.count_drop("flow_book_full", 1);
                }
                return;
            }
            (_, message) => message,
        };
        let fits = matches!(
            (&self.peer.node, &message),
            (Node::Device(_), FromNode::RequestAccess(_))
                | (
                    Node::Gateway(_),
                    FromNode::Applied(_) | FromNode::Refused { .. } | FromNode::Ended { .. }
                )
                | (
                    Node::Device(_) | Node::Gateway(_),
                    FromNode::Candidates(_) | FromNode::RelayRoundTrips(_)
                )
                | (Node::Relay(_), FromNode::Draining)
        );
        if !fits {
            tracing::debug!(node = %self.peer.key, "a message that is not for this role");
            return self.close(CloseReason::BadMessage, cx);
        }
        if matches!(
            message,
            FromNode::RequestAccess(_) | FromNode::Candidates(_) | FromNode::RelayRoundTrips(_)
        ) && !self.may_ask(cx.now())
        {
            cx.count_drop("control_rate", 1);
            return self.close(CloseReason::TooSlow, cx);
        }
        let taken = match &self.talks {
            Talks::ToOffice(office) => office
                .tell(grant_office::Command::Said {
                    node: self.peer.node,
                    connection: self.peer.connection,
                    message: Box::new(message),
                })
                .is_ok(),
            Talks::ToRegistry(registry, _) => {
                registry.tell(relay_registry::Command::Draining(self.peer.node, self.peer.connection)).is_ok()
            }
        };
        if !taken {
            // The office has too much to do: the node comes back with full state, later.
            cx.count_drop("office_full", 1);
            self.close(CloseReason::TooSlow, cx);
        }
    }

    /// Reports the node where its kind belongs.
    fn attach(&mut self, cx: &mut Cx<Self>) {
        let taken = match &self.talks {
            Talks::ToOffice(office) => office
                .tell(grant_office::Command::Attach {
                    node: self.peer.node,
                    connection: self.peer.connection,
                    source: self.peer.source,
                    session: cx.me().clone(),
                })
                .is_ok(),
            Talks::ToRegistry(registry, introduced) => {
                let told = registry.tell(relay_registry::Command::Attach(introduced.clone())).is_ok();
                if told && let Node::Relay(relay) = self.peer.node {
                    let welcome = Welcome::Relay(RelayState { relay });
                    self.deliver(&ToNode::Welcome(Box::new(welcome)), cx);
                }
                told
            }
        };
        if !taken {
            self.close(CloseReason::TooSlow, cx);
        }
    }
}

impl Actor for DeviceSession {
    const KIND: &'static str = "DeviceSession";
    type Command = Command;
    type Packets = Never;

    fn started(&mut self, cx: &mut Cx<Self>) {
        if self.end.is_none() {
            return cx.stop();
        }
        self.attach(cx);
        self.settle(cx);
    }

    fn told(&mut self, command: Command, cx: &mut Cx<Self>) {
        match command {
            Command::Frame(bytes) => {
                let now = self.machine_time(cx);
                if let Some(end) = &mut self.end
                    && let Err(error) = end.handle_frame(&bytes, now)
                {
                    tracing::debug!(%error, node = %self.peer.key, "session ends");
                    return self.close(CloseReason::BadMessage, cx);
                }
                self.settle(cx);
            }
            Command::Deliver(message) => self.deliver(&message, cx),
            Command::Gone => {
                self.link = None;
                cx.stop();
            }
        }
    }

    fn woken(&mut self, cx: &mut Cx<Self>) {
        if self.peer.until.is_some_and(|until| until <= self.clock.now()) {
            return self.close(CloseReason::BadToken, cx);
        }
        let now = self.machine_time(cx);
        if let Some(end) = &mut self.end
            && let Err(error) = end.handle_timeout(now)
        {
            tracing::debug!(%error, node = %self.peer.key, "session ends");
            self.link = None;
            return self.close(CloseReason::TooSlow, cx);
        }
        self.settle(cx);
    }

    fn stopped(&mut self, _cx: &mut Cx<Self>) {
        let (Some(end), Some(link)) = (&mut self.end, &self.link) else { return };
        if end.send(&ToNode::Close(self.farewell.get())).is_ok() {
            while let Some(output) = end.poll_output() {
                if let ControlOutput::Send(bytes) = output {
                    // A node that does not read finds its socket closed.
                    let _ = link.send(bytes);
                }
            }
        }
    }
}
