//! What `postern status` says: the object that the daemon answers with, and its picture for a person.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use actors_network::OffloadReport;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The version of the object.
pub const SCHEMA: u32 = 1;

/// All that is true of the client now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The session with control.
    pub control: Control,
    /// This installation; `null` before control has said who it is.
    pub device: Option<Device>,
    /// Every resource that this device knows.
    pub resources: Vec<Resource>,
    /// Whether UDP passes, as far as relays show it.
    #[serde(default)]
    pub udp: Udp,
    /// What the kernel does to many packets at once; `null` before the lane has found out.
    #[serde(default)]
    pub offload: Option<OffloadReport>,
    /// Dropped packets, by reason.
    pub drops: BTreeMap<String, u64>,
}

/// The session with control.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// Its state.
    pub state: ControlState,
    /// Its address.
    pub url: Option<String>,
    /// Why it is not connected.
    pub reason: Option<String>,
}

/// Whether UDP passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Udp {
    /// No relay has answered yet.
    #[default]
    Unknown,
    /// A relay answers.
    Open,
    /// Relays answer over TLS only.
    Blocked,
}

/// State of the session with control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ControlState {
    /// Open, and heard from in time.
    Connected,
    /// Being opened for the first time.
    Connecting,
    /// Tried, failed, and tried again.
    Offline,
    /// Control does not accept the token or the identity.
    Refused,
    /// There is no token.
    SignedOut,
    /// `postern down` was the last word.
    Down,
}

impl ControlState {
    fn name(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Connecting => "connecting",
            Self::Offline => "offline",
            Self::Refused => "refused",
            Self::SignedOut => "signed out",
            Self::Down => "down",
        }
    }

    fn colour(self) -> Colour {
        match self {
            Self::Connected => Colour::Green,
            Self::Connecting => Colour::Yellow,
            Self::Offline | Self::Refused => Colour::Red,
            Self::SignedOut | Self::Down => Colour::Dim,
        }
    }
}

/// This installation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its addresses inside the tunnel.
    pub addresses: Vec<String>,
}

/// One resource.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resource {
    /// Its name.
    pub name: String,
    /// Whether it can be reached.
    pub state: Access,
    /// Why not, or why not yet.
    pub reason: Option<String>,
    /// How its packets travel.
    pub path: Option<Path>,
    /// How they leave this device.
    #[serde(default)]
    pub transport: Option<Transport>,
    /// Round trip to the gateway, milliseconds.
    pub rtt_ms: Option<f64>,
    /// The longest packet that the path takes, inside the tunnel, bytes.
    pub mtu: Option<u16>,
    /// The gateway that serves it.
    pub gateway: Option<String>,
    /// When the grant ends, RFC 3339; `null` without a grant, or when it has no end.
    pub expires_at: Option<String>,
    /// `cidr`, `ip` or `dns`.
    pub kind: String,
    /// Its network, address or name.
    pub address: String,
}

/// Whether a resource can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// A grant is in force.
    Granted,
    /// Policy refuses it.
    Denied,
    /// Not asked for yet, or just asked.
    Pending,
    /// No grant is in force, and nobody is there to give one.
    Offline,
}

impl Access {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Denied => "denied",
            Self::Pending => "pending",
            Self::Offline => "offline",
        }
    }

    fn colour(self) -> Colour {
        match self {
            Self::Granted => Colour::Green,
            Self::Denied => Colour::Red,
            Self::Pending => Colour::Yellow,
            Self::Offline => Colour::Dim,
        }
    }
}

/// How packets travel to the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Path {
    /// Without a relay.
    Direct,
    /// Over a relay.
    Relayed,
}

impl Path {
    fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Relayed => "relayed",
        }
    }
}

/// How packets leave this device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// By UDP.
    Udp,
    /// To a relay over TLS, because UDP is blocked.
    Tls,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Colour {
    Green,
    Yellow,
    Red,
    Dim,
}

