//! `postern daemon`: prepares what the actors share, and runs them.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _, UdpSocket};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use actors_access::control_session::ControlSession;
use actors_access::{Grants, SessionSettings, SessionState, SessionStatus};
use actors_network::GrantedOffloads;
use actors_runtime::{Tree, TreeHandle};
use actors_tunnel::Peers;
use protocol_control::{Introduction, RoleHello};
use protocol_identity::{IdentityKey, WireguardKey};
use services_chassis::{Chassis, Failure, chain};

use crate::config::{Config, PROGRAM};
use crate::desk::{self, Desk};
use crate::state::State;
use crate::tree::TREE;

/// What the actors of a client share.
pub struct Client {
    /// What the daemon runs with.
    pub config: Arc<Config>,
    /// What lasts.
    pub state: State,
    /// The lasting identity of this installation.
    pub identity: Arc<IdentityKey>,
    /// The WireGuard key of this process.
    pub wireguard: WireguardKey,
    /// The session with control.
    pub session: Arc<SessionSettings>,
    /// Addresses of control.
    pub outside: Outside,
    /// What the kernel does to many packets at once.
    pub granted: GrantedOffloads,
}

/// The table as a tree that is not running.
pub fn table() -> Tree<Client> {
    Tree::new(TREE).control_lanes(2)
}

/// Runs the daemon until it is stopped.
pub fn run(mut config: Config) -> Result<(), Failure> {
    let tree = table();
    let chassis =
        Chassis::start(PROGRAM, env!("CARGO_PKG_VERSION"), config.settings.clone(), &tree.registry())?;
    config.listen.retain(host_has);
    if config.listen.is_empty() {
        return Err(Failure::failed("this host has none of the address families of --listen"));
    }
    let config = Arc::new(config);
    let state = State::open(&config.settings.state_dir)?;
    let identity = Arc::new(state.identity()?);
    let outside = Outside::default();
    let session = Arc::new(session(&config, &state, &identity, &outside)?);
    let client = Client {
        wireguard: WireguardKey::generate().map_err(|error| Failure::failed(chain(&error)))?,
        config,
        state,
        identity,
        session,
        outside,
        granted: GrantedOffloads::default(),
    };
    let make_desk = desk_maker(&client);
    let tun = client.config.tun.clone();
    chassis.run(tree, client, make_desk).map_err(|failure| explain_start(failure, &tun))
}

/// What can be done about the commonest reasons not to start.
fn explain_start(failure: Failure, tun: &str) -> Failure {
    if failure.fix.is_some() {
        return failure;
    }
    if failure.what.contains("is in use by another process") {
        let fix = format!("another daemon holds {tun}: stop it, or choose another device with --tun");
        return failure.fix(fix);
    }
    if failure.what.contains("cannot open the TUN device") || failure.what.contains("UDP sockets") {
        return failure.fix("`postern check` tries everything that the daemon needs, and names the fix");
    }
    failure
}

/// A family that the host lacks is left out; an address that is taken is an error later.
fn host_has(address: &SocketAddr) -> bool {
    let probe = UdpSocket::bind(SocketAddr::new(address.ip(), 0));
    if let Err(error) = &probe {
        tracing::warn!(%error, family = if address.is_ipv4() { "IPv4" } else { "IPv6" }, "left out");
    }
    probe.is_ok()
}

fn session(
    config: &Arc<Config>,
    state: &State,
    identity: &Arc<IdentityKey>,
    outside: &Outside,
) -> Result<SessionSettings, Failure> {
    let sign_in = state.sign_in(config)?;
    let status = SessionStatus::default();
    if state.is_down() {
        status.set(SessionState::Paused);
    }
    let name = config.node.name();
    let outside = outside.clone();
    Ok(SessionSettings {
        target: Mutex::new(sign_in.map(|sign_in| desk::target(sign_in, &outside)).transpose()?),
        identity: identity.clone(),
        introduction: Box::new(move || {
            // A session has just been opened, so names can be resolved: a good moment to look again.
            outside.look();
            introduction(&name)
        }),
        status,
    })
}

fn introduction(name: &str) -> Introduction {
    Introduction {
        name: name.to_owned(),
        program: env!("CARGO_PKG_VERSION").to_owned(),
        role: RoleHello::Client { os: std::env::consts::OS.to_owned(), os_version: os_version() },
    }
}

/// The kernel's version: its leading numbers, without what a distribution appends.
fn os_version() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim().chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect()
}

fn desk_maker(client: &Client) -> impl FnOnce(&TreeHandle) -> services_chassis::local::Desk + use<> {
    let (config, state) = (client.config.clone(), client.state.clone());
    let (session, outside) = (client.session.clone(), client.outside.clone());
    let granted = client.granted.clone();
    move |handle| {
        let desk = Rc::new(Desk {
            config,
            state,
            session,
            outside,
            control: handle.address::<ControlSession>(""),
            grants: handle.address::<Grants>(""),
            peers: handle.address::<Peers>(""),
            registry: handle.registry().clone(),
            granted,
        });
        Rc::new(move |line| {
            let desk = desk.clone();
            Box::pin(async move { desk.answer(desk::read_request(&line)?).await })
        })
    }
}

/// Addresses of control, which never go into the tunnel, so that `postern admin` reaches it too.
#[derive(Debug, Clone, Default)]
pub struct Outside(Arc<Mutex<Looked>>);

#[derive(Debug, Default)]
struct Looked {
    host: Option<(String, u16)>,
    addresses: Vec<IpAddr>,
}

impl Outside {
    /// What was found last.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).addresses.clone()
    }

    /// Sets whom to look for, and looks.
    pub fn set(&self, host: &str, port: u16) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).host = Some((host.to_owned(), port));
        self.look();
    }

    /// Looks the host up anew. A lookup blocks, so it has a thread of its own; an address needs none.
    pub fn look(&self) {
        let Some(host) = self.0.lock().unwrap_or_else(PoisonError::into_inner).host.clone() else { return };
        if let Ok(address) = host.0.parse::<IpAddr>() {
            return self.found(&host, vec![address]);
        }
        let outside = self.clone();
        std::thread::spawn(move || match (host.0.as_str(), host.1).to_socket_addrs() {
            Ok(addresses) => outside.found(&host, addresses.map(|address| address.ip()).collect()),
            Err(error) => tracing::debug!(%error, "the host of control cannot be looked up"),
        });
    }

    fn found(&self, host: &(String, u16), addresses: Vec<IpAddr>) {
        let mut looked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.host.as_ref() == Some(host) {
            looked.addresses = addresses;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_actors_does_not_contradict_itself() {
        table().validate().unwrap();
    }

    #[test]
    fn the_remembered_tree_is_the_table() {
        let remembered = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/trees/client.txt");

        let text = std::fs::read_to_string(remembered).unwrap_or_default();

        assert_eq!(
            text,
            table().render(),
            "update docs/trees/client.txt: `postern tree > docs/trees/client.txt`"
        );
    }

    #[test]
    fn an_address_of_control_is_known_at_once() {
        let outside = Outside::default();

        outside.set("203.0.113.10", 8443);

        assert_eq!(outside.addresses(), ["203.0.113.10".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn the_kernels_version_is_numbers() {
        assert!(os_version().starts_with(|c: char| c.is_ascii_digit()));
    }
}
