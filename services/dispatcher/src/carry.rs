//! What a decision stores: a task in its lane, the completion of one that never runs, a schedule for
//! one that is not due. Each is sent until it is known what became of it.

use jetlane_bus::publish::Expect;
use jetlane_bus::{Bus, Error, Outgoing, clock, trace};
use jetlane_core::Waited;
use jetlane_schemas::frame::{self, FrameError};
use jetlane_schemas::subject::{Lane, LaneKind};
use jetlane_schemas::task::check_callbacks;
use jetlane_schemas::{Completion, Failure, Headers, Hop, Micros, Outcome, RunToken, TaskEvent};
use tracing::Span;

/// What a task waited for until it was dispatched, in microseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waits {
    /// From its storing until it was read.
    pub(crate) intake_us: u64,
    /// Until it was due.
    pub(crate) delay_us: u64,
    /// In the window.
    pub(crate) waited: Waited,
}

/// How a task joins the trace of whoever submitted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Joins {
    /// As a child.
    Child,
    /// By a link, as a trace of its own.
    Link,
}

/// The span of a dispatch, with the queue wait by cause. Roots the trace of a task that has none; only
/// then does its own context travel with the task, which OpenTelemetry's conventions call a producer.
pub(crate) fn dispatch_span(task: &mut TaskEvent, kind: LaneKind, waits: Waits, joins: Joins) -> Span {
    let ms = |us: u64| us as f64 / 1_000.0;
    let is_root = joins == Joins::Link || task.trace.is_empty();
    let span = tracing::info_span!(
        target: "jetlane::span",
        "dispatch",
        otel.name = format_args!("dispatch {}", task.queue),
        otel.kind = if is_root { "producer" } else { "client" },
        messaging.system = "nats",
        messaging.operation.name = "dispatch",
        messaging.operation.type = "send",
        messaging.destination.name = lane_of(task, kind).subject(),
        messaging.message.id = %task.id,
        jetlane.task.id = %task.id,
        jetlane.task.type = %task.task_type,
        jetlane.task.priority = %task.priority,
        jetlane.task.run = i64::from(task.run),
        jetlane.task.attempt = i64::from(task.attempts) + 1,
        jetlane.queue = %task.queue,
        jetlane.wait.intake_ms = ms(waits.intake_us),
        jetlane.wait.delay_ms = ms(waits.delay_us),
        jetlane.wait.window_ms = ms(waits.waited.window_us),
        jetlane.wait.credit_ms = ms(waits.waited.credit_us),
    );
    join(&span, task, joins);
    span
}

/// The span of the end of a task that never ran.
pub(crate) fn end_span(task: &mut TaskEvent, outcome: Outcome, joins: Joins) -> Span {
    let span = tracing::info_span!(
        target: "jetlane::span",
        "complete",
        otel.name = format_args!("complete {}", task.task_type),
        otel.kind = "producer",
        messaging.system = "nats",
        messaging.operation.name = "complete",
        messaging.operation.type = "send",
        messaging.destination.name = format_args!("jetlane.done.{}", task.task_type),
        messaging.message.id = %task.id,
        jetlane.task.id = %task.id,
        jetlane.task.type = %task.task_type,
        jetlane.queue = %task.queue,
        jetlane.task.outcome = %outcome,
        jetlane.task.attempt = i64::from(task.attempts),
    );
    join(&span, task, joins);
    span
}

fn join(span: &Span, task: &mut TaskEvent, joins: Joins) {
    if span.is_disabled() {
        return;
    }
    match joins {
        Joins::Child if !task.trace.is_empty() => trace::set_parent(span, &task.trace),
        // The first span of a trace of its own; later runs find it in the task.
        Joins::Child => task.trace = trace::context_of(span),
        Joins::Link => {
            let submitters = std::mem::take(&mut task.trace);
            trace::add_link(span, &submitters);
            task.trace = trace::context_of(span);
        }
    }
}

fn lane_of(task: &TaskEvent, kind: LaneKind) -> Lane {
    Lane { kind, queue: task.queue.clone(), priority: task.priority, fit: task.fit.clone() }
}

