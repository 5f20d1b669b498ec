//! One rule: who may (or may not) reach what, under which conditions.

use std::collections::BTreeSet;
use std::time::Duration;

use protocol_identity::{GroupId, PolicyId, ResourceId};
use serde::{Deserialize, Serialize};

use crate::{Conditions, Selector};

/// What a rule does when it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// Gives access, unless a deny matches too.
    Allow,
    /// Takes access away, whatever else allows it.
    Deny,
}

/// One rule of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its id; ties between rules are settled by it.
    pub id: PolicyId,
    /// Its name, as the denied person may see it.
    pub name: String,
    /// Where it is written, such as `access.toml:12`, for an administrator.
    pub place: Option<String>,
    /// A rule that is not enabled decides nothing.
    pub enabled: bool,
    /// Allow or deny.
    pub effect: Effect,
    /// It speaks of the principals in any of these.
    pub groups: BTreeSet<GroupId>,
    /// It also speaks of principals with these labels; one selector is enough.
    pub principal_labels: BTreeSet<Selector>,
    /// It speaks of these resources.
    pub resources: BTreeSet<ResourceId>,
    /// It also speaks of resources with these labels; one selector is enough.
    pub resource_labels: BTreeSet<Selector>,
    /// All of these must hold.
    pub conditions: Conditions,
    /// The longest that one grant lasts, counted from its beginning.
    pub max_session: Option<Duration>,
}
