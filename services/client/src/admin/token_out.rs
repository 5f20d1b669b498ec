//! A new token: kept in a file or shown once, with the exact command for the other host.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::output::SCHEMA;
use services_chassis::Failure;
use services_chassis::secret_file;

/// The file that a token will go to, made before the token is: a token that nobody can keep is not made.
pub struct Place<'a> {
    out: Option<&'a Path>,
}

impl<'a> Place<'a> {
    /// Makes the (still empty) file when one is named.
    pub fn prepare(out: Option<&'a Path>) -> Result<Self, Failure> {
        if let Some(path) = out {
            secret_file::write_new(path, "").map_err(|error| {
                let failure =
                    Failure::failed(format!("cannot write the token to {}: {error}", path.display()));
                match error.kind() {
                    std::io::ErrorKind::AlreadyExists => failure
                        .fix("a file with a token is never overwritten; name another, or remove it first"),
                    _ => failure,
                }
            })?;
        }
        Ok(Self { out })
    }

    /// No token was made after all.
    pub fn abandon(self) {
        if let Some(path) = self.out {
            // The file is empty and ours; if it cannot be removed, nothing is lost.
            drop(fs::remove_file(path));
        }
    }

    /// Keeps the token and says what to do with it. `answer` is what the API gave for the new token.
    pub fn keep(self, answer: Value, what: &str, host: &str, as_json: bool) -> Result<(), Failure> {
        let new = NewToken::take(answer)?;
        let command = match self.out {
            Some(path) => new.command_with(&path.display().to_string()),
            None => new.command.clone(),
        };
        if let Some(path) = self.out {
            secret_file::replace(path, &format!("{}\n", new.token)).map_err(|error| {
                Failure::failed(format!(
                    "the token was made, but cannot be written to {}: {error}",
                    path.display()
                ))
                .fix("delete it with `postern admin … delete`, and create another")
            })?;
        }
        if as_json {
            println!("{}", new.json(self.out, &command));
        } else {
            print!("{}", new.text(self.out, &command, what, host));
        }
        Ok(())
    }
}

/// What the API answers for a new token, taken apart.
struct NewToken {
    item: Value,
    token: String,
    save: String,
    command: String,
    control_url: Value,
    control_pin: Value,
    proposed_file: String,
}

impl NewToken {
    fn take(mut answer: Value) -> Result<Self, Failure> {
        let incomplete = || Failure::failed("control answered a new token without the token");
        let members = answer.as_object_mut().ok_or_else(incomplete)?;
        let token = members.remove("token").ok_or_else(incomplete)?;
        let join = members.remove("join").unwrap_or_default();
        let text = |name: &str| join.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(Self {
            token: token.as_str().ok_or_else(incomplete)?.to_owned(),
            save: text("save"),
            command: text("command"),
            control_url: join.get("control_url").cloned().unwrap_or_default(),
            control_pin: join.get("control_pin").cloned().unwrap_or_default(),
            proposed_file: text("token_file"),
            item: answer,
        })
    }

    /// The command for the other host, with the token in another file than the API proposed.
    fn command_with(&self, file: &str) -> String {
        let quoted = shell_word(file);
        match self.proposed_file.as_str() {
            "" => self.command.clone(),
            proposed => {
                self.command.replace(&format!("--token-file {proposed}"), &format!("--token-file {quoted}"))
            }
        }
    }

    fn json(&self, out: Option<&Path>, command: &str) -> Value {
        let mut answer = json!({
            "schema": SCHEMA,
            "item": self.item,
            "command": command,
            "control_url": self.control_url,
            "control_pin": self.control_pin,
        });
        match out {
            Some(path) => answer["token_file"] = json!(path.display().to_string()),
            None => answer["token"] = json!(self.token),
        }
        answer
    }

    fn text(&self, out: Option<&Path>, command: &str, what: &str, host: &str) -> String {
        match out {
            Some(path) => format!(
                "{what}: written to {path} (0600).\n\nCopy the file to {host} and run there:\n\n  {command}\n",
                path = path.display()
            ),
            None => format!(
                "{what}. It is shown this once:\n\n  {token}\n\nOn {host}, save it (paste it, then Ctrl-D):\n\n  {save}\n\nand run:\n\n  {command}\n",
                token = self.token,
                save = self.save,
            ),
        }
    }
}

/// A word that a POSIX shell reads back as this text.
fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> Value {
        json!({
            "id": "1", "name": "office-1", "token": "pst_gateway_secret",
            "join": {
                "control_url": "https://192.0.2.1:8443", "control_pin": "sha256:00", "token_file": "/etc/postern/gateway.token",
                "save": "sudo install -D -m 0600 /dev/stdin /etc/postern/gateway.token",
                "command": "postern-gateway --control-url https://192.0.2.1:8443 --control-pin sha256:00 --token-file /etc/postern/gateway.token"
            }
        })
    }

    #[test]
    fn the_command_names_the_file_that_was_written() {
        let new = NewToken::take(answer()).unwrap();

        assert_eq!(
            new.command_with("my token"),
            "postern-gateway --control-url https://192.0.2.1:8443 --control-pin sha256:00 --token-file 'my token'"
        );
    }

    #[test]
    fn a_token_in_a_file_is_not_shown() {
        let new = NewToken::take(answer()).unwrap();
        let path = Path::new("office.token");

        let shown = new.text(Some(path), &new.command_with("office.token"), "token", "the gateway's host");
        let json = new.json(Some(path), "x").to_string();

        assert!(!shown.contains("pst_gateway_secret") && !json.contains("pst_gateway_secret"));
    }

    #[test]
    fn a_token_without_a_file_is_shown_once_and_not_as_part_of_the_item() {
        let new = NewToken::take(answer()).unwrap();

        let json = new.json(None, &new.command).to_string();

        assert_eq!(json.matches("pst_gateway_secret").count(), 1);
    }

    #[test]
    fn an_existing_file_stops_the_creation_before_it_begins() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, "precious").unwrap();

        let failure = Place::prepare(Some(&path)).err().unwrap();

        assert!(failure.what.contains("cannot write"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
