//! What storage does, whatever the database. Every method takes the account; nothing here can leave it out.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;

use jiff::Timestamp;
use protocol_control::{Flow, FlowBatch, RoleHello};
use protocol_identity::{AccountId, GatewayId, GrantId, IdentityPublic, TokenHash, TokenId};
use uuid::Uuid;

use crate::model::{Account, Key, Kind, Object, Token};

/// A future that an actor can spawn and a handler can await.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, StorageError>> + Send + 'a>>;

/// Why storage did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// Nothing with that id or name in this account.
    #[error("there is no {kind} {key}")]
    NotFound {
        /// What was looked for.
        kind: Kind,
        /// Under which id or name.
        key: String,
    },
    /// The name belongs to another one.
    #[error("there is a {kind} {name} already")]
    NameTaken {
        /// What.
        kind: Kind,
        /// The name.
        name: String,
    },
    /// Something still refers to it.
    #[error("{by_kind} {by_name} still uses it")]
    InUse {
        /// The kind of what uses it.
        by_kind: Kind,
        /// Its name.
        by_name: String,
    },
    /// What the caller's own closure found wrong.
    #[error("{0}")]
    Refused(String),
    /// It is not as the caller last saw it.
    #[error("{kind} {name} was changed meanwhile")]
    Changed {
        /// What.
        kind: Kind,
        /// Its name or id.
        name: String,
    },
    /// The token is not accepted for this installation.
    #[error("the token belongs to another installation")]
    OtherInstallation,
    /// An administrator has disabled the node or its principal.
    #[error("the {0} is disabled")]
    Disabled(Kind),
    /// The account has no tunnel address left.
    #[error("all tunnel addresses of the account are taken")]
    NoAddressLeft,
    /// Too much is waiting.
    #[error("storage is busy")]
    Busy,
    /// The database cannot be reached, or takes no writes now.
    #[error("the database cannot be reached")]
    Away(#[source] sqlx::Error),
    /// There is no room for what is written.
    #[error("the disk of the database is full or failing")]
    Full(#[source] sqlx::Error),
    /// The database failed.
    #[error("the database failed")]
    Database(#[source] sqlx::Error),
    /// The database's layout could not be brought up to date.
    #[error("the database could not be brought up to date")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// What is stored cannot be read.
    #[error("a stored {0} cannot be read")]
    Damaged(&'static str),
}

impl StorageError {
    /// Whether it is no refusal of one change, but nothing can be written now.
    pub fn stops_writing(&self) -> bool {
        matches!(self, Self::Away(_) | Self::Full(_))
    }

    /// What all who waited for one way to the disk are told when it failed.
    pub fn shared(&self) -> Self {
        let cause = || sqlx::Error::Protocol(format!("for all changes that were written together: {self}"));
        match self {
            Self::Away(_) => Self::Away(cause()),
            Self::Full(_) => Self::Full(cause()),
            _ => Self::Database(cause()),
        }
    }
}

impl From<sqlx::Error> for StorageError {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error;
        match &error {
            Error::Io(_) | Error::Tls(_) | Error::PoolTimedOut | Error::PoolClosed | Error::WorkerCrashed => {
                Self::Away(error)
            }
            Error::Database(cause) => {
                let full = is_full(cause.as_ref());
                let away = is_away(cause.as_ref());
                match (full, away) {
                    (true, _) => Self::Full(error),
                    (false, true) => Self::Away(error),
                    (false, false) => Self::Database(error),
                }
            }
            _ => Self::Database(error),
        }
    }
}

/// Whether the disk is the cause: SQLite's FULL, IOERR and CANTOPEN with all their variants, PostgreSQL's `disk_full`.
fn is_full(cause: &dyn sqlx::error::DatabaseError) -> bool {
    let code = cause.code().unwrap_or_default();
    if cause.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() {
        return code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 10 | 13 | 14));
    }
    code == "53100"
}

/// Whether PostgreSQL goes down, comes up, cut the connection, or is a follower that takes no writes.
fn is_away(cause: &dyn sqlx::error::DatabaseError) -> bool {
    let code = cause.code().unwrap_or_default();
    cause.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_none()
        && (code.starts_with("08") || code.starts_with("57P") || code == "53300" || code == "25006")
}

/// Changes one record inside the transaction that writes it.
pub type Patch = Box<dyn FnOnce(&mut Object) -> Result<(), StorageError> + Send>;

