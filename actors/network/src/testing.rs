//! Help for tests that need a network of their own.

use std::future::Future;
use std::time::Duration;

use actors_runtime::{Full, Intensity, LaneKind, Restart, Row};
use nix::sched::{CloneFlags, unshare};

/// Runs `test` in a fresh network namespace, on a thread of its own that takes the namespace with it when it ends.
/// Without the right to make one, the test is skipped and says so.
pub(crate) fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    in_bare_namespace(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, test());
    });
}

/// The same without an event loop, for tests that bring their own.
pub(crate) fn in_bare_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            eprintln!("skipped: no right to make a network namespace ({error})");
            return;
        }
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A row for one kind of actor without children.
pub(crate) fn row(kind: &'static str, lane: LaneKind) -> Row<()> {
    Row {
        kind,
        parent: "-",
        each: "test",
        lane,
        mailbox: 16,
        full: Full::Refuse,
        ring: 0,
        restart: Restart::Always,
        intensity: Intensity { restarts: 3, within: Duration::from_secs(10) },
        start: None,
    }
}

/// Runs one of the host's tools in the namespace of this thread, and returns what it said.
pub(crate) fn tool(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = std::process::Command::new(words.next().unwrap()).args(words).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Waits, at most 5 s, until `holds`.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 5 s: {what}");
}

/// Runs `task` in another namespace, which is reached over the device `lan` of this one and sees it as `device`.
pub(crate) fn neighbour<R: Send + 'static>(
    device: &'static str,
    setup: &'static [&'static str],
    task: impl FnOnce() -> R + Send + 'static,
) -> std::thread::JoinHandle<R> {
    let (tell, hear) = std::sync::mpsc::channel();
    let (go, ready) = std::sync::mpsc::channel::<()>();
    let (set, done) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        tell.send(nix::unistd::gettid()).unwrap();
        ready.recv().unwrap();
        setup.iter().for_each(|command| drop(tool(command)));
        set.send(()).unwrap();
        task()
    });
    let there = hear.recv().unwrap();
    tool(&format!("ip link add lan type veth peer name {device} netns {there}"));
    go.send(()).unwrap();
    done.recv().unwrap();
    thread
}
