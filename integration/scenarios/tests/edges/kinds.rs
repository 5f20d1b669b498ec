//! The kinds of change that take access away, and what gives it back.

use std::cell::Cell;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use integration_lab::{Process, wait};
use integration_scenarios::{
    Plan, World,
    addresses::{HOME_OUTSIDE, OFFICE_LAN},
};
use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use serde_json::{Value, json};

use crate::call;

#[path = "../../../../actors/control/src/countries/database.rs"]
mod database;

const RULE: &str = "policies/engineering-reaches-office-lan";
const ACCOUNT: &str = "service-accounts/laptop";

/// A world with a crowd, and what trials keep between them.
pub struct Stage {
    pub world: World,
    /// The client's device, by its id.
    device: String,
    countries: PathBuf,
    /// The token of the trial at hand, and when it ends.
    token: Cell<Option<(String, Timestamp)>>,
    /// The last row of the audit log that was looked at.
    seen: Cell<u64>,
    tokens: Cell<u32>,
    unplugged: Cell<bool>,
    _crowd: Process,
}

/// A kind of change.
pub struct Kind {
    pub what: &'static str,
    /// Sets the stage; what flows goes on.
    pub before: fn(&Stage),
    /// Takes access away. Returns a moment that is not after the commit.
    pub take: fn(&Stage) -> Instant,
    /// Gives it back.
    pub after: fn(&Stage),
}

impl Stage {
    pub fn new(crowd: usize) -> Self {
        let countries = std::env::temp_dir().join(format!("pstn-edges-{}.mmdb", std::process::id()));
        write_countries(&countries, "DE");
        let file = countries.display().to_string();
        let plan = Plan { control_arguments: vec!["--country-database".into(), file], ..Plan::default() };
        let world = World::start(plan).unwrap();
        let devices = world.admin().unwrap().say("device list").unwrap();
        let device = devices["items"][0]["id"].as_str().unwrap().to_owned();
        let crowd = world.crowd(crowd).unwrap();
        world.ground.plug_mobile().unwrap();
        let stage = Self {
            world,
            device,
            countries,
            token: Cell::new(None),
            seen: Cell::new(0),
            tokens: Cell::new(0),
            unplugged: Cell::new(false),
            _crowd: crowd,
        };
        stage.patch(&stage.device_path(), json!({"verified": true}));
        stage
    }

    fn device_path(&self) -> String {
        format!("devices/{}", self.device)
    }

    fn call(&self, method: &'static str, path: &str, body: Option<Value>) {
        call(self.world.admin().unwrap(), &(method, path.to_owned(), body));
    }

    fn patch(&self, path: &str, body: Value) {
        self.call("PATCH", path, Some(body));
    }

    /// A change through the API; the moment before it was asked for.
    fn committed(&self, method: &'static str, path: &str, body: Option<Value>) -> Instant {
        let asked = Instant::now();
        self.call(method, path, body);
        asked
    }

    fn conditions(&self, conditions: Value) {
        self.patch(RULE, json!({"conditions": conditions}));
    }

    /// Signs the client in with a token file of its host. It connects anew at once, whatever it waited for.
    fn sign_in(&self, file: &str) {
        let client = self.world.client().unwrap();
        self.world.login(client, file).unwrap();
        client.wait_control("connected", Duration::from_secs(20)).unwrap();
    }

    fn first_token(&self) -> String {
        self.world.ground.home.dir().join("client.token").display().to_string()
    }

    /// Signs the client in with another token of its account.
    fn sign_in_anew(&self, seconds: u64) {
        let number = self.tokens.get() + 1;
        self.tokens.set(number);
        let name = format!("trial-{number}");
        let body = json!({"name": name, "expires_in_seconds": seconds});
        let path = format!("{ACCOUNT}/tokens");
        let (status, made) = self.world.admin().unwrap().api("POST", &path, Some(&body)).unwrap();
        assert_eq!(status, 201, "{made}");
        let file = self.world.ground.home.dir().join(format!("{name}.token"));
        std::fs::write(&file, made["token"].as_str().unwrap()).unwrap();
        self.sign_in(&file.display().to_string());
        let ends = made["expires_at"].as_str().unwrap().parse().unwrap();
        self.token.set(Some((format!("{path}/{name}"), ends)));
    }

