//! Policy as a file: what it would change, its tests, and writing it.

use actix_web::web;
use actors_control::grant_office::Records;
use actors_control::model::Policy;
use actors_control::policy_file::{self, Plan, Verb};
use actors_control::store::with_cause;
use protocol_policy::FileError;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Api;
use super::auth::Admin;
use super::body::{Body, check_name};
use super::policies::{check_conditions, check_longest, check_sides};
use super::problem::{Code, Problem};

/// A policy file.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyFileGiven {
    /// What the file is called, for the places of its policies: `access.toml`.
    #[serde(default = "unnamed")]
    file: String,
    /// What is in it (TOML).
    text: String,
    /// The version that is expected to be stored; that which the file names if left out.
    version: Option<String>,
}

fn unnamed() -> String {
    "policy.toml".into()
}

/// The policies of the account as a file.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PolicyFile)]
pub struct PolicyFileView {
    /// The version of the stored policies.
    version: String,
    /// The file (TOML).
    text: String,
}

/// What a policy file would do, or did.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PolicyPlan)]
pub struct PlanView {
    /// Whether anything that decides would change.
    changes: bool,
    /// The version of the stored policies: before, for a plan; after, once it is applied.
    version: String,
    policies: Vec<PolicyChanged>,
    /// Who gains and who loses what, sorted; at most 10,000.
    access: Vec<AccessChanged>,
    /// How many changes of access there are.
    access_changes: usize,
    tests: Vec<TestView>,
}

/// What happens to a policy.
#[derive(Debug, Serialize, ToSchema)]
pub struct PolicyChanged {
    /// `created`, `changed` or `deleted`.
    change: String,
    policy: String,
}

/// A change of somebody's access.
#[derive(Debug, Serialize, ToSchema)]
pub struct AccessChanged {
    /// `gains` or `loses`.
    change: String,
    principal: String,
    resource: String,
    /// Under which conditions, in words.
    condition: String,
    /// The policy that gives or takes it.
    policy: String,
}

/// How a test of the file ended.
#[derive(Debug, Serialize, ToSchema)]
pub struct TestView {
    name: String,
    /// Its line in the file.
    line: usize,
    passed: bool,
    /// What was decided.
    detail: String,
}

fn shown(plan: &Plan) -> PlanView {
    let policy = |(verb, name): &(Verb, String)| PolicyChanged {
        change: match verb {
            Verb::Creates => "created",
            Verb::Changes => "changed",
            Verb::Deletes => "deleted",
        }
        .into(),
        policy: name.clone(),
    };
    PlanView {
        changes: plan.is_change(),
        version: plan.version.clone(),
        policies: plan.rules.iter().map(policy).collect(),
        access: plan
            .access
            .iter()
            .map(|it| AccessChanged {
                change: if it.gains { "gains" } else { "loses" }.into(),
                principal: it.principal.clone(),
                resource: it.resource.clone(),
                condition: it.condition.clone(),
                policy: it.rule.clone(),
            })
            .collect(),
        access_changes: plan.moved,
        tests: plan
            .tests
            .iter()
            .map(|it| TestView {
                name: it.name.clone(),
                line: it.line,
                passed: it.passed,
                detail: it.detail.clone(),
            })
            .collect(),
    }
}

/// What the API asks of a policy, it asks of one in a file too.
fn check(policy: &Policy) -> Result<(), String> {
    let problem = |problem: Problem| problem.detail;
    check_name(&policy.name).map_err(problem)?;
    check_conditions(&policy.conditions).map_err(problem)?;
    check_longest(policy.max_session_seconds).map_err(problem)?;
    check_sides((&policy.groups, &policy.principal_labels), (&policy.resources, &policy.resource_labels))
        .map_err(|(field, detail)| format!("{field}: {detail}"))
}

async fn records(api: &Api, admin: &Admin) -> Result<Records, Problem> {
    Ok(Records::of(api.storage.everything(admin.account.id).await?))
}

/// Makes the plan on a thread of its own: comparing the access of many takes a while.
async fn plan(api: &Api, records: Records, given: &PolicyFileGiven) -> Result<(Plan, Records), Problem> {
    let (file, text) = (given.file.clone(), given.text.clone());
    let (mut countries, now) = (api.countries.clone(), api.clock.now());
    let made = web::block(move || {
        if let Some(Err(error)) = countries.renew() {
            tracing::warn!(error = %with_cause(&error), "the countries stay as they were");
        }
        let plan = Plan::make(&records, &file, &text, check, &countries, now);
        (plan, records)
    })
    .await;
    let (plan, records) = made.map_err(|error| Problem::internal("a plan could not be made", &error))?;
    let wrong = |FileError { line, what }: FileError| {
        Problem::new(Code::Invalid, format!("{}:{line}: {what}", given.file)).in_field("text")
    };
    Ok((plan.map_err(wrong)?, records))
}

/// `GET /policy-file`
pub async fn export(api: web::Data<Api>, admin: Admin) -> Result<web::Json<PolicyFileView>, Problem> {
    let records = records(&api, &admin).await?;
    let version = policy_file::version(records.policies.values());
    Ok(web::Json(PolicyFileView { version, text: policy_file::export(&records) }))
}

/// `POST /policy-file/plan`
pub async fn show(
    api: web::Data<Api>,
    admin: Admin,
    body: Body<PolicyFileGiven>,
) -> Result<web::Json<PlanView>, Problem> {
    let records = records(&api, &admin).await?;
    let (plan, _) = plan(&api, records, &body.0).await?;
    Ok(web::Json(shown(&plan)))
}

/// `POST /policy-file/apply`
pub async fn apply(
    api: web::Data<Api>,
    admin: Admin,
    body: Body<PolicyFileGiven>,
) -> Result<web::Json<PlanView>, Problem> {
    let records = records(&api, &admin).await?;
    let (plan, records) = plan(&api, records, &body.0).await?;
    let expected = body.0.version.as_ref().or(plan.written_for.as_ref());
    if let Some(expected) = expected.filter(|expected| **expected != plan.version) {
        return Err(Problem::new(
            Code::Conflict,
            format!(
                "the file is for version {expected} of the policies, but {} is stored: somebody changed them meanwhile; \
                 look at `postern admin policy export`, take over what is new, and name that version",
                plan.version
            ),
        ));
    }
    if let Some(failed) = plan.failed() {
        let file = &body.0.file;
        let detail = format!(
            "{file}:{}: test \"{}\" failed: {}; nothing was written",
            failed.line, failed.name, failed.detail
        );
        return Err(Problem::new(Code::Invalid, detail).in_field("text"));
    }
    let view = PlanView { version: plan.next_version(&records), ..shown(&plan) };
    api.commit(&admin, plan.into_ops()).await?;
    Ok(web::Json(view))
}
