//! Loads one TURN server, and says what came of it as one JSON object on standard output.
//!
//! `flow`: ChannelData of many allocations to one peer, with no more on the way than a window, so that nothing is lost for
//! want of a buffer: what arrives in a second is what the server carries. `churn`: allocations made and given back. `hold`:
//! the server's memory with few and with many allocations. The server's CPU time is read around what is measured.

mod turn;

use std::{
    fs,
    io::{ErrorKind, IoSlice, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg, setsockopt,
    sockopt::{RcvBuf, RcvBufForce, UdpGroSegment},
};
use serde_json::json;
use turn::{ALLOCATE, CHANNEL, Client, REFRESH, User, is_success};

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    what: What,
}

#[derive(Args)]
struct Server {
    /// Where the server listens.
    #[arg(long)]
    server: SocketAddr,
    /// Its process.
    #[arg(long)]
    pid: u32,
    #[arg(long)]
    user: String,
    #[arg(long)]
    password: String,
}

#[derive(Subcommand)]
enum What {
    /// Data from clients to a peer.
    Flow {
        /// Where the peer listens: an address of this host.
        #[arg(long)]
        peer: SocketAddr,
        #[arg(long)]
        allocations: usize,
        /// Packets of one allocation in a row.
        #[arg(long)]
        burst: usize,
        /// Bytes of payload.
        #[arg(long, default_value_t = 200)]
        size: usize,
        /// Most packets on the way.
        #[arg(long, default_value_t = 512)]
        window: u64,
        #[arg(long)]
        secs: u64,
    },
    /// Allocations made and given back.
    Churn {
        /// Clients that do so at the same time.
        #[arg(long, default_value_t = 64)]
        clients: usize,
        #[arg(long)]
        secs: u64,
    },
    /// Memory.
    Hold {
        #[arg(long)]
        few: usize,
        #[arg(long)]
        many: usize,
        /// Makes and drops so many more times afterwards.
        #[arg(long, default_value_t = 0)]
        again: usize,
    },
}

fn main() -> Result<()> {
    let Arguments { server, what } = Arguments::parse();
    let user = User { name: server.user.clone(), password: server.password.clone() };
    let told = match what {
        What::Flow { peer, allocations, burst, size, window, secs } => {
            let flow = Flow { peer, allocations, burst, size, window, limit: Duration::from_secs(secs) };
            flow.run(&server, &user)?
        }
        What::Churn { clients, secs } => churn(&server, &user, clients, Duration::from_secs(secs))?,
        What::Hold { few, many, again } => hold(&server, &user, few, many, again)?,
    };
    println!("{told}");
    Ok(())
}

/// What the peer's socket holds at most.
const SINK_BUFFER: usize = 4 << 20;

struct Flow {
    peer: SocketAddr,
    allocations: usize,
    burst: usize,
    size: usize,
    window: u64,
    limit: Duration,
}

impl Flow {
    fn run(&self, server: &Server, user: &User) -> Result<serde_json::Value> {
        let sink = UdpSocket::bind(self.peer).context("no socket for the peer")?;
        sink.set_nonblocking(true)?;
        setsockopt(&sink, UdpGroSegment, &true)?;
        // A whole window of single packets takes more than the usual buffer has; as root the bound of the host does not count.
        let _ =
            setsockopt(&sink, RcvBufForce, &SINK_BUFFER).or_else(|_| setsockopt(&sink, RcvBuf, &SINK_BUFFER));
        let mut clients = Vec::with_capacity(self.allocations);
        for _ in 0..self.allocations {
            let mut client = Client::new(server.server, user)?;
            client.allocate()?;
            client.bind(self.peer)?;
            client.socket.set_nonblocking(true)?;
            clients.push(client);
        }
        let segment = u16::try_from(self.size + 4)?;
        let mut message = CHANNEL.to_be_bytes().to_vec();
        message.extend(u16::try_from(self.size)?.to_be_bytes());
        message.extend(vec![0x5a; self.size]);
        let burst = message.repeat(self.burst);

        let warm = self.pump(&clients, &sink, &burst, segment, Duration::from_millis(500))?;
        let cpu = cpu_seconds(server.pid)?;
        let started = Instant::now();
        let Pumped { sent, received } = self.pump(&clients, &sink, &burst, segment, self.limit)?;
        let (took, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds(server.pid)? - cpu);
        ensure!(warm.received > 0 && received > 0, "nothing arrived at the peer");
        let lost = 1.0 - received as f64 / sent as f64;
        Ok(json!({
            "packets_per_second": received as f64 / took,
            "packets_per_cpu_second": received as f64 / cpu,
            "cpu_us_per_packet": cpu * 1e6 / received as f64,
            "lost": lost,
        }))
    }

