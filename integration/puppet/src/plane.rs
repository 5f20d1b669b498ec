//! What the puppet knows, and what it does with it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use protocol_control::{
    Applied, Authorize, ClientState, FromNode, GatewayState, GrantVersion, Granted, Hello, InnerAddresses,
    Peer, RelayCredential, RelayOffer, RelayState, ResourceView, RoleHello, Secret, ToNode, Welcome,
};
use protocol_identity::{
    AccountId, DeviceId, GatewayId, GrantId, IdentityPublic, PolicyId, RelayId, WireguardKey, WireguardPublic,
};
use tokio::sync::mpsc;

type Sender = mpsc::Sender<ToNode>;

/// A connected node.
#[derive(Debug, Clone, Copy)]
pub enum Node {
    Client(DeviceId, InnerAddresses, IdentityPublic),
    Gateway(GatewayId),
    Relay,
}

struct Granting {
    authorize: Authorize,
    request: u64,
}

/// Everything there is. One thread, so cells.
pub struct Plane {
    resources: Vec<ResourceView>,
    lifetime: Duration,
    account: AccountId,
    ids: RefCell<BTreeMap<IdentityPublic, (uuid_like::Id, u32)>>,
    clients: RefCell<BTreeMap<DeviceId, Sender>>,
    gateway: RefCell<Option<(GatewayId, Sender)>>,
    relays: RefCell<Vec<RelayOffer>>,
    grants: RefCell<BTreeMap<GrantId, Granting>>,
    version: Cell<u64>,
    swap: Cell<bool>,
}

mod uuid_like {
    use protocol_identity::DeviceId;

    /// An id that serves as a device's or a gateway's.
    pub type Id = DeviceId;
}

fn say(event: serde_json::Value) {
    println!("{event}");
}

impl Plane {
    pub fn new(resources: Vec<ResourceView>, lifetime: Duration) -> Rc<Self> {
        Rc::new(Self {
            resources,
            lifetime,
            account: AccountId::fresh(),
            ids: RefCell::default(),
            clients: RefCell::default(),
            gateway: RefCell::default(),
            relays: RefCell::default(),
            grants: RefCell::default(),
            version: Cell::new(0),
            swap: Cell::new(false),
        })
    }

    /// Replaces the gateway's key in answers from now on, or no longer.
    pub fn swap_keys(&self, swap: bool) {
        self.swap.set(swap);
    }

    /// Offers a relay that is not under control.
    pub fn offer_relay(&self, address: SocketAddr, user: Option<&str>) {
        let credential = user.and_then(|user| user.split_once(':')).map(|(name, password)| RelayCredential {
            username: name.to_owned(),
            password: Secret::new(password.to_owned()),
            remaining: Duration::from_secs(86_400),
        });
        let offer = RelayOffer {
            relay: RelayId::fresh(),
            region: "here".into(),
            addresses: vec![address],
            tls: None,
            draining: false,
            credential,
        };
        self.relays.borrow_mut().push(offer);
    }

    fn identify(&self, identity: IdentityPublic) -> (uuid_like::Id, InnerAddresses) {
        let mut ids = self.ids.borrow_mut();
        let number = u32::try_from(ids.len()).unwrap_or(u32::MAX).saturating_add(1);
        let (id, number) = *ids.entry(identity).or_insert_with(|| (DeviceId::fresh(), number));
        let v4 = Ipv4Addr::from_bits(Ipv4Addr::new(100, 64, 0, 0).to_bits() | number);
        let v6 = Ipv6Addr::new(0xfd70, 0x6f73, 0x7401, 0, 0, 0, 0, u16::try_from(number).unwrap_or(u16::MAX));
        (id, InnerAddresses { v4, v6 })
    }

    /// A node proved who it is.
    pub fn introduced(&self, hello: Hello, sender: Sender) -> (Node, Welcome) {
        let (id, addresses) = self.identify(hello.identity);
        match hello.role {
            RoleHello::Client { .. } => {
                say(
                    serde_json::json!({ "event": "client", "name": hello.name, "v4": addresses.v4, "v6": addresses.v6 }),
                );
                self.clients.borrow_mut().insert(id, sender);
                let grants = self.grants.borrow();
                let held = grants.values().filter(|granting| granting.authorize.offer.device == id);
                let gateway = self.gateway.borrow().as_ref().map(|(gateway, _)| *gateway);
                let grants = held
                    .filter_map(|granting| {
                        let authorize = &granting.authorize;
                        Some((authorize.grant, authorize.resource.resource, gateway?, self.lifetime))
                    })
                    .collect();
                let state = ClientState {
                    device: id,
                    account: self.account,
                    principal: "anybody".into(),
                    addresses,
                    resources: self.resources.clone(),
                    relays: self
                        .relays
                        .borrow()
                        .iter()
                        .cloned()
                        .map(|relay| RelayOffer { credential: None, ..relay })
                        .collect(),
                    grants,
                };
                (Node::Client(id, addresses, hello.identity), Welcome::Client(state))
            }
            RoleHello::Gateway { .. } => {
                say(serde_json::json!({ "event": "gateway", "name": hello.name, "v4": addresses.v4 }));
                let gateway = GatewayId(id.0);
                self.gateway.replace(Some((gateway, sender)));
                let state = GatewayState {
                    takes_flows: false,
                    gateway,
                    account: self.account,
                    site: "office".into(),
                    addresses,
                    grants: self
                        .grants
                        .borrow()
                        .values()
                        .map(|granting| granting.authorize.clone())
                        .collect(),
                    relays: self.relays.borrow().clone(),
                };
                (Node::Gateway(gateway), Welcome::Gateway(state))
            }
            RoleHello::Relay { addresses, tls, region, .. } => {
                let relay = RelayId(id.0);
                say(serde_json::json!({ "event": "relay", "addresses": addresses }));
                let mut relays = self.relays.borrow_mut();
                relays.retain(|known| known.relay != relay);
                relays.push(RelayOffer {
                    relay,
                    region,
                    addresses,
                    tls: tls.map(|tls| *tls),
                    draining: false,
                    credential: None,
                });
                (Node::Relay, Welcome::Relay(RelayState { relay }))
            }
        }
    }

