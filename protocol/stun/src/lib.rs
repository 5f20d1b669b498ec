//! STUN and TURN: the messages, the credentials, and the machines of both ends of an allocation.
//!
//! Everything here is pure: time and randomness are arguments, datagrams are byte slices. A node holds an allocation with
//! [`AllocationClient`] and learns its reflexive address with [`BindingClient`]; a relay answers with
//! [`relay::Front`] and keeps one [`relay::Allocation`] for each five-tuple.
//!
//! - RFC 8489 (STUN), RFC 8656 (TURN, with both address families), RFC 5769 (test vectors).
//! - The codec is `stun-types` and `turn-types`, behind [`wire`]: every datagram passes a structural check of ours first, so
//!   that nothing malformed reaches the codec or its log.

#![forbid(unsafe_code)]

pub mod address;
pub mod channel;
pub mod client;
pub mod credentials;
pub mod filter;
pub mod fuzz;
pub mod nonce;
pub mod relay;
pub mod stream;
pub mod wire;

mod key;
#[cfg(test)]
mod rfc5769;

pub use channel::{CHANNEL_HEADER_LEN, channel_header, read_channel_header};
pub use client::{
    AllocationClient, AllocationConfig, BindingClient, BindingEvent, BindingOutput, Event, Lost, NotWrapped,
    Output, Received, State,
};
pub use credentials::{CredentialError, Credentials, REALM, RelaySecret, mint, verify};
pub use filter::{PeerAddressFilter, Route, Verdict};
pub use fuzz::{fuzz_relay, fuzz_stun};
pub use wire::{Families, Family, Kind, is_indication, kind, kind_at_relay, plain};
