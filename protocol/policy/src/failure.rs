//! What keeps a rule from applying, in words.

use std::fmt;
use std::net::IpAddr;

use jiff::Timestamp;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_has_its_name_and_says_what_the_rule_asks_for() {
        let at: Timestamp = "2026-11-24T10:00:00Z".parse().unwrap();
        let own = |text: &str| Some(text.to_owned());
        let window = |opens| Failure::OutsideWindow { windows: "Mon 08:00 to 18:00 UTC".into(), opens };
        let posture = |own| Failure::Posture { attribute: "os".into(), own, wanted: "linux".into() };
        for (failure, name, text) in [
            (Failure::Disabled, "enabled", "it is disabled"),
            (Failure::NotInGroup, "group", "it is for other groups"),
            (
                window(Some(at)),
                "time_window",
                "it holds Mon 08:00 to 18:00 UTC; next from 2026-11-24T10:00:00Z",
            ),
            (window(None), "time_window", "it asks for a time in Mon 08:00 to 18:00 UTC"),
            (
                Failure::Source { own: Some([192, 0, 2, 7].into()) },
                "source_cidr",
                "it asks for another source address than 192.0.2.7",
            ),
            (Failure::Source { own: None }, "source_cidr", "it asks for a source address that is known"),
            (
                Failure::DeviceVerified { own: None, wanted: true },
                "device_verified",
                "it asks for a verified device",
            ),
            (
                Failure::DeviceVerified { own: Some(true), wanted: false },
                "device_verified",
                "it asks for a device that is not verified",
            ),
            (posture(own("macos")), "posture", "it asks for os linux; the device has macos"),
            (posture(None), "posture", "it asks for os linux; the device does not report it"),
            (
                Failure::SessionAge { most: 60, own: Some(61) },
                "session_age",
                "it asks for a sign-in at most 60 s old; this one is 61 s old",
            ),
            (
                Failure::SessionAge { most: 60, own: None },
                "session_age",
                "it asks for a sign-in at most 60 s old; the age of this one is not known",
            ),
            (Failure::Country { own: own("FR") }, "country", "it asks for another country than FR"),
            (Failure::Country { own: None }, "country", "it asks for a country that is known"),
            (
                Failure::Provider { own: own("corp") },
                "provider",
                "it asks for another identity provider than corp",
            ),
            (Failure::Provider { own: None }, "provider", "it asks for a sign-in at an identity provider"),
            (Failure::Ended, "session", "it asks for a new sign-in: the longest time that it gives is over"),
        ] {
            assert_eq!((failure.condition(), failure.to_string().as_str()), (name, text));
        }
        assert_eq!(Failure::Disabled.asks_for(), "being enabled");
        assert_eq!(Failure::NotInGroup.asks_for(), "another group");
    }
}
