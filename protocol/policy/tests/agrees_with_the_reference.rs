//! The index decides as the reference does, also after changes of one thing at a time, in random small worlds around
//! changes of the clock.
//!
//! `POSTERN_POLICY_CASES` decisions are compared (a few in ordinary tests), from the world `POSTERN_POLICY_SEED` on. With
//! `POSTERN_POLICY_PROGRESS=FILE`, a run that was stopped goes on where it was.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use protocol_identity::{GroupId, PolicyId, PrincipalId, ResourceId};
use protocol_policy::{
    ClockTime, Conditions, Context, Day, Effect, Index, Labels, Posture, Principal, Request, Resource, Rule,
    Snapshot, TimeWindow, Verdict,
};
use uuid::Uuid;

mod reference;
use reference::{Asked, QUARTER};

const ZONES: [&str; 8] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/St_Johns",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Pacific/Chatham",
    "Africa/Casablanca",
];
const EVERYONE: u128 = 99;
const QUESTIONS: u64 = 10;

/// SplitMix64: the same numbers on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize].clone()
    }

    fn some<T: Ord>(&mut self, most: u64, mut make: impl FnMut(&mut Self) -> T) -> BTreeSet<T> {
        (0..self.below(most + 1)).map(|_| make(self)).collect()
    }

    fn rarely<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.one_in(4) { Some(make(self)) } else { None }
    }
}

fn uuid(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn quarter(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second().div_euclid(QUARTER) * QUARTER).unwrap()
}

/// A moment within two days of a change of the clock, or any moment.
fn moment(random: &mut Random) -> Timestamp {
    let year_2000 = 946_684_800;
    let any = Timestamp::from_second(year_2000 + random.below(40 * 365 * 86_400) as i64).unwrap();
    let zone = TimeZone::get(random.pick(&ZONES)).unwrap();
    let near = if random.one_in(3) { None } else { zone.following(any).next() };
    near.map_or(any, |change| change.timestamp() + (random.below(4 * 86_400) as i64 - 2 * 86_400).seconds())
}

fn window(random: &mut Random) -> TimeWindow {
    let mut time = || ClockTime::from_minutes(random.below(96) as u16 * 15).unwrap();
    let (from, to) = (time(), time());
    let mut days = random.some(6, |random| random.pick(&Day::ALL));
    days.insert(random.pick(&Day::ALL));
    TimeWindow { days, from, to, zone: random.pick(&ZONES).parse().unwrap() }
}

fn posture(random: &mut Random) -> Posture {
    if random.one_in(2) {
        let is = BTreeSet::from([random.pick(&["linux", "macos"]).to_owned()]);
        return Posture { attribute: "os".into(), is, ..Posture::default() };
    }
    let version = |random: &mut Random| random.pick(&["1.9", "1.10", "2"]).parse().unwrap();
    let at_least = if random.one_in(2) { Some(version(random)) } else { None };
    let below = if at_least.is_none() { Some(version(random)) } else { None };
    Posture { attribute: "client_version".into(), at_least, below, ..Posture::default() }
}

fn conditions(random: &mut Random) -> Conditions {
    let windows = if random.one_in(2) { random.below(3) } else { 0 };
    Conditions {
        time_windows: (0..windows).map(|_| window(random)).collect(),
        source_cidrs: random
            .rarely(|random| random.pick(&["198.51.100.0/24", "203.0.113.0/24"]).parse().unwrap())
            .into_iter()
            .collect(),
        device_verified: random.rarely(|random| random.one_in(2)),
        posture: random.rarely(posture).into_iter().collect(),
        session_age_seconds: random.rarely(|random| (1 + random.below(200)) * QUARTER as u64),
        countries: random.rarely(|random| random.pick(&["DE", "FR"]).to_owned()).into_iter().collect(),
        providers: random.rarely(|random| random.pick(&["corp", "other"]).to_owned()).into_iter().collect(),
    }
}

