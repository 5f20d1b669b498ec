//! Labels on principals and resources, and what selects by them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Names and values have at most this many bytes.
const MOST_BYTES: usize = 63;
/// One selector asks for at most this many labels.
const MOST_PARTS: usize = 16;

/// The labels of one principal or resource: a value for each name.
pub type Labels = BTreeMap<String, String>;

/// The text is not a label, or not a selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a label; write name=value of at most 63 letters, digits, dots, hyphens, slashes and underscores each, such as team=infra"
)]
pub struct NotALabel;

/// Asks for labels, all of which must be there: `team=infra` or `team=infra,env=production`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Selector {
    parts: BTreeMap<String, String>,
}

fn is_word(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'/');
    (1..=MOST_BYTES).contains(&text.len()) && text.bytes().all(inner)
}

/// Checks the name and the value of a label.
///
/// # Errors
/// [`NotALabel`].
pub fn check_label(name: &str, value: &str) -> Result<(), NotALabel> {
    if is_word(name) && is_word(value) { Ok(()) } else { Err(NotALabel) }
}

impl Selector {
    /// Whether all that it asks for is among these labels.
    pub fn selects(&self, labels: &Labels) -> bool {
        self.parts.iter().all(|(name, value)| labels.get(name) == Some(value))
    }

    /// The first label that it asks for.
    pub(crate) fn first(&self) -> Option<(&str, &str)> {
        self.parts.first_key_value().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl FromStr for Selector {
    type Err = NotALabel;

    fn from_str(text: &str) -> Result<Self, NotALabel> {
        let mut parts = BTreeMap::new();
        for part in text.split(',') {
            let (name, value) = part.trim().split_once('=').ok_or(NotALabel)?;
            check_label(name, value)?;
            // The same name twice could never hold.
            if parts.insert(name.to_owned(), value.to_owned()).is_some() || parts.len() > MOST_PARTS {
                return Err(NotALabel);
            }
        }
        Ok(Self { parts })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (name, value)) in self.parts.iter().enumerate() {
            write!(f, "{}{name}={value}", if n > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl TryFrom<String> for Selector {
    type Error = NotALabel;

    fn try_from(text: String) -> Result<Self, NotALabel> {
        text.parse()
    }
}

impl From<Selector> for String {
    fn from(selector: Selector) -> Self {
        selector.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(all: &[(&str, &str)]) -> Labels {
        all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_selector_wants_all_of_its_labels() {
        let selector: Selector = "team=infra, env=production".parse().unwrap();

        assert!(selector.selects(&labels(&[("env", "production"), ("team", "infra"), ("x", "y")])));
        assert!(!selector.selects(&labels(&[("team", "infra")])));
        assert!(!selector.selects(&labels(&[("team", "infra"), ("env", "test")])));
        assert!(!selector.selects(&Labels::new()));
    }

    #[test]
    fn a_selector_reads_back_as_it_was_written() {
        let selector: Selector = "team=infra,env=production".parse().unwrap();

        assert_eq!(selector.to_string(), "env=production,team=infra");
        assert_eq!(selector.to_string().parse::<Selector>(), Ok(selector.clone()));
        assert_eq!(selector.first(), Some(("env", "production")));
    }

    #[test]
    fn text_that_is_no_selector_is_refused() {
        let long = format!("a={}", "b".repeat(64));
        let many = (0..17).map(|n| format!("a{n}=b")).collect::<Vec<_>>().join(",");
        for text in ["", "team", "team=", "=infra", "a=b,", "a=b,a=c", "a=b c", "a=é", &long, &many] {
            assert_eq!(text.parse::<Selector>(), Err(NotALabel), "{text}");
        }
        assert!(format!("a={}", "b".repeat(63)).parse::<Selector>().is_ok());
        assert!((0..16).map(|n| format!("a{n}=b")).collect::<Vec<_>>().join(",").parse::<Selector>().is_ok());
    }
}