/// How to draw.
#[derive(Debug, Clone, Copy)]
pub struct Pen {
    /// With ANSI colours.
    pub colours: bool,
    /// The time, for what is left of a grant.
    pub now: Timestamp,
}

impl Pen {
    fn paint(self, text: &str, colour: Colour) -> String {
        let code = match colour {
            Colour::Green => "32",
            Colour::Yellow => "33",
            Colour::Red => "31",
            Colour::Dim => "2",
        };
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn remaining(self, end: &str) -> String {
        let Ok(end) = end.parse::<Timestamp>() else { return end.to_owned() };
        let seconds = end.as_second() - self.now.as_second();
        match seconds {
            ..=0 => "ended".into(),
            1..60 => format!("in {seconds} s"),
            60..3600 => format!("in {} min", seconds / 60),
            3600..172_800 => format!("in {} h {:02} min", seconds / 3600, seconds % 3600 / 60),
            172_800.. => format!("in {} days", seconds / 86_400),
        }
    }
}

fn or_dash(text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty()).unwrap_or("-").to_owned()
}

fn way(resource: &Resource) -> String {
    let over = if resource.transport == Some(Transport::Tls) { " (tls)" } else { "" };
    resource.path.map_or_else(|| "-".into(), |path| format!("{}{over}", path.name()))
}

/// The picture of a status. Text from control is shown without control characters.
pub fn draw(status: &Status, pen: Pen) -> String {
    let mut text = String::new();
    let control = &status.control;
    let state = pen.paint(control.state.name(), control.state.colour());
    let _ = writeln!(text, "control   {state}  {}", or_dash(control.url.as_deref()));
    if let Some(reason) = &control.reason {
        let _ = writeln!(text, "          {}", tame(reason));
    }
    if let Some(device) = &status.device {
        let _ = writeln!(text, "device    {}  {}", tame(&device.name), device.addresses.join("  "));
    }
    if status.udp == Udp::Blocked {
        let blocked = pen.paint("blocked", Colour::Yellow);
        let _ = writeln!(text, "udp       {blocked}  relays are reached over TLS");
    }
    if let Some(offload) = &status.offload {
        let _ = writeln!(text, "offload   {}", offload.words());
    }
    text.push('\n');
    draw_resources(&mut text, status, pen);
    draw_drops(&mut text, status, pen);
    text
}

fn draw_resources(text: &mut String, status: &Status, pen: Pen) {
    if status.resources.is_empty() {
        let _ = match status.control.state {
            ControlState::Connected => {
                writeln!(text, "No resource is known: no policy names one for this device.")
            }
            ControlState::Connecting | ControlState::Offline => writeln!(text, "No resource is known yet."),
            ControlState::Refused | ControlState::SignedOut => {
                writeln!(text, "No resource is known. Sign in with `postern login --token-file FILE`.")
            }
            ControlState::Down => writeln!(text, "Postern is down. `postern up` connects."),
        };
        return;
    }
    let mut lines =
        vec![["RESOURCE", "STATE", "PATH", "RTT", "GATEWAY", "ENDS", "ADDRESS"].map(String::from)];
    for resource in &status.resources {
        lines.push([
            tame(&resource.name),
            resource.state.name().into(),
            way(resource),
            resource.rtt_ms.map_or("-".into(), |rtt| format!("{rtt:.1} ms")),
            tame(&or_dash(resource.gateway.as_deref())),
            resource.expires_at.as_deref().map_or("-".into(), |end| pen.remaining(end)),
            tame(&resource.address),
        ]);
    }
    let mut widths = [0; 7];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let rows = std::iter::once(None).chain(status.resources.iter().map(Some));
    for (line, resource) in lines.iter().zip(rows) {
        let mut row = String::new();
        for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
            let padded = format!("{cell:<width$}");
            let painted = match (column, resource) {
                (_, None) => pen.paint(&padded, Colour::Dim),
                (1, Some(resource)) => pen.paint(&padded, resource.state.colour()),
                (_, Some(_)) => padded,
            };
            row.push_str(&painted);
            row.push_str("  ");
        }
        let _ = writeln!(text, "{}", row.trim_end());
        if let Some(reason) = resource.and_then(|resource| resource.reason.as_deref()) {
            let _ = writeln!(text, "  {}", tame(reason));
        }
    }
}