/// Looks at all records of a kind inside the transaction, before anything of it is written.
pub type Check = Box<dyn FnOnce(&[Object]) -> Result<(), StorageError> + Send>;
/// Looks at one record inside the transaction, before what follows.
pub type Expectation = Box<dyn FnOnce(&Object) -> Result<(), StorageError> + Send>;

/// A node that says hello with a token.
#[derive(Debug, Clone)]
pub struct Join {
    /// The token it came with, as [`Storage::authenticate`] found it.
    pub token: Token,
    /// The identity that it proved.
    pub identity: IdentityPublic,
    /// The name that it would like.
    pub name: String,
    /// The version of its program.
    pub version: String,
    /// What it says about itself.
    pub role: RoleHello,
}

/// One step of a change. The steps of one [`Write`] are written together or not at all.
pub enum Op {
    /// A new record.
    Create(Object),
    /// A record, new or not.
    Put(Object),
    /// Reads, changes and writes a record.
    Patch(Kind, Key, Patch),
    /// Looks at a record and refuses the whole change when it is not as expected. Leaves no row in the log.
    Expect(Kind, Key, Expectation),
    /// Deletes a record, and what belongs to it.
    Delete(Kind, Key),
    /// Deletes a grant if it is there, and notes why it ended.
    End(GrantId, serde_json::Value),
    /// Finds or makes the node that says hello, and notes that it was seen.
    Join(Box<Join>),
    /// Notes something that changes no record.
    Note(Note),
    /// Notes something that another than the writer did.
    NoteOf(String, Note),
    /// Refuses the whole change unless all records of a kind are as expected.
    Check(Kind, Check),
}

/// A fact for the log that changes no record.
#[derive(Debug, Clone)]
pub struct Note {
    /// What happened: `denied`, `refused`, …
    pub action: &'static str,
    /// To what.
    pub kind: Kind,
    /// Its id.
    pub id: Option<Uuid>,
    /// Its name.
    pub name: Option<String>,
    /// Details as JSON.
    pub detail: serde_json::Value,
}

/// A change that someone wants.
pub struct Write {
    /// The account that it is in.
    pub account: AccountId,
    /// Who wants it, as the log names them: `admin-token:first`, `gateway:office-1`, `control`.
    pub by: String,
    /// When it is wanted.
    pub at: Timestamp,
    /// Its steps.
    pub ops: Vec<Op>,
}

/// One row of the change log, with the record.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Its place in the log.
    pub sequence: u64,
    /// What happened.
    pub action: Action,
}

/// What a change did.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "there are few, and most hold a record")]
pub enum Action {
    /// The record is new or changed; this is all of it.
    Put(Object),
    /// The record is gone.
    Deleted(Kind, Uuid),
    /// Nothing changed.
    Noted,
}

/// A change that is committed.
#[derive(Debug, Clone, PartialEq)]
pub struct Committed {
    /// The account that it is in.
    pub account: AccountId,
    /// A row for each step, in order, without gaps among them.
    pub changes: Vec<Change>,
}

impl Committed {
    /// The sequence of the last row; 0 when there is none.
    pub fn sequence(&self) -> u64 {
        self.changes.last().map_or(0, |change| change.sequence)
    }

    /// The record that the last step wrote.
    pub fn last_object(&self) -> Option<&Object> {
        self.changes.iter().rev().find_map(|change| match &change.action {
            Action::Put(object) => Some(object),
            Action::Deleted(..) | Action::Noted => None,
        })
    }
}

/// A row of the change log as the audit shows it.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct LogRow {
    pub sequence: u64,
    pub at: Timestamp,
    pub actor: String,
    pub action: String,
    pub kind: String,
    pub id: Option<Uuid>,
    pub name: Option<String>,
    pub detail: serde_json::Value,
    /// The hash of the row before it in its account; empty for rows from before there were hashes.
    pub previous: String,
    pub hash: String,
}

impl LogRow {
    /// The row as an audit record.
    pub fn record(self) -> protocol_audit::Record {
        protocol_audit::Record {
            schema: protocol_audit::SCHEMA,
            sequence: self.sequence,
            at: self.at.to_string(),
            actor: self.actor,
            action: self.action,
            kind: self.kind,
            id: self.id.map(|id| id.to_string()),
            name: self.name,
            detail: self.detail,
            previous: self.previous,
            hash: self.hash,
        }
    }
}

/// Part of a list.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Only what was made after this.
    pub after: Option<Uuid>,
    /// At most this many.
    pub limit: usize,
    /// Only with this name.
    pub name: Option<String>,
}

/// Something by its id and the name that it had.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Named {
    pub id: Uuid,
    pub name: String,
}

