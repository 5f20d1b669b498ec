//! Conditions, what is known about who asks, and how the two meet.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::window::{TimeWindow, Windows};

/// A version as numbers between dots: 1.10 is above 1.9. What follows `-` or `+` is left aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Version(Vec<u64>);

/// The text is not a version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a version; write numbers between dots such as 6.1 or 14.2.1")]
pub struct NotAVersion;

impl FromStr for Version {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        let numbers = text.split(['-', '+']).next().unwrap_or_default();
        let mut parts = numbers
            .split('.')
            .map(|part| part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok()).flatten())
            .collect::<Option<Vec<u64>>>()
            .ok_or(NotAVersion)?;
        while parts.len() > 1 && parts.last() == Some(&0) {
            parts.pop();
        }
        Ok(Self(parts))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, part) in self.0.iter().enumerate() {
            write!(f, "{}{part}", if n > 0 { "." } else { "" })?;
        }
        Ok(())
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
        version.to_string()
    }
}

/// A demand on one attribute that the device reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Posture {
    /// The attribute's name, such as `os` or `client_version`.
    pub attribute: String,
    /// It must be one of these, when there are any.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub is: BTreeSet<String>,
    /// It must be a version that is not below this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_least: Option<Version>,
}

/// The conditions of one rule. What is empty or `None` is not asked; the rest must hold together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Conditions {
    /// Now is in one of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub time_windows: Vec<TimeWindow>,
    /// The device's address, as control sees it, is in one of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_cidrs: Vec<IpNet>,
    /// The device is verified (or is not).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_verified: Option<bool>,
    /// All of these hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub posture: Vec<Posture>,
    /// The sign-in is at most this many seconds old.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_age_seconds: Option<u64>,
    /// The device is in one of these countries (ISO 3166-1 alpha-2, upper case).
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub countries: BTreeSet<String>,
    /// The person signed in at one of these providers.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub providers: BTreeSet<String>,
}

/// What is known about the device that asks, and about its sign-in. `None` is "unknown".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Context {
    /// Its address as control sees it.
    pub source: Option<IpAddr>,
    /// Whether an administrator verified it.
    pub device_verified: Option<bool>,
    /// What it reports about itself.
    pub posture: BTreeMap<String, String>,
    /// When its principal signed in.
    pub session_started: Option<Timestamp>,
    /// When that sign-in ends; `None` when it does not.
    pub session_ends: Option<Timestamp>,
    /// Where it is.
    pub country: Option<String>,
    /// Where its principal signed in.
    pub provider: Option<String>,
}

/// The one thing that kept a rule from applying. Says nothing about anyone but who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The rule is switched off.
    Disabled,
    /// The principal is in none of the rule's groups.
    NotInGroup,
    /// Now is outside the rule's windows.
    OutsideWindow {
        /// The windows in words.
        windows: String,
        /// When the next one opens.
        opens: Option<Timestamp>,
    },
    /// The source address is not accepted.
    Source {
        /// The address, when it is known.
        own: Option<IpAddr>,
    },
    /// The device is not verified, or is and should not be.
    DeviceVerified {
        /// What the device is, when it is known.
        own: Option<bool>,
        /// What the rule asks for.
        wanted: bool,
    },
    /// A reported attribute is missing or not good enough.
    Posture {
        /// The attribute.
        attribute: String,
        /// What the device reports.
        own: Option<String>,
        /// What the rule asks for, in words.
        wanted: String,
    },
    /// The sign-in is too old.
    SessionAge {
        /// The oldest accepted, in seconds.
        most: u64,
        /// How old it is, when that is known.
        own: Option<u64>,
    },
    /// The country is not accepted.
    Country {
        /// The country, when it is known.
        own: Option<String>,
    },
    /// The identity provider is not accepted.
    Provider {
        /// The provider, when it is known.
        own: Option<String>,
    },
    /// The sign-in, or the longest time that the rule gives, is over.
    Ended,
}

