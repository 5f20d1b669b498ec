//! Nodes over real sockets: a WebSocket without TLS, and the machines of the other end.

use std::time::{Duration, Instant};

use actix_web::{App, HttpServer};
use futures_util::{SinkExt as _, StreamExt as _};
use protocol_control::{
    Answer, Applied, Authorize, CloseReason, FromNode, Introduction, NodeOutput, NodeSession, Offer,
    RequestAccess, RoleHello, SUBPROTOCOL, Secret, SessionError, ToNode, UnsignedAnswer, Welcome,
};
use protocol_identity::{DeviceId, IdentityKey, KemKey, ResourceId, WireguardKey};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use super::stage::Stage;
use crate::api::routes;

/// Longer than anything here takes, shorter than a test that hangs.
const SOON: Duration = Duration::from_secs(10);

pub struct Node {
    socket: WebSocketStream<TcpStream>,
    session: NodeSession,
    identity: IdentityKey,
    start: Instant,
}

pub fn client() -> RoleHello {
    RoleHello::Client { os: "linux".into(), os_version: "6.1".into() }
}

pub fn gateway() -> RoleHello {
    RoleHello::Gateway { grants: Vec::new() }
}

pub fn relay() -> RoleHello {
    RoleHello::Relay {
        addresses: vec!["192.0.2.7:3478".parse().unwrap()],
        tls: None,
        region: "berlin".into(),
        coordinates: None,
        secret: Secret::new("aHVzaC1odXNoLWh1c2gtaHVzaC1odXNoLWh1c2ghISE".into()),
    }
}

/// Serves on a port of its own.
pub fn serve(stage: &Stage) -> std::net::SocketAddr {
    let api = stage.api.clone();
    let server = HttpServer::new(move || App::new().app_data(api.clone()).configure(routes))
        .workers(1)
        .client_request_timeout(crate::serve::REQUEST_WITHIN)
        .disable_signals()
        .bind("127.0.0.1:0")
        .unwrap();
    let address = server.addrs()[0];
    actix_rt::spawn(server.run());
    address
}

/// Opens a WebSocket; an HTTP status when it is refused.
pub async fn open(address: std::net::SocketAddr, token: &str) -> Result<WebSocketStream<TcpStream>, u16> {
    open_with(address, token, &[]).await
}

