//! The relays of an account, and the credentials that nodes get for them.

use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;
use protocol_control::{RelayCredential, RelayOffer, RelayTls, Secret};
use protocol_identity::{AccountId, RelayId};
use protocol_stun::{RelaySecret, mint};
use uuid::Uuid;

/// A relay that can be offered.
#[derive(Debug, Clone)]
pub(crate) struct KnownRelay {
    pub relay: RelayId,
    pub region: String,
    pub addresses: Vec<SocketAddr>,
    /// Known since then, too.
    pub tls: Option<RelayTls>,
    /// Known since the relay last said hello to this process.
    pub secret: Option<RelaySecret>,
    /// Whether it is about to end.
    pub draining: bool,
    /// Whether it is connected and takes new allocations.
    pub open: bool,
}

/// The relays of an account at one moment.
#[derive(Debug, Clone)]
pub struct Relays {
    account: AccountId,
    known: Vec<KnownRelay>,
}

impl Relays {
    pub(crate) fn new(account: AccountId, known: Vec<KnownRelay>) -> Self {
        Self { account, known }
    }

    /// The relays that take new allocations.
    pub(crate) fn open(&self) -> impl Iterator<Item = &KnownRelay> {
        self.known.iter().filter(|relay| relay.open)
    }

    /// All of them for one node, with a credential that is good for `lifetime` where the relay's secret is known.
    ///
    /// A relay whose session is down is still offered: nodes that hold an allocation there keep it.
    pub(crate) fn offers(&self, node: Uuid, lifetime: Duration, now: Timestamp) -> Vec<RelayOffer> {
        let expires = u64::try_from(now.as_second()).unwrap_or(0).saturating_add(lifetime.as_secs());
        let name = format!("{}/{node}", self.account);
        self.known
            .iter()
            .map(|relay| RelayOffer {
                relay: relay.relay,
                region: relay.region.clone(),
                addresses: relay.addresses.clone(),
                tls: relay.tls.clone(),
                draining: relay.draining,
                credential: relay.secret.as_ref().map(|secret| {
                    let minted = mint(secret, &name, expires);
                    RelayCredential {
                        username: minted.username().to_owned(),
                        password: Secret::new(minted.expose_password().to_owned()),
                        remaining: lifetime,
                    }
                }),
            })
            .collect()
    }
}
