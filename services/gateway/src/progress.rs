//! How far the gateway has come, and what readiness makes of it.

use std::sync::{Mutex, PoisonError};

use actors_network::{FilterReport, Obstacle};
use services_chassis::{Readiness, chain};

/// What readiness needs: the packet filter in place with nothing against it, and the device up under the addresses
/// that control gave. The latter stays true when control goes away.
#[derive(Debug)]
pub struct Progress {
    state: Mutex<State>,
    readiness: Readiness,
}

#[derive(Debug)]
struct State {
    filter: Result<(), String>,
    serving: bool,
}

impl Progress {
    /// Nothing is done yet.
    pub fn new(readiness: Readiness) -> Self {
        let progress = Self {
            state: Mutex::new(State {
                filter: Err("the packet filter is not in place".into()),
                serving: false,
            }),
            readiness,
        };
        progress.change(|_| {});
        progress
    }

    /// The packet filter was looked at.
    pub fn filter(&self, report: &FilterReport) {
        self.change(|state| {
            state.filter = match report {
                Ok(found) => found.first().map_or(Ok(()), |obstacle| Err(said(obstacle))),
                Err(error) => Err(format!("the packet filter is not in place: {}", chain(error))),
            };
        });
    }

    /// Full state has come from control, and the device is up.
    pub fn serving(&self) {
        self.change(|state| state.serving = true);
    }

    /// Ready, or what is missing.
    pub fn get(&self) -> Result<(), String> {
        self.readiness.get()
    }

    /// Whether the packet filter was in place when it was looked at last.
    pub fn is_filter_in_place(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).filter.is_ok()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        match &state.filter {
            Err(why) => self.readiness.not_ready(why),
            Ok(()) if !state.serving => self.readiness.not_ready("control was not reached yet"),
            Ok(()) => self.readiness.ready(),
        }
    }
}

fn said(obstacle: &Obstacle) -> String {
    format!("{} would drop packets of the tunnel: {}; fix: {}", obstacle.what, obstacle.why, obstacle.fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_is_ready_when_the_filter_stands_and_control_was_there_once() {
        let readiness = Readiness::default();
        let progress = Progress::new(readiness.clone());

        progress.serving();
        assert!(readiness.get().unwrap_err().contains("packet filter"));
        progress.filter(&Ok(Vec::new()));

        assert_eq!(readiness.get(), Ok(()));
    }

    #[test]
    fn what_stands_in_the_way_is_named_with_its_fix() {
        let readiness = Readiness::default();
        let progress = Progress::new(readiness.clone());
        progress.serving();

        let obstacle = Obstacle {
            what: "chain ip filter FORWARD".into(),
            why: "its policy is drop".into(),
            fix: "nft insert rule ip filter FORWARD iifname postern-gw0 accept".into(),
        };
        progress.filter(&Ok(vec![obstacle]));

        let why = readiness.get().unwrap_err();
        assert!(why.contains("FORWARD") && why.contains("fix: nft insert rule"), "{why}");
        progress.filter(&Ok(Vec::new()));
        assert!(progress.is_filter_in_place());
        assert_eq!(progress.get(), Ok(()));
    }
}
