//! The session with control: connects, keeps it up, comes back after each loss.
//!
//! - Parent: none (a root on a control lane).
//! - Core: [`NodeSession`].
//! - When it dies: it connects again with back-off and jitter, and gets full state; packets go on meanwhile.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actors_runtime::{Actor, Cx, Never, Outlet, TaskHandle};
use futures_util::{SinkExt as _, StreamExt as _};
use protocol_control::{
    Backoff, CloseReason, FromNode, Introduction, NodeOutput, NodeSession, SessionError, ToNode, Welcome,
};
use protocol_identity::{IdentityKey, Token};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::connection::{ConnectError, Endpoint, Socket};

/// The first wait after a loss. Control is expected back quickly after a restart.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// The longest wait: what a thousand nodes may cost a control that just came back.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// The wait when control says that trying again will not help by itself.
const REFUSED_WAIT: Duration = Duration::from_secs(30);
/// Messages to control that wait for the socket.
const OUTGOING: usize = 256;

/// What the session can be told.
pub enum Command {
    /// Says something to control; dropped while the session is down, because full state follows when it is up.
    Say(Box<FromNode>),
    /// Forgets the back-off and connects anew: the network or the [`Target`] changed.
    Reconnect,
    /// Closes the session until [`Command::Reconnect`].
    Pause,
}

/// What the session tells its node.
#[derive(Debug)]
pub enum SessionEvent {
    /// The session is up; this is the full state.
    Up(Box<Welcome>),
    /// Control says something.
    Message(Box<ToNode>),
    /// The session is down.
    Down,
}

/// Whether control can be spoken to, for `status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionState {
    /// A first attempt, or one after a loss, is under way.
    Connecting,
    /// The session is up and was heard from in time.
    Connected,
    /// The last attempt failed.
    Offline(String),
    /// Control does not accept this node.
    Refused(String),
    /// There is no token.
    SignedOut,
    /// Nothing is wanted from control.
    Paused,
}

/// Which control, and as whom.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where control is.
    pub endpoint: Endpoint,
    /// Lets this node in.
    pub token: Token,
}

/// The session's state, shared with whoever shows it.
#[derive(Debug, Clone)]
pub struct SessionStatus(Arc<Mutex<SessionState>>);

impl Default for SessionStatus {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(SessionState::Connecting)))
    }
}

impl SessionStatus {
    /// The state now.
    pub fn get(&self) -> SessionState {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the state; only the session itself, and whoever pauses it before it starts, does.
    pub fn set(&self, state: SessionState) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

/// Everything that a session needs; shared by its incarnations.
pub struct SessionSettings {
    /// Which control, and as whom; nobody yet when `None`. Change it, then tell [`Command::Reconnect`].
    pub target: Mutex<Option<Target>>,
    /// Signs the hello.
    pub identity: Arc<IdentityKey>,
    /// What the node says about itself, asked anew for each session.
    pub introduction: Box<dyn Fn() -> Introduction + Send + Sync>,
    /// Shows the state.
    pub status: SessionStatus,
}

/// Why one attempt ended.
#[derive(Debug)]
enum Ended {
    Connect(ConnectError),
    Session(SessionError),
    Socket(tungstenite::Error),
    ClosedByControl,
    NodeTooSlow,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => {
                write!(f, "{error}")?;
                match std::error::Error::source(error) {
                    Some(cause) => write!(f, ": {cause}"),
                    None => Ok(()),
                }
            }
            Self::Session(error) => write!(f, "{error}"),
            Self::Socket(error) => write!(f, "the connection to control broke: {error}"),
            Self::ClosedByControl => f.write_str("control closed the connection"),
            Self::NodeTooSlow => f.write_str("this node could not take in what control said"),
        }
    }
}

impl Ended {
    fn is_refusal(&self) -> bool {
        match self {
            Self::Connect(ConnectError::BadToken) => true,
            Self::Session(SessionError::Closed(reason)) => reason.is_final(),
            _ => false,
        }
    }

    fn is_replacement(&self) -> bool {
        matches!(self, Self::Session(SessionError::Closed(CloseReason::Replaced)))
    }
}

/// The session with control.
pub struct ControlSession {
    settings: Arc<SessionSettings>,
    events: Outlet<SessionEvent>,
    backoff: Backoff,
    outgoing: Option<mpsc::Sender<FromNode>>,
    attempt: Option<TaskHandle>,
}

impl ControlSession {
    /// A session that connects once it is started. A reader of `events` that is full ends it, because what that reader
    /// missed would be lost: with the next session it gets full state.
    pub fn new(settings: Arc<SessionSettings>, events: Outlet<SessionEvent>) -> Self {
        Self {
            settings,
            events,
            backoff: Backoff::new(FIRST_WAIT, LONGEST_WAIT),
            outgoing: None,
            attempt: None,
        }
    }

    fn connect(&mut self, cx: &mut Cx<Self>) {
        let target = self.settings.target.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(target) = target else {
            self.settings.status.set(SessionState::SignedOut);
            return;
        };
        if !matches!(self.settings.status.get(), SessionState::Offline(_) | SessionState::Refused(_)) {
            self.settings.status.set(SessionState::Connecting);
        }
        let (sender, receiver) = mpsc::channel(OUTGOING);
        self.outgoing = Some(sender);
        let (settings, events) = (self.settings.clone(), self.events.clone());
        self.attempt = Some(cx.spawn(run(settings, events, target, receiver), Self::attempt_ended));
    }

