//! What the policy crate reads from text.

use protocol_policy::{ClockTime, Conditions, Version, Zone};

/// Reads the input as the conditions of a rule, and as each of their parts.
pub fn fuzz_text(data: &[u8]) {
    if let Ok(conditions) = serde_json::from_slice::<Conditions>(data) {
        let written = serde_json::to_vec(&conditions).unwrap_or_default();
        assert_eq!(serde_json::from_slice::<Conditions>(&written).ok(), Some(conditions));
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = text.parse::<Version>();
    let _ = text.parse::<ClockTime>();
    let _ = text.parse::<Zone>();
}
