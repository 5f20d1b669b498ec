//! Who may reach what: rules, conditions, and decisions that explain themselves.
//!
//! Everything here is a pure function of its arguments. [`Index::compile`] turns a [`Snapshot`] of rules,
//! groups and resources into something that decides in the time that the rules of one resource take;
//! [`Index::decide`] answers a [`Request`] at a moment that the caller names, [`Index::explain`] says why too. A change
//! of one thing ([`Index::put_rule`] and its like) recomputes only the edges that it touches.
//!
//! Semantics: default deny; allow rules are a union; any matching deny wins; order never matters. Conditions
//! inside one rule are ANDed. An attribute that is unknown makes an allow condition false and a deny
//! condition true. The grant takes the conforming rule with the latest end.

#![forbid(unsafe_code)]

mod condition;
mod decision;
mod diff;
mod failure;
mod file;
mod index;
mod label;
mod rule;
mod schedule;
mod version;
mod window;
mod words;

pub use condition::{Conditions, Context, Posture};
pub use decision::{Close, Decision, Explanation, OwnView, Reason, RuleRef, Verdict};
pub use diff::{AccessChange, access_diff};
pub use failure::Failure;
pub use file::{Expected, FileError, FilePolicy, FileRule, FileTest, NotAMoment, PolicyFile, moment};
pub use index::{Index, Principal, Request, Resource, Snapshot};
pub use label::{Labels, NotALabel, Selector, check_label};
pub use rule::{Effect, Rule};
pub use version::{NotAVersion, Version};
pub use window::{ClockTime, Day, InvalidWindow, TimeWindow, Zone};
