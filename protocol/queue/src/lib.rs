//! What waits on a lane: peers in turn, of each peer its flows in turn, and nothing for long.
//!
//! [`FairQueue`] shares a lane among peers and a peer's share among its flows by deficit round robin, with flows that
//! have just begun first (RFC 8290). Each flow's standing queue is kept short by CoDel (RFC 8289), which marks packets of
//! transports that understand marks and loses one of the others. When there is no room left, the flow that has most
//! waiting loses, not the one that comes last.
//!
//! Pure: time is an argument. Nothing is allocated once as many items have waited as ever do.

#![forbid(unsafe_code)]

mod codel;
mod fair;

pub use codel::{INTERVAL, TARGET};
pub use fair::{FairQueue, Loss, Waiting};
