//! What the daemon answers on its local socket.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use actors_access::control_session::{Command as Session, ControlSession};
use actors_access::{
    Decided, Endpoint, Grants, GrantsCommand, GrantsView, ResourceState, ResourceStatus, SessionSettings,
    SessionState, Target,
};
use actors_network::{GrantedOffloads, SOCKET_MARK};
use actors_runtime::{Address, Registry, Reply, time};
use actors_tunnel::{Peers, PeersCommand, Transport, Udp};
use jiff::{SignedDuration, Timestamp};
use protocol_control::{DenyReason, ResourceAddress};
use protocol_identity::{ResourceId, TokenKind};
use protocol_traversal::PathKind;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::Config;
use crate::daemon::Outside;
use crate::state::{Login, SignIn, State};
use crate::status::{self, Access, Control, ControlState, Device, Status};
use services_chassis::{Exit, Failure, chain, secret_file};

/// The actors answer at once unless something is wrong with them.
const ACTOR_PATIENCE: Duration = Duration::from_secs(2);
/// Control, the gateway and its resolver have their say.
const DECISION_PATIENCE: Duration = Duration::from_secs(12);

/// A line on the local socket.
#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// All that is true now.
    Status {},
    /// Connects.
    Up {},
    /// Disconnects.
    Down {},
    /// What this device knows.
    Resources {},
    /// Takes a token over, and connects.
    Login {
        /// The token.
        token: String,
        /// Address of control.
        control_url: Option<String>,
        /// Its certificate's pin.
        control_pin: Option<String>,
        /// Certificate authorities, PEM.
        ca: Option<String>,
    },
    /// Forgets the token, and disconnects.
    Logout {},
    /// Asks for access to a resource.
    Explain {
        /// Its name.
        resource: String,
    },
}

/// Answers requests with what the actors say.
pub struct Desk {
    /// What the daemon runs with.
    pub config: Arc<Config>,
    /// What lasts.
    pub state: State,
    /// The session's settings: whom to connect to.
    pub session: Arc<SessionSettings>,
    /// Addresses of control.
    pub outside: Outside,
    /// The session.
    pub control: Address<ControlSession>,
    /// The grants.
    pub grants: Address<Grants>,
    /// The relays.
    pub peers: Address<Peers>,
    /// Drops by reason.
    pub registry: Arc<Registry>,
    /// What the kernel does to many packets at once.
    pub granted: GrantedOffloads,
}

impl Desk {
    /// Answers one request; the answer's members go beside `"ok": true`.
    pub async fn answer(&self, request: Request) -> Result<Value, Failure> {
        match request {
            Request::Status {} => Ok(json!({"status": self.status().await?})),
            Request::Up {} => self.up(),
            Request::Down {} => self.down(),
            Request::Resources {} => self.resources().await,
            Request::Login { token, control_url, control_pin, ca } => {
                self.login(&token, Login { control_url, control_pin, ca })
            }
            Request::Logout {} => self.logout(),
            Request::Explain { resource } => self.explain(&resource).await,
        }
    }

    async fn view(&self) -> Result<GrantsView, Failure> {
        let (reply, answer) = Reply::channel();
        let asked = self.grants.tell(GrantsCommand::Inspect(reply));
        match asked.map(|()| time::timeout(ACTOR_PATIENCE, answer)) {
            Ok(answer) => match answer.await {
                Ok(Ok(view)) => Ok(view),
                Ok(Err(_)) | Err(_) => Err(busy()),
            },
            Err(_) => Err(busy()),
        }
    }

    async fn udp(&self) -> Result<Udp, Failure> {
        let (reply, answer) = Reply::channel();
        self.peers.tell(PeersCommand::Inspect(reply)).map_err(|_| busy())?;
        match time::timeout(ACTOR_PATIENCE, answer).await {
            Ok(Ok(view)) => Ok(view.udp),
            Ok(Err(_)) | Err(_) => Err(busy()),
        }
    }