impl Failure {
    /// The condition's name, as the API writes it.
    pub fn condition(&self) -> &'static str {
        match self {
            Self::Disabled => "enabled",
            Self::NotInGroup => "group",
            Self::OutsideWindow { .. } => "time_window",
            Self::Source { .. } => "source_cidr",
            Self::DeviceVerified { .. } => "device_verified",
            Self::Posture { .. } => "posture",
            Self::SessionAge { .. } => "session_age",
            Self::Country { .. } => "country",
            Self::Provider { .. } => "provider",
            Self::Ended => "session",
        }
    }

    /// What the rule asks for, to complete "the rule asks for …", with the person's own attribute.
    pub fn asks_for(&self) -> String {
        match self {
            Self::Disabled => "being enabled".to_owned(),
            Self::NotInGroup => "another group".to_owned(),
            Self::OutsideWindow { windows, .. } => format!("a time in {windows}"),
            Self::Source { own: Some(own) } => format!("another source address than {own}"),
            Self::Source { own: None } => "a source address that is known".to_owned(),
            Self::DeviceVerified { wanted: true, .. } => "a verified device".to_owned(),
            Self::DeviceVerified { wanted: false, .. } => "a device that is not verified".to_owned(),
            Self::Posture { attribute, own: Some(own), wanted } => {
                format!("{attribute} {wanted}; the device has {own}")
            }
            Self::Posture { attribute, own: None, wanted } => {
                format!("{attribute} {wanted}; the device does not report it")
            }
            Self::SessionAge { most, own: Some(own) } => {
                format!("a sign-in at most {most} s old; this one is {own} s old")
            }
            Self::SessionAge { most, own: None } => {
                format!("a sign-in at most {most} s old; the age of this one is not known")
            }
            Self::Country { own: Some(own) } => format!("another country than {own}"),
            Self::Country { own: None } => "a country that is known".to_owned(),
            Self::Provider { own: Some(own) } => format!("another identity provider than {own}"),
            Self::Provider { own: None } => "a sign-in at an identity provider".to_owned(),
            Self::Ended => "a new sign-in: the longest time that it gives is over".to_owned(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disabled => f.write_str("it is disabled"),
            Self::NotInGroup => f.write_str("it is for other groups"),
            Self::OutsideWindow { windows, opens: Some(at) } => {
                write!(f, "it holds {windows}; next from {at}")
            }
            Self::OutsideWindow { .. }
            | Self::Source { .. }
            | Self::DeviceVerified { .. }
            | Self::Posture { .. }
            | Self::SessionAge { .. }
            | Self::Country { .. }
            | Self::Provider { .. }
            | Self::Ended => write!(f, "it asks for {}", self.asks_for()),
        }
    }
}

/// How one condition met a context.
pub(crate) enum Met {
    /// It holds, up to (not at) this moment if there is one.
    Holds(Option<Timestamp>),
    /// It does not hold.
    Fails(Failure),
    /// The attribute is not known.
    Unknown(Failure),
}

/// A member of a set, or unknown.
fn one_of<T>(own: Option<&T>, accepted: impl Fn(&T) -> bool, failure: Failure) -> Met {
    match own {
        None => Met::Unknown(failure),
        Some(own) if accepted(own) => Met::Holds(None),
        Some(_) => Met::Fails(failure),
    }
}

impl Posture {
    fn wanted(&self) -> String {
        let mut parts = Vec::new();
        if !self.is.is_empty() {
            parts.push(self.is.iter().map(String::as_str).collect::<Vec<_>>().join(" or "));
        }
        if let Some(least) = &self.at_least {
            parts.push(format!("{least} or later"));
        }
        if parts.is_empty() { "any value".to_owned() } else { parts.join(" and ") }
    }

    fn meet(&self, context: &Context) -> Met {
        let own = context.posture.get(&self.attribute);
        let failure =
            Failure::Posture { attribute: self.attribute.clone(), own: own.cloned(), wanted: self.wanted() };
        let Some(own) = own else { return Met::Unknown(failure) };
        if !self.is.is_empty() && !self.is.contains(own) {
            return Met::Fails(failure);
        }
        match &self.at_least {
            None => Met::Holds(None),
            Some(least) => one_of(own.parse::<Version>().ok().as_ref(), |own| own >= least, failure),
        }
    }
}

fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

