//! What lasts on this device: its identity key, its sign-in, and whether it is to be down.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use actors_access::{ControlUrl, Trust};
use protocol_identity::{CertificatePin, IdentityKey, Token, TokenKind};
use serde::{Deserialize, Serialize};

use crate::config::{Config, control_url};
use services_chassis::{Failure, identity_file, secret_file};

/// The state directory.
#[derive(Debug, Clone)]
pub struct State {
    directory: PathBuf,
}

/// What `postern login` hands over, beside the token.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// Address of control.
    pub control_url: Option<String>,
    /// Its certificate's pin.
    pub control_pin: Option<String>,
    /// Certificate authorities, PEM.
    pub ca: Option<String>,
}

/// Everything that a session with control needs.
#[derive(Debug)]
pub struct SignIn {
    /// Where control is.
    pub url: ControlUrl,
    /// Whom to take for control.
    pub trust: Trust,
    /// Lets this device in.
    pub token: Token,
}

impl State {
    /// Opens the directory, and makes it (0700) when it is not there.
    pub fn open(directory: &Path) -> Result<Self, Failure> {
        secret_file::make_private_dir(directory).map_err(|error| {
            Failure::failed(format!("cannot make the state directory {}: {error}", directory.display()))
                .fix("run as root, or name another one with --state-dir")
        })?;
        Ok(Self { directory: directory.to_owned() })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn read(&self, name: &str) -> Result<Option<String>, Failure> {
        let path = self.file(name);
        match secret_file::read(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Failure::failed(format!("cannot read {}: {error}", path.display()))),
        }
    }

    fn write(&self, name: &str, text: &str) -> Result<(), Failure> {
        let path = self.file(name);
        secret_file::replace(&path, text)
            .map_err(|error| Failure::failed(format!("cannot write {}: {error}", path.display())))
    }

    fn remove(&self, name: &str) -> Result<(), Failure> {
        let path = self.file(name);
        match fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Failure::failed(format!("cannot remove {}: {error}", path.display()))),
        }
    }

    /// The identity of this installation; made at the first call, the same ever after.
    pub fn identity(&self) -> Result<IdentityKey, Failure> {
        identity_file::identity(&self.directory)
    }

    /// Where the identities of gateways are pinned.
    pub fn pins(&self) -> PathBuf {
        self.file(PINS)
    }

    /// Keeps a sign-in. What is not given stays as it was.
    pub fn store_login(&self, token: &Token, login: Login) -> Result<(), Failure> {
        let known = self.login()?;
        let same_place = login.control_url.is_none() || login.control_url == known.control_url;
        // A pin belongs to an address: with another address the old one says nothing.
        let known = if same_place { known } else { Login::default() };
        let merged = Login {
            control_url: login.control_url.or(known.control_url),
            control_pin: login.control_pin.or(known.control_pin),
            ca: login.ca.or(known.ca),
        };
        if let Some(ca) = &merged.ca {
            self.write(CA, ca)?;
        }
        let text = toml::to_string(&Login { ca: None, ..merged })
            .map_err(|error| Failure::failed(format!("cannot write the sign-in: {error}")))?;
        self.write(LOGIN, &text)?;
        self.write(TOKEN, &format!("{}\n", *token.reveal()))
    }

    fn login(&self) -> Result<Login, Failure> {
        let stored = match self.read(LOGIN)? {
            None => Login::default(),
            Some(text) => toml::from_str::<Login>(&text).map_err(|error| {
                Failure::failed(format!("{} is damaged: {}", self.file(LOGIN).display(), error.message()))
                    .fix("sign in again with `postern login`")
            })?,
        };
        Ok(Login { ca: self.read(CA)?, ..stored })
    }

    /// Forgets the sign-in. The identity stays.
    pub fn forget_login(&self) -> Result<(), Failure> {
        [TOKEN, LOGIN, CA].into_iter().try_for_each(|name| self.remove(name))
    }

    /// Everything for a session with control, from the configuration or else from the last `postern login`; `None`
    /// when there is no token or no address.
    pub fn sign_in(&self, config: &Config) -> Result<Option<SignIn>, Failure> {
        let login = self.login()?;
        let url = match (&config.control_url, &login.control_url) {
            (Some(url), _) => url.clone(),
            (None, Some(text)) => control_url(text)?,
            (None, None) => return Ok(None),
        };
        let trust_is_given = config.trust != Trust::default();
        let trust = if trust_is_given {
            config.trust.clone()
        } else {
            let pin = login.control_pin.map(|text| text.parse::<CertificatePin>()).transpose();
            Trust {
                pin: pin.map_err(|error| Failure::failed(format!("the stored pin: {error}")))?,
                ca_file: login.ca.map(|_| self.file(CA)),
            }
        };
        Ok(self.token(config)?.map(|token| SignIn { url, trust, token }))
    }

    fn token(&self, config: &Config) -> Result<Option<Token>, Failure> {
        if let Some(token) = config.node.token(TokenKind::ServiceAccount)? {
            return Ok(Some(token));
        }
        let stored = self.file(TOKEN);
        if stored.exists() {
            secret_file::read_token(&stored, TokenKind::ServiceAccount).map(Some)
        } else {
            Ok(None)
        }
    }

    /// Whether `postern down` was the last word.
    pub fn is_down(&self) -> bool {
        self.file(DOWN).exists()
    }

    /// Remembers `postern up` and `postern down`.
    pub fn set_down(&self, down: bool) -> Result<(), Failure> {
        if down { self.write(DOWN, "") } else { self.remove(DOWN) }
    }
}