/// The message of tasks in their lane: one to a plain lane, any to a bundle's. Its id names the run of a
/// task that is alone, in both forms of the lane: a run is stored in one of them only.
pub(crate) fn to_lane<'a>(
    tasks: impl ExactSizeIterator<Item = &'a TaskEvent> + Clone,
    lane: &Lane,
) -> Result<Outgoing, FrameError> {
    let message_id = Some(frame::bundle_message_id(Hop::Lane, tasks.clone()));
    let (headers, body) = match (lane.kind, tasks.clone().next()) {
        (LaneKind::Plain, Some(task)) => (crate::plain::headers(task), task.payload.clone().into()),
        (LaneKind::Bundle, _) | (LaneKind::Plain, None) => (Headers::new(), frame::encode_bundle(tasks)?.into()),
    };
    Ok(Outgoing { subject: lane.subject(), headers, body, message_id, expect: Expect::Anything })
}

/// Stores the completion of a task that never ran or was given up, and its dead letter where it is one;
/// `false` where DONE is full.
pub(crate) async fn end(
    bus: &Bus,
    task: &TaskEvent,
    outcome: Outcome,
    failure: Failure,
    span: &Span,
) -> Result<bool, Error> {
    trace::set_error(span, &failure.message);
    let now = clock::now();
    let mut completion = Completion::of(task, outcome, now).with_failure(failure);
    completion.wait_ms = now.ms_since(task.due_at.unwrap_or(task.submitted_at));
    // A completion without one is read as a plain client's, whose callbacks nobody has stored.
    completion.token = Some(RunToken::draw());
    if check_callbacks(&completion.callbacks).is_err() {
        // They are why it is refused, or came with it: nobody is to act on them, and no header may hold them.
        completion.callbacks.clear();
    }
    let context = trace::context_of(span);
    if !context.is_empty() {
        completion.trace = context;
    }
    let completed = bus.complete(&completion).await?;
    let Some(stored) = completed.stored(&completion) else { return Ok(false) };
    bury(bus, task, stored).await?;
    Ok(true)
}

/// Stores the dead letter of a task whose stored completion calls for one: whoever stored that completion, this
/// dispatcher or an executor, may have died before the letter. A letter that is there already stays as it is.
async fn bury(bus: &Bus, task: &TaskEvent, stored: &Completion) -> Result<(), Error> {
    match stored.outcome {
        Outcome::Failed | Outcome::Rejected => bus.bury(task, stored).await,
        Outcome::Succeeded | Outcome::Expired | Outcome::Cancelled => Ok(()),
    }
}

/// Looks whether a cancelled task has its completion; stores then what follows from it, which its canceller may not
/// have known.
pub(crate) async fn drop(bus: &Bus, task: &TaskEvent) -> Result<bool, Error> {
    let Some(done) = bus.read_done(&task.task_type, &task.id).await? else { return Ok(false) };
    bury(bus, task, &done).await?;
    if let Some(claim) = task.claim() {
        bus.end_claim(&task.task_type, &claim, &task.id).await?;
    }
    bus.trigger_of_task(&done, task).await?;
    Ok(true)
}

/// Stores a task for its next run, due at `at`. Its message id names that run.
pub(crate) async fn postpone(bus: &Bus, task: &TaskEvent, at: Micros) -> Result<(), Error> {
    let next = next_run(task);
    let subject = next.due_subject();
    bus.store_due(&next, at).await?.or_refused(&subject).map(|_| ())
}

/// The task for its next run. The number of the last one may be anything that was once read.
fn next_run(task: &TaskEvent) -> TaskEvent {
    let mut next = task.clone();
    next.run = next.run.saturating_add(1);
    next
}

#[cfg(test)]
mod tests {
    use super::*;
    use jetlane_schemas::{QueueName, TaskId, TaskType};

    #[test]
    fn the_largest_number_of_a_run_stops_nobody() {
        let task_type = TaskType::new("a.b").expect("valid");
        let mut task = TaskEvent::new(TaskId::generate(), task_type, QueueName::default_queue(), Micros(0), Vec::new());
        assert_eq!(next_run(&task).run, 2);
        task.run = u32::MAX;
        assert_eq!(next_run(&task).run, u32::MAX);
    }
}
