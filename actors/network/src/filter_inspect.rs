//! Would another program's packet filter drop what the gateway forwards? A pure look at the host's rules.
//!
//! An `accept` of ours ends only our own chain: each base chain at the hook `forward` decides for itself (nftables(8)).
//! So every foreign one is followed with the two packets that matter: a new flow that comes in from the tunnel, and the
//! answer that goes out into it. Rules that also look at other things count as not matching, except that an answer
//! belongs to an established connection.

use std::collections::HashMap;

use serde_json::Value;

/// What stands in the gateway's way, and how to move it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Obstacle {
    /// What it is: `chain ip filter FORWARD`, `net.ipv4.ip_forward`.
    pub what: String,
    /// What it does.
    pub why: String,
    /// The command that changes it.
    pub fix: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    /// A new flow from the tunnel.
    In,
    /// An answer into the tunnel.
    Out,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Passed,
    Stopped,
    /// Back to the calling chain, or on to the policy.
    Nothing,
}

/// Chains may call each other; the kernel allows 16 levels.
const DEPTH: usize = 16;

/// `(family, table)`.
type Place<'a> = (&'a str, &'a str);

struct Ruleset<'a> {
    base: Vec<(Place<'a>, &'a str, bool)>,
    rules: HashMap<(Place<'a>, &'a str), Vec<&'a [Value]>>,
    chains: Vec<(Place<'a>, &'a str)>,
}

/// The base chains in `ruleset` (the output of `nft -j list ruleset`) that would drop packets of `device`; the table
/// `own` is ours.
pub(crate) fn obstacles(ruleset: &Value, device: &str, own: &str) -> Vec<Obstacle> {
    let ruleset = Ruleset::read(ruleset);
    let mut found = Vec::new();
    for (place, chain, drops) in &ruleset.base {
        if *place == ("inet", own) {
            continue;
        }
        let stopped = |direction| match ruleset.follow(*place, chain, device, direction, DEPTH) {
            Outcome::Passed => false,
            Outcome::Stopped => true,
            Outcome::Nothing => *drops,
        };
        let why = match (stopped(Direction::In), stopped(Direction::Out)) {
            (false, false) => continue,
            (true, true) => "drops what comes from the tunnel and what goes into it",
            (true, false) => "drops what comes from the tunnel",
            (false, true) => "drops what goes into the tunnel",
        };
        let (family, table) = place;
        found.push(Obstacle {
            what: format!("chain {family} {table} {chain}"),
            why: why.to_owned(),
            fix: ruleset.fix(*place, chain, device),
        });
    }
    found
}

impl<'a> Ruleset<'a> {
    fn read(ruleset: &'a Value) -> Self {
        let mut this = Self { base: Vec::new(), rules: HashMap::new(), chains: Vec::new() };
        let entries =
            ruleset.get("nftables").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        for entry in entries {
            if let Some(chain) = entry.get("chain") {
                let (Some(place), Some(name)) = (place(chain), text(chain, "name")) else { continue };
                this.chains.push((place, name));
                if text(chain, "hook") == Some("forward") && matches!(place.0, "ip" | "ip6" | "inet") {
                    this.base.push((place, name, text(chain, "policy") == Some("drop")));
                }
            } else if let Some(rule) = entry.get("rule") {
                let (Some(place), Some(chain)) = (place(rule), text(rule, "chain")) else { continue };
                let statements = rule.get("expr").and_then(Value::as_array).map(Vec::as_slice);
                this.rules.entry((place, chain)).or_default().push(statements.unwrap_or_default());
            }
        }
        this
    }

    fn follow(
        &self,
        place: Place<'a>,
        chain: &str,
        device: &str,
        direction: Direction,
        depth: usize,
    ) -> Outcome {
        let Some(depth) = depth.checked_sub(1) else { return Outcome::Nothing };
        let rules =
            self.chains.iter().find(|known| **known == (place, chain)).and_then(|key| self.rules.get(key));
        for rule in rules.map(Vec::as_slice).unwrap_or_default() {
            if !rule.iter().all(|statement| holds(statement, device, direction)) {
                continue;
            }
            for statement in *rule {
                let target = |key: &str| statement.get(key).and_then(|verdict| text(verdict, "target"));
                if statement.get("accept").is_some() {
                    return Outcome::Passed;
                }
                if statement.get("drop").is_some() || statement.get("reject").is_some() {
                    return Outcome::Stopped;
                }
                if statement.get("return").is_some() {
                    return Outcome::Nothing;
                }
                if let Some(target) = target("goto") {
                    return self.follow(place, target, device, direction, depth);
                }
                if let Some(target) = target("jump") {
                    match self.follow(place, target, device, direction, depth) {
                        Outcome::Nothing => {}
                        verdict => return verdict,
                    }
                }
            }
        }
        Outcome::Nothing
    }

