//! The ground of every scenario: an internet, an office behind a router, a home behind two.
//!
//! ```text
//!                        internet  203.0.113.0/24, 2001:db8::/64
//!          control .10     relay .20     name server .53
//!       ____________|________________________________|______________
//!      |                            |                               |
//!  office-nat .101             home-nat .102                  mobile-nat .103
//!      | 192.168.1.0/24             | 192.168.7.0/24                | 192.168.8.0/24
//!      | 2001:db8:1::/64            | 2001:db8:7::/64               | 2001:db8:8::/64
//!   office .2 (gateway)          home .2 (client) ---- eth1 --------+
//!   office-web .20, .30          second .3 (another client)
//! ```

use std::{net::IpAddr, time::Duration};

use anyhow::{Context, Result};
use integration_lab::{Host, Lab, Nat, Process, Router, program, wait};

/// The addresses of the ground.
pub mod addresses {
    /// Where `postern-control` listens.
    pub const CONTROL: &str = "203.0.113.10";
    /// The address of control's API.
    pub const CONTROL_URL: &str = "https://203.0.113.10:8443";
    /// Where `postern-relay` listens, IPv4.
    pub const RELAY: &str = "203.0.113.20";
    /// Where `postern-relay` listens, IPv6.
    pub const RELAY6: &str = "2001:db8::20";
    /// Where a second one listens.
    pub const RELAY_2: &str = "203.0.113.21";
    /// The office's outside address.
    pub const OFFICE_OUTSIDE: &str = "203.0.113.101";
    /// The home's outside address.
    pub const HOME_OUTSIDE: &str = "203.0.113.102";
    /// The gateway's address in the office.
    pub const GATEWAY: &str = "192.168.1.2";
    /// The web server's address in the office.
    pub const WEB: &str = "192.168.1.20";
    /// The web server's IPv6 address.
    pub const WEB6: &str = "2001:db8:1::20";
    /// The name that the office's name server knows it by.
    pub const WEB_NAME: &str = "wiki.corp.example";
    /// A second name of the same server.
    pub const SECOND_NAME: &str = "blog.corp.example";
    /// The office's IPv4 network.
    pub const OFFICE_LAN: &str = "192.168.1.0/24";
    /// The office's IPv6 network.
    pub const OFFICE_LAN6: &str = "2001:db8:1::/64";
    /// A network of the office that no policy names.
    pub const PAYROLL_LAN: &str = "192.168.2.0/24";
    /// The server in it.
    pub const PAYROLL: &str = "192.168.2.30";
    /// The client's address at home.
    pub const HOME: &str = "192.168.7.2";
}

/// The namespaces, their routers, and the servers of the office; no program of ours runs in it yet.
pub struct Ground {
    /// Owns all the rest.
    pub lab: Lab,
    /// Control, the relay and a public name server.
    pub internet: Host,
    /// The gateway's host.
    pub office: Host,
    /// The web server's host: web on 80, echo on 7, names on 53, iperf3 on 5201.
    pub web: Host,
    /// The client's host; `eth0` at home, `eth1` on the mobile network.
    pub home: Host,
    /// Between office and internet.
    pub office_nat: Router,
    /// Between home and internet.
    pub home_nat: Router,
    /// Between the home's second uplink and internet.
    pub mobile_nat: Router,
    servers: Vec<Process>,
}

impl Ground {
    /// Lays it out; both NATs are port-restricted.
    pub fn lay_out(lab: Lab) -> Result<Self> {
        let internet = lab.host("internet")?;
        let office = lab.host("office")?;
        let web = lab.host("office-web")?;
        let home = lab.host("home")?;
        let office_nat = lab.router("office-nat")?;
        let home_nat = lab.router("home-nat")?;
        let mobile_nat = lab.router("mobile-nat")?;

        internet.bridge("wan", &[])?;
        internet.address("wan", &["203.0.113.10/24", "203.0.113.20/24", "203.0.113.53/24"])?;
        internet.address("wan", &["2001:db8::10/64", "2001:db8::20/64"])?;
        let sites = [(&office_nat, 1, 101), (&home_nat, 7, 102), (&mobile_nat, 8, 103)];
        for (router, site, last) in sites {
            let port = format!("to-{last}");
            lab.link((router.host(), "outside"), (&internet, &port))?;
            internet.ip(&format!("link set {port} master wan"))?;
            router
                .host()
                .address("outside", &[&format!("203.0.113.{last}/24"), &format!("2001:db8::{last}/64")])?;
            router
                .host()
                .address("inside", &[&format!("192.168.{site}.1/24"), &format!("2001:db8:{site}::1/64")])?;
        }
        // Every router, and the internet itself, knows the way to every IPv6 network: nothing translates those.
        for (_, site, last) in sites {
            internet.ip(&format!("-6 route add 2001:db8:{site}::/64 via 2001:db8::{last}"))?;
            for (router, _, other) in sites {
                if other != last {
                    router.host().ip(&format!("-6 route add 2001:db8:{site}::/64 via 2001:db8::{last}"))?;
                }
            }
            internet.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        }
        for (router, _, _) in sites {
            router.set(Nat::PortRestricted)?;
        }

        let ground =
            Self { servers: Vec::new(), lab, internet, office, web, home, office_nat, home_nat, mobile_nat };
        ground.attach(&ground.office, "eth0", &ground.office_nat, 1, 2)?;
        ground.attach(&ground.web, "eth0", &ground.office_nat, 1, 20)?;
        ground.web.address("eth0", &["192.168.1.30/24", "192.168.2.30/24"])?;
        ground.office.ip("route add 192.168.2.0/24 dev eth0")?;
        ground.attach(&ground.home, "eth0", &ground.home_nat, 7, 2)?;
        ground.office.names(&[ip(addresses::WEB)?], &[])?;
        ground.home.names(&[ip("203.0.113.53")?], &[])?;
        ground.start_servers()
    }

