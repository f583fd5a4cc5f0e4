//! Submitting: a task is accepted once the broker has stored it.

use crate::client::Client;
use crate::error::Error;
use crate::handle::TaskHandle;
use crate::task::Task;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use jetlane_bus::{Outgoing, Published, clock, publish::Expect, trace};
use jetlane_schemas::limits::DELAY_MS_MAX;
use jetlane_schemas::task::InvalidOption;
use jetlane_schemas::{
    Callback, Headers, InvalidName, Micros, Priority, QueueName, TaskEvent, TaskId, TaskType, Tenant, frame, header,
    intake, subject,
};
use std::fmt;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::time::{Duration, SystemTime};
use tracing::Instrument;

/// How many submissions of [`Client::submit_all`] wait for their acks at once.
const SUBMITS_IN_FLIGHT: usize = 1_000;

/// A task to submit. Await it, or [`forget`](Submit::forget) it; until then nothing is sent.
#[must_use = "nothing is submitted until it is awaited"]
#[derive(Debug)]
pub struct Submit<O> {
    client: Client,
    draft: Result<TaskEvent, Error>,
    queue: Option<QueueName>,
    delay: Duration,
    output: PhantomData<fn() -> O>,
}

/// What the broker said to a submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// Whether it had been submitted before, under the same id or key.
    pub duplicate: bool,
    /// Whether somebody has announced the type: otherwise it waits until somebody does.
    pub known: bool,
}

impl<O> Submit<O> {
    pub(crate) fn new(
        client: Client,
        task_type: Result<TaskType, InvalidName>,
        payload: Result<Vec<u8>, serde_json::Error>,
    ) -> Self {
        let draft = draft(task_type, payload);
        Self { client, draft, queue: None, delay: Duration::ZERO, output: PhantomData }
    }

    fn set(mut self, change: impl FnOnce(&mut TaskEvent) -> Result<(), Error>) -> Self {
        if let Ok(task) = &mut self.draft
            && let Err(error) = change(task)
        {
            self.draft = Err(error);
        }
        self
    }

    /// How urgent it is. Default normal.
    pub fn priority(self, priority: Priority) -> Self {
        self.set(|task| {
            task.priority = priority;
            Ok(())
        })
    }

    /// Its fairness key. Default none: shared.
    pub fn tenant(self, tenant: impl Into<String>) -> Self {
        self.set(|task| {
            task.tenant = Tenant::new(tenant)?;
            Ok(())
        })
    }

    /// Its idempotency key: the same key of the same type and tenant is the same task, submitted once.
    pub fn key(self, key: impl Into<String>) -> Self {
        self.set(|task| {
            task.key = Some(key.into());
            Ok(())
        })
    }

