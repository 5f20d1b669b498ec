//! The manifests of the relay are what Kubernetes takes, strictly, and keep the contract of the relay's drain.

#![allow(clippy::unwrap_used)]

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use integration_lab::{cargo_target_dir, which};
use serde_json::Value;

/// Has the schemas of Kubernetes inside, so that nothing is asked of a network.
const VALIDATOR: &str = "kubernetes-validate==1.37.0";
/// The oldest version that has a stable `autoscaling/v2` with what we use, and a recent one.
const VERSIONS: [&str; 2] = ["1.27", "1.34"];

fn manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/kubernetes/relay").canonicalize().unwrap()
}

fn run(program: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{}: {said}{}",
        program.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

/// A folder of Python programs with the validator in it, made once.
fn tools() -> PathBuf {
    let venv = cargo_target_dir().unwrap().join("foreign/kubernetes-validate");
    let program = venv.join("bin/kubernetes-validate");
    if !program.exists() {
        run(&which("python3").unwrap(), &["-m", "venv", venv.to_str().unwrap()]);
        run(&venv.join("bin/pip"), &["install", "--quiet", "--disable-pip-version-check", VALIDATOR]);
    }
    venv.join("bin")
}

/// An overlay as it is applied; without kubectl, which not every machine has, the files as they are written.
fn rendered(overlay: &str, into: &Path) -> Vec<String> {
    let folder = manifests().join("overlays").join(overlay);
    if let Some(kubectl) = which("kubectl") {
        let file = into.join(format!("{overlay}.yaml"));
        std::fs::write(&file, run(&kubectl, &["kustomize", folder.to_str().unwrap()])).unwrap();
        return vec![file.display().to_string()];
    }
    let names = ["statefulset", "service", "disruption", "autoscaler", "network"];
    names.iter().map(|name| manifests().join(format!("base/{name}.yaml")).display().to_string()).collect()
}

fn objects(tools: &Path, files: &[String]) -> Vec<Value> {
    let script = "import json,sys,yaml\nfor f in sys.argv[1:]:\n for d in yaml.safe_load_all(open(f)): print(json.dumps(d))";
    let arguments: Vec<&str> = ["-c", script].into_iter().chain(files.iter().map(String::as_str)).collect();
    run(&tools.join("python"), &arguments).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_object_is_valid_and_a_relay_has_time_to_drain() {
    let (tools, dir) = (tools(), cargo_target_dir().unwrap().join("foreign/rendered"));
    std::fs::create_dir_all(&dir).unwrap();
    for overlay in ["host-network", "load-balancer"] {
        let files = rendered(overlay, &dir);
        for version in VERSIONS {
            let mut arguments = vec!["--strict", "--kubernetes-version", version];
            arguments.extend(files.iter().map(String::as_str));
            run(&tools.join("kubernetes-validate"), &arguments);
        }

        let objects = objects(&tools, &files);
        let relay = objects.iter().find(|object| object["kind"] == "StatefulSet").unwrap();
        let pod = &relay["spec"]["template"]["spec"];
        let container = &pod["containers"][0];
        let variable = |name: &str| {
            let all = container["env"].as_array().unwrap();
            all.iter().find(|variable| variable["name"] == name).map(|found| found["value"].clone())
        };

        let drain: i64 = variable("POSTERN_DRAIN_SECONDS").unwrap().as_str().unwrap().parse().unwrap();
        let grace = pod["terminationGracePeriodSeconds"].as_i64().unwrap();
        assert!(grace >= drain + 10, "{overlay}: {grace} s of grace for {drain} s of draining");
        assert_eq!(container["readinessProbe"]["httpGet"]["path"], "/readyz");
        assert_eq!(container["livenessProbe"]["httpGet"]["path"], "/healthz");
        assert_eq!(variable("POSTERN_METRICS_LISTEN").unwrap(), "0.0.0.0:9462");
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        let security = &container["securityContext"];
        assert_eq!(security["readOnlyRootFilesystem"], true);
        assert_eq!(security["allowPrivilegeEscalation"], false);
        assert_eq!(security["capabilities"], serde_json::json!({ "drop": ["ALL"] }));
        assert_eq!(
            pod["hostNetwork"].as_bool().unwrap_or(false),
            overlay == "host-network" && files.len() == 1
        );
        let secret = relay["spec"]["volumeClaimTemplates"][0]["metadata"]["name"].as_str().unwrap();
        let mounts = container["volumeMounts"].as_array().unwrap();
        let state = mounts.iter().find(|mount| mount["name"] == secret).unwrap();
        assert_eq!(state["mountPath"], variable("POSTERN_STATE_DIR").unwrap(), "the secret outlives the pod");
    }
}
