//! The gateway runs as the unit that ships, in a really booted system: without root, watched by systemd, and back after
//! it was killed or hung.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    time::Duration,
};

use integration_lab::{Booted, Lab, Privilege, Signal, privilege, program, wait};
use integration_scenarios::{Plan, World, addresses::WEB_NAME};

const PROGRAM: &str = "postern-gateway";
/// `1 << CAP_NET_ADMIN` (linux/capability.h), as /proc prints it.
const NET_ADMIN_ALONE: &str = "0000000000001000";

/// What the README of the unit tells a person to do.
fn install(world: &World, root: &Path) -> anyhow::Result<()> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    fs::copy(program(PROGRAM)?, root.join("usr/local/bin").join(PROGRAM))?;
    let units = root.join("etc/systemd/system");
    let unit = format!("{PROGRAM}.service");
    fs::copy(repository.join("deploy/systemd").join(&unit), units.join(&unit))?;
    symlink(format!("../{unit}"), units.join("multi-user.target.wants").join(&unit))?;

    let settings = root.join("etc/postern");
    fs::create_dir_all(&settings)?;
    let token = settings.join("gateway.token");
    fs::copy(world.ground.office.dir().join("gateway.token"), &token)?;
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600))?;
    let mut environment = String::new();
    let words: Vec<_> = world.gateway_command().iter().map(String::as_str).collect();
    for pair in words.windows(2) {
        match pair {
            ["--control-url", url] => environment.push_str(&format!("POSTERN_CONTROL_URL={url}\n")),
            ["--control-pin" | "--pin", pin] => environment.push_str(&format!("POSTERN_CONTROL_PIN={pin}\n")),
            _ => {}
        }
    }
    fs::write(settings.join("gateway.env"), environment)?;
    fs::write(root.join("etc/resolv.conf"), "nameserver 192.168.1.20\n")?;
    // Only for this test to read: where the log goes.
    let drop_in = units.join(format!("{unit}.d"));
    fs::create_dir_all(&drop_in)?;
    fs::write(drop_in.join("log.conf"), "[Service]\nStandardError=append:/gateway.log\n")?;
    Ok(())
}

fn log(booted: &Booted) -> String {
    let log = fs::read_to_string(booted.root().join("gateway.log")).unwrap_or_default();
    let lines: Vec<_> = log.lines().collect();
    format!("{}\n{}", booted.console(), lines[lines.len().saturating_sub(30)..].join("\n"))
}

fn served_within(world: &World, booted: &Booted, limit: Duration) -> Duration {
    let page = format!("http://{WEB_NAME}/");
    wait::until_true("the client is served", limit, || {
        let done = world.curl(&["--max-time", "1", "-o", "/dev/null", &page])?;
        anyhow::ensure!(done.code == 0, "{}", done.stderr);
        Ok(true)
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", log(booted)))
}

#[test]
fn the_unit_serves_without_root_and_comes_back_when_it_is_killed_or_hangs() {
    assert_eq!(
        privilege(),
        Privilege::Root,
        "booting a system needs root on the machine: sudo -E env PATH=\"$PATH\" cargo xtask test --only scenarios runs_under_systemd"
    );
    let mut world = World::lay_out(Lab::unique().unwrap(), Plan::default()).unwrap();
    world.start_control().unwrap();
    world.configure().unwrap();
    world.start_relay().unwrap();
    let booted = world.ground.lab.boot(&world.ground.office, |root| install(&world, root)).unwrap();
    world.start_client().unwrap();
    served_within(&world, &booted, Duration::from_secs(60));

    let pids = booted.pids_of(PROGRAM);
    let status = fs::read_to_string(format!("/proc/{}/status", pids[0])).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_ne!(field("Uid:"), "0", "it runs as root");
    assert_eq!((field("NoNewPrivs:").as_str(), field("CapEff:").as_str()), ("1", NET_ADMIN_ALONE));

    let killed = booted.signal_program(PROGRAM, Signal::SIGKILL).unwrap();
    wait::until_true("systemd starts it again", Duration::from_secs(10), || {
        Ok(booted.pids_of(PROGRAM).iter().any(|pid| *pid != killed))
    })
    .unwrap();
    let again = served_within(&world, &booted, Duration::from_secs(15));
    println!("served again {again:?} after systemd had started it again");

    let stopped = booted.signal_program(PROGRAM, Signal::SIGSTOP).unwrap();
    wait::until_true("the watchdog ends what hangs", Duration::from_secs(60), || {
        let pids = booted.pids_of(PROGRAM);
        Ok(!pids.is_empty() && !pids.contains(&stopped))
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", log(&booted)));
    served_within(&world, &booted, Duration::from_secs(15));
    booted.halt().unwrap();
}
