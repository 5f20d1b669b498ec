//! Both ends of an allocation on a bad wire: loss, copies, reordering, delay, restarts of either end, new NAT mappings.
//!
//! Time moves only to deadlines that somebody asked for. A failure prints the seed; `POSTERN_SEED=n` runs it alone.

#![allow(clippy::unwrap_used, reason = "clippy knows tests by their attribute, not the helpers beside them")]

mod world;

use std::time::Duration;

use world::{Faults, World};

const SEEDS: u64 = 50;

fn seeds() -> Vec<u64> {
    match std::env::var("POSTERN_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..SEEDS).collect(),
    }
}

/// Says which seed it was when the test fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with POSTERN_SEED={}", self.0);
        }
    }
}

fn for_each_seed(run: impl Fn(u64)) {
    for seed in seeds() {
        let _seed = Seed(seed);
        run(seed);
    }
}

const FAULTY: Duration = Duration::from_secs(300);
/// A round of seven tries, the wait before the next start, and one more round.
const RECOVERY: Duration = Duration::from_secs(30);

#[test]
fn everything_wished_for_is_there_again_soon_after_the_faults_end() {
    for_each_seed(|seed| {
        let mut world = World::new(seed, Faults::all());
        world.wish_for_some();
        world.run(FAULTY);

        world.calm();
        world.run(RECOVERY);

        world.assert_complete();
    });
}

#[test]
fn nothing_reaches_anybody_it_was_not_meant_for() {
    // The assertions are in the world: every packet that arrives names whom it was for, and nobody is sent anything by
    // the relay whom this client did not want.
    for_each_seed(|seed| {
        let mut world = World::new(seed, Faults::all());
        world.wish_for_some();
        for _ in 0..30 {
            world.run(Duration::from_secs(20));
            world.change_some_wishes();
        }

        assert!(world.arrived() > 0, "nothing ever arrived");
    });
}

#[test]
fn a_bad_wire_alone_costs_no_allocation() {
    for_each_seed(|seed| {
        let mut world = World::new(seed, Faults::wire_only());
        world.wish_for_some();
        world.run(Duration::from_secs(60));
        let lost = world.lost();

        // Longer than any permission, channel or nonce lives.
        world.run(Duration::from_secs(4000));

        assert_eq!(world.lost(), lost);
        world.assert_complete();
    });
}

#[test]
fn a_quiet_wire_carries_no_more_than_the_keepalives() {
    let mut world = World::new(1, Faults::none());
    world.wish_for_some();
    world.run(Duration::from_secs(10));
    let before = world.sent_by_client();

    world.run(Duration::from_secs(600));

    // 40 Refreshes, 40 Bindings, and three rounds for permissions and channels: nothing spins.
    let sent = world.sent_by_client() - before;
    assert!((75..110).contains(&sent), "{sent}");
}
