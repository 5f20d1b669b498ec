//! The cast of the control plane: who is connected, who may reach what, and what is remembered.

pub mod audit_log;
pub mod clock;
pub mod countries;
pub mod device_session;
pub mod directory;
pub mod flow_book;
pub mod grant_office;
pub mod keys;
pub mod link;
pub mod model;
pub mod policy_file;
pub mod relay_registry;
pub mod sql;
pub mod storage;
pub mod store;

#[cfg(test)]
mod flow_book_tests;
#[cfg(test)]
mod session_tests;
#[cfg(test)]
mod store_tests;
#[cfg(test)]
mod testing;
