//! Tunnels: the peers of a node, their paths, and our ends at relays.

mod crossing;
mod generations;
mod host;
mod lane;
mod lane_crossing;
mod peer;
mod peer_table;
mod peers;
mod relay_link;
mod router;
mod sender;
mod side;
mod stream;

pub use crossing::{Crossings, LaneReport};
pub use host::host_addresses;
pub use lane::{Neighbour, TunnelLane, lasting_time};
pub use peer::{
    EndedFlow, Inbound, PathSummary, Peer, PeerChange, PeerCommand, PeerConfig, PeerFact, PeerName,
    PeerPackets,
};
pub use peer_table::{PeerTable, TableCommand, TableFact};
pub use peers::{LinkView, Peers, PeersCommand, PeersFact, PeersView, Udp};
pub use relay_link::{LinkChange, LinkCommand, LinkConfig, LinkFact, RelayLink};
pub use router::{Router, RouterChange};
pub use side::GatewayApply;
pub use stream::{AwayLink, FromStream, StreamCommand, StreamId, StreamWanted, Transport};
