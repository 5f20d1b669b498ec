//! The one place that knows CBOR (RFC 8949).
//!
//! The size is limited before anything is decoded, trailing bytes are refused, and no type here is recursive, so the
//! decoder's depth limit of 128 is never reached by a well-formed message.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The WebSocket subprotocol of this version.
pub const SUBPROTOCOL: &str = "postern.v1";
/// The version that every frame carries.
pub const VERSION: u16 = 1;
/// The largest frame that control takes from a node, bytes: a request with an ML-KEM key and 16 candidates is 2.3 KB.
pub const MAX_FROM_NODE: usize = 64 * 1024;
/// The largest frame that a node takes from control, bytes: the full state of a busy gateway (2.5 KB a grant).
pub const MAX_TO_NODE: usize = 16 * 1024 * 1024;

/// One frame: version, sequence number (the first is 1), body.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Frame<B> {
    /// [`VERSION`].
    pub version: u16,
    /// One more than the frame before in this direction.
    pub sequence: u64,
    /// What is said.
    pub body: B,
}

/// A frame that cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The other end sent more than is allowed.
    #[error("the frame has {size} bytes, at most {limit} are allowed")]
    TooLarge {
        /// Bytes that came.
        size: usize,
        /// Bytes that are allowed.
        limit: usize,
    },
    /// The other end speaks another version.
    #[error("the frame has protocol version {theirs}, this program speaks {VERSION}: upgrade the older end")]
    Version {
        /// The version that came.
        theirs: u16,
    },
    /// The other end sent something that is no frame.
    #[error("the frame is malformed")]
    Malformed(#[source] serde_cbor::Error),
    /// This end could not write its own message.
    #[error("the message could not be encoded")]
    Ours(#[source] serde_cbor::Error),
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u16,
}

/// Writes a frame.
///
/// # Errors
/// [`CodecError::Ours`], which would be a bug of this program.
pub fn encode<B: Serialize>(frame: &Frame<B>) -> Result<Vec<u8>, CodecError> {
    serde_cbor::to_vec(frame).map_err(CodecError::Ours)
}

/// Reads a frame of at most `limit` bytes.
///
/// # Errors
/// Everything but [`CodecError::Ours`].
pub fn decode<B: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<Frame<B>, CodecError> {
    if bytes.len() > limit {
        return Err(CodecError::TooLarge { size: bytes.len(), limit });
    }
    match serde_cbor::from_slice::<Frame<B>>(bytes) {
        Ok(frame) if frame.version == VERSION => Ok(frame),
        Ok(frame) => Err(CodecError::Version { theirs: frame.version }),
        // A newer version may have a body that we cannot read: say that, not "malformed".
        Err(error) => match serde_cbor::from_slice::<VersionOnly>(bytes) {
            Ok(VersionOnly { version }) if version != VERSION => Err(CodecError::Version { theirs: version }),
            _ => Err(CodecError::Malformed(error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_reads_back() {
        let frame = Frame { version: VERSION, sequence: 7, body: "hello".to_owned() };

        let read: Frame<String> = decode(&encode(&frame).unwrap(), 100).unwrap();

        assert_eq!(read, frame);
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_before_it_is_read() {
        assert!(matches!(
            decode::<String>(&[0; 101], 100),
            Err(CodecError::TooLarge { size: 101, limit: 100 })
        ));
    }

    #[test]
    fn another_version_is_named_even_when_its_body_is_unknown() {
        let frame = Frame { version: 9, sequence: 1, body: 5u8 };

        let error = decode::<String>(&encode(&frame).unwrap(), 100).unwrap_err();

        assert!(matches!(error, CodecError::Version { theirs: 9 }));
    }

    #[test]
    fn trailing_bytes_are_refused() {
        let mut bytes = encode(&Frame { version: VERSION, sequence: 1, body: 1u8 }).unwrap();
        bytes.push(0);

        assert!(matches!(decode::<u8>(&bytes, 100), Err(CodecError::Malformed(_))));
    }
}
