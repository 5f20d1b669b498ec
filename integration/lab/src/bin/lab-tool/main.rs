//! What the hosts of a lab run beside Postern: a web server, a name server, UDP echoes, and probes of NATs.
//!
//! One binary, so that a lab needs nothing but what this workspace builds and a few packages of the system.

mod conntrack;
mod dns;
mod echo;
mod flood;
mod http;
mod observe;
mod websocket;

use std::net::SocketAddr;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(version, about = "The lab's own servers and probes")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Serves a static zone; every question is one JSON line on standard output.
    Dns {
        /// Where to listen (repeatable).
        #[arg(long, required = true)]
        listen: Vec<SocketAddr>,
        /// `name=address` (repeatable); names that are not here do not exist.
        #[arg(long)]
        record: Vec<dns::Record>,
    },
    /// Serves `/`, `/bytes/N`, `/sha256/N`, `/paced/BYTES_A_SECOND/SECONDS`, and takes `PUT /upload`.
    Http {
        /// Where to listen (repeatable).
        #[arg(long, required = true)]
        listen: Vec<SocketAddr>,
        /// What `/` answers.
        #[arg(long, default_value = "hello from the office\n")]
        greeting: String,
    },
    /// Sends every datagram back.
    UdpEcho {
        /// Where to listen (repeatable).
        #[arg(long, required = true)]
        listen: Vec<SocketAddr>,
    },
    /// Sends numbered datagrams to an echo server and reports, as one JSON object, what came back.
    UdpPing(echo::Ping),
    /// Answers every datagram with the address it came from; each one is a JSON line on standard output.
    UdpObserve {
        /// Where to listen (repeatable).
        #[arg(long, required = true)]
        listen: Vec<SocketAddr>,
    },
    /// Sends one datagram to each address and prints, as a JSON array, what comes back.
    UdpSend(observe::Send),
    /// Stands between control and a node, and floods the node with control's messages when told.
    ControlProxy(flood::Proxy),
    /// Makes this network namespace forget its connections, and with them their translations.
    ForgetConnections {
        /// Only those of UDP.
        #[arg(long)]
        udp: bool,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().what {
        What::Dns { listen, record } => dns::serve(&listen, &record),
        What::Http { listen, greeting } => http::serve(&listen, &greeting),
        What::UdpEcho { listen } => echo::serve(&listen),
        What::UdpPing(ping) => ping.run(),
        What::UdpObserve { listen } => observe::serve(&listen),
        What::UdpSend(send) => send.run(),
        What::ControlProxy(proxy) => proxy.run(),
        What::ForgetConnections { udp: true } => conntrack::forget_udp(),
        What::ForgetConnections { udp: false } => conntrack::forget_all(),
    }
}

/// Runs a server function for each address, each on its own thread, until one of them fails.
fn on_each<T: Send>(
    listen: &[SocketAddr],
    open: impl Fn(SocketAddr) -> Result<T>,
    serve: impl Fn(T) -> Result<()> + Sync,
) -> Result<()> {
    let opened = listen.iter().map(|address| open(*address)).collect::<Result<Vec<_>>>()?;
    println!("{}", serde_json::json!({ "event": "ready" }));
    let (failed, first_failure) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        for one in opened {
            let (failed, serve) = (failed.clone(), &serve);
            scope.spawn(move || {
                let _nobody_waits_after_the_first = failed.send(serve(one));
            });
        }
        if let Ok(Err(error)) = first_failure.recv() {
            eprintln!("error: {error:#}");
            std::process::exit(1);
        }
    });
    Ok(())
}
