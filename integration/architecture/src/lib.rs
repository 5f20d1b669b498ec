//! The workspace as its tests see it: who depends on whom, and what the sources say.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// The root of the workspace.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// What `cargo metadata` knows.
pub struct Workspace {
    packages: BTreeMap<String, Package>,
    members: BTreeSet<String>,
}

/// One package, ours or another's.
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its folder below the root; empty for packages of others.
    pub folder: String,
    /// Its licence expression.
    pub license: String,
    /// Ids of what it links, tests and build scripts aside.
    links: Vec<String>,
}

impl Workspace {
    /// Asks cargo, without the network.
    pub fn read() -> Result<Self, String> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(["metadata", "--format-version", "1", "--offline", "--locked"]).current_dir(root());
        let output = command.output().map_err(|error| format!("cannot run cargo: {error}"))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let metadata: Value = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
        Ok(Self::of(&metadata))
    }

    fn of(metadata: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let mut links = BTreeMap::new();
        for node in list(&metadata["resolve"]["nodes"]) {
            let normal = list(&node["deps"]).into_iter().filter(|dependency| {
                list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null())
            });
            links.insert(
                text(&node["id"]),
                normal.map(|dependency| text(&dependency["pkg"])).collect::<Vec<_>>(),
            );
        }
        let root = root();
        let package = |value: &Value| {
            let id = text(&value["id"]);
            let manifest = text(&value["manifest_path"]);
            let folder = Path::new(&manifest).parent().and_then(|folder| folder.strip_prefix(&root).ok());
            let package = Package {
                name: text(&value["name"]),
                folder: folder.map(|folder| folder.display().to_string()).unwrap_or_default(),
                license: text(&value["license"]),
                links: links.get(&id).cloned().unwrap_or_default(),
            };
            (id, package)
        };
        Self {
            packages: list(&metadata["packages"]).iter().map(package).collect(),
            members: list(&metadata["workspace_members"]).iter().map(text).collect(),
        }
    }

    /// Our own packages.
    pub fn ours(&self) -> impl Iterator<Item = &Package> {
        self.members.iter().filter_map(|id| self.packages.get(id))
    }

    /// What a package links directly.
    pub fn direct<'a>(&'a self, package: &'a Package) -> impl Iterator<Item = &'a Package> {
        package.links.iter().filter_map(|id| self.packages.get(id))
    }

    /// Everything that a package links, in the end.
    pub fn closure<'a>(&'a self, package: &'a Package) -> Vec<&'a Package> {
        let mut seen = BTreeSet::new();
        let mut waiting: Vec<&str> = package.links.iter().map(String::as_str).collect();
        while let Some(id) = waiting.pop() {
            if seen.insert(id)
                && let Some(package) = self.packages.get(id)
            {
                waiting.extend(package.links.iter().map(String::as_str));
            }
        }
        seen.into_iter().filter_map(|id| self.packages.get(id)).collect()
    }

    /// One of our packages, by name.
    pub fn member(&self, name: &str) -> Option<&Package> {
        self.ours().find(|package| package.name == name)
    }
}

/// The Rust sources under a folder of the workspace, as (path below the root, text without test modules).
pub fn sources(folder: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut waiting = vec![root().join(folder)];
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                if !path.ends_with("target") {
                    waiting.push(path);
                }
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                let name = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
                found.push((name, without_tests(&text)));
            }
        }
    }
    found.sort();
    found
}

/// The code of a file: no comments, and nothing from where its test module begins, which is at the end by convention.
fn without_tests(text: &str) -> String {
    let mut code = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let next_opens_a_module =
            lines.peek().is_some_and(|next| next.starts_with("mod ") && next.ends_with('{'));
        if line.trim() == "#[cfg(test)]" && next_opens_a_module {
            break;
        }
        if !line.trim_start().starts_with("//") {
            code.push(line);
        }
    }
    code.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_module_at_the_end_does_not_count_as_source() {
        let text = "#[cfg(test)]\nmod declared;\nfn code() {}\n// comment\n#[cfg(test)]\nmod tests {\n}\n";

        assert_eq!(without_tests(text), "#[cfg(test)]\nmod declared;\nfn code() {}");
    }
}
