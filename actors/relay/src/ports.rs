//! Relayed sockets: an address of the right family, and a free port of the relay's range.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::rc::Rc;

use protocol_stun::Family;
use protocol_stun::relay::code;
use rand::Rng;

use crate::lane::RelayAddress;
use crate::socket::RelaySocket;

/// Asked for in each direction: 1 MiB holds 5 ms at 1.6 Gbit/s. Used only while something waits in it.
const BUFFER: usize = 1 << 20;

/// Random ports that are tried: with half of the range taken, one of 2³² requests finds none.
const TRIES: usize = 32;

/// Where relayed sockets are opened.
pub(crate) struct Ports {
    addresses: Vec<RelayAddress>,
    range: RangeInclusive<u16>,
}

/// A relayed socket, and its address as others see it.
#[derive(Clone)]
pub(crate) struct Relayed {
    pub(crate) socket: Rc<RelaySocket>,
    pub(crate) public: SocketAddr,
}

/// Why there is no relayed socket.
pub(crate) struct Failed {
    /// What the client is told.
    pub(crate) code: u16,
    /// What the operator should know.
    pub(crate) error: Option<io::Error>,
}

impl Failed {
    fn with(code: u16) -> Self {
        Self { code, error: None }
    }
}

impl Ports {
    pub(crate) fn new(addresses: Vec<RelayAddress>, range: RangeInclusive<u16>) -> Self {
        Self { addresses, range }
    }

    /// Opens one on an even port, and one on the port after it.
    pub(crate) fn open_pair(&self, family: Family, near: IpAddr) -> Result<(Relayed, Relayed), Failed> {
        for _ in 0..TRIES {
            let first = self.open(family, near, true)?;
            let (local, public) = (first.socket.local(), first.public);
            let Some(port) = local.port().checked_add(1).filter(|port| self.range.contains(port)) else {
                continue;
            };
            if let Ok(socket) = RelaySocket::open(SocketAddr::new(local.ip(), port), BUFFER) {
                socket.keep_errors();
                let second = Relayed { socket, public: SocketAddr::new(public.ip(), port) };
                return Ok((first, second));
            }
        }
        Err(Failed::with(code::INSUFFICIENT_CAPACITY))
    }

    /// Opens one. `near`: the address of ours that the request came to, which is preferred.
    pub(crate) fn open(&self, family: Family, near: IpAddr, even: bool) -> Result<Relayed, Failed> {
        let of_family = || self.addresses.iter().filter(|address| Family::of(address.local) == family);
        let address = of_family()
            .find(|address| address.local == near || address.public == near)
            .or_else(|| of_family().next())
            .ok_or(Failed::with(code::FAMILY_NOT_SUPPORTED))?;
        for _ in 0..TRIES {
            let port = rand::rng().random_range(self.range.clone());
            let port = if even { port & !1 } else { port };
            if !self.range.contains(&port) {
                continue;
            }
            match RelaySocket::open(SocketAddr::new(address.local, port), BUFFER) {
                Ok(socket) => {
                    socket.keep_errors();
                    return Ok(Relayed { socket, public: SocketAddr::new(address.public, port) });
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => {
                    return Err(Failed { code: code::INSUFFICIENT_CAPACITY, error: Some(error) });
                }
            }
        }
        Err(Failed::with(code::INSUFFICIENT_CAPACITY))
    }
}
