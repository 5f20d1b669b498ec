//! The session machines: a node's end and control's end.
//!
//! Time is a [`Duration`] since any fixed start. Feed a machine with `handle_*`, drain `poll_output`, sleep no longer
//! than `poll_timeout`, then `handle_timeout`.

use std::collections::VecDeque;
use std::time::Duration;

use protocol_identity::{IdentityKey, KeyError};

use crate::codec::{CodecError, Frame, MAX_FROM_NODE, MAX_TO_NODE, VERSION, decode, encode};
use crate::messages::{CloseReason, FromNode, Hello, RoleHello, ToNode, Welcome, challenge_text};

/// Control pings a silent node this often. Two missed pings end a session.
pub const PING_EVERY: Duration = Duration::from_secs(5);
/// A session that heard nothing for this long is dead: three pings.
pub const DEAD_AFTER: Duration = Duration::from_secs(15);
/// A handshake takes no longer.
pub const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// The longest name of a node, bytes.
pub const MAX_NAME: usize = 255;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// A frame could not be read.
    #[error("a frame could not be read")]
    Codec(#[from] CodecError),
    /// A frame is missing or came twice.
    #[error("frame {got} came where {expected} was due")]
    Sequence {
        /// What was due.
        expected: u64,
        /// What came.
        got: u64,
    },
    /// A message that does not belong here.
    #[error("a message came that does not belong here: {0}")]
    Unexpected(&'static str),
    /// The identity was not proven.
    #[error("the node did not prove its identity")]
    Identity(#[from] KeyError),
    /// The other end fell silent.
    #[error("nothing was heard for {} s", DEAD_AFTER.as_secs())]
    Silent,
    /// Control closed the session.
    #[error("{0}")]
    Closed(CloseReason),
}

/// Numbers what goes out, and checks what comes in.
#[derive(Debug, Default)]
struct Sequence {
    sent: u64,
    received: u64,
}

impl Sequence {
    fn seal<B: serde::Serialize>(&mut self, body: B) -> Result<Vec<u8>, CodecError> {
        self.sent += 1;
        encode(&Frame { version: VERSION, sequence: self.sent, body })
    }

    fn open<B: serde::de::DeserializeOwned>(
        &mut self,
        bytes: &[u8],
        limit: usize,
    ) -> Result<B, SessionError> {
        let frame: Frame<B> = decode(bytes, limit)?;
        let expected = self.received + 1;
        if frame.sequence != expected {
            return Err(SessionError::Sequence { expected, got: frame.sequence });
        }
        self.received = expected;
        Ok(frame.body)
    }
}

/// What a node's end wants.
#[derive(Debug)]
pub enum NodeOutput {
    /// Send these bytes as one binary WebSocket message.
    Send(Vec<u8>),
    /// The session is up: this is the full state.
    Welcomed(Box<Welcome>),
    /// Control says something.
    Message(ToNode),
}

/// What a node says about itself in its hello.
#[derive(Debug, Clone)]
pub struct Introduction {
    /// See [`Hello::name`].
    pub name: String,
    /// See [`Hello::program`].
    pub program: String,
    /// See [`Hello::role`].
    pub role: RoleHello,
}

/// A node's end of one session.
#[derive(Debug)]
pub struct NodeSession {
    sequence: Sequence,
    introduction: Option<Introduction>,
    welcomed: bool,
    heard: Duration,
    outputs: VecDeque<NodeOutput>,
}

impl NodeSession {
    /// Starts when the WebSocket is open.
    pub fn new(introduction: Introduction, now: Duration) -> Self {
        Self {
            sequence: Sequence::default(),
            introduction: Some(introduction),
            welcomed: false,
            heard: now,
            outputs: VecDeque::new(),
        }
    }

    /// Whether the full state has come.
    pub fn is_up(&self) -> bool {
        self.welcomed
    }

    /// Takes one binary WebSocket message. `identity` signs the hello.
    ///
    /// # Errors
    /// The session is over with any error.
    pub fn handle_frame(
        &mut self,
        bytes: &[u8],
        identity: &IdentityKey,
        now: Duration,
    ) -> Result<(), SessionError> {
        let body: ToNode = self.sequence.open(bytes, MAX_TO_NODE)?;
        self.heard = now;
        match body {
            ToNode::Challenge { nonce } => {
                let Introduction { mut name, program, role } =
                    self.introduction.take().ok_or(SessionError::Unexpected("a second challenge"))?;
                name.truncate(name.floor_char_boundary(MAX_NAME));
                let signature = identity.sign(&challenge_text(&nonce));
                self.send(FromNode::Hello(Hello {
                    identity: identity.public(),
                    signature,
                    name,
                    program,
                    role,
                }))
            }
            ToNode::Welcome(_) if self.welcomed => Err(SessionError::Unexpected("a second welcome")),
            ToNode::Welcome(welcome) => {
                self.welcomed = true;
                self.outputs.push_back(NodeOutput::Welcomed(welcome));
                Ok(())
            }
            ToNode::Ping(number) => self.send(FromNode::Pong(number)),
            ToNode::Close(reason) => Err(SessionError::Closed(reason)),
            message if self.welcomed => {
                self.outputs.push_back(NodeOutput::Message(message));
                Ok(())
            }
            _ => Err(SessionError::Unexpected("a message before the welcome")),
        }
    }

    /// Says something to control.
    ///
    /// # Errors
    /// [`SessionError::Codec`], which would be a bug of this program.
    pub fn send(&mut self, message: FromNode) -> Result<(), SessionError> {
        let bytes = self.sequence.seal(message)?;
        self.outputs.push_back(NodeOutput::Send(bytes));
        Ok(())
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<NodeOutput> {
        self.outputs.pop_front()
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Duration {
        self.heard + DEAD_AFTER
    }

    /// Ends a session in which control has been silent for too long.
    ///
    /// # Errors
    /// [`SessionError::Silent`].
    pub fn handle_timeout(&mut self, now: Duration) -> Result<(), SessionError> {
        if now >= self.poll_timeout() { Err(SessionError::Silent) } else { Ok(()) }
    }
}

/// What control's end wants.
#[derive(Debug)]
pub enum ControlOutput {
    /// Send these bytes as one binary WebSocket message.
    Send(Vec<u8>),
    /// The node proved its identity and says what it is: answer with [`ControlEnd::send`] of a welcome.
    Introduced(Box<Hello>),
    /// The node says something.
    Message(FromNode),
}

/// Control's end of one session.
#[derive(Debug)]
pub struct ControlEnd {
    sequence: Sequence,
    nonce: [u8; 32],
    introduced: bool,
    started: Duration,
    heard: Duration,
    pinged: Duration,
    pings: u64,
    outputs: VecDeque<ControlOutput>,
}

impl ControlEnd {
    /// Starts when the WebSocket is open: the challenge is the first output. `nonce` is fresh randomness.
    ///
    /// # Errors
    /// [`SessionError::Codec`], which would be a bug of this program.
    pub fn new(nonce: [u8; 32], now: Duration) -> Result<Self, SessionError> {
        let mut end = Self {
            sequence: Sequence::default(),
            nonce,
            introduced: false,
            started: now,
            heard: now,
            pinged: now,
            pings: 0,
            outputs: VecDeque::new(),
        };
        end.send(&ToNode::Challenge { nonce: nonce.to_vec() })?;
        Ok(end)
    }

    /// Takes one binary WebSocket message.
    ///
    /// # Errors
    /// The session is over with any error.
    pub fn handle_frame(&mut self, bytes: &[u8], now: Duration) -> Result<(), SessionError> {
        let body: FromNode = self.sequence.open(bytes, MAX_FROM_NODE)?;
        self.heard = now;
        match body {
            FromNode::Hello(_) if self.introduced => Err(SessionError::Unexpected("a second hello")),
            FromNode::Hello(hello) => {
                if hello.name.len() > MAX_NAME || hello.program.len() > MAX_NAME {
                    return Err(SessionError::Unexpected("a name that is too long"));
                }
                hello.identity.verify(&challenge_text(&self.nonce), &hello.signature)?;
                self.introduced = true;
                self.outputs.push_back(ControlOutput::Introduced(Box::new(hello)));
                Ok(())
            }
            _ if !self.introduced => Err(SessionError::Unexpected("a message before the hello")),
            FromNode::Pong(_) => Ok(()),
            message => {
                self.outputs.push_back(ControlOutput::Message(message));
                Ok(())
            }
        }
    }

    /// Says something to the node.
    ///
    /// # Errors
    /// [`SessionError::Codec`], which would be a bug of this program.
    pub fn send(&mut self, message: &ToNode) -> Result<(), SessionError> {
        let bytes = self.sequence.seal(message)?;
        self.outputs.push_back(ControlOutput::Send(bytes));
        Ok(())
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<ControlOutput> {
        self.outputs.pop_front()
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Duration {
        if self.introduced {
            (self.pinged + PING_EVERY).min(self.heard + DEAD_AFTER)
        } else {
            self.started + HELLO_WITHIN
        }
    }

    /// Pings, and ends a session in which the node has been silent for too long.
    ///
    /// # Errors
    /// [`SessionError::Silent`], or a bug of this program.
    pub fn handle_timeout(&mut self, now: Duration) -> Result<(), SessionError> {
        if !self.introduced {
            return if now >= self.started + HELLO_WITHIN { Err(SessionError::Silent) } else { Ok(()) };
        }
        if now >= self.heard + DEAD_AFTER {
            return Err(SessionError::Silent);
        }
        if now >= self.pinged + PING_EVERY {
            self.pinged = now;
            self.pings += 1;
            let ping = ToNode::Ping(self.pings);
            self.send(&ping)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use protocol_identity::RelayId;

    use super::*;
    use crate::messages::{RelayState, Secret};

    struct Pair {
        identity: IdentityKey,
        node: NodeSession,
        control: ControlEnd,
    }

    impl Pair {
        fn new() -> Self {
            let introduction = Introduction {
                name: "berlin-1".into(),
                program: "0.1.0".into(),
                role: RoleHello::Relay {
                    addresses: Vec::new(),
                    tls: None,
                    region: "berlin".into(),
                    coordinates: None,
                    secret: Secret::new("hush".into()),
                },
            };
            Self {
                identity: IdentityKey::generate().unwrap(),
                node: NodeSession::new(introduction, Duration::ZERO),
                control: ControlEnd::new([7; 32], Duration::ZERO).unwrap(),
            }
        }

        /// Carries everything both ways until nobody wants anything; answers a hello with a welcome.
        fn settle(&mut self, now: Duration) -> Result<Vec<ToNode>, SessionError> {
            let mut said = Vec::new();
            loop {
                let mut moved = false;
                while let Some(output) = self.control.poll_output() {
                    moved = true;
                    match output {
                        ControlOutput::Send(bytes) => self.node.handle_frame(&bytes, &self.identity, now)?,
                        ControlOutput::Introduced(_) => {
                            let state = Welcome::Relay(RelayState { relay: RelayId::fresh() });
                            self.control.send(&ToNode::Welcome(Box::new(state)))?;
                        }
                        ControlOutput::Message(_) => {}
                    }
                }
                while let Some(output) = self.node.poll_output() {
                    moved = true;
                    match output {
                        NodeOutput::Send(bytes) => self.control.handle_frame(&bytes, now)?,
                        NodeOutput::Welcomed(_) => {}
                        NodeOutput::Message(message) => said.push(message),
                    }
                }
                if !moved {
                    return Ok(said);
                }
            }
        }
    }

    #[test]
    fn a_session_comes_up_and_carries_messages_in_order() {
        let mut pair = Pair::new();
        pair.settle(Duration::ZERO).unwrap();
        assert!(pair.node.is_up());

        pair.control.send(&ToNode::Relays(Vec::new())).unwrap();
        let said = pair.settle(Duration::ZERO).unwrap();

        assert_eq!(said, [ToNode::Relays(Vec::new())]);
    }

    #[test]
    fn a_lost_frame_ends_the_session_instead_of_being_skipped() {
        let mut pair = Pair::new();
        pair.settle(Duration::ZERO).unwrap();
        pair.control.send(&ToNode::Relays(Vec::new())).unwrap();
        let _lost = pair.control.poll_output();

        pair.control.send(&ToNode::Ping(1)).unwrap();

        assert!(matches!(pair.settle(Duration::ZERO), Err(SessionError::Sequence { expected: 3, got: 4 })));
    }

    #[test]
    fn a_node_that_signs_with_another_key_is_refused() {
        let mut pair = Pair::new();
        let Some(ControlOutput::Send(challenge)) = pair.control.poll_output() else { panic!("no challenge") };
        pair.node.handle_frame(&challenge, &pair.identity, Duration::ZERO).unwrap();
        let Some(NodeOutput::Send(hello)) = pair.node.poll_output() else { panic!("no hello") };
        let frame: Frame<FromNode> = decode(&hello, MAX_FROM_NODE).unwrap();
        let FromNode::Hello(mut hello) = frame.body else { panic!("no hello") };

        hello.identity = IdentityKey::generate().unwrap().public();
        let bytes = encode(&Frame { version: VERSION, sequence: 1, body: FromNode::Hello(hello) }).unwrap();

        assert!(matches!(pair.control.handle_frame(&bytes, Duration::ZERO), Err(SessionError::Identity(_))));
    }

    #[test]
    fn silence_ends_both_ends() {
        let mut pair = Pair::new();
        pair.settle(Duration::ZERO).unwrap();

        assert!(matches!(pair.node.handle_timeout(pair.node.poll_timeout()), Err(SessionError::Silent)));
        assert!(matches!(pair.control.handle_timeout(DEAD_AFTER), Err(SessionError::Silent)));
    }

    #[test]
    fn pings_keep_an_idle_session_alive() {
        let mut pair = Pair::new();
        pair.settle(Duration::ZERO).unwrap();

        for _ in 0..100 {
            let now = pair.control.poll_timeout();
            pair.control.handle_timeout(now).unwrap();
            pair.settle(now).unwrap();
            pair.node.handle_timeout(now).unwrap();
        }
    }

    #[test]
    fn a_node_that_never_says_hello_is_dropped() {
        let mut pair = Pair::new();

        assert!(matches!(
            pair.control.handle_timeout(pair.control.poll_timeout()),
            Err(SessionError::Silent)
        ));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let mut pair = Pair::new();
            let _ = pair.control.handle_frame(&bytes, Duration::ZERO);
            let _ = pair.node.handle_frame(&bytes, &pair.identity, Duration::ZERO);
            crate::fuzz_control(&bytes);
        }
    }
}
