//! A policy file against what is stored: what it would change, who would gain and lose what, and how its tests end.
//!
//! Everything here is a pure function of the stored records and the file's text.

mod tests_of_file;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use protocol_identity::{GroupId, PolicyId, PrincipalId, ResourceId, digest};
use protocol_policy::{FileError, FileRule, Index, PolicyFile, access_diff};

use crate::countries::Countries;
use crate::grant_office::Records;
use crate::model::{Group, Object, Policy, Resource};
use crate::storage::{Op, StorageError};
pub use tests_of_file::Tested;

/// A plan lists at most this many changes of access; it says how many there are.
pub const MOST_LISTED: usize = 10_000;

/// What a plan does with a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// It is new.
    Creates,
    /// It is another one than before.
    Changes,
    /// It is not in the file.
    Deletes,
}

/// A change of access, in names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moved {
    /// Who.
    pub principal: String,
    /// What.
    pub resource: String,
    /// Whether it is gained, or lost.
    pub gains: bool,
    /// Under which conditions.
    pub condition: String,
    /// By which rule.
    pub rule: String,
}

/// What a file would do.
#[derive(Debug)]
pub struct Plan {
    /// The version of what is stored.
    pub version: String,
    /// The version that the file was written for, if it says so.
    pub written_for: Option<String>,
    /// What happens to which rule.
    pub rules: Vec<(Verb, String)>,
    /// Who gains and who loses what, at most [`MOST_LISTED`].
    pub access: Vec<Moved>,
    /// How many changes of access there are.
    pub moved: usize,
    /// How the file's tests end.
    pub tests: Vec<Tested>,
    /// The rules as they would be stored.
    puts: Vec<Policy>,
    deletes: Vec<PolicyId>,
}

