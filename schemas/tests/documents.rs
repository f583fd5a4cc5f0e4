//! The documents beside this crate are what its types say, and name no subject or header of their own.

use jetlane_schemas::document;
use jetlane_schemas::id::{TaskId, TaskRef};
use jetlane_schemas::inquiry::{InquiredRun, Inquiry, InquiryReply};
use jetlane_schemas::options::{Micros, Priority, Shard};
use jetlane_schemas::question::{Answer, Expectation, Explanation, Question, Reason};
use jetlane_schemas::registry::{EstimateEntry, PolicyName, RunTimes};
use jetlane_schemas::subject::{self, Flow, Lane, RegistryKey};
use jetlane_schemas::{
    Callback, Completion, Failure, Fit, Outcome, QueueEntry, QueueName, RunToken, ShardEntry, SharedEntry, TaskEvent,
    TaskType, Tenant, TypeEntry, TypeOverride,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_documents_checked_in_are_what_the_types_say() {
    let update = std::env::var_os("UPDATE_SCHEMAS").is_some();
    let files = document::files();
    for file in &files {
        let path = root().join(&file.path);
        if update {
            std::fs::create_dir_all(path.parent().expect("a file has a folder")).expect("a writable folder");
            std::fs::write(&path, &file.text).expect("a writable file");
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == file.text,
            "{} is stale: refresh it with `UPDATE_SCHEMAS=1 cargo test -p jetlane-schemas`",
            path.display()
        );
    }
    let known: BTreeSet<PathBuf> = files.iter().map(|file| root().join(&file.path)).collect();
    for entry in std::fs::read_dir(root().join("json")).expect("the folder of JSON Schemas") {
        let path = entry.expect("readable").path();
        assert!(known.contains(&path), "{} belongs to no type any more: delete it", path.display());
    }
}

/// Every member named `key`, at any depth.
fn members<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                if name == key {
                    found.push(value);
                }
                members(value, key, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| members(item, key, found)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let files = document::files();
    for file in &files {
        let value: Value = serde_json::from_str(&file.text).expect("JSON");
        let mut references = Vec::new();
        members(&value, "$ref", &mut references);
        for reference in references {
            let reference = reference.as_str().expect("a text");
            let found = match (reference.strip_prefix('#'), reference.strip_prefix("./")) {
                (Some(pointer), _) => value.pointer(pointer).is_some(),
                (None, Some(path)) => files.iter().any(|other| other.path == path),
                (None, None) => false,
            };
            assert!(found, "{}: {reference}", file.path);
        }
    }
}

/// The parameters of an address, filled with one choice of names.
struct Names {
    queue: QueueName,
    priority: Priority,
    shard: Shard,
    fit: Fit,
    task_type: TaskType,
    id: TaskId,
    tenant: Tenant,
}

impl Names {
    fn task(&self) -> TaskRef {
        TaskRef { task_type: self.task_type.clone(), id: self.id.clone() }
    }
}

fn choices() -> Vec<Names> {
    let names = |queue: &str, priority, shard, fit: &str, task_type: &str, id: &str| Names {
        queue: QueueName::new(queue).expect("valid"),
        priority,
        shard: Shard::new(shard).expect("valid"),
        fit: Fit::new(fit).expect("valid"),
        task_type: TaskType::new(task_type).expect("valid"),
        id: TaskId::new(id).expect("valid"),
        tenant: Tenant::new("Zoë & co").expect("valid"),
    };
    vec![
        names("default", Priority::Critical, 0, "any", "a", "s12"),
        names("q-2", Priority::Normal, 63, "gpu_a", "a.b.c.d.e.f", "0190b8f2-7c1e-7000-8000-000000000001"),
        names("x", Priority::Low, 8, "any", "image.thumbnail.v2", "e0"),
    ]
}

fn fill(address: &str, names: &Names) -> String {
    let key = subject::registry_shard(&names.queue, &names.tenant);
    let hash = key.rsplit_once('.').expect("three tokens").1;
    [
        ("{queue}", names.queue.as_str()),
        ("{priority}", names.priority.as_str()),
        ("{shard}", &names.shard.to_string()),
        ("{fit}", names.fit.as_str()),
        ("{type}", names.task_type.as_str()),
        ("{id}", names.id.as_str()),
        ("{index}", "3"),
        ("{run}", "2"),
        ("{connection}", "c-1"),
        ("{number}", "2"),
        ("{executor}", "e-1"),
        ("{tenantHash}", hash),
        ("{consumer}", "lane-default-low-any"),
    ]
    .into_iter()
    .fold(address.to_owned(), |address, (parameter, value)| address.replace(parameter, value))
}

/// Whether `subject`, a filled address of the channel, is read back by the contract's own parser as
/// these names; where the contract only builds a subject, whether it is what it builds.
fn is_understood(channel: &str, subject: &str, n: &Names) -> bool {
    let key = |bucket: &str| subject.strip_prefix(&subject::kv(bucket, "")).and_then(RegistryKey::parse);
    match channel {
        "submit" => Flow::parse(subject) == Some(Flow::Raw(n.task_type.clone())),
        "task" => Flow::parse(subject) == Some(Flow::Task(n.queue.clone(), n.priority, n.shard)),
        "due" => Flow::parse(subject) == Some(Flow::Due(n.queue.clone(), n.priority, n.shard)),
        "lane" | "bundle" => Lane::parse(subject).is_some_and(|lane| {
            (&lane.queue, lane.priority, &lane.fit) == (&n.queue, n.priority, &n.fit)
                && (lane.kind == subject::LaneKind::Plain) == (channel == "lane")
        }),
        "done" => subject::parse_done(subject) == Some((n.task_type.clone(), n.id.clone())),
        "told" => subject::parse_told(subject) == Some(n.task_type.clone()),
        "toldAhead" => {
            subject == subject::told_ahead(&n.task_type, "c-1", 2) && subject::parse_told_ahead(subject).is_some()
        }
        "toldAcked" => subject == subject::acked(&n.task_type, "c-1", 2) && subject::is_acked(subject),
        "stored" => subject::parse_stored(subject) == Some((n.task_type.clone(), n.id.clone())),
        "dead" => subject::parse_dead(subject) == Some((n.queue.clone(), n.task_type.clone(), n.id.clone())),
        "credit" => subject::parse_credit(subject) == Some(n.queue.clone()),
        "cancel" => subject::parse_cancel(subject) == Some(n.task()),
        "types" => key(subject::BUCKET_REGISTRY) == Some(RegistryKey::Type(n.task_type.clone())),
        "overrides" => key(subject::BUCKET_REGISTRY) == Some(RegistryKey::Override(n.task_type.clone())),
        "queues" => key(subject::BUCKET_REGISTRY) == Some(RegistryKey::Queue(n.queue.clone())),
        "shards" => {
            key(subject::BUCKET_REGISTRY) == Some(RegistryKey::Shard(n.queue.clone()))
                && subject == subject::kv(subject::BUCKET_REGISTRY, &subject::registry_shard(&n.queue, &n.tenant))
        }
        "shared" => key(subject::BUCKET_REGISTRY) == Some(RegistryKey::Shared(n.queue.clone())),
        "notes" => {
            subject.strip_prefix(&subject::kv(subject::BUCKET_NOTES, "")).and_then(subject::parse_note_cancelled)
                == Some(n.task())
        }
        "checkpoints" => subject == subject::kv(subject::BUCKET_NOTES, &subject::note_checkpoint(&n.task_type, &n.id)),
        "callback" => subject::parse_callback(subject) == Some((n.task_type.clone(), n.id.clone(), 3)),
        "deadCallback" => subject::parse_dead_callback(subject) == Some((n.task_type.clone(), n.id.clone(), 3)),
        "scheduledCallback" => subject == subject::schedule_callback(&n.task_type, &n.id, 3),
        "schedule" => subject == subject::schedule(&n.queue, &n.task_type, &n.id, 2),
        "wanted" => subject == subject::credit_wanted(&n.queue),
        "progress" => subject == subject::progress(&n.task_type, &n.id),
        "ask" => subject == subject::ask(&n.queue),
        "yield" => subject == subject::yield_wanted(&n.queue),
        "owner" => subject == subject::owner(&n.queue),
        "ownerOf" => subject == subject::owner_of(&n.queue, "e-1"),
        "beginMarks" => subject == subject::kv(subject::BUCKET_NOTES, &subject::note_begun(&n.task_type, &n.id)),
        "estimates" => key(subject::BUCKET_REGISTRY) == Some(RegistryKey::Estimate(n.task_type.clone())),
        "plain" => {
            subject.strip_prefix(&subject::kv(subject::BUCKET_REGISTRY, "")).and_then(subject::parse_registry_plain)
                == Some(n.task_type.clone())
        }
        "leases" => subject == subject::kv(subject::BUCKET_LEASES, &subject::lease_queue(&n.queue)),
        "maxDeliveries" => subject.strip_prefix(subject::MAX_DELIVERIES_ALL.trim_end_matches('>')).is_some(),
        "terminated" => subject.strip_prefix(subject::TERMINATED_ALL.trim_end_matches('>')).is_some(),
        other => panic!("no parser is known for the channel {other}"),
    }
}

#[test]
fn every_address_is_read_back_by_the_contracts_own_parsers() {
    let document = document::asyncapi();
    for (name, channel) in document["channels"].as_object().expect("channels") {
        let address = channel["address"].as_str().expect("an address");
        for names in choices() {
            let subject = fill(address, &names);
            assert!(!subject.contains(['{', '}']), "{name}: {subject} has a parameter that nobody fills");
            assert!(is_understood(name, &subject, &names), "{name}: {subject} is not understood");
        }
    }
}

#[test]
fn every_parameter_of_an_address_is_documented_and_no_other() {
    let document = document::asyncapi();
    for (name, channel) in document["channels"].as_object().expect("channels") {
        let address = channel["address"].as_str().expect("an address");
        let used: BTreeSet<&str> =
            address.split('.').filter_map(|token| token.strip_prefix('{')?.strip_suffix('}')).collect();
        let documented = channel["parameters"].as_object().map(|p| p.keys().map(String::as_str).collect());
        assert_eq!(documented.unwrap_or_else(BTreeSet::new), used, "{name}");
    }
}

#[test]
fn every_stream_of_the_contract_has_a_channel_and_every_channel_says_how_it_is_kept() {
    let document = document::asyncapi();
    let streams: BTreeSet<&str> = document["channels"]
        .as_object()
        .expect("channels")
        .values()
        .filter_map(|channel| channel["x-jetstream"].get("stream").expect("a stream or null").as_str())
        .collect();
    for stream in [
        subject::STREAM_TASKS,
        subject::STREAM_TIME,
        subject::STREAM_LANES,
        subject::STREAM_DONE,
        subject::STREAM_DEAD,
        subject::STREAM_ADVISORIES,
    ] {
        assert!(streams.contains(stream), "{stream} has no channel");
    }
}

/// The header names in the source itself, so that a new one cannot be left out.
fn header_names() -> Vec<&'static str> {
    include_str!("../src/header.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("pub const ")?.split_once(": &str = \"")?.1.strip_suffix("\";"))
        .collect()
}