const TOKEN: &str = "token";
const LOGIN: &str = "login.toml";
const CA: &str = "control-ca.pem";
const DOWN: &str = "down";
const PINS: &str = "gateways.pins";

#[cfg(test)]
mod tests {
    use super::*;
    use services_chassis::CommonFlags;

    use crate::config::Flags;

    fn state() -> (tempfile::TempDir, State, Config) {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(&dir.path().join("state")).unwrap();
        let config = Config::load(Flags {
            common: CommonFlags { config: Some("/dev/null".into()), ..CommonFlags::default() },
            ..Flags::default()
        })
        .unwrap();
        (dir, state, config)
    }

    fn token() -> Token {
        Token::generate(TokenKind::ServiceAccount).unwrap()
    }

    #[test]
    fn without_a_token_nobody_is_signed_in() {
        let (_dir, state, config) = state();

        assert!(state.sign_in(&config).unwrap().is_none());
    }

    #[test]
    fn a_sign_in_is_kept_until_it_is_forgotten() {
        let (_dir, state, config) = state();
        let token = token();
        let pin = CertificatePin::of(b"certificate");
        let login = Login {
            control_url: Some("https://203.0.113.10:8443".into()),
            control_pin: Some(pin.to_string()),
            ca: None,
        };

        state.store_login(&token, login).unwrap();
        let kept = state.sign_in(&config).unwrap().unwrap();
        state.forget_login().unwrap();

        assert_eq!(kept.token.hash(), token.hash());
        assert_eq!(kept.trust.pin, Some(pin));
        assert!(state.sign_in(&config).unwrap().is_none());
    }

    #[test]
    fn another_address_does_not_inherit_the_old_pin() {
        let (_dir, state, config) = state();
        let pin = CertificatePin::of(b"certificate").to_string();
        let login = |url: &str, pin: Option<String>| Login {
            control_url: Some(url.into()),
            control_pin: pin,
            ca: None,
        };
        state.store_login(&token(), login("https://a:1", Some(pin))).unwrap();

        state.store_login(&token(), login("https://b:1", None)).unwrap();

        assert_eq!(state.sign_in(&config).unwrap().unwrap().trust.pin, None);
    }

    #[test]
    fn the_last_word_of_up_and_down_lasts() {
        let (_dir, state, _) = state();

        state.set_down(true).unwrap();
        assert!(state.is_down());
        state.set_down(false).unwrap();
        assert!(!state.is_down());
    }
}
