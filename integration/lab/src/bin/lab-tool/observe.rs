//! Probes of a path: what address does a datagram come from, and does one that nobody asked for arrive?

use std::{
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Args;

pub fn serve(listen: &[SocketAddr]) -> Result<()> {
    crate::on_each(
        listen,
        |address| UdpSocket::bind(address).with_context(|| format!("cannot listen on {address}")),
        |socket| {
            let mut buffer = [0_u8; 2048];
            loop {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    let text = String::from_utf8_lossy(&buffer[..length]);
                    println!(
                        "{}",
                        serde_json::json!({ "from": from.to_string(), "text": text, "bytes": length })
                    );
                    let _lost = socket.send_to(from.to_string().as_bytes(), from);
                }
            }
        },
    )
}

#[derive(Args)]
pub struct Send {
    /// Own address and port.
    #[arg(long, default_value = "0.0.0.0:0")]
    bind: SocketAddr,
    /// Where to send (repeatable).
    #[arg(long)]
    to: Vec<SocketAddr>,
    /// What to send.
    #[arg(long, default_value = "hello")]
    text: String,
    /// How many bytes to send: the text is padded.
    #[arg(long, default_value_t = 0)]
    size: usize,
    /// How long to listen afterwards, in milliseconds.
    #[arg(long, default_value_t = 300)]
    listen_ms: u64,
    /// End as soon as this many answers came.
    #[arg(long)]
    answers: Option<usize>,
}

impl Send {
    pub fn run(&self) -> Result<()> {
        let socket = UdpSocket::bind(self.bind).with_context(|| format!("cannot bind {}", self.bind))?;
        let mut payload = self.text.clone().into_bytes();
        payload.resize(payload.len().max(self.size), b'.');
        for to in &self.to {
            socket.send_to(&payload, to).with_context(|| format!("cannot send to {to}"))?;
        }
        eprintln!("sent");

        let started = Instant::now();
        let limit = Duration::from_millis(self.listen_ms);
        let mut answers = Vec::new();
        let mut buffer = vec![0; 65_536];
        while self.answers.is_none_or(|wanted| answers.len() < wanted) {
            let left = limit.saturating_sub(started.elapsed());
            if left.is_zero() {
                break;
            }
            socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]);
                answers.push(serde_json::json!({ "from": from.to_string(), "text": text, "bytes": length }));
            }
        }
        println!("{}", serde_json::Value::Array(answers));
        Ok(())
    }
}
