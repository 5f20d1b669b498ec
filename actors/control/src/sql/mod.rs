//! Storage in a SQL database: SQLite in one file, or PostgreSQL. The statements are the same.

mod columns;
mod db;
mod flows;
mod join;
mod location;
mod pool;
mod sqlite_file;
mod tables;
mod write;

use std::collections::BTreeSet;

use jiff::Timestamp;
use protocol_audit::BEGINNING;
use protocol_control::FlowBatch;
use protocol_identity::{AccountId, GatewayId, GroupId, TokenHash, TokenId};
use uuid::Uuid;

use crate::model::{Account, Group, Key, Kind, Object, Token};
use crate::storage::{
    Committed, Everything, FlowFilter, LogRow, Op, Page, Pending, Storage, StorageError, StoredFlow, Write,
};
use columns::{timestamp, uuid};
use db::{Db, Row, Value};
use pool::Pool;

pub use location::{InvalidLocation, Location};
pub use sqlite_file::{Copied, NotABackup, backup, restore};

/// The layout's steps, oldest first, in SQLite's words. Forward only: a step adds, and what it makes superfluous goes in a
/// later version's step.
const MIGRATIONS: [(i64, &str, &str); 7] = [
    (1, "start", include_str!("../../migrations/0001_start.sql")),
    (2, "scopes", include_str!("../../migrations/0002_scopes.sql")),
    (3, "draining", include_str!("../../migrations/0003_draining.sql")),
    (4, "labels", include_str!("../../migrations/0004_labels.sql")),
    (5, "chain", include_str!("../../migrations/0005_chain.sql")),
    (6, "flows", include_str!("../../migrations/0006_flows.sql")),
    (7, "disabled", include_str!("../../migrations/0007_disabled.sql")),
];

/// Whether the database has steps that this version does not know.
pub fn is_newer(error: &sqlx::migrate::MigrateError) -> bool {
    matches!(error, sqlx::migrate::MigrateError::VersionMissing(_))
}

/// A SQL database.
pub struct Sql {
    pool: Pool,
}

impl Sql {
    /// Opens the database, makes its file when it is one and not there, and brings its layout up to date.
    ///
    /// # Errors
    /// When it cannot be opened or was written by a newer version of this program.
    pub async fn open(location: &Location) -> Result<Self, StorageError> {
        Ok(Self { pool: Pool::open(location).await? })
    }

    /// A statement that only tests need.
    #[cfg(test)]
    async fn raw(&self, sql: &str, values: Vec<Value>) {
        let mut transaction = self.pool.write().await.unwrap();
        transaction.db().execute(sql, values).await.unwrap();
        transaction.commit().await.unwrap();
    }

    /// Makes an empty database on a PostgreSQL for one test.
    #[cfg(test)]
    pub(crate) async fn make_database(server: &str, name: &str) {
        use sqlx::{AssertSqlSafe, Connection as _};
        let mut server = sqlx::PgConnection::connect(server).await.unwrap();
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut server).await.unwrap();
    }

    /// Waits until it is closed.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// One more row of the log, inside the caller's transaction.
struct LogEntry<'a> {
    account: AccountId,
    at: Timestamp,
    by: &'a str,
    action: &'a str,
    kind: &'a str,
    id: Option<Uuid>,
    name: Option<&'a str>,
    detail: &'a serde_json::Value,
}

impl LogEntry<'_> {
    /// Writes the row, chained to the one before it in its account.
    async fn write(self, db: &mut Db<'_>) -> Result<u64, StorageError> {
        // Only one transaction at a time writes to the log, so there are no gaps; the newest row always stays, so no number
        // is given out twice.
        let sql = "SELECT COALESCE(MAX(sequence), 0) + 1 AS next FROM changes";
        let sequence = db.fetch_one(sql, Vec::new()).await?.number("next")?;
        let sql = "SELECT hash FROM changes WHERE account = ? ORDER BY sequence DESC LIMIT 1";
        let before = db.fetch_optional(sql, vec![(&self.account).into()]).await?;
        let previous = before.map(|row| row.optional_text("hash")).transpose()?.flatten();
        let row = LogRow {
            sequence: sequence.unsigned_abs(),
            // As exact as it is stored.
            at: Timestamp::from_millisecond(self.at.as_millisecond()).unwrap_or(self.at),
            actor: self.by.to_owned(),
            action: self.action.to_owned(),
            kind: self.kind.to_owned(),
            id: self.id,
            name: self.name.map(str::to_owned),
            detail: self.detail.clone(),
            previous: previous.unwrap_or_else(|| BEGINNING.to_owned()),
            hash: String::new(),
        };
        let record = row.record();
        let sql = "INSERT INTO changes (sequence, account, at, actor, action, kind, id, name, detail, previous, hash) \
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        let values = vec![
            sequence.into(),
            (&self.account).into(),
            self.at.as_millisecond().into(),
            self.by.into(),
            self.action.into(),
            self.kind.into(),
            Value::Text(self.id.map(|id| id.to_string())),
            Value::Text(self.name.map(str::to_owned)),
            self.detail.into(),
            (&record.previous).into(),
            (&record.expected_hash()).into(),
        ];
        db.execute(sql, values).await?;
        Ok(record.sequence)
    }
}

