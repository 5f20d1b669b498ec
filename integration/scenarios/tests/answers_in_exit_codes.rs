//! What a script asks of policy, it reads in the exit code: 0 allowed or nothing to do, 2 denied or changed.

#![allow(clippy::unwrap_used)]

use integration_lab::Lab;
use integration_scenarios::{Plan, World, addresses::WEB_NAME, steps};

#[test]
fn explain_and_plan_say_denied_and_changed_by_two() {
    let mut world = World::lay_out(Lab::unique().unwrap(), Plan::default()).unwrap();
    steps::first_start(&mut world).unwrap();
    steps::configured(&mut world).unwrap();
    let admin = world.admin().unwrap();
    let file = world.ground.internet.dir().join("access.toml");
    let path = file.display().to_string();
    let wiki = format!("{WEB_NAME}:80");

    let allowed = admin.postern(&["explain", "--principal", "laptop", "--to", &wiki, "--json"]).unwrap();
    let denied = admin.postern(&["explain", "--principal", "laptop", "--to", "payroll", "--json"]).unwrap();
    admin.postern(&["policy", "export", &path]).unwrap().ok().unwrap();
    let exported = std::fs::read_to_string(&file).unwrap();
    let same = admin.postern(&["policy", "plan", &path]).unwrap();
    let denying = format!(
        "{exported}\n[[policy]]\nname = \"nobody-reads\"\neffect = \"deny\"\ngroups = [\"engineering\"]\nresources = [\"wiki\"]\n"
    );
    std::fs::write(&file, &denying).unwrap();
    let changed = admin.postern(&["policy", "plan", &path, "--json"]).unwrap();
    let untrue = format!(
        "{denying}\n[[test]]\nname = \"they still read it\"\nmember_of = [\"engineering\"]\nto = \"wiki:80\"\nexpect = \"allowed\"\n"
    );
    let line = 1 + untrue.lines().position(|line| line == "[[test]]").unwrap();
    std::fs::write(&file, untrue).unwrap();
    let refused = admin.postern(&["policy", "apply", &path]).unwrap();

    assert_eq!(allowed.code, 0, "{allowed:?}");
    assert!(allowed.stdout.contains("allowed"), "{allowed:?}");
    assert_eq!(denied.code, 2, "{denied:?}");
    assert_eq!(same.code, 0, "{same:?}");
    assert_eq!(changed.code, 2, "{changed:?}");
    assert!(refused.code == 1 && refused.stderr.contains(&line.to_string()), "{refused:?}, line {line}");
}
