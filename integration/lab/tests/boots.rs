//! A system boots in a namespace of the lab, sees its network, and leaves nothing behind.

#![allow(clippy::unwrap_used)]

mod street;

use std::{fs, os::unix::fs::symlink, time::Duration};

use integration_lab::{Nat, Privilege, Signal, privilege, wait};
use street::street;

const UNIT: &str = "[Service]\nDynamicUser=yes\nAmbientCapabilities=CAP_NET_ADMIN\nDeviceAllow=/dev/net/tun rw\n\
                    ExecStart=/bin/sh -c 'ip -4 addr show eth0; exec 3<>/dev/net/tun && echo open; exec sleep 600'\n\
                    StandardOutput=append:/said\nRestart=always\n";

#[test]
fn a_booted_system_starts_its_services_again() {
    assert_eq!(
        privilege(),
        Privilege::Root,
        "booting a system needs root on the machine: sudo -E env PATH=\"$PATH\" cargo test -p integration-lab --test boots"
    );
    let street = street(Nat::PortRestricted);
    let booted = street
        .lab
        .boot(&street.home, |root| {
            fs::write(root.join("etc/systemd/system/probe.service"), UNIT)?;
            symlink(
                "../probe.service",
                root.join("etc/systemd/system/multi-user.target.wants/probe.service"),
            )?;
            Ok(())
        })
        .unwrap();
    let (root, said) = (booted.root().to_owned(), booted.root().join("said"));
    let lines = |word: &str| fs::read_to_string(&said).unwrap_or_default().matches(word).count();
    wait::until_true("the service runs", Duration::from_secs(30), || Ok(lines("open") == 1))
        .unwrap_or_else(|error| panic!("{error}: {}", booted.console()));

    let first = booted.signal_program("sleep", Signal::SIGKILL).unwrap();
    wait::until_true("it runs again", Duration::from_secs(10), || Ok(lines("open") == 2)).unwrap();

    assert!(fs::read_to_string(&said).unwrap().contains("192.168.7.2"));
    assert!(!booted.pids_of("sleep").contains(&first));
    booted.halt().unwrap();
    drop(street);
    assert!(!root.exists());
}
