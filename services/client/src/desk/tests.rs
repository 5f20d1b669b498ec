//! The desk between inboxes: what it tells the actors, and what it answers.

use actors_runtime::{Inbox, Universe};
use protocol_control::{InnerAddresses, ResourceView};
use protocol_identity::{DeviceId, Token};
use services_chassis::CommonFlags;

use super::*;
use crate::config::Flags;
use crate::tree::TREE;

/// A desk between inboxes.
struct Room {
    _dir: tempfile::TempDir,
    universe: Universe,
    grants: Inbox<Grants>,
    peers: Inbox<Peers>,
    control: Inbox<ControlSession>,
    desk: Desk,
}

fn room() -> Room {
    let dir = tempfile::tempdir().unwrap();
    let common = CommonFlags {
        config: Some("/dev/null".into()),
        state_dir: Some(dir.path().join("state")),
        ..CommonFlags::default()
    };
    let config = Arc::new(Config::load(Flags { common, ..Flags::default() }).unwrap());
    let state = State::open(&config.settings.state_dir).unwrap();
    let universe = Universe::new(TREE);
    let grants = universe.inbox::<Grants>("");
    let control = universe.inbox::<ControlSession>("");
    let peers = universe.inbox::<Peers>("");
    let session = SessionSettings {
        target: std::sync::Mutex::new(None),
        identity: Arc::new(state.identity().unwrap()),
        introduction: Box::new(|| unreachable!("no session is opened here")),
        status: actors_access::SessionStatus::default(),
    };
    let desk = Desk {
        config,
        state,
        session: Arc::new(session),
        outside: Outside::default(),
        control: control.address().clone(),
        grants: grants.address().clone(),
        peers: peers.address().clone(),
        registry: universe.registry().clone(),
        granted: GrantedOffloads::default(),
    };
    Room { _dir: dir, universe, grants, peers, control, desk }
}

impl Room {
    fn ask(&self, line: &Value) -> Result<Value, Failure> {
        self.universe.block_on(self.desk.answer(read_request(&line.to_string())?))
    }

