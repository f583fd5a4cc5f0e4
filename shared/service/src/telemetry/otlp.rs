//! Whether and how spans are exported, by the variables of OpenTelemetry.
//!
//! The exporter reads endpoint, headers, timeout and compression by itself, the SDK sampler, limits
//! and batching. What they do not read is decided here: OTEL_SDK_DISABLED, OTEL_TRACES_EXPORTER and
//! the protocol.

use super::{Error, Telemetry};
use crate::config::Variables;
use opentelemetry::KeyValue;
use opentelemetry_otlp::{ExporterBuildError, Protocol as Encoding, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider};
use uuid::Uuid;

/// Spans that wait for export; beyond it they are dropped. For bursts: the SDK's own default is 2,048.
const QUEUE_SPANS_MAX: usize = 8_192;
/// The port on which collectors take gRPC.
const GRPC_PORT: &str = ":4317";

/// How spans travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Grpc,
    Http,
}

/// Exports spans, or none where nobody asked for it.
pub(super) fn provider(telemetry: &Telemetry) -> Result<Option<SdkTracerProvider>, Error> {
    let Some(protocol) = wanted(&telemetry.variables)? else { return Ok(None) };
    use_ring();
    let exporter = exporter(protocol).map_err(Error::Export)?;
    let mut batch = BatchConfigBuilder::default();
    if !telemetry.variables.contains_key("OTEL_BSP_MAX_QUEUE_SIZE") {
        batch = batch.with_max_queue_size(QUEUE_SPANS_MAX);
    }
    let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batch.build()).build();
    let provider = SdkTracerProvider::builder().with_span_processor(processor).with_resource(resource(telemetry));
    Ok(Some(provider.build()))
}

/// The protocol, if spans are wanted at all.
pub(super) fn wanted(variables: &Variables) -> Result<Option<Protocol>, Error> {
    let said = |name: &str| variables.get(name).map_or("", |text| text.trim());
    let first =
        |names: [&'static str; 2]| names.into_iter().map(|name| (name, said(name))).find(|(_, text)| !text.is_empty());
    let Some((_, endpoint)) = first(["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"]) else {
        return Ok(None);
    };
    let exporters = said("OTEL_TRACES_EXPORTER");
    let elsewhere = !exporters.is_empty() && !exporters.split(',').any(|name| name.trim() == "otlp");
    if elsewhere || said("OTEL_SDK_DISABLED").eq_ignore_ascii_case("true") {
        return Ok(None);
    }
    match first(["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"]) {
        Some((_, "grpc")) => Ok(Some(Protocol::Grpc)),
        Some((_, "http/protobuf")) => Ok(Some(Protocol::Http)),
        Some((variable, other)) => {
            let wanted = "`grpc` or `http/protobuf`".into();
            Err(Error::Variable { variable, value: other.into(), wanted })
        }
        None if endpoint.trim_end_matches('/').ends_with(GRPC_PORT) => Ok(Some(Protocol::Grpc)),
        None => Ok(Some(Protocol::Http)),
    }
}

/// TLS of the HTTP exporter has no implementation of its own to fall back on.
fn use_ring() {
    if rustls::crypto::CryptoProvider::get_default().is_none()
        && rustls::crypto::ring::default_provider().install_default().is_err()
    {
        tracing::debug!("Somebody else chose the implementation of TLS at the same time.");
    }
}

fn exporter(protocol: Protocol) -> Result<SpanExporter, ExporterBuildError> {
    match protocol {
        Protocol::Grpc => SpanExporter::builder().with_tonic().build(),
        Protocol::Http => SpanExporter::builder().with_http().with_protocol(Encoding::HttpBinary).build(),
    }
}

/// Who exports. What OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say is left as it is.
fn resource(telemetry: &Telemetry) -> Resource {
    let own = [
        ("service.name", telemetry.service.to_owned()),
        ("service.namespace", "jetlane".to_owned()),
        ("service.version", telemetry.version.to_owned()),
        ("service.instance.id", Uuid::now_v7().to_string()),
    ];
    let named = telemetry.variables.get("OTEL_SERVICE_NAME").is_some_and(|name| !name.is_empty());
    let attributes = telemetry.variables.get("OTEL_RESOURCE_ATTRIBUTES").map_or("", String::as_str);
    let is_said = |key: &str| {
        (key == "service.name" && named) || attributes.split(',').any(|pair| pair.trim().split('=').next() == Some(key))
    };
    let own = own.into_iter().filter(|(key, _)| !is_said(key)).map(|(key, value)| KeyValue::new(key, value));
    Resource::builder().with_attributes(own).build()
}
