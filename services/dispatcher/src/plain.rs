//! A task as one message for clients in any language: its body as the body, the rest in headers; and
//! back again, for what nobody pulled and for what the server gave up.

use jetlane_bus::clock;
use jetlane_schemas::intake::{percent_decode, percent_encode};
use jetlane_schemas::subject::Lane;
use jetlane_schemas::{Admit, Headers, Micros, PayloadCodec, Priority, Shard, TaskEvent, TraceContext, header};
use std::str::FromStr;

/// The headers of a task on a plain lane.
pub(crate) fn headers(task: &TaskEvent) -> Headers {
    let mut headers = Headers::new();
    headers.push(header::CE_SPECVERSION, "1.0");
    headers.push(header::CE_ID, task.id.as_str());
    headers.push(header::CE_SOURCE, format!("/jetlane/{}", task.queue));
    headers.push(header::CE_TYPE, task.task_type.as_str());
    headers.push(header::TASK_ID, task.id.as_str());
    headers.push(header::TASK_TYPE, task.task_type.as_str());
    headers.push(header::QUEUE, task.queue.as_str());
    headers.push(header::RUN, task.run.to_string());
    headers.push(header::ATTEMPT, (task.attempts + 1).to_string());
    headers.push(header::SUBMITTED_US, task.submitted_at.0.to_string());
    if task.codec != PayloadCodec::Json {
        headers.push(header::CE_DATACONTENTTYPE, task.codec.media_type());
    }
    if task.priority != Priority::Normal {
        headers.push(header::PRIORITY, task.priority.as_str());
    }
    if !task.tenant.is_shared() {
        headers.push(header::TENANT, percent_encode(task.tenant.as_str()));
    }
    let texts = [
        (header::KEY, task.key.as_deref().map(percent_encode)),
        (header::DEADLINE, task.deadline.map(clock::rfc3339)),
        (header::RETRIES, task.retries.map(|n| n.to_string())),
        (header::TIMEOUT_MS, task.timeout_ms.map(|n| n.to_string())),
        (header::SIZE_KEY, task.size_key.as_deref().map(percent_encode)),
        (header::ESTIMATE_MS, task.estimate_us.map(|us| us.div_ceil(1_000).to_string())),
        (header::NEEDS, needs(task)),
        (header::ADMIT, (task.admit != Admit::default()).then(|| task.admit.as_str().to_owned())),
        (header::PARENT, task.parent.as_ref().map(ToString::to_string)),
        (header::CALLBACKS, callbacks(task)),
        (header::TRACEPARENT, text(&task.trace.traceparent)),
        (header::TRACESTATE, text(&task.trace.tracestate)),
    ];
    for (name, value) in texts {
        if let Some(value) = value {
            headers.push(name, value);
        }
    }
    for (name, value) in &task.headers {
        headers.push(name.clone(), value.as_str());
    }
    headers
}

fn text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn needs(task: &TaskEvent) -> Option<String> {
    if task.needs.is_none() {
        return None;
    }
    let json = serde_json::to_string(&task.needs).expect("needs hold nothing but text and numbers");
    Some(percent_encode(&json))
}

fn callbacks(task: &TaskEvent) -> Option<String> {
    if task.callbacks.is_empty() {
        return None;
    }
    let json = serde_json::to_string(&task.callbacks).expect("callbacks hold nothing but text");
    Some(percent_encode(&json))
}

/// Reads a task back from a message of a plain lane; `None` where it is none of ours. It may have run:
/// it is suspect.
pub(crate) fn read(lane: &Lane, headers: &Headers, body: &[u8]) -> Option<TaskEvent> {
    let id = read_as(headers, header::TASK_ID)?;
    let task_type = read_as(headers, header::TASK_TYPE)?;
    let submitted_at = Micros(read_as(headers, header::SUBMITTED_US).unwrap_or(0));
    let mut task = TaskEvent::new(id, task_type, lane.queue.clone(), submitted_at, body.to_vec());
    (task.priority, task.fit, task.suspect) = (lane.priority, lane.fit.clone(), true);
    task.run = read_as(headers, header::RUN).unwrap_or(1);
    task.attempts = read_as::<u32>(headers, header::ATTEMPT).map_or(0, |attempt| attempt.saturating_sub(1));
    task.codec = headers.get(header::CE_DATACONTENTTYPE).and_then(PayloadCodec::from_media_type).unwrap_or_default();
    if let Some(tenant) = headers.get(header::TENANT).and_then(|text| percent_decode(text).parse().ok()) {
        task.shard = Shard::shared_by_hash(&tenant);
        task.tenant = tenant;
    }
    task.key = headers.get(header::KEY).map(percent_decode);
    task.deadline = headers.get(header::DEADLINE).and_then(clock::parse_rfc3339);
    task.retries = read_as(headers, header::RETRIES);
    task.timeout_ms = read_as(headers, header::TIMEOUT_MS);
    task.size_key = headers.get(header::SIZE_KEY).map(percent_decode);
    task.estimate_us = read_as::<u64>(headers, header::ESTIMATE_MS).and_then(|ms| ms.checked_mul(1_000));
    let needs = headers.get(header::NEEDS).map(percent_decode);
    task.needs = needs.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default();
    task.admit = read_as(headers, header::ADMIT).unwrap_or_default();
    task.parent = read_as(headers, header::PARENT);
    let callbacks = headers.get(header::CALLBACKS).map(percent_decode);
    task.callbacks = callbacks.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default();
    task.trace = TraceContext::from_headers(headers);
    let users = headers.iter().filter(|(name, _)| header::is_users(name));
    task.headers = users.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Some(task)
}

fn read_as<T: FromStr>(headers: &Headers, name: &str) -> Option<T> {
    headers.get(name)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jetlane_schemas::subject::LaneKind;
    use jetlane_schemas::{Callback, QueueName, TaskId, TaskType, Tenant};

    #[test]
    fn a_task_comes_back_from_a_plain_lane_as_it_went_but_suspect() {
        let queue = QueueName::new("pictures").expect("valid");
        let task_type = TaskType::new("image.thumbnail").expect("valid");
        let submitted_at = Micros(1_700_000_000_000_000);
        let mut task =
            TaskEvent::new(TaskId::generate(), task_type, queue.clone(), submitted_at, b"{\"a\":1}".to_vec());
        task.priority = Priority::High;
        task.tenant = Tenant::new("Zoë \"& co\"").expect("valid");
        task.shard = Shard::shared_by_hash(&task.tenant);
        task.key = Some("order 7".into());
        (task.retries, task.timeout_ms, task.run, task.attempts) = (Some(2), Some(5_000), 3, 1);
        task.deadline = Some(Micros(1_700_000_100_123_456));
        (task.size_key, task.estimate_us, task.admit) = (Some("4k, wide".into()), Some(1_500_000), Admit::Strict);
        task.needs.labels.insert("zone \"a\"".into());
        task.parent = Some(TaskId::generate());
        task.callbacks = vec![Callback::Webhook { endpoint: "gallery \"x\"".into() }];
        task.headers = vec![("x-user".into(), "ada".into())];
        task.trace.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into();
        let lane = Lane { kind: LaneKind::Plain, queue, priority: Priority::High, fit: task.fit.clone() };
        let read = read(&lane, &headers(&task), &task.payload).expect("readable");
        task.suspect = true;
        assert_eq!(read, task);
    }

    #[test]
    fn a_message_without_an_id_is_none_of_ours() {
        let lane = Lane::parse("jetlane.lane.pictures.normal.any").expect("a lane");
        assert_eq!(read(&lane, &Headers::new(), b"{}"), None);
    }
}
