//! Echoes over ICMP with the time of arrival taken by the kernel, so that a busy processor does not count twice.

use std::{
    io::IoSliceMut,
    net::Ipv4Addr,
    os::fd::{AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Args;
use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn,
            recvmsg, sendto, setsockopt, socket, sockopt,
        },
        time::TimeSpec,
    },
    time::{ClockId, clock_gettime},
};
use serde_json::json;

use crate::stats::quantile;

/// Bytes after the ICMP header, as `ping` sends them.
const PAYLOAD: usize = 56;
/// How long late answers are waited for.
const PATIENCE: Duration = Duration::from_millis(500);

/// The prober.
#[derive(Debug, Clone, Args)]
pub struct Ping {
    /// Whom to ask.
    #[arg(long)]
    pub to: Ipv4Addr,
    /// Time from one echo to the next.
    #[arg(long, default_value_t = 10_000)]
    pub interval_micros: u64,
    /// For how long.
    #[arg(long)]
    pub millis: u64,
}

impl Ping {
    /// Probes, and prints `{sent, received, p50_us, p99_us, max_us}`.
    pub fn run(&self) -> Result<()> {
        super::exact_timers()?;
        let socket = socket(
            AddressFamily::Inet,
            SockType::Raw,
            SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
            SockProtocol::Icmp,
        )
        .context("a raw socket needs root")?;
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
        let id = (std::process::id() & 0xffff) as u16;
        let to = SockaddrIn::from(std::net::SocketAddrV4::new(self.to, 0));
        let count = (self.millis * 1000).div_ceil(self.interval_micros.max(1)).clamp(1, 65_000);
        let mut sent_at: Vec<TimeSpec> = Vec::new();
        let mut times = vec![None; count as usize];

        let started = Instant::now();
        while (sent_at.len() as u64) < count {
            let due = started + Duration::from_micros(self.interval_micros) * sent_at.len() as u32;
            collect_until(&socket, due, id, &sent_at, &mut times)?;
            let message = echo_request(id, sent_at.len() as u16);
            sent_at.push(clock_gettime(ClockId::CLOCK_REALTIME)?);
            match sendto(socket.as_raw_fd(), &message, &to, MsgFlags::empty()) {
                Ok(_) | Err(Errno::ENOBUFS | Errno::EAGAIN) => {}
                Err(error) => return Err(error).context("cannot send an echo"),
            }
        }
        let patience = Instant::now() + PATIENCE;
        while times.iter().any(Option::is_none) && Instant::now() < patience {
            collect_until(&socket, Instant::now() + Duration::from_millis(1), id, &sent_at, &mut times)?;
        }
        let answers: Vec<f64> = times.into_iter().flatten().collect();
        println!(
            "{}",
            json!({
                "sent": sent_at.len(),
                "received": answers.len(),
                "p50_us": quantile(&answers, 0.5),
                "p99_us": quantile(&answers, 0.99),
                "max_us": quantile(&answers, 1.0),
            })
        );
        Ok(())
    }
}

/// Takes answers until a moment has come.
fn collect_until(
    socket: &OwnedFd,
    due: Instant,
    id: u16,
    sent_at: &[TimeSpec],
    times: &mut [Option<f64>],
) -> Result<()> {
    let mut buffer = [0_u8; 256];
    let mut space = nix::cmsg_space!(TimeSpec);
    loop {
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let (length, arrived) = match recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), flags)
        {
            Ok(message) => {
                let arrived = message.cmsgs()?.find_map(|control| match control {
                    ControlMessageOwned::ScmTimestampns(at) => Some(at),
                    _ => None,
                });
                (message.bytes, arrived)
            }
            Err(Errno::EAGAIN) => {
                let now = Instant::now();
                if now >= due {
                    return Ok(());
                }
                // Arrival is timed by the kernel, so sleeping over it costs no precision.
                std::thread::sleep((due - now).min(Duration::from_millis(2)));
                continue;
            }
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error).context("cannot receive an echo"),
        };
        let answer = buffer.get(..length).and_then(|packet| echo_reply(packet, id));
        if let (Some(number), Some(arrived)) = (answer, arrived)
            && let (Some(sent), Some(time)) =
                (sent_at.get(usize::from(number)), times.get_mut(usize::from(number)))
        {
            let took = Duration::from(arrived).as_secs_f64() - Duration::from(*sent).as_secs_f64();
            time.get_or_insert(took * 1e6);
        }
    }
}

fn echo_request(id: u16, number: u16) -> [u8; 8 + PAYLOAD] {
    let mut message = [0_u8; 8 + PAYLOAD];
    message[0] = 8;
    message[4..6].copy_from_slice(&id.to_be_bytes());
    message[6..8].copy_from_slice(&number.to_be_bytes());
    let sum = super::segments::checksum(&message, 0);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// The number in an answer to this prober.
fn echo_reply(packet: &[u8], id: u16) -> Option<u16> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let message = packet.get(header..)?;
    let theirs = u16::from_be_bytes(*message.get(4..)?.first_chunk()?);
    let number = u16::from_be_bytes(*message.get(6..)?.first_chunk()?);
    (message.first() == Some(&0) && theirs == id).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_told_from_a_request_and_from_anothers() {
        let mut packet = vec![0x45; 1];
        packet.resize(20, 0);
        packet.extend(echo_request(7, 513));
        assert_eq!(echo_reply(&packet, 7), None, "a request is no answer");

        packet[20] = 0;

        assert_eq!(echo_reply(&packet, 7), Some(513));
        assert_eq!(echo_reply(&packet, 8), None);
        assert_eq!(echo_reply(&packet[..24], 7), None);
    }

    #[test]
    fn the_checksum_of_a_request_adds_up() {
        assert_eq!(super::super::segments::checksum(&echo_request(1, 2), 0), 0);
    }
}
