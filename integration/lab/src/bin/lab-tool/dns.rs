//! A name server with a static zone: A and AAAA, no recursion, no TCP.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    str::FromStr,
};

use anyhow::{Context, Result};

const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const NO_SUCH_NAME: u8 = 3;
/// Short, so that a test may change an address.
const TIME_TO_LIVE: u32 = 5;

/// One name and one of its addresses.
#[derive(Debug, Clone)]
pub struct Record {
    name: String,
    address: IpAddr,
}

impl FromStr for Record {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, address) = text.split_once('=').context("write name=address")?;
        Ok(Self { name: name.trim_end_matches('.').to_ascii_lowercase(), address: address.parse()? })
    }
}

pub fn serve(listen: &[SocketAddr], zone: &[Record]) -> Result<()> {
    crate::on_each(
        listen,
        |address| UdpSocket::bind(address).with_context(|| format!("cannot listen on {address}")),
        |socket| {
            let mut buffer = [0_u8; 1500];
            loop {
                let (length, from) = socket.recv_from(&mut buffer)?;
                if let Some(answer) = answer(&buffer[..length], zone, from) {
                    let _gone = socket.send_to(&answer, from);
                }
            }
        },
    )
}

fn answer(query: &[u8], zone: &[Record], from: SocketAddr) -> Option<Vec<u8>> {
    let header = query.get(..12)?;
    let (name, end) = question(query)?;
    let kind = u16::from_be_bytes(query.get(end..end + 2)?.try_into().ok()?);
    let asked = query.get(12..end + 4)?;
    println!(
        "{}",
        serde_json::json!({ "event": "query", "name": name, "type": kind, "from": from.to_string() })
    );

    let named: Vec<_> = zone.iter().filter(|record| record.name == name).collect();
    let fits = |record: &&&Record| match record.address {
        IpAddr::V4(_) => kind == TYPE_A,
        IpAddr::V6(_) => kind == TYPE_AAAA,
    };
    let answers: Vec<_> = named.iter().filter(fits).collect();

    let mut reply = Vec::with_capacity(512);
    reply.extend_from_slice(&header[..2]);
    let code = if named.is_empty() { NO_SUCH_NAME } else { 0 };
    // Answer, authoritative, the recursion bit as it came.
    reply.extend_from_slice(&[0x84 | header[2] & 1, code]);
    reply.extend_from_slice(&[0, 1]);
    reply.extend_from_slice(&u16::try_from(answers.len()).ok()?.to_be_bytes());
    reply.extend_from_slice(&[0; 4]);
    reply.extend_from_slice(asked);
    for record in answers {
        reply.extend_from_slice(&[0xc0, 12]);
        reply.extend_from_slice(&kind.to_be_bytes());
        reply.extend_from_slice(&[0, 1]);
        reply.extend_from_slice(&TIME_TO_LIVE.to_be_bytes());
        match record.address {
            IpAddr::V4(address) => {
                reply.extend_from_slice(&[0, 4]);
                reply.extend_from_slice(&address.octets());
            }
            IpAddr::V6(address) => {
                reply.extend_from_slice(&[0, 16]);
                reply.extend_from_slice(&address.octets());
            }
        }
    }
    Some(reply)
}

/// The name asked for, in lower case, and where it ends.
fn question(query: &[u8]) -> Option<(String, usize)> {
    let mut at = 12;
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        if length > 63 {
            return None;
        }
        let label = query.get(at..at + length)?;
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        at += length;
    }
}
