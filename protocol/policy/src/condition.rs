//! Conditions, what is known about who asks, and how the two meet.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::schedule::Schedule;
use crate::window::{TimeWindow, describe};
use crate::{Failure, Version};

/// A demand on one attribute that the device reports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// It must be a version that is below this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<Version>,
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

/// One of the conditions of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Window,
    Source,
    DeviceVerified,
    Posture(usize),
    SessionAge,
    Country,
    Provider,
}

/// How one condition met a context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Met {
    /// It holds, up to (not at) this moment if there is one.
    Holds(Option<Timestamp>),
    /// It does not hold.
    Fails(Part),
    /// The attribute is not known.
    Unknown(Part),
}

/// Accepted or not, or unknown.
fn known<T>(own: Option<T>, part: Part, accepted: impl FnOnce(T) -> bool) -> Met {
    match own.map(accepted) {
        None => Met::Unknown(part),
        Some(true) => Met::Holds(None),
        Some(false) => Met::Fails(part),
    }
}

impl Posture {
    /// What is asked for, in words.
    pub(crate) fn wanted(&self) -> String {
        let mut parts = Vec::new();
        if !self.is.is_empty() {
            parts.push(self.is.iter().map(String::as_str).collect::<Vec<_>>().join(" or "));
        }
        if let Some(least) = &self.at_least {
            parts.push(format!("{least} or later"));
        }
        if let Some(below) = &self.below {
            parts.push(format!("before {below}"));
        }
        if parts.is_empty() { "any value".to_owned() } else { parts.join(" and ") }
    }

    fn meet(&self, context: &Context, part: Part) -> Met {
        let Some(own) = context.posture.get(&self.attribute) else { return Met::Unknown(part) };
        if !self.is.is_empty() && !self.is.contains(own) {
            return Met::Fails(part);
        }
        let bounds = [
            (&self.at_least, [Ordering::Greater, Ordering::Equal].as_slice()),
            (&self.below, &[Ordering::Less]),
        ];
        for (bound, accepted) in bounds {
            let Some(bound) = bound else { continue };
            match bound.compare_with(own) {
                None => return Met::Unknown(part),
                Some(order) if !accepted.contains(&order) => return Met::Fails(part),
                Some(_) => {}
            }
        }
        Met::Holds(None)
    }
}

impl Conditions {
    /// Meets each condition that is asked with this context at this moment, until `each` has seen enough.
    pub(crate) fn meet(
        &self,
        schedule: Option<&Schedule>,
        context: &Context,
        now: Timestamp,
        mut each: impl FnMut(Met) -> bool,
    ) {
        let mut go_on = true;
        let mut met = |met: Met| {
            go_on = go_on && each(met);
            go_on
        };
        if let Some(schedule) = schedule
            && !met(schedule.open_until(now).map_or(Met::Fails(Part::Window), Met::Holds))
        {
            return;
        }
        if !self.source_cidrs.is_empty()
            && !met(known(context.source, Part::Source, |own| {
                let own = own.to_canonical();
                self.source_cidrs.iter().any(|net| net.contains(&own))
            }))
        {
            return;
        }
        if let Some(wanted) = self.device_verified
            && !met(known(context.device_verified, Part::DeviceVerified, |own| own == wanted))
        {
            return;
        }
        for (n, posture) in self.posture.iter().enumerate() {
            if !met(posture.meet(context, Part::Posture(n))) {
                return;
            }
        }
        if let Some(most) = self.session_age_seconds
            && !met(session_age(most, context.session_started, now))
        {
            return;
        }
        if !self.countries.is_empty()
            && !met(known(context.country.as_ref(), Part::Country, |own| self.countries.contains(own)))
        {
            return;
        }
        if !self.providers.is_empty() {
            met(known(context.provider.as_ref(), Part::Provider, |own| self.providers.contains(own)));
        }
    }

