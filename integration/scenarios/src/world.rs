//! The whole of Postern on the ground: control and relay in the internet, a gateway in the office, a client at home.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use integration_lab::{Host, Lab, Launch, Nat, Process, RouterPlan, program, wait};
use serde_json::Value;

use crate::{
    Admin, Client, Ground, Node,
    addresses::{
        CONTROL_URL, OFFICE_LAN, OFFICE_LAN6, PAYROLL_LAN, RELAY, RELAY_2, RELAY6, SECOND_NAME, WEB_NAME,
    },
};

/// How long a program may take to be ready.
const READY: Duration = Duration::from_secs(15);

/// What differs between worlds.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Both NATs.
    pub nat: RouterPlan,
    /// Whether the policies that open the office are written.
    pub allowed: bool,
    /// More arguments for control.
    pub control_arguments: Vec<String>,
    /// More arguments for the relay.
    pub relay_arguments: Vec<String>,
    /// More arguments for the gateway.
    pub gateway_arguments: Vec<String>,
    /// More arguments for the clients.
    pub client_arguments: Vec<String>,
    /// Where the gateway finds control, when it is not where control says.
    pub gateway_control_url: Option<&'static str>,
    /// The log filter of every program.
    pub log: &'static str,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            nat: Nat::PortRestricted.into(),
            allowed: true,
            control_arguments: Vec::new(),
            relay_arguments: Vec::new(),
            gateway_arguments: Vec::new(),
            client_arguments: Vec::new(),
            gateway_control_url: None,
            log: "info",
        }
    }
}

/// A running world.
pub struct World {
    /// The namespaces. First, so that everything is asked to end at once.
    pub ground: Ground,
    /// What differs.
    pub plan: Plan,
    /// The control plane.
    pub control: Option<Node>,
    /// The relay.
    pub relay: Option<Node>,
    /// The gateway, supervised.
    pub gateway: Option<Node>,
    /// The client at home.
    pub client: Option<Client>,
    admin: Option<Admin>,
    pin: String,
    gateway_command: Vec<String>,
    relay_command: Vec<String>,
    login_command: Vec<String>,
}

impl World {
    /// The ground alone.
    pub fn lay_out(lab: Lab, plan: Plan) -> Result<Self> {
        let ground = Ground::lay_out(lab)?;
        ground.office_nat.set(plan.nat)?;
        ground.home_nat.set(plan.nat)?;
        Ok(Self {
            ground,
            plan,
            control: None,
            relay: None,
            gateway: None,
            client: None,
            admin: None,
            pin: String::new(),
            gateway_command: Vec::new(),
            relay_command: Vec::new(),
            login_command: Vec::new(),
        })
    }

    /// Everything up: configured, connected, and (when the plan allows it) granted on the first packet.
    pub fn start(plan: Plan) -> Result<Self> {
        Self::start_on(plan, |_| Ok(()))
    }

    /// The same, with something changed on the ground before the programs start.
    pub fn start_on(plan: Plan, change: impl FnOnce(&Ground) -> Result<()>) -> Result<Self> {
        let mut world = Self::lay_out(Lab::unique()?, plan)?;
        change(&world.ground)?;
        world.start_control()?;
        world.configure()?;
        world.start_relay()?;
        world.start_gateway()?;
        world.start_client()?;
        world.wait_connected()?;
        Ok(world)
    }

    /// Ends everything, and says what could not be removed.
    pub fn close(self) -> Result<()> {
        self.ground.lab.close()
    }

    /// The administrator, once control has been started.
    pub fn admin(&self) -> Result<&Admin> {
        self.admin.as_ref().context("control was never started")
    }

    /// The running control plane.
    pub fn control(&self) -> Result<&Node> {
        self.control.as_ref().context("control does not run")
    }

    /// The running gateway.
    pub fn gateway(&self) -> Result<&Node> {
        self.gateway.as_ref().context("the gateway does not run")
    }

    /// The running relay.
    pub fn relay(&self) -> Result<&Node> {
        self.relay.as_ref().context("the relay does not run")
    }

    /// The running client.
    pub fn client(&self) -> Result<&Client> {
        self.client.as_ref().context("the client does not run")
    }

    /// The words of the command that control printed for the gateway's host.
    pub fn gateway_command(&self) -> &[String] {
        &self.gateway_command
    }

