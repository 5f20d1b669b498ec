//! `postern-control backup` and `restore`: copies of a SQLite database.

use std::path::Path;

use actors_control::sql::{self, Copied, Location};
use actors_control::store::with_cause;
use serde_json::json;
use services_chassis::{Failure, secret_file};

use crate::config::{Config, PROGRAM};

fn database(config: &Config) -> Result<&Path, Failure> {
    match &config.database {
        Location::Sqlite(file) => Ok(file),
        Location::Postgres(_) => {
            Err(Failure::failed("the database is PostgreSQL, which has tools of its own")
                .fix("pg_dump --format custom … and pg_restore"))
        }
    }
}

fn say(what: &str, file: &Path, copied: Copied, as_json: bool) {
    let Copied { sequence, accounts, bytes } = copied;
    if as_json {
        println!(
            "{}",
            json!({"schema": 1, "file": file, "sequence": sequence, "accounts": accounts, "bytes": bytes})
        );
    } else {
        println!("{what} {}: {accounts} account(s), changes up to {sequence}, {bytes} bytes", file.display());
    }
}

/// Copies the database, beside a control that runs.
///
/// # Errors
/// When there is no database, or the file is there already or cannot be written.
pub async fn backup(config: &Config, file: &Path, as_json: bool) -> Result<(), Failure> {
    let database = database(config)?;
    if !database.exists() {
        return Err(Failure::failed(format!("there is no database {}", database.display()))
            .fix("name the right --state-dir or --database"));
    }
    // Made first, for its owner only: what the copy holds tells who may reach what.
    secret_file::write_new(file, "").map_err(|error| {
        let failure = Failure::failed(format!("cannot write {}: {error}", file.display()));
        match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                failure.fix("a backup is never overwritten; name another file, or remove it first")
            }
            _ => failure.fix("name a file in a directory that you may write to"),
        }
    })?;
    match sql::backup(database, file).await {
        Ok(copied) => {
            close_to_others(file);
            say("backed up to", file, copied, as_json);
            Ok(())
        }
        Err(error) => {
            // It is empty and ours; if it cannot be removed, the error below says more.
            drop(std::fs::remove_file(file));
            Err(Failure::failed(format!("cannot back up {}: {}", database.display(), with_cause(&error)))
                .fix("see that there is room for the copy"))
        }
    }
}

fn close_to_others(file: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    if let Err(error) = std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)) {
        tracing::warn!(%error, "cannot close the backup to other users");
    }
}

/// Puts a backup in the place of the database.
///
/// # Errors
/// When control runs, or the file is no whole backup.
pub async fn restore(config: &Config, file: &Path, as_json: bool) -> Result<(), Failure> {
    let database = database(config)?;
    let socket = config.settings.socket(PROGRAM);
    if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
        return Err(Failure::failed("control runs, and holds the database")
            .fix("stop it first (systemctl stop postern-control); what was granted goes on meanwhile"));
    }
    let (copied, kept) = sql::restore(file, database).await.map_err(|error| {
        Failure::failed(format!("cannot restore {}: {}", file.display(), with_cause(&error)))
            .fix("nothing was changed; name a file that `postern-control backup` made")
    })?;
    close_to_others(database);
    say("restored from", file, copied, as_json);
    if let (Some(kept), false) = (kept, as_json) {
        println!("what was there before is in {}", kept.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use actors_control::storage::Storage as _;
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;
    use crate::init;

    fn config(dir: &Path) -> Config {
        let (state, run) = (dir.join("state"), dir.join("run"));
        let words =
            ["postern-control", "--state-dir", state.to_str().unwrap(), "--run-dir", run.to_str().unwrap()];
        Config::load(&Cli::try_parse_from(words).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn a_backup_goes_to_a_new_file_for_its_owner_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let prepared = init::prepare(&config).await.unwrap();
        let file = dir.path().join("backup");

        backup(&config, &file, false).await.unwrap();
        let again = backup(&config, &file, false).await.unwrap_err();
        prepared.storage.close().await;
        restore(&config, &file, true).await.unwrap();

        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(again.fix.unwrap().contains("never overwritten"));
        let opened = init::open_existing(&config).await.unwrap();
        assert_eq!(opened.accounts().await.unwrap(), prepared.accounts);
    }

    #[tokio::test]
    async fn nothing_is_restored_under_a_control_that_runs() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        init::prepare(&config).await.unwrap();
        let file = dir.path().join("backup");
        backup(&config, &file, false).await.unwrap();
        let socket = config.settings.socket(PROGRAM);
        std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
        let _running = std::os::unix::net::UnixListener::bind(&socket).unwrap();

        let refused = restore(&config, &file, false).await.unwrap_err();

        assert!(refused.fix.unwrap().contains("stop it first"));
    }
}
