//! What the tests of this crate share: rows, neighbours that are inboxes, and what comes out of them.

#![allow(dead_code, clippy::unwrap_used)]

use std::time::{Duration, Instant};

use actors_access::ControlSession;
use actors_access::control_session;
use actors_network::Routes;
use actors_runtime::{Full, Inbox, Intensity, LaneKind, Reply, Restart, Row, Universe};
use actors_tunnel::{GatewayApply, PeerConfig, Peers, PeersCommand, RouterChange};
use protocol_control::{Candidate, CandidateKind, FromNode, GrantVersion};
use protocol_filter::Access;
use protocol_identity::ResourceId;

/// A row of a root on a control lane.
pub fn row(kind: &'static str, mailbox: usize) -> Row<()> {
    Row {
        kind,
        parent: "-",
        each: "test",
        lane: LaneKind::Control,
        mailbox,
        full: Full::Refuse,
        ring: 0,
        restart: Restart::Always,
        intensity: Intensity { restarts: 3, within: Duration::from_secs(10) },
        start: None,
    }
}

/// A process with one of our actors and its neighbours.
pub struct World {
    pub universe: Universe,
    pub peers: Inbox<Peers>,
    pub control: Inbox<ControlSession>,
    pub routes: Inbox<Routes>,
}

impl World {
    /// With room for `peers_mailbox` commands at the peers.
    pub fn new(kind: &'static str, peers_mailbox: usize) -> Self {
        let rows =
            [row(kind, 1024), row("Peers", peers_mailbox), row("ControlSession", 1024), row("Routes", 1024)];
        let universe = Universe::new::<()>(&rows);
        let peers = universe.inbox("");
        let control = universe.inbox("");
        let routes = universe.inbox("");
        Self { universe, peers, control, routes }
    }

    /// What was said to control since the last look.
    pub fn said(&self) -> Vec<FromNode> {
        self.universe.settle();
        let said = self.control.take_all().into_iter().filter_map(|command| match command {
            control_session::Command::Say(message) => Some(*message),
            control_session::Command::Reconnect | control_session::Command::Pause => None,
        });
        said.collect()
    }

    /// What the peers were told since the last look.
    pub fn told(&self) -> Told {
        self.universe.settle();
        Told(self.peers.take_all())
    }

    /// Lets `duration` pass on every clock. The clock that counts suspend is the host's own, so keep it short.
    pub fn let_pass(&self, duration: Duration) {
        let until = Instant::now() + duration;
        while Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.universe.advance(duration);
    }
}

/// Commands to the peers.
pub struct Told(pub Vec<PeersCommand>);

impl Told {
    /// The names of the commands, in order.
    pub fn names(&self) -> Vec<&'static str> {
        let name = |command: &PeersCommand| match command {
            PeersCommand::Table(_) => "table",
            PeersCommand::Connect(_) => "connect",
            PeersCommand::Disconnect { .. } => "disconnect",
            PeersCommand::Retain(_) => "retain",
            PeersCommand::Apply { .. } => "apply",
            PeersCommand::Revoke { .. } => "revoke",
            PeersCommand::Candidates { .. } => "candidates",
            PeersCommand::Hygiene { .. } => "hygiene",
            PeersCommand::Relays(_) => "relays",
            PeersCommand::Permit { .. } => "permit",
            PeersCommand::Route(_) => "route",
            PeersCommand::NetworkChanged => "network changed",
            PeersCommand::Inspect(_) => "inspect",
        };
        self.0.iter().map(name).collect()
    }

    /// Sessions that were made or kept.
    pub fn connected(&self) -> Vec<&PeerConfig> {
        fn connected(command: &PeersCommand) -> Option<&PeerConfig> {
            match command {
                PeersCommand::Connect(config) => Some(config),
                _ => None,
            }
        }
        self.0.iter().filter_map(connected).collect()
    }

    /// Places whose session was ended.
    pub fn disconnected(&self) -> Vec<u16> {
        let disconnect = |command: &PeersCommand| match command {
            PeersCommand::Disconnect { slot } => Some(*slot),
            _ => None,
        };
        self.0.iter().filter_map(disconnect).collect()
    }

    /// Tables that were put in force, with their places.
    pub fn applied(&self) -> Vec<(u16, &GatewayApply)> {
        fn applied(command: &PeersCommand) -> Option<(u16, &GatewayApply)> {
            match command {
                PeersCommand::Apply { slot, apply } => Some((*slot, apply)),
                _ => None,
            }
        }
        self.0.iter().filter_map(applied).collect()
    }

    /// Revocations.
    pub fn revoked(&self) -> Vec<(u16, GrantVersion)> {
        let revoke = |command: &PeersCommand| match command {
            PeersCommand::Revoke { slot, version } => Some((*slot, *version)),
            _ => None,
        };
        self.0.iter().filter_map(revoke).collect()
    }

    /// Changes of a client's table.
    pub fn routed(&self) -> Vec<&RouterChange> {
        fn routed(command: &PeersCommand) -> Option<&Vec<RouterChange>> {
            match command {
                PeersCommand::Route(changes) => Some(changes),
                _ => None,
            }
        }
        self.0.iter().filter_map(routed).flatten().collect()
    }

    /// What the client's table was last told about access to a resource.
    pub fn access(&self, resource: ResourceId) -> Option<Access> {
        let access = |change: &&RouterChange| match change {
            RouterChange::Access { resource: of, access } if *of == resource => Some(*access),
            _ => None,
        };
        self.routed().iter().rev().find_map(access)
    }

    /// Those who wait for permissions at the relays.
    pub fn permits(self) -> Vec<Reply<()>> {
        let permit = |command| match command {
            PeersCommand::Permit { done, .. } => Some(done),
            _ => None,
        };
        self.0.into_iter().filter_map(permit).collect()
    }
}

pub fn candidate(address: &str) -> Candidate {
    Candidate { kind: CandidateKind::Host, address: address.parse().unwrap() }
}
