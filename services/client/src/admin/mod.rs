//! `postern admin`: the account's sites, resources, groups and policies, through control's REST API.

pub mod api;
mod audit;
pub mod cli;
mod conditions;
pub mod duration;
mod explained;
mod flows;
mod kinds;
mod output;
mod policy_file;
pub mod profile;
mod run;
mod token_out;

pub use output::{cell, draw, table};
pub use run::run;
