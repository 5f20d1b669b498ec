//! What the names crate reads from text.

use protocol_names::{Name, Pattern};

/// Reads the input as a name and as a pattern, and holds one against the other.
pub fn fuzz_text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (pattern, name) = text.split_once(' ').unwrap_or((text, text));
    let name = name.parse::<Name>().ok();
    if let Some(name) = &name {
        assert_eq!(name.to_string().parse::<Name>().ok().as_ref(), Some(name));
    }
    if let Ok(pattern) = pattern.parse::<Pattern>() {
        assert_eq!(pattern.to_string().parse::<Pattern>().ok().as_ref(), Some(&pattern));
        if let Some(name) = &name {
            let _ = pattern.matches(name);
        }
    }
}