    /// The command in the language of whatever made the chain.
    fn fix(&self, place: Place<'a>, chain: &str, device: &str) -> String {
        let (family, table) = place;
        let here = |name: &str| self.chains.contains(&(place, name));
        let iptables = if family == "ip6" { "ip6tables" } else { "iptables" };
        if here("ufw-user-forward") || here("ufw6-user-forward") {
            return format!("ufw route allow in on {device} && ufw route allow out on {device}");
        }
        if here("DOCKER-USER") {
            return format!(
                "{iptables} -I DOCKER-USER -i {device} -j ACCEPT && {iptables} -I DOCKER-USER -o {device} -j ACCEPT"
            );
        }
        if table == "firewalld" {
            return format!(
                "firewall-cmd --permanent --zone=trusted --add-interface={device} && firewall-cmd --reload"
            );
        }
        format!(
            "nft insert rule {family} {table} {chain} iifname {device} accept && \
             nft insert rule {family} {table} {chain} oifname {device} accept"
        )
    }
}

/// Whether one statement of a rule lets the packet go on to the next. What is no condition always does.
fn holds(statement: &Value, device: &str, direction: Direction) -> bool {
    if let Some(foreign) = statement.get("xt") {
        // iptables-nft keeps some conditions in its own form; the usual one asks for established connections.
        let is_match = text(foreign, "type") != Some("target");
        return !is_match || (direction == Direction::Out && text(foreign, "name") == Some("conntrack"));
    }
    let Some(condition) = statement.get("match") else { return true };
    let (Some(left), Some(right)) = (condition.get("left"), condition.get("right")) else { return false };
    let negated = text(condition, "op") == Some("!=");
    if let Some(key) = left.get("meta").and_then(|meta| text(meta, "key")) {
        let ours = match (key, direction) {
            ("iifname", Direction::In) | ("oifname", Direction::Out) => names(right, device),
            // The other side is some device of the site: a condition on it may hold or not.
            ("iifname", Direction::Out) | ("oifname", Direction::In) => {
                return negated && names(right, device);
            }
            _ => return false,
        };
        return ours != negated;
    }
    let state = left.get("ct").and_then(|ct| text(ct, "key")) == Some("state");
    state && direction == Direction::Out && !negated && mentions(right, "established")
}

/// Whether a device name, a pattern ending in `*`, or a set of either covers `device`.
fn names(right: &Value, device: &str) -> bool {
    match right {
        Value::String(name) => match name.strip_suffix('*') {
            Some(start) => device.starts_with(start),
            None => name == device,
        },
        Value::Object(set) => set
            .get("set")
            .and_then(Value::as_array)
            .is_some_and(|names_of_set| names_of_set.iter().any(|name| names(name, device))),
        _ => false,
    }
}

fn mentions(right: &Value, word: &str) -> bool {
    match right {
        Value::String(text) => text == word,
        Value::Array(list) => list.iter().any(|item| mentions(item, word)),
        Value::Object(set) => set.get("set").is_some_and(|set| mentions(set, word)),
        _ => false,
    }
}

