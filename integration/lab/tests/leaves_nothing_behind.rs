//! Whatever happens to a lab, nothing of it is left.

#![allow(clippy::unwrap_used)]

mod street;

use std::{path::Path, process::Command, time::Duration};

use integration_lab::{Lab, Nat, Signal, wait};
use street::{street, tool};

fn alive(pid: u32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !state.is_empty() && !state.contains(") Z ")
}

#[test]
fn a_dropped_lab_takes_its_namespaces_and_programs_along() {
    let street = street(Nat::PortRestricted);
    let process = tool(&street.far, "echo", "udp-echo --listen 203.0.113.1:4000").start().unwrap();
    let (pid, dir) = (process.pid().unwrap(), street.lab.dir().to_owned());
    let namespace = street.far.namespace().to_owned();
    assert!(Path::new("/run/netns").join(&namespace).exists() && alive(pid));

    drop(street);

    assert!(!Path::new("/run/netns").join(&namespace).exists());
    assert!(!Path::new("/etc/netns").join(&namespace).exists());
    assert!(!dir.exists() && !alive(pid));
}

#[test]
fn a_panic_cleans_up_as_well() {
    let (sender, namespaces) = std::sync::mpsc::channel();
    let test = std::thread::spawn(move || {
        let lab = Lab::unique().unwrap();
        let host = lab.host("unlucky").unwrap();
        sender.send(host.namespace().to_owned()).unwrap();
        panic!("this panic is part of the test");
    });

    assert!(test.join().is_err());

    let namespace = namespaces.recv().unwrap();
    assert!(!Path::new("/run/netns").join(namespace).exists());
}

#[test]
fn a_supervised_program_comes_back_until_it_is_stopped() {
    let street = street(Nat::PortRestricted);
    let process =
        tool(&street.far, "echo", "udp-echo --listen 203.0.113.1:4000").supervised().start().unwrap();
    let first = process.pid().unwrap();

    process.kill().unwrap();
    let back = || Ok(process.pid().filter(|pid| *pid != first));
    let (second, took) = wait::until("it is back", Duration::from_secs(3), back).unwrap();
    let code = process.stop(Duration::from_secs(2)).unwrap();

    assert!(took >= Duration::from_millis(90), "{took:?}");
    assert_eq!((process.starts(), code), (2, 128 + Signal::SIGTERM as i32));
    assert!(!alive(second) && process.pid().is_none());
}

#[test]
fn a_command_that_hangs_is_killed_at_its_limit() {
    let street = street(Nat::PortRestricted);

    let done = street.home.try_run_for(&["sleep", "30"], Duration::from_millis(100)).unwrap();

    assert!(done.timed_out && done.took < Duration::from_secs(5));
}

/// The rest runs this test binary again as a process of its own, which makes a lab and then rests.
const CHILD: &str = "POSTERN_LAB_TEST_CHILD";

#[test]
fn child_that_makes_a_lab_and_rests() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let street = street(Nat::PortRestricted);
    let process = tool(&street.far, "echo", "udp-echo --listen 203.0.113.1:4000").start().unwrap();
    let told = format!("{} {}", street.far.namespace(), process.pid().unwrap());
    std::fs::write(std::env::var_os(CHILD).unwrap(), told).unwrap();
    std::thread::sleep(Duration::from_secs(60));
}

fn resting_child() -> (std::process::Child, String, u32) {
    let told = std::env::temp_dir().join(format!(
        "postern-lab-test-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_makes_a_lab_and_rests", "--nocapture"])
        .env(CHILD, &told)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let (text, _) = wait::until("the child has its lab", Duration::from_secs(10), || {
        Ok(std::fs::read_to_string(&told).ok().filter(|text| text.contains(' ')))
    })
    .unwrap();
    std::fs::remove_file(told).unwrap();
    let (namespace, pid) = text.split_once(' ').unwrap();
    (child, namespace.to_owned(), pid.parse().unwrap())
}

#[test]
fn an_interrupted_process_cleans_up_before_it_ends() {
    let (mut child, namespace, pid) = resting_child();

    let interrupt = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    nix::sys::signal::kill(interrupt, nix::sys::signal::Signal::SIGINT).unwrap();
    let status = child.wait().unwrap();

    assert_eq!(status.code(), Some(130));
    assert!(!Path::new("/run/netns").join(namespace).exists() && !alive(pid));
}

#[test]
fn the_next_lab_removes_what_a_killed_one_left() {
    let (mut child, namespace, pid) = resting_child();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        Path::new("/run/netns").join(&namespace).exists() && alive(pid),
        "killed without a chance to clean up"
    );

    let _next = Lab::unique().unwrap();

    wait::until_true("the leavings are gone", Duration::from_secs(2), || Ok(!alive(pid))).unwrap();
    assert!(!Path::new("/run/netns").join(namespace).exists());
}

#[test]
fn a_name_belongs_to_one_lab_at_a_time() {
    let name = format!("plname{}", std::process::id());
    let first = Lab::named(&name).unwrap();

    let second = Lab::named(&name);
    first.close().unwrap();
    let third = Lab::named(&name);

    assert!(second.is_err_and(|error| error.to_string().contains("running already")));
    assert!(third.is_ok());
}
