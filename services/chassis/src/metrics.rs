//! What a process counts, for `/metrics` and for the collector.
//!
//! Everything is read when somebody asks: the packet path writes plain atomics and knows nothing of this.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use actors_runtime::Registry as Actors;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Meter, MeterProvider as _};
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use prometheus::TextEncoder;

use crate::failure::{Failure, chain};
use crate::telemetry::Telemetry;

/// How often metrics are pushed to the collector.
const PUSH_EVERY: Duration = Duration::from_secs(30);

/// One value of a metric and its labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample<V> {
    /// Label names and values.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: V,
}

impl<V> Sample<V> {
    /// A value without labels.
    pub fn plain(value: V) -> Self {
        Self { labels: Vec::new(), value }
    }

    /// A value with one label.
    pub fn labelled(name: &'static str, label: impl Into<String>, value: V) -> Self {
        Self { labels: vec![(name, label.into())], value }
    }

    fn key_values(&self) -> Vec<KeyValue> {
        self.labels.iter().map(|(name, value)| KeyValue::new(*name, value.clone())).collect()
    }
}

/// The metrics of a process. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    scraped: prometheus::Registry,
    provider: SdkMeterProvider,
    meter: Meter,
}

impl Metrics {
    /// The metrics that every process has: dropped packets, restarts, mailbox depths.
    ///
    /// # Errors
    /// When the exporter cannot be set up.
    pub fn new(telemetry: &mut Telemetry, actors: &Arc<Actors>) -> Result<Self, Failure> {
        let scraped = prometheus::Registry::new();
        let scrape = opentelemetry_prometheus::exporter()
            .with_registry(scraped.clone())
            .without_target_info()
            .without_units()
            .scope_info_enabled(false)
            .build()
            .map_err(|error| Failure::failed(format!("cannot set up metrics: {}", chain(&error))))?;
        let mut provider =
            SdkMeterProvider::builder().with_resource(telemetry.resource.clone()).with_reader(scrape);
        if let Some(collector) = telemetry.metrics.take() {
            provider =
                provider.with_reader(PeriodicReader::builder(collector).with_interval(PUSH_EVERY).build());
        }
        let provider = provider.build();
        let metrics = Self(Arc::new(Inner { scraped, meter: provider.meter("postern"), provider }));
        metrics.watch(actors);
        Ok(metrics)
    }

    fn watch(&self, actors: &Arc<Actors>) {
        let registry = Arc::clone(actors);
        self.counter("postern_packets_dropped", "Packets dropped, by reason", move || {
            registry
                .drops()
                .into_iter()
                .map(|(reason, count)| Sample::labelled("reason", reason, count))
                .collect()
        });
        let registry = Arc::clone(actors);
        self.counter("postern_actor_restarts", "Restarts of actors, by kind", move || {
            registry
                .restarts()
                .into_iter()
                .map(|(kind, count)| Sample::labelled("kind", kind, count))
                .collect()
        });
        let registry = Arc::clone(actors);
        self.gauge(
            "postern_mailbox_depth",
            "Commands waiting in control mailboxes, by kind of actor",
            move || {
                #[allow(clippy::cast_precision_loss)] // Mailboxes hold thousands.
                let sample = |(kind, depth)| Sample::labelled("kind", kind, depth as f64);
                registry.depths().into_iter().map(sample).collect()
            },
        );
    }

    /// Adds a counter that is read when somebody asks. The scraped name ends in `_total`.
    pub fn counter(
        &self,
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> Vec<Sample<u64>> + Send + Sync + 'static,
    ) {
        // The SDK keeps the callback; the handle is only a receipt.
        let _ = self
            .0
            .meter
            .u64_observable_counter(name)
            .with_description(help)
            .with_callback(move |observer| {
                for sample in read() {
                    observer.observe(sample.value, &sample.key_values());
                }
            })
            .build();
    }

    /// Adds a value that goes up and down, read when somebody asks.
    pub fn gauge(
        &self,
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> Vec<Sample<f64>> + Send + Sync + 'static,
    ) {
        let _ = self
            .0
            .meter
            .f64_observable_gauge(name)
            .with_description(help)
            .with_callback(move |observer| {
                for sample in read() {
                    observer.observe(sample.value, &sample.key_values());
                }
            })
            .build();
    }

    /// The text of `/metrics`, in Prometheus's format.
    pub fn render(&self) -> String {
        TextEncoder::new()
            .encode_to_string(&self.0.scraped.gather())
            .unwrap_or_else(|error| format!("# metrics cannot be written: {error}\n"))
    }

    /// Sends what is left to the collector.
    pub fn finish(&self) {
        let _ = self.0.provider.shutdown_with_timeout(PUSH_EVERY.min(Duration::from_secs(2)));
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use actors_runtime::{Row, Universe};

    use super::*;

    pub(crate) fn metrics(universe: &Universe) -> Metrics {
        let (mut telemetry, trouble) = Telemetry::new("postern-test", "0", None);
        assert_eq!(trouble, None);
        Metrics::new(&mut telemetry, universe.registry()).unwrap()
    }

    #[test]
    fn drops_restarts_and_depths_are_scraped() {
        let universe = Universe::new(crate::testing::ROWS);
        let metrics = metrics(&universe);
        universe.registry().drop_counter("no_grant").add(3);
        crate::testing::start_sleeper(&universe, 2);

        let text = metrics.render();

        for line in [
            "# TYPE postern_packets_dropped_total counter",
            "postern_packets_dropped_total{reason=\"no_grant\"} 3",
            "postern_packets_dropped_total{reason=\"actor_panicked\"} 0",
            "postern_actor_restarts_total{kind=\"Sleeper\"} 0",
            "postern_mailbox_depth{kind=\"Sleeper\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn a_program_adds_its_own() {
        let metrics = metrics(&Universe::new::<()>(&[] as &[Row<()>]));

        metrics.gauge("postern_paths", "Paths in use", || vec![Sample::labelled("path", "direct", 2.0)]);
        metrics.counter("postern_grants", "Grants so far", || vec![Sample::plain(7)]);

        let text = metrics.render();
        assert!(text.contains("postern_paths{path=\"direct\"} 2\n"), "{text}");
        assert!(text.contains("postern_grants_total 7\n"), "{text}");
    }
}
