//! Which country an address is in, by a database in the MaxMind format that the operator supplies.
//!
//! Nothing that a client sends is ever asked: only the address from which its session reaches control.

#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use maxminddb::{PathElement, Reader};

/// Why a database of countries cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CountriesError {
    /// The file cannot be read.
    #[error("{} cannot be read", .0.display())]
    File(PathBuf, #[source] std::io::Error),
    /// It is something else.
    #[error("{} is no database of countries in the MaxMind format (.mmdb)", .0.display())]
    Format(PathBuf, #[source] maxminddb::MaxMindDbError),
}

struct Opened {
    file: PathBuf,
    modified: Option<SystemTime>,
    reader: Reader<Vec<u8>>,
}

/// The countries of addresses; without a database none is known.
#[derive(Clone, Default)]
pub struct Countries {
    opened: Option<Arc<Opened>>,
    /// When the file that could not be read was written: it is not tried again until it is another one.
    crooked: Option<SystemTime>,
}

impl fmt::Debug for Countries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.opened {
            Some(opened) => write!(f, "Countries({})", opened.file.display()),
            None => f.write_str("Countries(none)"),
        }
    }
}

fn modified(file: &Path) -> Option<SystemTime> {
    std::fs::metadata(file).and_then(|metadata| metadata.modified()).ok()
}

impl Countries {
    /// Reads a database.
    ///
    /// # Errors
    /// When there is none, or it is something else.
    pub fn open(file: &Path) -> Result<Self, CountriesError> {
        let modified = modified(file);
        let bytes = std::fs::read(file).map_err(|error| CountriesError::File(file.to_owned(), error))?;
        let reader = Reader::from_source(bytes);
        let reader = reader.map_err(|error| CountriesError::Format(file.to_owned(), error))?;
        let opened = Opened { file: file.to_owned(), modified, reader };
        Ok(Self { opened: Some(Arc::new(opened)), crooked: None })
    }

    /// Whether there is a database.
    pub fn are_known(&self) -> bool {
        self.opened.is_some()
    }

    /// Reads the database anew when its file is another one than the one that was read. `None`: it is not.
    pub fn renew(&mut self) -> Option<Result<(), CountriesError>> {
        let opened = self.opened.as_ref()?;
        let now = modified(&opened.file).filter(|now| opened.modified != Some(*now));
        let now = now.filter(|now| self.crooked != Some(*now))?;
        match Self::open(&opened.file) {
            Ok(newer) => {
                *self = newer;
                Some(Ok(()))
            }
            Err(error) => {
                self.crooked = Some(now);
                Some(Err(error))
            }
        }
    }

    /// The country of an address, by its two capital letters; `None` when it is not known.
    pub fn of(&self, address: IpAddr) -> Option<String> {
        let found = self.opened.as_ref()?.reader.lookup(address.to_canonical()).ok()?;
        let path = [PathElement::Key("country"), PathElement::Key("iso_code")];
        let code: &str = found.decode_path(&path).ok()??;
        (code.len() == 2).then(|| code.to_ascii_uppercase())
    }
}