impl Conditions {
    /// Each condition that is asked, met with this context at this moment.
    pub(crate) fn meet(&self, context: &Context, now: Timestamp) -> Vec<Met> {
        let mut met = Vec::new();
        if !self.time_windows.is_empty() {
            let windows = Windows(&self.time_windows);
            met.push(match windows.open_until(now) {
                Some(until) => Met::Holds(until),
                None => Met::Fails(Failure::OutsideWindow {
                    windows: windows.to_string(),
                    opens: windows.next_opening(now),
                }),
            });
        }
        if !self.source_cidrs.is_empty() {
            let own = context.source.map(canonical);
            met.push(one_of(
                own.as_ref(),
                |own| self.source_cidrs.iter().any(|net| net.contains(own)),
                Failure::Source { own },
            ));
        }
        if let Some(wanted) = self.device_verified {
            let own = context.device_verified;
            met.push(one_of(own.as_ref(), |own| *own == wanted, Failure::DeviceVerified { own, wanted }));
        }
        met.extend(self.posture.iter().map(|posture| posture.meet(context)));
        if let Some(most) = self.session_age_seconds {
            met.push(session_age(most, context.session_started, now));
        }
        if !self.countries.is_empty() {
            let own = context.country.clone();
            met.push(one_of(
                own.as_ref(),
                |own| self.countries.contains(own),
                Failure::Country { own: own.clone() },
            ));
        }
        if !self.providers.is_empty() {
            let own = context.provider.clone();
            met.push(one_of(
                own.as_ref(),
                |own| self.providers.contains(own),
                Failure::Provider { own: own.clone() },
            ));
        }
        met
    }
}

fn session_age(most: u64, started: Option<Timestamp>, now: Timestamp) -> Met {
    let own = started.map(|at| u64::try_from(now.duration_since(at).as_secs()).unwrap_or(0));
    let failure = Failure::SessionAge { most, own };
    let Some(started) = started else { return Met::Unknown(failure) };
    // A sum beyond the calendar is no end.
    match started.checked_add(Duration::from_secs(most)) {
        Err(_) => Met::Holds(None),
        Ok(end) if now < end => Met::Holds(Some(end)),
        Ok(_) => Met::Fails(failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn holds(conditions: &Conditions, context: &Context) -> bool {
        let met = conditions.meet(context, at("2026-11-24T10:00:00Z"));
        met.iter().all(|met| matches!(met, Met::Holds(_)))
    }

    #[test]
    fn versions_compare_as_numbers() {
        let version = |text: &str| text.parse::<Version>().unwrap();

        assert!(version("1.10") > version("1.9"));
        assert!(version("6.1.0-13-amd64") == version("6.1"));
        assert!("v1".parse::<Version>().is_err());
        assert!("".parse::<Version>().is_err());
        assert!("1..2".parse::<Version>().is_err());
    }

    #[test]
    fn a_version_that_cannot_be_read_is_unknown() {
        let conditions = Conditions {
            posture: vec![Posture {
                attribute: "os_version".into(),
                is: BTreeSet::new(),
                at_least: Some("6.1".parse().unwrap()),
            }],
            ..Conditions::default()
        };
        let reports = |text: &str| Context {
            posture: BTreeMap::from([("os_version".into(), text.into())]),
            ..Context::default()
        };
        let now = at("2026-11-24T10:00:00Z");

        assert!(holds(&conditions, &reports("6.12")));
        assert!(matches!(conditions.meet(&reports("rolling"), now)[0], Met::Unknown(_)));
        assert!(matches!(conditions.meet(&reports("5.15"), now)[0], Met::Fails(_)));
    }

    #[test]
    fn an_ipv4_address_in_ipv6_clothes_is_the_ipv4_address() {
        let conditions =
            Conditions { source_cidrs: vec!["198.51.100.0/24".parse().unwrap()], ..Conditions::default() };
        let from = |text: &str| Context { source: Some(text.parse().unwrap()), ..Context::default() };

        assert!(holds(&conditions, &from("::ffff:198.51.100.7")));
        assert!(!holds(&conditions, &from("203.0.113.7")));
    }

    #[test]
    fn a_sign_in_grows_too_old() {
        let conditions = Conditions { session_age_seconds: Some(3600), ..Conditions::default() };
        let since = |text: &str| Context { session_started: Some(at(text)), ..Context::default() };

        assert!(holds(&conditions, &since("2026-11-24T09:30:00Z")));
        assert!(!holds(&conditions, &since("2026-11-24T09:00:00Z")));
        assert!(!holds(&conditions, &Context::default()));
    }

    #[test]
    fn conditions_that_are_not_asked_leave_no_trace_in_json() {
        let conditions = Conditions { device_verified: Some(true), ..Conditions::default() };

        assert_eq!(serde_json::to_string(&conditions).unwrap(), r#"{"device_verified":true}"#);
        assert!(serde_json::from_str::<Conditions>(r#"{"device_verifed":true}"#).is_err());
    }
}
