//! How others reach this control plane, and the commands that join them to it.

use protocol_identity::{CertificatePin, TokenKind};
use serde::Serialize;
use utoipa::ToSchema;

/// How others reach this control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Public {
    /// `https://HOST:PORT`
    pub url: String,
    /// What nodes pin; `None` with a certificate of the administrator's own, which they verify as usual.
    pub pin: Option<CertificatePin>,
}

/// What to do with a token on the other host.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Join {
    /// Where control is.
    control_url: String,
    /// What to pin; `null` when control's certificate is an administrator's own.
    control_pin: Option<String>,
    /// Where the token goes.
    token_file: String,
    /// Saves the token, read from standard input.
    save: String,
    /// Joins.
    command: String,
}

impl Public {
    /// The flags that say where control is and whom to take for it.
    pub fn flags(&self) -> String {
        match &self.pin {
            Some(pin) => format!("--control-url {} --control-pin {pin}", self.url),
            None => format!("--control-url {}", self.url),
        }
    }

    /// What to do with a token of this kind on the other host.
    pub fn join(&self, kind: TokenKind) -> Join {
        let (program, file) = match kind {
            TokenKind::Admin => ("postern admin login", "admin.token"),
            TokenKind::Gateway => ("postern-gateway", "gateway.token"),
            TokenKind::Relay => ("postern-relay", "relay.token"),
            TokenKind::ServiceAccount => ("postern login", "client.token"),
        };
        let token_file = format!("/etc/postern/{file}");
        Join {
            control_url: self.url.clone(),
            control_pin: self.pin.map(|pin| pin.to_string()),
            save: format!("sudo install -D -m 0600 /dev/stdin {token_file}"),
            command: format!("{program} {} --token-file {token_file}", self.flags()),
            token_file,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_join_command_carries_address_pin_and_token_file_but_never_the_token() {
        let pin = CertificatePin::of(b"certificate");
        let public = Public { url: "https://192.0.2.1:8443".into(), pin: Some(pin) };

        let join = public.join(TokenKind::Gateway);

        assert_eq!(
            join.command,
            format!(
                "postern-gateway --control-url https://192.0.2.1:8443 --control-pin {pin} --token-file /etc/postern/gateway.token"
            )
        );
    }
}
