//! The children of one actor.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::actor::{ChildEnded, How};
use crate::mailbox::Controlled;

/// The living children of one actor, and the ends it has not been told of.
pub(crate) struct Family {
    parent: Arc<dyn Controlled>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    members: HashMap<u64, Arc<dyn Controlled>>,
    by_key: HashMap<(&'static str, Arc<str>), u64>,
    ends: VecDeque<ChildEnded>,
}

impl Family {
    pub(crate) fn new(parent: Arc<dyn Controlled>) -> Family {
        Family { parent, state: RefCell::default() }
    }

    pub(crate) fn has(&self, kind: &'static str, key: &Arc<str>) -> bool {
        self.state.borrow().by_key.contains_key(&(kind, Arc::clone(key)))
    }

    pub(crate) fn add(&self, id: u64, child: Arc<dyn Controlled>) {
        let mut state = self.state.borrow_mut();
        state.by_key.insert((child.life().kind, Arc::clone(&child.life().key)), id);
        state.members.insert(id, child);
    }

    /// Asks one child to stop and frees its key.
    pub(crate) fn stop(&self, kind: &'static str, key: &str) -> bool {
        let child = {
            let mut state = self.state.borrow_mut();
            let Some(id) = state.by_key.remove(&(kind, Arc::from(key))) else { return false };
            state.members.get(&id).cloned()
        };
        if let Some(child) = child {
            child.life().request_stop();
        }
        true
    }

    /// Asks all children to stop and forgets what is not yet told.
    pub(crate) fn stop_all(&self) {
        let children: Vec<_> = {
            let mut state = self.state.borrow_mut();
            state.by_key.clear();
            state.ends.clear();
            state.members.values().cloned().collect()
        };
        for child in children {
            child.life().request_stop();
        }
    }

    /// A child has ended.
    pub(crate) fn ended(&self, id: u64, how: How) {
        {
            let mut state = self.state.borrow_mut();
            let Some(child) = state.members.remove(&id) else { return };
            let (kind, key) = (child.life().kind, &child.life().key);
            let place = (kind, Arc::clone(key));
            match state.by_key.get(&place) {
                // A successor lives under the same key: the old one's end is no news.
                Some(&other) if other != id => {}
                _ => {
                    state.by_key.remove(&place);
                    state.ends.push_back(ChildEnded { kind, key: key.to_string(), how });
                }
            }
        }
        self.parent.life().nudge();
    }

    pub(crate) fn next_end(&self) -> Option<ChildEnded> {
        self.state.borrow_mut().ends.pop_front()
    }

    pub(crate) fn forget_ends(&self) {
        self.state.borrow_mut().ends.clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.state.borrow().members.is_empty()
    }
}
