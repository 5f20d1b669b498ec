//! Records for tests.

use std::collections::BTreeSet;

use jiff::Timestamp;
use protocol_control::{
    Answer, Candidate, CandidateKind, GrantVersion, Offer, ResourceAddress, ResourceView, RoleHello, Secret,
    TrafficFilter, UnsignedAnswer,
};
use protocol_identity::{
    AccountId, DeviceId, GatewayId, GrantId, GroupId, IdentityKey, KemKey, KemPublic, PolicyId, PrincipalId,
    RelayId, ResourceId, SiteId, Token as Secrets, TokenId, TokenKind, WireguardKey, WireguardPublic,
};
use protocol_policy::{Conditions, Effect, Labels};
use tempfile::TempDir;

use crate::model::{
    Device, Gateway, Grant, GrantState, Group, Object, Policy, Principal, Relay, Resource, Site, Token,
    inner_addresses,
};
use crate::sql::{Location, Sql};
use crate::storage::{Committed, Join, Op, Storage, StorageError, Write};

pub(crate) fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

pub(crate) fn noon() -> Timestamp {
    at("2026-11-24T12:00:00Z")
}

/// Names a PostgreSQL that tests may make databases in, instead of SQLite files.
const POSTGRES: &str = "POSTERN_TEST_POSTGRES";

/// A database of its own, in a directory that goes with it.
pub(crate) struct Database {
    pub storage: Sql,
    pub location: Location,
    pub account: AccountId,
    pub directory: TempDir,
}

impl Database {
    pub async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let location = match std::env::var(POSTGRES) {
            Ok(server) => {
                let name = format!("t{}", uuid::Uuid::now_v7().simple());
                Sql::make_database(&server, &name).await;
                let (place, query) = server.split_once('?').unwrap_or((&server, ""));
                let place = place.rsplit_once('/').unwrap().0;
                Location::Postgres(format!("{place}/{name}?{query}"))
            }
            Err(_) => Location::Sqlite(directory.path().join("control.sqlite")),
        };
        let storage = Sql::open(&location).await.unwrap();
        let admin = Secrets::generate(TokenKind::Admin).unwrap();
        let account = storage.create_account("default".into(), admin.hash(), noon()).await.unwrap().id;
        Self { storage, location, account, directory }
    }

    pub async fn write(&self, ops: Vec<Op>) -> Result<Committed, StorageError> {
        self.storage.commit(write(self.account, ops)).await
    }

    pub async fn create(&self, objects: impl IntoIterator<Item = Object>) {
        self.write(objects.into_iter().map(Op::Create).collect()).await.unwrap();
    }

    pub async fn join(
        &self,
        token: &Token,
        identity: &IdentityKey,
        name: &str,
        role: RoleHello,
    ) -> Result<Object, StorageError> {
        let join = Join {
            token: token.clone(),
            identity: identity.public(),
            name: name.into(),
            version: "0.1.0".into(),
            role,
        };
        let committed = self.write(vec![Op::Join(Box::new(join))]).await?;
        Ok(committed.last_object().unwrap().clone())
    }
}

pub(crate) fn write(account: AccountId, ops: Vec<Op>) -> Write {
    Write { account, by: "test".into(), at: noon(), ops }
}

pub(crate) fn site(name: &str) -> Site {
    Site { id: SiteId::fresh(), name: name.into(), description: Some("a place".into()), created_at: noon() }
}

pub(crate) fn principal(name: &str) -> Principal {
    Principal {
        id: PrincipalId::fresh(),
        name: name.into(),
        disabled: false,
        labels: Labels::new(),
        created_at: noon(),
    }
}

pub(crate) fn group(name: &str, members: &[&Principal]) -> Group {
    Group {
        id: GroupId::fresh(),
        name: name.into(),
        everyone: false,
        members: members.iter().map(|principal| principal.id).collect(),
        created_at: noon(),
    }
}

pub(crate) fn resource(name: &str, site: &Site, address: &str) -> Resource {
    let address = match address.parse() {
        Ok(net) => ResourceAddress::Cidr(net),
        Err(_) => ResourceAddress::Dns(address.into()),
    };
    Resource {
        id: ResourceId::fresh(),
        name: name.into(),
        address,
        site: site.id,
        listed: false,
        filters: vec![TrafficFilter::Tcp { from: 80, to: 80 }, TrafficFilter::Icmp],
        labels: Labels::new(),
        description: None,
        created_at: noon(),
        updated_at: noon(),
    }
}

