//! schemathesis reads the OpenAPI document, invents requests that fit it and requests that do not, and finds no answer
//! that is not as the document says.

#![allow(clippy::unwrap_used)]

use std::{
    path::PathBuf,
    process::{Command, Output, Stdio},
    time::Instant,
};

use integration_lab::{Privilege, cargo_target_dir, privilege};
use integration_scenarios::Alone;

/// The version that this was seen with; another one invents other requests.
const SCHEMATHESIS: &str = "schemathesis==4.32.5";

/// The tool in a virtual environment of its own, which stays for the next run. A user namespace has no way to where it
/// comes from.
fn schemathesis() -> Option<PathBuf> {
    let folder = cargo_target_dir().unwrap().join("foreign").join(SCHEMATHESIS.replace("==", "-"));
    let tool = folder.join("bin/schemathesis");
    if tool.exists() {
        return Some(tool);
    }
    if privilege() == Privilege::UserNamespace {
        return None;
    }
    let venv = || Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder).output();
    if !venv().is_ok_and(|made| made.status.success()) {
        // Debian keeps the module in a package of its own.
        let install = ["apt-get", "install", "--yes", "--no-install-recommends", "python3", "python3-venv"];
        let installed =
            run(Command::new(install[0]).args(&install[1..]).env("DEBIAN_FRONTEND", "noninteractive"));
        assert!(installed.status.success(), "python3-venv is missing: sudo {}", install.join(" "));
        let made = venv().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
    let pip =
        run(Command::new(folder.join("bin/pip")).args(["install", "--quiet", "--no-input", SCHEMATHESIS]));
    assert!(pip.status.success(), "{}", String::from_utf8_lossy(&pip.stderr));
    Some(tool)
}

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

#[test]
fn no_request_gets_an_answer_that_the_document_does_not_promise() {
    let Some(tool) = schemathesis() else {
        eprintln!(
            "not run: {SCHEMATHESIS} is not there, and cannot be installed from inside a user namespace"
        );
        return;
    };
    let control = Alone::start("schemathesis", &[], &[]).unwrap();
    let token = std::fs::read_to_string(control.state().join("admin.token")).unwrap();

    let started = Instant::now();
    let done = run(Command::new(&tool)
        .current_dir(control.dir())
        .arg("run")
        .arg(format!("{}/api/v1/openapi.json", control.url()))
        .args(["--checks", "all", "--seed", "1", "--max-examples", "50"])
        .args(["--tls-verify", "false", "--no-color"])
        .args(["--header", &format!("Authorization: Bearer {}", token.trim())]));
    let took = started.elapsed();

    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    let log = control.log();
    assert!(done.status.success(), "{said}\n\ncontrol said:\n{log}");
    assert!(!log.contains("panicked"), "{log}");
    eprintln!("schemathesis took {took:?}");
}
