//! What the policy crate reads from text.

use protocol_policy::{ClockTime, Conditions, PolicyFile, Selector, Version, Zone, moment};

/// Reads the input as the conditions of a rule, as each of their parts, and as a policy file.
pub fn fuzz_text(data: &[u8]) {
    if let Ok(conditions) = serde_json::from_slice::<Conditions>(data) {
        let written = serde_json::to_vec(&conditions).unwrap_or_default();
        assert_eq!(serde_json::from_slice::<Conditions>(&written).ok(), Some(conditions));
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(file) = PolicyFile::parse(text) {
        let rules = file.policies.iter().map(|policy| (policy.name.as_str(), &policy.rule));
        let written = PolicyFile::write("1", rules);
        let again = PolicyFile::parse(&written).map(|file| file.policies.len());
        assert_eq!(again, Ok(file.policies.len()));
    }
    if let Ok(selector) = text.parse::<Selector>() {
        assert_eq!(selector.to_string().parse(), Ok(selector));
    }
    let _ = moment(text);
    let _ = text.parse::<Version>();
    let _ = text.parse::<ClockTime>();
    let _ = text.parse::<Zone>();
}