/// A flow that has ended, with the names of that moment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct StoredFlow {
    /// Ids are in the order of arrival.
    pub id: Uuid,
    pub gateway: Named,
    pub device: Named,
    /// Nobody when the device was forgotten before its flow was reported.
    pub principal: Option<Named>,
    pub resource: Named,
    pub policy: Named,
    pub flow: Flow,
}

/// Which flows.
#[derive(Debug, Clone, Default)]
pub struct FlowFilter {
    /// Only what arrived after this one.
    pub after: Option<Uuid>,
    /// At most this many.
    pub limit: usize,
    /// Only of this principal, by id or name.
    pub principal: Option<String>,
    /// Only of this device, by id or name.
    pub device: Option<String>,
    /// Only to this resource, by id or name.
    pub resource: Option<String>,
    /// Only through this gateway, by id or name.
    pub gateway: Option<String>,
    /// Only what had not ended then, by the gateways' clocks.
    pub since: Option<Timestamp>,
    /// Only what had begun before then, by the gateways' clocks.
    pub until: Option<Timestamp>,
}

/// All that decisions and sessions of one account depend on, at one moment.
#[derive(Debug, Clone, Default)]
pub struct Everything {
    /// The log's last row at that moment.
    pub sequence: u64,
    /// Every record.
    pub objects: Vec<Object>,
}

/// A database.
pub trait Storage: Send + Sync + 'static {
    /// Writes all steps and their log rows in one transaction.
    fn commit(&self, write: Write) -> Pending<'_, Committed>;

    /// Writes several changes on one way to the disk. Each is carried out whole or refused by itself; they are in force
    /// together, or none is.
    fn commit_all(&self, writes: Vec<Write>) -> Pending<'_, Vec<Result<Committed, StorageError>>>;

    /// One record.
    fn find(&self, account: AccountId, kind: Kind, key: Key) -> Pending<'_, Option<Object>>;

    /// Records in the order in which they were made.
    fn list(&self, account: AccountId, kind: Kind, page: Page) -> Pending<'_, Vec<Object>>;

    /// Everything at one moment.
    fn everything(&self, account: AccountId) -> Pending<'_, Everything>;

    /// The log after a row, oldest first.
    fn log(&self, account: AccountId, after: u64, limit: usize) -> Pending<'_, Vec<LogRow>>;

    /// The account and token with this hash: the one query that finds the account instead of being told it.
    fn authenticate(&self, hash: TokenHash) -> Pending<'_, Option<(Account, Token)>>;

    /// Notes that tokens were used, without a row in the log.
    fn touch(&self, account: AccountId, tokens: BTreeSet<TokenId>, at: Timestamp) -> Pending<'_, ()>;

    /// Makes an account with its built-in group and a first admin token. Refused when the name is taken.
    fn create_account(&self, name: String, admin: TokenHash, at: Timestamp) -> Pending<'_, Account>;

    /// All accounts.
    fn accounts(&self) -> Pending<'_, Vec<Account>>;

    /// Forgets log rows beyond the newest `keep`.
    fn trim_log(&self, keep: u64) -> Pending<'_, u64>;

    /// Stores flows of a gateway, unless it is a batch that was stored before; says whether it is new. No row in the log.
    fn store_flows(
        &self,
        account: AccountId,
        gateway: GatewayId,
        batch: FlowBatch,
        at: Timestamp,
    ) -> Pending<'_, bool>;

    /// Flows in the order of their arrival.
    fn flows(&self, account: AccountId, filter: FlowFilter) -> Pending<'_, Vec<StoredFlow>>;

    /// Forgets at most `most` of the flows that arrived before a moment, oldest first; how many they were.
    fn trim_flows(&self, account: AccountId, before: Timestamp, most: usize) -> Pending<'_, u64>;
}

/// Finds a record of a known kind.
///
/// # Errors
/// [`StorageError::NotFound`] too.
pub async fn find<R: crate::model::Record>(
    storage: &dyn Storage,
    account: AccountId,
    key: Key,
) -> Result<R, StorageError> {
    let text = key.to_string();
    storage
        .find(account, R::KIND, key)
        .await?
        .and_then(R::from_object)
        .ok_or(StorageError::NotFound { kind: R::KIND, key: text })
}

/// Lists records of a known kind.
///
/// # Errors
/// When the database fails.
pub async fn list<R: crate::model::Record>(
    storage: &dyn Storage,
    account: AccountId,
    page: Page,
) -> Result<Vec<R>, StorageError> {
    Ok(storage.list(account, R::KIND, page).await?.into_iter().filter_map(R::from_object).collect())
}
