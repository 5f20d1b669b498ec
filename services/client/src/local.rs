//! Talking to the running daemon: one line of JSON there, one line back, over its Unix socket.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::fail::{Exit, Failure};

/// The largest answer that is read.
const LARGEST_ANSWER: u64 = 16 * 1024 * 1024;

/// Asks the daemon, and waits at most `patience` for its answer.
pub fn ask(socket: &Path, request: &Value, patience: Duration) -> Result<Value, Failure> {
    let stream = UnixStream::connect(socket).map_err(|error| no_daemon(socket, &error))?;
    let answer = exchange(stream, request, patience).map_err(|error| {
        let cause = match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "no answer in time".into(),
            _ => error.to_string(),
        };
        Failure::failed(format!("the daemon at {} did not answer: {cause}", socket.display()))
    })?;
    let answer = serde_json::from_str::<Value>(&answer)
        .map_err(|_| Failure::failed(format!("{} answers, but not as postern does", socket.display())))?;
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

fn no_daemon(socket: &Path, error: &io::Error) -> Failure {
    let shown = socket.display();
    match error.kind() {
        io::ErrorKind::PermissionDenied => Failure::failed(format!("{shown} may not be opened by this user"))
            .fix("run the command as root, or join the group that owns the socket"),
        _ => Failure::failed(format!("no postern daemon answers at {shown}: {error}"))
            .fix("start it with `sudo systemctl start postern` or `sudo postern daemon`, or name its directory with --run-dir"),
    }
}

fn refusal(answer: &Value) -> Failure {
    let text = |name: &str| answer.get(name).and_then(Value::as_str).map(str::to_owned);
    let exit = match answer.get("exit").and_then(Value::as_u64) {
        Some(2) => Exit::Denied,
        Some(64) => Exit::Usage,
        Some(69) => Exit::Unreachable,
        Some(_) | None => Exit::Failed,
    };
    Failure { exit, what: text("error").unwrap_or_else(|| "the daemon refused".into()), fix: text("fix") }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use serde_json::json;

    use super::*;

    fn daemon_that_answers(answer: &'static str) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("postern.sock");
        let listener = UnixListener::bind(&path).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        });
        (dir, path)
    }

    #[test]
    fn a_missing_daemon_is_an_error_that_says_how_to_start_it() {
        let dir = tempfile::tempdir().unwrap();

        let failure = ask(&dir.path().join("none.sock"), &json!({}), Duration::from_secs(1)).unwrap_err();

        assert_eq!(failure.exit, Exit::Failed);
        assert!(failure.fix.unwrap().contains("postern daemon"));
    }

    #[test]
    fn a_refusal_keeps_its_exit_code_and_its_fix() {
        let (_dir, path) =
            daemon_that_answers("{\"ok\":false,\"error\":\"denied\",\"fix\":\"ask\",\"exit\":2}\n");

        let failure = ask(&path, &json!({"do": "explain"}), Duration::from_secs(1)).unwrap_err();

        assert_eq!(failure, Failure::new(Exit::Denied, "denied").fix("ask"));
    }

    #[test]
    fn an_answer_that_is_no_json_is_an_error() {
        let (_dir, path) = daemon_that_answers("hello\n");

        assert!(ask(&path, &json!({}), Duration::from_secs(1)).is_err());
    }
}
