//! Who is who: ids, keys, secrets and tokens.
//!
//! Ids are newtypes over UUIDv7, so that they sort by age. Secrets print as `…` and are wiped when dropped.
#![forbid(unsafe_code)]

mod ids;
mod keys;
mod token;

pub use ids::*;
pub use keys::*;
pub use token::*;