/// The version of a set of rules: the same for the same rules, whatever file they are in.
pub fn version<'a>(policies: impl IntoIterator<Item = &'a Policy>) -> String {
    let mut all: Vec<String> = policies
        .into_iter()
        .map(|it| {
            serde_json::json!([
                it.id,
                it.name,
                it.enabled,
                it.effect,
                it.groups,
                it.principal_labels,
                it.resources,
                it.resource_labels,
                it.conditions,
                it.max_session_seconds
            ])
            .to_string()
        })
        .collect();
    all.sort_unstable();
    let sum = digest(all.join("\n").as_bytes());
    sum.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn names<'a, T: 'a, K>(
    of: impl IntoIterator<Item = &'a T>,
    key: impl Fn(&T) -> (K, String),
) -> BTreeMap<String, K>
where
    K: Ord + Copy + ToString,
{
    let mut names = BTreeMap::new();
    for it in of {
        let (id, name) = key(it);
        names.insert(id.to_string(), id);
        names.insert(name, id);
    }
    names
}

/// Finds what a list names.
fn resolve<K: Ord + Copy>(
    kind: &str,
    line: usize,
    known: &BTreeMap<String, K>,
    texts: &[String],
) -> Result<BTreeSet<K>, FileError> {
    let find = |text: &String| {
        known.get(text).copied().ok_or_else(|| FileError {
            line,
            what: format!(
                "there is no {kind} {text}; `postern admin {kind} list` names those that are there"
            ),
        })
    };
    texts.iter().map(find).collect()
}

/// What is stored, as a file. Tests are not stored.
pub fn export(records: &Records) -> String {
    let group = |id: &GroupId| records.groups.get(id).map(|it| it.name.clone());
    let resource = |id: &ResourceId| records.resources.get(id).map(|it| it.name.clone());
    let mut policies: Vec<(String, FileRule)> = records
        .policies
        .values()
        .map(|it| {
            let rule = FileRule {
                effect: it.effect,
                enabled: it.enabled,
                groups: it.groups.iter().filter_map(group).collect(),
                principal_labels: it.principal_labels.clone(),
                resources: it.resources.iter().filter_map(resource).collect(),
                resource_labels: it.resource_labels.clone(),
                max_session_seconds: it.max_session_seconds,
                conditions: it.conditions.clone(),
            };
            (it.name.clone(), rule)
        })
        .collect();
    policies.sort_by(|a, b| a.0.cmp(&b.0));
    let version = version(records.policies.values());
    PolicyFile::write(&version, policies.iter().map(|(name, rule)| (name.as_str(), rule)))
}

impl Plan {
    /// Reads a file and holds it against the records.
    ///
    /// # Errors
    /// The first thing that is wrong with the file, with its line.
    pub fn make(
        records: &Records,
        file: &str,
        text: &str,
        check: impl Fn(&Policy) -> Result<(), String>,
        countries: &Countries,
        now: Timestamp,
    ) -> Result<Self, FileError> {
        let read = PolicyFile::parse(text)?;
        let groups = names(records.groups.values(), |it: &Group| (it.id, it.name.clone()));
        let resources = names(records.resources.values(), |it: &Resource| (it.id, it.name.clone()));
        let stored: BTreeMap<&str, &Policy> =
            records.policies.values().map(|policy| (policy.name.as_str(), policy)).collect();

        let (mut puts, mut rules, mut after) = (Vec::new(), Vec::new(), BTreeMap::new());
        for policy in &read.policies {
            let before = stored.get(policy.name.as_str()).copied();
            let rule = policy.rule.clone();
            let new = Policy {
                id: before.map_or_else(PolicyId::fresh, |before| before.id),
                name: policy.name.clone(),
                enabled: rule.enabled,
                effect: rule.effect,
                groups: resolve("group", policy.line, &groups, &rule.groups)?,
                principal_labels: rule.principal_labels,
                resources: resolve("resource", policy.line, &resources, &rule.resources)?,
                resource_labels: rule.resource_labels,
                conditions: rule.conditions,
                max_session_seconds: rule.max_session_seconds,
                place: Some(format!("{file}:{}", policy.line)),
                created_at: before.map_or(now, |before| before.created_at),
                updated_at: now,
            };
            check(&new).map_err(|what| FileError { line: policy.line, what })?;
            let unmoved = before.is_some_and(|before| before.place == new.place);
            let same = before.is_some_and(|before| {
                let as_before =
                    Policy { place: before.place.clone(), updated_at: before.updated_at, ..new.clone() };
                as_before == *before
            });
            match before {
                None => rules.push((Verb::Creates, new.name.clone())),
                Some(_) if !same => rules.push((Verb::Changes, new.name.clone())),
                Some(_) => {}
            }
            if !same || !unmoved {
                puts.push(new.clone());
            }
            after.insert(new.id, new);
        }
        let gone = records.policies.values().filter(|policy| !after.contains_key(&policy.id));
        let deletes: Vec<PolicyId> = gone.clone().map(|policy| policy.id).collect();
        rules.extend(gone.map(|policy| (Verb::Deletes, policy.name.clone())));

        let old = Index::compile(records.snapshot(records.policies.values()), now);
        let mut new = Index::compile(records.snapshot(after.values()), now);
        let (access, moved) = access(records, &old, &new, puts.iter().map(|it| it.id).chain(deletes.clone()));
        let tests = tests_of_file::run(&read.tests, records, &mut new, countries);
        let version = version(records.policies.values());
        Ok(Self { version, written_for: read.version, rules, access, moved, tests, puts, deletes })
    }

    /// Whether the file would change anything that decides.
    pub fn is_change(&self) -> bool {
        !self.rules.is_empty()
    }

    /// The first test that does not end as it expects.
    pub fn failed(&self) -> Option<&Tested> {
        self.tests.iter().find(|test| !test.passed)
    }

    /// The version that is stored once this is applied.
    pub fn next_version(&self, records: &Records) -> String {
        let mut after = records.policies.clone();
        after.extend(self.puts.iter().map(|policy| (policy.id, policy.clone())));
        after.retain(|id, _| !self.deletes.contains(id));
        version(after.values())
    }

    /// The steps that write it, which refuse when the rules are no longer those that it was made for.
    pub fn into_ops(self) -> Vec<Op> {
        let expected = self.version;
        let check = move |objects: &[Object]| {
            let policies = objects.iter().filter_map(|object| match object {
                Object::Policy(policy) => Some(policy),
                _ => None,
            });
            if version(policies) == expected {
                return Ok(());
            }
            let what =
                "the policies were changed by somebody else meanwhile; plan again, and look at what is new";
            Err(StorageError::Refused(what.into()))
        };
        let mut ops = vec![Op::Check(crate::model::Kind::Policy, Box::new(check))];
        // Names that become free are free before they are taken again.
        let delete = |id: PolicyId| Op::Delete(crate::model::Kind::Policy, crate::model::Key::Id(id.0));
        ops.extend(self.deletes.into_iter().map(delete));
        ops.extend(self.puts.into_iter().map(|policy| Op::Put(policy.into())));
        ops
    }
}

/// Who gains and who loses what by these rules.
fn access(
    records: &Records,
    old: &Index,
    new: &Index,
    rules: impl Iterator<Item = PolicyId>,
) -> (Vec<Moved>, usize) {
    let mut resources = BTreeSet::new();
    for rule in rules {
        resources.extend(old.resources_of(rule));
        resources.extend(new.resources_of(rule));
    }
    let principals: Vec<PrincipalId> = records.principals.keys().copied().collect();
    let changes = access_diff(old, new, principals, &resources);
    let moved = changes.len();
    let mut access: Vec<Moved> = changes
        .into_iter()
        .take(MOST_LISTED)
        .map(|change| Moved {
            principal: records
                .principals
                .get(&change.principal)
                .map(|it| it.name.clone())
                .unwrap_or_default(),
            resource: records.resources.get(&change.resource).map(|it| it.name.clone()).unwrap_or_default(),
            gains: change.gains,
            condition: change.condition,
            rule: change.rule,
        })
        .collect();
    access.sort_unstable();
    (access, moved)
}

#[cfg(test)]
mod tests;
