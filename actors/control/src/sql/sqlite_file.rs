//! Copies of a SQLite database: taken while control runs, and put back while it does not.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{Connection as _, Row as _};

use super::MIGRATIONS;
use crate::storage::StorageError;

/// What a copy holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// The last row of its log.
    pub sequence: u64,
    /// Its accounts.
    pub accounts: u64,
    /// Its size in bytes.
    pub bytes: u64,
}

/// Why a file cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum NotABackup {
    /// It is no database of this program.
    #[error("it is no backup of postern-control")]
    Other(#[source] StorageError),
    /// SQLite finds it damaged.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// It is from a newer version.
    #[error("it was written by a newer version (layout {0}, this one knows {known})", known = MIGRATIONS.len())]
    Newer(i64),
    /// The file system.
    #[error("it cannot be put in place")]
    Files(#[from] std::io::Error),
}

async fn open(file: &Path) -> Result<SqliteConnection, StorageError> {
    let options = SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(false)
        .busy_timeout(Duration::from_secs(30));
    Ok(SqliteConnection::connect_with(&options).await?)
}

/// Copies the database as it is at one moment to a new file. Control may go on meanwhile.
///
/// # Errors
/// When the database cannot be read or the copy cannot be written.
pub async fn backup(database: &Path, copy: &Path) -> Result<Copied, StorageError> {
    let mut db = open(database).await?;
    // What a power cut leaves must be a whole backup or none: it gets its name when it is on the disk.
    let partial = beside(copy, "partial");
    let made = async {
        make_private(&partial).map_err(sqlx::Error::Io)?;
        sqlx::query("VACUUM INTO ?").bind(partial.display().to_string()).execute(&mut db).await?;
        std::fs::File::open(&partial).and_then(|file| file.sync_all()).map_err(sqlx::Error::Io)?;
        std::fs::rename(&partial, copy).map_err(sqlx::Error::Io)?;
        Ok::<(), StorageError>(())
    }
    .await;
    db.close().await?;
    if let Err(error) = made {
        // Half a copy helps nobody; if it cannot be removed, the error says more than that would.
        drop(std::fs::remove_file(&partial));
        return Err(error);
    }
    look(copy).await
}

/// An empty file for its owner only, which SQLite then fills.
fn make_private(file: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map(drop)
}

async fn look(file: &Path) -> Result<Copied, StorageError> {
    let mut db = open(file).await?;
    let row = sqlx::query(
        "SELECT (SELECT COALESCE(MAX(sequence), 0) FROM changes) AS sequence, (SELECT COUNT(*) FROM accounts) AS accounts",
    )
    .fetch_one(&mut db)
    .await?;
    let (sequence, accounts): (i64, i64) = (row.try_get("sequence")?, row.try_get("accounts")?);
    db.close().await?;
    let bytes = std::fs::metadata(file).map_or(0, |file| file.len());
    Ok(Copied { sequence: sequence.unsigned_abs(), accounts: accounts.unsigned_abs(), bytes })
}

/// Checks a backup and puts it in the place of the database, which is kept beside it. Control must not run.
///
/// # Errors
/// When the file is no whole backup of this or an older version; then nothing is changed.
pub async fn restore(copy: &Path, database: &Path) -> Result<(Copied, Option<PathBuf>), NotABackup> {
    let copied = look(copy).await.map_err(NotABackup::Other)?;
    let mut db = open(copy).await.map_err(NotABackup::Other)?;
    let checked = async {
        let whole: String =
            sqlx::query("PRAGMA integrity_check(1)").fetch_one(&mut db).await?.try_get::<String, _>(0)?;
        let layout: i64 = sqlx::query("SELECT COALESCE(MAX(version), 0) AS version FROM _sqlx_migrations")
            .fetch_one(&mut db)
            .await?
            .try_get("version")?;
        Ok::<_, sqlx::Error>((whole, layout))
    }
    .await;
    let (whole, layout) = checked.map_err(|error| NotABackup::Other(error.into()))?;
    db.close().await.map_err(|error| NotABackup::Other(error.into()))?;
    if whole != "ok" {
        return Err(NotABackup::Damaged(whole));
    }
    if layout > MIGRATIONS.last().map_or(0, |(version, ..)| *version) {
        return Err(NotABackup::Newer(layout));
    }
    let partial = beside(database, "restoring");
    std::fs::copy(copy, &partial)?;
    std::fs::File::open(&partial)?.sync_all()?;
    let kept = if database.exists() { Some(set_aside(database)?) } else { None };
    std::fs::rename(&partial, database)?;
    Ok((copied, kept))
}

/// Moves the database and what belongs to it out of the way.
fn set_aside(database: &Path) -> std::io::Result<PathBuf> {
    let kept = (1u32..)
        .map(|number| beside(database, &format!("before-restore-{number}")))
        .find(|file| !file.exists())
        .ok_or_else(|| std::io::Error::other("no free name"))?;
    for end in ["-wal", "-shm"] {
        let with = |file: &Path| PathBuf::from(format!("{}{end}", file.display()));
        if with(database).exists() {
            std::fs::rename(with(database), with(&kept))?;
        }
    }
    std::fs::rename(database, &kept)?;
    Ok(kept)
}

fn beside(file: &Path, end: &str) -> PathBuf {
    PathBuf::from(format!("{}.{end}", file.display()))
}
