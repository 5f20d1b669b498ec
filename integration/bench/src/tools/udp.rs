//! A generator of small packets and its sink.
//!
//! One datagram is one packet: no segmentation offload, only `sendmmsg`. The sender wakes every 200 µs and sends what is
//! due; the sink looks every 500 µs, so that on a machine with few cores the two leave the rest of them to what is measured.

use std::{
    io::IoSlice,
    io::IoSliceMut,
    net::{SocketAddr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg, setsockopt, sockopt},
};
use serde_json::json;

/// Datagrams of one system call.
const BATCH: usize = 64;
/// How often the sender wakes.
const TICK: Duration = Duration::from_micros(200);
/// How often the sink looks.
const LOOK: Duration = Duration::from_micros(500);
/// What is further behind than this is not made up for: it would be a burst that nobody asked for.
const MOST_BEHIND: Duration = Duration::from_millis(10);
/// Room for half a second of packets, so that the sink never is what loses.
const BUFFER: usize = 64 << 20;
/// The largest datagram of the generator.
const LARGEST: usize = 1400;

/// The sender.
#[derive(Debug, Clone, Args)]
pub struct Send {
    /// Where to.
    #[arg(long)]
    pub to: SocketAddrV4,
    /// Bytes of payload in a datagram, 16 or more.
    #[arg(long)]
    pub size: usize,
    /// Datagrams a second.
    #[arg(long)]
    pub rate: u64,
    /// For how long.
    #[arg(long)]
    pub millis: u64,
}

impl Send {
    /// Sends, and prints `{sent, refused, seconds}`.
    pub fn run(&self) -> Result<()> {
        ensure!((16..=LARGEST).contains(&self.size), "a datagram has 16 to {LARGEST} bytes");
        super::exact_timers()?;
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(self.to)?;
        setsockopt(&socket, sockopt::SndBuf, &(4 << 20))?;
        // No address: the socket is connected, and looks its route up once.
        let to = [None; BATCH];
        let mut payloads = vec![vec![0_u8; self.size]; BATCH];
        let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);

        let (started, lasts) = (Instant::now(), Duration::from_millis(self.millis));
        let most_behind = (self.rate as f64 * MOST_BEHIND.as_secs_f64()) as u64;
        let (mut sent, mut refused, mut skipped) = (0_u64, 0_u64, 0_u64);
        loop {
            let elapsed = started.elapsed();
            if elapsed >= lasts {
                break;
            }
            let due = (elapsed.as_secs_f64() * self.rate as f64) as u64;
            let mut behind = due.saturating_sub(sent + skipped);
            if behind > most_behind.max(1) {
                skipped += behind - most_behind.max(1);
                behind = most_behind.max(1);
            }
            while behind > 0 {
                let count = behind.min(BATCH as u64) as usize;
                for (place, payload) in payloads.iter_mut().take(count).enumerate() {
                    payload[..8].copy_from_slice(&(sent + place as u64).to_be_bytes());
                }
                let slices: Vec<_> =
                    payloads.iter().take(count).map(|payload| [IoSlice::new(payload)]).collect();
                let flags = MsgFlags::empty();
                match sendmmsg(socket.as_raw_fd(), &mut headers, &slices, &to[..count], [], flags) {
                    Ok(results) => {
                        let done = results.count() as u64;
                        sent += done;
                        behind -= done.min(behind);
                    }
                    // The queue of the device is full, or the far port is not open: both are losses.
                    Err(Errno::ENOBUFS | Errno::ECONNREFUSED) => {
                        sent += 1;
                        refused += 1;
                        behind -= 1;
                    }
                    Err(error) => return Err(error).context("cannot send"),
                }
            }
            std::thread::sleep(TICK);
        }
        println!(
            "{}",
            json!({ "sent": sent, "refused": refused, "seconds": started.elapsed().as_secs_f64() })
        );
        Ok(())
    }
}

/// The sink.
#[derive(Debug, Clone, Args)]
pub struct Sink {
    /// Where to listen.
    #[arg(long)]
    pub listen: SocketAddr,
    /// It ends this long after the last datagram.
    #[arg(long, default_value_t = 300)]
    pub quiet_millis: u64,
    /// And at the latest after this.
    #[arg(long)]
    pub limit_millis: u64,
}

impl Sink {
    /// Counts, and prints `{received, bytes, late, seconds}`; `late` came after one with a higher number.
    pub fn run(&self) -> Result<()> {
        super::exact_timers()?;
        let socket = UdpSocket::bind(self.listen)?;
        if setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &BUFFER)?;
        }
        eprintln!("ready");
        let mut buffers = vec![[0_u8; LARGEST + 1]; BATCH];
        let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
        let (quiet, limit) =
            (Duration::from_millis(self.quiet_millis), Duration::from_millis(self.limit_millis));
        let started = Instant::now();
        let (mut first, mut last) = (None, started);
        let (mut received, mut bytes, mut late, mut next) = (0_u64, 0_u64, 0_u64, 0_u64);
        loop {
            let mut slices: Vec<_> =
                buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer.as_mut_slice())]).collect();
            let lengths: Vec<usize> = match recvmmsg(
                socket.as_raw_fd(),
                &mut headers,
                slices.iter_mut(),
                MsgFlags::MSG_DONTWAIT,
                None,
            ) {
                Ok(results) => results.map(|message| message.bytes).collect(),
                Err(Errno::EAGAIN | Errno::EINTR) => Vec::new(),
                Err(error) => return Err(error).context("cannot receive"),
            };
            let now = Instant::now();
            if lengths.is_empty() {
                if (first.is_some() && now - last > quiet) || now - started > limit {
                    break;
                }
                std::thread::sleep(LOOK);
                continue;
            }
            first.get_or_insert(now);
            last = now;
            for (buffer, length) in buffers.iter().zip(&lengths) {
                received += 1;
                bytes += *length as u64;
                let number = buffer.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
                if number < next { late += 1 } else { next = number + 1 }
            }
        }
        let seconds = first.map_or(0.0, |first| (last - first).as_secs_f64());
        println!("{}", json!({ "received": received, "bytes": bytes, "late": late, "seconds": seconds }));
        Ok(())
    }
}
