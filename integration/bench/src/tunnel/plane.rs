//! Our programs on the ground: one control plane for the whole run, and a gateway with clients for each measurement.

use std::{fs, path::Path, rc::Rc, time::Duration};

use anyhow::{Context, Result, ensure};
use integration_lab::{Host, Launch, Process, program, wait};
use integration_scenarios::{Admin, Client, Node};
use serde_json::Value;

use super::ground::{CLIENTS, Ground, HUB, TARGET};

/// How long a program may take to be ready, and a path to be found.
const READY: Duration = Duration::from_secs(20);
/// The resource that stands for the target.
const RESOURCE: &str = "target";
/// What every offload is switched off with.
pub const PLAIN: [&str; 6] = ["--tun-offload", "off", "--udp-gso", "off", "--udp-gro", "off"];

/// The control plane with everything configured.
pub struct Plane {
    ground: Rc<Ground>,
    _control: Node,
    url: String,
    pin: String,
    gateway_words: Vec<String>,
    relay_words: Vec<String>,
}

/// A gateway and one client, connected.
pub struct Session {
    /// The near end. First, so that it says good-bye to a gateway that still hears it.
    pub client: Client,
    /// The far end.
    pub gateway: Node,
    /// The relay, where one is used.
    _relay: Option<Node>,
}

impl Plane {
    /// Starts control and configures it: policy, filters, and flow records as they are by default.
    pub fn start(ground: &Rc<Ground>) -> Result<Self> {
        let url = format!("https://{HUB}:8443");
        let listen = format!("{HUB}:8443");
        let control = node(&ground.hub, "postern-control", 9460, |launch| {
            launch.args(["serve", "--listen", &listen, "--public-url", &url])
        })?;
        control.wait_ready(READY)?;
        let pin = fs::read_to_string(control.state_dir.join("certificate.pin"))?.trim().to_owned();
        let admin = Admin::login(&ground.hub, &url, &pin, &control.state_dir.join("admin.token"))?;
        let file = |host: &Host, name: &str| host.dir().join(name).display().to_string();
        admin.say("site create far")?;
        let token = file(&ground.far, "gateway.token");
        let gateway = admin.say(&format!("gateway-token create gateway --site far --out {token}"))?;
        let token = file(&ground.hub, "relay.token");
        let relay = admin.say(&format!("relay-token create relay --region bench --out {token}"))?;
        let filters = "--filter tcp:1-65535 --filter udp:1-65535 --filter icmp";
        admin.say(&format!("resource create {RESOURCE} --site far --ip {TARGET} {filters}"))?;
        admin.say("group create everybody")?;
        admin.say(&format!("policy create everybody --group everybody --resource {RESOURCE}"))?;
        for host in [&ground.near].into_iter().chain(&ground.clients) {
            let token = file(host, "client.token");
            admin.say(&format!("service-account create {} --group everybody --out {token}", host.name()))?;
        }
        Ok(Self {
            ground: Rc::clone(ground),
            _control: control,
            url,
            pin,
            gateway_words: words_of(&gateway)?,
            relay_words: words_of(&relay)?,
        })
    }

    /// Starts gateway and client on the way that is open, until packets take the path that is asked for.
    pub fn connect(&self, path: &str, arguments: &[&str]) -> Result<Session> {
        let relay = if path == "relayed" { Some(self.relay()?) } else { None };
        let gateway = self.gateway(arguments)?;
        let client = self.client(&self.ground.near, arguments)?;
        granted(&client, path)?;
        Ok(Session { client, gateway, _relay: relay })
    }

    /// Starts a gateway and all the clients that have hosts of their own.
    pub fn connect_many(&self) -> Result<(Vec<Client>, Node)> {
        let gateway = self.gateway(&[])?;
        let mut clients = Vec::with_capacity(CLIENTS);
        for host in &self.ground.clients {
            clients.push(self.client(host, &[])?);
        }
        for client in &clients {
            granted(client, "direct")?;
        }
        Ok((clients, gateway))
    }

