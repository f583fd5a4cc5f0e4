//! How a submission reaches the broker: framed by the door of its queue, or by the open one.

use super::{Accepted, Company, Door, Ready};
use crate::client::Client;
use crate::error::Error;
use jetlane_bus::{Outgoing, Published, clock, publish::Expect, trace};
use jetlane_schemas::{Admit, Headers, Hop, TaskEvent, frame, header, intake, subject};
use std::fmt;
use std::time::Duration;
use tracing::Instrument;

/// Publishes a task. `claim` is the revision of the claim of its key, where it has one.
pub(super) async fn send(client: &Client, mut ready: Ready, claim: Option<u64>) -> Result<Accepted, Error> {
    let span = submit_span(&ready);
    async {
        let publish = publish_span(&ready);
        match trace::propagation() {
            trace::Propagation::None => {}
            trace::Propagation::Child | trace::Propagation::Link => ready.task.trace = trace::context_of(&publish),
        }
        store(client, ready, claim).instrument(publish).await
    }
    .instrument(span)
    .await
}

/// The span of a submission, around that of its publish.
pub(super) fn submit_span(ready: &Ready) -> tracing::Span {
    tracing::info_span!(
        target: "jetlane::span",
        "submit",
        otel.name = format_args!("submit {}", ready.task.task_type),
        jetlane.task.id = %ready.task.id,
        jetlane.task.type = %ready.task.task_type,
        jetlane.task.priority = %ready.task.priority,
        jetlane.queue = %ready.task.queue,
    )
}

/// OpenTelemetry's messaging conventions: one producer span, whose context travels in the message. Its
/// destination is the subject's start: as few names as there are queues and types.
pub(super) fn publish_span(ready: &Ready) -> tracing::Span {
    let (queue, task_type): (&dyn fmt::Display, &dyn fmt::Display) = (&ready.task.queue, &ready.task.task_type);
    let (door, whose) = match (ready.door, ready.delay.is_zero()) {
        (Door::Queue, true) => ("task", queue),
        (Door::Queue, false) => ("due", queue),
        (Door::Open, _) => ("submit", task_type),
    };
    tracing::info_span!(
        target: "jetlane::span",
        "publish",
        otel.name = format_args!("publish jetlane.{door}.{whose}"),
        otel.kind = "producer",
        messaging.system = "nats",
        messaging.operation.name = "publish",
        messaging.operation.type = "send",
        messaging.destination.name = format_args!("jetlane.{door}.{whose}"),
        messaging.message.id = %ready.task.id,
        messaging.message.body.size = i64::try_from(ready.task.payload.len()).unwrap_or(i64::MAX),
        jetlane.task.id = %ready.task.id,
        jetlane.task.type = %task_type,
        jetlane.queue = %queue,
    )
}

async fn store(client: &Client, ready: Ready, claim: Option<u64>) -> Result<Accepted, Error> {
    let Ready { id, mut task, known, door, delay, company } = ready;
    let failed = |source| Error::Submit { id: id.clone(), source };
    if !delay.is_zero() {
        client.bus().know_clock().await;
        task.due_at = Some(clock::after(delay));
    }
    if door == Door::Queue && company == Company::Any && task.due_at.is_none() {
        let subject = subject::task(&task.queue, task.priority, task.shard);
        let stored = client.gathering().store(&subject, vec![task], client.bundle_most()).await;
        return stored.map(|accepted| Accepted { known, ..accepted }).map_err(failed);
    }
    let (subject, published) = match task.due_at {
        Some(due_at) if door == Door::Queue => (task.due_subject(), client.bus().store_due(&task, due_at).await),
        _ => {
            let framed_as =
                || framed(subject::task(&task.queue, task.priority, task.shard), std::slice::from_ref(&task));
            let out = match door {
                Door::Queue => framed_as(),
                Door::Open => by_the_open_door(&task, delay),
            }
            .map_err(failed)?;
            // A later task of the same key is no copy of this one.
            let message_id = match (out.message_id, claim) {
                (Some(id), Some(claim)) => Some(format!("{id}:{claim}")),
                (id, _) => id,
            };
            let out = Outgoing { message_id, ..out };
            (out.subject.clone(), client.bus().publish(out).await)
        }
    };
    let published = published.map_err(failed)?;
    let sequence = published.or_refused(&subject).map_err(failed)?;
    Ok(Accepted { sequence, duplicate: matches!(published, Published::Duplicate(_)), known })
}