    /// Ends what is under way.
    fn abandon(&mut self, cx: &mut Cx<Self>) {
        self.backoff.succeeded();
        self.outgoing = None;
        cx.wake_never();
        if let Some(attempt) = self.attempt.take() {
            attempt.abort();
            if self.settings.status.get() == SessionState::Connected {
                let _ = self.events.tell(SessionEvent::Down);
            }
        }
    }

    fn attempt_ended(&mut self, (ended, was_up): (Ended, bool), cx: &mut Cx<Self>) {
        self.attempt = None;
        self.outgoing = None;
        let state = if ended.is_refusal() {
            SessionState::Refused(ended.to_string())
        } else {
            SessionState::Offline(ended.to_string())
        };
        if was_up {
            self.backoff.succeeded();
            tracing::warn!(reason = %ended, "session with control lost");
            let _ = self.events.tell(SessionEvent::Down);
        } else if self.settings.status.get() != state {
            tracing::warn!(reason = %ended, "control cannot be spoken to");
        }
        self.settings.status.set(state);
        let wait = if ended.is_refusal() || ended.is_replacement() {
            REFUSED_WAIT
        } else {
            self.backoff.failed(rand::random())
        };
        cx.wake_at(cx.now() + wait);
    }
}

impl Actor for ControlSession {
    const KIND: &'static str = "ControlSession";
    type Command = Command;
    type Packets = Never;

    fn started(&mut self, cx: &mut Cx<Self>) {
        if self.settings.status.get() != SessionState::Paused {
            self.connect(cx);
        }
    }

    fn told(&mut self, command: Command, cx: &mut Cx<Self>) {
        match command {
            Command::Say(message) => {
                let full = match &self.outgoing {
                    Some(outgoing) => outgoing.try_send(*message).is_err(),
                    None => false,
                };
                if full {
                    // What is lost would leave control with a wrong picture: start over.
                    cx.count_drop("control_outgoing_full", 1);
                    self.outgoing = None;
                }
            }
            Command::Pause => {
                self.abandon(cx);
                self.settings.status.set(SessionState::Paused);
            }
            Command::Reconnect => {
                self.abandon(cx);
                self.settings.status.set(SessionState::Connecting);
                self.connect(cx);
            }
        }
    }

    fn woken(&mut self, cx: &mut Cx<Self>) {
        self.connect(cx);
    }

    fn stopped(&mut self, _cx: &mut Cx<Self>) {
        self.settings.status.set(SessionState::Offline("this program is stopping".into()));
    }
}

/// One attempt, from connecting to the loss. Also says whether the session was ever up.
async fn run(
    settings: Arc<SessionSettings>,
    events: Outlet<SessionEvent>,
    target: Target,
    outgoing: mpsc::Receiver<FromNode>,
) -> (Ended, bool) {
    let mut was_up = false;
    let ended = match target.endpoint.connect(&target.token).await {
        Err(error) => Ended::Connect(error),
        Ok(mut socket) => {
            let ended = converse(&settings, &events, &mut socket, outgoing, &mut was_up).await;
            // A polite end, but not at the price of waiting for a dead peer.
            let _ = tokio::time::timeout(Duration::from_millis(200), socket.close(None)).await;
            ended
        }
    };
    (ended, was_up)
}

async fn converse(
    settings: &SessionSettings,
    events: &Outlet<SessionEvent>,
    socket: &mut Socket,
    mut outgoing: mpsc::Receiver<FromNode>,
    was_up: &mut bool,
) -> Ended {
    let start = Instant::now();
    let mut session = NodeSession::new((settings.introduction)(), start.elapsed());
    loop {
        while let Some(output) = session.poll_output() {
            let told = match output {
                NodeOutput::Send(bytes) => {
                    if let Err(error) = socket.send(Message::Binary(bytes.into())).await {
                        return Ended::Socket(error);
                    }
                    continue;
                }
                NodeOutput::Welcomed(state) => {
                    *was_up = true;
                    settings.status.set(SessionState::Connected);
                    tracing::info!("session with control is up");
                    events.tell(SessionEvent::Up(state))
                }
                NodeOutput::Message(message) => events.tell(SessionEvent::Message(Box::new(message))),
            };
            if told.is_err() {
                return Ended::NodeTooSlow;
            }
        }
        let deadline = start + session.poll_timeout();
        tokio::select! {
            frame = socket.next() => match frame {
                Some(Ok(Message::Binary(bytes))) => {
                    if let Err(error) = session.handle_frame(&bytes, &settings.identity, start.elapsed()) {
                        return Ended::Session(error);
                    }
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Text(_))) => return Ended::Session(SessionError::Unexpected("text")),
                Some(Ok(Message::Close(_))) | None => return Ended::ClosedByControl,
                Some(Err(error)) => return Ended::Socket(error),
            },
            message = outgoing.recv() => match message {
                Some(message) if session.is_up() => {
                    if let Err(error) = session.send(message) {
                        return Ended::Session(error);
                    }
                }
                Some(_) => {}
                None => return Ended::NodeTooSlow,
            },
            () = tokio::time::sleep_until(deadline) => {
                if let Err(error) = session.handle_timeout(start.elapsed()) {
                    return Ended::Session(error);
                }
            }
        }
    }
}