    /// Plugs a host into the switch of a site's router, with addresses that end in `last`, and routes through it.
    pub fn attach(&self, host: &Host, interface: &str, router: &Router, site: u8, last: u8) -> Result<()> {
        self.lab.plug(host, interface, router)?;
        host.address(
            interface,
            &[&format!("192.168.{site}.{last}/24"), &format!("2001:db8:{site}::{last}/64")],
        )?;
        host.default_route(ip(&format!("192.168.{site}.1"))?)?;
        host.default_route(ip(&format!("2001:db8:{site}::1"))?)
    }

    fn start_servers(mut self) -> Result<Self> {
        let wiki = ["wiki.corp.example=192.168.1.20", "wiki.corp.example=2001:db8:1::20"];
        let blog = ["blog.corp.example=192.168.1.20", "blog.corp.example=2001:db8:1::20"];
        let records =
            |names: &[&str]| names.iter().map(|name| format!(" --record {name}")).collect::<String>();
        let everywhere = |port: u16| {
            let all = ["192.168.1.20", "192.168.1.30", "192.168.2.30", "[2001:db8:1::20]"];
            all.iter().map(|address| format!(" --listen {address}:{port}")).collect::<String>()
        };
        let lines = [
            (&self.web, "dns", format!("dns --listen 192.168.1.20:53{}", records(&[wiki, blog].concat()))),
            (&self.web, "http", format!("http{}", everywhere(80))),
            (&self.web, "echo", format!("udp-echo{}", everywhere(7))),
            (
                &self.internet,
                "dns",
                "dns --listen 203.0.113.53:53 --record www.example=203.0.113.10".to_owned(),
            ),
        ];
        let tool = program("lab-tool")?;
        for (host, name, words) in &lines {
            self.servers.push(host.launch(name, &tool).args(words.split_whitespace()).start()?);
        }
        for (server, (_, name, _)) in self.servers.iter().zip(&lines) {
            let ready = || Ok(server.stdout().contains("ready"));
            wait::until_true(&format!("the lab's {name} server listens"), Duration::from_secs(5), ready)?;
        }
        Ok(self)
    }

    /// What the office's name server was asked, a JSON object a line.
    pub fn office_queries(&self) -> String {
        self.servers.first().map(Process::stdout).unwrap_or_default()
    }

    /// Gives the home its second uplink, cabled but without routes.
    pub fn plug_mobile(&self) -> Result<()> {
        self.lab.plug(&self.home, "eth1", &self.mobile_nat)?;
        self.home.address("eth1", &["192.168.8.2/24", "2001:db8:8::2/64"])
    }

    /// Puts the cable of the home's first uplink back in, and pulls the second one's.
    pub fn return_home(&self) -> Result<()> {
        self.home.ip("link set eth0 up")?;
        // What was pulled has lost its IPv6 address.
        self.home.ip("-6 address replace 2001:db8:7::2/64 dev eth0 nodad")?;
        self.home.default_route(ip("192.168.7.1")?)?;
        self.home.default_route(ip("2001:db8:7::1")?)?;
        self.home.ip("link set eth1 down")
    }

    /// Puts the cable of the home's second uplink back in after [`Self::return_home`].
    pub fn replug_mobile(&self) -> Result<()> {
        self.home.ip("link set eth1 up")?;
        self.home.ip("-6 address replace 2001:db8:8::2/64 dev eth1 nodad")
    }

    /// Pulls the cable of the home's first uplink; the second one carries on.
    pub fn roam(&self) -> Result<()> {
        self.home.default_route(ip("192.168.8.1")?)?;
        self.home.default_route(ip("2001:db8:8::1")?)?;
        self.home.ip("link set eth0 down")
    }
}

fn ip(text: &str) -> Result<IpAddr> {
    text.parse().with_context(|| format!("{text} is no address"))
}
