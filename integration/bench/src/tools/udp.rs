//! A generator of small packets and its sink.
//!
//! One datagram is one packet: no segmentation offload, only `sendmmsg`. Each of the sender's two threads wakes every 200 µs
//! and sends what is due; the sink looks every 500 µs, so that on a machine with few cores the two leave the rest of them to what is measured.

use std::{
    io::IoSlice,
    io::IoSliceMut,
    net::{SocketAddr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
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

/// Threads of the sender, each with a socket of its own: one alone comes to little more than 200,000 a second here.
const THREADS: u64 = 2;

/// What a thread of the sender did.
#[derive(Debug, Clone, Copy, Default)]
struct Sent {
    sent: u64,
    refused: u64,
}

impl Send {
    /// Sends, and prints `{sent, refused, seconds}`.
    pub fn run(&self) -> Result<()> {
        ensure!((16..=LARGEST).contains(&self.size), "a datagram has 16 to {LARGEST} bytes");
        let started = Instant::now();
        let all = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..THREADS).map(|thread| scope.spawn(move || self.part(thread, started))).collect();
            let parts = threads.into_iter().map(|thread| {
                thread.join().unwrap_or_else(|_| Err(anyhow!("a thread of the sender panicked")))
            });
            parts.collect::<Result<Vec<_>>>()
        })?;
        let sent: u64 = all.iter().map(|part| part.sent).sum();
        let refused: u64 = all.iter().map(|part| part.refused).sum();
        println!(
            "{}",
            json!({ "sent": sent, "refused": refused, "seconds": started.elapsed().as_secs_f64() })
        );
        Ok(())
    }

    /// One thread's share.
    fn part(&self, thread: u64, started: Instant) -> Result<Sent> {
        super::exact_timers()?;
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(self.to)?;
        setsockopt(&socket, sockopt::SndBuf, &(4 << 20))?;
        // No address: the socket is connected, and looks its route up once.
        let to = [None; BATCH];
        let mut payloads = vec![vec![0_u8; self.size]; BATCH];
        let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);

        let lasts = Duration::from_millis(self.millis);
        let rate = self.rate as f64 / THREADS as f64;
        let most_behind = ((rate * MOST_BEHIND.as_secs_f64()) as u64).max(1);
        // The threads wake in turn.
        let turn = TICK * thread as u32 / THREADS as u32;
        let (mut sent, mut refused, mut skipped) = (0_u64, 0_u64, 0_u64);
        std::thread::sleep(turn);
        loop {
            let elapsed = started.elapsed();
            if elapsed >= lasts {
                return Ok(Sent { sent, refused });
            }
            let due = (elapsed.as_secs_f64() * rate) as u64;
            let mut behind = due.saturating_sub(sent + skipped);
            if behind > most_behind {
                skipped += behind - most_behind;
                behind = most_behind;
            }
            while behind > 0 {
                let count = behind.min(BATCH as u64) as usize;
                for (place, payload) in payloads.iter_mut().take(count).enumerate() {
                    payload[..8].copy_from_slice(&(sent + place as u64).to_be_bytes());
                    payload[0] = thread as u8;
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
        let (mut received, mut bytes, mut late) = (0_u64, 0_u64, 0_u64);
        let mut next = [0_u64; THREADS as usize];
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
                let [thread, number @ ..] = buffer.first_chunk().copied().unwrap_or([0; 8]);
                let [a, b, c, d, e, f, g] = number;
                let number = u64::from_be_bytes([0, a, b, c, d, e, f, g]);
                if let Some(next) = next.get_mut(usize::from(thread)) {
                    if number < *next { late += 1 } else { *next = number + 1 }
                }
            }
        }
        let seconds = first.map_or(0.0, |first| (last - first).as_secs_f64());
        println!("{}", json!({ "received": received, "bytes": bytes, "late": late, "seconds": seconds }));
        Ok(())
    }
}
