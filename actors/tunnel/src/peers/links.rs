//! Which relays this node uses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use protocol_control::{RelayOffer, RelayTls};
use protocol_identity::RelayId;
use protocol_stun::Credentials;
use protocol_traversal::RelaySlot;
use protocol_tunnel::RELAY_LANE;

use super::Peers;
use crate::peer_table::TableCommand;
use crate::relay_link::LinkConfig;
use crate::stream::AwayLink;

/// Relays that a node keeps an end at. Two, so that one may fail; more cost keepalives without a gain.
const RELAYS_USED: usize = 2;
/// The port of HTTPS.
const HTTPS: u16 = 443;

/// Our end at a relay, as far as it has reported.
pub(super) struct Link {
    pub(super) config: LinkConfig,
    pub(super) relayed: Vec<SocketAddr>,
    pub(super) mapped: Option<SocketAddr>,
    pub(super) round_trip: Option<Duration>,
    pub(super) permitted: BTreeSet<IpAddr>,
    /// The relay is about to end: nobody is told of this link any more, and it goes when everybody has gone elsewhere.
    pub(super) is_leaving: bool,
    /// By UDP: whether the relay has fallen silent; `None` before it is known.
    pub(super) is_silent: Option<bool>,
    /// By UDP: how often it has answered again.
    pub(super) answers: u64,
    /// By UDP: whether a connection to the same relay is wanted.
    pub(super) wants_stream: bool,
}

impl Link {
    fn new(config: LinkConfig) -> Self {
        Self {
            config,
            relayed: Vec::new(),
            mapped: None,
            round_trip: None,
            permitted: BTreeSet::new(),
            is_leaving: false,
            is_silent: None,
            answers: 0,
            wants_stream: false,
        }
    }
}

impl Peers {
    /// The lane that holds the allocations is told which to hold, the others which are held.
    pub(super) fn links_wanted(&self, lane: u8) -> TableCommand {
        if lane == RELAY_LANE {
            return TableCommand::Links(self.links.values().map(|link| link.config.clone()).collect());
        }
        let held = self.links.values().filter(|link| !link.relayed.is_empty());
        let away = |link: &Link| AwayLink {
            slot: link.config.slot,
            address: link.config.address,
            transport: link.config.transport(),
        };
        TableCommand::Away(held.map(away).collect())
    }

    /// Chooses among the offered relays, and keeps what is known of those that stay.
    pub(super) fn choose_links(&mut self) {
        let Some(offers) = &self.offers else { return };
        let held: Vec<RelayId> = self.links.values().map(|link| link.config.relay).collect();
        let mut wanted: Vec<(LinkConfig, Option<LinkConfig>)> = Vec::new();
        for (offer, address) in choose(offers, &held, &self.ports) {
            let credentials = offer
                .credential
                .as_ref()
                .map(|c| Credentials::new(c.username.clone(), c.password.expose().to_owned()));
            let config = LinkConfig {
                slot: RelaySlot(u8::MAX),
                relay: offer.relay,
                address,
                tls: None,
                credentials: credentials.clone().filter(|_| self.is_warm),
            };
            let stream = offer.tls.clone().and_then(|tls| {
                let tls = RelayTls { addresses: preferred(&tls.addresses), ..tls };
                let address = *tls.addresses.first()?;
                // A connection without an allocation is good for nothing.
                credentials.as_ref()?;
                Some(LinkConfig { address, tls: Some(tls), credentials, ..config.clone() })
            });
            wanted.push((config, stream));
        }
        // A link that goes and one that comes are never taken for the same.
        let taken: BTreeSet<u8> = self.links.keys().copied().collect();
        // What was at a relay before it ended is gone, also when the relay is back.
        let draining: Vec<RelayId> = offers.iter().filter(|o| o.draining).map(|offer| offer.relay).collect();
        let (mut leaving, staying): (BTreeMap<u8, Link>, BTreeMap<u8, Link>) =
            std::mem::take(&mut self.links)
                .into_iter()
                .partition(|(_, link)| link.is_leaving || draining.contains(&link.config.relay));
        leaving.retain(|_, link| draining.contains(&link.config.relay));
        leaving.values_mut().for_each(|link| link.is_leaving = true);
        self.links = staying;
        let mut links = leaving;
        let mut streams = Vec::new();
        // Those by UDP have the first places: their packets are found by looking through them.
        for (config, stream) in wanted {
            let wants_stream = self.take_link(config, &taken, &mut links);
            streams.extend(stream.filter(|_| wants_stream));
        }
        for stream in streams {
            self.take_link(stream, &taken, &mut links);
        }
        self.links = links;
    }

