//! One connection to either database. The SQL is the same; what differs is here.

use sqlx::postgres::{PgArguments, PgConnection, PgRow, Postgres};
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Decode, Row as _, Type};

use crate::storage::StorageError;

/// A connection, inside a transaction or not.
pub(super) enum Db<'a> {
    Sqlite(&'a mut SqliteConnection),
    Postgres(&'a mut PgConnection),
}

/// What a statement is given.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Text(Option<String>),
    Number(Option<i64>),
    Real(Option<f64>),
    Bytes(Vec<u8>),
}

impl<T: ToString + ?Sized> From<&T> for Value {
    fn from(text: &T) -> Self {
        Self::Text(Some(text.to_string()))
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(Some(number))
    }
}

/// A row of an answer.
pub(super) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

type SqliteQuery<'q> = sqlx::query::Query<'q, Sqlite, SqliteArguments>;
type PostgresQuery<'q> = sqlx::query::Query<'q, Postgres, PgArguments>;

fn for_sqlite(sql: &str, values: Vec<Value>) -> SqliteQuery<'static> {
    let query = sqlx::query(AssertSqlSafe(sql.to_owned()));
    values.into_iter().fold(query, |query, value| match value {
        Value::Text(text) => query.bind(text),
        Value::Number(number) => query.bind(number),
        Value::Real(real) => query.bind(real),
        Value::Bytes(bytes) => query.bind(bytes),
    })
}

fn for_postgres(sql: &str, values: Vec<Value>) -> PostgresQuery<'static> {
    let query = sqlx::query(AssertSqlSafe(numbered(sql)));
    values.into_iter().fold(query, |query, value| match value {
        // It takes no zero characters; nothing that is stored holds one, so what is looked for is not there either.
        Value::Text(text) => query.bind(text.map(|text| text.replace('\0', "\u{FFFD}"))),
        Value::Number(number) => query.bind(number),
        Value::Real(real) => query.bind(real),
        Value::Bytes(bytes) => query.bind(bytes),
    })
}

/// `?` as `$1`, `$2`, … No statement here has a question mark that means something else.
fn numbered(sql: &str) -> String {
    let mut out = String::with_capacity(sql.len() + 16);
    let mut number = 0;
    for part in sql.split_inclusive('?') {
        match part.strip_suffix('?') {
            Some(text) => {
                number += 1;
                out.push_str(text);
                out.push('$');
                out.push_str(&number.to_string());
            }
            None => out.push_str(part),
        }
    }
    out
}

impl Db<'_> {
    /// Carries a statement out; how many rows it touched.
    pub(super) async fn execute(&mut self, sql: &str, values: Vec<Value>) -> Result<u64, StorageError> {
        Ok(match self {
            Self::Sqlite(db) => for_sqlite(sql, values).execute(&mut **db).await?.rows_affected(),
            Self::Postgres(db) => for_postgres(sql, values).execute(&mut **db).await?.rows_affected(),
        })
    }

    pub(super) async fn fetch_all(
        &mut self,
        sql: &str,
        values: Vec<Value>,
    ) -> Result<Vec<Row>, StorageError> {
        Ok(match self {
            Self::Sqlite(db) => {
                let rows = for_sqlite(sql, values).fetch_all(&mut **db).await?;
                rows.into_iter().map(Row::Sqlite).collect()
            }
            Self::Postgres(db) => {
                let rows = for_postgres(sql, values).fetch_all(&mut **db).await?;
                rows.into_iter().map(Row::Postgres).collect()
            }
        })
    }

    pub(super) async fn fetch_optional(
        &mut self,
        sql: &str,
        values: Vec<Value>,
    ) -> Result<Option<Row>, StorageError> {
        Ok(match self {
            Self::Sqlite(db) => for_sqlite(sql, values).fetch_optional(&mut **db).await?.map(Row::Sqlite),
            Self::Postgres(db) => {
                for_postgres(sql, values).fetch_optional(&mut **db).await?.map(Row::Postgres)
            }
        })
    }

    pub(super) async fn fetch_one(&mut self, sql: &str, values: Vec<Value>) -> Result<Row, StorageError> {
        self.fetch_optional(sql, values).await?.ok_or(StorageError::Damaged("answer"))
    }

    /// Only one transaction at a time may write to the log: so its sequence is in commit order. SQLite has one writer.
    pub(super) async fn lock_log(&mut self) -> Result<(), StorageError> {
        if let Self::Postgres(db) = self {
            // Any number that nothing else in this database uses.
            sqlx::query("SELECT pg_advisory_xact_lock(7205759403792793600)").execute(&mut **db).await?;
        }
        Ok(())
    }

    /// Wakes who follows the log, once this transaction is committed. The log is the truth; this only saves waiting.
    pub(super) async fn wake_followers(&mut self, sequence: u64) -> Result<(), StorageError> {
        if let Self::Postgres(db) = self {
            let query = sqlx::query("SELECT pg_notify('postern_changes', $1)").bind(sequence.to_string());
            query.execute(&mut **db).await?;
        }
        Ok(())
    }
}

