//! The command line's end of the local socket.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use actors_runtime::ActorRow;
use serde_json::{Value, json};

use crate::failure::{Exit, Failure};

/// The largest answer that is read.
const LARGEST_ANSWER: u64 = 16 * 1024 * 1024;
/// What every program answers itself comes at once.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Asks the running program, and waits at most `patience` for its answer.
///
/// # Errors
/// When nobody answers, or the answer is a refusal: with its text, its fix and its exit code.
pub fn ask(program: &str, socket: &Path, request: &Value, patience: Duration) -> Result<Value, Failure> {
    let shown = socket.display();
    let stream = UnixStream::connect(socket).map_err(|error| nobody(program, socket, &error))?;
    let answer = exchange(stream, request, patience).map_err(|error| {
        let cause = match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "no answer in time".into(),
            _ => error.to_string(),
        };
        Failure::failed(format!("{program} at {shown} did not answer: {cause}"))
    })?;
    let answer = serde_json::from_str::<Value>(&answer)
        .map_err(|_| Failure::failed(format!("what answers at {shown} is not {program}")))?;
    match answer.get("ok").and_then(Value::as_bool) {
        Some(true) => Ok(answer),
        Some(false) | None => Err(refusal(&answer)),
    }
}

fn exchange(mut stream: UnixStream, request: &Value, patience: Duration) -> io::Result<String> {
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.write_all(format!("{request}\n").as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream.take(LARGEST_ANSWER)).read_line(&mut answer)?;
    Ok(answer)
}

fn nobody(program: &str, socket: &Path, error: &io::Error) -> Failure {
    let shown = socket.display();
    if error.kind() == io::ErrorKind::PermissionDenied {
        return Failure::failed(format!("{shown} may not be opened by this user"))
            .fix("run the command as root, or join the group that owns the socket");
    }
    Failure::failed(format!("no {program} answers at {shown}: {error}"))
        .fix(format!("start it with `sudo systemctl start {program}`, or name its directory with --run-dir"))
}

fn refusal(answer: &Value) -> Failure {
    let text = |name: &str| answer.get(name).and_then(Value::as_str).map(str::to_owned);
    let exit = match answer.get("exit").and_then(Value::as_u64) {
        Some(2) => Exit::Denied,
        Some(64) => Exit::Usage,
        Some(69) => Exit::Unreachable,
        Some(_) | None => Exit::Failed,
    };
    Failure { exit, what: text("error").unwrap_or_else(|| "it was refused".into()), fix: text("fix") }
}

/// `<program> actors [--json]`: lists what is alive, and why packets were dropped.
///
/// # Errors
/// When the program does not answer.
pub fn actors(program: &str, socket: &Path, as_json: bool) -> Result<(), Failure> {
    let mut answer = ask(program, socket, &json!({"do": "actors"}), AT_ONCE)?;
    let actors: Vec<ActorRow> = serde_json::from_value(answer["actors"].take()).map_err(|_| {
        Failure::failed("the list of actors cannot be read").fix("is it of the same version?")
    })?;
    let drops: BTreeMap<String, u64> = serde_json::from_value(answer["drops"].take()).unwrap_or_default();
    if as_json {
        println!("{}", json!({"schema": 1, "actors": actors, "drops": drops}));
    } else {
        print!("{}{}", draw(&actors), draw_drops(&drops));
    }
    Ok(())
}

/// What was dropped, after an empty line; nothing when nothing was.
fn draw_drops(drops: &BTreeMap<String, u64>) -> String {
    let dropped = drops.iter().filter(|(_, packets)| **packets > 0);
    let lines: String = dropped.map(|(reason, packets)| format!("{reason:<32}  {packets}\n")).collect();
    if lines.is_empty() { lines } else { format!("\n{:<32}  PACKETS\n{lines}", "DROPPED BECAUSE") }
}

