//! `postern-control account …` and `postern-control admin-token …`: what only the operator of the server may do.
//!
//! They work on the database itself, beside a control that runs.

use actors_control::clock::Clock;
use actors_control::model::{Account, Object, Token};
use actors_control::storage::{Op, Storage, StorageError, Write};
use actors_control::store::with_cause;
use protocol_identity::{Token as Secret, TokenKind};
use serde_json::json;
use services_chassis::{Failure, secret_file};

use crate::cli::{AccountCommand, AdminTokenCommand, Keep};
use crate::config::{Config, is_name};
use crate::init;

/// Carries a command about accounts out.
///
/// # Errors
/// When the database cannot be used, or the name is taken or none.
pub async fn run(config: &Config, command: AccountCommand) -> Result<(), Failure> {
    let storage = init::open_existing(config).await?;
    match command {
        AccountCommand::List { json } => {
            let accounts = storage.accounts().await.map_err(|error| failed(&error))?;
            show(&accounts, json);
            Ok(())
        }
        AccountCommand::Create { name, keep } => {
            if !is_name(&name) {
                return Err(Failure::usage(format!("`{name}` is no name"))
                    .fix("write 1 to 64 letters, digits, dots, hyphens and underscores"));
            }
            let taken = storage.accounts().await.map_err(|error| failed(&error))?;
            if taken.iter().any(|account| account.name == name) {
                return Err(Failure::failed(format!("there is an account {name} already"))
                    .fix("choose another name; `postern-control account list` shows those that are there"));
            }
            let place = Place::prepare(&keep)?;
            let secret = draw(&place)?;
            let made = storage.create_account(name, secret.hash(), Clock::System.now()).await;
            let account = made.inspect_err(|_| place.abandon()).map_err(|error| failed(&error))?;
            place.keep(&secret, &account, "first", config)
        }
    }
}

/// Makes an admin token.
///
/// # Errors
/// When the database cannot be used, the account is not named or not there, or the token's name is taken.
pub async fn make_token(config: &Config, command: AdminTokenCommand) -> Result<(), Failure> {
    let AdminTokenCommand::Create { name, of, keep } = command;
    let storage = init::open_existing(config).await?;
    let accounts = storage.accounts().await.map_err(|error| failed(&error))?;
    let names = || accounts.iter().map(|account| account.name.as_str()).collect::<Vec<_>>().join(", ");
    let account = match (&of, &accounts[..]) {
        (Some(name), _) => accounts.iter().find(|account| account.name == *name).ok_or_else(|| {
            Failure::failed(format!("there is no account {name}")).fix(format!("there are: {}", names()))
        })?,
        (None, [only]) => only,
        (None, _) => {
            return Err(Failure::usage("there are several accounts")
                .fix(format!("name one with --of; there are: {}", names())));
        }
    };
    let now = Clock::System.now();
    let name = name.unwrap_or_else(|| format!("server-{}", now.strftime("%Y%m%d-%H%M%S")));
    if !is_name(&name) {
        return Err(Failure::usage(format!("`{name}` is no name"))
            .fix("write 1 to 64 letters, digits, dots, hyphens and underscores"));
    }
    let place = Place::prepare(&keep)?;
    let secret = draw(&place)?;
    let token = Token::admin(name.clone(), secret.hash(), now);
    let ops = vec![Op::Create(Object::Token(token))];
    let written = storage.commit(Write { account: account.id, by: "operator".into(), at: now, ops }).await;
    written.inspect_err(|_| place.abandon()).map_err(|error| failed(&error))?;
    place.keep(&secret, account, &name, config)
}

fn show(accounts: &[Account], as_json: bool) {
    if as_json {
        let items: Vec<_> = accounts
            .iter()
            .map(|account| {
                json!({"id": account.id, "name": account.name, "created_at": account.created_at.to_string()})
            })
            .collect();
        println!("{}", json!({"schema": 1, "items": items}));
        return;
    }
    for account in accounts {
        println!("{}  {}  {}", account.name, account.id, account.created_at);
    }
}

fn draw(place: &Place<'_>) -> Result<Secret, Failure> {
    Secret::generate(TokenKind::Admin)
        .inspect_err(|_| place.abandon())
        .map_err(|error| Failure::failed(format!("cannot draw a token: {error}")))
}

fn failed(error: &StorageError) -> Failure {
    Failure::failed(format!("the database refused: {}", with_cause(error)))
}

/// Where the token goes: the file is there before the token is.
struct Place<'a>(&'a Keep);

