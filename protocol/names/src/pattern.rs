//! Patterns of names: `gitlab.corp.example`, `*.corp.example`, `**.corp.example`, `web?.corp.example`.
//!
//! `*` is one whole label, `**` in front is any number of labels, none too (so the apex matches), `?` is one character
//! of a label.

use std::cmp::Reverse;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::{BadName, Name, is_label, normal};

/// A pattern that names match or do not.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern {
    text: Box<str>,
}

/// Why a text is no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPattern {
    /// What is left without the wildcards is no name.
    #[error(transparent)]
    Name(#[from] BadName),
    /// `**` elsewhere than in front.
    #[error("'**' stands only in front")]
    DeepNotFirst,
    /// `*` as a part of a label.
    #[error("'*' stands for a whole label")]
    PartOfLabel,
    /// A pattern of which every label is a wildcard would match names of the whole world.
    #[error("at least the last label is written out")]
    MatchesEverything,
}

impl Pattern {
    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The name, when the pattern is one exact name.
    pub fn exact(&self) -> Option<Name> {
        self.text.parse().ok()
    }

    /// Whether `name` matches.
    pub fn matches(&self, name: &Name) -> bool {
        let (deep, rest) = self.parts();
        let mut labels = name.labels().rev();
        for pattern in rest.split('.').rev() {
            let Some(label) = labels.next() else { return false };
            if !label_matches(pattern, label) {
                return false;
            }
        }
        deep || labels.next().is_none()
    }

    /// Whether `**` leads, and what follows it.
    fn parts(&self) -> (bool, &str) {
        match self.text.strip_prefix("**.") {
            Some(rest) => (true, rest),
            None => (false, &self.text),
        }
    }

    /// Sorts the more specific pattern first: exact labels before `?` before `*` before `**`, from the right.
    fn generality(&self) -> impl Ord + use<> {
        let (deep, rest) = self.parts();
        let labels: Vec<_> = rest.split('.').rev().map(label_generality).collect();
        (deep, labels.iter().map(|(rank, _)| *rank).max(), Reverse(labels.len()), labels)
    }
}

fn label_generality(label: &str) -> (u8, usize) {
    let unknown = label.chars().filter(|c| *c == '?').count();
    match (label, unknown) {
        ("*", _) => (2, 0),
        (_, 0) => (0, 0),
        (_, n) => (1, n),
    }
}

fn label_matches(pattern: &str, label: &str) -> bool {
    pattern == "*"
        || pattern.len() == label.len()
            && pattern.bytes().zip(label.bytes()).all(|(p, l)| p == b'?' || p == l)
}

impl FromStr for Pattern {
    type Err = BadPattern;

    fn from_str(text: &str) -> Result<Self, BadPattern> {
        let text = normal(text)?;
        let rest = text.strip_prefix("**.").unwrap_or(&text);
        for label in rest.split('.') {
            match label {
                "*" => {}
                "**" => return Err(BadPattern::DeepNotFirst),
                _ if label.contains('*') => return Err(BadPattern::PartOfLabel),
                _ => is_label(label, &['?'])?,
            }
        }
        let last = rest.rsplit('.').next().unwrap_or_default();
        if last.chars().all(|c| c == '*' || c == '?') {
            return Err(BadPattern::MatchesEverything);
        }
        Ok(Self { text: text.into_boxed_str() })
    }
}

impl TryFrom<String> for Pattern {
    type Error = BadPattern;

    fn try_from(text: String) -> Result<Self, BadPattern> {
        text.parse()
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.text.into_string()
    }
}

