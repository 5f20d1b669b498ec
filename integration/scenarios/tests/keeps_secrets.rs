//! No secret is in a log at any level, in the database, in `ps`, or in an error.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
};

use integration_scenarios::{Plan, World, addresses::WEB_NAME};

fn files_under(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.path().is_dir() { waiting.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    found
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Every secret on disk, in the forms in which it could leak: tokens as text, small key files as text and as hex.
fn secrets(lab: &Path) -> Vec<Vec<u8>> {
    let mut secrets = Vec::new();
    for path in files_under(lab) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let bytes = fs::read(&path).unwrap_or_default();
        if name.ends_with(".token") || name == "token" {
            let text = String::from_utf8(bytes).unwrap();
            // `pst_<kind>_<secret>`; the secret itself may hold the separator.
            let secret = text.trim().splitn(3, '_').nth(2).unwrap().to_owned();
            assert!(secret.len() >= 40, "{} holds a short token", path.display());
            secrets.push(secret.into_bytes());
        } else if name.contains("key") || name.contains("identity") || name.contains("secret") {
            if bytes.len() <= 128 {
                secrets.push(hex(&bytes).into_bytes());
            }
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let lines = text.lines().filter(|line| line.len() >= 32 && !line.starts_with("-----"));
            secrets.extend(lines.map(|line| line.as_bytes().to_vec()));
        }
    }
    secrets
}

fn assert_without(what: &str, bytes: &[u8], secrets: &[Vec<u8>]) {
    for secret in secrets {
        let found = bytes.windows(secret.len()).any(|window| window == secret.as_slice());
        assert!(!found, "{what} holds a secret");
    }
}

#[test]
fn no_secret_leaves_its_file() {
    let world = World::start(Plan { log: "trace", ..Plan::default() }).unwrap();
    assert_eq!(world.curl(&["-o", "/dev/null", &format!("http://{WEB_NAME}/")]).unwrap().code, 0);
    let lab = world.ground.lab.dir().to_owned();
    let secrets = secrets(&lab);
    assert!(secrets.len() >= 5, "admin, gateway, relay and client have tokens: {}", secrets.len());

    for path in files_under(&lab) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let log = name.ends_with(".err") || name.ends_with(".out");
        let database = name.contains(".sqlite") || name.contains(".db");
        if log || database {
            assert_without(&path.display().to_string(), &fs::read(&path).unwrap(), &secrets);
        }
    }
    let nodes = [world.control().unwrap(), world.relay().unwrap(), world.gateway().unwrap()];
    for process in nodes.iter().map(|node| &node.process).chain([&world.client().unwrap().process]) {
        let pid = process.pid().unwrap();
        assert_without("ps", &fs::read(format!("/proc/{pid}/cmdline")).unwrap(), &secrets);
    }
    for node in nodes {
        assert_without("/metrics", node.metrics().unwrap().as_bytes(), &secrets);
        assert_without("actors", node.actors().unwrap().to_string().as_bytes(), &secrets);
    }
    let log = fs::read_to_string(world.ground.office.dir().join("postern-gateway.err")).unwrap();
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "the logs of this test are to be chatty");
}
