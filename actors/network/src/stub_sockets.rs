//! The sockets of the stub resolver, and messages over TCP (RFC 1035 section 4.2.2).

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use actors_runtime::time;
use futures_util::stream::{self, Stream};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// The longest question: names have 255 bytes, and options are few. Longer ones are cut off and refused.
const QUESTION: usize = 4096;
/// A connection that says nothing for this long is closed.
const IDLE: Duration = Duration::from_secs(10);

/// Both sockets on one address.
pub(crate) fn open(address: SocketAddr, device: Option<&str>) -> io::Result<(UdpSocket, TcpListener)> {
    let open = |kind: Type, protocol| -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), kind.nonblocking().cloexec(), Some(protocol))?;
        // The address may come to the device later than this actor to life.
        setsockopt(&socket, sockopt::IpFreebind, &true)?;
        if !address.ip().is_loopback() {
            // Nobody on the network is to be served. The kernel takes the device that has the address for the one that a
            // question of this host comes in by, although it travels over the loopback device.
            socket.bind_device(Some(device.unwrap_or("lo").as_bytes()))?;
        }
        Ok(socket)
    };
    let udp = open(Type::DGRAM, Protocol::UDP)?;
    udp.bind(&address.into())?;
    let tcp = open(Type::STREAM, Protocol::TCP)?;
    tcp.set_reuse_address(true)?;
    // The kernel chose a port for the first when none was given.
    let bound = udp.local_addr()?;
    tcp.bind(&bound)?;
    tcp.listen(64)?;
    Ok((UdpSocket::from_std(udp.into())?, TcpListener::from_std(tcp.into())?))
}

/// What arrives by datagram.
pub(crate) fn questions(socket: Rc<UdpSocket>) -> impl Stream<Item = (Vec<u8>, SocketAddr)> {
    stream::unfold((socket, vec![0; QUESTION]), |(socket, mut buffer)| async move {
        loop {
            match socket.recv_from(&mut buffer).await {
                Ok((length, from)) => {
                    let bytes = buffer.get(..length).unwrap_or_default().to_vec();
                    return Some(((bytes, from), (socket, buffer)));
                }
                // Errors of earlier answers arrive here; the socket is as good as before.
                Err(_) => tokio::task::yield_now().await,
            }
        }
    })
}

/// Connections that are opened.
pub(crate) fn connections(listener: TcpListener) -> impl Stream<Item = TcpStream> {
    stream::unfold(listener, |listener| async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return Some((stream, listener)),
                // Out of descriptors, most likely: better late than in a circle.
                Err(_) => time::sleep(Duration::from_millis(100)).await,
            }
        }
    })
}

/// Reads one message. `None`: the connection is done with.
pub(crate) async fn read_message(mut stream: OwnedReadHalf) -> Option<(Vec<u8>, OwnedReadHalf)> {
    let read = async {
        let length = usize::from(stream.read_u16().await?);
        if length > QUESTION {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes).await?;
        io::Result::Ok(bytes)
    };
    let bytes = time::timeout(IDLE, read).await.ok()?.ok()?;
    Some((bytes, stream))
}

/// Writes one message.
pub(crate) async fn write_message(stream: &mut OwnedWriteHalf, bytes: &[u8]) -> io::Result<()> {
    let length = u16::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    let framed = [&length.to_be_bytes()[..], bytes].concat();
    let write = stream.write_all(&framed);
    time::timeout(IDLE, write).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
