//! JSON Schema and AsyncAPI, generated from the types.
//!
//! - `headers`: every header of the wire, described
//! - `streams`: the JetStream facts of every channel
//! - `channels`: every channel: who sends, who receives, what
//! - `samples`: names that stand in addresses until parameters do
//! - `messages`: every form of a message
//! - this file: JSON Schemas, the assembly of the AsyncAPI document, and the files as checked in

mod channel;
mod channels;
mod headers;
mod messages;
mod samples;
mod streams;

use crate::inquiry::{Inquiry, InquiryReply};
use crate::question::{Answer, Question};
use crate::{
    Callback, Completion, EstimateEntry, Failure, QueueEntry, ShardEntry, SharedEntry, TaskEvent, TypeEntry,
    TypeOverride,
};
use channel::Channel;
use channels::CHANNELS;
use messages::MESSAGES;
use schemars::{JsonSchema, schema_for};
use serde_json::{Map, Value, json};

/// A generated file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Where it is checked in, from the folder of this crate.
    pub path: String,
    /// Its content, with a line break at the end.
    pub text: String,
}

/// Every generated file: one JSON Schema an event or announcement, and the AsyncAPI document.
pub fn files() -> Vec<Document> {
    let schemas =
        json_schemas().into_iter().map(|(name, schema)| Document { path: schema_path(name), text: pretty(schema) });
    schemas.chain([Document { path: "asyncapi.json".into(), text: pretty(asyncapi()) }]).collect()
}

/// The JSON Schemas (draft 2020-12) by name.
pub fn json_schemas() -> Vec<(&'static str, Value)> {
    vec![
        ("task-event", schema_of::<TaskEvent>()),
        ("completion", schema_of::<Completion>()),
        ("failure", schema_of::<Failure>()),
        ("callback", schema_of::<Callback>()),
        ("type-entry", schema_of::<TypeEntry>()),
        ("type-override", schema_of::<TypeOverride>()),
        ("queue-entry", schema_of::<QueueEntry>()),
        ("shard-entry", schema_of::<ShardEntry>()),
        ("shared-entry", schema_of::<SharedEntry>()),
        ("estimate-entry", schema_of::<EstimateEntry>()),
        ("question", schema_of::<Question>()),
        ("answer", schema_of::<Answer>()),
        ("inquiry", schema_of::<Inquiry>()),
        ("inquiry-reply", schema_of::<InquiryReply>()),
    ]
}

/// The AsyncAPI 3.0.0 document of all channels; `$ref`s to the JSON Schemas are relative to its place.
pub fn asyncapi() -> Value {
    let named = |entries: Vec<(String, Value)>| entries.into_iter().collect::<Map<_, _>>();
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Jetlane",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": env!("CARGO_PKG_LICENSE") },
            "description": "Every channel of Jetlane: what any NATS client may publish and subscribe to, and what \
                its own processes tell each other. Header names are read in any case and written as they stand \
                here. `x-jetstream` says how a channel is stored (times as the names' last word says; a limit that \
                is a setting is given with its default); `stream: null` is core NATS, never stored. `x-jetlane-event` \
                is the event that headers and body together decode to.",
        },
        "defaultContentType": "application/json",
        "servers": {
            "nats": {
                "host": "{host}",
                "protocol": "nats",
                "description": "A NATS cluster with JetStream, nats-server 2.14 or newer; `NATS_URL` names it.",
                "variables": { "host": { "default": "127.0.0.1:4222", "description": "Address and port." } },
            },
        },
        "channels": named(CHANNELS.iter().map(|c| (c.name.to_owned(), channel(c))).collect()),
        "operations": named(CHANNELS.iter().flat_map(operations).collect()),
        "components": {
            "messages": named(MESSAGES.iter().map(|m| (m.name.to_owned(), m.document())).collect()),
            "parameters": named(samples::parameters()),
            "schemas": named(headers::schemas()),
        },
    })
}

/// Where a JSON Schema is checked in, from the folder of this crate.
fn schema_path(name: &str) -> String {
    format!("json/{name}.schema.json")
}

fn schema_of<T: JsonSchema>() -> Value {
    plain(schema_for!(T).to_value())
}

/// Takes the links of rustdoc out of descriptions, which mean nothing outside it.
fn plain(value: Value) -> Value {
    match value {
        Value::Object(members) => Value::Object(
            members
                .into_iter()
                .map(|(name, value)| match value {
                    Value::String(text) if name == "description" => {
                        (name, Value::String(text.replace("[`", "`").replace("`]", "`")))
                    }
                    other => (name, plain(other)),
                })
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(plain).collect()),
        other => other,
    }
}

fn channel(channel: &Channel) -> Value {
    let address = (channel.address)();
    let parameters: Map<_, _> = samples::parameters()
        .into_iter()
        .filter(|(name, _)| address.contains(&format!("{{{name}}}")))
        .map(|(name, _)| (name.clone(), json!({ "$ref": format!("#/components/parameters/{name}") })))
        .collect();
    let messages: Map<_, _> = channel
        .messages
        .iter()
        .map(|name| ((*name).to_owned(), json!({ "$ref": format!("#/components/messages/{name}") })))
        .collect();
    let mut document = json!({
        "address": address,
        "title": channel.title,
        "description": channel.text,
        "messages": messages,
        "x-jetstream": channel.storage.document(),
    });
    if !parameters.is_empty() {
        document["parameters"] = Value::Object(parameters);
    }
    document
}

fn operations(channel: &Channel) -> Vec<(String, Value)> {
    let operation = |action: &str, summary: String, who: &[&str]| {
        let tags: Vec<_> = who.iter().map(|name| json!({ "name": name })).collect();
        let messages: Vec<_> = channel
            .messages
            .iter()
            .map(|message| json!({ "$ref": format!("#/channels/{}/messages/{message}", channel.name) }))
            .collect();
        let document = json!({
            "action": action,
            "channel": { "$ref": format!("#/channels/{}", channel.name) },
            "summary": summary,
            "tags": tags,
            "messages": messages,
        });
        (format!("{}.{action}", channel.name), document)
    };
    let mut operations = vec![operation("send", format!("Sent by: {}.", channel.senders.join(", ")), channel.senders)];
    if !channel.receivers.is_empty() {
        let summary = format!("Received by: {}.", channel.receivers.join(", "));
        operations.push(operation("receive", summary, channel.receivers));
    }
    operations
}

/// Two blanks a level and members in alphabetical order, whatever features serde_json is built with.
fn pretty(value: Value) -> String {
    let mut text = serde_json::to_string_pretty(&sorted(value)).expect("a JSON value is always written");
    text.push('\n');
    text
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.into_iter().map(|(name, value)| (name, sorted(value))).collect();
            members.sort_by(|(a, _), (b, _)| a.cmp(b));
            Value::Object(members.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}