    async fn status(&self) -> Result<Status, Failure> {
        let view = self.view().await?;
        let control = self.control();
        let now = Timestamp::now();
        let resources =
            view.resources.iter().map(|resource| describe(resource, control.state, now)).collect();
        let device = view.device.map(|(_, _, inner)| Device {
            name: self.config.node.name(),
            addresses: vec![inner.v4.to_string(), inner.v6.to_string()],
        });
        let drops: BTreeMap<String, u64> = self
            .registry
            .drops()
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| (reason.to_owned(), count))
            .collect();
        let udp = match self.udp().await? {
            Udp::Unknown => status::Udp::Unknown,
            Udp::Open => status::Udp::Open,
            Udp::Blocked => status::Udp::Blocked,
        };
        let offload = self.granted.get().map(|offloads| offloads.report());
        Ok(Status { schema: status::SCHEMA, control, device, resources, udp, offload, drops })
    }

    fn control(&self) -> Control {
        let target = self.session.target.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(target) = target else {
            return Control { state: ControlState::SignedOut, url: None, reason: None };
        };
        let (state, reason) = match self.session.status.get() {
            SessionState::Connecting => (ControlState::Connecting, None),
            SessionState::Connected => (ControlState::Connected, None),
            SessionState::Offline(reason) => (ControlState::Offline, Some(reason)),
            SessionState::Refused(reason) => (ControlState::Refused, Some(reason)),
            SessionState::SignedOut => (ControlState::SignedOut, None),
            SessionState::Paused => (ControlState::Down, None),
        };
        Control { state, url: Some(target.endpoint.url.to_string()), reason }
    }

    fn up(&self) -> Result<Value, Failure> {
        self.state.set_down(false)?;
        let sign_in = self.state.sign_in(&self.config)?.ok_or_else(signed_out)?;
        // Who is up already stays so, without a cut.
        if self.session.status.get() != SessionState::Connected {
            self.connect(sign_in)?;
        }
        Ok(json!({}))
    }

    fn connect(&self, sign_in: SignIn) -> Result<(), Failure> {
        *self.session.target.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(target(sign_in, &self.outside)?);
        self.control.tell(Session::Reconnect).map_err(|_| busy())
    }

    fn disconnect(&self) -> Result<(), Failure> {
        self.control.tell(Session::Pause).map_err(|_| busy())?;
        self.grants.tell(GrantsCommand::Down).map_err(|_| busy())
    }

    fn down(&self) -> Result<Value, Failure> {
        self.state.set_down(true)?;
        self.disconnect()?;
        Ok(json!({}))
    }

    fn login(&self, token: &str, login: Login) -> Result<Value, Failure> {
        let token = secret_file::parse_token(token, TokenKind::ServiceAccount, "the token")?;
        if self.config.node.token_file.is_some() {
            return Err(Failure::usage("the daemon takes its token from the file that it was started with")
                .fix("write the new token there and restart the daemon, or start it without --token-file"));
        }
        if let (Some(fixed), Some(wanted)) = (&self.config.control_url, &login.control_url)
            && fixed.to_string() != *wanted
        {
            return Err(Failure::usage(format!("the daemon was started with --control-url {fixed}"))
                .fix("start it without --control-url, or sign in there"));
        }
        self.state.store_login(&token, login)?;
        self.state.set_down(false)?;
        let sign_in = self.state.sign_in(&self.config)?.ok_or_else(|| {
            Failure::usage("no address of control is known").fix("pass --control-url https://HOST:PORT")
        })?;
        // What another principal was granted goes first.
        self.disconnect()?;
        self.connect(sign_in)?;
        Ok(json!({}))
    }

    fn logout(&self) -> Result<Value, Failure> {
        self.state.forget_login()?;
        *self.session.target.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.disconnect()?;
        Ok(json!({}))
    }

    async fn resources(&self) -> Result<Value, Failure> {
        let view = self.view().await?;
        let control = self.control().state;
        let resources = view.resources.iter().map(|resource| {
            let described = describe(resource, control, Timestamp::now());
            let mapped = resource.mapped.as_ref().map(|name| vec![name.v4.to_string(), name.v6.to_string()]);
            json!({
                "name": described.name, "kind": described.kind, "address": described.address,
                "mapped": mapped.unwrap_or_default(), "site": resource.view.site,
                "state": described.state, "reason": described.reason,
            })
        });
        Ok(json!({"resources": resources.collect::<Vec<_>>()}))
    }

    async fn explain(&self, name: &str) -> Result<Value, Failure> {
        let known = self.find(name).await?;
        let (reply, answer) = Reply::channel();
        let want = GrantsCommand::Want { resource: known.view.resource, decided: Some(reply) };
        self.grants.tell(want).map_err(|_| busy())?;
        // What is said is what stands afterwards, also when nobody answered in time.
        let decided = time::timeout(DECISION_PATIENCE, answer).await;
        if let Ok(Ok(Decided::Unknown)) = decided {
            return Err(unknown(name));
        }
        let now = self.find(name).await?;
        let described = describe(&now, self.control().state, Timestamp::now());
        Ok(json!({
            "name": described.name, "state": described.state, "reason": described.reason,
            "gateway": described.gateway, "path": described.path, "expires_at": described.expires_at,
        }))
    }

    async fn find(&self, name: &str) -> Result<ResourceStatus, Failure> {
        let id = name.parse::<ResourceId>().ok();
        let mut resources = self.view().await?.resources.into_iter();
        resources
            .find(|known| known.view.name == name || Some(known.view.resource) == id)
            .ok_or_else(|| unknown(name))
    }
}