#[test]
fn every_header_is_described_and_carried_by_a_message() {
    let document = document::asyncapi();
    let names = header_names();
    assert!(names.contains(&"ce-id") && names.contains(&"Nats-TTL"), "the source was not understood: {names:?}");
    let mut carried = BTreeSet::new();
    for message in document["components"]["messages"].as_object().expect("messages").values() {
        if let Some(headers) = message["headers"]["properties"].as_object() {
            carried.extend(headers.keys().map(String::as_str));
        }
    }
    for name in &names {
        let text = document["components"]["schemas"][name]["description"].as_str().unwrap_or_default();
        assert!(!text.is_empty(), "{name} is not described");
        assert!(carried.contains(name), "{name} is carried by no message");
    }
    assert_eq!(document["components"]["schemas"].as_object().map(serde_json::Map::len), Some(names.len()));
}

#[test]
fn a_completion_that_is_written_has_no_header_that_the_document_lacks() {
    let completion = full_completion();
    let document = document::asyncapi();
    let documented = &document["components"]["messages"]["output"]["headers"]["properties"];
    for (name, value) in completion.headers("2026-11-22T00:00:00Z").iter() {
        assert!(documented.get(name).is_some(), "{name} is not documented");
        let schema = &document["components"]["schemas"][name];
        assert!(jsonschema::is_valid(schema, &json!(value)), "{name}: {value} is not what its schema says");
    }
}

