//! Which relays this node uses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use protocol_control::RelayOffer;
use protocol_identity::RelayId;
use protocol_stun::Credentials;
use protocol_traversal::RelaySlot;
use protocol_tunnel::RELAY_LANE;

use super::Peers;
use crate::peer_table::TableCommand;
use crate::relay_link::LinkConfig;

/// Relays that a node keeps an end at. Two, so that one may fail; more cost keepalives without a gain.
const RELAYS_USED: usize = 2;

/// Our end at a relay, as far as it has reported.
pub(super) struct Link {
    pub(super) config: LinkConfig,
    pub(super) relayed: Vec<SocketAddr>,
    pub(super) mapped: Option<SocketAddr>,
    pub(super) round_trip: Option<Duration>,
    pub(super) permitted: BTreeSet<IpAddr>,
}

impl Peers {
    /// The lane that holds the allocations is told which to hold, the others which are held.
    pub(super) fn links_wanted(&self, lane: u8) -> TableCommand {
        if lane == RELAY_LANE {
            return TableCommand::Links(self.links.values().map(|link| link.config.clone()).collect());
        }
        let held = self.links.values().filter(|link| !link.relayed.is_empty());
        TableCommand::Away(held.map(|link| (link.config.slot, link.config.address)).collect())
    }

    /// Chooses among the offered relays, and keeps what is known of those that stay.
    pub(super) fn choose_links(&mut self) {
        let Some(offers) = &self.offers else { return };
        let held: Vec<RelayId> = self.links.values().map(|link| link.config.relay).collect();
        let mut links = BTreeMap::new();
        for (offer, address) in choose(offers, &held, &self.ports) {
            let credentials = offer
                .credential
                .as_ref()
                .map(|c| Credentials::new(c.username.clone(), c.password.expose().to_owned()));
            let old = self
                .links
                .iter()
                .find(|(_, link)| link.config.relay == offer.relay && link.config.address == address)
                .map(|(slot, _)| *slot);
            if let Some(slot) = old
                && let Some(mut link) = self.links.remove(&slot)
            {
                link.config.credentials = credentials;
                links.insert(slot, link);
                continue;
            }
            let taken = |slot: &u8| links.contains_key(slot) || self.links.contains_key(slot);
            let Some(slot) = (0..u8::MAX).find(|slot| !taken(slot)) else { continue };
            let config = LinkConfig { slot: RelaySlot(slot), relay: offer.relay, address, credentials };
            let permitted = BTreeSet::new();
            links.insert(
                slot,
                Link { config, relayed: Vec::new(), mapped: None, round_trip: None, permitted },
            );
        }
        self.links = links;
    }
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
