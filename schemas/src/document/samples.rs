//! Sample names that addresses are built from by [`crate::subject`], and the parameters that then take
//! their place.

use crate::TaskId;
use crate::options::{Priority, Shard};
use crate::subject;
use crate::token::{Fit, QueueName, TaskType};
use serde_json::{Value, json};

const TYPE: &str = "image.thumbnail";
const QUEUE: &str = "pictures";
const PRIORITY: &str = "high";
const SHARD: &str = "8";
pub(super) const CONNECTION: &str = "Y2FuIGJlIGFueQ";
pub(super) const NUMBER: &str = "42";
pub(super) const EXECUTOR_ID: &str = "0190b8f27c1e70008000000000000002";
const FIT: &str = "gpu";
const ID: &str = "0190b8f27c1e70008000000000000001";
const INDEX: &str = "7";
pub(super) const SAMPLE_INDEX: usize = 7;
const RUN: &str = "3";
pub(super) const SAMPLE_RUN: u32 = 3;

pub(super) fn sample_type() -> TaskType {
    TaskType::new(TYPE).expect("a valid name")
}

pub(super) fn sample_queue() -> QueueName {
    QueueName::new(QUEUE).expect("a valid name")
}

pub(super) fn sample_shard() -> Shard {
    Shard::new(8).expect("a valid shard")
}

pub(super) fn sample_fit() -> Fit {
    Fit::new(FIT).expect("a valid name")
}

pub(super) fn sample_id() -> TaskId {
    TaskId::new(ID).expect("a valid id")
}

/// The parameters of addresses.
pub(super) fn parameters() -> Vec<(String, Value)> {
    let parameter = |name: &str, text: &str, example: &str| {
        (name.to_owned(), json!({ "description": text, "examples": [example] }))
    };
    let (mut priority, shard) = (
        parameter("priority", "How urgent.", PRIORITY),
        parameter("shard", "Where the tenant's tasks stand in line: 0 to 63.", SHARD),
    );
    priority.1["enum"] = json!(Priority::ALL.map(Priority::as_str));
    vec![
        parameter("type", "The task type: 1 to 6 tokens of [A-Za-z0-9_-]{1,64}, joined by dots.", TYPE),
        parameter("queue", "The queue: one token of [A-Za-z0-9_-]{1,64}.", QUEUE),
        priority,
        shard,
        parameter("fit", "The class of needs: one token, `any` unless a task states needs.", FIT),
        parameter("index", "The callback's place among those of its task, from 0.", INDEX),
        parameter("run", "The number of the run that is due then, from 1.", RUN),
        parameter("connection", "A word of the executor's connection.", CONNECTION),
        parameter("executor", "The executor's id: it draws one when it starts.", EXECUTOR_ID),
        parameter("number", "Which of that connection's publishes.", NUMBER),
        parameter("id", "The task's id: one token of [A-Za-z0-9_-]{1,64}.", ID),
        parameter(
            "tenantHash",
            "The first 16 bytes of SHA-256 over the tenant, in hex.",
            "00000000000000000000000000000000",
        ),
        parameter("consumer", "The lane's consumer.", "lane-pictures-high-gpu"),
    ]
}

pub(super) fn kv(bucket: &str, key: &str) -> String {
    template(&subject::kv(bucket, key))
}

/// Puts parameters in the place of the samples.
pub(super) fn template(subject: &str) -> String {
    let mut address = format!("{subject}.");
    for (name, sample) in [
        ("type", TYPE),
        ("queue", QUEUE),
        ("priority", PRIORITY),
        ("shard", SHARD),
        ("fit", FIT),
        ("id", ID),
        ("index", INDEX),
        ("run", RUN),
        ("connection", CONNECTION),
        ("number", NUMBER),
        ("executor", EXECUTOR_ID),
    ] {
        address = address.replace(&format!(".{sample}."), &format!(".{{{name}}}."));
    }
    address.trim_end_matches('.').to_owned()
}