fn full_task() -> TaskEvent {
    let mut task = TaskEvent::new(
        TaskId::from_sequence(12),
        TaskType::new("image.thumbnail").expect("valid"),
        QueueName::new("pictures").expect("valid"),
        Micros(1_700_000_000_000_000),
        vec![0, 1, 255],
    );
    task.tenant = Tenant::new("Zoë & co").expect("valid");
    (task.key, task.size_key) = (Some("k".into()), Some("s".into()));
    (task.due_at, task.deadline) = (Some(Micros(1)), Some(Micros(2)));
    (task.retries, task.timeout_ms) = (Some(3), Some(4));
    task.parent = Some(TaskId::from_sequence(11));
    task.headers = vec![("x-user".into(), "ada".into())];
    task.checkpoint = Some(vec![7]);
    task.trace.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into();
    task.callbacks = vec![
        Callback::Webhook { endpoint: "gallery".into() },
        Callback::Task {
            task_type: TaskType::new("a.b").expect("valid"),
            priority: Some(Priority::Low),
            callbacks: vec![Callback::Subject { subject: "billing.done".into() }],
        },
    ];
    task
}

fn full_completion() -> Completion {
    let mut completion = Completion::of(&full_task(), Outcome::Failed, Micros(1_700_000_000_000_001));
    (completion.late, completion.token) = (true, Some(RunToken::from_bits(u64::MAX)));
    (completion.wait_ms, completion.run_ms, completion.priority) = (1.5, 2.25, Priority::High);
    completion.trace.tracestate = "a=b".into();
    completion.with_failure(Failure { path: Some("/a".into()), chain: vec!["b".into()], ..Failure::new("json", "c") })
}

