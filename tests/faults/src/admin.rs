//! The soak's own view of the broker: what streams hold, who leads them, and requests to change that. Connects past
//! the proxies.

use crate::checker::Stored;
use crate::journal::{Event, Journal};
use crate::servers::{SYSTEM, Servers};
use anyhow::Context as _;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::{self, stream};
use futures::{StreamExt, TryStreamExt};
use jetlane_schemas::inquiry::BeginMark;
use jetlane_schemas::{TaskEvent, frame, header, subject};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long one answer may take.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);
/// How long a request is repeated: elections and restarts take a few seconds.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a stream that is read to its end may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Streams that hold work: empty once all is done.
pub const WORK: [&str; 3] = [subject::STREAM_TASKS, subject::STREAM_TIME, subject::STREAM_LANES];
/// All streams of the scheduler.
pub const STREAMS: [&str; 6] = [
    subject::STREAM_TASKS,
    subject::STREAM_TIME,
    subject::STREAM_LANES,
    subject::STREAM_DONE,
    subject::STREAM_DEAD,
    subject::STREAM_ADVISORIES,
];

/// Connections past the proxies.
#[derive(Debug, Clone)]
pub struct Admin {
    /// The account of the tasks.
    pub client: async_nats::Client,
    /// The same with streams.
    pub jetstream: jetstream::Context,
    /// The account of the servers.
    system: async_nats::Client,
}

/// What a replica of a stream holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// The server that led the stream while it was read.
    pub server: String,
    /// Messages, first and last sequence.
    pub state: (u64, u64, u64),
    /// The sequences with the lengths of their messages, hashed.
    pub digest: u64,
}

impl Admin {
    /// Connects to the servers.
    ///
    /// # Errors
    /// When none answers.
    pub async fn connect(servers: &Servers) -> anyhow::Result<Self> {
        let client = connect(&servers.urls(), async_nats::ConnectOptions::new()).await?;
        let of_servers = async_nats::ConnectOptions::with_user_and_password(SYSTEM.into(), SYSTEM.into());
        let system = connect(&servers.urls(), of_servers).await?;
        let mut jetstream = jetstream::new(client.clone());
        jetstream.set_timeout(ANSWER_TIME_MAX);
        Ok(Self { client, jetstream, system })
    }

    /// Writes each begin mark that executors store to the journal, until it is aborted.
    pub async fn marks(self, journal: Arc<Journal>) {
        let subject = subject::kv(subject::BUCKET_NOTES, "begun.>");
        let prefix = subject.trim_end_matches('>').to_owned();
        let Ok(mut marks) = self.client.subscribe(subject).await else { return };
        while let Some(message) = marks.next().await {
            let key = message.subject.strip_prefix(prefix.as_str()).and_then(|key| key.rsplit_once('.'));
            let mark = serde_json::from_slice::<BeginMark>(&message.payload);
            if let (Some((task_type, id)), Ok(mark)) = (key, mark) {
                let (id, task_type) = (id.to_owned(), task_type.to_owned());
                journal.write(Event::Mark { id, task_type, executor: mark.executor, begun: mark.begun });
            }
        }
    }

    /// Asks the API of the server until it answers.
    ///
    /// # Errors
    /// When nobody answers in time.
    pub async fn api(&self, subject: &str, body: &Value) -> anyhow::Result<Value> {
        ask(&self.client, subject, body).await
    }

    /// Waits until a stream of this name exists and has a leader.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn stream(&self, name: &str) -> anyhow::Result<stream::Stream> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.jetstream.get_stream(name).await {
                Ok(stream) => return Ok(stream),
                Err(error) if Instant::now() > until => return Err(error).context(format!("no stream {name}")),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// The messages of a stream by subject.
    ///
    /// # Errors
    /// When the stream cannot be read.
    pub async fn counts(&self, stream: &str) -> anyhow::Result<BTreeMap<String, u64>> {
        let body = json!({ "subjects_filter": ">" });
        let info = self.api(&format!("$JS.API.STREAM.INFO.{stream}"), &body).await?;
        let subjects = info["state"]["subjects"].as_object().cloned().unwrap_or_default();
        let mut counts: BTreeMap<String, u64> =
            subjects.into_iter().map(|(subject, count)| (subject, count.as_u64().unwrap_or(0))).collect();
        let messages = info["state"]["messages"].as_u64().with_context(|| format!("no state of {stream}: {info}"))?;
        if counts.is_empty() && messages > 0 {
            counts.insert("(not told)".into(), messages);
        }
        Ok(counts)
    }