/// Whom to connect to, outside of the tunnel.
pub fn target(sign_in: SignIn, outside: &Outside) -> Result<Target, Failure> {
    outside.set(sign_in.url.host(), sign_in.url.port());
    let tls = sign_in.trust.client_config().map_err(|error| Failure::usage(chain(&error)))?;
    Ok(Target { endpoint: Endpoint { url: sign_in.url, tls, mark: Some(SOCKET_MARK) }, token: sign_in.token })
}

fn busy() -> Failure {
    Failure::failed("the daemon is just starting or stopping").fix("try again")
}

fn signed_out() -> Failure {
    Failure::failed("this device is not signed in")
        .fix("run `postern login --token-file FILE`; `postern admin service-account create` makes a token")
}

fn unknown(name: &str) -> Failure {
    Failure::failed(format!("this device knows no resource {name}"))
        .fix("`postern resources` lists what it knows; a resource becomes known when a policy names it for this device, or when it is listed")
}

/// A resource as it is shown.
fn describe(resource: &ResourceStatus, control: ControlState, now: Timestamp) -> status::Resource {
    let (state, reason) = access(&resource.state, control);
    let (kind, address) = match &resource.view.address {
        ResourceAddress::Cidr(net) => ("cidr", net.to_string()),
        ResourceAddress::Ip(address) => ("ip", address.to_string()),
        ResourceAddress::Dns(name) => ("dns", name.clone()),
    };
    let expires_at = resource.remaining.and_then(|remaining| {
        let end = now.checked_add(SignedDuration::try_from(remaining).ok()?).ok()?;
        Timestamp::from_second(end.as_second()).ok()
    });
    status::Resource {
        name: resource.view.name.clone(),
        state,
        reason,
        path: resource.path.map(|path| match path.kind {
            PathKind::Direct => status::Path::Direct,
            PathKind::Relayed => status::Path::Relayed,
        }),
        transport: resource.path.map(|path| match path.transport {
            Transport::Udp => status::Transport::Udp,
            Transport::Tls => status::Transport::Tls,
        }),
        rtt_ms: resource
            .path
            .and_then(|path| path.round_trip)
            .map(|trip| (trip.as_secs_f64() * 1e6).round() / 1e3),
        mtu: resource.path.map(|path| path.mtu),
        gateway: resource.gateway.clone(),
        expires_at: expires_at.map(|end| end.to_string()),
        kind: kind.to_owned(),
        address,
    }
}

/// State and reason. Without control nothing new can be granted, so what is not in force is then offline.
fn access(state: &ResourceState, control: ControlState) -> (Access, Option<String>) {
    let reachable = control == ControlState::Connected;
    match state {
        ResourceState::Granted => (Access::Granted, None),
        ResourceState::Denied(DenyReason::NoGateway) => {
            (Access::Offline, Some(DenyReason::NoGateway.to_string()))
        }
        ResourceState::Denied(reason) => (Access::Denied, Some(reason.to_string())),
        ResourceState::Unused | ResourceState::Asked | ResourceState::Offline if !reachable => {
            (Access::Offline, Some("control cannot be asked".into()))
        }
        ResourceState::Unused => (Access::Pending, Some("not used so far; the first use asks for it".into())),
        ResourceState::Asked => (Access::Pending, Some("asked for".into())),
        ResourceState::Offline => {
            (Access::Offline, Some("control or the gateway did not answer in time".into()))
        }
    }
}

/// Reads a request; says what is wrong with it without repeating it, because it may hold a token.
pub fn read_request(line: &str) -> Result<Request, Failure> {
    serde_json::from_str(line).map_err(|_| {
        Failure::new(Exit::Usage, "the daemon does not know this request")
            .fix("are both of the same version?")
    })
}

#[cfg(test)]
mod tests;