fn place(value: &Value) -> Option<Place<'_>> {
    Some((text(value, "family")?, text(value, "table")?))
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const DEVICE: &str = "postern-gw0";

    fn chain(family: &str, table: &str, name: &str, policy: Option<&str>) -> Value {
        let hook = policy.map(|_| "forward");
        json!({"chain": {"family": family, "table": table, "name": name, "hook": hook, "policy": policy}})
    }

    fn rule(table: &str, chain: &str, expr: Value) -> Value {
        json!({"rule": {"family": "ip", "table": table, "chain": chain, "expr": expr}})
    }

    fn meta(key: &str, right: &str) -> Value {
        json!({"match": {"op": "==", "left": {"meta": {"key": key}}, "right": right}})
    }

    fn found(entries: Vec<Value>) -> Vec<Obstacle> {
        obstacles(&json!({"nftables": entries}), DEVICE, "postern")
    }

    #[test]
    fn our_own_chain_and_accepting_ones_are_no_obstacle() {
        let entries = vec![
            chain("inet", "postern", "forward", Some("drop")),
            chain("ip", "filter", "FORWARD", Some("accept")),
            chain("ip", "filter", "other", None),
        ];

        assert_eq!(found(entries), []);
    }

    #[test]
    fn docker_is_an_obstacle_until_its_user_chain_lets_the_device_through() {
        let docker = |extra: Vec<Value>| {
            let established = json!([
                {"xt": {"type": "match", "name": "conntrack"}}, {"counter": {"packets": 0, "bytes": 0}}, {"accept": null}
            ]);
            let mut entries = vec![
                chain("ip", "filter", "FORWARD", Some("drop")),
                chain("ip", "filter", "DOCKER-USER", None),
                rule("filter", "FORWARD", json!([{"counter": {}}, {"jump": {"target": "DOCKER-USER"}}])),
                rule("filter", "FORWARD", established),
                rule("filter", "FORWARD", json!([meta("iifname", "docker0"), {"accept": null}])),
            ];
            entries.extend(extra);
            entries
        };

        let before = found(docker(Vec::new()));
        let after = found(docker(vec![rule(
            "filter",
            "DOCKER-USER",
            json!([meta("iifname", DEVICE), {"accept": null}]),
        )]));

        assert_eq!(before.len(), 1);
        assert_eq!(before[0].why, "drops what comes from the tunnel");
        assert!(before[0].fix.starts_with("iptables -I DOCKER-USER -i postern-gw0 -j ACCEPT"));
        assert_eq!(after, []);
    }

    #[test]
    fn a_final_reject_behind_an_accepting_policy_is_seen() {
        let entries = vec![
            chain("ip", "firewalld", "filter_FORWARD", Some("accept")),
            rule(
                "firewalld",
                "filter_FORWARD",
                json!([
                    {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}},
                    {"accept": null}
                ]),
            ),
            rule(
                "firewalld",
                "filter_FORWARD",
                json!([{"reject": {"type": "icmpx", "expr": "admin-prohibited"}}]),
            ),
        ];

        let found = found(entries);

        assert_eq!(found[0].why, "drops what comes from the tunnel");
        assert!(found[0].fix.starts_with("firewall-cmd"));
    }

    #[test]
    fn patterns_and_sets_of_devices_count() {
        let set = json!({"match": {"op": "==", "left": {"meta": {"key": "oifname"}},
            "right": {"set": ["eth0", "postern-gw0"]}}});
        let entries = vec![
            chain("ip", "filter", "FORWARD", Some("drop")),
            rule("filter", "FORWARD", json!([meta("iifname", "postern*"), {"accept": null}])),
            rule("filter", "FORWARD", json!([set, {"accept": null}])),
        ];

        assert_eq!(found(entries), []);
    }

    #[test]
    fn a_condition_that_may_not_hold_saves_nothing() {
        let port = json!({"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 443}});
        let entries = vec![
            chain("ip", "filter", "FORWARD", Some("drop")),
            rule("filter", "FORWARD", json!([meta("iifname", DEVICE), port, {"accept": null}])),
            rule(
                "filter",
                "FORWARD",
                json!([meta("iifname", DEVICE), meta("oifname", "eth7"), {"accept": null}]),
            ),
        ];

        assert_eq!(found(entries)[0].why, "drops what comes from the tunnel and what goes into it");
    }

    #[test]
    fn chains_that_call_each_other_end() {
        let entries = vec![
            chain("ip", "filter", "FORWARD", Some("drop")),
            chain("ip", "filter", "a", None),
            rule("filter", "FORWARD", json!([{"jump": {"target": "a"}}])),
            rule("filter", "a", json!([{"jump": {"target": "a"}}])),
        ];

        assert_eq!(found(entries).len(), 1);
    }

    #[test]
    fn what_is_no_ruleset_has_no_obstacles() {
        for value in [json!(null), json!({"nftables": 3}), json!({"nftables": [{"rule": 1}, {"chain": {}}]})]
        {
            assert_eq!(obstacles(&value, DEVICE, "postern"), []);
        }
    }
}