    fn relay(&self) -> Result<Node> {
        let listen = format!("{HUB}:3478");
        let relay = node(&self.ground.hub, "postern-relay", 9462, |launch| {
            // The ground has addresses that are reserved for documentation; a relay distrusts those.
            let launch = launch.args(self.relay_words.iter().skip(1));
            launch.args(["--listen", &listen, "--allow-peer", "203.0.113.0/24"])
        })?;
        relay.wait_ready(READY)?;
        Ok(relay)
    }

    fn gateway(&self, arguments: &[&str]) -> Result<Node> {
        let gateway = node(&self.ground.far, "postern-gateway", 9461, |launch| {
            launch.args(self.gateway_words.iter().skip(1)).args(arguments)
        })?;
        gateway.wait_ready(READY)?;
        Ok(gateway)
    }

    fn client(&self, host: &Host, arguments: &[&str]) -> Result<Client> {
        let (state_dir, run_dir) = (host.dir().join("state"), host.dir().join("run"));
        let token = host.dir().join("client.token").display().to_string();
        let process = host
            .launch("postern", program("postern")?)
            .args(["daemon", "--control-url", &self.url, "--control-pin", &self.pin, "--token-file", &token])
            .args(dirs(&state_dir, &run_dir))
            .args(["--dns", "off", "--log", "warn"])
            .args(arguments)
            .start()?;
        let client = Client { host: host.clone(), process, state_dir, run_dir };
        wait::until_true("the daemon answers", READY, || {
            ensure!(client.process.pid().is_some(), "it ended: {}", client.process.stderr());
            client.status().map(|_| true)
        })?;
        client.wait_control("connected", READY)?;
        client.wait_known(RESOURCE, READY)?;
        Ok(client)
    }
}

/// Waits until packets pass on the path that is asked for.
fn granted(client: &Client, path: &str) -> Result<()> {
    wait::until_true("the first echo comes back", READY, || {
        Ok(client.host.try_run(&["ping", "-c1", "-W1", TARGET])?.code == 0)
    })?;
    client.wait_resource(RESOURCE, "path", path, READY)?;
    Ok(())
}

/// What of [`PLAIN`] the programs do not know; empty when every offload can be switched off.
pub fn cannot_switch_off() -> Result<Vec<String>> {
    let mut unknown = Vec::new();
    for (name, word) in [("postern-gateway", "serve"), ("postern", "daemon")] {
        let help =
            integration_lab::run(&[program(name)?.as_os_str(), word.as_ref(), "--help".as_ref()])?.stdout;
        let flags = PLAIN.iter().filter(|flag| flag.starts_with("--") && !help.contains(**flag));
        unknown.extend(flags.map(|flag| format!("{name} {flag}")));
    }
    Ok(unknown)
}

fn node(
    host: &Host,
    name: &'static str,
    metrics_port: u16,
    complete: impl FnOnce(Launch) -> Launch,
) -> Result<Node> {
    let (state_dir, run_dir) =
        (host.dir().join(format!("{name}-state")), host.dir().join(format!("{name}-run")));
    let metrics = format!("127.0.0.1:{metrics_port}");
    let launch = complete(host.launch(name, program(name)?));
    let process: Process = launch
        .args(dirs(&state_dir, &run_dir))
        .args(["--metrics-listen", &metrics, "--log", "warn"])
        .start()?;
    Ok(Node { host: host.clone(), process, program: name, state_dir, run_dir, metrics_port })
}

fn dirs(state: &Path, run: &Path) -> [String; 4] {
    let text = |path: &Path| path.display().to_string();
    ["--state-dir".to_owned(), text(state), "--run-dir".to_owned(), text(run)]
}

/// The words of the command for the other host that creating a token printed.
fn words_of(created: &Value) -> Result<Vec<String>> {
    let command = created["command"].as_str().with_context(|| format!("no command in {created}"))?;
    Ok(command.split_whitespace().map(str::to_owned).collect())
}