    /// The pin of control's certificate.
    pub fn pin(&self) -> &str {
        &self.pin
    }

    /// Starts control, on an empty directory the first time, and logs the administrator in.
    pub fn start_control(&mut self) -> Result<()> {
        let host = &self.ground.internet;
        let arguments = [
            "serve",
            "--listen",
            "203.0.113.10:8443",
            "--listen",
            "[2001:db8::10]:8443",
            "--public-url",
            CONTROL_URL,
        ];
        let node = self.node(host, "postern-control", 9460, |launch| {
            launch.args(arguments).args(&self.plan.control_arguments)
        })?;
        node.wait_ready(READY)?;
        let token = node.state_dir.join("admin.token");
        self.pin = fs::read_to_string(node.state_dir.join("certificate.pin"))?.trim().to_owned();
        if self.admin.is_none() {
            self.admin = Some(Admin::login(host, CONTROL_URL, &self.pin, &token)?);
        }
        self.control = Some(node);
        Ok(())
    }

    /// Writes what the demo needs through `postern admin`: site, tokens, resources, group, account, policies.
    pub fn configure(&mut self) -> Result<()> {
        let admin = self.admin()?.clone();
        let (office, internet, home) = (&self.ground.office, &self.ground.internet, &self.ground.home);
        let file = |host: &Host, name: &str| host.dir().join(name).display().to_string();
        admin.say("site create office")?;
        let gateway =
            format!("gateway-token create office-1 --site office --out {}", file(office, "gateway.token"));
        let relay =
            format!("relay-token create relay-1 --region lab --out {}", file(internet, "relay.token"));
        let (gateway, relay) = (admin.say(&gateway)?, admin.say(&relay)?);
        admin.say(&format!("resource create wiki --site office --dns {WEB_NAME}"))?;
        admin.say(&format!("resource create blog --site office --dns {SECOND_NAME}"))?;
        admin.say(&format!("resource create office-lan --site office --cidr {OFFICE_LAN}"))?;
        admin.say(&format!("resource create office-lan6 --site office --cidr {OFFICE_LAN6}"))?;
        admin.say(&format!("resource create payroll --site office --cidr {PAYROLL_LAN} --listed"))?;
        admin.say("group create engineering")?;
        let token = file(home, "client.token");
        let account =
            admin.say(&format!("service-account create laptop --group engineering --out {token}"))?;
        self.gateway_command = command_of(&gateway)?;
        self.relay_command = command_of(&relay)?;
        self.login_command = command_of(&account)?;
        if self.plan.allowed {
            self.allow("wiki")?;
            self.allow("blog")?;
            self.allow("office-lan")?;
            self.allow("office-lan6")?;
        }
        Ok(())
    }

    /// Lets the group reach a resource, by a policy `engineering-reaches-<resource>`.
    pub fn allow(&self, resource: &str) -> Result<()> {
        let line =
            format!("policy create engineering-reaches-{resource} --group engineering --resource {resource}");
        self.admin()?.say(&line)?;
        Ok(())
    }

    /// Starts the relay with the command that control printed for it.
    pub fn start_relay(&mut self) -> Result<()> {
        let listen = [format!("{RELAY}:3478"), format!("[{RELAY6}]:3478")];
        let node = self.node(&self.ground.internet, "postern-relay", 9462, |launch| {
            let launch = launch.args(self.relay_command.iter().skip(1));
            let launch = launch.args(listen.iter().flat_map(|address| ["--listen", address]));
            // The lab lives in addresses that are reserved for documentation; a relay distrusts those.
            let launch = launch.args(["--allow-peer", "203.0.113.0/24", "--allow-peer", "2001:db8::/32"]);
            launch.args(&self.plan.relay_arguments)
        })?;
        node.wait_ready(READY)?;
        // A relay is ready without control; whoever starts next shall be told of it.
        wait::until_true("control knows the relay", READY, || {
            Ok(node.metric("postern_relay_control_session", "")? > 0.0)
        })?;
        self.relay = Some(node);
        Ok(())
    }

