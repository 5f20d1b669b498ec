//! A whole program on its chassis: it is probed, asked, watched by a collector, and stopped by a signal.
//!
//! One test in a binary of its own: logging and signals belong to the process.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use actors_runtime::{
    Actor, Boot, Cx, Full, Intensity, LaneKind, Never, Restart, Row, StartError, Tree, TreeHandle,
};
use serde_json::json;
use services_chassis::{Chassis, CommonFlags, Desk, Failure, local};

const PROGRAM: &str = "postern-test";

/// Long, because the machine may be busy; nothing waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(60);

struct Worker(Sender<&'static str>);

impl Actor for Worker {
    const KIND: &'static str = "Worker";
    type Command = Never;
    type Packets = Never;

    fn started(&mut self, _: &mut Cx<Self>) {
        let _span = tracing::info_span!(target: "services_test", "working").entered();
    }

    fn told(&mut self, command: Never, _: &mut Cx<Self>) {
        match command {}
    }

    fn stopped(&mut self, _: &mut Cx<Self>) {
        self.0.send("stopped").unwrap();
    }
}

fn start(boot: &Boot<'_, Sender<&'static str>>) -> Result<(), StartError> {
    let reports = boot.context.clone();
    boot.start(&boot.lane(LaneKind::Control)?, "one", move || move || Worker(reports.clone()))?;
    Ok(())
}

static TREE: &[Row<Sender<&'static str>>] = &[Row {
    kind: "Worker",
    parent: "-",
    each: "test",
    lane: LaneKind::Control,
    mailbox: 8,
    full: Full::Refuse,
    ring: 0,
    restart: Restart::Always,
    intensity: Intensity { restarts: 3, within: Duration::from_secs(60) },
    start: Some(start),
}];

fn desk(_: &TreeHandle) -> Desk {
    Rc::new(|_| Box::pin(async { Ok(json!({"hello": "there"})) }))
}

/// A collector that reports the path of each request.
fn collector() -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (paths, seen) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, paths) = (stream.unwrap(), paths.clone());
            std::thread::spawn(move || {
                let mut head = Vec::new();
                let mut part = [0; 4096];
                while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                    match stream.read(&mut part) {
                        Ok(0) | Err(_) => return,
                        Ok(length) => head.extend_from_slice(&part[..length]),
                    }
                }
                let line = String::from_utf8_lossy(&head);
                let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
                let _ =
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                let _ = paths.send(path);
            });
        }
    });
    (address, seen)
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn get(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_program_serves_its_callers_and_stops_in_order_at_a_signal() {
    let dir = tempfile::tempdir().unwrap();
    let (endpoint, seen) = collector();
    let metrics = free_address();
    let settings = CommonFlags {
        run_dir: Some(dir.path().to_owned()),
        state_dir: Some(dir.path().to_owned()),
        metrics_listen: Some(metrics.clone()),
        otlp_endpoint: Some(endpoint),
        ..CommonFlags::default()
    }
    .resolve(PROGRAM)
    .unwrap();
    let socket = settings.socket(PROGRAM);
    let (reports, reported) = channel();
    let process = std::thread::spawn(move || -> Result<(), Failure> {
        let tree = Tree::new(TREE);
        let chassis = Chassis::start(PROGRAM, "0.0.0", settings, &tree.registry())?;
        chassis.run(tree, reports, desk)
    });

    wait_for("ready", || get(&metrics, "/readyz").filter(|text| text.ends_with("\r\n\r\nready\n")));
    let scraped = get(&metrics, "/metrics").unwrap();
    let answer = local::ask(PROGRAM, &socket, &json!({"do": "greet"}), PATIENCE).unwrap();
    let actors = local::ask(PROGRAM, &socket, &json!({"do": "actors"}), PATIENCE).unwrap();
    nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGTERM).unwrap();
    let ended = process.join().unwrap();

    assert!(scraped.contains("postern_actor_restarts_total{kind=\"Worker\"} 0\n"), "{scraped}");
    assert_eq!(answer["hello"], "there");
    assert_eq!(actors["actors"][0]["kind"], "Worker");
    assert_eq!(actors["actors"][0]["thread"], "control-0");
    assert_eq!(ended, Ok(()));
    assert_eq!(reported.iter().collect::<Vec<_>>(), ["stopped"]);
    assert!(!socket.exists(), "the socket went with its process");
    let mut paths = [seen.recv_timeout(PATIENCE).unwrap(), seen.recv_timeout(PATIENCE).unwrap()];
    paths.sort();
    assert_eq!(paths, ["/v1/metrics", "/v1/traces"], "what was left was sent at the end");
}
