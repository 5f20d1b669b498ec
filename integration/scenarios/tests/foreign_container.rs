//! The relay's image is built from the built program without any registry, starts from its archive as nobody with no
//! capability, and relays for coturn's client.

#![allow(clippy::unwrap_used)]

use std::{fs, path::Path, time::Duration};

use integration_lab::{Host, program};
use integration_scenarios::Street;
use serde_json::{Value, json};

/// A store of images that ends with the host's folder.
fn buildah(host: &Host) -> Vec<String> {
    let folder = |name: &str| host.dir().join(name).display().to_string();
    let words = ["buildah", "--root", &folder("images"), "--runroot", &folder("images-run")];
    words.into_iter().chain(["--storage-driver", "vfs"]).map(str::to_owned).collect()
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
}

/// What the kernel says of the running program with these words on its command line.
fn status_of(words: &[String]) -> Option<String> {
    let line = words.join("\0");
    fs::read_dir("/proc").unwrap().find_map(|entry| {
        let folder = entry.unwrap().path();
        let said = fs::read_to_string(folder.join("cmdline")).ok()?;
        (said.trim_end_matches('\0') == line).then(|| fs::read_to_string(folder.join("status")).ok())?
    })
}

fn field<'a>(status: &'a str, name: &str) -> Vec<&'a str> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap().split_whitespace().collect()
}

#[test]
fn an_image_built_without_a_registry_relays_as_nobody() {
    let street = Street::lay_out().unwrap();
    let host = &street.host;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/container/relay/build.sh");
    let archive = host.dir().join("postern-relay.tar").display().to_string();
    // A host of the street reaches nobody outside: what is built there is built without a registry.
    let built = [script.as_path(), &program("postern-relay").unwrap(), Path::new(&archive)];
    host.run(&built).unwrap();

    let buildah = buildah(host);
    let run = |words: &[&str]| {
        let argv: Vec<&str> = buildah.iter().map(String::as_str).chain(words.iter().copied()).collect();
        host.run(&argv).unwrap().stdout.trim().to_owned()
    };
    let container = run(&["from", "--quiet", &format!("oci-archive:{archive}")]);
    let inspected: Value = serde_json::from_str(&run(&["inspect", &container])).unwrap();
    let config = &inspected["OCIv1"]["config"];
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["Cmd"], json!(["serve"]));
    assert_eq!(config["StopSignal"], "SIGTERM");
    assert_eq!(config["Labels"]["org.opencontainers.image.title"], "postern-relay");
    assert_eq!(config["Labels"]["org.opencontainers.image.licenses"], "Apache-2.0");
    assert_eq!(config["Labels"]["org.opencontainers.image.version"], env!("CARGO_PKG_VERSION"));

    let inside = [strings(&config["Entrypoint"]), strings(&config["Cmd"])].concat();
    let flags = ["--standalone", "--static-user", "alice:wonderland", "--allow-peer", "203.0.113.0/24"];
    let listen = ["--listen", "203.0.113.20:3478", "--metrics-listen", "127.0.0.1:9462"];
    let inside: Vec<_> =
        inside.into_iter().chain(flags.into_iter().chain(listen).map(str::to_owned)).collect();
    let (first, rest) = buildah.split_first().unwrap();
    let _relay = host
        .launch("container", first)
        .args(rest)
        .args(["run", "--isolation", "chroot", "--cap-drop", "all", &container, "--"])
        .args(&inside)
        .start()
        .unwrap();
    street.wait_ready().unwrap();

    let status = status_of(&inside).unwrap();
    assert_eq!(field(&status, "Uid"), ["65532"; 4]);
    assert_eq!(field(&status, "CapEff"), ["0000000000000000"]);

    let words = "turnutils_uclient -y -u alice -w wonderland -n 20 -m 4 -c -L 203.0.113.30 203.0.113.20";
    let argv: Vec<_> = words.split_whitespace().collect();
    let done = host.try_run_for(&argv, Duration::from_secs(60)).unwrap();
    let said = format!("{}{}", done.stdout, done.stderr);
    assert_eq!(done.code, 0, "{said}");
    assert!(said.lines().any(|line| line.contains("Total lost packets 0")), "{said}");
}
