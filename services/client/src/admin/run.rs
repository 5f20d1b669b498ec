//! Carries the commands of `postern admin` out.

use std::path::Path;
use std::time::Duration;

use clap::Args;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::api::{Api, object};
use super::audit;
use super::cli::{
    Admin, AuditPart, AuditVerbs, Command, Connection, Decide, Explain, FlowVerbs, GrantVerbs, GroupUpdate,
    JoinedVerbs, Only, PolicyUpdate, PolicyVerbs, ServiceAccountVerbs, TokenFlags, Verbs,
};
use super::explained;
use super::flows;
use super::kinds::{self, Change, Create, Kind};
use super::output::{self, SCHEMA};
use super::policy_file;
use super::profile;
use super::token_out::Place;
use services_chassis::{Exit, Failure};

/// Runs one command.
pub async fn run(admin: Admin) -> Result<(), Failure> {
    let flags = admin.connection;
    match &admin.command {
        Command::Logout => return logout(&flags),
        Command::Policy(PolicyVerbs::Schema) => {
            policy_file::schema();
            return Ok(());
        }
        _ => {}
    }
    let target = profile::target(&flags)?;
    let api = Api::new(&target, Duration::from_secs(flags.timeout.max(1)))?;
    let office = Office { api, json: flags.json };
    match admin.command {
        Command::Login => office.login(&flags.profile, &target).await,
        Command::Logout => Ok(()),
        Command::Whoami => office.whoami().await,
        Command::Site(verbs) => office.plain(kinds::SITE, verbs).await,
        Command::Gateway(verbs) => office.joined(kinds::GATEWAY, verbs).await,
        Command::Relay(verbs) => office.joined(kinds::RELAY, verbs).await,
        Command::Device(verbs) => office.joined(kinds::DEVICE, verbs).await,
        Command::GatewayToken(verbs) => {
            office.token(kinds::GATEWAY_TOKEN, verbs, |c| &c.token, "the gateway's host").await
        }
        Command::RelayToken(verbs) => {
            office.token(kinds::RELAY_TOKEN, verbs, |c| &c.token, "the relay's host").await
        }
        Command::AdminToken(verbs) => {
            office.token(kinds::ADMIN_TOKEN, verbs, |c| &c.token, "the administrator's host").await
        }
        Command::Resource(verbs) => office.plain(kinds::RESOURCE, verbs).await,
        Command::Group(Verbs::Update(update)) => office.update_group(&update.which, &update.change).await,
        Command::Group(verbs) => office.plain(kinds::GROUP, verbs).await,
        Command::ServiceAccount(verbs) => office.service_account(verbs).await,
        Command::Policy(verbs) => office.policy(verbs).await,
        Command::Grant(verbs) => office.grant(verbs).await,
        Command::Decide(question) => office.decide(question).await,
        Command::Explain(question) => office.explain(question).await,
        Command::Flows(FlowVerbs::List(list)) => flows::list(&office.api, &list, office.json).await,
        Command::Flows(FlowVerbs::Export(export)) => flows::export(&office.api, &export, office.json).await,
        Command::Audit(AuditVerbs::List(which)) => office.audit(which).await,
        Command::Audit(AuditVerbs::Export(export)) => audit::export(&office.api, &export, office.json).await,
        Command::Audit(AuditVerbs::Verify(verify)) => audit::verify(&office.api, &verify, office.json).await,
    }
}

fn logout(flags: &Connection) -> Result<(), Failure> {
    let removed = profile::remove(&flags.profile)?;
    if flags.json {
        println!("{}", json!({"schema": SCHEMA, "removed": removed}));
    } else if removed {
        println!("profile {} forgotten", flags.profile);
    } else {
        println!("there is no profile {}", flags.profile);
    }
    Ok(())
}

/// The API, and how to answer.
struct Office {
    api: Api,
    json: bool,
}

impl Office {
    async fn login(&self, name: &str, target: &profile::Target) -> Result<(), Failure> {
        let account = self.api.get(&["account"]).await?;
        let file = profile::store(name, target)?;
        if self.json {
            println!("{}", json!({"schema": SCHEMA, "profile": file, "item": account}));
        } else {
            println!("signed in to account {} at {}", output::cell(account.get("name")), target.control_url);
            println!("remembered in {}", file.display());
        }
        Ok(())
    }

