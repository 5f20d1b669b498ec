//! The administrator: `postern admin …`, and the API under it.

use anyhow::{Context, Result, bail};
use integration_lab::{Done, Host, program};
use serde_json::Value;

/// Who may change everything; sits in the internet and has its own profile folder.
#[derive(Clone)]
pub struct Admin {
    host: Host,
    url: String,
    token: String,
}

impl Admin {
    /// Logs in with a token file.
    pub fn login(host: &Host, url: &str, pin: &str, token_file: &std::path::Path) -> Result<Self> {
        let home = host.dir().join("admin");
        std::fs::create_dir_all(&home)?;
        let host = host.clone().with_env("XDG_CONFIG_HOME", &home).with_env("HOME", &home);
        let token = std::fs::read_to_string(token_file)?.trim().to_owned();
        let admin = Self { host, url: url.to_owned(), token };
        let file = token_file.display().to_string();
        admin.postern(&["login", "--control-url", url, "--control-pin", pin, "--token-file", &file])?.ok()?;
        Ok(admin)
    }

    /// The secret that it uses.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Runs `postern admin <words>`, whatever comes of it.
    pub fn postern(&self, words: &[&str]) -> Result<Done> {
        let program = program("postern")?.display().to_string();
        self.host.try_run(&[&[program.as_str(), "admin"], words].concat())
    }

    /// Runs `postern admin <words> --json` and returns the object.
    pub fn json(&self, words: &[&str]) -> Result<Value> {
        self.postern(&[words, &["--json"]].concat())?.ok()?.json()
    }

    /// The same, from one string without quoting.
    pub fn say(&self, line: &str) -> Result<Value> {
        self.json(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// One call of the API: the status, and the body when there is one.
    pub fn api(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        call(&self.host, &self.url, Some(&self.token), method, path, body)
    }

    /// Deletes a policy through the API itself: control has answered when this returns.
    pub fn delete_policy(&self, name: &str) -> Result<()> {
        match self.api("DELETE", &format!("policies/{name}"), None)? {
            (204, _) => Ok(()),
            (status, body) => bail!("deleting {name}: {status} {body}"),
        }
    }
}

/// One call of the API with or without a token.
pub fn call(
    host: &Host,
    url: &str,
    token: Option<&str>,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> Result<(u16, Value)> {
    // The token goes in through a configuration on standard input: a command line is for everybody to read.
    let mut config = format!("url = \"{url}/api/v1/{path}\"\nrequest = \"{method}\"\n");
    if let Some(token) = token {
        config.push_str(&format!("header = \"Authorization: Bearer {token}\"\n"));
    }
    if let Some(body) = body {
        let text = body.to_string().replace('\\', "\\\\").replace('"', "\\\"");
        config.push_str(&format!("header = \"Content-Type: application/json\"\ndata = \"{text}\"\n"));
    }
    let curl = ["curl", "-sSk", "--max-time", "10", "-w", "\n%{http_code}", "-K", "-"];
    let done = host.run_with(&curl, &config)?;
    let (text, status) = done.stdout.rsplit_once('\n').context("curl printed no status")?;
    let value = if text.trim().is_empty() { Value::Null } else { serde_json::from_str(text)? };
    Ok((status.trim().parse()?, value))
}
