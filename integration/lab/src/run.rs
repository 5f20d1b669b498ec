//! One command, run to its end within a limit, with everything it said.

use std::{
    ffi::OsStr,
    fs::File,
    io::{Read, Seek, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// How long a command may take when nothing else is said.
const DEFAULT_LIMIT: Duration = Duration::from_secs(60);

/// What a finished command left.
#[derive(Debug, Clone)]
pub struct Done {
    /// The command line, for messages.
    pub line: String,
    /// Exit code; 128 + signal when a signal ended it.
    pub code: i32,
    /// Standard output, lossily decoded.
    pub stdout: String,
    /// Standard error, lossily decoded.
    pub stderr: String,
    /// Wall-clock time from start to end.
    pub took: Duration,
    /// True when the limit ended it.
    pub timed_out: bool,
}

impl Done {
    /// This, or an error that says what the command said.
    pub fn ok(self) -> Result<Self> {
        if self.code == 0 && !self.timed_out {
            return Ok(self);
        }
        let ending =
            if self.timed_out { "ran into its limit".to_owned() } else { format!("ended {}", self.code) };
        bail!("`{}` {ending}: {}{}", self.line, self.stderr.trim_end(), self.stdout.trim_end());
    }

    /// Standard output parsed as one JSON value.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.stdout)
            .with_context(|| format!("`{}` did not print JSON: {}{}", self.line, self.stdout, self.stderr))
    }
}

/// Runs a command on the host of the tests, in no namespace; an error when it fails.
pub fn run(argv: &[impl AsRef<OsStr>]) -> Result<Done> {
    let mut command = command_of(argv)?;
    run_for(&mut command, None, DEFAULT_LIMIT)?.ok()
}

pub(crate) fn command_of(argv: &[impl AsRef<OsStr>]) -> Result<Command> {
    let (program, arguments) = argv.split_first().context("an empty command line")?;
    let mut command = Command::new(program);
    command.args(arguments);
    Ok(command)
}

/// Runs a prepared command in its own process group, feeds it `input`, and kills the group at the limit.
///
/// Output goes to anonymous files and not to pipes, so that a grandchild that keeps them open holds nobody up.
pub fn run_for(command: &mut Command, input: Option<&str>, limit: Duration) -> Result<Done> {
    let line = describe(command);
    let mut stdout = anonymous_file()?;
    let mut stderr = anonymous_file()?;
    let stdin = match input {
        Some(text) => {
            let mut file = anonymous_file()?;
            file.write_all(text.as_bytes())?;
            file.rewind()?;
            Stdio::from(file)
        }
        None => Stdio::null(),
    };
    command.stdin(stdin).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?).process_group(0);

    let started = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot start `{line}`"))?;
    let mut timed_out = false;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if started.elapsed() > limit {
            timed_out = true;
            crate::process::kill_group(child.id(), nix::sys::signal::Signal::SIGKILL);
            break child.wait()?;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let took = started.elapsed();

    Ok(Done {
        line,
        code: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
        stdout: text_of(&mut stdout)?,
        stderr: text_of(&mut stderr)?,
        took,
        timed_out,
    })
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

fn anonymous_file() -> Result<File> {
    let path = nix::unistd::mkstemp(&std::env::temp_dir().join("postern-lab-run.XXXXXX"))?;
    let (descriptor, path) = path;
    std::fs::remove_file(path)?;
    Ok(File::from(descriptor))
}

fn text_of(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
