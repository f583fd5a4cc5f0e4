//! The spans of a run, by OpenTelemetry's messaging conventions.

use jetlane_bus::trace;
use jetlane_schemas::{Completion, Micros, Outcome, TaskEvent};
use tracing::Span;

/// The span of one run.
pub(crate) fn process(task: &TaskEvent, attempt: u32, started_at: Micros) -> Span {
    let span = tracing::info_span!(
        target: "jetlane::span",
        "process",
        otel.name = format_args!("process {}", task.task_type),
        otel.kind = "consumer",
        messaging.system = "nats",
        messaging.operation.name = "process",
        messaging.operation.type = "process",
        messaging.destination.name = format_args!("jetlane.bundle.{}.{}.{}", task.queue, task.priority, task.fit),
        messaging.consumer.group.name = format_args!("bundle-{}-{}-{}", task.queue, task.priority, task.fit),
        messaging.message.id = %task.id,
        jetlane.task.id = %task.id,
        jetlane.task.type = %task.task_type,
        jetlane.task.attempt = i64::from(attempt),
        jetlane.task.run = i64::from(task.run),
        jetlane.queue = %task.queue,
        jetlane.wait_ms = started_at.ms_since(task.due_at.unwrap_or(task.submitted_at)),
    );
    match trace::propagation() {
        trace::Propagation::Child => trace::set_parent(&span, &task.trace),
        trace::Propagation::Link => trace::add_link(&span, &task.trace),
        trace::Propagation::None => {}
    }
    span
}

/// The span of a completion, under that of its run.
pub(crate) fn complete(completion: &Completion) -> Span {
    let span = tracing::info_span!(
        target: "jetlane::span",
        "complete",
        otel.name = format_args!("complete {}", completion.task_type),
        otel.kind = "producer",
        messaging.system = "nats",
        messaging.operation.name = "complete",
        messaging.operation.type = "send",
        messaging.destination.name = format_args!("jetlane.done.{}", completion.task_type),
        messaging.message.id = %completion.id,
        jetlane.task.id = %completion.id,
        jetlane.task.type = %completion.task_type,
        jetlane.task.outcome = %completion.outcome,
        jetlane.task.attempt = i64::from(completion.attempt),
    );
    // The run's, or the task's where there was no run.
    trace::set_parent(&span, &completion.trace);
    if completion.outcome != Outcome::Succeeded {
        trace::set_error(&span, completion.outcome.as_str());
    }
    span
}
