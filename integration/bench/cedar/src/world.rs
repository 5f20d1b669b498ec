//! The rules that both engines decide by, and the questions: drawn from a seed, the same in each run.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{Timestamp, ToSpan as _};
use protocol_identity::{GroupId, PolicyId, PrincipalId, ResourceId};
use protocol_policy::{
    ClockTime, Conditions, Context, Day, Effect, Labels, Posture, Principal, Resource, Rule, Snapshot,
    TimeWindow,
};
use uuid::Uuid;

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn percent(&mut self, n: usize) -> bool {
        self.below(100) < n
    }

    fn id(&mut self) -> Uuid {
        Uuid::from_u64_pair(self.next(), self.next())
    }
}

pub const ZONES: [&str; 4] = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Tokyo"];
pub const COUNTRIES: [&str; 5] = ["DE", "FR", "US", "JP", "BR"];
pub const NETWORKS: [&str; 3] = ["198.51.100.0/24", "203.0.113.0/24", "192.0.2.0/25"];
const VERSIONS: [&str; 3] = ["1.2", "1.9", "1.10"];

pub struct World {
    pub snapshot: Snapshot,
    pub contexts: Vec<Context>,
    pub now: Timestamp,
}

/// A question: places of a principal, a resource and a context, and seconds after the start.
#[derive(Clone, Copy)]
pub struct Question {
    pub principal: u32,
    pub resource: u32,
    pub context: u16,
    pub later: u16,
}

fn conditions(random: &mut Random) -> Conditions {
    let mut conditions = Conditions::default();
    if random.percent(25) {
        let hours = random.below(12) as u16;
        conditions.time_windows.push(TimeWindow {
            days: Day::ALL.into_iter().take(3 + random.below(5)).collect(),
            from: ClockTime::from_minutes(hours * 60).unwrap(),
            to: ClockTime::from_minutes((hours + 10) * 60).unwrap(),
            zone: ZONES[random.below(ZONES.len())].parse().unwrap(),
        });
    }
    if random.percent(20) {
        conditions.source_cidrs.push(NETWORKS[random.below(NETWORKS.len())].parse().unwrap());
    }
    if random.percent(20) {
        conditions.device_verified = Some(true);
    }
    if random.percent(20) {
        conditions.countries = (0..2).map(|_| COUNTRIES[random.below(COUNTRIES.len())].to_owned()).collect();
    }
    if random.percent(10) {
        let at_least = Some(VERSIONS[random.below(VERSIONS.len())].parse().unwrap());
        conditions.posture.push(Posture {
            attribute: "client_version".into(),
            at_least,
            ..Posture::default()
        });
    }
    if random.percent(10) {
        conditions.session_age_seconds = Some(3600 * (1 + random.below(12) as u64));
    }
    conditions
}

impl World {
    /// 10,000 principals, 1,000 groups, 5,000 rules and 2,000 resources, `scale` times.
    pub fn draw(seed: u64, scale: usize) -> Self {
        let mut random = Random(seed);
        let groups: Vec<GroupId> = (0..1_000 * scale).map(|_| GroupId(random.id())).collect();
        let some = |random: &mut Random, n: usize| -> BTreeSet<GroupId> {
            (0..n).map(|_| groups[random.below(groups.len())]).collect()
        };
        let principals = (0..10_000 * scale)
            .map(|_| Principal {
                id: PrincipalId(random.id()),
                disabled: random.percent(1),
                groups: some(&mut random, 8),
                labels: Labels::new(),
            })
            .collect();
        let resources: Vec<Resource> = (0..2_000 * scale)
            .map(|_| Resource { id: ResourceId(random.id()), listed: false, labels: Labels::new() })
            .collect();
        let rules = (0..5_000 * scale)
            .map(|n| {
                let groups = 1 + random.below(20);
                Rule {
                    id: PolicyId(random.id()),
                    name: format!("rule-{n}"),
                    place: None,
                    enabled: true,
                    effect: if random.percent(10) { Effect::Deny } else { Effect::Allow },
                    groups: some(&mut random, groups),
                    principal_labels: BTreeSet::new(),
                    resources: (0..1 + random.below(8))
                        .map(|_| resources[random.below(resources.len())].id)
                        .collect(),
                    resource_labels: BTreeSet::new(),
                    conditions: conditions(&mut random),
                    max_session: random.percent(30).then(|| Duration::from_secs(8 * 3600)),
                }
            })
            .collect();
        let now: Timestamp = "2026-11-24T10:00:00Z".parse().unwrap();
        let contexts = (0..1_000)
            .map(|_| Context {
                source: Some(
                    ["198.51.100.7", "203.0.113.7", "192.0.2.200"][random.below(3)].parse().unwrap(),
                ),
                device_verified: Some(random.percent(60)),
                posture: BTreeMap::from([
                    ("os".to_owned(), "linux".to_owned()),
                    ("os_version".to_owned(), "6.12".to_owned()),
                    ("client_version".to_owned(), VERSIONS[random.below(VERSIONS.len())].to_owned()),
                ]),
                session_started: Some(now - (60 * (1 + random.below(700) as i64)).seconds()),
                session_ends: random.percent(50).then(|| now + (8 * 3600).seconds()),
                country: Some(COUNTRIES[random.below(COUNTRIES.len())].to_owned()),
                provider: None,
            })
            .collect();
        Self { snapshot: Snapshot { principals, everyone: None, resources, rules }, contexts, now }
    }

    /// Questions, no two alike. Half of them are about something that a rule names for one of the person's groups.
    pub fn questions(&self, seed: u64, n: usize) -> Vec<Question> {
        let mut random = Random(seed);
        let (mut by_group, mut places) = (BTreeMap::<GroupId, Vec<ResourceId>>::new(), BTreeMap::new());
        for rule in &self.snapshot.rules {
            for group in &rule.groups {
                by_group.entry(*group).or_default().extend(&rule.resources);
            }
        }
        for (place, resource) in self.snapshot.resources.iter().enumerate() {
            places.insert(resource.id, place as u32);
        }
        let mut seen = std::collections::HashSet::with_capacity(n);
        let mut questions = Vec::with_capacity(n);
        while questions.len() < n {
            let principal = random.below(self.snapshot.principals.len());
            let own: Vec<GroupId> = self.snapshot.principals[principal].groups.iter().copied().collect();
            let named = by_group.get(&own[random.below(own.len())]).filter(|_| random.percent(50));
            let resource = match named {
                Some(named) => places[&named[random.below(named.len())]],
                None => random.below(self.snapshot.resources.len()) as u32,
            };
            let (context, later) = (random.below(self.contexts.len()) as u16, random.below(3600) as u16);
            if seen.insert((principal, resource, context, later)) {
                questions.push(Question { principal: principal as u32, resource, context, later });
            }
        }
        questions
    }
}
