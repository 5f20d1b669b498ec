//! As much of a TURN client as a load needs: allocations, a channel each, and the way back.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use md5::{Digest, Md5};
use ring::hmac;

const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
pub const ALLOCATE: u16 = 0x003;
pub const REFRESH: u16 = 0x004;
const CHANNEL_BIND: u16 = 0x009;

/// The first channel.
pub const CHANNEL: u16 = 0x4000;

/// Who a load is.
#[derive(Clone)]
pub struct User {
    pub name: String,
    pub password: String,
}

/// One client, with an allocation or without.
pub struct Client {
    pub socket: UdpSocket,
    user: User,
    session: Option<(Vec<u8>, Vec<u8>, hmac::Key)>,
    next: u64,
    pub relayed: Option<SocketAddr>,
}

impl Client {
    pub fn new(server: SocketAddr, user: &User) -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("no socket for a client")?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        Ok(Self { socket, user: user.clone(), session: None, next: 1, relayed: None })
    }

    /// Allocates, whatever it takes.
    pub fn allocate(&mut self) -> Result<()> {
        let answer = self.ask(|client| client.request(ALLOCATE, &[(0x0019, &[17, 0, 0, 0])]))?;
        self.relayed = Some(address(&answer, 0x0016).context("no relayed address in the answer")?);
        Ok(())
    }

    /// Binds the channel to a peer.
    pub fn bind(&mut self, peer: SocketAddr) -> Result<()> {
        let (IpAddr::V4(ip), port) = (peer.ip(), peer.port()) else { bail!("IPv4 only") };
        let mut value = vec![0, 1];
        value.extend((port ^ 0x2112).to_be_bytes());
        value.extend(ip.octets().iter().zip(COOKIE).map(|(a, b)| a ^ b));
        let channel = [CHANNEL.to_be_bytes(), [0, 0]].concat();
        self.ask(|client| client.request(CHANNEL_BIND, &[(0x000c, &channel), (0x0012, &value)]))?;
        Ok(())
    }

    /// Asks until there is a success: takes challenges, repeats what is lost.
    fn ask(&mut self, request: impl Fn(&mut Self) -> Vec<u8>) -> Result<Vec<u8>> {
        let give_up = Instant::now() + Duration::from_secs(10);
        let mut bytes = [0; 2048];
        while Instant::now() < give_up {
            let message = request(self);
            self.socket.send(&message)?;
            let Ok(length) = self.socket.recv(&mut bytes) else { continue };
            let answer = bytes.get(..length).unwrap_or_default();
            if answer.get(8..20) != message.get(8..20) {
                continue;
            }
            if answer.first().is_some_and(|high| high & 1 == 1)
                && answer.get(1).is_some_and(|low| low & 0x10 == 0)
            {
                return Ok(answer.to_vec());
            }
            match self.take_challenge(answer)? {
                401 | 438 => {}
                code => bail!("the server refuses with {code}"),
            }
        }
        bail!("the server does not answer")
    }

    /// Takes realm and nonce of an error answer; gives its code.
    pub fn take_challenge(&mut self, answer: &[u8]) -> Result<u16> {
        let error = attribute(answer, 0x0009).context("an answer without a code")?;
        let code = u16::from(*error.get(2).unwrap_or(&0)) * 100 + u16::from(*error.get(3).unwrap_or(&0));
        if let (Some(realm), Some(nonce)) = (attribute(answer, 0x0014), attribute(answer, 0x0015)) {
            let User { name, password } = &self.user;
            let mut key = Md5::new();
            key.update(name);
            key.update(":");
            key.update(realm);
            key.update(":");
            key.update(password);
            let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &key.finalize());
            self.session = Some((realm.to_vec(), nonce.to_vec(), key));
        }
        Ok(code)
    }

    /// A request, signed when there is a nonce.
    pub fn request(&mut self, method: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut message = method.to_be_bytes().to_vec();
        message.extend([0, 0]);
        message.extend(COOKIE);
        message.extend([7, 7, 7, 7]);
        message.extend(self.next.to_be_bytes());
        self.next += 1;
        for (kind, value) in attributes {
            push(&mut message, *kind, value);
        }
        if let Some((realm, nonce, key)) = &self.session {
            push(&mut message, 0x0006, self.user.name.as_bytes());
            push(&mut message, 0x0014, realm);
            push(&mut message, 0x0015, nonce);
            set_length(&mut message, 24);
            let tag = hmac::sign(key, &message);
            push(&mut message, 0x0008, tag.as_ref());
        }
        set_length(&mut message, 0);
        message
    }
}

fn push(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.extend(kind.to_be_bytes());
    message.extend(u16::try_from(value.len()).unwrap_or(0).to_be_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

fn set_length(message: &mut [u8], more: usize) {
    let length = u16::try_from(message.len() + more - 20).unwrap_or(0).to_be_bytes();
    if let Some(place) = message.get_mut(2..4) {
        place.copy_from_slice(&length);
    }
}

fn attribute(message: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut rest = message.get(20..)?;
    while let [k0, k1, l0, l1, tail @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*l0, *l1]));
        if u16::from_be_bytes([*k0, *k1]) == wanted {
            return tail.get(..length);
        }
        rest = tail.get(length.next_multiple_of(4)..)?;
    }
    None
}

fn address(message: &[u8], wanted: u16) -> Option<SocketAddr> {
    let [_, 1, p0, p1, a, b, c, d] = *attribute(message, wanted)? else { return None };
    let port = u16::from_be_bytes([p0, p1]) ^ 0x2112;
    let ip = Ipv4Addr::from(u32::from_be_bytes([a, b, c, d]) ^ u32::from_be_bytes(COOKIE));
    Some(SocketAddr::new(ip.into(), port))
}

/// A server that answers wrongly must not be measured.
pub fn is_success(answer: &[u8]) -> Result<bool> {
    ensure!(answer.len() >= 20, "an answer of {} bytes", answer.len());
    Ok(answer.first().is_some_and(|high| high & 1 == 1) && answer.get(1).is_some_and(|low| low & 0x10 == 0))
}
