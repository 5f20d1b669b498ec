//! Traces and metrics to an OTLP collector, when one is named. A collector that is away costs log lines, nothing else.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, SpanData};
use tokio::runtime::Handle;

/// How long one export may take.
const EXPORT_LIMIT: Duration = Duration::from_secs(5);
/// How long what is left may take at the end of the process.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The way to the collector, if there is one.
#[derive(Debug)]
pub struct Telemetry {
    pub(crate) resource: Resource,
    spans: Option<SdkTracerProvider>,
    pub(crate) metrics: Option<InLoop<MetricExporter>>,
}

impl Telemetry {
    /// Prepares what is sent to `endpoint`; without one, nothing is. When it cannot be prepared, the reason is returned
    /// beside a telemetry that sends nothing: log it once logging is up.
    pub fn new(
        program: &'static str,
        version: &'static str,
        endpoint: Option<&str>,
    ) -> (Self, Option<String>) {
        let resource = Resource::builder_empty()
            .with_service_name(program)
            .with_attribute(opentelemetry::KeyValue::new("service.version", version))
            .build();
        let silent = |resource| Self { resource, spans: None, metrics: None };
        let Some(endpoint) = endpoint else { return (silent(resource), None) };
        match exporters(endpoint) {
            Ok((spans, metrics)) => {
                let spans = SdkTracerProvider::builder()
                    .with_resource(resource.clone())
                    .with_batch_exporter(spans)
                    .build();
                (Self { resource, spans: Some(spans), metrics: Some(metrics) }, None)
            }
            Err(error) => (silent(resource), Some(error)),
        }
    }

    pub(crate) fn tracer(&self) -> Option<SdkTracer> {
        self.spans.as_ref().map(|spans| spans.tracer("postern"))
    }

    /// Sends what is left; waits no longer than two seconds.
    pub fn finish(self) {
        if let Some(spans) = self.spans {
            let _ = spans.shutdown_with_timeout(LAST_WORDS);
        }
    }
}

fn exporters(endpoint: &str) -> Result<(InLoop<SpanExporter>, InLoop<MetricExporter>), String> {
    // The TLS of reqwest takes the process's provider. Somebody else may have installed it: the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let event_loop = event_loop().map_err(|error| error.to_string())?;
    let _inside = event_loop.enter();
    let spans = SpanExporter::builder()
        .with_http()
        .with_endpoint(format!("{endpoint}/v1/traces"))
        .with_timeout(EXPORT_LIMIT)
        .build()
        .map_err(|error| error.to_string())?;
    let metrics = MetricExporter::builder()
        .with_http()
        .with_endpoint(format!("{endpoint}/v1/metrics"))
        .with_timeout(EXPORT_LIMIT)
        .build()
        .map_err(|error| error.to_string())?;
    let inside = |exporter| InLoop { exporter, event_loop: event_loop.clone() };
    Ok((InLoop { exporter: spans, event_loop: event_loop.clone() }, inside(metrics)))
}

/// An event loop on a thread of its own: the SDK exports from plain threads, and the HTTP client needs one.
fn event_loop() -> io::Result<Handle> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new()
        .name("otlp".into())
        .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    Ok(handle)
}

/// An exporter whose work is done inside an event loop, whichever thread waits for it.
#[derive(Debug)]
pub(crate) struct InLoop<E> {
    exporter: E,
    event_loop: Handle,
}

impl opentelemetry_sdk::trace::SpanExporter for InLoop<SpanExporter> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        Inside { future: Box::pin(self.exporter.export(batch)), event_loop: &self.event_loop }.await
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl PushMetricExporter for InLoop<MetricExporter> {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        Inside { future: Box::pin(self.exporter.export(metrics)), event_loop: &self.event_loop }.await
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.exporter.temporality()
    }
}

struct Inside<'a, T> {
    future: Pin<Box<dyn Future<Output = T> + Send + 'a>>,
    event_loop: &'a Handle,
}

impl<T> Future for Inside<'_, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<T> {
        let _inside = self.event_loop.enter();
        self.future.as_mut().poll(task)
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::Tracer as _;

    use super::*;

    #[test]
    fn a_collector_that_is_away_stops_nobody() {
        // Port 9 is "discard": nobody listens there.
        let (telemetry, trouble) = Telemetry::new("postern-test", "0", Some("http://127.0.0.1:9"));

        telemetry.tracer().unwrap().in_span("lost", |_| {});
        telemetry.finish();

        assert_eq!(trouble, None);
    }

    #[test]
    fn without_an_endpoint_nothing_is_prepared() {
        let (telemetry, trouble) = Telemetry::new("postern-test", "0", None);

        assert!(telemetry.tracer().is_none() && telemetry.metrics.is_none());
        assert_eq!(trouble, None);
    }
}
