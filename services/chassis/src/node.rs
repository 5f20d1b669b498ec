//! What every node (client, gateway, relay) is told about control: where it is, whom to take for it, and as whom.

use std::path::{Path, PathBuf};

use clap::Args;
use protocol_identity::{CertificatePin, Token, TokenKind};
use serde::Deserialize;

use crate::failure::Failure;
use crate::secret_file;

/// Flags of every node; with `_` for `-` also keys of the TOML file.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeFlags {
    /// Address of control, https://HOST:PORT
    #[arg(long, env = "POSTERN_CONTROL_URL", value_name = "URL")]
    pub control_url: Option<String>,
    /// The certificate that control must show, sha256:…
    #[arg(long, visible_alias = "pin", env = "POSTERN_CONTROL_PIN", value_name = "PIN")]
    pub control_pin: Option<String>,
    /// Certificate authorities (PEM) that control's certificate is checked against
    #[arg(long, env = "POSTERN_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// File with this node's token; POSTERN_TOKEN may hold the token instead
    #[arg(long, env = "POSTERN_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Name of this node; default the host's name
    #[arg(long, env = "POSTERN_NAME", value_name = "NAME")]
    pub name: Option<String>,
}

impl NodeFlags {
    /// These flags, and where one is not given, the file's.
    #[must_use]
    pub fn or(self, file: Self) -> Self {
        Self {
            control_url: self.control_url.or(file.control_url),
            control_pin: self.control_pin.or(file.control_pin),
            ca_file: self.ca_file.or(file.ca_file),
            token_file: self.token_file.or(file.token_file),
            name: self.name.or(file.name),
        }
    }

    /// The pin, checked.
    ///
    /// # Errors
    /// When it is none.
    pub fn pin(&self) -> Result<Option<CertificatePin>, Failure> {
        let pin = self.control_pin.as_ref().map(|text| text.parse::<CertificatePin>()).transpose();
        pin.map_err(|error| Failure::usage(format!("--control-pin: {error}")))
    }

    /// The name, or the host's.
    pub fn name(&self) -> String {
        self.name.clone().unwrap_or_else(host_name)
    }

    /// The token: from the file, the variable, or the systemd credential `postern-token`. Never from an argument.
    ///
    /// # Errors
    /// When there is one that cannot be read or is for something else.
    pub fn token(&self, kind: TokenKind) -> Result<Option<Token>, Failure> {
        if let Some(path) = &self.token_file {
            return secret_file::read_token(path, kind).map(Some);
        }
        if let Ok(text) = std::env::var("POSTERN_TOKEN") {
            return secret_file::parse_token(&text, kind, "POSTERN_TOKEN").map(Some);
        }
        let credential =
            std::env::var_os("CREDENTIALS_DIRECTORY").map(|dir| Path::new(&dir).join("postern-token"));
        match credential.filter(|path| path.exists()) {
            Some(path) => secret_file::read_token(&path, kind).map(Some),
            None => Ok(None),
        }
    }
}

/// The host's name.
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "node".into(),
        name => name.into(),
    }
}