fn labels(random: &mut Random) -> Labels {
    let some = random.some(2, |random| (random.pick(&["team", "env"]), random.pick(&["a", "b"])));
    some.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn rule(random: &mut Random, n: u128) -> Rule {
    let mut selectors =
        || random.some(1, |random| random.pick(&["team=a", "env=b", "env=a,team=a"]).parse().unwrap());
    let (principal_labels, resource_labels) = (selectors(), selectors());
    Rule {
        id: PolicyId(uuid(n)),
        name: format!("rule-{n}"),
        place: None,
        enabled: !random.one_in(10),
        effect: if random.one_in(4) { Effect::Deny } else { Effect::Allow },
        groups: random.some(2, |random| GroupId(uuid(random.pick(&[1, 2, 3, EVERYONE])))),
        principal_labels,
        resources: random.some(2, |random| ResourceId(uuid(1 + u128::from(random.below(3))))),
        resource_labels,
        conditions: conditions(random),
        max_session: random.rarely(|random| Duration::from_secs((1 + random.below(60)) * QUARTER as u64)),
    }
}

fn principal(random: &mut Random, n: u128) -> Principal {
    Principal {
        id: PrincipalId(uuid(n)),
        disabled: random.one_in(12),
        groups: random.some(2, |random| GroupId(uuid(1 + u128::from(random.below(3))))),
        labels: labels(random),
    }
}

fn resource(random: &mut Random, n: u128) -> Resource {
    Resource { id: ResourceId(uuid(n)), listed: random.one_in(4), labels: labels(random) }
}

fn world(random: &mut Random) -> Snapshot {
    let rules = 1 + random.below(6);
    Snapshot {
        principals: (1..=3).map(|n| principal(random, n)).collect(),
        everyone: Some(GroupId(uuid(EVERYONE))),
        resources: (1..=3).map(|n| resource(random, n)).collect(),
        rules: (1..=rules).map(|n| rule(random, n.into())).collect(),
    }
}

fn context(random: &mut Random, now: Timestamp) -> Context {
    let quarters = |n: u64| (n as i64 * QUARTER).seconds();
    let now = quarter(now);
    let known = |random: &mut Random, of: &[&str]| {
        if random.one_in(5) { None } else { Some(random.pick(of).to_owned()) }
    };
    Context {
        source: known(random, &["198.51.100.7", "203.0.113.7", "192.0.2.7"]).map(|own| own.parse().unwrap()),
        device_verified: if random.one_in(5) { None } else { Some(random.one_in(2)) },
        country: known(random, &["DE", "FR", "IT"]),
        provider: known(random, &["corp", "other"]),
        posture: [
            ("os", known(random, &["linux", "macos"])),
            ("client_version", known(random, &["1.9", "1.10", "2", "2.1", "unknown"])),
        ]
        .into_iter()
        .filter_map(|(name, own)| Some((name.to_owned(), own?)))
        .collect(),
        session_started: if random.one_in(5) { None } else { Some(now - quarters(random.below(100))) },
        session_ends: random.rarely(|random| now + quarters(random.below(100))),
    }
}

/// Changes one thing in the snapshot, and the same in the index.
fn change(random: &mut Random, snapshot: &mut Snapshot, index: &mut Index) {
    let n = random.below(3) as usize;
    match random.below(6) {
        0 => {
            let id = 1 + u128::from(random.below(8));
            let new = rule(random, id);
            snapshot.rules.retain(|rule| rule.id != new.id);
            snapshot.rules.push(new.clone());
            index.put_rule(new);
        }
        1 => {
            let id = PolicyId(uuid(1 + u128::from(random.below(8))));
            snapshot.rules.retain(|rule| rule.id != id);
            index.remove_rule(id);
        }
        2 => {
            let new = principal(random, n as u128 + 1);
            snapshot.principals[n] = new.clone();
            index.put_principal(new);
        }
        3 => {
            let new = resource(random, n as u128 + 1);
            snapshot.resources[n] = new.clone();
            index.put_resource(new);
        }
        4 => {
            let group = GroupId(uuid(1 + u128::from(random.below(3))));
            let is_in = random.one_in(2);
            let principal = &mut snapshot.principals[n];
            if is_in {
                principal.groups.insert(group);
            } else {
                principal.groups.remove(&group);
            }
            index.set_member(principal.id, group, is_in);
        }
        _ => {
            // Gone, and back as it was.
            index.remove_resource(snapshot.resources[n].id);
            index.put_resource(snapshot.resources[n].clone());
            index.remove_principal(snapshot.principals[n].id);
            index.put_principal(snapshot.principals[n].clone());
        }
    }
}

/// Compares [`QUESTIONS`] decisions in the world with this seed.
fn compare(seed: u64) {
    let mut random = Random(seed);
    let mut snapshot = world(&mut random);
    let start = moment(&mut random);
    let mut index = Index::compile(snapshot.clone(), start);
    for question in 0..QUESTIONS {
        if question > 0 {
            change(&mut random, &mut snapshot, &mut index);
        }
        let now = start + (random.below(4 * 86_400) as i64).seconds();
        if random.one_in(8) {
            index.prepare(now);
        }
        let context = context(&mut random, now);
        let principal = random.pick(&snapshot.principals);
        let resource = random.pick(&snapshot.resources);
        let since = quarter(now) - (random.below(8) as i64 * QUARTER).seconds();
        let asked = Asked {
            snapshot: &snapshot,
            principal: &principal,
            resource: &resource,
            context: &context,
            since,
        };
        let request = Request { principal: principal.id, resource: resource.id, context: &context, since };

        let expected = asked.decide(now);
        let verdict = index.decide(&request, now);

        let decided = match verdict {
            Verdict::Allowed { policy, end } => Some((policy, end)),
            Verdict::Denied(_) => None,
        };
        assert_eq!(decided, expected, "world {seed}, question {question}, at {now}");
        let explained = index.explain(&request, now);
        assert_eq!(explained.verdict, verdict, "world {seed}, question {question}, at {now}");
        if let Some((policy, _)) = expected {
            assert!(index.learns(principal.id, resource.id), "world {seed}, question {question}");
            assert!(index.resources_of(policy).contains(&resource.id), "world {seed}, question {question}");
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn the_index_decides_as_the_reference_does() {
    let worlds = number("POSTERN_POLICY_CASES").unwrap_or(4_000).div_ceil(QUESTIONS);
    let first = number("POSTERN_POLICY_SEED").unwrap_or(1);
    let progress = std::env::var_os("POSTERN_POLICY_PROGRESS");
    let done = progress.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
    // What was done from another seed on is something else.
    let done = done.and_then(|text| {
        let (seed, done) = text.trim().split_once(' ')?;
        (seed.parse() == Ok(first)).then(|| done.parse::<u64>().ok())?
    });
    let done = done.unwrap_or(0);

    for world in done..worlds {
        compare(first + world);
        if let Some(file) = progress.as_ref().filter(|_| world % 1_000 == 999) {
            std::fs::write(file, format!("{first} {}", world + 1)).unwrap();
        }
    }
    if let Some(file) = progress {
        // The next run begins anew.
        let _ = std::fs::remove_file(file);
    }
}

#[test]
fn the_order_of_rules_never_matters() {
    for seed in 1..=100 {
        let mut random = Random(seed);
        let snapshot = world(&mut random);
        let now = moment(&mut random);
        let mut reversed = snapshot.clone();
        reversed.rules.reverse();
        let (index, other) = (Index::compile(snapshot.clone(), now), Index::compile(reversed, now));

        for principal in &snapshot.principals {
            for resource in &snapshot.resources {
                let context = context(&mut random, now);
                let request =
                    Request { principal: principal.id, resource: resource.id, context: &context, since: now };
                assert_eq!(index.explain(&request, now), other.explain(&request, now), "world {seed}");
            }
        }
    }
}
