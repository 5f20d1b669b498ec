//! A real PostgreSQL of its own: a private data directory, a socket in it and no port, gone when it is dropped.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{Privilege, privilege, wait, which};

/// The user that the server runs as when root starts it, which it refuses to run as.
const USER: &str = "postgres";

/// A running PostgreSQL.
pub struct Postgres {
    dir: PathBuf,
    programs: PathBuf,
    server: Option<Child>,
}

impl Postgres {
    /// Whether one can be started here: in a user namespace there is no other user than root to run it as.
    pub fn possible() -> bool {
        privilege() != Privilege::UserNamespace
    }

    /// Makes a cluster and starts it.
    ///
    /// # Errors
    /// When PostgreSQL is not installed or does not start.
    pub fn start() -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let programs = programs().context(
            "PostgreSQL is not installed: sudo apt-get install --no-install-recommends postgresql",
        )?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("pstn-pg-{}-{number}", std::process::id()));
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let mut postgres = Self { dir, programs, server: None };
        if privilege() == Privilege::Root {
            let owner = Command::new("chown").arg(USER).arg(&postgres.dir).status()?;
            ensure!(owner.success(), "cannot give {} to {USER}", postgres.dir.display());
        }
        let made = postgres
            .command("initdb")
            .args([
                "--no-sync",
                "--auth",
                "trust",
                "--username",
                "postern",
                "--encoding",
                "UTF8",
                "--locale",
                "C",
            ])
            .arg("--pgdata")
            .arg(postgres.data())
            .output()?;
        ensure!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        postgres.run()?;
        Ok(postgres)
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// A program of PostgreSQL, as the user that it wants.
    fn command(&self, program: &str) -> Command {
        let program = self.programs.join(program);
        let mut command = match privilege() {
            Privilege::Root => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", USER, "--regid", USER, "--clear-groups", "--"]).arg(program);
                command
            }
            Privilege::UserNamespace | Privilege::None => Command::new(program),
        };
        command.current_dir("/").stdin(Stdio::null());
        command
    }

    /// Starts the server over the same data, after [`Postgres::kill`].
    ///
    /// # Errors
    /// When it does not come up.
    pub fn run(&mut self) -> Result<()> {
        let log = fs::File::options().create(true).append(true).open(self.dir.join("log"))?;
        let server = self
            .command("postgres")
            .arg("-D")
            .arg(self.data())
            .args(["-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=50"])
            .arg("-c")
            .arg(format!("unix_socket_directories={}", self.dir.display()))
            .stdout(log.try_clone()?)
            .stderr(log)
            // Its own group: a Ctrl-C ends the tests first.
            .process_group(0)
            .spawn()
            .context("cannot start PostgreSQL")?;
        self.server = Some(server);
        wait::until_true("PostgreSQL answers", Duration::from_secs(30), || {
            let mut ready = self.command("pg_isready");
            Ok(ready.arg("--quiet").arg("--host").arg(&self.dir).status()?.success())
        })
        .map(drop)
        .with_context(|| fs::read_to_string(self.dir.join("log")).unwrap_or_default())
    }

    /// Where it is, for a client.
    pub fn url(&self) -> String {
        format!("postgres://postern@localhost/postgres?host={}", self.dir.display())
    }

    /// Ends it without a word. Its children notice and end too.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            // It may have ended by itself.
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Where Debian puts the newest version's programs, or where the path finds them.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .max()
        .map(|version| Path::new("/usr/lib/postgresql").join(version.to_string()).join("bin"))
        .filter(|programs| programs.join("initdb").exists());
    newest.or_else(|| Some(which("initdb")?.parent()?.to_owned()))
}