    /// Until when it must have started; past it, it completes as expired.
    pub fn deadline(self, at: SystemTime) -> Self {
        self.set(|task| {
            let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            task.deadline = Some(Micros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX)));
            Ok(())
        })
    }

    /// How long it waits before it is due. At most a year. The broker keeps the time.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self.set(|_| {
            if delay.as_millis() > u128::from(DELAY_MS_MAX) {
                let reason = format!("must be at most {DELAY_MS_MAX} ms");
                return Err(InvalidOption { option: "delay", reason }.into());
            }
            Ok(())
        })
    }

    /// Retries after the first attempt. Default: as the type is announced.
    pub fn retries(self, retries: u32) -> Self {
        self.set(|task| {
            task.retries = Some(retries);
            Ok(())
        })
    }

    /// How long one attempt may run. Default: as the type is announced.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.set(|task| {
            task.timeout_ms = Some(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
            Ok(())
        })
    }

    /// The queue. Default: the one that the type is announced for.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        match QueueName::new(queue) {
            Ok(queue) => self.queue = Some(queue),
            Err(error) => self.draft = Err(error.into()),
        }
        self
    }

    /// What its completion triggers; may be called more than once.
    pub fn callback(self, callback: Callback) -> Self {
        self.set(|task| {
            task.callbacks.push(callback);
            Ok(())
        })
    }

    /// A webhook endpoint of the callback service that its completion is sent to.
    pub fn webhook(self, endpoint: impl Into<String>) -> Self {
        self.callback(Callback::Webhook { endpoint: endpoint.into() })
    }

    /// A task that runs after its success, with its output as the body.
    pub fn then<T: Task>(self) -> Self {
        match TaskType::new(T::TYPE) {
            Ok(task_type) => self.callback(Callback::Task { task_type, priority: None, callbacks: Vec::new() }),
            Err(error) => Self { draft: Err(error.into()), ..self },
        }
    }

    /// A header for the handler; may be called more than once.
    pub fn header(self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.set(|task| {
            task.headers.push((name.into(), value.into()));
            Ok(())
        })
    }

    /// An id of the caller's making, for submitting the very same again after an unknown outcome.
    pub fn id(self, id: TaskId) -> Self {
        self.set(|task| {
            task.id = id;
            Ok(())
        })
    }

    /// The task whose completion caused this one.
    pub fn parent(self, parent: TaskId) -> Self {
        self.set(|task| {
            task.parent = Some(parent);
            Ok(())
        })
    }

    /// Submits without listening for the completion: cheaper for those who never await it.
    ///
    /// # Errors
    /// As for awaiting it.
    pub async fn forget(self) -> Result<(TaskId, Accepted), Error> {
        let (client, task) = self.ready()?;
        let id = task.id.clone();
        let accepted = send(&client, task).await?;
        Ok((id, accepted))
    }

    /// The checked task: id, queue and shard settled.
    fn ready(self) -> Result<(Client, Ready), Error> {
        let mut task = self.draft?;
        if let Some(key) = &task.key {
            task.id = TaskId::from_key(task.task_type.as_str(), task.tenant.as_str(), key);
            // The same key may have been submitted longer ago than the broker's window remembers.
            task.suspect = true;
        }
        task.check(self.client.bus().body_bytes_max())?;
        let announced = self.client.registry().queue_of(&task.task_type);
        let known = announced.is_some();
        // A type that nobody has announced goes to the open door: there it waits without standing in
        // anybody's way.
        let queue = self.queue.or(announced).filter(|_| known);
        if let Some(queue) = &queue {
            task.queue = queue.clone();
            task.shard = self.client.registry().shard(queue, &task.tenant);
        }
        Ok((self.client, Ready { id: task.id.clone(), task, known, delay: self.delay }))
    }
}

#[derive(Debug)]
struct Ready {
    id: TaskId,
    task: TaskEvent,
    known: bool,
    delay: Duration,
}

fn draft(
    task_type: Result<TaskType, InvalidName>,
    payload: Result<Vec<u8>, serde_json::Error>,
) -> Result<TaskEvent, Error> {
    let id = TaskId::generate();
    let payload = payload.map_err(|source| Error::Encode { id: id.clone(), source })?;
    Ok(TaskEvent::new(id, task_type?, QueueName::default_queue(), clock::now(), payload))
}

impl<O: Send + 'static> IntoFuture for Submit<O> {
    type Output = Result<TaskHandle<O>, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        async move {
            let (client, ready) = self.ready()?;
            // Listening begins before the task can complete.
            let (id, task_type) = (ready.id.clone(), ready.task.task_type.clone());
            let listener = client.listening().expect(&task_type, &id).await?;
            let accepted = send(&client, ready).await?;
            Ok(TaskHandle::submitted(client, task_type, id, accepted, listener))
        }
        .boxed()
    }
}

/// See [`Client::submit_all`].
pub(crate) async fn submit_all<O: Send + 'static>(
    tasks: impl IntoIterator<Item = Submit<O>>,
) -> Vec<Result<TaskHandle<O>, Error>> {
    futures::stream::iter(tasks.into_iter().map(IntoFuture::into_future)).buffered(SUBMITS_IN_FLIGHT).collect().await
}

