//! Policy as a file: every rule of an account, and tests of them, in TOML.

mod when;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::{Conditions, Effect, Labels, Selector, check_label};
pub use when::{NotAMoment, moment};

/// What is wrong with a file, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct FileError {
    /// The line, from 1 on.
    pub line: usize,
    /// What is wrong there, and what to write instead.
    pub what: String,
}

/// A rule as the file has it: groups and resources by name or id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePolicy {
    /// Where its name stands.
    pub line: usize,
    /// Its name.
    pub name: String,
    /// What of it is written.
    pub rule: FileRule,
}

/// Everything of a rule but its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRule {
    /// Allow or deny.
    #[serde(default = "allow", skip_serializing_if = "is_allow")]
    pub effect: Effect,
    /// Whether it is in force.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub enabled: bool,
    /// Names or ids of groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Principals with these labels.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub principal_labels: BTreeSet<Selector>,
    /// Names or ids of resources.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// Resources with these labels.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub resource_labels: BTreeSet<Selector>,
    /// The longest that one grant lasts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_session_seconds: Option<u64>,
    /// The conditions.
    #[serde(default, skip_serializing_if = "is_unconditional")]
    pub conditions: Conditions,
}

fn allow() -> Effect {
    Effect::Allow
}

fn is_allow(effect: &Effect) -> bool {
    *effect == Effect::Allow
}

fn yes() -> bool {
    true
}

fn is_yes(yes: &bool) -> bool {
    *yes
}

fn is_unconditional(conditions: &Conditions) -> bool {
    *conditions == Conditions::default()
}

/// What a test expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expected {
    /// Access.
    Allowed,
    /// None.
    Denied,
}

/// A test: somebody, somewhere, at a time at which the clock stands still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileTest {
    /// Where its name stands.
    pub line: usize,
    /// Its name.
    pub name: String,
    /// A principal that is there.
    pub principal: Option<String>,
    /// Or one that is not, in these groups.
    pub member_of: Vec<String>,
    /// And with these labels.
    pub labels: Labels,
    /// Where to: `wiki:443`.
    pub to: String,
    /// When.
    pub at: Timestamp,
    /// From which address.
    pub from: Option<IpAddr>,
    /// From which country; what the database says of the address if left out.
    pub country: Option<String>,
    /// Signed in at which provider.
    pub provider: Option<String>,
    /// Whether the device is verified; not known if left out.
    pub device_verified: Option<bool>,
    /// What the device reports.
    pub posture: BTreeMap<String, String>,
    /// How old the sign-in is; not known if left out.
    pub session_age_seconds: Option<u64>,
    /// What is expected.
    pub expect: Expected,
    /// The rule that has to decide, when that matters.
    pub by: Option<String>,
}

/// A policy file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyFile {
    /// The version of the account's policies that it was written for.
    pub version: Option<String>,
    /// The rules.
    pub policies: Vec<FilePolicy>,
    /// The tests.
    pub tests: Vec<FileTest>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    version: Option<String>,
    #[serde(default)]
    policy: Vec<RawPolicy>,
    #[serde(default)]
    test: Vec<RawTest>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPolicy {
    name: Spanned<String>,
    #[serde(default = "allow")]
    effect: Effect,
    #[serde(default = "yes")]
    enabled: bool,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    principal_labels: BTreeSet<Selector>,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_labels: BTreeSet<Selector>,
    max_session_seconds: Option<u64>,
    #[serde(default)]
    conditions: Conditions,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTest {
    name: Spanned<String>,
    principal: Option<String>,
    #[serde(default)]
    member_of: Vec<String>,
    #[serde(default)]
    labels: Labels,
    to: String,
    at: Spanned<String>,
    from: Option<IpAddr>,
    country: Option<String>,
    provider: Option<String>,
    device_verified: Option<bool>,
    #[serde(default)]
    posture: BTreeMap<String, String>,
    session_age_seconds: Option<u64>,
    expect: Expected,
    by: Option<String>,
}

/// The line of a place in a text, from 1 on.
fn line(text: &str, at: usize) -> usize {
    text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1
}

impl PolicyFile {
    /// Reads a file.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line.
    pub fn parse(text: &str) -> Result<Self, FileError> {
        let raw: RawFile = toml::from_str(text).map_err(|error| FileError {
            line: error.span().map_or(1, |span| line(text, span.start)),
            what: error.message().to_owned(),
        })?;
        let mut names = BTreeSet::new();
        let mut policies = Vec::with_capacity(raw.policy.len());
        for policy in raw.policy {
            let line = line(text, policy.name.span().start);
            let name = policy.name.into_inner();
            if !names.insert(name.clone()) {
                let what = format!("there is a policy {name} above already; names are unique");
                return Err(FileError { line, what });
            }
            let rule = FileRule {
                effect: policy.effect,
                enabled: policy.enabled,
                groups: policy.groups,
                principal_labels: policy.principal_labels,
                resources: policy.resources,
                resource_labels: policy.resource_labels,
                max_session_seconds: policy.max_session_seconds,
                conditions: policy.conditions,
            };
            policies.push(FilePolicy { line, name, rule });
        }
        let tests = raw.test.into_iter().map(|test| read_test(text, test)).collect::<Result<_, _>>()?;
        Ok(Self { version: raw.version, policies, tests })
    }

    /// Writes a file with these rules, in this order.
    pub fn write<'a>(version: &str, policies: impl IntoIterator<Item = (&'a str, &'a FileRule)>) -> String {
        #[derive(Serialize)]
        struct Named<'a> {
            name: &'a str,
            #[serde(flatten)]
            rule: &'a FileRule,
        }
        #[derive(Serialize)]
        struct All<'a> {
            version: &'a str,
            policy: Vec<Named<'a>>,
        }
        let policy = policies.into_iter().map(|(name, rule)| Named { name, rule }).collect();
        toml::to_string(&All { version, policy }).unwrap_or_default()
    }
}

fn read_test(text: &str, test: RawTest) -> Result<FileTest, FileError> {
    let name_line = line(text, test.name.span().start);
    let wrong = |line, what: String| FileError { line, what };
    if test.principal.is_some() && !(test.member_of.is_empty() && test.labels.is_empty()) {
        let what = "name either a principal, or what an imagined one is: member_of and labels";
        return Err(wrong(name_line, what.into()));
    }
    for (name, value) in &test.labels {
        check_label(name, value).map_err(|error| wrong(name_line, error.to_string()))?;
    }
    let at = moment(test.at.get_ref())
        .map_err(|error| wrong(line(text, test.at.span().start), error.to_string()))?;
    Ok(FileTest {
        line: name_line,
        name: test.name.into_inner(),
        principal: test.principal,
        member_of: test.member_of,
        labels: test.labels,
        to: test.to,
        at,
        from: test.from,
        country: test.country,
        provider: test.provider,
        device_verified: test.device_verified,
        posture: test.posture,
        session_age_seconds: test.session_age_seconds,
        expect: test.expect,
        by: test.by,
    })
}

#[cfg(test)]
mod tests;