    fn next_version(&self) -> GrantVersion {
        self.version.set(self.version.get() + 1);
        GrantVersion(self.version.get())
    }

    async fn tell_gateway(&self, message: ToNode) {
        let sender = self.gateway.borrow().as_ref().map(|(_, sender)| sender.clone());
        if let Some(sender) = sender {
            let _ = sender.send(message).await;
        }
    }

    async fn tell_client(&self, device: DeviceId, message: ToNode) {
        let sender = self.clients.borrow().get(&device).cloned();
        if let Some(sender) = sender {
            let _ = sender.send(message).await;
        }
    }

    /// A node says something.
    pub async fn message(&self, from: &Node, message: FromNode) {
        match (from, message) {
            (Node::Client(device, addresses, identity), FromNode::RequestAccess(wish)) => {
                let Some(resource) =
                    self.resources.iter().find(|known| known.resource == wish.offer.resource)
                else {
                    return;
                };
                let grant = GrantId::fresh();
                let authorize = Authorize {
                    grant,
                    version: self.next_version(),
                    policy: PolicyId::fresh(),
                    resource: resource.clone(),
                    name: wish.name,
                    remaining: self.lifetime,
                    identity: *identity,
                    addresses: *addresses,
                    offer: wish.offer,
                    relay: None,
                };
                say(serde_json::json!({ "event": "asked", "device": device, "resource": resource.name }));
                let granting = Granting { authorize: authorize.clone(), request: wish.request };
                self.grants.borrow_mut().insert(grant, granting);
                self.tell_gateway(ToNode::Authorize(Box::new(authorize))).await;
            }
            (Node::Gateway(_), FromNode::Applied(applied)) => self.applied(*applied).await,
            (Node::Gateway(_), FromNode::Refused { grant, reason }) => {
                self.grants.borrow_mut().remove(&grant);
                say(serde_json::json!({ "event": "refused", "reason": reason }));
            }
            (Node::Client(device, ..), FromNode::Candidates(candidates)) => {
                self.tell_gateway(ToNode::Candidates { of: Peer::Device(*device), candidates }).await;
            }
            (Node::Gateway(gateway), FromNode::Candidates(candidates)) => {
                let devices: Vec<DeviceId> = self.clients.borrow().keys().copied().collect();
                for device in devices {
                    let candidates = candidates.clone();
                    self.tell_client(device, ToNode::Candidates { of: Peer::Gateway(*gateway), candidates })
                        .await;
                }
            }
            _ => {}
        }
    }

    async fn applied(&self, applied: Applied) {
        let found = self.grants.borrow().get(&applied.grant).map(|granting| {
            let authorize = &granting.authorize;
            (granting.request, authorize.offer.device, authorize.resource.resource, authorize.name.clone())
        });
        let Some((request, device, resource, name)) = found else { return };
        let mut answer = applied.answer;
        if self.swap.get() {
            let other = WireguardKey::generate().map_or(WireguardPublic([9; 32]), |key| key.public());
            answer.wireguard = other;
        }
        say(serde_json::json!({ "event": "applied", "version": applied.version }));
        let granted = Granted {
            request,
            grant: applied.grant,
            resource,
            name,
            remaining: self.lifetime,
            gateway_name: "office-1".into(),
            answer,
            has_v4: applied.has_v4,
            has_v6: applied.has_v6,
        };
        self.tell_client(device, ToNode::Granted(Box::new(granted))).await;
    }

    /// One line of standard input.
    pub async fn command(self: &Rc<Self>, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match *words.as_slice() {
            ["flood", rate, seconds] => match (rate.parse(), seconds.parse()) {
                (Ok(rate), Ok(seconds)) => {
                    tokio::task::spawn_local(self.clone().flood(rate, seconds));
                }
                _ => say(serde_json::json!({ "event": "error", "why": "flood RATE SECONDS" })),
            },
            ["swap-keys", state] => self.swap_keys(state == "on"),
            ["revoke"] => {
                let ended = self.grants.take();
                for (grant, granting) in ended {
                    let device = granting.authorize.offer.device;
                    let version = self.next_version();
                    self.tell_gateway(ToNode::Revoke { grant, device, version }).await;
                    let resource = granting.authorize.resource.resource;
                    let reason = protocol_control::DenyReason::Ended;
                    self.tell_client(device, ToNode::Revoked { grant, resource, reason }).await;
                }
                say(serde_json::json!({ "event": "revoked" }));
            }
            [] => {}
            _ => say(serde_json::json!({ "event": "error", "why": "unknown command" })),
        }
    }

    /// Sends the same authorization with ever newer versions: valid messages, each of which the gateway must take in.
    async fn flood(self: Rc<Self>, rate: u64, seconds: u64) {
        let base = self.grants.borrow().values().next().map(|granting| granting.authorize.clone());
        let Some(base) = base else {
            return say(serde_json::json!({ "event": "error", "why": "nothing is granted yet" }));
        };
        let mut sent = 0u64;
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        for _ in 0..seconds.saturating_mul(100) {
            ticks.tick().await;
            for _ in 0..rate / 100 {
                let authorize = Authorize { version: self.next_version(), ..base.clone() };
                self.tell_gateway(ToNode::Authorize(Box::new(authorize))).await;
                sent += 1;
            }
        }
        say(serde_json::json!({ "event": "flooded", "sent": sent }));
    }
}
