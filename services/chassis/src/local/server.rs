//! The daemon's end of the local socket.

use std::fs;
use std::future::Future;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actors_runtime::Registry;
use nix::unistd::{Group, chown};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::peer::{Gate, Peer};
use crate::failure::Failure;

/// The longest request: certificates and a configuration fit.
const LONGEST_REQUEST: u64 = 1024 * 1024;
/// How long a caller may take to say what it wants, or to take the answer.
const CALLER_PATIENCE: Duration = Duration::from_secs(5);
/// How long an answer may take: longer than what the command line waits for.
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);
/// Calls at once.
const AT_ONCE: usize = 32;
/// A pause after a failed `accept`, which otherwise would spin when descriptors run out.
const BREATH: Duration = Duration::from_millis(100);

/// The members of an answer, which stand beside `"ok": true`; or why there is none.
pub type Answer = Pin<Box<dyn Future<Output = Result<Value, Failure>>>>;

/// Answers a request, the line as it came. `actors` is answered before this is asked.
pub type Desk = Rc<dyn Fn(String) -> Answer>;

/// A bound socket. The file is removed when this is dropped.
#[derive(Debug)]
pub struct LocalSocket {
    listener: Option<StdListener>,
    path: PathBuf,
    gate: Gate,
}

impl LocalSocket {
    /// Binds the socket with mode 0660. `group` gets it; without one, the group named like the program, if there is one.
    ///
    /// # Errors
    /// When another process answers there, the group is unknown, or the directory cannot be written.
    pub fn bind(path: &Path, program: &str, group: Option<&str>) -> Result<Self, Failure> {
        let shown = path.display();
        let failed = |error: &dyn std::fmt::Display| {
            Failure::failed(format!("cannot open the local socket {shown}: {error}"))
                .fix("run as root, or name another directory with --run-dir")
        };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(|error| failed(&error))?;
        }
        remove_stale(path, program)?;
        let listener = StdListener::bind(path).map_err(|error| failed(&error))?;
        // From here on the file goes with this value, also when something fails.
        let mut socket = Self {
            listener: Some(listener),
            path: path.to_owned(),
            gate: Gate::of(path).map_err(|error| failed(&error))?,
        };
        // Until here the file has had the mode of the umask; who connects meanwhile is checked all the same.
        fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(|error| failed(&error))?;
        if let Some(group) = find_group(group, program)? {
            chown(path, None, Some(group.gid)).map_err(|error| failed(&error))?;
            socket.gate = Gate::of(path).map_err(|error| failed(&error))?;
        }
        if let Some(listener) = &socket.listener {
            listener.set_nonblocking(true).map_err(|error| failed(&error))?;
        }
        Ok(socket)
    }

    /// Answers until the process ends; inside a `LocalSet`.
    pub async fn serve(mut self, actors: Arc<Registry>, desk: Desk) {
        let Some(listener) = self.listener.take() else { return };
        let listener = match UnixListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "the local socket cannot be served"),
        };
        let places = Arc::new(Semaphore::new(AT_ONCE));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (actors, desk, gate) = (Arc::clone(&actors), Rc::clone(&desk), self.gate);
                    tokio::task::spawn_local(async move {
                        if let Err(error) = exchange(stream, gate, &actors, &desk).await {
                            tracing::debug!(%error, "a caller of the local socket went away");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection on the local socket");
                    tokio::time::sleep(BREATH).await;
                }
            }
        }
    }
}

impl Drop for LocalSocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes the socket of a predecessor that is gone; refuses when somebody answers.
fn remove_stale(path: &Path, program: &str) -> Result<(), Failure> {
    let Ok(file) = fs::symlink_metadata(path) else { return Ok(()) };
    let shown = path.display();
    if !file.file_type().is_socket() {
        return Err(Failure::failed(format!("{shown} is in the way: it is no socket")).fix("remove it"));
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(Failure::failed(format!("{program} is already running: it answers at {shown}"))
            .fix("stop it first, or name another directory with --run-dir"));
    }
    fs::remove_file(path)
        .map_err(|error| Failure::failed(format!("cannot remove the old socket {shown}: {error}")))
}

fn find_group(group: Option<&str>, program: &str) -> Result<Option<Group>, Failure> {
    let found = Group::from_name(group.unwrap_or(program));
    match (group, found) {
        (_, Ok(Some(found))) => Ok(Some(found)),
        (None, Ok(None) | Err(_)) => Ok(None),
        (Some(name), Ok(None)) => {
            Err(Failure::usage(format!("--socket-group {name}: there is no such group"))
                .fix(format!("groupadd --system {name}")))
        }
        (Some(name), Err(error)) => Err(Failure::failed(format!("--socket-group {name}: {error}"))),
    }
}

