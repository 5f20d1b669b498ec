//! A router between an inside and an outside, with one of the kinds of NAT that the world has.
//!
//! IPv6 is routed without translation; what arrives unasked from outside is dropped all the same.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result};

use crate::{Host, Lab};

/// How IPv4 is translated, and what happens to what arrives unasked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat {
    /// One outside port for an inside port, whatever the destination; only answers come in (RFC 4787:
    /// endpoint-independent mapping, address- and port-dependent filtering).
    PortRestricted,
    /// An outside port for each destination, drawn at random; only answers come in.
    Symmetric,
    /// One outside port for an inside port, and whoever sends to it gets through.
    FullCone,
    /// Like `PortRestricted`, but what arrives unasked is taken by the router itself and not dropped: the entry that it
    /// leaves in the connection table can block a later packet outwards from its port.
    Unfiltered,
    /// No translation and no filter: a plain router.
    None,
}

/// What a router does; give it to [`Router::set`] to change a running one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouterPlan {
    /// The kind of NAT.
    pub nat: Nat,
    /// Whether UDP passes at all.
    pub udp: bool,
    /// Whether IPv6 passes at all.
    pub ipv6: bool,
}

impl From<Nat> for RouterPlan {
    fn from(nat: Nat) -> Self {
        Self { nat, udp: true, ipv6: true }
    }
}

/// A host that forwards between its switch `inside`, with any number of hosts, and its interface `outside`.
#[derive(Clone)]
pub struct Router {
    host: Host,
    ports: Arc<AtomicU32>,
}

impl Lab {
    /// A router; plug hosts in, link its interface `outside`, give both addresses, then [`Router::set`] its plan.
    pub fn router(&self, name: &str) -> Result<Router> {
        let host = self.host(name)?;
        host.bridge("inside", &[])?;
        host.sysctl("net.ipv4.ip_forward", "1")?;
        host.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        Ok(Router { host, ports: Arc::default() })
    }

    /// Plugs an interface of a host into the switch of a router.
    pub fn plug(&self, host: &Host, interface: &str, into: &Router) -> Result<()> {
        let port = format!("port{}", into.ports.fetch_add(1, Ordering::Relaxed));
        self.link((host, interface), (&into.host, &port))?;
        into.host.ip(&format!("link set {port} master inside"))
    }
}

impl Router {
    /// The router as a host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Puts a plan in force, and forgets the translations of UDP made under the plan before. TCP connections go on.
    pub fn set(&self, plan: impl Into<RouterPlan>) -> Result<()> {
        self.host.nft(&rules(plan.into()))?;
        self.tool(&["forget-connections", "--udp"])
    }

    /// Drops UDP that is longer than so many bytes, headers included, and tells nobody: a black hole. `None` ends it.
    /// Hosts must send each packet by itself ([`Host::send_singly`]): what they leave to be cut later counts as one.
    pub fn swallow_longer_than(&self, bytes: Option<u32>) -> Result<()> {
        let rule = bytes.map_or_else(String::new, |bytes| {
            format!("meta l4proto udp meta length > {bytes} counter name swallowed drop")
        });
        self.host.nft(&format!(
            "table inet lab_mtu\ndelete table inet lab_mtu\ntable inet lab_mtu {{\n counter swallowed {{ }}\n \
             chain forward {{\n  type filter hook forward priority filter - 2\n  {rule}\n }}\n}}\n"
        ))
    }

    /// How many packets were longer.
    pub fn swallowed(&self) -> Result<u64> {
        let counters =
            self.host.run(&["nft", "-j", "list", "counter", "inet", "lab_mtu", "swallowed"])?.json()?;
        let items = counters["nftables"].as_array().context("nft printed no list")?;
        let counter = items.iter().find_map(|item| item.get("counter")).context("nft printed no counter")?;
        counter["packets"].as_u64().context("a counter without packets")
    }

    /// Forgets all connections, as a router does that was switched off and on.
    pub fn forget(&self) -> Result<()> {
        self.tool(&["forget-connections"])
    }

    fn tool(&self, words: &[&str]) -> Result<()> {
        let tool = crate::program("lab-tool")?.display().to_string();
        self.host.run(&[&[tool.as_str()], words].concat())?;
        Ok(())
    }
}

fn rules(plan: RouterPlan) -> String {
    // Only what crosses the router: on some kernels the switch inside passes through these hooks too.
    let crossing = |what: &str| {
        format!("iifname \"outside\" {what} counter drop\n        oifname \"outside\" {what} counter drop")
    };
    let udp = if plan.udp { String::new() } else { crossing("meta l4proto udp") };
    let ipv6 = if plan.ipv6 { String::new() } else { crossing("meta nfproto ipv6") };
    let open = plan.nat == Nat::None;
    let inward = match plan.nat {
        Nat::None => "accept",
        Nat::FullCone => "ct status dnat accept",
        Nat::PortRestricted | Nat::Symmetric | Nat::Unfiltered => "",
    };
    let unasked = match plan.nat {
        Nat::None | Nat::Unfiltered => "",
        Nat::PortRestricted | Nat::Symmetric | Nat::FullCone => {
            "iifname \"outside\" ct state { new, invalid } counter drop"
        }
    };
    let masquerade = match plan.nat {
        Nat::PortRestricted | Nat::FullCone | Nat::Unfiltered => {
            "oifname \"outside\" meta nfproto ipv4 masquerade"
        }
        Nat::Symmetric => "oifname \"outside\" meta nfproto ipv4 masquerade random,fully-random",
        Nat::None => "",
    };
    let cone = if plan.nat == Nat::FullCone {
        "map cone {
            type inet_service : ipv4_addr . inet_service
            flags dynamic,timeout
            timeout 5m
        }
        chain remember {
            type filter hook forward priority filter - 1
            iifname \"inside\" meta nfproto ipv4 meta l4proto udp update @cone { udp sport : ip saddr . udp sport }
        }
        chain inward {
            type nat hook prerouting priority dstnat
            iifname \"outside\" meta nfproto ipv4 meta l4proto udp dnat ip to udp dport map @cone
        }"
    } else {
        ""
    };
    let policy = if open { "accept" } else { "drop" };
    format!(
        "table inet lab_router
delete table inet lab_router
table inet lab_router {{
    {cone}
    chain forward {{
        type filter hook forward priority filter; policy {policy};
        {udp}
        {ipv6}
        ct state established,related accept
        iifname \"inside\" accept
        {inward}
    }}
    chain input {{
        type filter hook input priority filter; policy accept;
        icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, nd-router-advert }} accept
        {unasked}
    }}
    chain outward {{
        type nat hook postrouting priority srcnat; policy accept;
        {masquerade}
    }}
}}
"
    )
}
