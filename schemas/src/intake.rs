//! The open door: what any NATS client publishes to `jetlane.submit.<type>`.
//!
//! A JSON body is enough; every header is optional. CloudEvents are taken in both modes of the NATS
//! binding (specification 1.0, "NATS Protocol Binding"): binary, attributes in `ce-*` headers; and
//! structured, everything in a JSON body with `content-type: application/cloudevents+json`.

use crate::header::{self, Headers};
use crate::id::TaskId;
use crate::limits::DELAY_MS_MAX;
use crate::options::{Micros, PayloadCodec, Shard};
use crate::task::{Callback, InvalidOption, TaskEvent, TraceContext, is_key};
use crate::token::{TaskType, Tenant};
use crate::{QueueName, TypeEntry};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// What the CloudEvents NATS binding escapes in header values, plus what a NATS header cannot hold.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

/// Escapes a header value as the CloudEvents bindings do.
pub fn percent_encode(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

/// Undoes [`percent_encode`], once. What is no valid escape stays as it is.
pub fn percent_decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// A message of the open door.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Its sequence in the stream.
    pub stream_sequence: u64,
    /// When the broker stored it.
    pub stored_at: Micros,
    /// Its headers.
    pub headers: &'a Headers,
    /// Its body.
    pub body: &'a [u8],
}

/// A message that is refused. The task is told of as far as it could be read, for its completion.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    /// The task with its id, and defaults for what could not be read.
    pub task: Box<TaskEvent>,
    /// What is wrong.
    pub reason: InvalidOption,
}

/// Reads a message as a task of `task_type`, whose announcement is `entry`.
///
/// The id is the event's where it has one, otherwise it is made of its key, otherwise `s<sequence>`. `parse_time` reads RFC 3339; it
/// is an argument so that this crate needs no calendar.
///
/// # Errors
/// [`Refused`] where an option is malformed or out of range: the task completes as `rejected`.
pub fn read(
    task_type: &TaskType,
    entry: &TypeEntry,
    message: Message<'_>,
    parse_time: fn(&str) -> Option<Micros>,
) -> Result<TaskEvent, Refused> {
    let structured = message
        .headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|text| text.trim_start().to_ascii_lowercase().starts_with("application/cloudevents"));
    let opened = if structured { open_structured(message.body) } else { Ok(open_binary(message)) };
    let (attributes, body) = match opened {
        Ok(opened) => opened,
        Err((identity, reason)) => {
            let task = blank(task_type, &entry.queue, &message, &identity, message.body.to_vec());
            return Err(Refused { task: Box::new(task), reason });
        }
    };
    let mut task = blank(task_type, &entry.queue, &message, &attributes, body);
    task.codec = entry.codec;
    task.trace = TraceContext::from_headers(message.headers);
    if task.trace.is_empty() {
        // The Distributed Tracing extension carries the same two values as attributes.
        let prefixed =
            attributes.iter().filter_map(|(k, v)| Some((k.strip_prefix("ce-")?.to_owned(), v.to_owned()))).collect();
        task.trace = TraceContext::from_headers(&prefixed);
    }
    for (name, value) in message.headers.iter().filter(|(name, _)| header::is_users(name)) {
        task.push_header(name.to_owned(), value.to_owned());
    }
    match set_options(&mut task, &attributes, message.stored_at, parse_time) {
        Ok(()) => Ok(task),
        Err(reason) => Err(Refused { task: Box::new(task), reason }),
    }
}

fn blank(
    task_type: &TaskType,
    queue: &QueueName,
    message: &Message<'_>,
    attributes: &Headers,
    body: Vec<u8>,
) -> TaskEvent {
    let id = match attributes.get(header::CE_ID).filter(|id| !id.is_empty()) {
        Some(id) => TaskId::from_cloud_event(
            &percent_decode(attributes.get(header::CE_SOURCE).unwrap_or_default()),
            &percent_decode(id),
        ),
        // The same key is the same task.
        None => match attributes.get(header::KEY).map(percent_decode).filter(|key| is_key(key)) {
            Some(key) => {
                let tenant = percent_decode(tenant_of(attributes).unwrap_or_default());
                TaskId::from_key(task_type.as_str(), &tenant, &key)
            }
            None => TaskId::from_sequence(message.stream_sequence),
        },
    };
    TaskEvent::new(id, task_type.clone(), queue.clone(), message.stored_at, body)
}

