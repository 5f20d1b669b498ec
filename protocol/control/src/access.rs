//! The set-up of a connection: a signed offer of the device, a signed answer of the gateway.
//!
//! Both are signed with the lasting identity keys over everything that matters, so that a control plane that swaps
//! keys is caught by the other end, which pinned the identity at first use.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use protocol_identity::{
    DeviceId, GatewayId, GrantId, IdentityKey, IdentityPublic, KemCiphertext, KemPublic, KeyError,
    ResourceId, Signature, WireguardPublic,
};
use serde::{Deserialize, Serialize};

/// The most candidates in one offer, answer or update.
pub const MAX_CANDIDATES: usize = 16;

/// Where an address comes from (RFC 8445, section 5.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CandidateKind {
    /// An address of the host itself.
    Host,
    /// What a relay saw as the source of our packets.
    Reflexive,
    /// An address at a relay that forwards to us.
    Relayed,
}

/// An address at which a node may be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Candidate {
    /// Where the address comes from.
    pub kind: CandidateKind,
    /// The address.
    pub address: SocketAddr,
}

/// The tunnel addresses of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct InnerAddresses {
    /// From 100.64.0.0/11.
    pub v4: Ipv4Addr,
    /// From fd70:6f73:7401::/64.
    pub v6: Ipv6Addr,
}

/// A name as the client mapped it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MappedName {
    /// The queried name, lower case, without the final dot.
    pub name: String,
    /// The client's stand-in for its IPv4 addresses.
    pub v4: Ipv4Addr,
    /// The client's stand-in for its IPv6 addresses.
    pub v6: Ipv6Addr,
}

/// What a device offers with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The device that asks.
    pub device: DeviceId,
    /// What it asks for.
    pub resource: ResourceId,
    /// The WireGuard key of this process.
    pub wireguard: WireguardPublic,
    /// The ML-KEM-768 key of this process.
    pub kem: KemPublic,
    /// The receiver index that the device keeps for this connection, should the offer begin one.
    pub index: u32,
    /// Where the device may be reached, at most [`MAX_CANDIDATES`].
    pub candidates: Vec<Candidate>,
    /// Over all of the above, by the device's identity.
    pub signature: Signature,
}

/// What a gateway answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The gateway that answers.
    pub gateway: GatewayId,
    /// The device that it answers to.
    pub device: DeviceId,
    /// The grant that it answers for.
    pub grant: GrantId,
    /// The gateway's identity; the device pins it at first use.
    pub identity: IdentityPublic,
    /// The WireGuard key of the gateway's process.
    pub wireguard: WireguardPublic,
    /// The shared secret, for the key of the offer.
    pub ciphertext: KemCiphertext,
    /// The gateway's receiver index for this connection.
    pub index: u32,
    /// The device's receiver index that the gateway uses: that of the offer that began the connection.
    pub device_index: u32,
    /// The gateway's own tunnel addresses.
    pub addresses: InnerAddresses,
    /// Where the gateway may be reached, at most [`MAX_CANDIDATES`].
    pub candidates: Vec<Candidate>,
    /// Over all of the above and the offer's two keys, by the gateway's identity.
    pub signature: Signature,
}

fn candidates_text(candidates: &[Candidate]) -> String {
    let mut text = String::new();
    for Candidate { kind, address } in candidates {
        let kind = match kind {
            CandidateKind::Host => "host",
            CandidateKind::Reflexive => "reflexive",
            CandidateKind::Relayed => "relayed",
        };
        text.push_str(&format!("{kind} {address}\n"));
    }
    text
}

impl Offer {
    /// Makes and signs an offer.
    pub fn sign(
        identity: &IdentityKey,
        device: DeviceId,
        resource: ResourceId,
        wireguard: WireguardPublic,
        kem: KemPublic,
        index: u32,
        mut candidates: Vec<Candidate>,
    ) -> Self {
        candidates.truncate(MAX_CANDIDATES);
        let mut offer =
            Self { device, resource, wireguard, kem, index, candidates, signature: Signature(Vec::new()) };
        offer.signature = identity.sign(&offer.signed_text());
        offer
    }

    /// Checks the signature.
    ///
    /// # Errors
    /// [`KeyError::BadSignature`].
    pub fn verify(&self, identity: &IdentityPublic) -> Result<(), KeyError> {
        identity.verify(&self.signed_text(), &self.signature)
    }

    /// Whether both offers are for the same process of the same device, so that its session can be kept.
    pub fn same_process(&self, other: &Self) -> bool {
        self.device == other.device && self.wireguard == other.wireguard && self.kem == other.kem
    }

    fn signed_text(&self) -> Vec<u8> {
        let mut text = format!(
            "postern offer v1\ndevice {}\nresource {}\nwireguard {}\nindex {}\n{}kem ",
            self.device,
            self.resource,
            self.wireguard,
            self.index,
            candidates_text(&self.candidates)
        )
        .into_bytes();
        text.extend_from_slice(&self.kem.0);
        text
    }
}