async fn send(client: &Client, mut ready: Ready) -> Result<Accepted, Error> {
    let span = tracing::info_span!(
        target: "jetlane::span",
        "submit",
        otel.name = format_args!("submit {}", ready.task.task_type),
        jetlane.task.id = %ready.task.id,
        jetlane.task.type = %ready.task.task_type,
        jetlane.task.priority = %ready.task.priority,
        jetlane.queue = %ready.task.queue,
    );
    async {
        let publish = publish_span(&ready);
        match trace::propagation() {
            trace::Propagation::None => {}
            trace::Propagation::Child | trace::Propagation::Link => ready.task.trace = trace::context_of(&publish),
        }
        store(client, ready).instrument(publish).await
    }
    .instrument(span)
    .await
}

/// OpenTelemetry's messaging conventions: one producer span, whose context travels in the message. Its
/// destination is the subject's start: as few names as there are queues and types.
fn publish_span(ready: &Ready) -> tracing::Span {
    let (queue, task_type): (&dyn fmt::Display, &dyn fmt::Display) = (&ready.task.queue, &ready.task.task_type);
    let (door, whose) = match (ready.known, ready.delay.is_zero()) {
        (true, true) => ("task", queue),
        (true, false) => ("due", queue),
        (false, _) => ("submit", task_type),
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

async fn store(client: &Client, ready: Ready) -> Result<Accepted, Error> {
    let Ready { id, mut task, known, delay } = ready;
    let failed = |source| Error::Submit { id: id.clone(), source };
    if !delay.is_zero() {
        let micros = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
        task.due_at = Some(Micros(task.submitted_at.0.saturating_add(micros)));
    }
    let (subject, published) = match task.due_at {
        Some(due_at) if known => (task.due_subject(), client.bus().store_due(&task, due_at).await),
        _ => {
            let out = if known { framed(&task) } else { by_the_open_door(&task) }.map_err(failed)?;
            (out.subject.clone(), client.bus().publish(out).await)
        }
    };
    let published = published.map_err(failed)?;
    let sequence = published.or_refused(&subject).map_err(failed)?;
    Ok(Accepted { sequence, duplicate: matches!(published, Published::Duplicate(_)), known })
}

fn framed(task: &TaskEvent) -> Result<Outgoing, jetlane_bus::Error> {
    let subject = subject::task(&task.queue, task.priority, task.shard);
    let body = frame::encode_bundle(std::slice::from_ref(task))
        .map_err(|source| jetlane_bus::Error::Frame { subject: subject.clone(), source: source.into() })?;
    Ok(Outgoing {
        subject,
        headers: Headers::new(),
        body: body.into(),
        message_id: Some(task.message_id("task")),
        expect: Expect::Anything,
    })
}

/// The same task as any client would publish it: a binary CloudEvent.
fn by_the_open_door(task: &TaskEvent) -> Result<Outgoing, jetlane_bus::Error> {
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
    optional(header::DEADLINE, task.deadline.map(clock::rfc3339));
    optional(header::RETRIES, task.retries.map(|n| n.to_string()));
    optional(header::TIMEOUT_MS, task.timeout_ms.map(|n| n.to_string()));
    optional(header::PARENT, task.parent.as_ref().map(ToString::to_string));
    let delay = task.due_at.map(|due| due.0.saturating_sub(task.submitted_at.0) / 1_000);
    optional(header::DELAY_MS, delay.map(|ms| ms.to_string()));
    let callbacks = serde_json::to_string(&task.callbacks).expect("callbacks hold nothing but text");
    optional(header::CALLBACKS, (!task.callbacks.is_empty()).then_some(callbacks));
    if !task.trace.is_empty() {
        headers.push(header::TRACEPARENT, task.trace.traceparent.clone());
    }
    Ok(Outgoing {
        subject: subject::submit(&task.task_type),
        headers,
        body: task.payload.clone().into(),
        message_id: Some(task.message_id("task")),
        expect: Expect::Anything,
    })
}