    /// Puts a wanted link into a place, with what is known of it already. Whether it wants a connection beside it.
    fn take_link(
        &mut self,
        config: LinkConfig,
        taken: &BTreeSet<u8>,
        links: &mut BTreeMap<u8, Link>,
    ) -> bool {
        let is_same = |link: &Link| {
            let held = &link.config;
            held.relay == config.relay && held.address == config.address && held.tls == config.tls
        };
        let old = self.links.iter().find(|(_, link)| is_same(link)).map(|(slot, _)| *slot);
        if let Some(slot) = old
            && let Some(mut link) = self.links.remove(&slot)
        {
            link.config.credentials = config.credentials;
            let wants_stream = link.wants_stream;
            links.insert(slot, link);
            return wants_stream;
        }
        let is_free = |slot: &u8| !links.contains_key(slot) && !taken.contains(slot);
        let Some(slot) = (0..u8::MAX).find(is_free) else { return false };
        links.insert(slot, Link::new(LinkConfig { slot: RelaySlot(slot), ..config }));
        false
    }
}

/// The port that is open wherever anything is, first; then IPv4, as with UDP.
fn preferred(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut addresses = addresses.to_vec();
    addresses.sort_by_key(|address| (address.port() != HTTPS, address.is_ipv6()));
    addresses
}

/// Relays that are held stay, if they are still offered; then others in control's order, one a region first. A relay
/// that no socket of ours reaches is none.
fn choose<'a>(
    offers: &'a [RelayOffer],
    held: &[RelayId],
    ports: &[SocketAddr],
) -> Vec<(&'a RelayOffer, SocketAddr)> {
    let reached =
        |address: &&SocketAddr| ports.is_empty() || ports.iter().any(|p| p.is_ipv4() == address.is_ipv4());
    let usable: Vec<(&RelayOffer, SocketAddr)> = offers
        .iter()
        .filter(|offer| !offer.draining)
        .filter_map(|offer| {
            let reached = || offer.addresses.iter().filter(reached);
            let address = reached().find(|address| address.is_ipv4()).or_else(|| reached().next())?;
            Some((offer, *address))
        })
        .collect();
    let mut chosen: Vec<(&RelayOffer, SocketAddr)> =
        usable.iter().filter(|(offer, _)| held.contains(&offer.relay)).take(RELAYS_USED).copied().collect();
    for another_region in [true, false] {
        for (offer, address) in &usable {
            let is_chosen = chosen.iter().any(|(c, _)| c.relay == offer.relay);
            let is_new_region = chosen.iter().all(|(c, _)| c.region != offer.region);
            if chosen.len() < RELAYS_USED && !is_chosen && is_new_region == another_region {
                chosen.push((offer, *address));
            }
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(region: &str, addresses: &[&str]) -> RelayOffer {
        RelayOffer {
            relay: RelayId::fresh(),
            region: region.into(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            tls: None,
            draining: false,
            credential: None,
        }
    }

    fn chosen(offers: &[RelayOffer], held: &[RelayId], ports: &[&str]) -> Vec<usize> {
        let ports: Vec<SocketAddr> = ports.iter().map(|port| port.parse().unwrap()).collect();
        let place = |relay| offers.iter().position(|offer| offer.relay == relay).unwrap();
        choose(offers, held, &ports).into_iter().map(|(offer, _)| place(offer.relay)).collect()
    }

    #[test]
    fn two_relays_are_used_in_different_regions_if_there_are() {
        let one = ["192.0.2.1:3478"];
        let offers = [offer("berlin", &one), offer("berlin", &one), offer("paris", &one)];

        assert_eq!(chosen(&offers, &[], &[]), [0, 2]);
        assert_eq!(chosen(&offers[..2], &[], &[]), [0, 1]);
    }

    #[test]
    fn a_relay_that_is_held_stays_as_long_as_it_is_offered() {
        let one = ["192.0.2.1:3478"];
        let offers = [offer("berlin", &one), offer("paris", &one), offer("rome", &one)];

        assert_eq!(chosen(&offers, &[offers[2].relay], &[]), [2, 0]);
        assert_eq!(chosen(&offers[..2], &[offers[2].relay], &[]), [0, 1]);
    }

    #[test]
    fn a_relay_that_is_about_to_end_is_not_chosen_even_if_it_is_held() {
        let one = ["192.0.2.1:3478"];
        let mut offers = [offer("berlin", &one), offer("paris", &one), offer("rome", &one)];
        offers[1].draining = true;

        assert_eq!(chosen(&offers, &[offers[1].relay, offers[0].relay], &[]), [0, 2]);
    }

    #[test]
    fn ipv4_is_preferred_and_a_relay_that_no_socket_reaches_is_left_out() {
        let offers = [
            offer("berlin", &["[2001:db8::1]:3478"]),
            offer("paris", &["[2001:db8::2]:3478", "192.0.2.2:3478"]),
        ];

        assert_eq!(chosen(&offers, &[], &["0.0.0.0:5000"]), [1]);
        assert_eq!(choose(&offers, &[], &[])[1].1, "192.0.2.2:3478".parse().unwrap());
        assert_eq!(
            choose(&offers, &[], &["[::]:5000".parse().unwrap()])[1].1,
            "[2001:db8::2]:3478".parse().unwrap()
        );
    }
}
