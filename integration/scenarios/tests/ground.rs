//! The ground itself: without Postern, home reaches the internet and not the office, and the office's servers answer.

#![allow(clippy::unwrap_used)]

use integration_lab::{Host, Lab};
use integration_scenarios::{
    Ground,
    addresses::{WEB, WEB_NAME, WEB6},
};

fn fetches(host: &Host, url: &str) -> bool {
    let done = host.try_run(&["curl", "-sS", "--max-time", "3", "-o", "/dev/null", url]).unwrap();
    done.code == 0
}

#[test]
fn home_reaches_the_internet_and_not_the_office() {
    let ground = Ground::lay_out(Lab::unique().unwrap()).unwrap();
    let tool = integration_lab::program("lab-tool").unwrap();
    let listen = ["http", "--listen", "203.0.113.10:80", "--listen", "[2001:db8::10]:80"];
    let server = ground.internet.launch("public", tool).args(listen).start().unwrap();
    let ready = || Ok(server.stdout().contains("ready"));
    integration_lab::wait::until_true("it listens", std::time::Duration::from_secs(5), ready).unwrap();

    for host in [&ground.home, &ground.office, &ground.web] {
        assert!(
            fetches(host, "http://203.0.113.10/") && fetches(host, "http://[2001:db8::10]/"),
            "{}",
            host.name()
        );
    }
    for url in [format!("http://{WEB}/"), format!("http://[{WEB6}]/"), format!("http://{WEB_NAME}/")] {
        assert!(fetches(&ground.office, &url), "the gateway's host does not reach {url}");
        assert!(!fetches(&ground.home, &url), "home reaches {url} without Postern");
    }
    assert!(fetches(&ground.home, "http://www.example/"), "the public name server answers");

    ground.plug_mobile().unwrap();
    ground.roam().unwrap();
    assert!(fetches(&ground.home, "http://203.0.113.10/") && fetches(&ground.home, "http://[2001:db8::10]/"));
    assert!(ground.office_queries().contains(WEB_NAME));
}
