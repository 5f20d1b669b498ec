//! A decision, and why.

use std::fmt;

use jiff::Timestamp;
use protocol_identity::PolicyId;

use crate::{Effect, Failure};

/// A rule as an explanation names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleRef {
    /// Its id.
    pub id: PolicyId,
    /// Its name.
    pub name: String,
    /// Where it is written, when that is known.
    pub place: Option<String>,
    /// What it does.
    pub effect: Effect,
}

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Access, by this rule.
    Allowed {
        /// The conforming rule with the latest end.
        policy: PolicyId,
        /// When the access ends: the earliest of window end, session end, the rule's longest session and the
        /// moment at which a deny begins to match. `None` when time alone never ends it.
        end: Option<Timestamp>,
    },
    /// No access.
    Denied(Reason),
}

/// Why there is no access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// This deny rule matches.
    DeniedByRule(PolicyId),
    /// No allow rule names the resource at all.
    NoRule,
    /// Allow rules name the resource; none applies to this request.
    NoRuleApplies,
    /// The resource does not exist.
    UnknownResource,
    /// The principal does not exist.
    UnknownPrincipal,
    /// The principal is disabled.
    PrincipalDisabled,
    /// The device is disabled.
    DeviceDisabled,
}

/// A rule that came close, and the one condition that it failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// The rule.
    pub rule: RuleRef,
    /// What it failed.
    pub failed: Failure,
    /// How many conditions it failed beside that one.
    pub further: usize,
}

/// Why a decision is what it is, for an administrator.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Explanation {
    /// The rule that decided, when one did.
    pub decided: Option<RuleRef>,
    /// After a denial: the allow rules that came closest.
    pub close: Vec<Close>,
}

/// A decision with its explanation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What was decided.
    pub verdict: Verdict,
    /// Why.
    pub explanation: Explanation,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DeniedByRule(_) => "a policy denies it",
            Self::NoRule => "no policy allows it",
            Self::NoRuleApplies => "no policy allows it to you now",
            Self::UnknownResource => "there is no such resource",
            Self::UnknownPrincipal => "there is no such user or service account",
            Self::PrincipalDisabled => "your user or service account is disabled",
            Self::DeviceDisabled => "your device is disabled",
        })
    }
}

impl Decision {
    /// Whether there is access.
    pub fn is_allowed(&self) -> bool {
        matches!(self.verdict, Verdict::Allowed { .. })
    }

    /// The whole reason of a denial, for an administrator. Empty when there is access.
    pub fn reason(&self) -> String {
        let Verdict::Denied(reason) = self.verdict else { return String::new() };
        match (&self.explanation.decided, self.explanation.close.first()) {
            (Some(rule), _) => format!("policy {} denies it", rule.name),
            (None, Some(close)) => {
                format!("{reason}: policy {} came close, but {}", close.rule.name, close.failed)
            }
            (None, None) => reason.to_string(),
        }
    }

    /// What the denied person may know: the rule's name and their own failing attribute, and never anything about
    /// other principals or groups. `None` when there is access.
    pub fn own_view(&self) -> Option<OwnView> {
        let Verdict::Denied(reason) = self.verdict else { return None };
        Some(match reason {
            Reason::UnknownResource => OwnView::UnknownResource,
            Reason::UnknownPrincipal | Reason::PrincipalDisabled | Reason::DeviceDisabled => {
                OwnView::Disabled
            }
            Reason::DeniedByRule(_) | Reason::NoRule | Reason::NoRuleApplies => {
                match &self.explanation.decided {
                    Some(rule) => OwnView::DenyRule { rule: rule.name.clone() },
                    None => self.own_condition(),
                }
            }
        })
    }

    fn own_condition(&self) -> OwnView {
        // A rule for other groups, or one that is switched off, is none of the person's business.
        let own = |close: &&Close| !matches!(close.failed, Failure::NotInGroup | Failure::Disabled);
        match self.explanation.close.iter().find(own) {
            Some(close) => {
                OwnView::Condition { rule: close.rule.name.clone(), asks_for: close.failed.asks_for() }
            }
            None => OwnView::NoRule,
        }
    }
}

/// A denial as the denied person may know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnView {
    /// An allow rule that names the resource and one of the person's groups is missing.
    NoRule,
    /// A deny rule matches.
    DenyRule {
        /// Its name.
        rule: String,
    },
    /// A rule would allow it, if.
    Condition {
        /// Its name.
        rule: String,
        /// What it asks for: completes "the rule asks for …".
        asks_for: String,
    },
    /// There is no such resource.
    UnknownResource,
    /// The person's own account is disabled or gone.
    Disabled,
}