pub(crate) fn policy(name: &str, groups: &[&Group], resources: &[&Resource]) -> Policy {
    Policy {
        id: PolicyId::fresh(),
        name: name.into(),
        enabled: true,
        effect: Effect::Allow,
        groups: groups.iter().map(|group| group.id).collect(),
        principal_labels: BTreeSet::new(),
        resources: resources.iter().map(|resource| resource.id).collect(),
        resource_labels: BTreeSet::new(),
        conditions: Conditions { device_verified: None, ..Conditions::default() },
        max_session_seconds: None,
        place: None,
        created_at: noon(),
        updated_at: noon(),
    }
}

pub(crate) fn token(kind: TokenKind, name: &str) -> Token {
    Token {
        id: TokenId::fresh(),
        name: name.into(),
        kind,
        hash: Secrets::generate(kind).unwrap().hash(),
        site: None,
        principal: None,
        region: None,
        latitude: None,
        longitude: None,
        scopes: std::collections::BTreeSet::new(),
        many: true,
        identity: None,
        expires_at: None,
        last_used_at: None,
        created_at: noon(),
    }
}

pub(crate) fn gateway(name: &str, site: &Site, host: u32) -> (Gateway, IdentityKey) {
    let identity = IdentityKey::generate().unwrap();
    let gateway = Gateway {
        id: GatewayId::fresh(),
        name: name.into(),
        site: site.id,
        token: None,
        identity: identity.public(),
        host,
        draining: false,
        version: None,
        last_seen_at: None,
        created_at: noon(),
    };
    (gateway, identity)
}

pub(crate) fn device(name: &str, principal: &Principal, host: u32) -> (Device, IdentityKey) {
    let identity = IdentityKey::generate().unwrap();
    let device = Device {
        id: DeviceId::fresh(),
        name: name.into(),
        principal: principal.id,
        token: None,
        identity: identity.public(),
        host,
        verified: false,
        disabled: false,
        os: Some("linux".into()),
        os_version: Some("6.1".into()),
        version: Some("0.1.0".into()),
        last_seen_at: None,
        created_at: noon(),
    };
    (device, identity)
}

pub(crate) fn relay(name: &str) -> Relay {
    Relay {
        id: RelayId::fresh(),
        name: name.into(),
        region: Some("berlin".into()),
        latitude: Some(52.5),
        longitude: Some(13.4),
        addresses: vec!["192.0.2.7:3478".parse().unwrap(), "[2001:db8::7]:3478".parse().unwrap()],
        token: None,
        identity: IdentityKey::generate().unwrap().public(),
        version: None,
        last_seen_at: None,
        created_at: noon(),
    }
}

pub(crate) fn client_hello() -> RoleHello {
    RoleHello::Client { os: "linux".into(), os_version: "6.1".into() }
}

pub(crate) fn gateway_hello() -> RoleHello {
    RoleHello::Gateway { grants: Vec::new() }
}

pub(crate) fn relay_hello() -> RoleHello {
    RoleHello::Relay {
        addresses: vec!["192.0.2.7:3478".parse().unwrap()],
        tls: None,
        region: "berlin".into(),
        coordinates: Some((52.5, 13.4)),
        secret: Secret::new("aHVzaC1odXNoLWh1c2gtaHVzaC1odXNoLWh1c2ghISE".into()),
    }
}

/// The keys of one process of a client.
pub(crate) struct ClientProcess {
    pub wireguard: WireguardPublic,
    pub kem: KemPublic,
}

impl ClientProcess {
    pub fn start() -> Self {
        Self {
            wireguard: WireguardKey::generate().unwrap().public(),
            kem: KemKey::generate().unwrap().public(),
        }
    }

    pub fn offer(&self, device: &Device, identity: &IdentityKey, resource: ResourceId) -> Offer {
        let candidates =
            vec![Candidate { kind: CandidateKind::Host, address: "192.0.2.1:5000".parse().unwrap() }];
        Offer::sign(identity, device.id, resource, self.wireguard, self.kem.clone(), 256, candidates)
    }
}

