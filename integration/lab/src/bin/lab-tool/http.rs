//! A small web server: downloads of a given size or pace, uploads whose checksum comes back.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use ring::digest::{Context as Digest, SHA256};

/// A peer that neither sends nor takes anything this long has gone.
const SILENCE: Duration = Duration::from_secs(60);
/// How often a paced download writes.
const BEAT: Duration = Duration::from_millis(20);

pub fn serve(listen: &[SocketAddr], greeting: &str) -> Result<()> {
    crate::on_each(
        listen,
        |address| TcpListener::bind(address).with_context(|| format!("cannot listen on {address}")),
        |listener| {
            std::thread::scope(|scope| -> Result<()> {
                loop {
                    let (stream, from) = listener.accept()?;
                    scope.spawn(move || {
                        if let Err(error) = converse(&stream, greeting) {
                            eprintln!("{from}: {error:#}");
                        }
                    });
                }
            })
        },
    )
}

fn converse(stream: &TcpStream, greeting: &str) -> Result<()> {
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut words = first.split_whitespace();
    let (method, path) = (words.next().context("no method")?, words.next().context("no path")?);
    let mut length = 0_u64;
    let mut wants_to_be_asked = false;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        let (name, value) = line.split_once(':').context("a header without a colon")?;
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse()?,
            "expect" => wants_to_be_asked = true,
            _ => {}
        }
    }

    let mut writer = stream;
    let parts: Vec<_> = path.trim_matches('/').split('/').collect();
    match (method, parts.as_slice()) {
        ("GET", [""]) => respond(writer, "200 OK", greeting),
        ("GET", ["bytes", size]) => {
            let size = size.parse()?;
            head(writer, size)?;
            write_body(writer, 0, size)
        }
        ("GET", ["sha256", size]) => respond(writer, "200 OK", &sha256_of_body(size.parse()?)?),
        ("GET", ["paced", rate, seconds]) => paced(writer, rate.parse()?, seconds.parse()?),
        ("PUT" | "POST", ["upload"]) => {
            if wants_to_be_asked {
                writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            let mut digest = Digest::new(&SHA256);
            let mut left = length;
            let mut buffer = vec![0; 64 * 1024];
            while left > 0 {
                let read = reader.read(&mut buffer)?;
                if read == 0 {
                    bail!("the upload ended {left} bytes early");
                }
                digest.update(&buffer[..read]);
                left = left.saturating_sub(read as u64);
            }
            let sum = hex(digest.finish().as_ref());
            respond(writer, "200 OK", &serde_json::json!({ "bytes": length, "sha256": sum }).to_string())
        }
        _ => respond(writer, "404 Not Found", "no such thing here\n"),
    }
}

fn head(mut to: &TcpStream, length: u64) -> Result<()> {
    write!(to, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")?;
    Ok(())
}

fn respond(mut to: &TcpStream, status: &str, text: &str) -> Result<()> {
    write!(to, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}", text.len())?;
    Ok(())
}

fn paced(to: &TcpStream, bytes_a_second: u64, seconds: u64) -> Result<()> {
    let total = bytes_a_second * seconds;
    head(to, total)?;
    let started = Instant::now();
    let mut written = 0;
    while written < total {
        let due = u64::try_from(started.elapsed().as_millis())? * bytes_a_second / 1000;
        let due = due.min(total);
        if due > written {
            write_body(to, written, due)?;
            written = due;
        }
        std::thread::sleep(BEAT);
    }
    Ok(())
}

/// The body is one fixed, incompressible sequence: byte `n` of any download is the same.
fn fill(buffer: &mut Vec<u8>, from: u64, to: u64) {
    buffer.clear();
    let mut at = from / 8;
    let skip = usize::try_from(from % 8).unwrap_or(0);
    let wanted = usize::try_from(to - from).unwrap_or(0);
    while buffer.len() < wanted + skip {
        let mut word = at.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word ^= word >> 27;
        buffer.extend_from_slice(&word.to_le_bytes());
        at += 1;
    }
    buffer.drain(..skip);
    buffer.truncate(wanted);
}

fn write_body(mut to: &TcpStream, from: u64, until: u64) -> Result<()> {
    let mut buffer = Vec::new();
    let mut at = from;
    while at < until {
        let end = (at + 256 * 1024).min(until);
        fill(&mut buffer, at, end);
        to.write_all(&buffer)?;
        at = end;
    }
    Ok(())
}

fn sha256_of_body(size: u64) -> Result<String> {
    let mut digest = Digest::new(&SHA256);
    let mut buffer = Vec::new();
    let mut at = 0;
    while at < size {
        let end = (at + 256 * 1024).min(size);
        fill(&mut buffer, at, end);
        digest.update(&buffer);
        at = end;
    }
    Ok(hex(digest.finish().as_ref()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
