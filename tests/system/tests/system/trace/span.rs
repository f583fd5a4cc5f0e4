//! A span as its reader sees it, whoever told of it: the exporter itself, or Jaeger.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use serde_json::Value;
use std::collections::BTreeMap;

/// What is written at a span or its process.
pub(super) type Attributes = BTreeMap<String, Value>;

/// What a span is to its neighbours, by the numbers of OTLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Unspecified = 0,
    Internal = 1,
    Server = 2,
    Client = 3,
    Producer = 4,
    Consumer = 5,
}

#[derive(Debug, Clone)]
pub(super) struct Span {
    pub(super) trace_id: String,
    pub(super) id: String,
    /// Empty at a root.
    pub(super) parent: String,
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) started_ns: u64,
    pub(super) ended_ns: u64,
    /// The sentence of a span that failed.
    pub(super) error: Option<String>,
    pub(super) links: usize,
    pub(super) attributes: Attributes,
    pub(super) resource: Attributes,
}

impl Span {
    /// The process that it comes from.
    pub(super) fn service(&self) -> &str {
        text(&self.resource, "service.name")
    }

    /// An attribute that is text; empty where there is none.
    pub(super) fn text(&self, key: &str) -> &str {
        text(&self.attributes, key)
    }

    /// An attribute that is a number.
    pub(super) fn number(&self, key: &str) -> Option<f64> {
        self.attributes.get(key).and_then(Value::as_f64)
    }
}

pub(super) fn text<'a>(attributes: &'a Attributes, key: &str) -> &'a str {
    attributes.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn kind(number: i64) -> Kind {
    let all = [Kind::Unspecified, Kind::Internal, Kind::Server, Kind::Client, Kind::Producer, Kind::Consumer];
    all.into_iter().find(|kind| *kind as i64 == number).expect("one of the kinds of OTLP")
}

/// The spans of an export.
pub(super) fn of_export(export: ExportTraceServiceRequest) -> Vec<Span> {
    let mut spans = Vec::new();
    for group in export.resource_spans {
        let resource = attributes(group.resource.unwrap_or_default().attributes);
        for span in group.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            let status = span.status.unwrap_or_default();
            spans.push(Span {
                trace_id: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                name: span.name,
                kind: kind(span.kind.into()),
                started_ns: span.start_time_unix_nano,
                ended_ns: span.end_time_unix_nano,
                error: (status.code == StatusCode::Error as i32).then_some(status.message),
                links: span.links.len(),
                attributes: attributes(span.attributes),
                resource: resource.clone(),
            });
        }
    }
    spans
}

fn attributes(pairs: Vec<KeyValue>) -> Attributes {
    pairs.into_iter().map(|pair| (pair.key, value(pair.value))).collect()
}

fn value(value: Option<AnyValue>) -> Value {
    match value.and_then(|value| value.value) {
        Some(any_value::Value::StringValue(text)) => text.into(),
        Some(any_value::Value::BoolValue(truth)) => truth.into(),
        Some(any_value::Value::IntValue(number)) => number.into(),
        Some(any_value::Value::DoubleValue(number)) => number.into(),
        _ => Value::Null,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The spans of an answer of Jaeger's query API, version 3: OTLP as JSON.
pub(super) fn of_answer(answer: &Value) -> Vec<Span> {
    let mut spans = Vec::new();
    for group in items(&answer["result"]["resourceSpans"]) {
        let resource = json_attributes(&group["resource"]["attributes"]);
        for span in items(&group["scopeSpans"]).flat_map(|scope| items(&scope["spans"])) {
            let text = |key: &str| span[key].as_str().unwrap_or_default().to_owned();
            let is_error = span["status"]["code"].as_i64() == Some(StatusCode::Error as i64);
            spans.push(Span {
                trace_id: text("traceId"),
                id: text("spanId"),
                parent: text("parentSpanId"),
                name: text("name"),
                kind: kind(span["kind"].as_i64().unwrap_or_default()),
                started_ns: text("startTimeUnixNano").parse().expect("a time in nanoseconds"),
                ended_ns: text("endTimeUnixNano").parse().expect("a time in nanoseconds"),
                error: is_error.then(|| span["status"]["message"].as_str().unwrap_or_default().to_owned()),
                links: items(&span["links"]).count(),
                attributes: json_attributes(&span["attributes"]),
                resource: resource.clone(),
            });
        }
    }
    spans
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// Of OTLP's ways to write a value as JSON; whole numbers are text there.
fn json_attributes(list: &Value) -> Attributes {
    let value = |value: &Value| match value["intValue"].as_str() {
        Some(number) => number.parse::<i64>().expect("a whole number").into(),
        None => value.as_object().and_then(|value| value.values().next()).cloned().unwrap_or_default(),
    };
    items(list).map(|pair| (pair["key"].as_str().unwrap_or_default().to_owned(), value(&pair["value"]))).collect()
}