    /// What a condition that did not hold says to a person.
    pub(crate) fn failure(
        &self,
        part: Part,
        schedule: Option<&Schedule>,
        context: &Context,
        now: Timestamp,
    ) -> Failure {
        match part {
            Part::Window => Failure::OutsideWindow {
                windows: describe(&self.time_windows),
                opens: schedule.and_then(|schedule| schedule.next_opening(now)),
            },
            Part::Source => Failure::Source { own: context.source.map(|own| own.to_canonical()) },
            Part::DeviceVerified => Failure::DeviceVerified {
                own: context.device_verified,
                wanted: self.device_verified.unwrap_or_default(),
            },
            Part::Posture(n) => {
                let posture = self.posture.get(n).cloned().unwrap_or_default();
                Failure::Posture {
                    own: context.posture.get(&posture.attribute).cloned(),
                    wanted: posture.wanted(),
                    attribute: posture.attribute,
                }
            }
            Part::SessionAge => Failure::SessionAge {
                most: self.session_age_seconds.unwrap_or_default(),
                own: context
                    .session_started
                    .map(|at| u64::try_from(now.duration_since(at).as_secs()).unwrap_or(0)),
            },
            Part::Country => Failure::Country { own: context.country.clone() },
            Part::Provider => Failure::Provider { own: context.provider.clone() },
        }
    }
}