/// The message of tasks that go to the same place.
pub(super) fn framed(subject: String, tasks: &[Box<TaskEvent>]) -> Result<Outgoing, jetlane_bus::Error> {
    let body = frame::encode_bundle(tasks.iter().map(|task| &**task))
        .map_err(|source| jetlane_bus::Error::Frame { subject: subject.clone(), source: source.into() })?;
    Ok(Outgoing {
        subject,
        headers: Headers::new(),
        body: body.into(),
        message_id: Some(frame::bundle_message_id(Hop::Intake, tasks.iter().map(|task| &**task))),
        expect: Expect::Anything,
    })
}

/// The same task as any client would publish it: a binary CloudEvent.
fn by_the_open_door(task: &TaskEvent, delay: Duration) -> Result<Outgoing, jetlane_bus::Error> {
    let mut headers: Headers = task.headers.clone().into();
    headers.push(header::CE_SPECVERSION, "1.0");
    headers.push(header::CE_ID, task.id.as_str());
    headers.push(header::CE_SOURCE, "/jetlane/sdk");
    headers.push(header::CE_TYPE, task.task_type.as_str());
    headers.push(header::PRIORITY, task.priority.as_str());
    let mut optional = |name, value: Option<String>| {
        if let Some(value) = value {
            headers.push(name, intake::percent_encode(&value));
        }
    };
    optional(header::TENANT, (!task.tenant.is_shared()).then(|| task.tenant.as_str().to_owned()));
    optional(header::KEY, task.key.clone());
    optional(header::UNIQUE_FOR_MS, task.unique_for_ms.map(|ms| ms.to_string()));
    optional(header::SIZE_KEY, task.size_key.clone());
    // Never 0: that is no estimate.
    optional(header::ESTIMATE_MS, task.estimate_us.map(|us| us.div_ceil(1_000).to_string()));
    let needs = serde_json::to_string(&task.needs).expect("needs hold nothing but text and numbers");
    optional(header::NEEDS, (!task.needs.is_none()).then_some(needs));
    optional(header::ADMIT, (task.admit != Admit::default()).then(|| task.admit.as_str().into()));
    optional(header::DEADLINE, task.deadline.map(clock::rfc3339));
    optional(header::RETRIES, task.retries.map(|n| n.to_string()));
    optional(header::TIMEOUT_MS, task.timeout_ms.map(|n| n.to_string()));
    optional(header::PARENT, task.parent.as_ref().map(ToString::to_string));
    // A part of a millisecond counts as one: it is never due sooner than asked.
    optional(header::DELAY_MS, (!delay.is_zero()).then(|| delay.as_nanos().div_ceil(1_000_000).to_string()));
    let callbacks = serde_json::to_string(&task.callbacks).expect("callbacks hold nothing but text");
    optional(header::CALLBACKS, (!task.callbacks.is_empty()).then_some(callbacks));
    if !task.trace.is_empty() {
        headers.push(header::TRACEPARENT, task.trace.traceparent.clone());
        if !task.trace.tracestate.is_empty() {
            headers.push(header::TRACESTATE, task.trace.tracestate.clone());
        }
    }
    Ok(Outgoing {
        subject: subject::submit(&task.task_type),
        headers,
        body: task.payload.clone().into(),
        message_id: Some(task.message_id(Hop::Intake)),
        expect: Expect::Anything,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use jetlane_schemas::{QueueName, TaskId, TaskType, TraceContext};

    #[test]
    fn trace_of_a_submission_by_the_open_door_keeps_its_state() {
        let task_type = TaskType::new("a.b").expect("valid");
        let queue = QueueName::default_queue();
        let mut task = TaskEvent::new(TaskId::generate(), task_type, queue, clock::now(), b"{}".to_vec());
        let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        task.trace = TraceContext { traceparent: traceparent.into(), tracestate: "vendor=1".into() };
        let out = by_the_open_door(&task, Duration::ZERO).expect("small");
        assert_eq!(TraceContext::from_headers(&out.headers), task.trace);
    }
}
