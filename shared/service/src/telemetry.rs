//! Logs for people, and traces where an OTLP endpoint is configured.
//!
//! # Layout
//! - `filter`: what goes into the log, what into a trace, and what it costs when nobody traces
//! - `otlp`: whether and how spans are exported, by the variables of OpenTelemetry
//! - `lines`: log lines that name the trace they belong to
//!
//! Spans of the pipeline have the target [`SPAN_TARGET`]. They never reach the log, so without an
//! endpoint they are disabled and cost a filter's check. Deliberately absent: metrics.

mod filter;
mod lines;
mod otlp;

use crate::config::Variables;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use std::io::IsTerminal as _;
use std::time::Duration;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::{EnvFilter, Registry};

/// The target of every span of the pipeline.
pub const SPAN_TARGET: &str = "jetlane::span";

/// How long the last spans may take to leave.
const FLUSH_TIME_MAX: Duration = Duration::from_secs(5);

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people; coloured on a terminal unless `NO_COLOR` is set.
    #[default]
    Text,
    /// One JSON object a line, with `trace_id` and `span_id` where there is a trace.
    Json,
}

/// What a process says of itself, and how loudly.
#[derive(Debug, Clone)]
pub struct Telemetry {
    /// The service: `dispatcher`, `executor`, ...; also its name in traces unless `OTEL_SERVICE_NAME` says another.
    pub service: &'static str,
    /// Its version.
    pub version: &'static str,
    /// How log lines look. Set by `JETLANE_LOG_FORMAT` = `text` (default) or `json`.
    pub logs: LogFormat,
    /// What is logged, in the syntax of `tracing_subscriber::EnvFilter`. Set by `JETLANE_LOG`; defaults to `info`.
    pub log_filter: String,
    /// The variables that decide on traces: those of OpenTelemetry.
    pub variables: Variables,
}

/// Why telemetry was not started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A variable has a value that is not understood.
    #[error("{variable}={value:?} is wrong: {wanted}")]
    Variable {
        /// The variable.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What it could be.
        wanted: String,
    },
    /// The exporter could not be made.
    #[error("could not prepare the export of traces")]
    Export(#[source] opentelemetry_otlp::ExporterBuildError),
    /// Somebody else has set the log of this process before.
    #[error("telemetry was started twice in one process")]
    Twice(#[source] tracing::subscriber::SetGlobalDefaultError),
}

impl Telemetry {
    /// Telemetry of a service as the variables ask for it.
    pub fn new(service: &'static str, version: &'static str, variables: &Variables) -> Result<Self, Error> {
        let logs = match variables.get("JETLANE_LOG_FORMAT").map_or("", String::as_str) {
            "" | "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            other => {
                let wanted = "`text` or `json`".into();
                return Err(Error::Variable { variable: "JETLANE_LOG_FORMAT", value: other.into(), wanted });
            }
        };
        let log_filter = variables.get("JETLANE_LOG").filter(|text| !text.is_empty()).cloned();
        let log_filter = log_filter.unwrap_or_else(|| "info".into());
        Ok(Self { service, version, logs, log_filter, variables: variables.clone() })
    }

    /// As it is, but without traces.
    pub fn disabled(self) -> Self {
        Self { variables: Variables::new(), ..self }
    }
}

/// Starts logs, and traces where an endpoint is configured. Once a process, inside its tokio runtime.
pub fn init(telemetry: &Telemetry) -> Result<Guard, Error> {
    let log = filter::log(&telemetry.log_filter)?;
    let provider = otlp::provider(telemetry)?;
    let subscriber = subscriber(telemetry.logs, log, std::io::stderr, provider.as_ref());
    tracing::subscriber::set_global_default(subscriber).map_err(Error::Twice)?;
    if let Some(provider) = &provider {
        opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
        // For code of users that speaks OpenTelemetry and not tracing.
        opentelemetry::global::set_tracer_provider(provider.clone());
    }
    Ok(Guard { provider })
}

/// Holds what has to leave before the process ends.
#[derive(Debug)]
#[must_use = "the last spans leave with `shutdown`"]
pub struct Guard {
    provider: Option<SdkTracerProvider>,
}

impl Guard {
    /// Whether spans are exported.
    pub fn exports(&self) -> bool {
        self.provider.is_some()
    }

    /// Leaves the last spans: even dropping the exporter would wait for them.
    pub fn abandon(self) {
        std::mem::forget(self);
    }

    /// Sends the last spans, for at most 5 s. Call it inside the runtime, when all work is done.
    pub async fn shutdown(self) {
        let Some(provider) = self.provider else { return };
        // Blocking: the exporter has its own thread, and needs this runtime to go on meanwhile.
        let flushed = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH_TIME_MAX)).await;
        match flushed {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "The last spans may be lost."),
            Err(error) => tracing::warn!(%error, "The export of traces ended badly."),
        }
    }
}

/// The layers: the log, and the traces if there is somebody to take them. Each has its own filter.
fn subscriber<W>(
    logs: LogFormat,
    log: EnvFilter,
    writer: W,
    provider: Option<&SdkTracerProvider>,
) -> impl tracing::Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
    let lines = match logs {
        LogFormat::Text => lines.with_ansi(colours).with_filter(log).boxed(),
        LogFormat::Json => {
            let format = lines::WithTrace(tracing_subscriber::fmt::format().json().flatten_event(true));
            let fields = tracing_subscriber::fmt::format::JsonFields::new();
            lines.event_format(format).fmt_fields(fields).with_filter(log).boxed()
        }
    };
    let mut layers: Vec<Box<dyn Layer<Registry> + Send + Sync>> = vec![lines];
    if let Some(provider) = provider {
        layers.push(traces(provider));
    }
    tracing_subscriber::registry().with(layers)
}

/// Spans say in their own words how they ended: an `error!` inside must not turn a span red, and
/// neither must an `error` field. Where a span was made, by which thread and how long it was busy
/// would be most of what a span holds. The context is activated on entry (the default), so that log
/// lines know their trace.
fn traces(provider: &SdkTracerProvider) -> Box<dyn Layer<Registry> + Send + Sync> {
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("jetlane"))
        .with_error_events_to_status(false)
        .with_error_events_to_exceptions(false)
        .with_error_fields_to_exceptions(false)
        .with_error_records_to_exceptions(false)
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_filter(filter::traced())
        .boxed()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
