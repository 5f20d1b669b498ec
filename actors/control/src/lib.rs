//! The cast of the control plane.

pub mod model;
pub mod sqlite;
pub mod storage;
#[cfg(test)]
mod testing;
