//! `/healthz`, `/readyz` and `/metrics` on a port of their own: just enough HTTP/1.1 for a scraper and a probe.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::metrics::Metrics;

/// A probe's or scraper's request head is a few hundred bytes.
const LONGEST_HEAD: usize = 8 * 1024;
/// How long one exchange may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Exchanges at once: a scraper, a probe, and some curious people.
const AT_ONCE: usize = 16;
/// A pause after a failed `accept`, which otherwise would spin when descriptors run out.
const BREATH: Duration = Duration::from_millis(100);

const STARTING: &str = "starting";

/// Whether the process does its work. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Readiness(Arc<Mutex<Result<(), String>>>);

impl Default for Readiness {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Err(STARTING.into()))))
    }
}

impl Readiness {
    /// It does.
    pub fn ready(&self) {
        self.set(Ok(()));
    }

    /// It does not, and why.
    pub fn not_ready(&self, why: impl Into<String>) {
        self.set(Err(why.into()));
    }

    /// Ready, unless somebody has said something already.
    pub(crate) fn started(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.as_ref().is_err_and(|why| why == STARTING) {
            *state = Ok(());
        }
    }

    /// What was said last.
    pub fn get(&self) -> Result<(), String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, state: Result<(), String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

/// Listens on `address`.
///
/// # Errors
/// When the address is taken or not ours.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Answers until the process ends.
pub async fn serve(listener: TcpListener, metrics: Metrics, readiness: Readiness) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (metrics, readiness) = (metrics.clone(), readiness.clone());
                tokio::spawn(async move {
                    // Whoever is too slow is cut off; there is nobody to tell.
                    let _ = timeout(PATIENCE, exchange(stream, &metrics, &readiness)).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection on the metrics port");
                tokio::time::sleep(BREATH).await;
            }
        }
    }
}

async fn exchange(mut stream: TcpStream, metrics: &Metrics, readiness: &Readiness) -> io::Result<()> {
    let mut head = Vec::with_capacity(1024);
    let answer = loop {
        if head.len() > LONGEST_HEAD {
            break answer("431 Request Header Fields Too Large", "the request is too long\n", true);
        }
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
        if head.windows(4).any(|end| end == b"\r\n\r\n") {
            break respond(&head, metrics, readiness);
        }
    };
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

fn respond(head: &[u8], metrics: &Metrics, readiness: &Readiness) -> String {
    let line = head.split(|byte| *byte == b'\r').next().and_then(|line| std::str::from_utf8(line).ok());
    let mut words = line.unwrap_or_default().split(' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    if !version.is_some_and(|version| version.starts_with("HTTP/1.")) {
        return answer("400 Bad Request", "this is HTTP/1.1\n", true);
    }
    let with_body = match method {
        Some("GET") => true,
        Some("HEAD") => false,
        Some(_) | None => return answer("405 Method Not Allowed", "only GET\n", true),
    };
    match target.unwrap_or_default().split('?').next() {
        Some("/healthz") => answer("200 OK", "ok\n", with_body),
        Some("/readyz") => match readiness.get() {
            Ok(()) => answer("200 OK", "ready\n", with_body),
            Err(why) => answer("503 Service Unavailable", &format!("{why}\n"), with_body),
        },
        Some("/metrics") => answer("200 OK", &metrics.render(), with_body),
        Some(_) | None => answer("404 Not Found", "/healthz, /readyz, /metrics\n", with_body),
    }
}

fn answer(status: &str, body: &str, with_body: bool) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n{}",
        body.len(),
        if with_body { body } else { "" }
    )
}

#[cfg(test)]
mod tests {
    use actors_runtime::Universe;

    use super::*;

    fn ask(request: &[u8], readiness: &Readiness) -> String {
        let universe = Universe::new(crate::testing::ROWS);
        let metrics = crate::metrics::tests::metrics(&universe);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(serve(listener, metrics, readiness.clone()));
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(request).await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            text
        })
    }

    #[test]
    fn a_process_is_healthy_before_it_is_ready() {
        let readiness = Readiness::default();

        let healthy = ask(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", &readiness);
        let starting = ask(b"GET /readyz HTTP/1.1\r\n\r\n", &readiness);
        readiness.ready();
        let ready = ask(b"GET /readyz HTTP/1.1\r\n\r\n", &readiness);

        assert!(healthy.starts_with("HTTP/1.1 200 OK\r\n"));
        assert!(starting.starts_with("HTTP/1.1 503 ") && starting.ends_with("\r\n\r\nstarting\n"));
        assert!(ready.ends_with("\r\n\r\nready\n"));
    }

    #[test]
    fn metrics_are_served_with_their_length() {
        let text = ask(b"GET /metrics HTTP/1.1\r\n\r\n", &Readiness::default());

        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
        assert!(body.contains("postern_mailbox_depth{kind=\"Sleeper\"} 0\n"));
    }

    #[test]
    fn what_is_not_a_get_is_refused() {
        let readiness = Readiness::default();

        assert!(ask(b"POST /metrics HTTP/1.1\r\n\r\n", &readiness).starts_with("HTTP/1.1 405 "));
        assert!(ask(b"GET /etc/passwd HTTP/1.1\r\n\r\n", &readiness).starts_with("HTTP/1.1 404 "));
        assert!(ask(b"hello\r\n\r\n", &readiness).starts_with("HTTP/1.1 400 "));
        assert!(ask(&[b'x'; LONGEST_HEAD + 1], &readiness).starts_with("HTTP/1.1 431 "));
    }
}
