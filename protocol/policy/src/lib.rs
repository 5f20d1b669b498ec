//! Who may reach what: rules, conditions, and decisions that explain themselves.
//!
//! Everything here is a pure function of its arguments. [`Index::compile`] turns a [`Snapshot`] of rules,
//! groups and resources into something that decides in the time that the rules of one resource take;
//! [`Index::decide`] answers a [`Request`] at a moment that the caller names.
//!
//! Semantics: default deny; allow rules are a union; any matching deny wins; order never matters. Conditions
//! inside one rule are ANDed. An attribute that is unknown makes an allow condition false and a deny
//! condition true. The grant takes the conforming rule with the latest end.

#![forbid(unsafe_code)]

mod condition;
mod decision;
mod index;
mod rule;
mod window;

pub use condition::{Conditions, Context, Failure, NotAVersion, Posture, Version};
pub use decision::{Close, Decision, Explanation, OwnView, Reason, RuleRef, Verdict};
pub use index::{Index, Principal, Request, Resource, Snapshot};
pub use rule::{Effect, Rule};
pub use window::{ClockTime, Day, InvalidWindow, TimeWindow, Windows, Zone};
