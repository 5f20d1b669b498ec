//! What all four programs share.
//!
//! (Lead: failure, secret_file, identity_file and node are here so that nobody writes them twice; services/client has its
//! own older copies of the first two, which go. Helper `runtime`: build the rest beside them.)

pub mod failure;
pub mod identity_file;
pub mod node;
pub mod secret_file;

pub use failure::{Exit, Failure, chain};
pub use node::NodeFlags;