    async fn whoami(&self) -> Result<(), Failure> {
        output::item(&self.api.get(&["account"]).await?, self.json);
        Ok(())
    }

    async fn plain<C: Args + Create, U: Args + Change>(
        &self,
        kind: Kind,
        verbs: Verbs<C, U>,
    ) -> Result<(), Failure> {
        match verbs {
            Verbs::List(which) => self.list_only(kind, &which).await,
            Verbs::Show(one) => self.show(kind, &one.which).await,
            Verbs::Create(new) => self.create(kind, new.body()).await,
            Verbs::Update(update) => self.update(kind, &update.which, update.change.body()?).await,
            Verbs::Delete(one) => self.delete(kind, &one.which).await,
        }
    }

    async fn joined<U: Args + Change>(&self, kind: Kind, verbs: JoinedVerbs<U>) -> Result<(), Failure> {
        match verbs {
            JoinedVerbs::List(which) => self.list_only(kind, &which).await,
            JoinedVerbs::Show(one) => self.show(kind, &one.which).await,
            JoinedVerbs::Update(update) => self.update(kind, &update.which, update.change.body()?).await,
            JoinedVerbs::Delete(one) => self.delete(kind, &one.which).await,
        }
    }

    async fn token<C: Args + Create, U: Args + Change>(
        &self,
        kind: Kind,
        verbs: Verbs<C, U>,
        flags: impl Fn(&C) -> &TokenFlags,
        host: &str,
    ) -> Result<(), Failure> {
        match verbs {
            Verbs::Create(new) => {
                let out = flags(&new).out.as_deref();
                self.create_token(kind, &[kind.collection], new.body(), out, host).await
            }
            Verbs::List(_) | Verbs::Show(_) | Verbs::Update(_) | Verbs::Delete(_) => {
                self.plain(kind, verbs).await
            }
        }
    }

    async fn service_account(&self, verbs: ServiceAccountVerbs) -> Result<(), Failure> {
        let kind = kinds::SERVICE_ACCOUNT;
        let host = "the device";
        match verbs {
            ServiceAccountVerbs::List(which) => self.list_only(kind, &which).await,
            ServiceAccountVerbs::Show(one) => self.show(kind, &one.which).await,
            ServiceAccountVerbs::Create(new) if new.no_token => self.create(kind, new.body()).await,
            ServiceAccountVerbs::Create(new) => {
                self.create_token(kind, &[kind.collection], new.body(), new.token.out.as_deref(), host).await
            }
            ServiceAccountVerbs::Update(update) => {
                self.update(kind, &update.which, update.change.body()?).await
            }
            ServiceAccountVerbs::Delete(one) => self.delete(kind, &one.which).await,
            ServiceAccountVerbs::Token(new) => {
                let path = [kind.collection, &new.which, "tokens"];
                let kind = kinds::SERVICE_ACCOUNT_TOKEN;
                self.create_token(kind, &path, new.body(), new.token.out.as_deref(), host).await
            }
            ServiceAccountVerbs::Tokens(one) => {
                let tokens = self.api.list(&[kind.collection, &one.which, "tokens"], &[]).await?;
                output::list(kinds::SERVICE_ACCOUNT_TOKEN, &tokens, self.json);
                Ok(())
            }
            ServiceAccountVerbs::DeleteToken(which) => {
                let path = [kind.collection, &which.which, "tokens", &which.token];
                self.api.call(Method::DELETE, &path, &[], None).await?;
                output::deleted(kinds::SERVICE_ACCOUNT_TOKEN, &which.token, &json!(which.token), self.json);
                Ok(())
            }
        }
    }