#[test]
fn what_the_types_write_is_what_the_schemas_accept_and_an_empty_object_is_not() {
    let queue = QueueName::new("pictures").expect("valid");
    let mut entry = TypeEntry::new(queue.clone());
    entry.schema = Some(json!({ "type": "object" }));
    let shard = ShardEntry { tenant: Tenant::default(), shard: Shard::new(63).expect("valid") };
    let task = full_task();
    let bare = TaskEvent::new(task.id.clone(), task.task_type.clone(), queue, Micros(0), Vec::new());
    let sizes = [("4k".to_owned(), RunTimes { runs: 3, mu: 7.5, variance: 0.25 })].into();
    let estimate = EstimateEntry { sizes, ..EstimateEntry::default() };
    let explanation = Explanation {
        id: task.id.clone(),
        queue: task.queue.clone(),
        task_type: task.task_type.clone(),
        priority: task.priority,
        tenant: task.tenant.clone(),
        fit: task.fit.clone(),
        policy: PolicyName::Adaptive,
        first_arrival: task.submitted_at,
        reasons: vec![Reason::NoRoom, Reason::Behind { tasks: 7, of_its_flow: 2 }, Reason::OverShare],
        expected: Expectation { start: None, finish: None, estimate_us: 5, ahead: 7, meets_deadline: true },
    };
    let (task_type, id) = (task.task_type.clone(), task.id.clone());
    let inquiry = Inquiry {
        executor: "e-1".into(),
        sequence: 7,
        stored_at: task.submitted_at,
        delivered: 2,
        ack: "$JS.ACK.S.C.2.7.7.1700000000000000000.0".into(),
        runs: vec![InquiredRun { task_type, id, run: 1, started_at: Some(Micros(1)) }],
        mark: Some(jetlane_schemas::RunToken::draw()),
    };
    let written: &[(&str, Value)] = &[
        ("task-event", json!(task)),
        ("task-event", json!(bare)),
        ("completion", json!(full_completion())),
        ("failure", json!(full_completion().failure())),
        ("callback", json!(task.callbacks[0])),
        ("callback", json!(task.callbacks[1])),
        ("type-entry", json!(entry)),
        ("type-override", json!(TypeOverride { retries: Some(5), ..TypeOverride::default() })),
        ("queue-entry", json!(QueueEntry::default())),
        ("shard-entry", json!(shard)),
        ("shared-entry", json!(SharedEntry::default())),
        ("estimate-entry", json!(estimate)),
        ("question", json!(Question::Explain { id: task.id.clone(), task_type: None })),
        ("answer", json!(Answer::Unheld { queue: task.queue.clone(), dispatched: true })),
        ("answer", json!(Answer::Explanation(explanation))),
        ("inquiry", json!(inquiry)),
        ("inquiry-reply", json!(InquiryReply::Adopted)),
    ];
    for (name, schema) in document::json_schemas() {
        let validator = jsonschema::draft202012::new(&schema).expect("a valid schema of draft 2020-12");
        let mut samples = 0;
        for (_, value) in written.iter().filter(|(of, _)| *of == name) {
            let errors: Vec<String> = validator.iter_errors(value).map(|e| format!("{e} at {e:?}")).collect();
            assert!(errors.is_empty(), "{name}: {errors:?}");
            samples += 1;
        }
        assert!(samples > 0, "{name} has no sample");
        // Every member of a queue's announcement has a default, and people may set nothing.
        let may_be_empty = matches!(name, "queue-entry" | "type-override");
        assert_eq!(validator.is_valid(&json!({})), may_be_empty, "{name}");
    }
}

#[test]
fn schemas_refuse_the_names_that_the_types_refuse() {
    let schemas = document::json_schemas();
    let schema = &schemas.iter().find(|(name, _)| *name == "shard-entry").expect("there").1;
    for (tenant, shard) in [("a\u{1}b", 8), ("a\u{85}b", 8), ("acme", 64)] {
        let value = json!({ "tenant": tenant, "shard": shard });
        assert!(!jsonschema::is_valid(schema, &value), "{value} passed the schema");
        assert!(serde_json::from_value::<ShardEntry>(value).is_err());
    }
    let schema = &schemas.iter().find(|(name, _)| *name == "type-entry").expect("there").1;
    for value in [json!({ "queue": "q", "retries": 101 }), json!({ "queue": "q", "timeout_ms": 0 })] {
        assert!(!jsonschema::is_valid(schema, &value), "{value} passed the schema");
        assert!(serde_json::from_value::<TypeEntry>(value).expect("the form is right").check().is_err());
    }
    for queue in ["", "a.b", "*", "a b"] {
        let value = json!({ "queue": queue });
        assert!(!jsonschema::is_valid(schema, &value), "{value} passed the schema");
        assert!(serde_json::from_value::<TypeEntry>(value).is_err());
    }
}
