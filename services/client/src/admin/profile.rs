//! What `postern admin login` remembers: one file for the address, one (0600) for the token.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use actors_access::{ControlUrl, Trust};
use protocol_identity::{CertificatePin, Token, TokenKind};
use serde::{Deserialize, Serialize};

use super::cli::Connection;
use crate::config::control_url;
use services_chassis::Failure;
use services_chassis::secret_file;

const TOKEN_VARIABLE: &str = "POSTERN_ADMIN_TOKEN";

/// Where control is, as whom to speak to it, and whom to take for it.
#[derive(Debug)]
pub struct Target {
    /// Address of control, `https://HOST:PORT`.
    pub control_url: ControlUrl,
    /// Whom to take for control.
    pub trust: Trust,
    /// The admin token.
    pub token: Token,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    control_url: Option<String>,
    control_pin: Option<String>,
    ca_file: Option<PathBuf>,
}

/// The directory of profiles: `$XDG_CONFIG_HOME/postern/admin`, else under `~/.config`.
fn directory() -> Result<PathBuf, Failure> {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CONFIG_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".config")))
        .map(|config| config.join("postern/admin"))
        .ok_or_else(|| {
            Failure::usage("neither XDG_CONFIG_HOME nor HOME is set, so there is no place for profiles")
        })
}

/// The two files of one profile.
struct Files {
    profile: PathBuf,
    token: PathBuf,
}

fn files(directory: &Path, name: &str) -> Result<Files, Failure> {
    let fine = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if !fine {
        return Err(Failure::usage(format!("`{name}` is no profile name: letters, digits, - and _")));
    }
    Ok(Files {
        profile: directory.join(format!("{name}.toml")),
        token: directory.join(format!("{name}.token")),
    })
}

fn read_stored(path: &Path) -> Result<Stored, Failure> {
    match fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text).map_err(|error| {
            Failure::usage(format!("the profile {} is damaged: {}", path.display(), error.message()))
                .fix("run `postern admin login` again")
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Stored::default()),
        Err(error) => Err(Failure::usage(format!("cannot read the profile {}: {error}", path.display()))),
    }
}

/// Puts flags, variables and the profile together. A flag for the address leaves the profile's trust aside, because
/// a pin belongs to one address.
pub fn target(flags: &Connection) -> Result<Target, Failure> {
    let files = directory().and_then(|directory| files(&directory, &flags.profile)).ok();
    let stored = match &files {
        Some(files) => read_stored(&files.profile)?,
        None => Stored::default(),
    };
    let stored = match (&flags.control_url, &stored.control_url) {
        (Some(given), Some(known)) if given != known => Stored::default(),
        (Some(_) | None, Some(_) | None) => stored,
    };
    let control_url_text = flags.control_url.clone().or(stored.control_url).ok_or_else(|| {
        Failure::usage("no address of control is known").fix(
            "pass --control-url https://HOST:PORT, set POSTERN_CONTROL_URL, or run the `postern admin login …` command that `postern-control init` printed",
        )
    })?;
    let trust_is_given = flags.control_pin.is_some() || flags.ca_file.is_some();
    let trust = if trust_is_given {
        Trust { pin: flags.control_pin, ca_file: flags.ca_file.clone() }
    } else {
        let pin = stored.control_pin.map(|pin| pin.parse::<CertificatePin>()).transpose();
        Trust {
            pin: pin.map_err(|error| Failure::usage(format!("the profile's pin: {error}")))?,
            ca_file: stored.ca_file,
        }
    };
    Ok(Target { control_url: control_url(&control_url_text)?, trust, token: token(flags, files.as_ref())? })
}

fn token(flags: &Connection, files: Option<&Files>) -> Result<Token, Failure> {
    if let Some(path) = &flags.token_file {
        return secret_file::read_token(path, TokenKind::Admin);
    }
    if let Ok(text) = env::var(TOKEN_VARIABLE) {
        return secret_file::parse_token(&text, TokenKind::Admin, TOKEN_VARIABLE);
    }
    match files {
        Some(files) if files.token.exists() => secret_file::read_token(&files.token, TokenKind::Admin),
        Some(_) | None => Err(Failure::usage("no admin token is known").fix(format!(
            "pass --token-file FILE, set POSTERN_ADMIN_TOKEN_FILE or {TOKEN_VARIABLE}, or run `postern admin login`; `postern-control init` says where the first token is"
        ))),
    }
}

/// Remembers a target under a profile's name. Returns the profile's file.
pub fn store(name: &str, target: &Target) -> Result<PathBuf, Failure> {
    let directory = directory()?;
    let files = files(&directory, name)?;
    let stored = Stored {
        control_url: Some(target.control_url.to_string()),
        control_pin: target.trust.pin.map(|pin| pin.to_string()),
        ca_file: target
            .trust
            .ca_file
            .as_ref()
            .map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone())),
    };
    let text = toml::to_string(&stored)
        .map_err(|error| Failure::failed(format!("cannot write the profile: {error}")))?;
    let write = || {
        secret_file::make_private_dir(&directory)?;
        secret_file::replace(&files.token, &format!("{}\n", *target.token.reveal()))?;
        secret_file::replace(&files.profile, &text)
    };
    write().map_err(|error: io::Error| {
        Failure::failed(format!("cannot write the profile {}: {error}", files.profile.display()))
    })?;
    Ok(files.profile)
}

/// Forgets a profile. Returns whether there was one.
pub fn remove(name: &str) -> Result<bool, Failure> {
    let files = files(&directory()?, name)?;
    let mut removed = false;
    for path in [&files.token, &files.profile] {
        match fs::remove_file(path) {
            Ok(()) => removed = true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Failure::failed(format!("cannot remove {}: {error}", path.display()))),
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_name_cannot_leave_the_directory() {
        for name in ["", "../other", "a/b", "a.b"] {
            assert!(files(Path::new("/config"), name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_missing_profile_is_an_empty_one_and_a_damaged_one_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let damaged = dir.path().join("damaged.toml");
        fs::write(&damaged, "colour = 'red'").unwrap();

        let missing = read_stored(&dir.path().join("none.toml")).unwrap();
        let failure = read_stored(&damaged).unwrap_err();

        assert!(missing.control_url.is_none());
        assert!(failure.what.contains("damaged.toml") && failure.fix.is_some());
    }
}