    async fn policy(&self, verbs: PolicyVerbs) -> Result<(), Failure> {
        let (kind, api) = (kinds::POLICY, &self.api);
        match verbs {
            PolicyVerbs::List(which) => self.list_only(kind, &which).await,
            PolicyVerbs::Show(one) => self.show(kind, &one.which).await,
            PolicyVerbs::Create(new) => self.create(kind, new.body()).await,
            PolicyVerbs::Update(update) => self.update_policy(&update.which, &update.change).await,
            PolicyVerbs::Delete(one) => self.delete(kind, &one.which).await,
            PolicyVerbs::Plan(given) => policy_file::plan(api, &given, self.json).await,
            PolicyVerbs::Apply(apply) => policy_file::apply(api, apply, self.json).await,
            PolicyVerbs::Test(given) => policy_file::test(api, &given, self.json).await,
            PolicyVerbs::Export(export) => policy_file::export(api, &export, self.json).await,
            PolicyVerbs::Schema => {
                policy_file::schema();
                Ok(())
            }
        }
    }

    async fn grant(&self, verbs: GrantVerbs) -> Result<(), Failure> {
        match verbs {
            GrantVerbs::List(which) => {
                let given =
                    [("device", &which.device), ("resource", &which.resource), ("gateway", &which.gateway)];
                let filters = given
                    .into_iter()
                    .filter_map(|(name, value)| Some((name, value.as_deref()?)))
                    .collect::<Vec<_>>();
                self.list(kinds::GRANT, &filters).await
            }
            GrantVerbs::Show(one) => self.show(kinds::GRANT, &one.which).await,
            GrantVerbs::Delete(one) => self.delete(kinds::GRANT, &one.which).await,
        }
    }

    async fn list(&self, kind: Kind, filters: &[(&str, &str)]) -> Result<(), Failure> {
        output::list(kind, &self.api.list(&[kind.collection], filters).await?, self.json);
        Ok(())
    }

    async fn list_only(&self, kind: Kind, which: &Only) -> Result<(), Failure> {
        let filters: Vec<_> =
            which.only.iter().map(|(field, value)| (field.as_str(), value.as_str())).collect();
        self.list(kind, &filters).await
    }

    async fn show(&self, kind: Kind, which: &str) -> Result<(), Failure> {
        output::item(&self.get(kind, which).await?, self.json);
        Ok(())
    }

    async fn get(&self, kind: Kind, which: &str) -> Result<Value, Failure> {
        self.api.get(&[kind.collection, which]).await.map_err(|failure| about(failure, kind, which))
    }

    async fn create(&self, kind: Kind, body: Map<String, Value>) -> Result<(), Failure> {
        let item = self.api.call(Method::POST, &[kind.collection], &[], Some(&body.into())).await?;
        output::done("created", kind, &item, self.json);
        Ok(())
    }

    async fn create_token(
        &self,
        kind: Kind,
        path: &[&str],
        body: Map<String, Value>,
        out: Option<&Path>,
        host: &str,
    ) -> Result<(), Failure> {
        let place = Place::prepare(out)?;
        match self.api.call(Method::POST, path, &[], Some(&body.into())).await {
            Ok(answer) => {
                let what = format!("{} {}", kind.noun, output::cell(answer.get("name")));
                place.keep(answer, &what, host, self.json)
            }
            Err(failure) => {
                place.abandon();
                Err(failure)
            }
        }
    }

    async fn patch(&self, kind: Kind, which: &str, body: Map<String, Value>) -> Result<Value, Failure> {
        self.api
            .call(Method::PATCH, &[kind.collection, which], &[], Some(&body.into()))
            .await
            .map_err(|failure| about(failure, kind, which))
    }

    async fn update(&self, kind: Kind, which: &str, body: Map<String, Value>) -> Result<(), Failure> {
        if body.is_empty() {
            return Err(nothing_to_change(kind));
        }
        let item = self.patch(kind, which, body).await?;
        output::done("updated", kind, &item, self.json);
        Ok(())
    }

    async fn update_group(&self, which: &str, change: &GroupUpdate) -> Result<(), Failure> {
        let kind = kinds::GROUP;
        let body = change.body()?;
        if body.is_empty() && change.add.is_empty() && change.remove.is_empty() {
            return Err(nothing_to_change(kind));
        }
        let mut group = self.get(kind, which).await?;
        // Members go by the id, which a new name does not change.
        let id = group.get("id").and_then(Value::as_str).unwrap_or(which).to_owned();
        let members = [kind.collection, id.as_str(), "members"];
        for principal in &change.add {
            let body = json!({"principal": principal});
            self.api.call(Method::POST, &members, &[], Some(&body)).await?;
        }
        for principal in &change.remove {
            let [collection, id, members] = members;
            self.api.call(Method::DELETE, &[collection, id, members, principal], &[], None).await?;
        }
        group = match body.is_empty() {
            true => self.get(kind, &id).await?,
            false => self.patch(kind, &id, body).await?,
        };
        output::done("updated", kind, &group, self.json);
        Ok(())
    }

