//! Rules that the compiler does not hold, read from the sources.

#![allow(clippy::unwrap_used, missing_docs)]

use integration_architecture::{root, sources};

/// Lines of the sources under a folder that contain one of the words, as `path: line`.
fn lines_with(folder: &str, words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in sources(folder) {
        for line in text.lines().filter(|line| words.iter().any(|word| line.contains(word))) {
            found.push(format!("{path}: {}", line.trim()));
        }
    }
    found
}

#[test]
fn do_send_stays_inside_the_runtime() {
    let mut against = Vec::new();
    for folder in
        ["actors", "services", "protocol", "integration/lab", "integration/scenarios", "integration/xtask"]
    {
        against.extend(lines_with(folder, &[".do_send("]));
    }
    against.retain(|line| !line.starts_with("actors/runtime/"));

    assert!(against.is_empty(), "{against:#?}");
}

#[test]
fn the_protocol_has_no_socket_clock_thread_lock_or_async() {
    let forbidden = [
        "UdpSocket",
        "TcpStream",
        "TcpListener",
        "Instant::now",
        "SystemTime::now",
        "thread::spawn",
        "thread::sleep",
        "Mutex<",
        "RwLock<",
        "async fn",
        "async move",
        "tokio::",
    ];
    let mut against = lines_with("protocol", &forbidden);
    // A fuzz target and a test of a crate are not the crate.
    against.retain(|line| !line.starts_with("protocol/fuzz/"));
    against.retain(|line| !line.split(':').next().unwrap().contains("/tests/"));

    assert!(against.is_empty(), "{against:#?}");
}

#[test]
fn every_protocol_crate_forbids_unsafe_code() {
    for entry in std::fs::read_dir(root().join("protocol")).unwrap().flatten() {
        let lib = entry.path().join("src/lib.rs");
        if lib.is_file() {
            let text = std::fs::read_to_string(&lib).unwrap();
            assert!(text.contains("#![forbid(unsafe_code)]"), "{} does not", lib.display());
        }
    }
}

#[test]
fn nothing_is_left_to_do() {
    let mut against = Vec::new();
    for folder in
        ["actors", "services", "protocol", "integration/lab", "integration/scenarios", "integration/xtask"]
    {
        against.extend(lines_with(folder, &["todo!(", "unimplemented!("]));
    }

    assert!(against.is_empty(), "{against:#?}");
}