impl<'a> Place<'a> {
    fn prepare(keep: &'a Keep) -> Result<Self, Failure> {
        if let Some(file) = &keep.out {
            secret_file::write_new(file, "").map_err(|error| {
                Failure::failed(format!("cannot write the token to {}: {error}", file.display()))
                    .fix("name a new file in a directory that you may write to")
            })?;
        }
        Ok(Self(keep))
    }

    /// No token was made after all.
    fn abandon(&self) {
        if let Some(file) = &self.0.out {
            // It is empty and ours; if it cannot be removed, nothing is lost.
            drop(std::fs::remove_file(file));
        }
    }

    fn keep(&self, secret: &Secret, account: &Account, name: &str, config: &Config) -> Result<(), Failure> {
        let text = secret.reveal();
        if let Some(file) = &self.0.out {
            secret_file::replace(file, &format!("{}\n", *text)).map_err(|error| {
                Failure::failed(format!(
                    "the token was made, but cannot be written to {}: {error}",
                    file.display()
                ))
                .fix("make another one")
            })?;
        }
        let file = self.0.out.as_ref();
        if self.0.json {
            let shown = file.is_none().then(|| text.to_string());
            println!(
                "{}",
                json!({"schema": 1, "account": account.name, "name": name, "token_file": file, "token": shown})
            );
            return Ok(());
        }
        match file {
            Some(file) => {
                println!("admin token {name} of account {} written to {}", account.name, file.display())
            }
            None => {
                println!("admin token {name} of account {}, shown this once:", account.name);
                println!("{}", *text);
            }
        }
        let socket = config.settings.socket(crate::config::PROGRAM);
        if name == "first" && socket.exists() {
            println!(
                "a control that runs serves a new account from its next start: systemctl restart postern-control"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use actors_control::model::Scope;
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;

    fn config(dir: &std::path::Path) -> Config {
        let words = ["postern-control", "--state-dir", dir.to_str().unwrap()];
        Config::load(&Cli::try_parse_from(words).unwrap()).unwrap()
    }

    fn to(file: &std::path::Path) -> Keep {
        Keep { out: Some(file.to_owned()), json: false }
    }

    #[tokio::test]
    async fn an_account_comes_with_a_token_for_its_own_things_only() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir.path().join("state"));
        init::prepare(&config).await.unwrap();
        let file = dir.path().join("acme.token");

        run(&config, AccountCommand::Create { name: "acme".into(), keep: to(&file) }).await.unwrap();

        let token = secret_file::read_token(&file, TokenKind::Admin).unwrap();
        let storage = init::open_existing(&config).await.unwrap();
        let (account, _) = storage.authenticate(token.hash()).await.unwrap().unwrap();
        assert_eq!(account.name, "acme");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let again = AccountCommand::Create { name: "acme".into(), keep: to(&dir.path().join("x")) };
        assert!(run(&config, again).await.unwrap_err().what.contains("acme"));
        assert!(!dir.path().join("x").exists());
    }

    #[tokio::test]
    async fn a_lost_admin_token_is_replaced_on_the_server() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir.path().join("state"));
        init::prepare(&config).await.unwrap();
        let file = dir.path().join("new.token");
        let create = |of: Option<&str>, keep| AdminTokenCommand::Create {
            name: Some("rescue".into()),
            of: of.map(str::to_owned),
            keep,
        };

        make_token(&config, create(None, to(&file))).await.unwrap();

        let token = secret_file::read_token(&file, TokenKind::Admin).unwrap();
        let storage = init::open_existing(&config).await.unwrap();
        let (account, found) = storage.authenticate(token.hash()).await.unwrap().unwrap();
        assert_eq!((account.name.as_str(), found.name.as_str()), ("default", "rescue"));
        assert!(found.allows(Scope::Admin));
        let unknown = make_token(&config, create(Some("nobody"), to(&dir.path().join("y")))).await;
        assert!(unknown.unwrap_err().fix.unwrap().contains("default"));
        let twice = make_token(&config, create(None, to(&dir.path().join("z")))).await;
        assert!(twice.unwrap_err().what.contains("rescue"));
        assert!(!dir.path().join("z").exists());
    }

    #[tokio::test]
    async fn without_a_database_nothing_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir.path().join("state"));

        let failure = run(&config, AccountCommand::List { json: false }).await.unwrap_err();

        assert!(failure.fix.unwrap().contains("init"));
        assert!(!dir.path().join("state").exists());
    }
}
