//! schemathesis reads the OpenAPI document, invents requests that fit it and requests that do not, and finds no answer
//! that is not as the document says.

#![allow(clippy::unwrap_used)]

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use integration_lab::{cargo_target_dir, program, wait};

/// The version that this was seen with; another one invents other requests.
const SCHEMATHESIS: &str = "schemathesis==4.32.5";

/// The tool in a virtual environment of its own, which stays for the next run.
fn schemathesis() -> PathBuf {
    let folder = cargo_target_dir().unwrap().join("foreign").join(SCHEMATHESIS.replace("==", "-"));
    let tool = folder.join("bin/schemathesis");
    if tool.exists() {
        return tool;
    }
    let venv = || Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder).output();
    if !venv().is_ok_and(|made| made.status.success()) {
        // Debian keeps the module in a package of its own.
        let install = ["apt-get", "install", "--yes", "--no-install-recommends", "python3", "python3-venv"];
        let installed = run(Command::new(install[0]).args(&install[1..]).env("DEBIAN_FRONTEND", "noninteractive"));
        assert!(installed.status.success(), "python3-venv is missing: sudo {}", install.join(" "));
        let made = venv().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
    let pip = run(Command::new(folder.join("bin/pip")).args(["install", "--quiet", "--no-input", SCHEMATHESIS]));
    assert!(pip.status.success(), "{}", String::from_utf8_lossy(&pip.stderr));
    tool
}

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

/// Control on the loopback; ends with the test.
struct Control(Child);

impl Drop for Control {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn control(dir: &Path, port: u16, metrics: u16) -> Control {
    let log = std::fs::File::create(dir.join("control.log")).unwrap();
    let child = Command::new(program("postern-control").unwrap())
        .args(["serve", "--listen", &format!("127.0.0.1:{port}")])
        .args(["--metrics-listen", &format!("127.0.0.1:{metrics}")])
        .arg("--state-dir")
        .arg(dir.join("state"))
        .arg("--run-dir")
        .arg(dir.join("run"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let control = Control(child);
    wait::until_true("control is ready", Duration::from_secs(20), || {
        let ready = Command::new("curl").args(["-sf", &format!("http://127.0.0.1:{metrics}/readyz")]).output()?;
        Ok(ready.status.success())
    })
    .unwrap();
    control
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn no_request_gets_an_answer_that_the_document_does_not_promise() {
    let tool = schemathesis();
    let dir = std::env::temp_dir().join(format!("pstn-schemathesis-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (port, metrics) = (free_port(), free_port());
    let control = control(&dir, port, metrics);
    let token = std::fs::read_to_string(dir.join("state/admin.token")).unwrap();

    let started = Instant::now();
    let done = run(Command::new(&tool)
        .current_dir(&dir)
        .arg("run")
        .arg(format!("https://127.0.0.1:{port}/api/v1/openapi.json"))
        .args(["--checks", "all", "--seed", "1", "--max-examples", "50"])
        .args(["--tls-verify", "false", "--no-color"])
        .args(["--header", &format!("Authorization: Bearer {}", token.trim())]));
    let took = started.elapsed();

    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    let log = std::fs::read_to_string(dir.join("control.log")).unwrap_or_default();
    drop(control);
    let _ = std::fs::remove_dir_all(&dir);
    assert!(done.status.success(), "{said}\n\ncontrol said:\n{log}");
    assert!(!log.contains("panicked"), "{log}");
    eprintln!("schemathesis took {took:?}");

}
