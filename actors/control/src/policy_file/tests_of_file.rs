//! The tests in a policy file, run against the rules of that file. The clock stands still at each test's time.

use std::collections::BTreeSet;
use std::time::Duration;

use protocol_identity::PrincipalId;
use protocol_policy::{Context, Expected, FileTest, Index, Principal, Request, Verdict};
use uuid::Uuid;

use crate::countries::Countries;
use crate::grant_office::Records;
use crate::model::To;

/// How a test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tested {
    /// Its line in the file.
    pub line: usize,
    /// Its name.
    pub name: String,
    /// Whether it ended as expected.
    pub passed: bool,
    /// What was decided, and by which rule or why not.
    pub detail: String,
}

/// Somebody who is not there: `Uuid::max` is no id that is ever drawn.
const IMAGINED: PrincipalId = PrincipalId(Uuid::max());

pub(super) fn run(
    tests: &[FileTest],
    records: &Records,
    index: &mut Index,
    countries: &Countries,
) -> Vec<Tested> {
    tests
        .iter()
        .map(|test| {
            let (passed, detail) = match ask(test, records, index, countries) {
                Ok(ended) => ended,
                Err(wrong) => (false, wrong),
            };
            Tested { line: test.line, name: test.name.clone(), passed, detail }
        })
        .collect()
}

/// Who asks: a principal that is there, or one that is imagined for this test.
fn principal(test: &FileTest, records: &Records, index: &mut Index) -> Result<PrincipalId, String> {
    if let Some(name) = &test.principal {
        let found = records.principals.values().find(|it| it.name == *name || it.id.to_string() == *name);
        return found.map(|it| it.id).ok_or_else(|| format!("there is no principal {name}"));
    }
    let mut groups = BTreeSet::new();
    for name in &test.member_of {
        let found = records.groups.values().find(|it| it.name == *name || it.id.to_string() == *name);
        groups.insert(found.ok_or_else(|| format!("there is no group {name}"))?.id);
    }
    index.put_principal(Principal { id: IMAGINED, disabled: false, groups, labels: test.labels.clone() });
    Ok(IMAGINED)
}

fn ask(
    test: &FileTest,
    records: &Records,
    index: &mut Index,
    countries: &Countries,
) -> Result<(bool, String), String> {
    let principal = principal(test, records, index)?;
    let to: To = test.to.parse().map_err(|error: crate::model::NotADestination| error.to_string())?;
    let age = test.session_age_seconds.map(Duration::from_secs);
    let context = Context {
        source: test.from,
        device_verified: test.device_verified,
        posture: test.posture.clone(),
        session_started: age.and_then(|age| test.at.checked_sub(age).ok()),
        session_ends: None,
        country: test.country.clone().or_else(|| test.from.and_then(|from| countries.of(from))),
        provider: test.provider.clone(),
    };
    let found = to.find(records.resources.values());
    if found.is_empty() {
        return Err(format!("no resource is at {to}"));
    }
    let mut why = String::new();
    for resource in found {
        let request = Request { principal, resource: resource.id, context: &context, since: test.at };
        let decision = index.explain(&request, test.at);
        let by = decision.explanation.decided.as_ref().map(|rule| rule.name.clone());
        let right_rule = test.by.is_none() || test.by == by;
        let (ended, said) = match decision.verdict {
            Verdict::Allowed { .. } if to.passes(resource) => {
                (Expected::Allowed, format!("allowed by {}", by.unwrap_or_default()))
            }
            Verdict::Allowed { .. } => {
                (Expected::Denied, format!("denied: the filters of {} do not let it through", resource.name))
            }
            Verdict::Denied(_) => (Expected::Denied, format!("denied: {}", decision.reason())),
        };
        if ended == Expected::Allowed {
            return Ok((test.expect == ended && right_rule, said));
        }
        // The closest resource speaks for all when none gives access.
        if why.is_empty() {
            why = said;
            if !right_rule {
                return Ok((false, why));
            }
        }
    }
    Ok((test.expect == Expected::Denied, why))
}
