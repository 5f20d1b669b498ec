//! Host names in one form: lower case, without the final dot.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Text length of the longest name (RFC 1035 section 2.3.4: 255 octets on the wire).
const LONGEST: usize = 253;
/// RFC 1035 section 2.3.4.
const LONGEST_LABEL: usize = 63;

/// A fully qualified host name. Equal names compare equal whatever their case was.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Box<str>);

/// Why a text is no host name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Nothing, or nothing but the root.
    #[error("a name has at least one label")]
    Empty,
    /// More than 253 characters.
    #[error("a name has at most 253 characters")]
    TooLong,
    /// Two dots in a row, or a leading one.
    #[error("a label of a name cannot be empty")]
    EmptyLabel,
    /// More than 63 characters between dots.
    #[error("a label of a name has at most 63 characters")]
    LabelTooLong,
    /// Anything but letters, digits, `-` and `_`. International names are written in their `xn--` form.
    #[error("a name has letters, digits, '-' and '_' only (international names in their xn-- form)")]
    BadCharacter,
}

impl Name {
    /// The name as text, lower case, without the final dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its labels, the leftmost first.
    pub fn labels(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('.')
    }
}

pub(crate) fn is_label(label: &str, also: &[char]) -> Result<(), BadName> {
    if label.is_empty() {
        return Err(BadName::EmptyLabel);
    }
    if label.len() > LONGEST_LABEL {
        return Err(BadName::LabelTooLong);
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_' || also.contains(&c);
    if label.chars().all(fits) { Ok(()) } else { Err(BadName::BadCharacter) }
}

/// Without the final dot, and lower case.
pub(crate) fn normal(text: &str) -> Result<String, BadName> {
    let text = text.strip_suffix('.').unwrap_or(text);
    if text.is_empty() {
        return Err(BadName::Empty);
    }
    if text.len() > LONGEST {
        return Err(BadName::TooLong);
    }
    Ok(text.to_ascii_lowercase())
}

impl FromStr for Name {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let text = normal(text)?;
        text.split('.').try_for_each(|label| is_label(label, &[]))?;
        Ok(Self(text.into_boxed_str()))
    }
}

impl TryFrom<String> for Name {
    type Error = BadName;

    fn try_from(text: String) -> Result<Self, BadName> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.into_string()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_and_the_final_dot_make_no_difference() {
        let name: Name = "Wiki.Corp.Example.".parse().unwrap();

        assert_eq!(name, "wiki.corp.example".parse().unwrap());
        assert_eq!(name.as_str(), "wiki.corp.example");
        assert_eq!(name.labels().collect::<Vec<_>>(), ["wiki", "corp", "example"]);
    }

    #[test]
    fn what_is_no_host_name_is_refused_for_its_reason() {
        let long = "a".repeat(254);
        for (text, why) in [
            ("", BadName::Empty),
            (".", BadName::Empty),
            (long.as_str(), BadName::TooLong),
            ("a..b", BadName::EmptyLabel),
            (".a", BadName::EmptyLabel),
            ("a..", BadName::EmptyLabel),
            ("a b", BadName::BadCharacter),
            ("*.a", BadName::BadCharacter),
            ("bücher.example", BadName::BadCharacter),
        ] {
            assert_eq!(text.parse::<Name>(), Err(why), "{text:?}");
        }
        assert_eq!(format!("{}.b", "a".repeat(64)).parse::<Name>(), Err(BadName::LabelTooLong));
        assert!(format!("{}.b", "a".repeat(63)).parse::<Name>().is_ok());
    }

    #[test]
    fn a_name_is_checked_when_it_comes_from_outside() {
        assert_eq!(serde_json::from_str::<Name>("\"A.b\"").unwrap().as_str(), "a.b");
        assert!(serde_json::from_str::<Name>("\"a b\"").is_err());
    }
}
