//! The lasting identity of an installation, in its state directory.

use std::io;
use std::path::Path;

use protocol_identity::{IdentityKey, Secret32};

use crate::failure::{Failure, chain};
use crate::secret_file;

const FILE: &str = "identity.key";

/// The identity of the installation whose state is in `directory`; made at the first call, the same ever after.
///
/// # Errors
/// When the file cannot be read or written, is damaged, or is readable for others.
pub fn identity(directory: &Path) -> Result<IdentityKey, Failure> {
    secret_file::make_private_dir(directory).map_err(|error| {
        Failure::failed(format!("cannot make the state directory {}: {error}", directory.display()))
            .fix("run as root, or name another one with --state-dir")
    })?;
    let path = directory.join(FILE);
    let shown = path.display();
    let damaged = || {
        Failure::failed(format!("the identity key {shown} is damaged"))
            .fix("restore it, or remove it: this installation then joins as a new one")
    };
    match secret_file::read(&path) {
        Ok(text) => {
            if secret_file::is_exposed(&path) {
                return Err(Failure::failed(format!("others may read the identity key {shown}"))
                    .fix(format!("chmod 600 {shown}")));
            }
            let seed = hex_seed(text.trim()).ok_or_else(damaged)?;
            IdentityKey::from_seed(*seed.expose()).map_err(|_| damaged())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = IdentityKey::generate().map_err(|error| Failure::failed(chain(&error)))?;
            let seed = key.seed().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            secret_file::replace(&path, &format!("{seed}\n"))
                .map_err(|error| Failure::failed(format!("cannot write {shown}: {error}")))?;
            Ok(key)
        }
        Err(error) => Err(Failure::failed(format!("cannot read {shown}: {error}"))),
    }
}

fn hex_seed(text: &str) -> Option<Secret32> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut seed = [0u8; 32];
    for (byte, pair) in seed.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(Secret32::new(seed))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_identity_is_made_once_and_only_its_owner_may_read_it() {
        let dir = tempfile::tempdir().unwrap();

        let first = identity(dir.path()).unwrap().public();
        let second = identity(dir.path()).unwrap().public();

        assert_eq!(first, second);
        let mode = fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn an_identity_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        identity(dir.path()).unwrap();
        fs::set_permissions(dir.path().join(FILE), fs::Permissions::from_mode(0o644)).unwrap();

        let failure = identity(dir.path()).err().unwrap();

        assert!(failure.fix.unwrap().contains("chmod 600"));
    }
}