fn session_age(most: u64, started: Option<Timestamp>, now: Timestamp) -> Met {
    let Some(started) = started else { return Met::Unknown(Part::SessionAge) };
    // A sum beyond the calendar is no end.
    match started.checked_add(Duration::from_secs(most)) {
        Err(_) => Met::Holds(None),
        Ok(end) if now < end => Met::Holds(Some(end)),
        Ok(_) => Met::Fails(Part::SessionAge),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn all(conditions: &Conditions, context: &Context) -> Vec<Met> {
        let now = at("2026-11-24T10:00:00Z");
        let mut all = Vec::new();
        conditions.meet(Schedule::new(&conditions.time_windows, now).as_ref(), context, now, |met| {
            all.push(met);
            true
        });
        all
    }

    fn holds(conditions: &Conditions, context: &Context) -> bool {
        all(conditions, context).iter().all(|met| matches!(met, Met::Holds(_)))
    }

    fn asks(attribute: &str, at_least: Option<&str>, below: Option<&str>) -> Conditions {
        let version = |text: &str| text.parse().unwrap();
        let posture = Posture {
            attribute: attribute.into(),
            is: BTreeSet::new(),
            at_least: at_least.map(version),
            below: below.map(version),
        };
        Conditions { posture: vec![posture], ..Conditions::default() }
    }

    fn reports(attribute: &str, text: &str) -> Context {
        Context { posture: BTreeMap::from([(attribute.into(), text.into())]), ..Context::default() }
    }

    #[test]
    fn a_version_that_cannot_be_read_is_unknown() {
        let conditions = asks("os_version", Some("6.1"), None);

        assert!(holds(&conditions, &reports("os_version", "6.12")));
        assert!(holds(&conditions, &reports("os_version", "6.1")));
        assert_eq!(all(&conditions, &reports("os_version", "rolling")), [Met::Unknown(Part::Posture(0))]);
        assert_eq!(all(&conditions, &reports("os_version", "5.15")), [Met::Fails(Part::Posture(0))]);
        assert_eq!(all(&conditions, &Context::default()), [Met::Unknown(Part::Posture(0))]);
    }

    #[test]
    fn versions_have_a_lower_and_an_upper_bound() {
        let conditions = asks("client_version", Some("1.9"), Some("1.11"));

        for (version, accepted) in
            [("1.8.9", false), ("1.9", true), ("1.10.4", true), ("1.11-rc1", true), ("1.11", false)]
        {
            assert_eq!(holds(&conditions, &reports("client_version", version)), accepted, "{version}");
        }
    }

    #[test]
    fn an_attribute_is_one_of_several_values() {
        let mut conditions = asks("os", None, None);
        conditions.posture[0].is = BTreeSet::from(["linux".into(), "macos".into()]);

        assert!(holds(&conditions, &reports("os", "macos")));
        assert_eq!(all(&conditions, &reports("os", "windows")), [Met::Fails(Part::Posture(0))]);
        assert_eq!(conditions.posture[0].wanted(), "linux or macos");
        assert_eq!(asks("v", Some("1"), Some("2")).posture[0].wanted(), "1 or later and before 2");
        assert_eq!(asks("v", None, None).posture[0].wanted(), "any value");
    }

    #[test]
    fn an_ipv4_address_in_ipv6_clothes_is_the_ipv4_address() {
        let conditions =
            Conditions { source_cidrs: vec!["198.51.100.0/24".parse().unwrap()], ..Conditions::default() };
        let from = |text: &str| Context { source: Some(text.parse().unwrap()), ..Context::default() };

        assert!(holds(&conditions, &from("::ffff:198.51.100.7")));
        assert!(!holds(&conditions, &from("203.0.113.7")));
        assert_eq!(all(&conditions, &Context::default()), [Met::Unknown(Part::Source)]);
    }

    #[test]
    fn a_sign_in_grows_too_old() {
        let conditions = Conditions { session_age_seconds: Some(3600), ..Conditions::default() };
        let since = |text: &str| Context { session_started: Some(at(text)), ..Context::default() };

        let end = Some(at("2026-11-24T10:30:00Z"));
        assert_eq!(all(&conditions, &since("2026-11-24T09:30:00Z")), [Met::Holds(end)]);
        assert_eq!(all(&conditions, &since("2026-11-24T09:00:00Z")), [Met::Fails(Part::SessionAge)]);
        assert_eq!(all(&conditions, &Context::default()), [Met::Unknown(Part::SessionAge)]);
        let ever = Conditions { session_age_seconds: Some(u64::MAX), ..Conditions::default() };
        assert_eq!(all(&ever, &since("2026-11-24T09:00:00Z")), [Met::Holds(None)]);
    }

    #[test]
    fn meeting_stops_when_enough_was_seen() {
        let conditions = Conditions {
            device_verified: Some(true),
            countries: BTreeSet::from(["DE".into()]),
            providers: BTreeSet::from(["corp".into()]),
            ..Conditions::default()
        };
        let context =
            Context { device_verified: Some(true), country: Some("FR".into()), ..Context::default() };

        let mut seen = Vec::new();
        conditions.meet(None, &context, at("2026-11-24T10:00:00Z"), |met| {
            seen.push(met);
            matches!(met, Met::Holds(_))
        });

        assert_eq!(seen, [Met::Holds(None), Met::Fails(Part::Country)]);
        assert_eq!(all(&conditions, &context).last(), Some(&Met::Unknown(Part::Provider)));
    }

    /// A rule that asks for everything.
    fn everything() -> Conditions {
        serde_json::from_str(
            r#"{"time_windows":[{"days":["tue"],"from":"08:00","to":"18:00","zone":"UTC"}],
                "source_cidrs":["198.51.100.0/24"],"device_verified":true,
                "posture":[{"attribute":"os","is":["linux"]},{"attribute":"client_version","at_least":"1.10"}],
                "session_age_seconds":3600,"countries":["DE"],"providers":["corp"]}"#,
        )
        .unwrap()
    }

    fn well_known() -> Context {
        Context {
            source: Some("198.51.100.7".parse().unwrap()),
            device_verified: Some(true),
            posture: [("os", "linux"), ("client_version", "1.10")]
                .map(|(name, own)| (name.to_owned(), own.to_owned()))
                .into(),
            session_started: Some(at("2026-11-24T09:30:00Z")),
            session_ends: None,
            country: Some("DE".into()),
            provider: Some("corp".into()),
        }
    }

    #[test]
    fn each_condition_is_met_for_itself() {
        let conditions = everything();
        let of_other = Context {
            source: Some("203.0.113.7".parse().unwrap()),
            device_verified: Some(false),
            posture: [("os", "macos"), ("client_version", "1.9")]
                .map(|(name, own)| (name.to_owned(), own.to_owned()))
                .into(),
            session_started: Some(at("2026-11-24T08:30:00Z")),
            session_ends: None,
            country: Some("FR".into()),
            provider: Some("other".into()),
        };
        let parts = [
            Part::Source,
            Part::DeviceVerified,
            Part::Posture(0),
            Part::Posture(1),
            Part::SessionAge,
            Part::Country,
            Part::Provider,
        ];
        let open = Met::Holds(Some(at("2026-11-24T18:00:00Z")));

        assert!(holds(&conditions, &well_known()));
        assert_eq!(all(&conditions, &well_known()).len(), 1 + parts.len());
        let failed = all(&conditions, &of_other);
        assert_eq!(failed, [[open].as_slice(), &parts.map(Met::Fails)].concat());
        let unknown = all(&conditions, &Context::default());
        assert_eq!(unknown, [[open].as_slice(), &parts.map(Met::Unknown)].concat());
    }

    #[test]
    fn one_condition_that_fails_or_is_not_known_is_enough() {
        let conditions = everything();
        type Change = fn(&mut Context);
        let changes: [Change; 10] = [
            |it| it.source = None,
            |it| it.source = Some([203, 0, 113, 7].into()),
            |it| it.device_verified = None,
            |it| it.posture.retain(|name, _| name != "os"),
            |it| _ = it.posture.insert("client_version".into(), "1.9".into()),
            |it| _ = it.posture.insert("client_version".into(), "newest".into()),
            |it| it.session_started = None,
            |it| it.country = None,
            |it| it.country = Some("FR".into()),
            |it| it.provider = None,
        ];
        for (n, change) in changes.iter().enumerate() {
            let mut context = well_known();
            change(&mut context);
            let lacking = all(&conditions, &context).into_iter().filter(|met| !matches!(met, Met::Holds(_)));
            assert_eq!(lacking.count(), 1, "{n}");
        }
    }

    #[test]
    fn a_failure_carries_what_was_asked_for_and_what_there_is() {
        let conditions = everything();
        let now = at("2026-11-25T10:00:00Z");
        let schedule = Schedule::new(&conditions.time_windows, now);
        let failure = |part, context: &Context| conditions.failure(part, schedule.as_ref(), context, now);
        let (known, unknown) = (well_known(), Context::default());

        assert_eq!(
            failure(Part::Window, &known),
            Failure::OutsideWindow {
                windows: "Tue 08:00 to 18:00 UTC".into(),
                opens: Some(at("2026-12-01T08:00:00Z"))
            }
        );
        assert_eq!(failure(Part::Source, &known), Failure::Source { own: known.source });
        assert_eq!(
            failure(Part::DeviceVerified, &unknown),
            Failure::DeviceVerified { own: None, wanted: true }
        );
        assert_eq!(
            failure(Part::Posture(1), &known),
            Failure::Posture {
                attribute: "client_version".into(),
                own: Some("1.10".into()),
                wanted: "1.10 or later".into()
            }
        );
        assert_eq!(
            failure(Part::SessionAge, &known),
            Failure::SessionAge { most: 3600, own: Some(24 * 3600 + 1800) }
        );
        assert_eq!(failure(Part::SessionAge, &unknown), Failure::SessionAge { most: 3600, own: None });
        assert_eq!(failure(Part::Country, &known), Failure::Country { own: known.country.clone() });
        assert_eq!(failure(Part::Provider, &unknown), Failure::Provider { own: None });
    }

    #[test]
    fn conditions_that_are_not_asked_leave_no_trace_in_json() {
        let conditions = Conditions { device_verified: Some(true), ..Conditions::default() };

        assert_eq!(serde_json::to_string(&conditions).unwrap(), r#"{"device_verified":true}"#);
        assert!(serde_json::from_str::<Conditions>(r#"{"device_verifed":true}"#).is_err());
    }
}
