//! Sockets of the control lane that stay outside the tunnel: for control, relays over TLS, and DNS servers.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

/// Connects, with `SO_MARK` set before the first packet; `None` leaves the socket unmarked.
///
/// # Errors
/// What the kernel or the other end said. Marking needs `CAP_NET_ADMIN` or `CAP_NET_RAW`.
pub async fn connect_marked(to: SocketAddr, mark: Option<u32>) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(mark) = mark {
        SockRef::from(&socket).set_mark(mark)?;
    }
    socket.connect(to).await
}

/// A UDP socket towards one address on a port of the kernel's choice, with `SO_MARK` set.
///
/// # Errors
/// As [`connect_marked`].
pub async fn udp_marked(to: SocketAddr, mark: Option<u32>) -> io::Result<UdpSocket> {
    let from = match to {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(from).await?;
    if let Some(mark) = mark {
        SockRef::from(&socket).set_mark(mark)?;
    }
    socket.connect(to).await?;
    Ok(socket)
}
