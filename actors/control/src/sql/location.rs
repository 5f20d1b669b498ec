//! Where the database is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where the database is. Prints without its password.
#[derive(Clone, PartialEq, Eq)]
pub enum Location {
    /// A file of SQLite.
    Sqlite(PathBuf),
    /// `postgres://…`
    Postgres(String),
}

/// The text names no database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a database; write sqlite:/PATH/TO/FILE or postgres://USER@HOST/DATABASE")]
pub struct InvalidLocation;

impl FromStr for Location {
    type Err = InvalidLocation;

    fn from_str(text: &str) -> Result<Self, InvalidLocation> {
        if let Some(path) = text.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() { Err(InvalidLocation) } else { Ok(Self::Sqlite(path.into())) };
        }
        let is_postgres = text.starts_with("postgres://") || text.starts_with("postgresql://");
        if is_postgres { Ok(Self::Postgres(text.to_owned())) } else { Err(InvalidLocation) }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            // A password stands before the @, or in the query.
            Self::Postgres(url) => {
                let (scheme, rest) = url.split_once("://").unwrap_or(("postgres", url));
                let rest = rest.split('?').next().unwrap_or_default();
                match rest.rsplit_once('@') {
                    Some((user, place)) => {
                        let user = user.split(':').next().unwrap_or_default();
                        write!(f, "{scheme}://{user}@{place}")
                    }
                    None => write!(f, "{scheme}://{rest}"),
                }
            }
        }
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_prints_without_its_password() {
        for (text, shown) in [
            ("sqlite:/var/lib/c.sqlite", "sqlite:/var/lib/c.sqlite"),
            ("sqlite:///var/lib/c.sqlite", "sqlite:/var/lib/c.sqlite"),
            ("postgres://me:secret@db:5432/postern", "postgres://me@db:5432/postern"),
            ("postgresql://db/postern?password=secret", "postgresql://db/postern"),
            ("postgres://me:se@cret@db/postern", "postgres://me@db/postern"),
        ] {
            let location: Location = text.parse().unwrap();
            assert_eq!((location.to_string().as_str(), format!("{location:?}").as_str()), (shown, shown));
        }
        for text in ["", "sqlite:", "mysql://db/x", "/var/lib/c.sqlite"] {
            assert_eq!(text.parse::<Location>(), Err(InvalidLocation), "{text}");
        }
    }
}
