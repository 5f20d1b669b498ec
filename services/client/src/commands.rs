//! The commands that ask the daemon.

use std::io::{IsTerminal as _, Write as _, stdout};
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use protocol_identity::TokenKind;
use serde_json::{Value, json};

use crate::admin;
use crate::cli::Login;
use crate::config::{PROGRAM, control_url};
use crate::status::{self, ControlState, Pen, SCHEMA, Status};
use services_chassis::secret_file;
use services_chassis::{Exit, Failure, local};

/// The daemon answers what it knows at once.
const AT_ONCE: Duration = Duration::from_secs(5);
/// Control, the gateway and its resolver have their say before access is decided.
const DECISION: Duration = Duration::from_secs(20);
/// How often a state is looked at while it is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const REDRAW_EVERY: Duration = Duration::from_secs(1);

fn ask(socket: &Path, request: &Value, patience: Duration) -> Result<Value, Failure> {
    local::ask(PROGRAM, socket, request, patience)
}

fn pen() -> Pen {
    let colours = stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    Pen { colours, now: Timestamp::now() }
}

fn status_of(socket: &Path) -> Result<Status, Failure> {
    let mut answer = ask(socket, &json!({"do": "status"}), AT_ONCE)?;
    serde_json::from_value(answer["status"].take()).map_err(|error| {
        Failure::failed(format!("the daemon's status cannot be read: {error}"))
            .fix("is it of the same version?")
    })
}

/// `postern status`.
pub fn status(socket: &Path, as_json: bool, watch: bool) -> Result<(), Failure> {
    if !watch {
        let status = status_of(socket)?;
        return print_status(&status, as_json);
    }
    loop {
        match status_of(socket) {
            Ok(status) if as_json => print_status(&status, true)?,
            Ok(status) => redraw(&status::draw(&status, pen()))?,
            Err(failure) if as_json => eprintln!("{failure}"),
            Err(failure) => redraw(&format!("{failure}\n"))?,
        }
        std::thread::sleep(REDRAW_EVERY);
    }
}

fn print_status(status: &Status, as_json: bool) -> Result<(), Failure> {
    let text = if as_json {
        let json = serde_json::to_string(status).map_err(|error| Failure::failed(error.to_string()))?;
        format!("{json}\n")
    } else {
        status::draw(status, pen())
    };
    write_out(&text)
}

/// Draws over what stood there, without flicker: home, the text with each line's rest cleared, then what is below.
fn redraw(text: &str) -> Result<(), Failure> {
    if !stdout().is_terminal() {
        return write_out(&format!("{text}\n"));
    }
    write_out(&format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n")))
}

fn write_out(text: &str) -> Result<(), Failure> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Failure::failed(format!("cannot write to standard output: {error}")))
}

/// `postern up`.
pub fn up(socket: &Path, timeout: Duration) -> Result<(), Failure> {
    ask(socket, &json!({"do": "up"}), AT_ONCE)?;
    let status = wait_until_connected(socket, timeout)?;
    let url = status.control.url.as_deref().unwrap_or("control");
    println!("connected to {url}; {}", count(status.resources.len()));
    Ok(())
}

fn count(resources: usize) -> String {
    match resources {
        0 => "no resource is known".into(),
        1 => "1 resource is known".into(),
        more => format!("{more} resources are known"),
    }
}

/// Looks until the session is up and its state has arrived. A daemon that is just changing over may not answer for a
/// moment: that is waited out too.
fn wait_until_connected(socket: &Path, timeout: Duration) -> Result<Status, Failure> {
    let end = Instant::now() + timeout;
    loop {
        let last = status_of(socket);
        match &last {
            Ok(status) if status.control.state == ControlState::Connected && status.device.is_some() => {
                return last;
            }
            Ok(status) if status.control.state == ControlState::SignedOut => {
                return Err(Failure::failed("this device is not signed in")
                    .fix("run `postern login --token-file FILE`; `postern admin service-account create` makes a token"));
            }
            Ok(status) if status.control.state == ControlState::Refused => {
                let reason =
                    status.control.reason.clone().unwrap_or_else(|| "control refuses this device".into());
                return Err(Failure::new(Exit::Denied, reason).fix(
                    "sign in with another token: `postern admin service-account token NAME` makes one",
                ));
            }
            Ok(_) | Err(_) if Instant::now() < end => std::thread::sleep(LOOK_EVERY),
            Ok(status) => {
                let reason = status.control.reason.clone().unwrap_or_else(|| "no answer in time".into());
                return Err(Failure::new(Exit::Unreachable, format!("not connected yet: {reason}"))
                    .fix("the daemon goes on trying; `postern status --watch` shows it, `postern check` looks for the cause"));
            }
            Err(_) => return last,
        }
    }
}

