//! Kernel settings that forwarding needs, and putting them back.
//!
//! What was there before is written down first, so that a successor can put it back after a crash.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::filter_inspect::Obstacle;

const ROOT: &str = "/proc/sys/";

/// The settings that were changed, with what they were.
#[derive(Debug)]
pub(crate) struct Settings {
    file: Option<PathBuf>,
    before: BTreeMap<String, String>,
}

impl Settings {
    /// Reads what a predecessor left in `file`.
    pub(crate) fn load(file: Option<PathBuf>) -> Self {
        let before = file.as_deref().and_then(|file| fs::read(file).ok());
        let before = before.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Self { file, before }
    }

    /// Turns forwarding on. What cannot be changed is an obstacle.
    pub(crate) fn forward(&mut self) -> Vec<Obstacle> {
        let mut obstacles = Vec::new();
        obstacles.extend(self.set("net/ipv4/ip_forward", "1"));
        if Path::new(ROOT).join("net/ipv6/conf/all/forwarding").exists() {
            self.keep_router_advertisements();
            obstacles.extend(self.set("net/ipv6/conf/all/forwarding", "1"));
        }
        obstacles
    }

    /// A host that forwards ignores router advertisements, and so loses its own default route, unless it is told 2
    /// (ip-sysctl, accept_ra).
    fn keep_router_advertisements(&mut self) {
        if read("net/ipv6/conf/all/forwarding").is_ok_and(|value| value == "1") {
            return;
        }
        let Ok(devices) = fs::read_dir(Path::new(ROOT).join("net/ipv6/conf")) else { return };
        for device in devices.flatten() {
            let Ok(name) = device.file_name().into_string() else { continue };
            let setting = format!("net/ipv6/conf/{name}/accept_ra");
            if name != "lo" && name != "all" && read(&setting).is_ok_and(|value| value == "1") {
                let _ = self.set(&setting, "2");
            }
        }
    }

    fn set(&mut self, setting: &str, value: &str) -> Option<Obstacle> {
        let fix = format!("sysctl -w {}={value}", setting.replace('/', "."));
        let obstacle =
            |why: String| Some(Obstacle { what: setting.replace('/', "."), why, fix: fix.clone() });
        let before = match read(setting) {
            Ok(before) => before,
            Err(error) => return obstacle(format!("cannot be read: {error}")),
        };
        if before == value {
            return None;
        }
        // A predecessor's note is older, so it is the truth.
        self.before.entry(setting.to_owned()).or_insert(before);
        if let Err(error) = self.note() {
            tracing::warn!(error = %error, "after a crash, kernel settings could not be put back");
        }
        match fs::write(Path::new(ROOT).join(setting), value) {
            Ok(()) => None,
            Err(error) => {
                self.before.remove(setting);
                obstacle(format!("is off and cannot be switched on: {error}"))
            }
        }
    }

    /// Puts everything back.
    pub(crate) fn restore(&mut self) {
        // Forwarding first: turning it off resets accept_ra of devices.
        let order = |setting: &String| !setting.ends_with("forwarding");
        let mut before: Vec<_> = std::mem::take(&mut self.before).into_iter().collect();
        before.sort_by_key(|(setting, _)| order(setting));
        for (setting, value) in before {
            // A device may be gone by now, and its settings with it.
            let _ = fs::write(Path::new(ROOT).join(setting), value);
        }
        if let Some(file) = &self.file {
            let _ = fs::remove_file(file);
        }
    }

    fn note(&self) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        let fresh = file.with_extension("new");
        fs::write(&fresh, serde_json::to_vec(&self.before)?)?;
        fs::rename(fresh, file)
    }
}

fn read(setting: &str) -> io::Result<String> {
    fs::read_to_string(Path::new(ROOT).join(setting)).map(|text| text.trim().to_owned())
}
