//! Trace context as it travels: W3C, in the task's frame or in headers. One task is one trace.
//!
//! Spans of the pipeline have the target [`TARGET`], so that without a tracer they cost no more than
//! a filter's check. Their numbers are `i64` or `f64`: an unsigned one would be exported as text.

use jetlane_schemas::TraceContext;
use jetlane_schemas::header::{TRACEPARENT, TRACESTATE};
use opentelemetry::propagation::{Extractor, Injector};
use opentelemetry::{Context, global};
use std::sync::OnceLock;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The target of every span of the pipeline.
pub const TARGET: &str = "jetlane::span";

/// How a task joins the trace of whoever submitted it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Propagation {
    /// As a child: one trace from the request to the callback.
    #[default]
    Child,
    /// As a trace of its own that links to the submitter's.
    Link,
    /// Not at all.
    None,
}

static PROPAGATION: OnceLock<Propagation> = OnceLock::new();

/// How tasks of this process join traces: `JETLANE_TRACE_PROPAGATION` = `child` (default), `link` or `none`.
pub fn propagation() -> Propagation {
    *PROPAGATION.get_or_init(|| match std::env::var("JETLANE_TRACE_PROPAGATION").as_deref() {
        Ok("link") => Propagation::Link,
        Ok("none") => Propagation::None,
        _ => Propagation::Child,
    })
}

struct Carrier<'a>(&'a mut TraceContext);

impl Injector for Carrier<'_> {
    fn set(&mut self, key: &str, value: String) {
        match key {
            TRACEPARENT => self.0.traceparent = value,
            TRACESTATE => self.0.tracestate = value,
            _ => {}
        }
    }
}

struct Carried<'a>(&'a TraceContext);

impl Extractor for Carried<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            TRACEPARENT if !self.0.traceparent.is_empty() => Some(&self.0.traceparent),
            TRACESTATE if !self.0.tracestate.is_empty() => Some(&self.0.tracestate),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT, TRACESTATE]
    }
}

/// The context of a span, to go on with elsewhere; empty where nobody traces. Starts the span, so set
/// its parent first.
pub fn context_of(span: &Span) -> TraceContext {
    let mut context = TraceContext::default();
    if !span.is_disabled() {
        let started = span.context();
        global::get_text_map_propagator(|propagator| propagator.inject_context(&started, &mut Carrier(&mut context)));
    }
    context
}

/// Makes a span a child of a context that came by the wire. Does nothing where nobody traces.
pub fn set_parent(span: &Span, parent: &TraceContext) {
    if span.is_disabled() || parent.is_empty() {
        return;
    }
    if span.set_parent(extract(parent)).is_err() {
        tracing::debug!("A span had started before its parent was set, or nobody exports it.");
    }
}

/// Links a span to a context that came by the wire.
pub fn add_link(span: &Span, other: &TraceContext) {
    use opentelemetry::trace::TraceContextExt as _;
    if !span.is_disabled() && !other.is_empty() {
        span.add_link(extract(other).span().span_context().clone());
    }
}

/// Marks a span as failed, with one sentence.
pub fn set_error(span: &Span, sentence: &str) {
    if !span.is_disabled() {
        span.set_status(opentelemetry::trace::Status::error(sentence.to_owned()));
    }
}

/// Adds an attribute that was not known when the span was made.
pub fn set_attribute(span: &Span, key: &'static str, value: impl Into<opentelemetry::Value>) {
    if !span.is_disabled() {
        span.set_attribute(key, value);
    }
}

/// Never the ambient context: a loop that handles many tasks must not become their parent.
fn extract(context: &TraceContext) -> Context {
    global::get_text_map_propagator(|propagator| propagator.extract_with_context(&Context::new(), &Carried(context)))
}
