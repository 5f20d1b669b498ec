//! Storage in one SQLite file with a write-ahead log.
//!
//! One connection writes, so that sequences in the log are in commit order; several read.

mod columns;
mod join;
mod tables;
mod write;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use protocol_identity::{AccountId, GroupId, TokenHash, TokenId, TokenKind};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{Row as _, SqlSafeStr as _};
use uuid::Uuid;

use crate::model::{Account, Group, Key, Kind, Object, Scope, Token};
use crate::storage::{Committed, Everything, LogRow, Op, Page, Pending, Storage, StorageError, Write};
use columns::{timestamp, uuid};

const MIGRATIONS: [(i64, &str, &str); 2] = [
    (1, "start", include_str!("../../migrations/0001_start.sql")),
    (2, "scopes", include_str!("../../migrations/0002_scopes.sql")),
];

/// Connections that read. SQLite readers do not block each other; more than a few only cost memory.
const READERS: u32 = 4;

/// A SQLite database.
pub struct Sqlite {
    writer: SqlitePool,
    readers: SqlitePool,
}

impl Sqlite {
    /// Opens the file, makes it when it is not there, and brings its layout up to date.
    ///
    /// # Errors
    /// When the file cannot be opened or was written by a newer version of this program.
    pub async fn open(file: &Path) -> Result<Self, StorageError> {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .foreign_keys(true)
            .journal_mode(SqliteJournalMode::Wal)
            // What was acknowledged survives a power cut too: a revocation must not come undone.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(5));
        let writer = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await?;
        let migrations = MIGRATIONS.map(|(version, name, sql)| {
            Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
        });
        Migrator::with_migrations(migrations.into()).run(&writer).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(options.read_only(true).create_if_missing(false))
            .await?;
        Ok(Self { writer, readers })
    }

    /// Waits until the file is closed.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
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
    async fn write(self, db: &mut SqliteConnection) -> Result<u64, StorageError> {
        let row = sqlx::query(
            "INSERT INTO changes (account, at, actor, action, kind, id, name, detail) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING sequence",
        )
        .bind(self.account.to_string())
        .bind(self.at.as_millisecond())
        .bind(self.by)
        .bind(self.action)
        .bind(self.kind)
        .bind(self.id.map(|id| id.to_string()))
        .bind(self.name)
        .bind(self.detail.to_string())
        .fetch_one(db)
        .await?;
        u64::try_from(row.try_get::<i64, _>(0)?).map_err(|_| StorageError::Damaged("sequence"))
    }
}

