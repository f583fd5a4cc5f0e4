//! Tasks that the bench frames itself: the SDK writes JSON alone, so codecs are compared on this way.

use super::super::bincoded;
use super::super::noop::Noop;
use super::super::once::completions;
use super::super::services::QUEUE;
use super::super::submitter::{ROUND_WITHIN, Submitter};
use crate::output::{Exit, Failure};
use futures::StreamExt as _;
use jetlane::{Bus, Client};
use jetlane_bus::publish::Expect;
use jetlane_bus::{Outgoing, clock};
use jetlane_schemas::{Headers, Hop, PayloadCodec, QueueName, TaskEvent, TaskId, TaskType, frame, subject};
use std::collections::HashSet;
use std::time::Instant;

/// Messages whose acks are waited for.
const MESSAGES_IN_FLIGHT: usize = 200;

/// Submits tasks in bundles of this size and hears every completion. Returns tasks a second.
pub(super) async fn throughput(
    submitter: &mut Submitter,
    codec: PayloadCodec,
    bundle: usize,
    tasks: usize,
) -> Result<f64, Failure> {
    let bus = submitter.client().bus().clone();
    let mut heard = completions(&bus).await?;
    let body_bytes = submitter.body_bytes();
    let numbers: Vec<u32> = submitter.take(tasks).collect();
    let kind = Kind::new(codec)?;
    let begun = Instant::now();
    let mut waiting = HashSet::with_capacity(tasks);
    let mut messages = Vec::with_capacity(tasks.div_ceil(bundle));
    for numbers in numbers.chunks(bundle) {
        let bundle: Vec<TaskEvent> =
            numbers.iter().map(|number| kind.task(*number, body_bytes)).collect::<Result<_, _>>()?;
        messages.push(message(&bundle)?);
        waiting.extend(bundle.into_iter().map(|task| task.id.as_str().to_owned()));
    }
    let submit = tokio::spawn(publish(bus, messages));
    let mut faults = 0;
    let end = tokio::time::Instant::now() + ROUND_WITHIN;
    while !waiting.is_empty() {
        let Ok(Some(ids)) = tokio::time::timeout_at(end, heard.next()).await else { break };
        faults += ids.iter().map(|id| u64::from(!waiting.remove(id))).sum::<u64>();
    }
    let took = begun.elapsed();
    submit.await.map_err(|error| Failure::of(Exit::Error, &error))??;
    submitter.faults.lost += waiting.len() as u64;
    submitter.faults.duplicates += faults;
    Ok((tasks - waiting.len()) as f64 / took.as_secs_f64())
}

struct Kind {
    task_type: TaskType,
    queue: QueueName,
    codec: PayloadCodec,
}

impl Kind {
    fn new(codec: PayloadCodec) -> Result<Self, Failure> {
        let invalid = |error| Failure::of(Exit::Error, &error);
        let task_type = Client::type_of::<Noop>().map_err(invalid)?;
        Ok(Self { task_type, queue: QueueName::new(QUEUE).map_err(invalid)?, codec })
    }

    fn task(&self, number: u32, body_bytes: usize) -> Result<TaskEvent, Failure> {
        let body = bincoded::encode(&Noop::new(number, body_bytes), self.codec)?;
        let (task_type, queue) = (self.task_type.clone(), self.queue.clone());
        let mut task = TaskEvent::new(TaskId::generate(), task_type, queue, clock::now(), body);
        task.codec = self.codec;
        Ok(task)
    }
}

fn message(tasks: &[TaskEvent]) -> Result<Outgoing, Failure> {
    let first = tasks.first().ok_or_else(|| Failure::new(Exit::Error, "a bundle without tasks"))?;
    let body = frame::encode_bundle(tasks).map_err(|error| Failure::of(Exit::Error, &error))?;
    Ok(Outgoing {
        subject: subject::task(&first.queue, first.priority, first.shard),
        headers: Headers::new(),
        body: body.into(),
        // Never made up anew, so that the first names all.
        message_id: Some(first.message_id(Hop::Intake)),
        expect: Expect::Anything,
    })
}

async fn publish(bus: Bus, messages: Vec<Outgoing>) -> Result<(), Failure> {
    let mut publishes = futures::stream::iter(messages)
        .map(|message| {
            let bus = bus.clone();
            async move { bus.publish(message).await }
        })
        .buffer_unordered(MESSAGES_IN_FLIGHT);
    while let Some(published) = publishes.next().await {
        published.map_err(|error| Failure::of(Exit::Error, &error))?;
    }
    Ok(())
}