/// Everything of an answer but its signature.
#[derive(Debug, Clone)]
pub struct UnsignedAnswer {
    /// See [`Answer::gateway`].
    pub gateway: GatewayId,
    /// See [`Answer::grant`].
    pub grant: GrantId,
    /// See [`Answer::wireguard`].
    pub wireguard: WireguardPublic,
    /// See [`Answer::ciphertext`].
    pub ciphertext: KemCiphertext,
    /// See [`Answer::index`].
    pub index: u32,
    /// See [`Answer::device_index`].
    pub device_index: u32,
    /// See [`Answer::addresses`].
    pub addresses: InnerAddresses,
    /// See [`Answer::candidates`].
    pub candidates: Vec<Candidate>,
}

impl Answer {
    /// Makes and signs an answer to `offer`.
    pub fn sign(identity: &IdentityKey, offer: &Offer, unsigned: UnsignedAnswer) -> Self {
        let UnsignedAnswer {
            gateway,
            grant,
            wireguard,
            ciphertext,
            index,
            device_index,
            addresses,
            mut candidates,
        } = unsigned;
        candidates.truncate(MAX_CANDIDATES);
        let mut answer = Self {
            gateway,
            device: offer.device,
            grant,
            identity: identity.public(),
            wireguard,
            ciphertext,
            index,
            device_index,
            addresses,
            candidates,
            signature: Signature(Vec::new()),
        };
        answer.signature = identity.sign(&answer.signed_text(&offer.wireguard, &offer.kem));
        answer
    }

    /// Checks the signature against the identity in the answer and the keys that this device offered. Whether the
    /// identity is the pinned one is for the caller to check.
    ///
    /// # Errors
    /// [`KeyError::BadSignature`].
    pub fn verify(&self, offered: &WireguardPublic, kem: &KemPublic) -> Result<(), KeyError> {
        self.identity.verify(&self.signed_text(offered, kem), &self.signature)
    }

    /// Whether both answers belong to the same session, so that it can be kept.
    pub fn same_session(&self, other: &Self) -> bool {
        self.gateway == other.gateway
            && self.wireguard == other.wireguard
            && self.ciphertext == other.ciphertext
    }

    fn signed_text(&self, offered: &WireguardPublic, kem: &KemPublic) -> Vec<u8> {
        let mut text = format!(
            "postern answer v1\ngateway {}\ndevice {}\ngrant {}\nwireguard {}\nfor {}\nindices {} {}\naddresses {} {}\n{}keys ",
            self.gateway,
            self.device,
            self.grant,
            self.wireguard,
            offered,
            self.index,
            self.device_index,
            self.addresses.v4,
            self.addresses.v6,
            candidates_text(&self.candidates)
        )
        .into_bytes();
        text.extend_from_slice(&kem.0);
        text.extend_from_slice(&self.ciphertext.0);
        text
    }
}

#[cfg(test)]
mod tests {
    use protocol_identity::{KemKey, WireguardKey};

    use super::*;

    fn offer(identity: &IdentityKey) -> Offer {
        Offer::sign(
            identity,
            DeviceId::fresh(),
            ResourceId::fresh(),
            WireguardKey::generate().unwrap().public(),
            KemKey::generate().unwrap().public(),
            0x0001_0000,
            vec![Candidate { kind: CandidateKind::Host, address: "192.0.2.1:5000".parse().unwrap() }],
        )
    }

    #[test]
    fn a_swapped_key_breaks_the_offers_signature() {
        let identity = IdentityKey::generate().unwrap();
        let mut offer = offer(&identity);
        assert_eq!(offer.verify(&identity.public()), Ok(()));

        offer.wireguard = WireguardKey::generate().unwrap().public();

        assert_eq!(offer.verify(&identity.public()), Err(KeyError::BadSignature));
    }

    #[test]
    fn an_answer_fits_only_the_offer_it_was_made_for() {
        let gateway = IdentityKey::generate().unwrap();
        let offer = offer(&IdentityKey::generate().unwrap());
        let (ciphertext, _) = offer.kem.encapsulate().unwrap();
        let unsigned = UnsignedAnswer {
            gateway: GatewayId::fresh(),
            grant: GrantId::fresh(),
            wireguard: WireguardKey::generate().unwrap().public(),
            ciphertext,
            index: 0x0001_0000,
            device_index: 0x0002_0000,
            addresses: InnerAddresses { v4: Ipv4Addr::new(100, 64, 0, 1), v6: Ipv6Addr::LOCALHOST },
            candidates: Vec::new(),
        };

        let answer = Answer::sign(&gateway, &offer, unsigned);
        let other = WireguardKey::generate().unwrap().public();

        assert_eq!(answer.verify(&offer.wireguard, &offer.kem), Ok(()));
        assert_eq!(answer.verify(&other, &offer.kem), Err(KeyError::BadSignature));
    }
}
