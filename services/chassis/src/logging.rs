//! Log lines on standard error, and panics among them.

use std::io::IsTerminal as _;

use tracing_subscriber::filter::{EnvFilter, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, Registry, fmt};

use crate::failure::Failure;
use crate::settings::{LogFormat, Settings};
use crate::telemetry::Telemetry;

/// Libraries that are talkative, and whose lines may name addresses. A filter that names them gets them all the same.
const QUIET: &str = "hyper=warn,hyper_util=warn,reqwest=warn,rustls=warn,h2=warn,sqlx=warn,opentelemetry=error,\
                     opentelemetry_sdk=error,opentelemetry-otlp=error,actix_server=warn,netlink_proto=error";

/// Sends log lines to standard error, spans to the collector (if there is one), and panics to the log. Once a process.
///
/// # Errors
/// When the filter is crooked, or logging is already set up.
pub fn start(settings: &Settings, telemetry: &Telemetry) -> Result<(), Failure> {
    let filter = filter(&settings.log_level)?;
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match settings.log_format {
        LogFormat::Human => lines
            .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
            .with_target(false)
            .boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(true).boxed(),
    };
    // Spans of the exporter's own HTTP requests would be exported in turn, without end.
    let ours = filter_fn(|meta| {
        let target = meta.target();
        target.starts_with("actors_") || target.starts_with("services_") || target.starts_with("postern")
    });
    let spans =
        telemetry.tracer().map(|tracer| tracing_opentelemetry::layer().with_tracer(tracer).with_filter(ours));
    Registry::default()
        .with(lines.with_filter(filter))
        .with(spans)
        .try_init()
        .map_err(|error| Failure::failed(format!("cannot set up logging: {error}")))?;
    log_panics();
    Ok(())
}

fn filter(text: &str) -> Result<EnvFilter, Failure> {
    EnvFilter::try_new(format!("{QUIET},{text}")).map_err(|error| {
        Failure::usage(format!("--log-level `{text}`: {error}"))
            .fix("write error, warn, info, debug or trace, or such as info,actors_tunnel=debug")
    })
}

/// A panic is caught and survived by the actor runtime; its message and place must not get lost.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("no message");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        tracing::error!(place, thread = thread.name().unwrap_or("?"), "panic: {message}");
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crooked_filter_names_its_flag() {
        assert!(filter("info,actors_tunnel=debug").is_ok());
        assert!(filter("actors_tunnel=loud").unwrap_err().what.contains("--log-level"));
    }
}