/// `postern down`.
pub fn down(socket: &Path) -> Result<(), Failure> {
    ask(socket, &json!({"do": "down"}), DECISION)?;
    println!("down");
    Ok(())
}

/// `postern login`.
pub fn login(socket: &Path, login: &Login) -> Result<(), Failure> {
    let token = secret_file::read_token(&login.token_file, TokenKind::ServiceAccount)?;
    let url = login.control_url.as_deref().map(control_url).transpose()?;
    let ca = login.ca_file.as_deref().map(|path| {
        secret_file::read(path)
            .map_err(|error| Failure::usage(format!("cannot read the CA file {}: {error}", path.display())))
    });
    let request = json!({
        "do": "login",
        "token": *token.reveal(),
        "control_url": url.map(|url| url.to_string()),
        "control_pin": login.control_pin.map(|pin| pin.to_string()),
        "ca": ca.transpose()?,
    });
    ask(socket, &request, AT_ONCE)?;
    let status = wait_until_connected(socket, Duration::from_secs(login.timeout))?;
    let name = status.device.map(|device| device.name).unwrap_or_default();
    println!("signed in as {name}; {}", count(status.resources.len()));
    Ok(())
}

/// `postern logout`.
pub fn logout(socket: &Path) -> Result<(), Failure> {
    ask(socket, &json!({"do": "logout"}), DECISION)?;
    println!("signed out");
    Ok(())
}

/// `postern resources`.
pub fn resources(socket: &Path, as_json: bool) -> Result<(), Failure> {
    let answer = ask(socket, &json!({"do": "resources"}), AT_ONCE)?;
    let items = answer["resources"].as_array().map(Vec::as_slice).unwrap_or_default();
    if as_json {
        println!("{}", json!({"schema": SCHEMA, "resources": items}));
        return Ok(());
    }
    if items.is_empty() {
        println!("No resource is known.");
        return Ok(());
    }
    let mut table = admin::table(&["RESOURCE", "KIND", "ADDRESS", "SITE", "MAPPED TO", "STATE"]);
    for item in items {
        let members = ["name", "kind", "address", "site", "mapped", "state"];
        table.add_row(members.map(|member| admin::cell(item.get(member))));
    }
    println!("{}", admin::draw(&table));
    Ok(())
}

/// `postern explain RESOURCE`.
pub fn explain(socket: &Path, resource: &str, as_json: bool) -> Result<(), Failure> {
    let answer = ask(socket, &json!({"do": "explain", "resource": resource}), DECISION)?;
    let text = |member: &str| answer.get(member).and_then(Value::as_str);
    let state = text("state").unwrap_or("pending");
    let reason = text("reason").unwrap_or("no answer in time");
    if as_json {
        let members = ["name", "state", "reason", "gateway", "path", "expires_at"];
        let mut object = json!({"schema": SCHEMA});
        for member in members {
            object[member] = answer.get(member).cloned().unwrap_or_default();
        }
        println!("{object}");
    } else if state == "granted" {
        println!("{resource} is granted, through gateway {}", text("gateway").unwrap_or("-"));
    }
    match state {
        "granted" => Ok(()),
        "denied" => Err(Failure::new(Exit::Denied, format!("{resource} is denied: {reason}"))),
        "offline" => {
            Err(Failure::new(Exit::Unreachable, format!("{resource} cannot be asked for: {reason}")))
        }
        _ => Err(Failure::failed(format!("{resource} is not decided: {reason}"))),
    }
}