impl Storage for Sqlite {
    fn commit(&self, write: Write) -> Pending<'_, Committed> {
        Box::pin(async move {
            let Write { account, by, at, ops } = write;
            let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await?;
            let mut changes = Vec::with_capacity(ops.len());
            for op in ops {
                changes.extend(write::apply(&mut transaction, account, &by, at, op).await?);
            }
            transaction.commit().await?;
            Ok(Committed { account, changes })
        })
    }

    fn find(&self, account: AccountId, kind: Kind, key: Key) -> Pending<'_, Option<Object>> {
        Box::pin(async move {
            let mut db = self.readers.acquire().await?;
            tables::find(&mut db, account, kind, &key).await
        })
    }

    fn list(&self, account: AccountId, kind: Kind, page: Page) -> Pending<'_, Vec<Object>> {
        Box::pin(async move {
            let mut db = self.readers.acquire().await?;
            tables::list(&mut db, account, kind, &page).await
        })
    }

    fn everything(&self, account: AccountId) -> Pending<'_, Everything> {
        Box::pin(async move {
            // One transaction: all of it is of one moment.
            let mut transaction = self.readers.begin().await?;
            let sequence = sqlx::query("SELECT COALESCE(MAX(sequence), 0) FROM changes")
                .fetch_one(&mut *transaction)
                .await?
                .try_get::<i64, _>(0)?;
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
                everything.objects.extend(tables::list(&mut transaction, account, kind, &page).await?);
            }
            Ok(everything)
        })
    }

    fn log(&self, account: AccountId, after: u64, limit: usize) -> Pending<'_, Vec<LogRow>> {
        Box::pin(async move {
            let mut db = self.readers.acquire().await?;
            let rows = sqlx::query(
                "SELECT sequence, at, actor, action, kind, id, name, detail FROM changes \
                 WHERE account = ? AND sequence > ? ORDER BY sequence LIMIT ?",
            )
            .bind(account.to_string())
            .bind(i64::try_from(after).unwrap_or(i64::MAX))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(&mut *db)
            .await?;
            rows.iter().map(log_row).collect()
        })
    }

    fn authenticate(&self, hash: TokenHash) -> Pending<'_, Option<(Account, Token)>> {
        Box::pin(async move {
            let mut db = self.readers.acquire().await?;
            let row = sqlx::query(
                "SELECT tokens.id, accounts.id AS account, accounts.name AS account_name, \
                 accounts.created_at AS account_created_at \
                 FROM tokens JOIN accounts ON accounts.id = tokens.account WHERE tokens.hash = ?",
            )
            .bind(hash.as_bytes().to_vec())
            .fetch_optional(&mut *db)
            .await?;
            let Some(row) = row else { return Ok(None) };
            let account = Account {
                id: AccountId(uuid(&row, "account")?),
                name: row.try_get("account_name")?,
                created_at: timestamp(&row, "account_created_at")?,
            };
            let found = tables::find(&mut db, account.id, Kind::Token, &Key::Id(uuid(&row, "id")?)).await?;
            // The index compared bytes; this comparison takes the same time whatever they are.
            Ok(match found {
                Some(Object::Token(token)) if token.hash == hash => Some((account, token)),
                _ => None,
            })
        })
    }

    fn touch(&self, account: AccountId, tokens: BTreeSet<TokenId>, at: Timestamp) -> Pending<'_, ()> {
        Box::pin(async move {
            let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await?;
            for token in tokens {
                sqlx::query("UPDATE tokens SET last_used_at = ? WHERE account = ? AND id = ?")
                    .bind(at.as_millisecond())
                    .bind(account.to_string())
                    .bind(token.to_string())
                    .execute(&mut *transaction)
                    .await?;
            }
            transaction.commit().await?;
            Ok(())
        })
    }

    fn create_account(&self, name: String, admin: TokenHash, at: Timestamp) -> Pending<'_, Account> {
        Box::pin(async move {
            let account = Account { id: AccountId::fresh(), name, created_at: at };
            let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await?;
            sqlx::query("INSERT INTO accounts (id, name, created_at) VALUES (?, ?, ?)")
                .bind(account.id.to_string())
                .bind(&account.name)
                .bind(at.as_millisecond())
                .execute(&mut *transaction)
                .await?;
            let first: [Object; 2] = [
                Object::Group(Group {
                    id: GroupId::fresh(),
                    name: "everyone".into(),
                    everyone: true,
                    members: BTreeSet::new(),
                    created_at: at,
                }),
                Object::Token(Token {
                    id: TokenId::fresh(),
                    name: "first".into(),
                    kind: TokenKind::Admin,
                    hash: admin,
                    site: None,
                    principal: None,
                    region: None,
                    latitude: None,
                    longitude: None,
                    scopes: BTreeSet::from([Scope::Admin]),
                    many: true,
                    identity: None,
                    expires_at: None,
                    last_used_at: None,
                    created_at: at,
                }),
            ];
            for object in first {
                write::apply(&mut transaction, account.id, "control", at, Op::Create(object)).await?;
            }
            transaction.commit().await?;
            Ok(account)
        })
    }

    fn accounts(&self) -> Pending<'_, Vec<Account>> {
        Box::pin(async move {
            let rows = sqlx::query("SELECT id, name, created_at FROM accounts ORDER BY id")
                .fetch_all(&self.readers)
                .await?;
            rows.iter()
                .map(|row| {
                    Ok(Account {
                        id: AccountId(uuid(row, "id")?),
                        name: row.try_get("name")?,
                        created_at: timestamp(row, "created_at")?,
                    })
                })
                .collect()
        })
    }

    fn trim_log(&self, keep: u64) -> Pending<'_, u64> {
        Box::pin(async move {
            let done =
                sqlx::query("DELETE FROM changes WHERE sequence <= (SELECT MAX(sequence) FROM changes) - ?")
                    .bind(i64::try_from(keep).unwrap_or(i64::MAX))
                    .execute(&self.writer)
                    .await?;
            Ok(done.rows_affected())
        })
    }
}

fn log_row(row: &SqliteRow) -> Result<LogRow, StorageError> {
    let detail: String = row.try_get("detail")?;
    let id: Option<String> = row.try_get("id")?;
    Ok(LogRow {
        sequence: row.try_get::<i64, _>("sequence")?.unsigned_abs(),
        at: timestamp(row, "at")?,
        actor: row.try_get("actor")?,
        action: row.try_get("action")?,
        kind: row.try_get("kind")?,
        id: id.and_then(|id| id.parse().ok()),
        name: row.try_get("name")?,
        detail: serde_json::from_str(&detail).map_err(|_| StorageError::Damaged("log row"))?,
    })
}

#[cfg(test)]
mod tests;