    /// Starts a second relay beside the first, at the address after it, with a token of its own the first time.
    pub fn start_second_relay(&self) -> Result<Node> {
        let host = &self.ground.internet;
        let token = host.dir().join("relay-2.token").display().to_string();
        if !Path::new(&token).exists() {
            host.address("wan", &[&format!("{RELAY_2}/24")])?;
            self.admin()?.say(&format!("relay-token create relay-2 --region lab --out {token}"))?;
        }
        let words = self.relay_command.iter().skip(1).map(String::as_str);
        let first = host.dir().join("relay.token").display().to_string();
        let words: Vec<&str> = words.map(|word| if word == first { token.as_str() } else { word }).collect();
        let listen = format!("{RELAY_2}:3478");
        let (state_dir, run_dir) = (host.dir().join("relay-2-state"), host.dir().join("relay-2-run"));
        let process = host
            .launch("postern-relay-2", program("postern-relay")?)
            .args(words)
            .args(["--listen", &listen, "--allow-peer", "203.0.113.0/24"])
            .args(["--metrics-listen", "127.0.0.1:9463", "--log", self.plan.log])
            .args(&self.plan.relay_arguments)
            .args(dirs(&state_dir, &run_dir))
            .start()?;
        let node = Node {
            host: host.clone(),
            process,
            program: "postern-relay",
            state_dir,
            run_dir,
            metrics_port: 9463,
        };
        node.wait_ready(READY)?;
        wait::until_true("control knows the second relay", READY, || {
            Ok(node.metric("postern_relay_control_session", "")? > 0.0)
        })?;
        Ok(node)
    }

    /// Starts the gateway, supervised, with the command that control printed for it.
    pub fn start_gateway(&mut self) -> Result<()> {
        let elsewhere = self.plan.gateway_control_url;
        let words = self.gateway_command.iter().skip(1).map(String::as_str);
        let words: Vec<_> =
            words.map(|word| if word == CONTROL_URL { elsewhere.unwrap_or(word) } else { word }).collect();
        let node = self.node(&self.ground.office, "postern-gateway", 9461, |launch| {
            launch.args(words).args(&self.plan.gateway_arguments).supervised()
        })?;
        node.wait_ready(READY)?;
        self.gateway = Some(node);
        Ok(())
    }

    /// A second gateway in the office, on a host of its own. Nobody starts it again when it ends.
    pub fn second_gateway(&self, name: &str) -> Result<Node> {
        let host = self.ground.lab.host("office-two")?;
        self.ground.attach(&host, "eth0", &self.ground.office_nat, 1, 3)?;
        host.names(&[crate::addresses::WEB.parse()?], &[])?;
        let token = host.dir().join("gateway.token");
        fs::copy(self.ground.office.dir().join("gateway.token"), &token)?;
        let token = token.display().to_string();
        let words = [
            "--control-url",
            CONTROL_URL,
            "--control-pin",
            &self.pin,
            "--token-file",
            &token,
            "--name",
            name,
        ];
        let node = self.node(&host, "postern-gateway", 9461, |launch| launch.args(words))?;
        node.wait_ready(READY)?;
        Ok(node)
    }

    /// Starts the daemon at home and logs it in with the command that control printed for it.
    pub fn start_client(&mut self) -> Result<()> {
        let client = self.client_on(&self.ground.home)?;
        client.postern(&self.login_words())?.ok()?;
        self.client = Some(client);
        Ok(())
    }

    /// A second client, on a host of its own behind the home's router, with an account of its own.
    pub fn second_client(&self, account: &str) -> Result<Client> {
        let host = self.ground.lab.host("second")?;
        self.ground.attach(&host, "eth0", &self.ground.home_nat, 7, 3)?;
        host.names(&["203.0.113.53".parse()?], &[])?;
        let token = host.dir().join("client.token").display().to_string();
        self.admin()?.say(&format!("service-account create {account} --group engineering --out {token}"))?;
        let client = self.client_on(&host)?;
        self.login(&client, &token)?;
        Ok(client)
    }