    /// When the client's device last connected by control's own record of it, since this was asked before.
    fn connected(&self) -> Option<Timestamp> {
        let mut at = None;
        loop {
            let path = format!("audit?limit=1000&after={}", self.seen.get());
            let (status, part) = self.world.admin().unwrap().api("GET", &path, None).unwrap();
            assert_eq!(status, 200, "{part}");
            let items = part["items"].as_array().unwrap();
            let Some(last) = items.last() else { return at };
            self.seen.set(last["sequence"].as_u64().unwrap());
            let own =
                items.iter().rfind(|row| row["action"] == "connected" && row["id"] == self.device.as_str());
            at = own.map(|row| row["at"].as_str().unwrap().parse().unwrap()).or(at);
        }
    }

    /// Waits until it connects again; when it did.
    fn connected_again(&self) -> Instant {
        let limit = Duration::from_secs(30);
        let again = wait::until("the device connects again", limit, || Ok(self.connected()));
        instant(again.unwrap().0)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.countries);
    }
}

fn write_countries(file: &std::path::Path, country: &str) {
    // A whole file takes the place of the one before it.
    let next = file.with_extension("next");
    std::fs::write(&next, database::database(&[("203.0.113.0/24", country)])).unwrap();
    std::fs::rename(next, file).unwrap();
}

/// The same moment on the clock that trials are measured with.
fn instant(at: Timestamp) -> Instant {
    let ago = SystemTime::now().duration_since(SystemTime::from(at)).unwrap_or_default();
    Instant::now() - ago
}

fn wait_for(at: Timestamp) -> Instant {
    sleep(Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default());
    instant(at)
}

fn nothing(_: &Stage) {}

fn no_conditions(stage: &Stage) {
    stage.conditions(json!({}));
}

/// The next full minute that is at least eight seconds away.
fn next_minute() -> Timestamp {
    let soon = Timestamp::now().as_second() + 8;
    Timestamp::from_second(soon - soon.rem_euclid(60) + 60).unwrap()
}