fn draw_drops(text: &mut String, status: &Status, pen: Pen) {
    let drops = status.drops.iter().filter(|(_, count)| **count > 0);
    let drops =
        drops.map(|(reason, count)| format!("{} {count}", reason.replace('_', " "))).collect::<Vec<_>>();
    if !drops.is_empty() {
        let _ =
            writeln!(text, "\n{}", pen.paint(&format!("dropped packets: {}", drops.join(", ")), Colour::Dim));
    }
}

/// Text from elsewhere, without what would move the cursor or change colours.
fn tame(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use actors_network::Offloads;

    use super::*;

    fn pen() -> Pen {
        Pen { colours: false, now: "2026-01-31T10:00:00Z".parse().unwrap() }
    }

    fn status() -> Status {
        let resource = Resource {
            name: "wiki".into(),
            state: Access::Granted,
            reason: None,
            path: Some(Path::Direct),
            transport: Some(Transport::Udp),
            rtt_ms: Some(12.44),
            mtu: Some(1420),
            gateway: Some("office-1".into()),
            expires_at: Some("2026-01-31T18:05:00Z".into()),
            kind: "dns".into(),
            address: "wiki.corp.example".into(),
        };
        let refused = Resource {
            name: "lan".into(),
            state: Access::Denied,
            reason: Some("no policy names this resource for your groups".into()),
            path: None,
            transport: None,
            rtt_ms: None,
            mtu: None,
            gateway: None,
            expires_at: None,
            kind: "cidr".into(),
            address: "192.168.1.0/24".into(),
        };
        Status {
            schema: SCHEMA,
            control: Control {
                state: ControlState::Connected,
                url: Some("https://203.0.113.10:8443".into()),
                reason: None,
            },
            device: Some(Device { name: "laptop".into(), addresses: vec!["100.64.0.2".into()] }),
            resources: vec![resource, refused],
            udp: Udp::Open,
            offload: Some(Offloads::wanted(true, true, false).report()),
            drops: BTreeMap::from([("no_grant".into(), 3), ("fragment".into(), 0)]),
        }
    }

    #[test]
    fn a_person_sees_path_round_trip_end_and_the_missing_rule() {
        let picture = draw(&status(), pen());

        for part in [
            "connected",
            "UDP GRO off",
            "direct",
            "12.4 ms",
            "in 8 h 05 min",
            "no policy names this resource",
            "no grant 3",
        ] {
            assert!(picture.contains(part), "{part} is missing in\n{picture}");
        }
        assert!(!picture.contains("fragment"), "{picture}");
    }

    #[test]
    fn the_json_names_states_as_the_documentation_does() {
        let mut status = status();
        status.control.state = ControlState::SignedOut;

        let json = serde_json::to_value(&status).unwrap();

        assert_eq!(json["control"]["state"], "signed-out");
        assert_eq!(json["resources"][0]["path"], "direct");
        assert_eq!(json["resources"][1]["path"], serde_json::Value::Null);
    }

    #[test]
    fn where_udp_is_blocked_a_person_sees_it_and_what_goes_over_tls() {
        let mut status = status();
        status.udp = Udp::Blocked;
        status.resources[0].path = Some(Path::Relayed);
        status.resources[0].transport = Some(Transport::Tls);

        let picture = draw(&status, pen());

        assert!(picture.contains("udp       blocked"), "{picture}");
        assert!(picture.contains("relayed (tls)"), "{picture}");
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!((&json["udp"], &json["resources"][0]["transport"]), (&"blocked".into(), &"tls".into()));
    }

    #[test]
    fn text_from_control_cannot_steer_the_terminal() {
        let mut status = status();
        status.resources[1].reason = Some("\x1b[2Jgone".into());

        assert!(!draw(&status, pen()).contains('\x1b'));
    }
}