impl From<Name> for Pattern {
    fn from(name: Name) -> Self {
        Self { text: name.as_str().into() }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A set of patterns, each leading to something; the most specific match wins.
#[derive(Clone, Debug)]
pub struct Patterns<K> {
    /// The most specific first.
    sorted: Vec<(Pattern, K)>,
}

impl<K> Default for Patterns<K> {
    fn default() -> Self {
        Self { sorted: Vec::new() }
    }
}

impl<K> Patterns<K> {
    /// What the most specific pattern that matches leads to.
    pub fn find(&self, name: &Name) -> Option<&K> {
        self.sorted.iter().find(|(pattern, _)| pattern.matches(name)).map(|(_, key)| key)
    }

    /// Whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }
}

impl<K> FromIterator<(Pattern, K)> for Patterns<K> {
    fn from_iter<I: IntoIterator<Item = (Pattern, K)>>(patterns: I) -> Self {
        let mut sorted: Vec<_> = patterns.into_iter().collect();
        // Equal generality: by text, so that the answer never depends on the order in which control listed them.
        sorted.sort_by_cached_key(|(pattern, _)| (pattern.generality(), pattern.clone()));
        Self { sorted }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap()
    }

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn patterns_match_as_the_product_says() {
        for (text, matching, other) in [
            (
                "gitlab.corp.example",
                vec!["gitlab.corp.example", "GitLab.Corp.Example."],
                vec!["corp.example"],
            ),
            (
                "*.corp.example",
                vec!["a.corp.example"],
                vec!["corp.example", "a.b.corp.example", "a.corp.examples"],
            ),
            (
                "**.corp.example",
                vec!["corp.example", "a.corp.example", "a.b.corp.example"],
                vec!["xcorp.example"],
            ),
            ("web?.corp.example", vec!["web1.corp.example"], vec!["web.corp.example", "web12.corp.example"]),
            ("*.*.corp.example", vec!["a.b.corp.example"], vec!["a.corp.example"]),
            ("**.?.corp.example", vec!["x.corp.example", "a.b.x.corp.example"], vec!["xx.corp.example"]),
        ] {
            for each in matching {
                assert!(pattern(text).matches(&name(each)), "{text} {each}");
            }
            for each in other {
                assert!(!pattern(text).matches(&name(each)), "{text} {each}");
            }
        }
    }

    #[test]
    fn a_question_mark_never_matches_a_dot() {
        assert!(!pattern("a?b.example").matches(&name("a.b.example")));
    }

    #[test]
    fn what_is_no_pattern_is_refused_for_its_reason() {
        for (text, why) in [
            ("", BadPattern::Name(BadName::Empty)),
            ("a.**.b", BadPattern::DeepNotFirst),
            ("web*.b", BadPattern::PartOfLabel),
            ("***.b", BadPattern::PartOfLabel),
            ("*", BadPattern::MatchesEverything),
            ("**.*", BadPattern::MatchesEverything),
            ("**.??", BadPattern::MatchesEverything),
            ("**", BadPattern::DeepNotFirst),
            ("a..b", BadPattern::Name(BadName::EmptyLabel)),
            ("ä.b", BadPattern::Name(BadName::BadCharacter)),
        ] {
            assert_eq!(text.parse::<Pattern>(), Err(why), "{text:?}");
        }
    }

    #[test]
    fn only_a_pattern_without_wildcards_is_an_exact_name() {
        assert_eq!(pattern("a.b").exact(), Some(name("a.b")));
        assert_eq!(pattern("*.b").exact(), None);
        assert_eq!(pattern("a?.b").exact(), None);
    }

    #[test]
    fn the_most_specific_pattern_wins_in_every_order() {
        let ordered = [
            "a.b.corp.example",
            "?.b.corp.example",
            "*.b.corp.example",
            "*.*.corp.example",
            "**.b.corp.example",
            "**.corp.example",
        ];
        for rotation in 0..ordered.len() {
            for from in 0..ordered.len() {
                let mut some: Vec<_> = ordered[from..].iter().map(|text| (pattern(text), *text)).collect();
                let turn = rotation % some.len();
                some.rotate_left(turn);

                let found = Patterns::from_iter(some).find(&name("a.b.corp.example")).copied();

                assert_eq!(found, Some(ordered[from]));
            }
        }
    }

    /// Matching by trying every way, character by character.
    fn slowly(pattern: &[&str], name: &[&str]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((&"**", rest)), _) => (0..=name.len()).any(|skip| slowly(rest, &name[skip..])),
            (Some((&"*", rest)), Some((_, labels))) => slowly(rest, labels),
            (Some((p, rest)), Some((l, labels))) => {
                p.len() == l.len()
                    && p.chars().zip(l.chars()).all(|(p, l)| p == '?' || p == l)
                    && slowly(rest, labels)
            }
            (None, Some(_)) | (Some(_), None) => false,
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_the_slow_definition(
            deep in any::<bool>(),
            parts in proptest::collection::vec("[*]|[ab?]{1,2}", 0..4),
            labels in proptest::collection::vec("[ab]{1,2}", 0..5),
        ) {
            let mut pattern: Vec<&str> = parts.iter().map(String::as_str).collect();
            if deep {
                pattern.insert(0, "**");
            }
            pattern.push("z");
            let mut name: Vec<&str> = labels.iter().map(String::as_str).collect();
            name.push("z");

            let fast = pattern.join(".").parse::<Pattern>().unwrap().matches(&name.join(".").parse().unwrap());

            prop_assert_eq!(fast, slowly(&pattern, &name));
        }

        #[test]
        fn a_pattern_that_parses_prints_as_it_parses(text in "[a-cA-C*?.]{0,12}") {
            if let Ok(pattern) = text.parse::<Pattern>() {
                prop_assert_eq!(pattern.to_string().parse::<Pattern>(), Ok(pattern));
            }
        }

        #[test]
        fn the_name_of_a_question_matches_its_own_pattern(text in "[a-z0-9_-]{1,9}(\\.[a-z0-9_-]{1,9}){0,4}") {
            let name: Name = text.parse().unwrap();
            prop_assert!(Pattern::from(name.clone()).matches(&name));
        }
    }
}