pub const ALL: &[Kind] = &[
    Kind {
        what: "a rule is disabled",
        before: nothing,
        take: |stage| stage.committed("PATCH", RULE, Some(json!({"enabled": false}))),
        after: |stage| stage.patch(RULE, json!({"enabled": true})),
    },
    Kind {
        what: "a rule is narrowed to another place",
        before: nothing,
        take: |stage| {
            let elsewhere = json!({"conditions": {"source_cidrs": ["192.0.2.0/32"]}});
            stage.committed("PATCH", RULE, Some(elsewhere))
        },
        after: no_conditions,
    },
    Kind {
        what: "a rule is removed",
        before: nothing,
        take: |stage| stage.committed("DELETE", RULE, None),
        after: |stage| {
            let rule = json!({"name": "engineering-reaches-office-lan", "groups": ["engineering"], "resources": ["office-lan"]});
            stage.call("POST", "policies", Some(rule));
        },
    },
    Kind {
        what: "a deny is made",
        before: nothing,
        take: |stage| {
            let deny = json!({"name": "nobody", "effect": "deny", "groups": ["everyone"], "resources": ["office-lan"]});
            stage.committed("POST", "policies", Some(deny))
        },
        after: |stage| stage.call("DELETE", "policies/nobody", None),
    },
    Kind {
        what: "a group is left",
        before: nothing,
        take: |stage| stage.committed("DELETE", "groups/engineering/members/laptop", None),
        after: |stage| stage.call("POST", "groups/engineering/members", Some(json!({"principal": "laptop"}))),
    },
    Kind {
        what: "a principal is disabled",
        before: nothing,
        take: |stage| stage.committed("PATCH", ACCOUNT, Some(json!({"disabled": true}))),
        after: |stage| {
            stage.patch(ACCOUNT, json!({"disabled": false}));
            stage.sign_in(&stage.first_token());
        },
    },
    Kind {
        what: "a device is disabled",
        before: nothing,
        take: |stage| stage.committed("PATCH", &stage.device_path(), Some(json!({"disabled": true}))),
        after: |stage| {
            stage.patch(&stage.device_path(), json!({"disabled": false}));
            stage.sign_in(&stage.first_token());
        },
    },
    Kind {
        what: "a device is no longer verified",
        before: |stage| stage.conditions(json!({"device_verified": true})),
        take: |stage| stage.committed("PATCH", &stage.device_path(), Some(json!({"verified": false}))),
        after: |stage| {
            stage.patch(&stage.device_path(), json!({"verified": true}));
            no_conditions(stage);
        },
    },
    Kind {
        what: "a token is deleted",
        before: |stage| stage.sign_in_anew(3600),
        take: |stage| {
            let (path, _) = stage.token.take().unwrap();
            stage.committed("DELETE", &path, None)
        },
        after: |stage| stage.sign_in(&stage.first_token()),
    },
    Kind {
        what: "a token's time is over",
        before: |stage| stage.sign_in_anew(8),
        take: |stage| wait_for(stage.token.take().unwrap().1),
        after: |stage| stage.sign_in(&stage.first_token()),
    },
    Kind {
        what: "an address changes",
        before: |stage| {
            stage.conditions(json!({"source_cidrs": [format!("{HOME_OUTSIDE}/32"), "2001:db8:7::/64"]}));
            if stage.unplugged.replace(false) {
                stage.world.ground.replug_mobile().unwrap();
            }
            stage.connected();
        },
        take: |stage| {
            stage.world.ground.roam().unwrap();
            stage.connected_again()
        },
        after: |stage| {
            no_conditions(stage);
            stage.world.ground.return_home().unwrap();
            stage.unplugged.set(true);
            stage.connected_again();
            stage.world.client().unwrap().wait_control("connected", Duration::from_secs(30)).unwrap();
        },
    },
    Kind {
        what: "an address is in another country",
        before: |stage| stage.conditions(json!({"countries": ["DE"]})),
        take: |stage| {
            let written = Instant::now();
            write_countries(&stage.countries, "FR");
            written
        },
        after: |stage| {
            write_countries(&stage.countries, "DE");
            no_conditions(stage);
        },
    },
    Kind {
        what: "a window closes",
        before: |stage| {
            let closes = next_minute();
            let clock = |at: Timestamp| at.to_zoned(TimeZone::UTC).strftime("%H:%M").to_string();
            let days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
            let (from, to) = (clock(closes - 3.minutes()), clock(closes));
            stage
                .conditions(json!({"time_windows": [{"days": days, "from": from, "to": to, "zone": "UTC"}]}));
            stage.token.set(Some((String::new(), closes)));
        },
        take: |stage| wait_for(stage.token.take().unwrap().1),
        after: no_conditions,
    },
    Kind {
        what: "a resource is somewhere else",
        before: nothing,
        take: |stage| {
            stage.committed("PATCH", "resources/office-lan", Some(json!({"address": "192.168.9.0/24"})))
        },
        after: |stage| stage.patch("resources/office-lan", json!({"address": OFFICE_LAN})),
    },
    Kind {
        what: "a filter is narrowed",
        before: nothing,
        take: |stage| stage.committed("PATCH", "resources/office-lan", Some(json!({"filters": ["tcp:80"]}))),
        after: |stage| stage.patch("resources/office-lan", json!({"filters": []})),
    },
];