    /// Asks while the grants, when they are asked, show `view`.
    fn ask_with(&self, line: &Value, view: &GrantsView) -> Result<Value, Failure> {
        let request = read_request(&line.to_string())?;
        self.universe.block_on(async {
            let grants = async {
                loop {
                    if let Some(GrantsCommand::Inspect(reply)) = self.grants.take() {
                        reply.send(view.clone());
                    }
                    if let Some(PeersCommand::Inspect(reply)) = self.peers.take() {
                        reply.send(actors_tunnel::PeersView { udp: Udp::Blocked, ..Default::default() });
                    }
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                answer = self.desk.answer(request) => answer,
                () = grants => unreachable!("the grants answer without end"),
            }
        })
    }

    fn sign_in(&self) -> Token {
        let token = Token::generate(TokenKind::ServiceAccount).unwrap();
        let pin = format!("sha256:{}", "0".repeat(64));
        let line = json!({
            "do": "login", "token": *token.reveal(), "control_url": "https://203.0.113.10:8443",
            "control_pin": pin, "ca": null,
        });
        self.ask(&line).unwrap();
        token
    }
}

fn a_view() -> GrantsView {
    let view = ResourceView {
        resource: ResourceId::fresh(),
        name: "wiki".into(),
        site: "office".into(),
        address: ResourceAddress::Dns("wiki.corp.example".into()),
        filters: vec![],
    };
    let wiki = ResourceStatus {
        view,
        mapped: None,
        state: ResourceState::Granted,
        gateway: Some("office-1".into()),
        path: None,
        remaining: Some(Duration::from_secs(3600)),
    };
    let inner = InnerAddresses { v4: [100, 64, 0, 2].into(), v6: "fd70:6f73:7401::2".parse().unwrap() };
    GrantsView { device: Some((DeviceId::fresh(), "laptop".into(), inner)), resources: vec![wiki] }
}

#[test]
fn nobody_is_connected_without_a_token_whatever_the_session_says() {
    let room = room();
    room.desk.session.status.set(SessionState::Connected);

    let answer = room.ask_with(&json!({"do": "status"}), &GrantsView::default()).unwrap();

    assert_eq!(answer["status"]["control"]["state"], "signed-out");
}

#[test]
fn the_status_shows_what_session_and_grants_say() {
    let room = room();
    room.sign_in();
    room.desk.session.status.set(SessionState::Offline("control cannot be reached".into()));

    let answer = room.ask_with(&json!({"do": "status"}), &a_view()).unwrap();

    let status = &answer["status"];
    assert_eq!(status["control"]["state"], "offline");
    assert_eq!(status["control"]["reason"], "control cannot be reached");
    assert_eq!(status["resources"][0]["state"], "granted");
    assert_eq!(status["resources"][0]["gateway"], "office-1");
    assert!(status["resources"][0]["expires_at"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn signing_in_ends_what_was_and_then_connects() {
    let room = room();

    let token = room.sign_in();

    assert!(matches!(room.control.take(), Some(Session::Pause)));
    assert!(matches!(room.grants.take(), Some(GrantsCommand::Down)));
    assert!(matches!(room.control.take(), Some(Session::Reconnect)));
    let target = room.desk.session.target.lock().unwrap().clone().unwrap();
    assert_eq!(target.token.hash(), token.hash());
    assert_eq!(target.endpoint.mark, Some(SOCKET_MARK), "the session stays outside of the tunnel");
}

#[test]
fn down_is_remembered_and_up_connects_again() {
    let room = room();
    room.sign_in();
    room.control.take_all();

    room.ask(&json!({"do": "down"})).unwrap();
    let down = room.desk.state.is_down();
    room.ask(&json!({"do": "up"})).unwrap();

    assert!(down && !room.desk.state.is_down());
    let told = room.control.take_all();
    assert!(matches!(told.as_slice(), [Session::Pause, Session::Reconnect]));
}

#[test]
fn up_leaves_a_session_that_is_up_alone() {
    let room = room();
    room.sign_in();
    room.control.take_all();
    room.desk.session.status.set(SessionState::Connected);

    room.ask(&json!({"do": "up"})).unwrap();

    assert!(room.control.take().is_none());
}

#[test]
fn up_without_a_token_says_how_to_sign_in() {
    let failure = room().ask(&json!({"do": "up"})).unwrap_err();

    assert!(failure.fix.unwrap().contains("postern login"));
}

#[test]
fn signing_out_forgets_the_token_and_disconnects() {
    let room = room();
    room.sign_in();
    room.control.take_all();

    room.ask(&json!({"do": "logout"})).unwrap();

    assert!(room.desk.state.sign_in(&room.desk.config).unwrap().is_none());
    assert!(room.desk.session.target.lock().unwrap().is_none());
    assert!(matches!(room.control.take(), Some(Session::Pause)));
}

#[test]
fn a_resource_that_is_not_known_is_an_error_with_a_way_on() {
    let room = room();
    room.sign_in();

    let failure = room.ask_with(&json!({"do": "explain", "resource": "payroll"}), &a_view()).unwrap_err();

    assert_eq!(failure.exit, Exit::Failed);
    assert!(failure.fix.unwrap().contains("postern resources"));
}

#[test]
fn without_control_nothing_that_is_not_granted_can_be_reached() {
    for state in [ResourceState::Unused, ResourceState::Asked, ResourceState::Offline] {
        assert_eq!(access(&state, ControlState::Offline).0, Access::Offline);
    }
    assert_eq!(access(&ResourceState::Granted, ControlState::Offline).0, Access::Granted);
}

#[test]
fn a_refusal_says_which_rule_is_missing() {
    let (state, reason) = access(&ResourceState::Denied(DenyReason::NoRule), ControlState::Connected);

    assert_eq!(state, Access::Denied);
    assert!(reason.unwrap().contains("no policy allows it"));
}

#[test]
fn a_crooked_request_is_not_repeated() {
    let failure = read_request(r#"{"do": "login", "token": "pst_service_secret", "more": 1}"#).err().unwrap();

    assert!(!failure.to_string().contains("secret"));
}

#[test]
fn the_requests_of_the_command_line_are_known() {
    for line in [
        json!({"do": "status"}),
        json!({"do": "up"}),
        json!({"do": "down"}),
        json!({"do": "resources"}),
        json!({"do": "logout"}),
        json!({"do": "explain", "resource": "wiki"}),
        json!({"do": "login", "token": "t", "control_url": null, "control_pin": null, "ca": null}),
    ] {
        assert!(read_request(&line.to_string()).is_ok(), "{line}");
    }
}