/// The answer of one process of a gateway; `process` tells its starts apart.
pub(crate) fn answer(
    gateway: &Gateway,
    identity: &IdentityKey,
    process: &WireguardPublic,
    grant: GrantId,
    offer: &Offer,
) -> Answer {
    let (ciphertext, _) = offer.kem.encapsulate().unwrap();
    let unsigned = UnsignedAnswer {
        gateway: gateway.id,
        grant,
        wireguard: *process,
        ciphertext,
        index: 256,
        device_index: offer.index,
        addresses: inner_addresses(gateway.host),
        candidates: Vec::new(),
    };
    Answer::sign(identity, offer, unsigned)
}

pub(crate) fn grant(
    (device, device_key): &(Device, IdentityKey),
    resource: &Resource,
    (gateway, gateway_key): &(Gateway, IdentityKey),
    policy: &Policy,
) -> Grant {
    let id = GrantId::fresh();
    let offer = ClientProcess::start().offer(device, device_key, resource.id);
    let process = WireguardKey::generate().unwrap().public();
    let answer = answer(gateway, gateway_key, &process, id, &offer);
    Grant {
        id,
        device: device.id,
        resource: resource.id,
        gateway: gateway.id,
        policy: policy.id,
        relay: None,
        version: GrantVersion(7),
        source: Some("198.51.100.7".parse().unwrap()),
        state: GrantState {
            offer,
            offered: GrantVersion(7),
            name: None,
            view: ResourceView {
                resource: resource.id,
                name: resource.name.clone(),
                site: "office".into(),
                address: resource.address.clone(),
                filters: resource.filters.clone(),
            },
            answer,
            has_v4: true,
            has_v6: false,
        },
        since: noon(),
        ends_at: None,
        lease_ends_at: at("2026-11-25T12:00:00Z"),
    }
}

/// A flow of whoever it was.
pub(crate) fn a_flow(bytes_in: u64) -> protocol_control::Flow {
    protocol_control::Flow {
        grant: GrantId::fresh(),
        device: DeviceId::fresh(),
        resource: ResourceId::fresh(),
        policy: PolicyId::fresh(),
        protocol: 6,
        from: "100.64.0.2:5000".parse().unwrap(),
        to: "[fd70:6f73:7402::1]:80".parse().unwrap(),
        name: Some("wiki.corp.example".into()),
        real: "192.168.1.20".parse().unwrap(),
        path: Some(protocol_control::FlowPath::Relayed),
        started: noon().as_millisecond() - 5000,
        ended: noon().as_millisecond(),
        packets_in: 3,
        bytes_in,
        packets_out: 4,
        bytes_out: u64::MAX,
        end: protocol_control::FlowEnd::Revoked,
    }
}

/// Names of a set, for asserting.
pub(crate) fn set<T: Ord>(items: impl IntoIterator<Item = T>) -> BTreeSet<T> {
    items.into_iter().collect()
}

/// Storage that reads one account from memory; everything else is refused.
pub(crate) struct Memory(pub std::sync::Mutex<crate::storage::Everything>);

macro_rules! refused {
    ($($name:ident($($arg:ty),*) -> $out:ty;)*) => {$(
        fn $name(&self, $(_: $arg),*) -> crate::storage::Pending<'_, $out> {
            Box::pin(std::future::ready(Err(StorageError::Busy)))
        }
    )*};
}

impl Storage for Memory {
    fn everything(&self, _: AccountId) -> crate::storage::Pending<'_, crate::storage::Everything> {
        let everything = self.0.lock().unwrap().clone();
        Box::pin(std::future::ready(Ok(everything)))
    }

    refused! {
        commit(Write) -> Committed;
        commit_all(Vec<Write>) -> Vec<Result<Committed, StorageError>>;
        find(AccountId, crate::model::Kind, crate::model::Key) -> Option<Object>;
        list(AccountId, crate::model::Kind, crate::storage::Page) -> Vec<Object>;
        log(AccountId, u64, usize) -> Vec<crate::storage::LogRow>;
        authenticate(protocol_identity::TokenHash) -> Option<(crate::model::Account, Token)>;
        touch(AccountId, BTreeSet<TokenId>, Timestamp) -> ();
        create_account(String, protocol_identity::TokenHash, Timestamp) -> crate::model::Account;
        accounts() -> Vec<crate::model::Account>;
        trim_log(u64) -> u64;
        store_flows(AccountId, GatewayId, protocol_control::FlowBatch, Timestamp) -> bool;
        flows(AccountId, crate::storage::FlowFilter) -> Vec<crate::storage::StoredFlow>;
        trim_flows(AccountId, Timestamp, usize) -> u64;
    }
}
