//! Versions, compared as numbers.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Words that begin what comes before a release: 1.10-rc1 is below 1.10. Whatever else follows `-` or `+` is the mark of
/// a build or of a distribution, and is left aside: 6.1.0-13-amd64 is 6.1.
const BEFORE_A_RELEASE: [&str; 8] = ["alpha", "beta", "rc", "pre", "preview", "dev", "nightly", "snapshot"];

/// A version as numbers between dots: 1.10 is above 1.9, and 1.10-rc1 below 1.10.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Version {
    text: String,
}

/// The text is not a version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a version; write numbers between dots such as 6.1 or 14.2.1")]
pub struct NotAVersion;

/// The numbers of a version, and whether it is a release.
#[derive(Clone, Copy)]
struct Read<'a> {
    numbers: &'a str,
    release: bool,
}

fn read(text: &str) -> Option<Read<'_>> {
    let end = text.find(['-', '+']).unwrap_or(text.len());
    let (numbers, rest) = text.split_at_checked(end)?;
    let word = rest.strip_prefix('-').unwrap_or_default();
    let word = word.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
    let release = !BEFORE_A_RELEASE.iter().any(|before| word.eq_ignore_ascii_case(before));
    let read = Read { numbers, release };
    read.parts().all(|part| part.is_some()).then_some(read)
}

impl<'a> Read<'a> {
    /// The numbers; `None` in place of what is none.
    fn parts(self) -> impl Iterator<Item = Option<u64>> + 'a {
        self.numbers.split('.').map(|part| {
            let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| part.parse().ok()).flatten()
        })
    }

    fn compare(self, other: Self) -> Ordering {
        let (mut own, mut others) = (self.parts().flatten(), other.parts().flatten());
        loop {
            match (own.next(), others.next()) {
                (None, None) => return self.release.cmp(&other.release),
                // Numbers that are not written are zero.
                (a, b) => match a.unwrap_or(0).cmp(&b.unwrap_or(0)) {
                    Ordering::Equal => {}
                    unequal => return unequal,
                },
            }
        }
    }
}

impl Version {
    /// How a version that a device reports compares with this one; `None` when the text is no version.
    pub fn compare_with(&self, reported: &str) -> Option<Ordering> {
        Some(read(reported)?.compare(read(&self.text)?))
    }
}

impl FromStr for Version {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        read(text).map(|_| Self { text: text.to_owned() }).ok_or(NotAVersion)
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Version {}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        // Both were read when they were made.
        other.compare_with(&self.text).unwrap_or(Ordering::Equal)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for Version {
    type Error = NotAVersion;

    fn try_from(text: String) -> Result<Self, NotAVersion> {
        text.parse()
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        text.parse().unwrap()
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(version("1.10") > version("1.9"));
        assert!(version("1.9") < version("1.10"));
        assert!(version("2") > version("1.99.99"));
        assert_ne!(version("1.9"), version("1.10"));
        assert_eq!(version("6.1.0-13-amd64"), version("6.1"));
        assert_eq!(version("1.2+build.7"), version("1.2.0"));
        assert_eq!(version("1.10").compare_with("1.9"), Some(Ordering::Less));
        assert_eq!(version("1.9").compare_with("1.10"), Some(Ordering::Greater));
    }

    #[test]
    fn what_comes_before_a_release_is_below_it() {
        for before in ["1.10-rc1", "1.10.0-beta.2", "1.10-SNAPSHOT", "1.10-dev"] {
            assert!(version(before) < version("1.10"), "{before}");
            assert!(version(before) > version("1.9.9"), "{before}");
        }
        assert_eq!(version("6.9.1-arch1-1"), version("6.9.1"));
    }

    #[test]
    fn text_that_is_no_version_is_refused() {
        for text in ["v1", "", "1..2", "1.", ".1", "1.x", "-1", "1.+2", "99999999999999999999"] {
            assert!(text.parse::<Version>().is_err(), "{text}");
            assert_eq!(version("1").compare_with(text), None, "{text}");
        }
    }

    #[test]
    fn a_version_reads_back_as_it_was_written() {
        assert_eq!(version("1.10.0-rc1").to_string(), "1.10.0-rc1");
        assert_eq!(String::from(version("6.1")), "6.1");
    }
}
