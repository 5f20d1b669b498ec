//! Where packets and names meet the host: sockets, the TUN device, routes, the packet filter, DNS.
//!
//! What the packet lanes touch ([`LaneUdp`], [`LaneTun`]) is owned by the lane and shared on it; the actors only read.
//! Everything else lives on the control lane and may wait.

mod acks;
mod blocking;
mod drops;
mod field;
mod filter_inspect;
mod host_dns;
mod host_filter;
mod host_routes;
mod landing;
mod lane_tun;
mod lane_udp;
mod link_watcher;
mod lookup;
mod marked;
mod netlink;
mod nft;
mod offloads;
mod resolv_conf;
mod resolv_file;
mod resolved;
mod resolver;
mod resolvers;
mod route_plan;
mod routes;
mod segment;
#[cfg(test)]
mod steering_tests;
mod stub_resolver;
mod stub_sockets;
mod sysctl;
#[cfg(test)]
mod testing;
mod tun_device;
mod tun_open;
mod udp_send;
mod udp_socket;
mod virtio;

pub use drops::{EdgeDrop, EdgeDrops};
pub use filter_inspect::Obstacle;
pub use host_dns::{
    HostDns, HostDnsCommand, HostDnsConfig, HostDnsError, HostDnsMode, HostDnsReport, KeptHostDns,
    clean_host_dns_blocking,
};
pub use host_filter::{
    FilterReport, HostFilter, HostFilterCommand, HostFilterConfig, KeptFilter, clean_filter_blocking,
    inspect_host,
};
pub use host_routes::{
    AppliedRoutes, ROUTE_PROTOCOL, RoutesConfig, SOCKET_MARK, SOCKET_MARK_MASK, clean_routes,
    clean_routes_blocking,
};
pub use landing::{Landed, Landing, Run};
pub use lane_tun::{LaneTun, TUN_MTU, TUN_SEGMENTS, TunConfig, Written};
pub use lane_udp::{LaneSockets, LaneUdp, OpenUdpError, SOCKET_BUFFER, Sent, Sharing, UdpConfig};
pub use link_watcher::{
    HostAddress, LinkCommand, LinkWatcher, NetworkChanged, NetworkState, Uplink, read_network,
};
pub use marked::{connect_marked, udp_marked};
pub use netlink::NetlinkError;
pub use nft::{FilterPlan, NftError};
pub use offloads::{GrantedOffloads, OffloadReport, Offloads};
pub use resolv_conf::servers as dns_servers;
pub use resolved::ResolvedError;
pub use resolver::{ResolveError, Resolved, Resolver, ResolverCommand};
pub use resolvers::{Resolvers, ResolversCommand, ResolversConfig};
pub use route_plan::{HostPlan, RouteRefusal};
pub use routes::{KeptPlan, Routes, RoutesCommand};
pub use segment::{HOST_HEADER, HostPacket, Segments, Uncuttable};
pub use stub_resolver::{
    AskAccess, KeptNames, STUB_ADDRESS, StubCommand, StubResolver, StubResolverConfig, WantedName,
};
pub use tun_device::{PacketSink, TunCommand, TunDevice};
pub use tun_open::{Offload, OpenTunError};
pub use udp_socket::{Datagrams, Demux, UdpCommand, UdpSocket};
