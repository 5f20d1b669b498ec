//! The code blocks of `docs/getting-started.md` work, in their order, as they stand.

#![allow(clippy::unwrap_used)]

use std::{fs, path::Path, time::Duration};

use integration_lab::{Done, Host, Lab, Process, program_dir, wait};
use integration_scenarios::{
    Plan, World,
    addresses::{CONTROL, OFFICE_LAN, WEB},
};

/// The places of the page, and what they are in the lab.
const CONTROL_IN_THE_PAGE: &str = "203.0.113.10";
const LAN_IN_THE_PAGE: &str = "192.168.1.0/24";
const WEB_IN_THE_PAGE: &str = "192.168.1.20";
const PIN_IN_THE_PAGE: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// The machines of the page have a file system each; the lab's have one together. So every block sees its host's own
/// `/var/lib` and `/run`, and works in its host's own folder.
const ON_ITS_OWN_MACHINE: &str = r#"
set -eu
machine=$1; block=$2
mkdir -p "$machine/var-lib" "$machine/run" "$machine/home" "$machine/work"
names=$(readlink -f /etc/resolv.conf)
case $names in /run/*)
    mkdir -p "$machine${names%/*}"
    [ -e "$machine$names" ] || cp "$names" "$machine$names" ;;
esac
mount --bind "$machine/var-lib" /var/lib
mount --bind "$machine/run" /run
export HOME="$machine/home"
unset XDG_CONFIG_HOME
cd "$machine/work"
exec bash -eu -c "$block"
"#;

#[derive(Debug)]
struct Block {
    host: String,
    background: bool,
    copy: Option<(String, String)>,
    text: String,
}

/// The blocks that run: those whose fence says ```` ```sh host=… ````.
fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix("```") else { continue };
        let text: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
        let words: Vec<_> = info.split_whitespace().collect();
        let value = |key: &str| words.iter().find_map(|word| word.strip_prefix(key)).map(str::to_owned);
        if let (Some(&"sh"), Some(host)) = (words.first(), value("host=")) {
            blocks.push(Block {
                host,
                background: words.contains(&"background"),
                copy: value("copy=").zip(value("to=")),
                text: text.join("\n"),
            });
        }
    }
    blocks
}

struct Reader<'a> {
    world: &'a World,
    background: Vec<Process>,
}

impl Reader<'_> {
    fn host(&self, name: &str) -> &Host {
        match name {
            "control" => &self.world.ground.internet,
            "gateway" => &self.world.ground.office,
            "client" => &self.world.ground.home,
            other => panic!("the page names a host `{other}`"),
        }
    }

    fn follow(&mut self, block: &Block) -> Option<Done> {
        if let Some((file, to)) = &block.copy {
            let from = self.host(&block.host).dir().join("machine/work").join(file);
            let work = self.host(to).dir().join("machine/work");
            fs::create_dir_all(&work).unwrap();
            fs::copy(&from, work.join(file)).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
            return None;
        }
        let host = self.host(&block.host).clone();
        let text = self.in_the_lab(&block.text);
        let machine = host.dir().join("machine");
        let words = ["-c", ON_ITS_OWN_MACHINE, "bash"].map(str::to_owned);
        let words = words.into_iter().chain([machine.display().to_string(), text.clone()]);
        let path = format!("{}:{}", program_dir().unwrap().display(), std::env::var("PATH").unwrap());
        let host = host
            .with_env("PATH", path)
            // The lab's addresses are reserved for documentation, and a relay distrusts those unless told.
            .with_env("POSTERN_ALLOW_PEER", "203.0.113.0/24,2001:db8::/32");
        if block.background {
            let name = format!("block-{}", self.background.len());
            let process = host.launch(&name, "bash").args(words).start().unwrap();
            self.background.push(process);
            self.wait_ready(&host, &text, &machine);
            return None;
        }
        let argv: Vec<_> = ["bash".to_owned()].into_iter().chain(words).collect();
        let done = host.try_run(&argv).unwrap();
        let said = self.background.iter().map(Process::stderr).collect::<Vec<_>>().join("\n---\n");
        assert_eq!(
            done.code, 0,
            "the block failed:\n{text}\n{}{}\n--- background:\n{said}",
            done.stdout, done.stderr
        );
        Some(done)
    }

    fn in_the_lab(&self, text: &str) -> String {
        let state = self.world.ground.internet.dir().join("machine/var-lib/postern-control");
        let pin = fs::read_to_string(state.join("certificate.pin")).unwrap_or_default();
        text.replace("sudo ", "")
            .replace(PIN_IN_THE_PAGE, pin.trim())
            .replace(CONTROL_IN_THE_PAGE, CONTROL)
            .replace(LAN_IN_THE_PAGE, OFFICE_LAN)
            .replace(WEB_IN_THE_PAGE, WEB)
    }

    fn wait_ready(&self, host: &Host, command: &str, machine: &Path) {
        let word = command.split_whitespace().next().unwrap();
        let port = match word {
            "postern-control" => Some(9460),
            "postern-gateway" => Some(9461),
            "postern-relay" => Some(9462),
            _ => None,
        };
        let said = || self.background.last().map(Process::stderr).unwrap_or_default();
        let what = format!("`{command}` is ready");
        wait::until_true(&what, Duration::from_secs(20), || {
            let Some(port) = port else { return Ok(machine.join("run/postern/postern.sock").exists()) };
            let url = format!("http://127.0.0.1:{port}/readyz");
            let done = host.try_run(&["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", &url])?;
            Ok(done.stdout == "200")
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", said()));
    }
}

#[test]
fn every_block_of_the_page_does_what_the_page_says() {
    let page =
        Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().join("docs/getting-started.md");
    let blocks = blocks(&fs::read_to_string(page).unwrap());
    assert!(blocks.len() >= 8, "the page has lost its blocks: {blocks:#?}");
    let world = World::lay_out(Lab::unique().unwrap(), Plan::default()).unwrap();
    let mut reader = Reader { world: &world, background: Vec::new() };

    let said: String =
        blocks.iter().filter_map(|block| reader.follow(block)).map(|done| done.stdout).collect();

    assert!(said.matches("hello from the office").count() >= 2, "the web server never answered:\n{said}");
    assert!(said.contains("exit code 2"), "taking the policy away is not shown:\n{said}");
}
