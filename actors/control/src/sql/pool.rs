//! Connections: to SQLite one that writes, so that sequences in the log are in commit order, and several that read; to
//! PostgreSQL several for both.

use std::str::FromStr as _;
use std::time::Duration;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, Postgres};
use sqlx::sqlite::{
    Sqlite, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, ConnectOptions as _, SqlSafeStr as _};

use super::MIGRATIONS;
use super::db::{Db, postgres_layout};
use super::location::Location;
use crate::storage::StorageError;

/// Connections that read SQLite. Readers do not block each other; more than a few only cost memory.
const READERS: u32 = 4;
/// Connections to PostgreSQL.
const CONNECTIONS: u32 = 8;
/// How long a request waits for a connection: a database that is away is said to be, before the client gives up.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// How long PostgreSQL may take for one step: a server that does not answer is away. SQLite answers or fails by itself.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The connections.
pub(super) enum Pool {
    Sqlite { writer: SqlitePool, readers: SqlitePool },
    Postgres(PgPool),
}

/// A connection that is held for a while.
pub(super) enum Held {
    Sqlite(PoolConnection<Sqlite>),
    Postgres(PoolConnection<Postgres>),
}

/// A transaction; undone unless it is committed.
pub(super) enum Transaction {
    Sqlite(sqlx::Transaction<'static, Sqlite>),
    Postgres(sqlx::Transaction<'static, Postgres>),
}

impl Held {
    pub(super) fn db(&mut self) -> Db<'_> {
        match self {
            Self::Sqlite(held) => Db::Sqlite(held),
            Self::Postgres(held) => Db::Postgres(held),
        }
    }
}

impl Transaction {
    pub(super) fn db(&mut self) -> Db<'_> {
        match self {
            Self::Sqlite(transaction) => Db::Sqlite(transaction),
            Self::Postgres(transaction) => Db::Postgres(transaction),
        }
    }

    pub(super) async fn commit(self) -> Result<(), StorageError> {
        match self {
            Self::Sqlite(transaction) => transaction.commit().await?,
            Self::Postgres(transaction) => transaction.commit().await?,
        }
        Ok(())
    }
}

/// How a transaction of SQLite that writes begins.
const IMMEDIATELY: &str = "BEGIN IMMEDIATE";

fn migrator(layout: impl Fn(&'static str) -> AssertSqlSafe<String>) -> Migrator {
    let migration = |(version, name, sql): (i64, &'static str, &'static str)| {
        let sql = layout(sql).into_sql_str();
        Migration::new(version, name.into(), MigrationType::Simple, sql, false)
    };
    Migrator::with_migrations(MIGRATIONS.map(migration).into())
}

impl Pool {
    pub(super) async fn open(location: &Location) -> Result<Self, StorageError> {
        match location {
            Location::Sqlite(file) => {
                let options = SqliteConnectOptions::new()
                    .filename(file)
                    .create_if_missing(true)
                    .foreign_keys(true)
                    .journal_mode(SqliteJournalMode::Wal)
                    // What was acknowledged survives a power cut too: a revocation must not come undone.
                    .synchronous(SqliteSynchronous::Full)
                    .busy_timeout(Duration::from_secs(5));
                let writer =
                    SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await?;
                migrator(|sql| AssertSqlSafe(sql.to_owned())).run(&writer).await?;
                let readers = SqlitePoolOptions::new()
                    .max_connections(READERS)
                    .connect_with(options.read_only(true).create_if_missing(false))
                    .await?;
                Ok(Self::Sqlite { writer, readers })
            }
            Location::Postgres(url) => {
                // The statements are few, and a line for each would be all that the log holds.
                let options = PgConnectOptions::from_str(url)?
                    .application_name("postern-control")
                    .disable_statement_logging();
                let pool = PgPoolOptions::new()
                    .max_connections(CONNECTIONS)
                    .acquire_timeout(CONNECT_WITHIN)
                    .connect_with(options)
                    .await?;
                migrator(|sql| AssertSqlSafe(postgres_layout(sql))).run(&pool).await?;
                Ok(Self::Postgres(pool))
            }
        }
    }

    /// Waits for what is asked of the database, and no longer than it may take. What was being written then is undone,
    /// unless it had just been committed.
    pub(super) async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, StorageError>>,
    ) -> Result<T, StorageError> {
        match self {
            Self::Sqlite { .. } => work.await,
            Self::Postgres(_) => match tokio::time::timeout(ANSWER_WITHIN, work).await {
                Ok(done) => done,
                Err(_) => Err(StorageError::Away(sqlx::Error::PoolTimedOut)),
            },
        }
    }

    pub(super) async fn close(&self) {
        match self {
            Self::Sqlite { writer, readers } => {
                readers.close().await;
                writer.close().await;
            }
            Self::Postgres(pool) => pool.close().await,
        }
    }

    /// A connection to read with.
    pub(super) async fn read(&self) -> Result<Held, StorageError> {
        Ok(match self {
            Self::Sqlite { readers, .. } => Held::Sqlite(readers.acquire().await?),
            Self::Postgres(pool) => Held::Postgres(pool.acquire().await?),
        })
    }

    /// Reads that all see the same moment.
    pub(super) async fn read_at_one_moment(&self) -> Result<Transaction, StorageError> {
        Ok(match self {
            Self::Sqlite { readers, .. } => Transaction::Sqlite(readers.begin().await?),
            Self::Postgres(pool) => Transaction::Postgres(
                pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?,
            ),
        })
    }

    /// A transaction to write in.
    pub(super) async fn write(&self) -> Result<Transaction, StorageError> {
        Ok(match self {
            Self::Sqlite { writer, .. } => match writer.begin_with(IMMEDIATELY).await {
                // SQLite ends a transaction by itself when the disk is full, and its connection still counts one.
                Err(sqlx::Error::InvalidSavePointStatement) => {
                    writer.acquire().await?.close().await?;
                    Transaction::Sqlite(writer.begin_with(IMMEDIATELY).await?)
                }
                begun => Transaction::Sqlite(begun?),
            },
            Self::Postgres(pool) => Transaction::Postgres(pool.begin().await?),
        })
    }
}
