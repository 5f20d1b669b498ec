//! The control API: REST under `/api/v1`, and the sessions of nodes.

mod auth;
mod body;
mod collection;
mod flows;
mod grants;
mod groups;
mod guard;
mod idempotency;
mod names;
mod nodes;
mod openapi;
mod patterns;
mod policies;
mod policy_file;
mod precondition;
mod problem;
mod rates;
mod reports;
mod resources;
mod service_accounts;
mod session;
mod sites;
#[cfg(test)]
mod tests;
mod tokens;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix_web::middleware::from_fn;
use actix_web::web::{self, ServiceConfig};
use actix_web::{HttpResponse, Resource};
use actors_control::audit_log::{self, AuditLog};
use actors_control::clock::Clock;
use actors_control::countries::Countries;
use actors_control::directory::{self, Directory};
use actors_control::grant_office::{self, GrantOffice};
use actors_control::storage::{Committed, Note, Op, Storage, StorageError, Write};
use actors_control::store::{self, Store};
use actors_runtime::{Address, Reply};
use jiff::Timestamp;
use protocol_identity::AccountId;
use services_chassis::Readiness;
use tokio::sync::Semaphore;

use crate::public::Public;
use auth::Admin;
pub use auth::Throttle;
use collection::{Change, Collection, Create, Online};
pub use idempotency::Idempotency;
use problem::Problem;
pub use rates::Rates;

/// How long an answer waits until what follows from a change is on its way to the nodes.
const SETTLE_WITHIN: Duration = Duration::from_secs(2);
/// How long a question to an actor may take.
const ASK_WITHIN: Duration = Duration::from_secs(5);

/// What handlers work with.
pub struct Api {
    /// Reads.
    pub storage: Arc<dyn Storage>,
    /// Writes.
    pub store: Address<Store>,
    /// The office of each account.
    pub offices: BTreeMap<AccountId, Address<GrantOffice>>,
    /// Who is connected.
    pub directory: Address<Directory>,
    /// Facts that change nothing.
    pub audit: Address<AuditLog>,
    /// The countries of addresses.
    pub countries: Countries,
    /// The time of day.
    pub clock: Clock,
    /// How others reach this control plane.
    pub public: Public,
    /// Whether the process does its work.
    pub readiness: Readiness,
    /// Failed sign-ins.
    pub throttle: Throttle,
    /// How often each token asks.
    pub rates: Rates,
    /// Answers that may be asked for again.
    pub idempotency: Idempotency,
    /// Lets nodes into storage, so many at a time.
    pub joins: Semaphore,
}

/// Nodes that are found or made in storage at a time; the others wait their turn.
pub const JOINS: usize = 64;

/// A time as the API writes it.
fn time(at: Timestamp) -> String {
    at.to_string()
}

impl Api {
    /// Writes, and waits until it is committed.
    async fn write(&self, write: Write) -> Result<Arc<Committed>, StorageError> {
        let (reply, answer) = Reply::channel();
        let command = store::Command::Write { write, reply: Some(reply) };
        self.store.tell(command).map_err(|_| StorageError::Busy)?;
        answer.await.unwrap_or(Err(StorageError::Busy))
    }

    /// Writes what an administrator wants, and waits until what follows from it is on its way to the nodes.
    async fn commit(&self, admin: &Admin, ops: Vec<Op>) -> Result<Arc<Committed>, Problem> {
        let account = admin.account.id;
        let write = Write { account, by: admin.by.clone(), at: self.clock.now(), ops };
        let committed = self.write(write).await?;
        self.settled(account, committed.sequence()).await;
        Ok(committed)
    }

    /// Waits until the account's office has taken in the log up to this row. One that does not manage it in time is
    /// behind, and decides nothing until it is not.
    async fn settled(&self, account: AccountId, sequence: u64) {
        let Some(office) = self.office(account) else { return };
        let (reply, answer) = Reply::channel();
        if office.tell(grant_office::Command::Settle(sequence, reply)).is_err()
            || tokio::time::timeout(SETTLE_WITHIN, answer).await.is_err()
        {
            tracing::warn!("a change is committed, but not all nodes may have been told yet");
        }
    }

    fn office(&self, account: AccountId) -> Option<&Address<GrantOffice>> {
        self.offices.get(&account)
    }