fn draw(actors: &[ActorRow]) -> String {
    let head = [
        "KIND",
        "KEY",
        "PARENT",
        "THREAD",
        "DEPTH",
        "CAPACITY",
        "HANDLED",
        "DROPPED",
        "COALESCED",
        "RESTARTS",
    ];
    let mut lines = vec![head.map(str::to_owned)];
    lines.extend(actors.iter().map(|actor| {
        let key = if actor.key.is_empty() { "-".to_owned() } else { actor.key.clone() };
        let numbers =
            [actor.depth, actor.capacity, actor.handled, actor.dropped, actor.coalesced, actor.restarts];
        let [depth, capacity, handled, dropped, coalesced, restarts] =
            numbers.map(|number| number.to_string());
        let (kind, parent, thread) = (actor.kind.clone(), actor.parent.clone(), actor.thread.clone());
        [kind, key, parent, thread, depth, capacity, handled, dropped, coalesced, restarts]
    }));
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 10] = std::array::from_fn(width);
    let mut text = String::new();
    for line in &lines {
        for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
            // Names to the left, numbers to the right.
            let cell = if column < 4 { format!("{cell:<width$}") } else { format!("{cell:>width$}") };
            text.push_str(&cell);
            text.push_str(if column == 9 { "\n" } else { "  " });
        }
    }
    text
}

/// How to disturb an actor.
#[cfg(feature = "chaos")]
#[derive(Debug, clap::Subcommand)]
pub enum Chaos {
    /// Let it panic
    Panic {
        /// Its kind
        kind: String,
        /// Its key
        #[arg(default_value = "")]
        key: String,
    },
    /// Let it handle nothing for a while
    Stall {
        /// Its kind
        kind: String,
        /// Its key
        #[arg(default_value = "")]
        key: String,
        /// For how long
        #[arg(long = "for", default_value_t = 1000, value_name = "MILLISECONDS")]
        millis: u64,
    },
}

/// `<program> chaos panic|stall KIND KEY`.
///
/// # Errors
/// When no such actor is alive, or the program does not answer.
#[cfg(feature = "chaos")]
pub fn chaos(program: &str, socket: &Path, chaos: &Chaos) -> Result<(), Failure> {
    let request = match chaos {
        Chaos::Panic { kind, key } => json!({"do": "chaos", "what": "panic", "kind": kind, "key": key}),
        Chaos::Stall { kind, key, millis } => {
            json!({"do": "chaos", "what": "stall", "kind": kind, "key": key, "millis": millis})
        }
    };
    ask(program, socket, &request, AT_ONCE).map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    #[test]
    fn a_missing_program_is_an_error_that_says_how_to_start_it() {
        let dir = tempfile::tempdir().unwrap();

        let failure =
            ask("postern-test", &dir.path().join("none"), &json!({}), Duration::from_secs(1)).unwrap_err();

        assert!(failure.fix.unwrap().contains("systemctl start postern-test"));
    }

    #[test]
    fn an_answer_that_is_no_json_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
            stream.write_all(b"hello\n").unwrap();
        });

        assert!(ask("postern-test", &path, &json!({}), Duration::from_secs(30)).is_err());
    }

    #[test]
    fn drops_are_drawn_by_reason_and_only_when_there_are_some() {
        let drops = |packets| BTreeMap::from([("no_grant".to_owned(), packets), ("fragment".to_owned(), 0)]);

        let drawn = draw_drops(&drops(3));

        assert!(drawn.contains("no_grant") && drawn.contains('3') && !drawn.contains("fragment"), "{drawn}");
        assert_eq!(draw_drops(&drops(0)), "");
    }

    #[test]
    fn actors_are_drawn_in_columns() {
        let actor = |kind: &str, key: &str, handled| ActorRow {
            kind: kind.into(),
            key: key.into(),
            parent: "-".into(),
            thread: "lane-0".into(),
            depth: 0,
            capacity: 64,
            handled,
            dropped: 0,
            coalesced: 0,
            restarts: 1,
        };

        let text = draw(&[actor("PeerTable", "", 7), actor("Peer", "laptop", 12345)]);

        assert_eq!(
            text,
            "\
KIND       KEY     PARENT  THREAD  DEPTH  CAPACITY  HANDLED  DROPPED  COALESCED  RESTARTS
PeerTable  -       -       lane-0      0        64        7        0          0         1
Peer       laptop  -       lane-0      0        64    12345        0          0         1
"
        );
    }
}
