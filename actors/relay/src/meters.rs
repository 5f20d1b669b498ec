//! What users and sources may have relayed, shared by their allocations.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use protocol_stun::relay::{Meter, Rate};

/// The meters of one allocation; none where nothing is bounded.
#[derive(Clone, Default)]
pub(crate) struct Meters {
    user: Option<Rc<Meter>>,
    source: Option<Rc<Meter>>,
}

impl Meters {
    /// Whether so much may pass now.
    pub(crate) fn admit(&self, packets: u64, bytes: u64, now: Duration) -> bool {
        let admits =
            |meter: &Option<Rc<Meter>>| meter.as_ref().is_none_or(|meter| meter.admit(packets, bytes, now));
        admits(&self.user) && admits(&self.source)
    }
}

/// Finds the meters that allocations share. A meter lives as long as an allocation that has it.
pub(crate) struct MeterOffice {
    of_user: Rate,
    of_source: Rate,
    users: RefCell<HashMap<Arc<str>, Weak<Meter>>>,
    sources: RefCell<HashMap<IpAddr, Weak<Meter>>>,
}

impl MeterOffice {
    pub(crate) fn new(of_user: Rate, of_source: Rate) -> Self {
        Self { of_user, of_source, users: RefCell::default(), sources: RefCell::default() }
    }

    pub(crate) fn meters(&self, user: &Arc<str>, source: IpAddr, now: Duration) -> Meters {
        Meters {
            user: shared(&mut self.users.borrow_mut(), Arc::clone(user), self.of_user, now),
            source: shared(&mut self.sources.borrow_mut(), source, self.of_source, now),
        }
    }
}

fn shared<K: Hash + Eq>(
    all: &mut HashMap<K, Weak<Meter>>,
    key: K,
    rate: Rate,
    now: Duration,
) -> Option<Rc<Meter>> {
    if !rate.is_bounded() {
        return None;
    }
    // Grows to twice what is in use, and is swept when it would grow: so a sweep is paid for by what came since the last.
    if all.len() == all.capacity() {
        all.retain(|_, meter| meter.strong_count() > 0);
    }
    let meter = all.get(&key).and_then(Weak::upgrade);
    let meter = meter.unwrap_or_else(|| Rc::new(Meter::new(rate, now)));
    all.insert(key, Rc::downgrade(&meter));
    Some(meter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocations_of_one_user_share_what_they_may_have_and_others_do_not_notice() {
        let office = MeterOffice::new(Rate { packets: 10, bytes: 0 }, Rate::default());
        let (alice, bob): (Arc<str>, Arc<str>) = ("alice".into(), "bob".into());
        let here = IpAddr::from([192, 0, 2, 1]);
        let now = Duration::ZERO;

        let (first, second) = (office.meters(&alice, here, now), office.meters(&alice, here, now));
        assert!(first.admit(10, 1, now));
        assert!(!second.admit(1, 1, now));
        assert!(office.meters(&bob, here, now).admit(10, 1, now));
    }

    #[test]
    fn meters_that_nobody_has_are_forgotten() {
        let office = MeterOffice::new(Rate { packets: 10, bytes: 0 }, Rate::default());

        for n in 0..10_000 {
            office.meters(&format!("user {n}").into(), [192, 0, 2, 1].into(), Duration::ZERO);
        }

        assert!(office.users.borrow().len() < 100, "{}", office.users.borrow().len());
    }
}