/// The same with more headers.
async fn open_with(
    address: std::net::SocketAddr,
    token: &str,
    headers: &[(&'static str, &str)],
) -> Result<WebSocketStream<TcpStream>, u16> {
    let mut request = format!("ws://{address}/session").into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    request.headers_mut().insert("Authorization", format!("Bearer {token}").parse().unwrap());
    request.headers_mut().insert("Sec-WebSocket-Protocol", SUBPROTOCOL.parse().unwrap());
    let stream = TcpStream::connect(address).await.unwrap();
    match tokio_tungstenite::client_async(request, stream).await {
        Ok((socket, _)) => Ok(socket),
        Err(tokio_tungstenite::tungstenite::Error::Http(response)) => Err(response.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

impl Node {
    pub async fn connect(
        address: std::net::SocketAddr,
        token: &str,
        identity: IdentityKey,
        role: RoleHello,
    ) -> Self {
        Self::over(open(address, token).await.unwrap(), identity, role)
    }

    fn over(socket: WebSocketStream<TcpStream>, identity: IdentityKey, role: RoleHello) -> Self {
        let introduction = Introduction { name: "node".into(), program: "0.1.0".into(), role };
        let session = NodeSession::new(introduction, Duration::ZERO);
        Self { socket, session, identity, start: Instant::now() }
    }

    /// The next thing that control says.
    async fn next(&mut self) -> Result<NodeOutput, SessionError> {
        loop {
            while let Some(output) = self.session.poll_output() {
                match output {
                    NodeOutput::Send(bytes) => self.socket.send(Message::binary(bytes)).await.unwrap(),
                    other => return Ok(other),
                }
            }
            let message = tokio::time::timeout(SOON, self.socket.next()).await.expect("control is silent");
            match message {
                Some(Ok(Message::Binary(bytes))) => {
                    self.session.handle_frame(&bytes, &self.identity, self.start.elapsed())?;
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => panic!("the socket is closed without a word"),
            }
        }
    }

    pub async fn welcome(&mut self) -> Welcome {
        match self.next().await.unwrap() {
            NodeOutput::Welcomed(welcome) => *welcome,
            other => panic!("{other:?}"),
        }
    }

    pub async fn message(&mut self) -> ToNode {
        match self.next().await.unwrap() {
            NodeOutput::Message(message) => message,
            other => panic!("{other:?}"),
        }
    }

    /// The reason with which control closes.
    async fn closed(&mut self) -> CloseReason {
        loop {
            match self.next().await {
                Err(SessionError::Closed(reason)) => return reason,
                Err(error) => panic!("{error}"),
                Ok(_) => {}
            }
        }
    }

    pub async fn say(&mut self, message: FromNode) {
        self.session.send(message).unwrap();
        while let Some(output) = self.session.poll_output() {
            if let NodeOutput::Send(bytes) = output {
                self.socket.send(Message::binary(bytes)).await.unwrap();
            }
        }
    }
}

/// A site with a LAN that engineers may reach, and the tokens to join.
pub async fn configured(stage: &Stage) -> (String, String) {
    stage.post("/api/v1/sites", json!({"name": "office"})).await;
    let lan = json!({"name": "lan", "kind": "cidr", "address": "10.20.0.0/24", "site": "office"});
    stage.post("/api/v1/resources", lan).await;
    stage.post("/api/v1/groups", json!({"name": "engineering"})).await;
    let ci = stage.post("/api/v1/service-accounts", json!({"name": "ci", "groups": ["engineering"]})).await;
    let policy = json!({"name": "engineers", "groups": ["engineering"], "resources": ["lan"]});
    stage.post("/api/v1/policies", policy).await;
    let gateway = stage.post("/api/v1/gateway-tokens", json!({"site": "office"})).await;
    (ci["token"].as_str().unwrap().into(), gateway["token"].as_str().unwrap().into())
}

fn offer(identity: &IdentityKey, device: DeviceId, resource: ResourceId) -> Offer {
    let (wireguard, kem) = (WireguardKey::generate().unwrap(), KemKey::generate().unwrap());
    Offer::sign(identity, device, resource, wireguard.public(), kem.public(), 256, Vec::new())
}

fn answer(identity: &IdentityKey, authorize: &Authorize, state: &protocol_control::GatewayState) -> FromNode {
    let (ciphertext, _) = authorize.offer.kem.encapsulate().unwrap();
    let unsigned = UnsignedAnswer {
        gateway: state.gateway,
        grant: authorize.grant,
        wireguard: WireguardKey::generate().unwrap().public(),
        ciphertext,
        index: 256,
        device_index: authorize.offer.index,
        addresses: state.addresses,
        candidates: Vec::new(),
    };
    FromNode::Applied(Box::new(Applied {
        grant: authorize.grant,
        version: authorize.version,
        answer: Answer::sign(identity, &authorize.offer, unsigned),
        has_v4: true,
        has_v6: false,
    }))
}

/// A gateway and a device with a grant between them.
pub async fn granted(address: std::net::SocketAddr, device_token: &str, gateway_token: &str) -> (Node, Node) {
    let mut gate = Node::connect(address, gateway_token, IdentityKey::generate().unwrap(), gateway()).await;
    let Welcome::Gateway(gateway_state) = gate.welcome().await else { panic!("not a gateway") };
    let mut device = Node::connect(address, device_token, IdentityKey::generate().unwrap(), client()).await;
    let Welcome::Client(state) = device.welcome().await else { panic!("not a client") };
    let offer = offer(&device.identity, state.device, state.resources[0].resource);
    device.say(FromNode::RequestAccess(RequestAccess { request: 1, offer, name: None })).await;
    let authorize = loop {
        match gate.message().await {
            ToNode::Authorize(authorize) => break authorize,
            ToNode::Relays(_) => {}
            other => panic!("not asked: {other:?}"),
        }
    };
    let applied = answer(&gate.identity, &authorize, &gateway_state);
    gate.say(applied).await;
    while !matches!(device.message().await, ToNode::Granted(_)) {}
    (gate, device)
}

#[actix_web::test]
async fn a_device_is_granted_access_through_a_gateway_and_loses_it_with_the_policy() {
    let stage = Stage::new().await;
    let address = serve(&stage);
    let (device_token, gateway_token) = configured(&stage).await;
    let mut gateway =
        Node::connect(address, &gateway_token, IdentityKey::generate().unwrap(), gateway()).await;
    let Welcome::Gateway(gateway_state) = gateway.welcome().await else { panic!("not a gateway") };
    let mut device = Node::connect(address, &device_token, IdentityKey::generate().unwrap(), client()).await;
    let Welcome::Client(state) = device.welcome().await else { panic!("not a client") };
    assert_eq!(state.resources.len(), 1);

    let offer = offer(&device.identity, state.device, state.resources[0].resource);
    device.say(FromNode::RequestAccess(RequestAccess { request: 9, offer, name: None })).await;
    let ToNode::Authorize(authorize) = gateway.message().await else { panic!("not asked") };
    let applied = answer(&gateway.identity, &authorize, &gateway_state);
    gateway.say(applied).await;
    let ToNode::Granted(granted) = device.message().await else { panic!("not granted") };
    let grants = stage.get("/api/v1/grants?device=node").await;
    let asked = Instant::now();
    stage.delete("/api/v1/policies/engineers").await;
    let answered = asked.elapsed();

    assert_eq!((granted.request, granted.grant), (9, authorize.grant));
    assert_eq!(grants["items"][0]["policy"]["name"], "engineers");
    assert_eq!(grants["items"][0]["gateway"]["name"], "node");
    let ToNode::Revoke { grant, .. } = gateway.message().await else { panic!("not revoked") };
    assert_eq!(grant, granted.grant);
    assert!(matches!(device.message().await, ToNode::Revoked { .. }));
    assert!(answered < Duration::from_secs(1), "{answered:?}");
    assert_eq!(stage.get("/api/v1/gateways").await["items"][0]["state"], "online");
    assert_eq!(stage.get("/api/v1/devices/node").await["inner_ipv4"], "100.64.0.2");
}

#[actix_web::test]
async fn a_relays_secret_is_in_the_credentials_that_nodes_get_and_nowhere_else() {
    let stage = Stage::new().await;
    let address = serve(&stage);
    let (_, gateway_token) = configured(&stage).await;
    let token = stage.post("/api/v1/relay-tokens", json!({})).await["token"].as_str().unwrap().to_owned();
    let mut relay = Node::connect(address, &token, IdentityKey::generate().unwrap(), relay()).await;
    assert!(matches!(relay.welcome().await, Welcome::Relay(_)));

    let mut gateway =
        Node::connect(address, &gateway_token, IdentityKey::generate().unwrap(), gateway()).await;
    let Welcome::Gateway(state) = gateway.welcome().await else { panic!("not a gateway") };
    let offers = match state.relays.is_empty() {
        false => state.relays,
        true => match gateway.message().await {
            ToNode::Relays(offers) => offers,
            other => panic!("{other:?}"),
        },
    };

    let credential = offers[0].credential.as_ref().unwrap();
    assert!(credential.username.ends_with(&state.gateway.to_string()), "{}", credential.username);
    assert_eq!(offers[0].addresses, ["192.0.2.7:3478".parse().unwrap()]);
    for path in ["/api/v1/relays", "/api/v1/audit"] {
        assert!(!stage.get(path).await.to_string().contains("aHVzaC1"), "{path}");
    }
}

#[actix_web::test]
async fn a_relay_that_drains_is_shown_as_draining() {
    let stage = Stage::new().await;
    let address = serve(&stage);
    let token = stage.post("/api/v1/relay-tokens", json!({})).await["token"].as_str().unwrap().to_owned();
    let mut relay = Node::connect(address, &token, IdentityKey::generate().unwrap(), relay()).await;
    relay.welcome().await;
    let state = async || stage.get("/api/v1/relays").await["items"][0]["state"].clone();
    assert_eq!(state().await, "online");

    relay.say(FromNode::Draining).await;

    let shown = tokio::time::timeout(Duration::from_secs(5), async {
        while state().await != "draining" {
            tokio::task::yield_now().await;
        }
    });
    assert!(shown.await.is_ok(), "{}", state().await);
}

#[actix_web::test]
async fn a_wrong_token_does_not_even_get_a_socket() {
    let stage = Stage::new().await;
    let address = serve(&stage);
    let unknown = protocol_identity::Token::generate(protocol_identity::TokenKind::Gateway).unwrap();

    assert_eq!(open(address, &unknown.reveal()).await.err(), Some(401));
    assert_eq!(open(address, &stage.token).await.err(), Some(401), "an admin token signs no node in");
}

#[actix_web::test]
async fn a_node_with_a_token_for_something_else_is_told_so() {
    let stage = Stage::new().await;
    let address = serve(&stage);
    let (device_token, _) = configured(&stage).await;

    let mut gateway =
        Node::connect(address, &device_token, IdentityKey::generate().unwrap(), gateway()).await;

    assert_eq!(gateway.closed().await, CloseReason::BadToken);
    assert_eq!(stage.get("/api/v1/gateways").await["items"], json!([]));
}

#[actix_web::test]
async fn a_second_relay_with_the_first_ones_token_is_refused() {
    let stage = Stage::new().await;
    let address = serve(&stage);
    let token = stage.post("/api/v1/relay-tokens", json!({})).await["token"].as_str().unwrap().to_owned();
    let mut first = Node::connect(address, &token, IdentityKey::generate().unwrap(), relay()).await;
    first.welcome().await;

    let mut second = Node::connect(address, &token, IdentityKey::generate().unwrap(), relay()).await;

    assert_eq!(second.closed().await, CloseReason::IdentityChanged);
}

#[actix_web::test]
async fn a_node_that_connects_again_replaces_its_older_session() {
    let stage = Stage::new().await;
    let address = serve(&stage);
    let (_, token) = configured(&stage).await;
    let identity = IdentityKey::generate().unwrap();
    let again = IdentityKey::from_seed(*identity.seed()).unwrap();
    let mut first = Node::connect(address, &token, identity, gateway()).await;
    let Welcome::Gateway(before) = first.welcome().await else { panic!("not a gateway") };

    let mut second = Node::connect(address, &token, again, gateway()).await;
    let Welcome::Gateway(after) = second.welcome().await else { panic!("not a gateway") };

    assert_eq!(first.closed().await, CloseReason::Replaced);
    assert_eq!((after.gateway, after.addresses), (before.gateway, before.addresses));
}

#[actix_web::test]
async fn a_deleted_token_and_a_disabled_account_end_sessions_at_once() {
    let stage = Stage::new().await;
    let address = serve(&stage);
    let (device_token, gateway_token) = configured(&stage).await;
    let mut gateway =
        Node::connect(address, &gateway_token, IdentityKey::generate().unwrap(), gateway()).await;
    gateway.welcome().await;
    let mut device = Node::connect(address, &device_token, IdentityKey::generate().unwrap(), client()).await;
    device.welcome().await;

    let tokens = stage.get("/api/v1/gateway-tokens").await;
    stage.delete(&format!("/api/v1/gateway-tokens/{}", tokens["items"][0]["id"].as_str().unwrap())).await;
    stage.patch("/api/v1/service-accounts/ci", json!({"disabled": true})).await;

    assert_eq!(gateway.closed().await, CloseReason::BadToken);
    assert_eq!(device.closed().await, CloseReason::Disabled);
    assert_eq!(open(address, &gateway_token).await.err(), Some(401));
}

#[actix_web::test]
async fn a_disabled_device_and_one_of_a_disabled_account_are_cut_and_stay_out() {
    let stage = Stage::new().await;
    let address = serve(&stage);
    let (token, _) = configured(&stage).await;
    let identity = IdentityKey::generate().unwrap();
    let again = || IdentityKey::from_seed(*identity.seed()).unwrap();
    let connect = async || Node::connect(address, &token, again(), client()).await;

    for path in ["/api/v1/devices/node", "/api/v1/service-accounts/ci"] {
        let mut device = connect().await;
        device.welcome().await;
        stage.patch(path, json!({"disabled": true})).await;
        assert_eq!(device.closed().await, CloseReason::Disabled, "{path}");
        assert_eq!(connect().await.closed().await, CloseReason::Disabled, "{path}");
        assert_eq!(stage.get(path).await["disabled"], true);
        stage.patch(path, json!({"disabled": false})).await;
    }

    connect().await.welcome().await;
}

#[actix_web::test]
async fn a_message_that_is_not_for_the_role_ends_the_session() {
    let stage = Stage::new().await;
    let address = serve(&stage);
    let (device_token, _) = configured(&stage).await;
    let mut device = Node::connect(address, &device_token, IdentityKey::generate().unwrap(), client()).await;
    device.welcome().await;

    device.say(FromNode::Draining).await;

    assert_eq!(device.closed().await, CloseReason::BadMessage);
}

#[actix_web::test]
async fn ten_thousand_malformed_frames_cost_their_senders_their_sessions_and_nobody_else_anything() {
    let stage = Stage::new().await;
    let address = serve(&stage);
    let (device_token, _) = configured(&stage).await;
    let key = || IdentityKey::generate().unwrap();
    let mut honest = Node::connect(address, &device_token, key(), client()).await;
    honest.welcome().await;

    let mut sent = 0;
    for round in 0..20u8 {
        let mut bad = Node::connect(address, &device_token, key(), client()).await;
        // Before its hello every other time, after it the rest.
        if round % 2 == 0 {
            bad.welcome().await;
        }
        for n in 0..500u16 {
            let frame = vec![round; usize::from(n) + 1];
            sent += 1;
            // Control closes at the first; what follows meets a closed socket.
            if bad.socket.feed(Message::binary(frame)).await.is_err() {
                continue;
            }
        }
        let _ = bad.socket.flush().await;
        let ended = tokio::time::timeout(SOON, async {
            while let Some(Ok(message)) = bad.socket.next().await {
                if message.is_close() {
                    return;
                }
            }
        });
        ended.await.expect("a session goes on after nonsense");
    }
    let wiki = json!({"name": "wiki", "kind": "dns", "address": "wiki.corp.example", "site": "office"});
    stage.post("/api/v1/resources", wiki).await;
    stage.patch("/api/v1/policies/engineers", json!({"resources": ["lan", "wiki"]})).await;

    assert_eq!(sent, 10_000);
    let ToNode::ResourceChanged(view) = honest.message().await else { panic!("not told") };
    assert_eq!(view.name, "wiki");
    let devices = stage.get("/api/v1/devices?state=online").await;
    assert_eq!(devices["items"].as_array().unwrap().len(), 1, "{devices}");
}

#[actix_web::test]
async fn where_a_device_comes_from_is_seen_and_never_read_in_its_headers() {
    let stage = Stage::new().await;
    let address = serve(&stage);
    let (device_token, gateway_token) = configured(&stage).await;
    let mut gate = Node::connect(address, &gateway_token, IdentityKey::generate().unwrap(), gateway()).await;
    gate.welcome().await;
    let only_from = |cidr: &str| json!({"conditions": {"source_cidrs": [cidr]}});
    stage.patch("/api/v1/policies/engineers", only_from("198.51.100.0/24")).await;
    let forged = [
        ("Forwarded", "for=198.51.100.9"),
        ("X-Forwarded-For", "198.51.100.9"),
        ("X-Real-Ip", "198.51.100.9"),
        ("X-Country", "DE"),
    ];
    let socket = open_with(address, &device_token, &forged).await.unwrap();
    let mut device = Node::over(socket, IdentityKey::generate().unwrap(), client());
    let Welcome::Client(state) = device.welcome().await else { panic!("not a client") };
    let lan = state.resources[0].resource;

    let asked = offer(&device.identity, state.device, lan);
    device.say(FromNode::RequestAccess(RequestAccess { request: 1, offer: asked, name: None })).await;
    let denied = loop {
        match device.message().await {
            ToNode::Denied { request, .. } => break request,
            ToNode::Granted(_) => panic!("a header was believed"),
            _ => {}
        }
    };
    stage.patch("/api/v1/policies/engineers", only_from("127.0.0.0/8")).await;
    let asked = offer(&device.identity, state.device, lan);
    device.say(FromNode::RequestAccess(RequestAccess { request: 2, offer: asked, name: None })).await;
    while !matches!(gate.message().await, ToNode::Authorize(_)) {}

    assert_eq!(denied, 1);
}

#[actix_web::test]
async fn a_device_learns_of_a_resource_as_soon_as_a_policy_names_it() {
    let stage = Stage::new().await;
    let address = serve(&stage);
    let (device_token, _) = configured(&stage).await;
    let mut device = Node::connect(address, &device_token, IdentityKey::generate().unwrap(), client()).await;
    device.welcome().await;

    let wiki = json!({"name": "wiki", "kind": "dns", "address": "wiki.corp.example", "site": "office"});
    stage.post("/api/v1/resources", wiki).await;
    stage.patch("/api/v1/policies/engineers", json!({"resources": ["lan", "wiki"]})).await;

    let ToNode::ResourceChanged(view) = device.message().await else { panic!("not told") };
    assert_eq!(view.name, "wiki");
    let denied: Value = stage.get("/api/v1/devices").await;
    assert_eq!(denied["items"][0]["principal"]["name"], "ci");
}

#[actix_web::test]
async fn what_was_granted_before_control_started_again_is_in_force_after_it() {
    let stage = Stage::new().await;
    let address = serve(&stage);
    let (device_token, gateway_token) = configured(&stage).await;
    let (gateway_key, device_key) = (IdentityKey::generate().unwrap(), IdentityKey::generate().unwrap());
    let again = |key: &IdentityKey| IdentityKey::from_seed(*key.seed()).unwrap();
    let mut gate = Node::connect(address, &gateway_token, again(&gateway_key), gateway()).await;
    let Welcome::Gateway(gateway_state) = gate.welcome().await else { panic!("not a gateway") };
    let mut device = Node::connect(address, &device_token, again(&device_key), client()).await;
    let Welcome::Client(state) = device.welcome().await else { panic!("not a client") };
    let offer = offer(&device.identity, state.device, state.resources[0].resource);
    device.say(FromNode::RequestAccess(RequestAccess { request: 1, offer, name: None })).await;
    let ToNode::Authorize(authorize) = gate.message().await else { panic!("not asked") };
    let applied = answer(&gate.identity, &authorize, &gateway_state);
    gate.say(applied).await;
    assert!(matches!(device.message().await, ToNode::Granted(_)));
    drop((gate, device));

    let stage = stage.restart().await;
    let address = serve(&stage);
    let mut gate = Node::connect(address, &gateway_token, gateway_key, gateway()).await;
    let Welcome::Gateway(gateway_state) = gate.welcome().await else { panic!("not a gateway") };
    let mut device = Node::connect(address, &device_token, device_key, client()).await;
    let Welcome::Client(state) = device.welcome().await else { panic!("not a client") };

    let kept = &gateway_state.grants[..];
    assert_eq!(kept.len(), 1);
    assert_eq!(
        (kept[0].grant, kept[0].version, &kept[0].offer),
        (authorize.grant, authorize.version, &authorize.offer)
    );
    assert!(kept[0].remaining > Duration::from_secs(3500), "{:?}", kept[0].remaining);
    assert_eq!(state.grants[0].0, authorize.grant);
    stage.delete("/api/v1/policies/engineers").await;
    assert!(matches!(gate.message().await, ToNode::Revoke { grant, .. } if grant == authorize.grant));
}
