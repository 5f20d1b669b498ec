//! One account with a site, a gateway, a device and two resources, and an office over it.

use std::time::Duration;

use jiff::Timestamp;
use protocol_control::{Applied, Authorize, Granted, MappedName, RequestAccess, ToNode};
use protocol_identity::{AccountId, IdentityKey, ResourceId, WireguardKey, WireguardPublic};

use crate::countries::Countries;
use crate::grant_office::office::{Office, Output};
use crate::model::{Device, Gateway, Grant, Group, Kind, Object, Policy, Principal, Resource, Site};
use crate::relay_registry::Relays;
use crate::storage::{Action, Change, Committed, Everything, Op};
use crate::testing::*;

pub const HOUR: Duration = Duration::from_secs(3600);
pub const DAY: Duration = Duration::from_secs(24 * 3600);

pub struct World {
    pub account: AccountId,
    pub office: Office,
    pub now: Timestamp,
    pub sequence: u64,
    pub site: Site,
    pub ci: Principal,
    pub engineering: Group,
    pub wiki: Resource,
    pub lan: Resource,
    pub policy: Policy,
    pub gateway: (Gateway, IdentityKey),
    pub device: (Device, IdentityKey),
    pub client: ClientProcess,
    pub gateway_process: WireguardPublic,
}

/// What came out, sorted by where it goes.
#[derive(Default)]
pub struct Said {
    pub device: Vec<ToNode>,
    pub gateway: Vec<ToNode>,
    pub kept: Vec<Grant>,
    pub written: Vec<Op>,
    pub reload: bool,
    /// Which end was told first.
    pub order: Vec<&'static str>,
}

impl World {
    pub fn new() -> Self {
        let site = site("office");
        let ci = principal("ci");
        let engineering = group("engineering", &[&ci]);
        let wiki = resource("wiki", &site, "wiki.corp.example");
        let lan = resource("lan", &site, "10.20.0.0/24");
        let policy = policy("engineers", &[&engineering], &[&wiki, &lan]);
        let gateway = gateway("office-1", &site, 1);
        let device = device("laptop", &ci, 2);
        let account = AccountId::fresh();
        let objects = vec![
            site.clone().into(),
            ci.clone().into(),
            engineering.clone().into(),
            wiki.clone().into(),
            lan.clone().into(),
            policy.clone().into(),
            gateway.0.clone().into(),
            device.0.clone().into(),
        ];
        let office = start(account, 1, objects, noon());
        Self {
            account,
            office,
            now: noon(),
            sequence: 100,
            site,
            ci,
            engineering,
            wiki,
            lan,
            policy,
            gateway,
            device,
            client: ClientProcess::start(),
            gateway_process: WireguardKey::generate().unwrap().public(),
        }
    }

    /// What storage has, but for grants.
    pub fn objects(&self) -> Vec<Object> {
        vec![
            self.site.clone().into(),
            self.ci.clone().into(),
            self.engineering.clone().into(),
            self.wiki.clone().into(),
            self.lan.clone().into(),
            self.policy.clone().into(),
            self.gateway.0.clone().into(),
            self.device.0.clone().into(),
        ]
    }

    /// The same with both nodes connected.
    pub fn connected() -> Self {
        let mut world = Self::new();
        world.connect_gateway();
        world.connect_device("198.51.100.7");
        world.said();
        world
    }

    pub fn connect_gateway(&mut self) {
        assert!(self.office.handle_gateway(self.gateway.0.id, 1, self.now));
    }

    pub fn connect_device(&mut self, source: &str) {
        let source = Some(source.parse().unwrap());
        assert!(self.office.handle_device(self.device.0.id, 1, source, self.now));
    }

    pub fn ask(&mut self, resource: ResourceId, request: u64) {
        let name = (resource == self.wiki.id).then(|| MappedName {
            name: "wiki.corp.example".into(),
            v4: "100.96.0.1".parse().unwrap(),
            v6: "fd70:6f73:7402::1".parse().unwrap(),
        });
        let offer = self.client.offer(&self.device.0, &self.device.1, resource);
        self.office.handle_request(self.device.0.id, RequestAccess { request, offer, name }, self.now);
    }