    /// The nodes of an account that are connected.
    async fn online(&self, account: AccountId) -> Online {
        let (reply, answer) = Reply::channel();
        if self.directory.tell(directory::Command::Online(account, reply)).is_err() {
            return Online::new();
        }
        match tokio::time::timeout(ASK_WITHIN, answer).await {
            Ok(Ok(online)) => online,
            Ok(Err(_)) | Err(_) => Online::new(),
        }
    }

    fn note(&self, account: AccountId, by: &str, note: Note) {
        self.tell_audit(audit_log::Command::Note(account, by.into(), note));
    }

    fn tell_audit(&self, command: audit_log::Command) {
        // Its row drops the newest and counts it.
        let _ = self.audit.tell(command);
    }
}

fn at(path: &str) -> Resource {
    web::resource(path).default_service(web::route().to(reports::method_not_allowed))
}

fn all<C: Collection>() -> Resource {
    at(&format!("/{}", C::PATH)).route(web::get().to(collection::list_all::<C>))
}

fn one<C: Collection>() -> Resource {
    at(&format!("/{}/{{ref}}", C::PATH)).route(web::get().to(collection::show::<C>))
}

/// A collection that is added to, changed and deleted from.
fn editable<C: Create + Change>(config: &mut ServiceConfig) {
    config.service(all::<C>().route(web::post().to(collection::create::<C>)));
    config.service(
        one::<C>()
            .route(web::patch().to(collection::change::<C>))
            .route(web::delete().to(collection::delete::<C>)),
    );
}

/// A collection of nodes, which join by themselves.
fn joined<C: Change>(config: &mut ServiceConfig) {
    config.service(all::<C>());
    config.service(
        one::<C>()
            .route(web::patch().to(collection::change::<C>))
            .route(web::delete().to(collection::delete::<C>)),
    );
}

fn version_1(config: &mut ServiceConfig) {
    editable::<sites::Sites>(config);
    joined::<nodes::Gateways>(config);
    joined::<nodes::Relays>(config);
    joined::<nodes::Devices>(config);
    editable::<tokens::GatewayTokens>(config);
    editable::<tokens::RelayTokens>(config);
    editable::<tokens::AdminTokens>(config);
    editable::<resources::Resources>(config);
    editable::<policies::Policies>(config);

    editable::<groups::Groups>(config);
    config.service(
        at("/groups/{ref}/members")
            .route(web::get().to(groups::list_members))
            .route(web::post().to(groups::add_member)),
    );
    config.service(at("/groups/{ref}/members/{principal}").route(web::delete().to(groups::remove_member)));

    editable::<service_accounts::ServiceAccounts>(config);
    config.service(
        at("/service-accounts/{ref}/tokens")
            .route(web::get().to(tokens::list_of_account))
            .route(web::post().to(tokens::create_for_account)),
    );
    config.service(
        at("/service-accounts/{ref}/tokens/{token}").route(web::delete().to(tokens::delete_of_account)),
    );

    config.service(all::<grants::Grants>());
    config.service(one::<grants::Grants>().route(web::delete().to(collection::delete::<grants::Grants>)));
    config.service(at("/policy-file").route(web::get().to(policy_file::export)));
    config.service(at("/policy-file/plan").route(web::post().to(policy_file::show)));
    config.service(at("/policy-file/apply").route(web::post().to(policy_file::apply)));
    config.service(at("/decisions").route(web::post().to(reports::decide)));
    config.service(at("/audit").route(web::get().to(reports::audit)));
    config.service(at("/flows").route(web::get().to(flows::list)));
    config.service(at("/account").route(web::get().to(reports::account)));
    config.service(at("/openapi.json").route(web::get().to(openapi::serve)));
}

async fn healthz() -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain").body("ok\n")
}

async fn readyz(api: web::Data<Api>) -> HttpResponse {
    match api.readiness.get() {
        Ok(()) => HttpResponse::Ok().content_type("text/plain").body("ready\n"),
        Err(why) => {
            HttpResponse::ServiceUnavailable().content_type("text/plain").body(format!("not ready: {why}\n"))
        }
    }
}

/// All routes.
pub fn routes(config: &mut ServiceConfig) {
    config.service(
        web::scope("/api/v1")
            .configure(version_1)
            .default_service(web::route().to(reports::not_found))
            .wrap(from_fn(guard::guard)),
    );
    config.route("/session", web::get().to(session::session));
    config.service(at("/healthz").route(web::get().to(healthz)));
    config.service(at("/readyz").route(web::get().to(readyz)));
    config.default_service(web::route().to(reports::not_found));
}