    /// The sequence of the last message that a stream has stored.
    ///
    /// # Errors
    /// When the stream cannot be read.
    pub async fn last_sequence(&self, stream: &str) -> anyhow::Result<u64> {
        let info = self.api(&format!("$JS.API.STREAM.INFO.{stream}"), &json!({})).await?;
        info["state"]["last_seq"].as_u64().with_context(|| format!("no state of {stream}: {info}"))
    }

    /// The names of a stream's durable consumers.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub async fn consumers(&self, stream: &str) -> anyhow::Result<Vec<String>> {
        let names: Vec<String> = self.stream(stream).await?.consumer_names().try_collect().await?;
        Ok(names)
    }

    /// All completions, as the stream holds them.
    ///
    /// # Errors
    /// When the stream cannot be read to its end.
    pub async fn completions(&self) -> anyhow::Result<Vec<Stored>> {
        let mut stored = Vec::new();
        self.read(subject::STREAM_DONE, |message, sequence, at_us| {
            let value = |name: &str| {
                let headers = message.headers.as_ref();
                headers.and_then(|headers| headers.get(name)).map(|value| value.as_str().to_owned())
            };
            let Some((task_type, id)) = subject::parse_done(&message.subject) else { return };
            let body: Value = serde_json::from_slice(&message.payload).unwrap_or(Value::Null);
            stored.push(Stored {
                id: id.to_string(),
                task_type: task_type.to_string(),
                outcome: value(header::OUTCOME).unwrap_or_default(),
                code: body["code"].as_str().unwrap_or_default().to_owned(),
                marker: body["marker"].as_str().map(str::to_owned),
                sequence,
                at_us,
                text: String::from_utf8_lossy(&message.payload).chars().take(300).collect(),
            });
        })
        .await?;
        Ok(stored)
    }

    /// The tasks of dead-lettered callbacks, as `<type>.<id>`.
    ///
    /// # Errors
    /// When the stream cannot be read to its end.
    pub async fn dead_callbacks(&self) -> anyhow::Result<BTreeSet<String>> {
        let counts = self.counts(subject::STREAM_DEAD).await?;
        let dead = counts.keys().filter_map(|subject| subject::parse_dead_callback(subject));
        Ok(dead.map(|(task_type, id, _)| format!("{task_type}.{id}")).collect())
    }

    /// What a replica of a stream holds, read from the server that leads it now.
    ///
    /// # Errors
    /// When the stream cannot be read to its end.
    pub async fn replica(&self, stream: &str) -> anyhow::Result<Replica> {
        let mut digest = 0_u64;
        self.read(stream, |message, sequence, _| {
            let bytes = message.payload.len() as u64 + message.subject.len() as u64;
            digest = digest.rotate_left(7) ^ sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ bytes;
        })
        .await?;
        let info = self.api(&format!("$JS.API.STREAM.INFO.{stream}"), &json!({})).await?;
        let number = |name: &str| info["state"][name].as_u64().unwrap_or(0);
        let server = info["cluster"]["leader"].as_str().unwrap_or_default().to_owned();
        Ok(Replica { server, state: (number("messages"), number("first_seq"), number("last_seq")), digest })
    }

    /// Reads a stream from its first to its last message, without leaving a consumer.
    async fn read(&self, stream: &str, mut take: impl FnMut(&jetstream::Message, u64, u64)) -> anyhow::Result<()> {
        let opened = self.stream(stream).await?;
        let mut left = opened.get_info().await?.state.messages;
        if left == 0 {
            return Ok(());
        }
        let mut messages = opened.create_consumer(OrderedConfig::default()).await?.messages().await?;
        while left > 0 {
            let next = tokio::time::timeout(SILENCE_MAX, messages.next()).await;
            let message = next.with_context(|| format!("{stream} is silent, {left} messages before its end"))?;
            let message = message.with_context(|| format!("{stream} ended"))??;
            let (sequence, pending, at_us) = {
                let info = message.info().map_err(|error| anyhow::anyhow!("a message without facts: {error}"))?;
                let nanos = info.published.unix_timestamp_nanos();
                (info.stream_sequence, info.pending, u64::try_from(nanos / 1_000).unwrap_or(0))
            };
            take(&message, sequence, at_us);
            left = pending;
        }
        Ok(())
    }

    /// What is known of messages that are left in the streams of work: the tasks in bundles, and each consumer's counts.
    pub async fn describe_work(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for stream in WORK {
            if let Err(error) = self.describe(stream, &mut lines).await {
                lines.push(format!("{stream} cannot be described: {error:#}"));
            }
        }
        lines
    }

    async fn describe(&self, stream: &str, lines: &mut Vec<String>) -> anyhow::Result<()> {
        /// Messages of a stream that are described.
        const MESSAGES_MAX: u64 = 20;
        let opened = self.stream(stream).await?;
        let state = opened.get_info().await?.state;
        if state.messages == 0 {
            return Ok(());
        }
        let mut sequence = state.first_sequence;
        for _ in 0..state.messages.min(MESSAGES_MAX) {
            let next = opened.direct_get_builder().sequence(sequence).next_by_subject(">").send().await;
            let Ok(message) = next else { break };
            let tasks = frame::decode_bundle(&message.payload).map_or_else(
                |_| String::from_utf8_lossy(&message.payload).chars().take(200).collect(),
                |tasks| {
                    let told = tasks.iter().map(|task| format!("{}.{} run {}", task.task_type, task.id, task.run));
                    told.collect::<Vec<String>>().join(", ")
                },
            );
            lines.push(format!("{stream} {} {} {}: {tasks}", message.sequence, message.subject, message.time));
            sequence = message.sequence + 1;
        }
        for consumer in self.consumers(stream).await? {
            let info = self.api(&format!("$JS.API.CONSUMER.INFO.{stream}.{consumer}"), &json!({})).await?;
            let number = |name: &str| info[name].as_u64().unwrap_or(0);
            lines.push(format!(
                "{stream} consumer {consumer}: pending {}, unacked {}, redelivered {}, pulls waiting {}, delivered {}, ack floor {}",
                number("num_pending"),
                number("num_ack_pending"),
                number("num_redelivered"),
                number("num_waiting"),
                info["delivered"],
                info["ack_floor"]
            ));
        }
        Ok(())
    }

    /// Messages of the streams of work that their consumers count as acked, by subject: nobody will ever get them. A
    /// server whose disk is full may keep what it was told to remove.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn stranded(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        let mut stranded = BTreeMap::new();
        for stream in WORK {
            let opened = self.stream(stream).await?;
            let state = opened.get_info().await?.state;
            let mut floors = Vec::new();
            for consumer in if state.messages > 0 { self.consumers(stream).await? } else { Vec::new() } {
                let info = self.api(&format!("$JS.API.CONSUMER.INFO.{stream}.{consumer}"), &json!({})).await?;
                let filter = info["config"]["filter_subject"].as_str().unwrap_or_default().to_owned();
                floors.push((filter, info["ack_floor"]["stream_seq"].as_u64().unwrap_or(0)));
            }
            let mut sequence = state.first_sequence;
            for _ in 0..state.messages {
                let next = opened.direct_get_builder().sequence(sequence).next_by_subject(">").send().await;
                // It was removed meanwhile.
                let Ok(message) = next else { break };
                let subject = message.subject.as_str();
                if floors.iter().any(|(filter, floor)| filter == subject && *floor >= message.sequence) {
                    *stranded.entry(subject.to_owned()).or_default() += 1;
                }
                sequence = message.sequence + 1;
            }
        }
        Ok(stranded)
    }

    /// Changes settings of a stream, and returns what they were.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn set(&self, stream: &str, settings: &Value) -> anyhow::Result<Value> {
        let info = self.api(&format!("$JS.API.STREAM.INFO.{stream}"), &json!({})).await?;
        let (mut config, mut before) = (info["config"].clone(), json!({}));
        for (name, value) in settings.as_object().context("settings are an object")? {
            before[name] = config[name].clone();
            config[name] = value.clone();
        }
        let set = self.api(&format!("$JS.API.STREAM.UPDATE.{stream}"), &config).await?;
        anyhow::ensure!(set["error"].is_null(), "{stream} cannot be changed: {set}");
        Ok(before)
    }

    /// The tasks that lie in the bundle lanes, each message with its sequence.
    ///
    /// # Errors
    /// When the stream cannot be described.
    pub async fn bundles(&self) -> anyhow::Result<Vec<(u64, Vec<TaskEvent>)>> {
        let opened = self.stream(subject::STREAM_LANES).await?;
        let (mut bundles, mut sequence) = (Vec::new(), 0);
        // It ends with the last message, and with one that is acked meanwhile.
        while let Ok(message) = opened.direct_get_builder().sequence(sequence).next_by_subject(">").send().await {
            if let Ok(tasks) = frame::decode_bundle(&message.payload) {
                bundles.push((message.sequence, tasks));
            }
            sequence = message.sequence + 1;
        }
        Ok(bundles)
    }

    /// Says in the name of whoever holds the messages of a lane that they are given back: the server delivers each again
    /// at once.
    ///
    /// # Errors
    /// When the lane cannot be described.
    pub async fn deliver_again(&self, lane: &str) -> anyhow::Result<()> {
        let stream = subject::STREAM_LANES;
        let info = self.api(&format!("$JS.API.CONSUMER.INFO.{stream}.{lane}"), &json!({})).await?;
        let delivered = &info["delivered"]["consumer_seq"];
        for (sequence, _) in self.bundles().await? {
            let ack = format!("$JS.ACK.{stream}.{lane}.1.{sequence}.{delivered}.1.0");
            self.client.publish(ack, "-NAK".into()).await?;
        }
        Ok(self.client.flush().await?)
    }

    /// Whether a stream is there, once somebody answers for certain.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn exists(&self, stream: &str) -> anyhow::Result<bool> {
        let info = self.api(&format!("$JS.API.STREAM.INFO.{stream}"), &json!({})).await?;
        Ok(info["error"].is_null())
    }

    /// The values of a header of all messages of a stream, a work queue as well.
    ///
    /// # Errors
    /// When the stream cannot be read.
    pub async fn header_values(&self, stream: &str, name: &str) -> anyhow::Result<BTreeSet<String>> {
        let opened = self.stream(stream).await?;
        let state = opened.get_info().await?.state;
        let (mut values, mut sequence) = (BTreeSet::new(), state.first_sequence);
        for _ in 0..state.messages {
            let message = opened.direct_get_builder().sequence(sequence).next_by_subject(">").send().await?;
            values.extend(message.headers.get(name).map(|value| value.as_str().to_owned()));
            sequence = message.sequence + 1;
        }
        Ok(values)
    }

    /// Who leads a stream.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn leader(&self, stream: &str) -> anyhow::Result<Option<String>> {
        let info = self.api(&format!("$JS.API.STREAM.INFO.{stream}"), &json!({})).await?;
        Ok(info["cluster"]["leader"].as_str().map(str::to_owned))
    }

    /// The servers that hold a stream; one without a name where there is no cluster.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn replicas_of(&self, stream: &str) -> anyhow::Result<Vec<String>> {
        let info = self.api(&format!("$JS.API.STREAM.INFO.{stream}"), &json!({})).await?;
        let others = info["cluster"]["replicas"].as_array().cloned().unwrap_or_default();
        let names = others.iter().map(|replica| &replica["name"]).chain([&info["cluster"]["leader"]]);
        Ok(names.filter_map(|name| name.as_str().map(str::to_owned)).collect())
    }

    /// Makes a server the leader of a stream.
    ///
    /// # Errors
    /// When it does not become the leader in time.
    pub async fn lead(&self, stream: &str, server: &str) -> anyhow::Result<()> {
        let until = Instant::now() + PATIENCE;
        let preferred = json!({ "placement": { "preferred": server } });
        while self.leader(stream).await?.as_deref() != Some(server) {
            anyhow::ensure!(Instant::now() < until, "{server} does not become the leader of {stream}");
            self.api(&format!("$JS.API.STREAM.LEADER.STEPDOWN.{stream}"), &preferred).await?;
            tokio::time::sleep(PAUSE * 5).await;
        }
        Ok(())
    }

    /// Asks the leader of the cluster, who places streams, to step down.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn step_down_meta(&self) -> anyhow::Result<Value> {
        ask(&self.system, "$JS.API.META.LEADER.STEPDOWN", &json!({})).await
    }

    /// Waits until every copy of every stream is as new as its leader.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn replicas_are_current(&self) -> anyhow::Result<()> {
        let until = Instant::now() + PATIENCE * 2;
        loop {
            let mut behind = Vec::new();
            let listed = self.api("$JS.API.STREAM.LIST", &json!({})).await?;
            for stream in listed["streams"].as_array().into_iter().flatten() {
                let cluster = &stream["cluster"];
                let replicas = cluster["replicas"].as_array().into_iter().flatten();
                let lags = replicas.filter(|replica| replica["current"] != true || replica["offline"] == true);
                let wanted = stream["config"]["num_replicas"].as_u64().unwrap_or(1);
                let has = cluster["replicas"].as_array().map_or(0, Vec::len) as u64 + 1;
                if lags.count() > 0 || has < wanted || (wanted > 1 && cluster["leader"].is_null()) {
                    behind.push(stream["config"]["name"].to_string());
                }
            }
            if behind.is_empty()
                && listed["missing"].is_null()
                && listed["total"].as_u64().is_some_and(|total| total > 0)
            {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < until, "copies stay behind: {behind:?}, missing {}", listed["missing"]);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Stores a frame and returns its sequence.
    ///
    /// # Errors
    /// When the stream does not take it in time.
    pub async fn store(&self, subject: &str, body: &[u8]) -> anyhow::Result<u64> {
        let until = Instant::now() + PATIENCE;
        loop {
            let sent = async {
                let sent = self.jetstream.publish(subject.to_owned(), body.to_vec().into()).await?;
                sent.await
            };
            match sent.await {
                Ok(ack) => return Ok(ack.sequence),
                Err(error) if Instant::now() > until => return Err(error).context(format!("{subject} takes nothing")),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// Whether a stream holds this body under this sequence; it is removed if so.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn take(&self, stream: &str, sequence: u64, body: &[u8]) -> anyhow::Result<bool> {
        let opened = self.stream(stream).await?;
        let until = Instant::now() + PATIENCE;
        let held = loop {
            match opened.get_raw_message(sequence).await {
                Ok(message) => break message.payload == body,
                Err(error) if error.to_string().contains("no message found") => break false,
                Err(error) if Instant::now() > until => return Err(error).context("a message cannot be read"),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        };
        if held {
            let removed = self.api(&format!("$JS.API.STREAM.MSG.DELETE.{stream}"), &json!({ "seq": sequence })).await?;
            anyhow::ensure!(removed["error"].is_null(), "a message cannot be removed: {removed}");
        }
        Ok(held)
    }

    /// Which of these bodies are part of a message of a stream.
    ///
    /// # Errors
    /// When the stream cannot be read to its end.
    pub async fn holds(&self, stream: &str, bodies: &[Vec<u8>]) -> anyhow::Result<BTreeSet<Vec<u8>>> {
        let mut found = BTreeSet::new();
        if bodies.is_empty() {
            return Ok(found);
        }
        self.read(stream, |message, _, _| {
            let is_part = |body: &&Vec<u8>| message.payload.windows(body.len()).any(|part| part == body.as_slice());
            found.extend(bodies.iter().filter(is_part).cloned());
        })
        .await?;
        Ok(found)
    }

    /// Asks the leader of a stream to step down.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn step_down(&self, stream: &str) -> anyhow::Result<Value> {
        self.api(&format!("$JS.API.STREAM.LEADER.STEPDOWN.{stream}"), &json!({})).await
    }
}

async fn connect(urls: &[String], options: async_nats::ConnectOptions) -> anyhow::Result<async_nats::Client> {
    let addresses: Vec<async_nats::ServerAddr> = urls.iter().map(|url| url.parse()).collect::<Result<_, _>>()?;
    let options = options
        .name("soak")
        .skip_subject_validation(true)
        .retry_on_initial_connect()
        .request_timeout(Some(ANSWER_TIME_MAX))
        .reconnect_delay_callback(|_| PAUSE);
    Ok(options.connect(addresses).await?)
}

async fn ask(client: &async_nats::Client, subject: &str, body: &Value) -> anyhow::Result<Value> {
    let until = Instant::now() + PATIENCE;
    loop {
        let answer = client.request(subject.to_owned(), serde_json::to_vec(body)?.into()).await;
        let problem = match answer {
            Ok(answer) => {
                let answer: Value = serde_json::from_slice(&answer.payload)?;
                match &answer["error"] {
                    // Unavailable for now, as while a leader is elected.
                    Value::Object(error) if error.get("code").and_then(Value::as_u64) == Some(503) => {
                        Value::Object(error.clone()).to_string()
                    }
                    _ => return Ok(answer),
                }
            }
            Err(error) => error.to_string(),
        };
        anyhow::ensure!(Instant::now() < until, "no answer on {subject}: {problem}");
        tokio::time::sleep(PAUSE).await;
    }
}