impl Row {
    fn get<'r, T>(&'r self, column: &str) -> Result<T, StorageError>
    where
        T: Decode<'r, Sqlite> + Type<Sqlite> + Decode<'r, Postgres> + Type<Postgres>,
    {
        Ok(match self {
            Self::Sqlite(row) => row.try_get(column)?,
            Self::Postgres(row) => row.try_get(column)?,
        })
    }

    pub(super) fn text(&self, column: &str) -> Result<String, StorageError> {
        self.get(column)
    }

    pub(super) fn optional_text(&self, column: &str) -> Result<Option<String>, StorageError> {
        self.get(column)
    }

    pub(super) fn number(&self, column: &str) -> Result<i64, StorageError> {
        self.get(column)
    }

    pub(super) fn optional_number(&self, column: &str) -> Result<Option<i64>, StorageError> {
        self.get(column)
    }

    pub(super) fn optional_real(&self, column: &str) -> Result<Option<f64>, StorageError> {
        self.get(column)
    }

    pub(super) fn bytes(&self, column: &str) -> Result<Vec<u8>, StorageError> {
        self.get(column)
    }

    /// A truth value, which both databases keep as a number.
    pub(super) fn yes(&self, column: &str) -> Result<bool, StorageError> {
        Ok(self.number(column)? != 0)
    }
}

/// The layout in PostgreSQL's words: the statements are SQLite's, and only names of types differ. Ids and names compare
/// by their bytes in both.
pub(super) fn postgres_layout(sql: &str) -> String {
    let mut out = sql.to_owned();
    for (ours, theirs) in [
        (" STRICT, WITHOUT ROWID", ""),
        (" STRICT", ""),
        ("INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT", "BIGINT NOT NULL PRIMARY KEY"),
        (" INTEGER", " BIGINT"),
        (" REAL", " DOUBLE PRECISION"),
        (" BLOB", " BYTEA"),
        (" TEXT", " TEXT COLLATE \"C\""),
    ] {
        out = out.replace(ours, theirs);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn question_marks_become_numbers() {
        assert_eq!(
            numbered("SELECT a FROM b WHERE c = ? AND d > ?"),
            "SELECT a FROM b WHERE c = $1 AND d > $2"
        );
        assert_eq!(numbered("SELECT 1"), "SELECT 1");
    }

    #[test]
    fn the_layout_is_put_into_postgresqls_words() {
        assert_eq!(
            postgres_layout(
                "CREATE TABLE a (id TEXT NOT NULL, at INTEGER, bits BLOB) STRICT, WITHOUT ROWID;"
            ),
            "CREATE TABLE a (id TEXT COLLATE \"C\" NOT NULL, at BIGINT, bits BYTEA);"
        );
    }
}
