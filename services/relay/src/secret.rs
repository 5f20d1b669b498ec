//! The secret that time-limited credentials are made from.
//!
//! The relay makes it, keeps it over restarts, and tells it to control inside their session. Whoever has it can allocate, so
//! its file is for its owner only.

use std::io;
use std::path::Path;

use protocol_stun::RelaySecret;
use ring::rand::{SecureRandom as _, SystemRandom};
use services_chassis::{Failure, secret_file};

/// The secret in `path`; made at the first call, the same ever after.
///
/// # Errors
/// When the file cannot be read or written, is damaged, or is readable for others.
pub fn secret(path: &Path) -> Result<RelaySecret, Failure> {
    let shown = path.display();
    match secret_file::read(path) {
        Ok(text) => {
            if secret_file::is_exposed(path) {
                return Err(Failure::failed(format!("others may read the relay's secret {shown}"))
                    .fix(format!("chmod 600 {shown}")));
            }
            RelaySecret::from_text(&text).map_err(|error| {
                Failure::failed(format!("the relay's secret {shown} is damaged: {error}"))
                    .fix("restore it, or remove it: nodes then get new credentials from control")
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(path),
        Err(error) => Err(Failure::failed(format!("cannot read {shown}: {error}"))),
    }
}

fn make(path: &Path) -> Result<RelaySecret, Failure> {
    if let Some(dir) = path.parent() {
        secret_file::make_private_dir(dir).map_err(|error| {
            Failure::failed(format!("cannot make the state directory {}: {error}", dir.display()))
                .fix("run as root, or name another one with --state-dir")
        })?;
    }
    let mut failed = false;
    let secret = RelaySecret::generate(&mut |bytes| failed |= SystemRandom::new().fill(bytes).is_err());
    if failed {
        return Err(Failure::failed("the system gives no randomness"));
    }
    secret_file::replace(path, &format!("{}\n", &*secret.to_text()))
        .map_err(|error| Failure::failed(format!("cannot write {}: {error}", path.display())))?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_secret_is_made_once_and_only_its_owner_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/relay.secret");

        let first = secret(&path).unwrap();
        let second = secret(&path).unwrap();

        assert_eq!(first.expose(), second.expose());
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_secret_that_others_may_read_or_that_is_damaged_is_refused_with_a_fix() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("relay.secret");
        secret(&path).unwrap();

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(secret(&path).unwrap_err().fix.unwrap().contains("chmod 600"));

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, "short").unwrap();
        assert!(secret(&path).unwrap_err().what.contains("damaged"));
    }
}
