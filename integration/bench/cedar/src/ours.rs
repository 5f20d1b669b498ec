//! Our engine.

use std::hint::black_box;
use std::time::Instant;

use jiff::{Timestamp, ToSpan as _};
use protocol_policy::{Index, Request, Verdict};
use serde_json::{Value, json};

use crate::measure::measure;
use crate::world::{Question, Random, World};

/// Decides one question: the same call as the control plane's.
fn decide(index: &Index, world: &World, question: &Question) -> Verdict {
    let at = world.now + i64::from(question.later).seconds();
    let request = Request {
        principal: world.snapshot.principals[question.principal as usize].id,
        resource: world.snapshot.resources[question.resource as usize].id,
        context: &world.contexts[usize::from(question.context)],
        since: at,
    };
    index.decide(&request, at)
}

/// Whether each question is allowed.
pub fn verdicts(world: &World, questions: &[Question]) -> Vec<bool> {
    let index = Index::compile(world.snapshot.clone(), world.now);
    let allowed = |question| matches!(decide(&index, world, question), Verdict::Allowed { .. });
    questions.iter().map(allowed).collect()
}

/// Throughput on one core, and how long single decisions take.
pub fn decisions(world: &World, questions: &[Question], secs: u64) -> Value {
    let index = Index::compile(world.snapshot.clone(), world.now);
    // All of the answer is made, rule and end, and looked at.
    measure(questions, secs, |question| {
        matches!(black_box(decide(&index, world, question)), Verdict::Allowed { .. })
    })
}

fn millis(started: Instant) -> f64 {
    started.elapsed().as_secs_f64() * 1e3
}

/// How long the index takes to take one change in: the median of each kind of change, and the worst of all.
pub fn changes(world: &World) -> Value {
    let started = Instant::now();
    let mut index = Index::compile(world.snapshot.clone(), world.now);
    let compiled = millis(started);
    let snapshot = &world.snapshot;
    let mut random = Random(7);
    let mut kinds = serde_json::Map::new();
    let mut worst: f64 = 0.0;
    let mut time =
        |kind: &str, times: usize, index: &mut Index, change: &mut dyn FnMut(&mut Index, &mut Random)| {
            let mut took: Vec<f64> = (0..times)
                .map(|_| {
                    let started = Instant::now();
                    change(index, &mut random);
                    millis(started)
                })
                .collect();
            took.sort_by(f64::total_cmp);
            worst = worst.max(took[took.len() - 1]);
            kinds.insert(kind.to_owned(), json!(took[took.len() / 2]));
        };
    time("rule_edited", 200, &mut index, &mut |index, random| {
        let mut rule = snapshot.rules[random.below(snapshot.rules.len())].clone();
        rule.conditions.device_verified = Some(false);
        black_box(index.put_rule(rule));
    });
    time("rule_removed_and_back", 200, &mut index, &mut |index, random| {
        let rule = snapshot.rules[random.below(snapshot.rules.len())].clone();
        black_box(index.remove_rule(rule.id));
        black_box(index.put_rule(rule));
    });
    let mut wide: Vec<_> = snapshot.rules.iter().take(10).cloned().collect();
    for rule in &mut wide {
        rule.resources = snapshot.resources.iter().map(|resource| resource.id).collect();
    }
    time("rule_for_every_resource", wide.len(), &mut index, &mut |index, _| {
        black_box(index.put_rule(wide.pop().unwrap()));
    });
    time("group_left", 200, &mut index, &mut |index, random| {
        let principal = &snapshot.principals[random.below(snapshot.principals.len())];
        if let Some(group) = principal.groups.first() {
            index.set_member(principal.id, *group, false);
        }
    });
    time("principal_disabled", 200, &mut index, &mut |index, random| {
        let mut principal = snapshot.principals[random.below(snapshot.principals.len())].clone();
        principal.disabled = true;
        index.put_principal(principal);
    });
    time("resource_labelled", 200, &mut index, &mut |index, random| {
        let mut resource = snapshot.resources[random.below(snapshot.resources.len())].clone();
        resource.labels.insert("env".into(), "test".into());
        index.put_resource(resource);
    });
    // The last one: everybody is put into one group.
    let group = *snapshot.rules[0].groups.first().unwrap();
    time("everybody_joins_a_group", 1, &mut index, &mut |index, _| {
        for principal in &snapshot.principals {
            index.set_member(principal.id, group, true);
        }
    });
    let later: Timestamp = world.now + (24 * 8).hours();
    let started = Instant::now();
    index.prepare(later);
    json!({ "worst_ms": worst, "compile_ms": compiled, "weekly_ms": millis(started), "kinds": kinds })
}