    async fn update_policy(&self, which: &str, change: &PolicyUpdate) -> Result<(), Failure> {
        let kind = kinds::POLICY;
        let mut body = change.body()?;
        let new = change.conditions.body();
        if change.no_conditions || !new.is_empty() {
            let mut conditions = match change.no_conditions {
                true => Map::new(),
                false => match self.get(kind, which).await?.get("conditions") {
                    Some(Value::Object(stored)) => stored.clone(),
                    Some(_) | None => Map::new(),
                },
            };
            conditions.extend(new);
            body.insert("conditions".into(), conditions.into());
        }
        self.update(kind, which, body).await
    }

    async fn delete(&self, kind: Kind, which: &str) -> Result<(), Failure> {
        let item = self.get(kind, which).await?;
        let id = item.get("id").cloned().unwrap_or_else(|| json!(which));
        self.api
            .call(Method::DELETE, &[kind.collection, id.as_str().unwrap_or(which)], &[], None)
            .await
            .map_err(|failure| about(failure, kind, which))?;
        output::deleted(kind, which, &id, self.json);
        Ok(())
    }

    async fn decide(&self, question: Decide) -> Result<(), Failure> {
        let body = object([
            ("resource", Some(json!(question.resource))),
            ("device", question.device.map(Value::from)),
            ("principal", question.principal.map(Value::from)),
            ("at", question.at.map(Value::from)),
            ("source", question.source.map(|address| json!(address))),
        ]);
        let answer = self.api.call(Method::POST, &["decisions"], &[], Some(&body.into())).await?;
        output::item(&answer, self.json);
        match answer.get("decision").and_then(Value::as_str) {
            Some("allowed") => Ok(()),
            Some(_) | None => {
                let reason = output::cell(answer.get("reason"));
                Err(Failure::new(Exit::Denied, format!("{} is denied: {reason}", question.resource)))
            }
        }
    }

    async fn explain(&self, question: Explain) -> Result<(), Failure> {
        let body = object([
            ("to", Some(json!(question.to))),
            ("device", question.device.map(Value::from)),
            ("principal", question.principal.map(Value::from)),
            ("at", question.at.map(Value::from)),
            ("source", question.from.map(|address| json!(address))),
        ]);
        let answer = self.api.call(Method::POST, &["decisions"], &[], Some(&body.into())).await?;
        if self.json {
            output::item(&answer, true);
        } else {
            println!("{}", explained::text(&question.to, &answer));
        }
        match answer.get("decision").and_then(Value::as_str) {
            Some("allowed") => Ok(()),
            Some(_) | None => Err(Failure::new(
                Exit::Denied,
                format!("{} is denied to {}", question.to, output::cell(answer.get("principal"))),
            )),
        }
    }

    async fn audit(&self, which: AuditPart) -> Result<(), Failure> {
        let limit = which.limit.to_string();
        let after = which.after.map(|sequence| sequence.to_string());
        let mut query = vec![("limit", limit.as_str())];
        query.extend(after.as_deref().map(|sequence| ("after", sequence)));
        let page = self.api.call(Method::GET, &["audit"], &query, None).await?;
        let items = page.get("items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        output::list(kinds::AUDIT, items, self.json);
        Ok(())
    }
}

/// Adds which thing an error is about, when control only says that there is none.
fn about(failure: Failure, kind: Kind, which: &str) -> Failure {
    match failure.fix {
        None => Failure { what: format!("{} {which}: {}", kind.noun, failure.what), ..failure },
        Some(_) => failure,
    }
}

fn nothing_to_change(kind: Kind) -> Failure {
    Failure::usage("nothing to change was named")
        .fix(format!("`postern admin {} update --help` lists what can change", kind.noun))
}