fn tenant_of(attributes: &Headers) -> Option<&str> {
    attributes.get(header::TENANT).or_else(|| attributes.get(header::CE_PARTITIONKEY))
}

/// Binary mode, and plain messages: the attributes are the headers, the body is the data.
fn open_binary(message: Message<'_>) -> (Headers, Vec<u8>) {
    let attributes = message
        .headers
        .iter()
        .filter(|(name, _)| name.to_ascii_lowercase().starts_with("ce-"))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    (attributes, message.body.to_vec())
}

/// Structured mode: attributes and data are members of one JSON object. What is malformed is told with
/// as much of id and source as could be read, so that the refusal has the event's name.
fn open_structured(body: &[u8]) -> Result<(Headers, Vec<u8>), (Headers, InvalidOption)> {
    // Data stays raw: the body is what the publisher sent, numbers of any length included.
    let event: Event =
        serde_json::from_slice(body).map_err(|e| (Headers::new(), malformed(format!("is no JSON object: {e}"))))?;
    let attributes = attributes_of(&event).map_err(|reason| (identity_of(&event), reason))?;
    let data = event.get("data").map_or_else(|| b"null".to_vec(), |data| data.get().as_bytes().to_vec());
    Ok((attributes, data))
}

type Event = BTreeMap<String, Box<RawValue>>;

fn malformed(reason: String) -> InvalidOption {
    InvalidOption { option: "cloudevent", reason }
}

fn attributes_of(event: &Event) -> Result<Headers, InvalidOption> {
    let mut attributes = Headers::new();
    for (name, raw) in event.iter().filter(|(name, _)| *name != "data" && *name != "data_base64") {
        let value: Value =
            serde_json::from_str(raw.get()).map_err(|e| malformed(format!("has a malformed {name:?}: {e}")))?;
        let value = match value {
            Value::String(text) => percent_encode(&text),
            Value::Number(number) => number.to_string(),
            Value::Bool(flag) => flag.to_string(),
            Value::Array(_) | Value::Object(_) if matches!(name.as_str(), "jetlanecallbacks" | "jetlaneneeds") => {
                percent_encode(raw.get())
            }
            Value::Null => continue,
            Value::Array(_) | Value::Object(_) => {
                return Err(malformed(format!("has an attribute {name:?} that is neither text, number nor boolean")));
            }
        };
        attributes.push(format!("ce-{name}"), value);
    }
    if attributes.get(header::CE_ID).is_none_or(str::is_empty) {
        return Err(malformed("has no id".into()));
    }
    if event.contains_key("data_base64") {
        return Err(malformed("has data_base64: send JSON in data".into()));
    }
    Ok(attributes)
}

fn identity_of(event: &Event) -> Headers {
    let text = |name: &str| event.get(name).and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
    let named = [(header::CE_ID, "id"), (header::CE_SOURCE, "source")];
    named.into_iter().filter_map(|(header, name)| Some((header.to_owned(), percent_encode(&text(name)?)))).collect()
}