async fn exchange(stream: UnixStream, gate: Gate, actors: &Registry, desk: &Desk) -> io::Result<()> {
    let peer = Peer::of(&stream)?;
    let (reading, mut writing) = stream.into_split();
    let answer = if gate.admits(&peer) {
        let mut line = String::new();
        let mut reading = BufReader::new(reading.take(LONGEST_REQUEST));
        match timeout(CALLER_PATIENCE, reading.read_line(&mut line)).await {
            Ok(Ok(0)) => return Ok(()),
            Ok(Ok(_)) if line.ends_with('\n') => answer(line, actors, desk).await,
            Ok(Ok(_)) => Err(Failure::usage("the request is too long, or its line does not end")),
            Ok(Err(error)) => return Err(error),
            Err(_) => Err(Failure::usage("no request came in time")),
        }
    } else {
        tracing::warn!(uid = peer.uid, "a user without the right to it called the local socket");
        Err(Failure::failed("this user may not ask here").fix("be root, or join the socket's group"))
    };
    let line = format!("{}\n", envelope(answer));
    timeout(CALLER_PATIENCE, writing.write_all(line.as_bytes()))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// What every program answers itself.
#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
enum BuiltIn {
    Actors {},
    #[cfg(feature = "chaos")]
    Chaos {
        what: String,
        kind: String,
        key: String,
        #[serde(default)]
        millis: u64,
    },
    #[serde(other)]
    Other,
}

async fn answer(line: String, actors: &Registry, desk: &Desk) -> Result<Value, Failure> {
    match serde_json::from_str(&line).unwrap_or(BuiltIn::Other) {
        BuiltIn::Actors {} => Ok(json!({"actors": actors.snapshot(), "drops": actors.drops()})),
        #[cfg(feature = "chaos")]
        BuiltIn::Chaos { what, kind, key, millis } => disturb(actors, &what, &kind, &key, millis),
        BuiltIn::Other => timeout(ANSWER_PATIENCE, desk(line))
            .await
            .unwrap_or_else(|_| Err(Failure::failed("no answer in time"))),
    }
}

#[cfg(feature = "chaos")]
fn disturb(actors: &Registry, what: &str, kind: &str, key: &str, millis: u64) -> Result<Value, Failure> {
    use actors_runtime::Disturbance;
    let disturbance = match what {
        "panic" => Disturbance::Panic,
        "stall" => Disturbance::Stall(Duration::from_millis(millis)),
        _ => return Err(Failure::usage("either panic or stall")),
    };
    if actors.disturb(kind, key, disturbance) {
        return Ok(json!({}));
    }
    Err(Failure::failed(format!("no actor {kind} {key:?} is alive")).fix("`actors` lists what is alive"))
}

fn envelope(answer: Result<Value, Failure>) -> Value {
    match answer {
        Ok(Value::Object(mut members)) => {
            members.insert("ok".into(), true.into());
            Value::Object(members)
        }
        Ok(Value::Null) => json!({"ok": true}),
        Ok(other) => {
            Value::Object(Map::from_iter([("ok".to_owned(), true.into()), ("answer".to_owned(), other)]))
        }
        Err(failure) => {
            json!({"ok": false, "error": failure.what, "fix": failure.fix, "exit": failure.exit as u8})
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use actors_runtime::Universe;
    use tokio::task::{LocalSet, spawn_blocking};

    use super::*;
    use crate::local::ask::ask;

    /// Serves a desk that echoes, and asks it.
    fn asked(request: Value) -> Result<Value, Failure> {
        let universe = Universe::new(crate::testing::ROWS);
        crate::testing::start_sleeper(&universe, 1);
        let actors = Arc::clone(universe.registry());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/test.sock");
        let socket = LocalSocket::bind(&path, "postern-test", None).unwrap();
        let desk: Desk = Rc::new(|line| {
            Box::pin(async move {
                match line.trim() {
                    r#"{"do":"deny"}"# => Err(Failure::new(crate::Exit::Denied, "denied").fix("ask")),
                    line => Ok(json!({"echo": line})),
                }
            })
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async move {
            tokio::task::spawn_local(async move {
                socket.serve(actors, desk).await;
            });
            spawn_blocking(move || ask("postern-test", &path, &request, Duration::from_secs(30)))
                .await
                .unwrap()
        })
    }

    #[test]
    fn the_socket_is_for_its_owner_and_group_only_and_leaves_with_its_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("test.sock");

        let socket = LocalSocket::bind(&path, "postern-test", None).unwrap();
        let file = fs::metadata(&path).unwrap();

        assert_eq!(file.mode() & 0o777, 0o660);
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_second_process_is_refused_and_a_dead_ones_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("test.sock");
        let first = LocalSocket::bind(&path, "postern-test", None).unwrap();

        let failure = LocalSocket::bind(&path, "postern-test", None).unwrap_err();

        assert!(failure.what.contains("already running"));
        // What a killed process leaves behind: the file, and nobody who listens.
        let aside = dir.path().join("aside");
        fs::rename(&path, &aside).unwrap();
        drop(first);
        fs::rename(&aside, &path).unwrap();
        assert!(LocalSocket::bind(&path, "postern-test", None).is_ok());
    }

    #[test]
    fn an_unknown_group_is_an_error() {
        let dir = tempfile::tempdir().unwrap();

        let failure = LocalSocket::bind(&dir.path().join("test.sock"), "postern-test", Some("no-such-group"))
            .unwrap_err();

        assert!(failure.what.contains("no-such-group"));
    }

    #[test]
    fn a_request_of_the_program_reaches_its_desk() {
        let answer = asked(json!({"do": "status"})).unwrap();

        assert_eq!(answer, json!({"ok": true, "echo": "{\"do\":\"status\"}"}));
    }

    #[test]
    fn a_failure_keeps_its_exit_code_and_its_fix() {
        let failure = asked(json!({"do": "deny"})).unwrap_err();

        assert_eq!(failure, Failure::new(crate::Exit::Denied, "denied").fix("ask"));
    }

    #[test]
    fn living_actors_are_listed() {
        let answer = asked(json!({"do": "actors"})).unwrap();

        assert_eq!(answer["actors"][0]["kind"], "Sleeper");
        assert_eq!(answer["actors"][0]["depth"], 1);
        assert_eq!(answer["drops"]["actor_panicked"], 0);
    }

    #[test]
    fn a_request_without_end_is_refused() {
        let failure = asked(json!({"do": "x".repeat(2 * 1024 * 1024)})).unwrap_err();

        assert!(failure.what.contains("too long") || failure.what.contains("did not answer"), "{failure}");
    }
}