impl Storage for Sql {
    fn commit(&self, write: Write) -> Pending<'_, Committed> {
        Box::pin(self.pool.within(async move {
            let mut transaction = self.pool.write().await?;
            let mut db = transaction.db();
            db.lock_log().await?;
            let committed = write::apply_all(&mut db, write).await?;
            db.wake_followers(committed.sequence()).await?;
            transaction.commit().await?;
            Ok(committed)
        }))
    }

    fn commit_all(&self, writes: Vec<Write>) -> Pending<'_, Vec<Result<Committed, StorageError>>> {
        Box::pin(self.pool.within(async move {
            let mut transaction = self.pool.write().await?;
            let mut db = transaction.db();
            db.lock_log().await?;
            let (mut results, mut newest) = (Vec::with_capacity(writes.len()), None);
            for write in writes {
                // What one change did before it was refused is undone without the others.
                db.execute("SAVEPOINT change", Vec::new()).await?;
                let result = write::apply_all(&mut db, write).await;
                match &result {
                    Ok(committed) => newest = Some(committed.sequence()),
                    Err(error) if error.stops_writing() => return result.map(|_| Vec::new()),
                    Err(_) => drop(db.execute("ROLLBACK TO SAVEPOINT change", Vec::new()).await?),
                }
                db.execute("RELEASE SAVEPOINT change", Vec::new()).await?;
                results.push(result);
            }
            if let Some(newest) = newest {
                db.wake_followers(newest).await?;
            }
            transaction.commit().await?;
            Ok(results)
        }))
    }

    fn find(&self, account: AccountId, kind: Kind, key: Key) -> Pending<'_, Option<Object>> {
        Box::pin(self.pool.within(async move {
            let mut held = self.pool.read().await?;
            tables::find(&mut held.db(), account, kind, &key).await
        }))
    }

    fn list(&self, account: AccountId, kind: Kind, page: Page) -> Pending<'_, Vec<Object>> {
        Box::pin(self.pool.within(async move {
            let mut held = self.pool.read().await?;
            tables::list(&mut held.db(), account, kind, &page).await
        }))
    }

    fn everything(&self, account: AccountId) -> Pending<'_, Everything> {
        Box::pin(self.pool.within(async move {
            // One transaction: all of it is of one moment.
            let mut transaction = self.pool.read_at_one_moment().await?;
            let mut db = transaction.db();
            let sql = "SELECT COALESCE(MAX(sequence), 0) AS sequence FROM changes";
            let sequence = db.fetch_one(sql, Vec::new()).await?.number("sequence")?;
            let mut everything = Everything { sequence: sequence.unsigned_abs(), objects: Vec::new() };
            for kind in [
                Kind::Token,
                Kind::Site,
                Kind::Gateway,
                Kind::Relay,
                Kind::Device,
                Kind::Resource,
                Kind::Group,
                Kind::Principal,
                Kind::Policy,
                Kind::Grant,
            ] {
                let page = Page { limit: usize::MAX, ..Page::default() };
                everything.objects.extend(tables::list(&mut db, account, kind, &page).await?);
            }
            transaction.commit().await?;
            Ok(everything)
        }))
    }

    fn log(&self, account: AccountId, after: u64, limit: usize) -> Pending<'_, Vec<LogRow>> {
        Box::pin(self.pool.within(async move {
            let mut held = self.pool.read().await?;
            let sql = "SELECT sequence, at, actor, action, kind, id, name, detail, previous, hash FROM changes \
                       WHERE account = ? AND sequence > ? ORDER BY sequence LIMIT ?";
            let number = |number: Result<i64, _>| Value::from(number.unwrap_or(i64::MAX));
            let values = vec![(&account).into(), number(i64::try_from(after)), number(i64::try_from(limit))];
            held.db().fetch_all(sql, values).await?.iter().map(log_row).collect()
        }))
    }

    fn authenticate(&self, hash: TokenHash) -> Pending<'_, Option<(Account, Token)>> {
        Box::pin(self.pool.within(async move {
            let mut held = self.pool.read().await?;
            let mut db = held.db();
            let sql = "SELECT tokens.id AS id, accounts.id AS account, accounts.name AS account_name, \
                       accounts.created_at AS account_created_at \
                       FROM tokens JOIN accounts ON accounts.id = tokens.account WHERE tokens.hash = ?";
            let row = db.fetch_optional(sql, vec![Value::Bytes(hash.as_bytes().to_vec())]).await?;
            let Some(row) = row else { return Ok(None) };
            let account = Account {
                id: AccountId(uuid(&row, "account")?),
                name: row.text("account_name")?,
                created_at: timestamp(&row, "account_created_at")?,
            };
            let found = tables::find(&mut db, account.id, Kind::Token, &Key::Id(uuid(&row, "id")?)).await?;
            // The index compared bytes; this comparison takes the same time whatever they are.
            Ok(match found {
                Some(Object::Token(token)) if token.hash == hash => Some((account, token)),
                _ => None,
            })
        }))
    }

    fn touch(&self, account: AccountId, tokens: BTreeSet<TokenId>, at: Timestamp) -> Pending<'_, ()> {
        Box::pin(self.pool.within(async move {
            let mut transaction = self.pool.write().await?;
            for token in tokens {
                let sql = "UPDATE tokens SET last_used_at = ? WHERE account = ? AND id = ?";
                let values = vec![at.as_millisecond().into(), (&account).into(), (&token).into()];
                transaction.db().execute(sql, values).await?;
            }
            transaction.commit().await
        }))
    }

    fn create_account(&self, name: String, admin: TokenHash, at: Timestamp) -> Pending<'_, Account> {
        Box::pin(self.pool.within(async move {
            let account = Account { id: AccountId::fresh(), name, created_at: at };
            let mut transaction = self.pool.write().await?;
            let mut db = transaction.db();
            db.lock_log().await?;
            let sql = "INSERT INTO accounts (id, name, created_at) VALUES (?, ?, ?)";
            let values = vec![(&account.id).into(), (&account.name).into(), at.as_millisecond().into()];
            db.execute(sql, values).await?;
            let first: [Object; 2] = [
                Object::Group(Group {
                    id: GroupId::fresh(),
                    name: "everyone".into(),
                    everyone: true,
                    members: BTreeSet::new(),
                    created_at: at,
                }),
                Object::Token(Token::admin("first".into(), admin, at)),
            ];
            for object in first {
                write::apply(&mut db, account.id, "control", at, Op::Create(object)).await?;
            }
            transaction.commit().await?;
            Ok(account)
        }))
    }

    fn accounts(&self) -> Pending<'_, Vec<Account>> {
        Box::pin(self.pool.within(async move {
            let mut held = self.pool.read().await?;
            let sql = "SELECT id, name, created_at FROM accounts ORDER BY id";
            let account = |row: &Row| {
                Ok(Account {
                    id: AccountId(uuid(row, "id")?),
                    name: row.text("name")?,
                    created_at: timestamp(row, "created_at")?,
                })
            };
            held.db().fetch_all(sql, Vec::new()).await?.iter().map(account).collect()
        }))
    }

    fn trim_log(&self, keep: u64) -> Pending<'_, u64> {
        Box::pin(self.pool.within(async move {
            let mut transaction = self.pool.write().await?;
            let sql = "DELETE FROM changes WHERE sequence <= (SELECT MAX(sequence) FROM changes) - ?";
            let keep = i64::try_from(keep.max(1)).unwrap_or(i64::MAX);
            let rows = transaction.db().execute(sql, vec![keep.into()]).await?;
            transaction.commit().await?;
            Ok(rows)
        }))
    }

    fn store_flows(
        &self,
        account: AccountId,
        gateway: GatewayId,
        batch: FlowBatch,
        at: Timestamp,
    ) -> Pending<'_, bool> {
        Box::pin(self.pool.within(async move {
            let mut transaction = self.pool.write().await?;
            let is_new = flows::store(&mut transaction.db(), account, gateway, &batch, at).await?;
            transaction.commit().await?;
            Ok(is_new)
        }))
    }

    fn flows(&self, account: AccountId, filter: FlowFilter) -> Pending<'_, Vec<StoredFlow>> {
        Box::pin(self.pool.within(async move {
            let mut held = self.pool.read().await?;
            flows::list(&mut held.db(), account, &filter).await
        }))
    }

    fn trim_flows(&self, account: AccountId, before: Timestamp, most: usize) -> Pending<'_, u64> {
        Box::pin(self.pool.within(async move {
            let mut transaction = self.pool.write().await?;
            let rows = flows::trim(&mut transaction.db(), account, before, most).await?;
            transaction.commit().await?;
            Ok(rows)
        }))
    }
}

fn log_row(row: &Row) -> Result<LogRow, StorageError> {
    Ok(LogRow {
        sequence: row.number("sequence")?.unsigned_abs(),
        at: timestamp(row, "at")?,
        actor: row.text("actor")?,
        action: row.text("action")?,
        kind: row.text("kind")?,
        id: row.optional_text("id")?.and_then(|id| id.parse().ok()),
        name: row.optional_text("name")?,
        detail: serde_json::from_str(&row.text("detail")?).map_err(|_| StorageError::Damaged("log row"))?,
        previous: row.optional_text("previous")?.unwrap_or_default(),
        hash: row.optional_text("hash")?.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests;
