//! What `<program> check` reports: each thing that was tried, and the fix for what is missing.

use serde_json::{Value, json};

use crate::failure::{Exit, Failure};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Ok,
    /// Works, but not as it could.
    Warn,
    /// The program cannot work.
    Fail,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    id: &'static str,
    level: Level,
    message: String,
    fix: Option<String>,
}

impl Check {
    /// As it should be.
    pub fn ok(id: &'static str, message: impl Into<String>) -> Self {
        Self { id, level: Level::Ok, message: message.into(), fix: None }
    }

    /// Works, but not as it could, and how it would.
    pub fn warn(id: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { id, level: Level::Warn, message: message.into(), fix: Some(fix.into()) }
    }

    /// Does not work, and how it would.
    pub fn fail(id: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { id, level: Level::Fail, message: message.into(), fix: Some(fix.into()) }
    }

    /// From an attempt: `fine` says what worked.
    pub fn from(id: &'static str, fine: impl Into<String>, attempt: Result<(), Failure>) -> Self {
        match attempt {
            Ok(()) => Self::ok(id, fine),
            Err(failure) => Self { id, level: Level::Fail, message: failure.what, fix: failure.fix },
        }
    }

    /// How bad it is.
    pub fn level(&self) -> Level {
        self.level
    }

    fn json(&self) -> Value {
        json!({
            "id": self.id, "ok": self.level != Level::Fail, "level": self.level.name().to_lowercase(),
            "message": self.message, "fix": self.fix,
        })
    }
}

/// Prints the checks, and fails when one of them did.
///
/// # Errors
/// When a check failed; what is missing was printed.
pub fn report(checks: &[Check], as_json: bool) -> Result<(), Failure> {
    let missing = checks.iter().filter(|check| check.level == Level::Fail).count();
    if as_json {
        let checks = checks.iter().map(Check::json).collect::<Vec<_>>();
        println!("{}", json!({"schema": 1, "ok": missing == 0, "checks": checks}));
    } else {
        print!("{}", draw(checks));
    }
    match missing {
        0 => Ok(()),
        1 => Err(Failure::new(Exit::Failed, "1 check failed")),
        more => Err(Failure::new(Exit::Failed, format!("{more} checks failed"))),
    }
}

fn draw(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.id.len()).max().unwrap_or(0);
    let mut text = String::new();
    for check in checks {
        text.push_str(&format!("{:<4}  {:<width$}  {}\n", check.level.name(), check.id, check.message));
        if let Some(fix) = &check.fix {
            text.push_str(&format!("      {:<width$}  fix: {fix}\n", ""));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_check_fails_the_command_and_a_warning_does_not() {
        let fine = Check::ok("tun", "a TUN device can be opened");
        let slow = Check::warn("offload", "no offload", "use a newer kernel");
        let broken = Check::from(
            "ports",
            "free",
            Err(Failure::failed("port 3478 is taken").fix("stop the other one")),
        );

        assert!(report(&[fine.clone(), slow.clone()], true).is_ok());
        assert!(report(&[fine.clone(), broken.clone()], true).is_err());
        assert_eq!(
            draw(&[fine, broken]),
            "ok    tun    a TUN device can be opened\nFAIL  ports  port 3478 is taken\n             fix: stop the other one\n"
        );
    }
}
