//! Identities that were seen before: another key under a known id is refused.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use protocol_identity::IdentityPublic;

/// A file of pinned identities: one line each, `<id> <public key>`. Kept in memory too, so that looking is cheap.
#[derive(Debug)]
pub struct Pins {
    path: Option<PathBuf>,
    known: BTreeMap<String, IdentityPublic>,
}

/// What an identity is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pinned {
    /// The one that was pinned.
    Known,
    /// The first for this id; now pinned.
    New,
    /// Another than the pinned one.
    Changed,
}

impl Pins {
    /// Reads the file; one that does not exist is empty. `None` keeps pins in memory only.
    ///
    /// # Errors
    /// When the file exists and cannot be read or has a line that is no pin.
    pub fn open(path: Option<&Path>) -> io::Result<Self> {
        let mut known = BTreeMap::new();
        if let Some(path) = path {
            match std::fs::read_to_string(path) {
                Ok(text) => {
                    for line in text.lines().filter(|line| !line.trim().is_empty()) {
                        let pin = line.split_once(' ').and_then(|(id, key)| Some((id, key.parse().ok()?)));
                        let Some((id, key)) = pin else {
                            let what = format!("{}: {line:?} is not a pin: remove the line", path.display());
                            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
                        };
                        known.insert(id.to_owned(), key);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { path: path.map(Path::to_owned), known })
    }

    /// Compares an identity with the pinned one, or pins it.
    ///
    /// # Errors
    /// When a new pin cannot be written; it is then not pinned.
    pub fn check(&mut self, id: &str, identity: IdentityPublic) -> io::Result<Pinned> {
        match self.known.get(id) {
            Some(known) if *known == identity => Ok(Pinned::Known),
            Some(_) => Ok(Pinned::Changed),
            None => {
                if let Some(path) = &self.path {
                    let mut file =
                        std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
                    file.write_all(format!("{id} {identity}\n").as_bytes())?;
                }
                self.known.insert(id.to_owned(), identity);
                Ok(Pinned::New)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol_identity::IdentityKey;

    use super::*;

    #[test]
    fn the_first_identity_is_pinned_and_another_is_noticed_after_a_restart_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("known-gateways");
        let (first, other) =
            (IdentityKey::generate().unwrap().public(), IdentityKey::generate().unwrap().public());

        let mut pins = Pins::open(Some(&path)).unwrap();
        assert_eq!(pins.check("gateway-1", first).unwrap(), Pinned::New);

        let mut pins = Pins::open(Some(&path)).unwrap();
        assert_eq!(pins.check("gateway-1", first).unwrap(), Pinned::Known);
        assert_eq!(pins.check("gateway-1", other).unwrap(), Pinned::Changed);
        assert_eq!(pins.check("gateway-2", other).unwrap(), Pinned::New);
    }

    #[test]
    fn a_damaged_file_is_refused_with_the_line_that_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("known-gateways");
        std::fs::write(&path, "gateway-1 notakey\n").unwrap();

        let error = Pins::open(Some(&path)).unwrap_err();

        assert!(error.to_string().contains("gateway-1 notakey"), "{error}");
    }
}
