//! What is proven with the built programs: one world of namespaces, the steps of the demo, and (under `tests/`) one
//! promise a file.
//!
//! `cargo xtask demo` shows the steps to a person; the scenarios hold each of them, and more, in a world of their own.

mod admin;
mod alone;
mod ground;
mod nodes;
pub mod steps;
mod street;
mod world;

pub use admin::Admin;
pub use alone::Alone;
pub use ground::{Ground, addresses};
pub use nodes::{Client, Node};
pub use street::Street;
pub use world::{Plan, World};
