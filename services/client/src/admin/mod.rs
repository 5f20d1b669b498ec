//! `postern admin`: the account's sites, resources, groups and policies, through control's REST API.

pub mod api;
pub mod cli;
mod conditions;
pub mod duration;
mod kinds;
mod output;
pub mod profile;
mod run;
mod token_out;

pub use output::{cell, draw, table};
pub use run::run;
