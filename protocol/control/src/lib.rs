//! What nodes and the control plane tell each other, and the session machines of both ends.
//!
//! A node (client, gateway, relay) opens a WebSocket with the subprotocol [`SUBPROTOCOL`] and its token as bearer.
//! Control sends [`ToNode::Challenge`]; the node answers [`FromNode::Hello`], signed with its identity key; control
//! answers [`ToNode::Welcome`] with the node's full state, and sends changes from then on. Frames are CBOR, carry the
//! protocol version and a sequence number without gaps: whoever misses one closes and starts over with full state.
#![forbid(unsafe_code)]

mod access;
mod backoff;
mod codec;
mod flows;
mod messages;
mod session;

pub use access::*;
pub use backoff::Backoff;
pub use codec::*;
pub use flows::*;
pub use messages::*;
pub use protocol_filter::{GrantVersion, TrafficFilter};
pub use session::*;

/// Decodes whatever comes as both directions' frames; for fuzzing.
pub fn fuzz_control(bytes: &[u8]) {
    let _ = decode::<FromNode>(bytes, MAX_FROM_NODE);
    let _ = decode::<ToNode>(bytes, MAX_TO_NODE);
}
