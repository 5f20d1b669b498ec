//! Grants applied to packets.
//!
//! - [`PeerFilter`]: a gateway's machine for one peer. What the peer sends passes only where a live grant says so;
//!   what comes back passes only on flows that the peer began. It translates mapped names, and ends flows when their
//!   grant ends.
//! - [`ClientTable`]: a client's table. Each packet goes to the peer that serves its resource, asks for access, or is
//!   refused at once.
//!
//! Everything refused has a [`Reason`], which is a counter's name. Time is a [`Duration`] since any fixed start.
//!
//! [`Duration`]: std::time::Duration

#![forbid(unsafe_code)]

mod address;
mod bucket;
mod client;
mod fit;
mod flow;
mod flows;
mod fuzz;
mod grant;
mod hash;
mod peer;
mod reason;
mod reply;
mod rules;
mod table;

pub use client::{Access, ClientTable, Outward, PeerSlot};
pub use fit::{Fit, TooLong};
pub use flow::{Endpoint, FlowEnd, FlowRecord};
pub use fuzz::fuzz_filter;
pub use grant::{Destination, GrantSpec, GrantVersion, Service, TrafficFilter};
pub use peer::{Applied, Output, PeerFilter, Verdict};
pub use reason::Reason;
pub use reply::{Offload, ReplyBuf, ShortPacket};
pub use rules::{GatewayRules, Limits};
pub use table::PeerGrants;