    /// So many simulated devices of one account, which hold sessions with control and do nothing else.
    pub fn crowd(&self, nodes: usize) -> Result<Process> {
        let host = &self.ground.internet;
        let token = host.dir().join("crowd.token").display().to_string();
        self.admin()?.say(&format!("service-account create crowd --group engineering --out {token}"))?;
        let certificate = self.control()?.state_dir.join("certificate.pem").display().to_string();
        let words = ["--connect", "203.0.113.10:8443", "--certificate", &certificate, "--token", &token];
        let crowd = host.launch("crowd", program("puppet-nodes")?).args(words);
        let crowd = crowd.args(["--stay", "--nodes", &nodes.to_string()]).start()?;
        wait::until_true("the crowd is connected", Duration::from_secs(60), || {
            ensure!(crowd.pid().is_some(), "it ended: {}", crowd.stderr());
            Ok(crowd.stdout().contains(r#""event":"up""#))
        })?;
        Ok(crowd)
    }

    /// `postern login` on a client with a token file.
    pub fn login(&self, client: &Client, token_file: &str) -> Result<()> {
        let words =
            ["login", "--control-url", CONTROL_URL, "--control-pin", &self.pin, "--token-file", token_file];
        client.postern(&words)?.ok()?;
        Ok(())
    }

    /// A daemon without a token, up to where its socket answers.
    pub fn client_on(&self, host: &Host) -> Result<Client> {
        let (state_dir, run_dir) = (host.dir().join("state"), host.dir().join("run"));
        let process = host
            .launch("postern", program("postern")?)
            .arg("daemon")
            .args(dirs(&state_dir, &run_dir))
            .args(["--dns", "file", "--log", self.plan.log])
            .args(&self.plan.client_arguments)
            .start()?;
        let client = Client { host: host.clone(), process, state_dir, run_dir };
        wait::until_true("the daemon answers", READY, || {
            ensure!(client.process.pid().is_some(), "it ended: {}", client.process.stderr());
            client.status().map(|_| true)
        })?;
        Ok(client)
    }

    /// Waits until gateway, relay and client are connected and the client knows its resources.
    pub fn wait_connected(&self) -> Result<()> {
        let client = self.client()?;
        client.wait_control("connected", READY)?;
        client.wait_known(if self.plan.allowed { "wiki" } else { "payroll" }, READY)?;
        wait::until_true("all nodes are online", READY, || self.all_online())?;
        Ok(())
    }

    /// Whether control sees gateway, relay and client.
    pub fn all_online(&self) -> Result<bool> {
        for kind in ["gateway", "relay", "device"] {
            let list = self.admin()?.json(&[kind, "list"])?;
            let items = list["items"].as_array().context("no items")?;
            if items.is_empty() || items.iter().any(|item| item["state"] != "online") {
                bail!("{kind}s: {list}");
            }
        }
        Ok(true)
    }

    /// `curl` at home, with a limit and no output; what it printed with `-w` is the answer.
    pub fn curl(&self, words: &[&str]) -> Result<integration_lab::Done> {
        self.ground.home.try_run(&[&["curl", "-sS", "--max-time", "20"], words].concat())
    }

    /// The lab's tool at home; the JSON that it prints.
    pub fn tool(&self, line: &str) -> Result<Value> {
        tool_on(&self.ground.home, line)
    }

    fn login_words(&self) -> Vec<&str> {
        self.login_command.iter().skip(1).map(String::as_str).collect()
    }

    fn node(
        &self,
        host: &Host,
        name: &'static str,
        metrics_port: u16,
        complete: impl FnOnce(Launch) -> Launch,
    ) -> Result<Node> {
        let (state_dir, run_dir) =
            (host.dir().join(format!("{name}-state")), host.dir().join(format!("{name}-run")));
        let metrics = format!("127.0.0.1:{metrics_port}");
        let launch = complete(host.launch(name, program(name)?)).args(dirs(&state_dir, &run_dir)).args([
            "--metrics-listen",
            &metrics,
            "--log",
            self.plan.log,
        ]);
        let process = launch.start()?;
        Ok(Node { host: host.clone(), process, program: name, state_dir, run_dir, metrics_port })
    }
}

/// The lab's tool on any host; the JSON that it prints.
pub fn tool_on(host: &Host, line: &str) -> Result<Value> {
    let tool = program("lab-tool")?.display().to_string();
    let argv: Vec<_> = std::iter::once(tool.as_str()).chain(line.split_whitespace()).collect();
    host.run(&argv)?.json()
}

fn dirs(state: &Path, run: &Path) -> [PathBuf; 4] {
    ["--state-dir".into(), state.to_owned(), "--run-dir".into(), run.to_owned()]
}

/// The words of the command for the other host that creating a token printed.
fn command_of(created: &Value) -> Result<Vec<String>> {
    let command = created["command"].as_str().with_context(|| format!("no command in {created}"))?;
    ensure!(!command.contains("pst_"), "the command carries a token itself: {command}");
    Ok(command.split_whitespace().map(str::to_owned).collect())
}
