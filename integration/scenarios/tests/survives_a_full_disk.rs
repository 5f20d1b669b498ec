//! When the disk of control's database is full, reading goes on, writes are refused with what to do, and once there is
//! room again everything goes on by itself.

#![allow(clippy::unwrap_used)]

use std::{
    fs::File,
    io::{ErrorKind, Write as _},
    time::Duration,
};

use integration_lab::wait;
use integration_scenarios::Alone;
use serde_json::json;

/// A mount namespace of its own, in which the state is a small file system that ends with it.
const SMALL: &str = "mount -t tmpfs -o size=6m,mode=0700 tmpfs \"$1\" && shift && exec \"$@\"";

#[test]
fn a_full_disk_stops_writes_and_nothing_else() {
    let name = "full-disk";
    let state = std::env::temp_dir().join(format!("pstn-{name}-{}", std::process::id())).join("state");
    let state = state.display().to_string();
    let under = ["unshare", "--mount", "--propagation", "private", "sh", "-c", SMALL, "sh", &state];
    let control = Alone::start(name, &[], &under).unwrap();
    let site = |n: u32| json!({"name": format!("site-{n}"), "description": "x".repeat(1000)});
    assert_eq!(control.ask("POST", "/api/v1/sites", Some(&site(0))).unwrap().0, 201);

    let filler = control.state().join("filler");
    let mut file = File::create(&filler).unwrap();
    loop {
        match file.write_all(&[0; 4096]) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::Other) => break,
            Err(error) => panic!("{error}"),
        }
    }
    let mut refused = None;
    // The write-ahead log may have room that it already holds.
    for n in 1..2000 {
        let (status, answer) = control.ask("POST", "/api/v1/sites", Some(&site(n))).unwrap();
        if status != 201 {
            refused = Some((status, answer));
            break;
        }
    }
    let (read, sites) = control.ask("GET", "/api/v1/sites?limit=1", None).unwrap();
    let readyz = control.ask("GET", "/readyz", None).unwrap().0;
    drop(file);
    std::fs::remove_file(&filler).unwrap();

    let (status, answer) = refused.expect("a full disk refused nothing");
    assert_eq!((status, answer["code"].as_str()), (507, Some("storage-full")), "{answer}\n{}", control.log());
    assert!(answer["detail"].as_str().unwrap().contains("make room"), "{answer}");
    assert_eq!((read, sites["items"][0]["name"].as_str(), readyz), (200, Some("site-0"), 200));
    wait::until_true("control writes again", Duration::from_secs(30), || {
        let (status, answer) = control.ask("POST", "/api/v1/sites", Some(&json!({"name": "again"})))?;
        anyhow::ensure!(status == 201, "{answer}\n{}", control.log());
        Ok(true)
    })
    .unwrap();
    assert!(!control.log().contains("panicked"), "{}", control.log());
}