    pub fn applied(&self, authorize: &Authorize) -> Applied {
        let (gateway, key) = &self.gateway;
        let answer = answer(gateway, key, &self.gateway_process, authorize.grant, &authorize.offer);
        Applied { grant: authorize.grant, version: authorize.version, answer, has_v4: true, has_v6: false }
    }

    /// The gateway installs what it was told, and storage keeps it.
    pub fn install(&mut self, authorize: &Authorize) -> Said {
        let applied = self.applied(authorize);
        self.office.handle_applied(self.gateway.0.id, applied);
        let said = self.said();
        for grant in &said.kept {
            self.office.handle_kept(grant.id, grant.version, true, self.now);
        }
        let mut after = self.said();
        after.kept = said.kept;
        after
    }

    /// Asks, and carries it through to the client.
    pub fn grant(&mut self, resource: ResourceId) -> Granted {
        self.ask(resource, 1);
        let said = self.said();
        let authorize = said.authorize();
        self.install(&authorize).granted()
    }

    pub fn change(&mut self, actions: Vec<Action>) {
        let changes = actions
            .into_iter()
            .map(|action| {
                self.sequence += 1;
                Change { sequence: self.sequence, action }
            })
            .collect();
        let committed = Committed { account: self.account, changes };
        self.office.handle_changed(&committed, self.now);
    }

    pub fn put(&mut self, object: impl Into<Object>) {
        self.change(vec![Action::Put(object.into())]);
    }

    pub fn delete(&mut self, kind: Kind, id: uuid::Uuid) {
        self.change(vec![Action::Deleted(kind, id)]);
    }

    /// Lets time pass, stopping only where the machine asked for it.
    pub fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while self.office.poll_timeout() <= end {
            let due = self.office.poll_timeout();
            self.now = self.now.max(due);
            let before = self.office.poll_timeout();
            self.office.handle_timeout(self.now);
            assert!(self.office.poll_timeout() > before, "the machine asks for the same moment again");
        }
        self.now = end;
    }

    pub fn said(&mut self) -> Said {
        let mut said = Said::default();
        while let Some(output) = self.office.poll_output() {
            match output {
                Output::ToDevice(id, message) => {
                    assert_eq!(id, self.device.0.id);
                    said.device.push(*message);
                    said.order.push("device");
                }
                Output::ToGateway(_, message) => {
                    said.gateway.push(*message);
                    said.order.push("gateway");
                }
                Output::Keep(grant) => said.kept.push(*grant),
                Output::Write(op) => said.written.push(op),
                Output::Reload => said.reload = true,
            }
        }
        said
    }
}

/// An office over these records, as it is after a start of the process.
pub fn start(account: AccountId, epoch: u64, objects: Vec<Object>, now: Timestamp) -> Office {
    let everything = Everything { sequence: 100, objects };
    Office::new(account, DAY, epoch, everything, Relays::new(account, Vec::new()), Countries::default(), now)
}

impl Said {
    pub fn authorize(&self) -> Authorize {
        let mut all = self.gateway.iter().filter_map(|message| match message {
            ToNode::Authorize(authorize) => Some((**authorize).clone()),
            _ => None,
        });
        let first = all.next().expect("an authorization");
        assert_eq!(all.next(), None, "one authorization");
        first
    }

    pub fn granted(&self) -> Granted {
        let granted = self.device.iter().find_map(|message| match message {
            ToNode::Granted(granted) => Some((**granted).clone()),
            _ => None,
        });
        granted.expect("access")
    }

    pub fn revokes(&self) -> usize {
        self.gateway.iter().filter(|message| matches!(message, ToNode::Revoke { .. })).count()
    }

    pub fn authorizes(&self) -> usize {
        self.gateway.iter().filter(|message| matches!(message, ToNode::Authorize(_))).count()
    }
}
