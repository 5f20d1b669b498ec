//! How often each session was begun.
//!
//! The counter of a probe begins with a generation, and must never repeat under the session's keys. Those can come back:
//! a client that is told `down` and then `up` gets the same answer of its gateway again, and so the same secret.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};

use protocol_identity::Secret32;

/// Sessions that have ended and are remembered. Only those come back whose other end still has them: at a client as many
/// as it has gateways, at a gateway none, because it encapsulates a new secret whenever it begins.
const REMEMBERED: usize = 1024;

/// The sessions that have ended on a lane. A secret is known by a hash, so that it is gone with its session; two that
/// share one only count further.
#[derive(Default)]
pub(crate) struct Generations {
    hasher: RandomState,
    ended: RefCell<VecDeque<(u64, u32)>>,
}

impl Generations {
    /// The next generation of a session that begins.
    pub(crate) fn resume(&self, secret: &Secret32) -> u32 {
        let session = self.hasher.hash_one(secret.expose());
        let mut ended = self.ended.borrow_mut();
        let found = ended.iter().position(|(held, _)| *held == session);
        found.and_then(|at| ended.remove(at)).map_or(0, |(_, next)| next)
    }

    /// A session has ended before it used generation `next`.
    pub(crate) fn remember(&self, secret: &Secret32, next: u32) {
        let mut ended = self.ended.borrow_mut();
        if ended.len() == REMEMBERED {
            ended.pop_front();
        }
        ended.push_back((self.hasher.hash_one(secret.expose()), next));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_session_that_comes_back_goes_on_counting_and_others_begin_at_zero() {
        let (generations, first, second) = (Generations::default(), secret(), secret());

        generations.remember(&first, 3);

        assert_eq!((generations.resume(&second), generations.resume(&first)), (0, 3));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_newest_stays() {
        let (generations, last) = (Generations::default(), secret());

        for n in 0..2 * REMEMBERED {
            generations.remember(&secret(), u32::try_from(n).unwrap());
        }
        generations.remember(&last, 7);

        assert_eq!(generations.ended.borrow().len(), REMEMBERED);
        assert_eq!(generations.resume(&last), 7);
    }

    fn secret() -> Secret32 {
        Secret32::new(rand::random())
    }
}