fn set_options(
    task: &mut TaskEvent,
    attributes: &Headers,
    stored_at: Micros,
    parse_time: fn(&str) -> Option<Micros>,
) -> Result<(), InvalidOption> {
    let out = |option, reason: &str| InvalidOption { option, reason: reason.to_owned() };
    let text = |name| attributes.get(name).map(percent_decode);
    let number = |name: &'static str, option: &'static str| match attributes.get(name) {
        None => Ok(None),
        Some(text) => {
            text.trim().parse::<u64>().map(Some).map_err(|_| out(option, "must be a whole number, 0 or more"))
        }
    };
    if let Some(media) = text(header::CE_DATACONTENTTYPE) {
        let codec = PayloadCodec::from_media_type(&media);
        if codec != Some(task.codec) {
            return Err(out("datacontenttype", &format!("must be {} for this type", task.codec.media_type())));
        }
    }
    if let Some(priority) = text(header::PRIORITY) {
        task.priority = priority.parse().map_err(|_| out("priority", "must be critical, high, normal or low"))?;
    }
    if let Some(tenant) = tenant_of(attributes).map(percent_decode) {
        task.tenant = Tenant::new(tenant).map_err(|e| out("tenant", e.reason))?;
        task.shard = Shard::shared_by_hash(&task.tenant);
    }
    task.key = text(header::KEY);
    task.unique_for_ms = number(header::UNIQUE_FOR_MS, "unique_for")?;
    task.size_key = text(header::SIZE_KEY);
    task.estimate_us = number(header::ESTIMATE_MS, "estimate")?.map(|ms| ms.saturating_mul(1_000));
    if let Some(json) = text(header::NEEDS) {
        task.needs = serde_json::from_str(&json).map_err(|e| {
            out("needs", &format!("must be a JSON object of cpu_milli, memory_mib, resources, labels: {e}"))
        })?;
    }
    if let Some(admit) = text(header::ADMIT) {
        task.admit = admit.parse().map_err(|_| out("admit", "must be always or strict"))?;
    }
    if let Some(ms) = number(header::DELAY_MS, "delay")? {
        if ms > DELAY_MS_MAX {
            return Err(out("delay", &format!("must be at most {DELAY_MS_MAX} ms")));
        }
        task.due_at = (ms > 0).then_some(Micros(stored_at.0 + ms * 1_000));
    }
    if let Some(deadline) = text(header::DEADLINE) {
        task.deadline = Some(
            parse_time(&deadline).ok_or_else(|| out("deadline", "must be RFC 3339, such as 2030-01-01T00:00:00Z"))?,
        );
    }
    let small = |n: u64, option| u32::try_from(n).map_err(|_| out(option, "is too large"));
    task.retries = number(header::RETRIES, "retries")?.map(|n| small(n, "retries")).transpose()?;
    task.timeout_ms = number(header::TIMEOUT_MS, "timeout")?;
    if let Some(parent) = text(header::PARENT) {
        task.parent = Some(TaskId::new(parent).map_err(|e| out("parent", e.reason))?);
    }
    if let Some(json) = text(header::CALLBACKS) {
        task.callbacks = serde_json::from_str::<Vec<Callback>>(&json)
            .map_err(|e| out("callbacks", &format!("must be a JSON array of callbacks: {e}")))?;
    }
    // The body has a check of its own, with the limit that is configured.
    let body = std::mem::take(&mut task.payload);
    let checked = task.check(0);
    task.payload = body;
    checked
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry() -> TypeEntry {
        TypeEntry::new(QueueName::new("pictures").expect("valid"))
    }

    fn read_with(headers: &[(&str, &str)], body: &[u8]) -> Result<TaskEvent, Refused> {
        let headers: Headers = headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let message = Message { stream_sequence: 12, stored_at: Micros(5_000_000), headers: &headers, body };
        read(&TaskType::new("a.b").expect("valid"), &entry(), message, |text| text.parse().ok().map(Micros))
    }

    #[test]
    fn a_bare_body_is_a_task_named_by_its_sequence() {
        let task = read_with(&[], b"{}").expect("accepted");
        assert_eq!((task.id.as_str(), task.queue.as_str(), task.submitted_at), ("s12", "pictures", Micros(5_000_000)));
    }

    #[test]
    fn the_id_of_a_task_with_a_key_and_no_id_is_made_of_the_key() {
        let keyed = |headers: &[(&str, &str)]| read_with(headers, b"{}").expect("accepted").id;
        let key = ("ce-jetlanekey", "order-7");
        assert_eq!(keyed(&[key]), TaskId::from_key("a.b", "", "order-7"), "as the SDK makes it");
        assert_eq!(keyed(&[("ce-partitionkey", "ada"), key]), TaskId::from_key("a.b", "ada", "order-7"));
        let own = "0190b8f2-7c1e-7000-8000-000000000001";
        assert_eq!(keyed(&[("ce-id", own), key]).as_str(), own);
    }

    #[test]
    fn both_modes_of_a_cloud_event_give_the_same_task() {
        let binary = read_with(
            &[
                ("CE-Id", "1"),
                ("ce-source", "/shop"),
                ("ce-specversion", "1.0"),
                ("ce-type", "x"),
                ("ce-jetlanepriority", "high"),
                ("ce-jetlanetenant", "Zo%C3%AB%20%26%20co"),
            ],
            br#"{"n":1}"#,
        )
        .expect("accepted");
        let structured = read_with(
            &[("Content-Type", "application/cloudevents+json; charset=utf-8")],
            r#"{"id":"1","source":"/shop","specversion":"1.0","type":"x","jetlanepriority":"high","jetlanetenant":"Zoë & co","data":{"n":1}}"#.as_bytes(),
        )
        .expect("accepted");
        assert_eq!(binary, structured);
        assert_eq!(binary.tenant.as_str(), "Zoë & co");
    }

    #[test]
    fn a_structured_event_that_is_malformed_is_refused_by_its_own_name() {
        let structured = [("content-type", "application/cloudevents+json")];
        let id = "0190b8f2-7c1e-7000-8000-000000000001";
        for rest in [r#""subject":{},"data":{}"#, r#""data_base64":"e30=""#] {
            let event = format!(r#"{{"id":"{id}","source":"/s",{rest}}}"#);
            let refused = read_with(&structured, event.as_bytes()).expect_err(rest);
            assert_eq!((refused.task.id.as_str(), refused.reason.option), (id, "cloudevent"));
        }
        for body in ["", "[]", r#"{"source":"/s"}"#, r#"{"id":"","data":{}}"#] {
            let refused = read_with(&structured, body.as_bytes()).expect_err(body);
            assert_eq!(refused.task.id.as_str(), "s12", "{body}");
        }
    }

    #[test]
    fn the_data_of_a_structured_event_is_taken_byte_by_byte() {
        let data = r#"{ "z": 123456789012345678901234567890, "a": 1.10, "a": "\u00e9" }"#;
        let event = format!(r#"{{"id":"1","source":"/s","specversion":"1.0","type":"x","data":{data}}}"#);
        let task = read_with(&[("content-type", "application/cloudevents+json")], event.as_bytes()).expect("accepted");
        assert_eq!(String::from_utf8_lossy(&task.payload), data);
    }

    #[test]
    fn an_option_out_of_range_is_refused_by_name() {
        for (name, value, option) in [
            ("ce-jetlanepriority", "urgent", "priority"),
            ("ce-jetlanedelayms", "-1", "delay"),
            ("ce-jetlanedelayms", "99999999999999", "delay"),
            ("ce-jetlaneretries", "101", "retries"),
            ("ce-jetlanetimeoutms", "0", "timeout"),
            ("ce-jetlanedeadline", "tomorrow", "deadline"),
            ("ce-jetlanecallbacks", "{}", "callbacks"),
            ("ce-jetlaneneeds", "7", "needs"),
            ("ce-jetlaneneeds", r#"{"gpu":1}"#, "needs"),
            ("ce-jetlaneestimatems", "0", "estimate"),
            ("ce-jetlaneadmit", "maybe", "admit"),
            ("ce-datacontenttype", "text/plain", "datacontenttype"),
            ("x-bad name", "v", "headers"),
        ] {
            let refused = read_with(&[(name, value)], b"{}").expect_err(name);
            assert_eq!(refused.reason.option, option, "{name}: {value}");
            assert_eq!(refused.task.id.as_str(), "s12");
        }
    }

    #[test]
    fn the_protocols_own_headers_do_not_reach_the_handler() {
        let task =
            read_with(&[("Nats-Msg-Id", "7"), ("X-User", "ada"), ("traceparent", "junk"), ("ce-id", "1")], b"{}")
                .expect("accepted");
        assert_eq!(task.headers, [("X-User".to_owned(), "ada".to_owned())]);
        assert!(task.trace.is_empty());
    }

    proptest! {
        #[test]
        fn hostile_headers_and_bodies_never_panic(
            headers in proptest::collection::vec((".{0,30}", ".{0,60}"), 0..12),
            structured: bool,
            body in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut pairs: Vec<(&str, &str)> = headers.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            if structured {
                pairs.push(("content-type", "application/cloudevents+json"));
            }
            let _read = read_with(&pairs, &body);
        }

        #[test]
        fn escaping_is_undone(text in ".{0,80}") {
            prop_assert_eq!(percent_decode(&percent_encode(&text)), text);
        }
    }
}
