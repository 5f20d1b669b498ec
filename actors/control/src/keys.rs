//! Keys of actors of which a process has one.

/// The key of an actor that is the only one of its kind.
pub const ONLY: &str = "control";
