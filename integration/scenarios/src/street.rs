//! A relay alone on a street: what clients that others wrote are tried on.

use std::time::Duration;

use anyhow::Result;
use integration_lab::{Host, Lab, Process, program, wait};

/// What every client of the street may do at the relay.
const ALLOWED: [&str; 2] = ["--allow-peer", "203.0.113.0/24"];

/// The relay's host, 203.0.113.20 and 2001:db8::20 (with a second address for a client: .30), and a host elsewhere, .40.
pub struct Street {
    /// Where the relay runs.
    pub host: Host,
    /// Across the street.
    pub elsewhere: Host,
    _lab: Lab,
}

impl Street {
    /// Lays it out.
    ///
    /// # Errors
    /// When the namespaces cannot be made.
    pub fn lay_out() -> Result<Self> {
        let lab = Lab::unique()?;
        let host = lab.host("internet")?;
        let elsewhere = lab.host("elsewhere")?;
        lab.link((&host, "wan"), (&elsewhere, "wan"))?;
        host.address("wan", &["203.0.113.20/24", "203.0.113.30/24", "2001:db8::20/64", "2001:db8::30/64"])?;
        elsewhere.address("wan", &["203.0.113.40/24"])?;
        Ok(Self { host, elsewhere, _lab: lab })
    }

    /// Starts a relay alone, with one static user (`alice:wonderland`), on both families.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn relay(&self, more: &[&str]) -> Result<Process> {
        let folder = |name: &str| self.host.dir().join(name).display().to_string();
        let relay = self
            .host
            .launch("postern-relay", program("postern-relay")?)
            .args(["--standalone", "--static-user", "alice:wonderland"])
            .args(["--listen", "203.0.113.20:3478", "--listen", "[2001:db8::20]:3478"])
            .args(["--state-dir", &folder("state"), "--run-dir", &folder("run")])
            .args(["--metrics-listen", "127.0.0.1:9462"])
            .args(more)
            .start()?;
        self.wait_ready()?;
        Ok(relay)
    }

    /// Waits until the relay says that it is ready.
    ///
    /// # Errors
    /// When it does not within ten seconds.
    pub fn wait_ready(&self) -> Result<()> {
        wait::until_true("the relay is ready", Duration::from_secs(10), || {
            let url = "http://127.0.0.1:9462/readyz";
            let done = self.host.try_run(&["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", url])?;
            Ok(done.stdout == "200")
        })?;
        Ok(())
    }

    /// Starts a relay that also takes TLS on 443, with a certificate that nobody signed, and lets peers of the street in.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn relay_with_tls(&self) -> Result<Process> {
        let file = |name: &str| self.host.dir().join(name).display().to_string();
        let (cert, key) = (file("relay.pem"), file("relay.key"));
        let make =
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        let rest = ["-keyout", &key, "-out", &cert, "-days", "2", "-subj", "/CN=relay.example"];
        self.host.run(&[&make[..], &rest].concat())?;
        let tls = ["--tls-cert", &cert, "--tls-key", &key, "--listen-tls", "203.0.113.20:443"];
        self.relay(&[&ALLOWED[..], &tls].concat())
    }
}
