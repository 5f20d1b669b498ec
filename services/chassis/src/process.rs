//! The life of a program: its command line, its signals, its supervisor.

use std::process::ExitCode;
use std::time::Duration;

use actors_runtime::TreeHandle;
use clap::Parser;
use clap::error::ErrorKind;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::{Exit, Failure};
use crate::health::Readiness;

/// How often readiness is looked at until it is there.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long a lane may take to come round before the watchdog is let run out.
const PULSE_LIMIT: Duration = Duration::from_secs(1);

/// Parses the command line, runs the command, prints a failure to standard error. The whole of a `main`.
pub fn main<T: Parser>(run: impl FnOnce(T) -> Result<(), Failure>) -> ExitCode {
    let command = match T::try_parse() {
        Ok(command) => command,
        Err(error) => {
            // Standard output may be closed; there is nobody else to tell.
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => Exit::Usage.into(),
            };
        }
    };
    match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            failure.exit.into()
        }
    }
}

/// Stops the process in order at the first SIGTERM or SIGINT, at once at the second.
pub(crate) async fn drain_on_signals(handle: TreeHandle) {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
        return tracing::error!("cannot listen to signals: stopping will not be in order");
    };
    let mut stopping = false;
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if std::mem::replace(&mut stopping, true) {
            tracing::warn!("stopped before everything was put back");
            std::process::exit(Exit::Failed as i32);
        }
        tracing::info!("stopping");
        let _ = sd_notify::notify(&[NotifyState::Stopping]);
        handle.shutdown(0);
    }
}

/// Tells systemd that the process is ready, the first time that it is.
pub(crate) async fn notify_ready(readiness: Readiness) {
    while readiness.get().is_err() {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
        tracing::warn!(%error, "cannot tell systemd that the start is over");
    }
}

/// Tells systemd again and again that all lanes live. A lane that hangs lets the watchdog run out.
pub(crate) async fn feed_watchdog(handle: TreeHandle) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    loop {
        match handle.pulse(PULSE_LIMIT.min(limit / 4)).await {
            Ok(()) => {
                let _ = sd_notify::notify(&[NotifyState::Watchdog]);
            }
            Err(lane) => tracing::error!(lane, "a lane hangs: the watchdog is not fed"),
        }
        tokio::time::sleep(limit / 3).await;
    }
}