    fn pump(
        &self,
        clients: &[Client],
        sink: &UdpSocket,
        burst: &[u8],
        segment: u16,
        limit: Duration,
    ) -> Result<Pumped> {
        let started = Instant::now();
        let (mut sent, mut received, mut written_off) = (0u64, 0u64, 0u64);
        let mut heard = Instant::now();
        let mut buffer = vec![0u8; 1 << 16];
        let each = self.burst as u64;
        for client in clients.iter().cycle() {
            if started.elapsed() >= limit {
                break;
            }
            while sent - received - written_off + each > self.window {
                let arrived = take(sink, &mut buffer, self.size)?;
                received += arrived;
                if arrived > 0 {
                    heard = Instant::now();
                } else if heard.elapsed() > Duration::from_millis(100) {
                    // These are lost.
                    written_off = sent - received;
                    heard = Instant::now();
                }
            }
            let gso = [ControlMessage::UdpGsoSegments(&segment)];
            let cut: &[ControlMessage<'_>] = if self.burst > 1 { &gso } else { &[] };
            match sendmsg::<()>(
                client.socket.as_raw_fd(),
                &[IoSlice::new(burst)],
                cut,
                MsgFlags::empty(),
                None,
            ) {
                Ok(_) => sent += each,
                Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::ENOBUFS) => {}
                Err(error) => bail!("cannot send: {error}"),
            }
            received += take(sink, &mut buffer, self.size)?;
        }
        let end = Instant::now();
        while received < sent && end.elapsed() < Duration::from_millis(100) {
            received += take(sink, &mut buffer, self.size)?;
        }
        Ok(Pumped { sent, received })
    }
}

struct Pumped {
    sent: u64,
    received: u64,
}

/// Packets of one receive call, coalesced ones counted each.
fn take(sink: &UdpSocket, buffer: &mut [u8], size: usize) -> Result<u64> {
    let mut parts = [IoSliceMut::new(buffer)];
    let mut control = nix::cmsg_space!(i32);
    match recvmsg::<()>(sink.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT) {
        Ok(message) => {
            let stride = message.cmsgs()?.find_map(|control| match control {
                ControlMessageOwned::UdpGroSegments(stride) => usize::try_from(stride).ok(),
                _ => None,
            });
            let stride = stride.unwrap_or(size).max(1);
            ensure!(stride == size, "a packet of {stride} bytes arrived, {size} were sent");
            Ok(message.bytes.div_ceil(stride) as u64)
        }
        Err(nix::errno::Errno::EAGAIN) => Ok(0),
        Err(error) => bail!("cannot receive: {error}"),
    }
}

/// Each client allocates and gives back as fast as it is answered.
fn churn(server: &Server, user: &User, count: usize, limit: Duration) -> Result<serde_json::Value> {
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        let mut client = Client::new(server.server, user)?;
        // Once by the book: afterwards it has a nonce.
        client.allocate()?;
        client.socket.set_nonblocking(true)?;
        clients.push((client, false, Instant::now()));
    }
    let cpu = cpu_seconds(server.pid)?;
    let (started, mut made, mut bytes) = (Instant::now(), 0u64, [0; 2048]);
    for (client, held, asked) in &mut clients {
        (*held, *asked) = (true, Instant::now());
        let message = release(client);
        client.socket.send(&message)?;
    }
    while started.elapsed() < limit {
        for (client, held, asked) in &mut clients {
            let length = match client.socket.recv(&mut bytes) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if asked.elapsed() > Duration::from_millis(250) {
                        // Lost: whatever it was, asking to end it is answered either way.
                        (*held, *asked) = (true, Instant::now());
                        let message = release(client);
                        client.socket.send(&message)?;
                    }
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let answer = bytes.get(..length).unwrap_or_default();
            let success = is_success(answer)?;
            if !success {
                client.take_challenge(answer)?;
            }
            made += u64::from(success && !*held);
            // After an end, or a refusal, the next allocation; after an allocation, its end.
            let allocate = *held || !success;
            let message = if allocate {
                client.request(ALLOCATE, &[(0x0019, &[17, 0, 0, 0])])
            } else {
                release(client)
            };
            (*held, *asked) = (!allocate, Instant::now());
            client.socket.send(&message)?;
        }
    }
    ensure!(made > 0, "no allocation was made");
    let (took, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds(server.pid)? - cpu);
    Ok(
        json!({ "allocations_per_second": made as f64 / took, "allocations_per_cpu_second": made as f64 / cpu }),
    )
}

fn release(client: &mut Client) -> Vec<u8> {
    client.request(REFRESH, &[(0x000d, &[0, 0, 0, 0])])
}

fn hold(server: &Server, user: &User, few: usize, many: usize, again: usize) -> Result<serde_json::Value> {
    let mut clients = Vec::with_capacity(many);
    let fill = |clients: &mut Vec<Client>, count: usize| -> Result<u64> {
        while clients.len() < count {
            let mut client = Client::new(server.server, user)?;
            client.allocate()?;
            clients.push(client);
        }
        resident(server.pid)
    };
    let with_few = fill(&mut clients, few)?;
    let with_many = fill(&mut clients, many)?;
    let mut largest = with_many;
    for _ in 0..again {
        for client in &mut clients {
            let message = release(client);
            client.socket.send(&message)?;
            let _answered = client.socket.recv(&mut [0; 2048]);
        }
        clients.clear();
        largest = largest.max(fill(&mut clients, many)?);
    }
    for client in &mut clients {
        let message = release(client);
        client.socket.send(&message)?;
        let _answered = client.socket.recv(&mut [0; 2048]);
    }
    Ok(json!({
        "bytes_per_allocation": (with_many.saturating_sub(with_few)) as f64 / (many - few) as f64,
        "growth": largest as f64 / with_many as f64,
    }))
}

/// User and system time of a process so far.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the server is gone")?;
    let after = stat.rsplit_once(") ").context("an odd stat")?.1;
    let field =
        |n: usize| after.split(' ').nth(n).and_then(|text| text.parse::<f64>().ok()).context("an odd stat");
    // proc(5): fields 14 and 15, counted from the third; a tick is 10 ms on every Linux (USER_HZ).
    Ok((field(11)? + field(12)?) / 100.0)
}

fn resident(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the server is gone")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
    Ok(kib * 1024)
}
