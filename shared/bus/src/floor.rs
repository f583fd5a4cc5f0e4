//! What the bare broker does: three stored hops a task with the pipeline's own guarantees (message
//! ids, one subject a completion with expected sequence 0, completions received by the submitter),
//! written with async-nats alone, one connection a hop. The ruler of every figure.

use async_nats::jetstream::{self, consumer::pull, context::ContextBuilder, stream};
use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use futures::StreamExt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Bytes of a body, unless stated.
pub const BODY_BYTES: usize = 200;
/// Batches of an open loop that a submitter has under way at once; what falls due meanwhile makes the next.
pub const BATCHES_IN_FLIGHT: usize = 8;
const EXPIRES: Duration = Duration::from_secs(5);
const STREAMS: [(&str, &str); 3] =
    [("FLOOR_TASKS", "floor.task"), ("FLOOR_LANES", "floor.lane"), ("FLOOR_DONE", "floor.done.*")];

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// What the loop carries, and how much of it at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Tasks that the submitter and each hop have in flight.
    pub in_flight: usize,
    /// Tasks a message on the first two hops; each has a completion of its own all the same. Default 1.
    pub bundle: usize,
    /// Bytes of a task's body, which begins with its number. Default [`BODY_BYTES`].
    pub body_bytes: usize,
    /// Copies of every stream. Default 1.
    pub replicas: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Self { in_flight: 1_000, bundle: 1, body_bytes: BODY_BYTES, replicas: 1 }
    }
}

impl Shape {
    /// Messages in flight: together they carry the tasks in flight.
    fn messages(self) -> usize {
        self.in_flight.div_ceil(self.bundle)
    }
}

/// The loop, set up on a server: three streams, two hops, and the submitter's ear. Errors are whatever
/// the broker says.
pub struct Floor {
    url: String,
    shape: Shape,
    submitter: jetstream::Context,
    done: async_nats::Subscriber,
    hops: JoinSet<Result<(), Failed>>,
    submitted: usize,
}

impl Floor {
    /// Makes the streams anew and starts the hops.
    pub async fn start(url: &str, shape: Shape) -> Result<Self, Failed> {
        let mut floor = Self::set_up(url, shape).await?;
        floor.run();
        floor.submitter.client().flush().await?;
        Ok(floor)
    }

    /// Makes the streams anew. What is submitted stays in the first until [`Floor::run`].
    pub async fn set_up(url: &str, shape: Shape) -> Result<Self, Failed> {
        let client = async_nats::connect(url).await?;
        let submitter = context(&client);
        for (name, subject) in STREAMS {
            // Left from an earlier run, or not there.
            let _gone = submitter.delete_stream(name).await;
            let retention =
                if name == "FLOOR_DONE" { stream::RetentionPolicy::Limits } else { stream::RetentionPolicy::WorkQueue };
            let config = stream::Config {
                name: name.into(),
                subjects: vec![subject.into()],
                retention,
                discard: stream::DiscardPolicy::New,
                duplicate_window: Duration::from_secs(120),
                allow_direct: true,
                num_replicas: shape.replicas,
                ..Default::default()
            };
            submitter.create_stream(config).await?;
        }
        let done = client.subscribe("floor.done.*").await?;
        client.flush().await?;
        Ok(Self { url: url.to_owned(), shape, submitter, done, hops: JoinSet::new(), submitted: 0 })
    }

    /// Starts the hops.
    pub fn run(&mut self) {
        let (shape, body_bytes) = (self.shape, self.shape.body_bytes);
        self.hops.spawn(hop(self.url.clone(), "FLOOR_TASKS", shape, |context, body| async move {
            let headers = named(format!("{}:lane:1", id_of(&body)?));
            context.publish_with_headers("floor.lane", headers, body).await?.await?;
            Ok(())
        }));
        self.hops.spawn(hop(self.url.clone(), "FLOOR_LANES", shape, move |context, bodies| async move {
            let tasks = (0..bodies.len()).step_by(body_bytes).map(|at| bodies.slice(at..at + body_bytes));
            futures::future::try_join_all(tasks.map(|body| complete(&context, body))).await.map(|_stored| ())
        }));
    }

    /// Submits `tasks` tasks and waits for all completions. Returns tasks a second.
    pub async fn throughput(&mut self, tasks: usize) -> Result<f64, Failed> {
        let begun = Instant::now();
        let ids = self.next(tasks);
        let submit = tokio::spawn(submit_all(self.submitter.clone(), ids, self.shape));
        self.hear(tasks).await?;
        submit.await??;
        Ok(tasks as f64 / begun.elapsed().as_secs_f64())
    }

    /// Submits `tasks` tasks one at a time; the time of each until its completion is heard.
    pub async fn latencies(&mut self, tasks: usize) -> Result<Vec<Duration>, Failed> {
        let mut latencies = Vec::with_capacity(tasks);
        for id in self.next(tasks) {
            let begun = Instant::now();
            submit(self.submitter.clone(), id..id + 1, self.shape.body_bytes).await?;
            self.done.next().await.ok_or("the connection was closed")?;
            latencies.push(begun.elapsed());
        }
        Ok(latencies)
    }

    /// Submits `tasks` tasks and waits until they are stored.
    pub async fn submit(&mut self, tasks: usize) -> Result<(), Failed> {
        let ids = self.next(tasks);
        submit_all(self.submitter.clone(), ids, self.shape).await
    }

    /// Hears so many completions; the moment of each.
    pub async fn hear(&mut self, tasks: usize) -> Result<Vec<Instant>, Failed> {
        let mut heard = Vec::with_capacity(tasks);
        while heard.len() < tasks {
            self.done.next().await.ok_or("the connection was closed")?;
            heard.push(Instant::now());
        }
        Ok(heard)
    }

    /// Submits `tasks` tasks as they fall due, those that do so together in bundles: `due` says how many have
    /// so far. Returns the moment when the completion of each was heard.
    pub async fn follow(&mut self, due: watch::Receiver<usize>, tasks: usize) -> Result<Vec<Instant>, Failed> {
        let ids = self.next(tasks);
        let first = ids.start;
        let submit = tokio::spawn(submit_due(self.submitter.clone(), due, ids, self.shape));
        let mut heard = vec![None; tasks];
        for _ in 0..tasks {
            let message = self.done.next().await.ok_or("the connection was closed")?;
            let id: usize = message.subject.rsplit('.').next().unwrap_or_default().parse()?;
            let at = id.checked_sub(first).and_then(|at| heard.get_mut(at)).ok_or("a completion of another task")?;
            *at = Some(Instant::now());
        }
        submit.await??;
        heard.into_iter().collect::<Option<Vec<_>>>().ok_or_else(|| "a completion was heard twice".into())
    }

    /// Ends the hops and removes the streams.
    pub async fn end(mut self) -> Result<(), Failed> {
        self.hops.shutdown().await;
        for (name, _) in STREAMS {
            self.submitter.delete_stream(name).await?;
        }
        Ok(())
    }

    /// The ids of the next tasks.
    fn next(&mut self, tasks: usize) -> Range<usize> {
        let first = self.submitted;
        self.submitted += tasks;
        first..self.submitted
    }
}

fn context(client: &Client) -> jetstream::Context {
    ContextBuilder::new().max_ack_inflight(1_000).backpressure_on_inflight(true).build(client.clone())
}

fn named(id: String) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(async_nats::header::NATS_MESSAGE_ID, id);
    headers
}

/// The number that a body begins with. That of the first task names a bundle: none is ever made up anew.
fn id_of(body: &[u8]) -> Result<&str, Failed> {
    let digits = body.iter().take_while(|byte| byte.is_ascii_digit()).count();
    Ok(std::str::from_utf8(&body[..digits])?)
}

/// Submits one message of these tasks.
async fn submit(submitter: jetstream::Context, ids: Range<usize>, body_bytes: usize) -> Result<(), Failed> {
    let headers = named(format!("{}:task:1", ids.start));
    let bodies: String = ids.map(|id| format!("{id:<body_bytes$}")).collect();
    submitter.publish_with_headers("floor.task", headers, bodies.into()).await?.await?;
    Ok(())
}

async fn submit_all(submitter: jetstream::Context, ids: Range<usize>, shape: Shape) -> Result<(), Failed> {
    let bundles = ids.clone().step_by(shape.bundle).map(|first| first..ids.end.min(first + shape.bundle));
    let mut publishes = futures::stream::iter(bundles)
        .map(|ids| submit(submitter.clone(), ids, shape.body_bytes))
        .buffer_unordered(shape.messages());
    while let Some(published) = publishes.next().await {
        published?;
    }
    Ok(())
}

/// Submits what falls due. With [`BATCHES_IN_FLIGHT`] under way the rest gathers, to go together.
async fn submit_due(
    submitter: jetstream::Context,
    mut due: watch::Receiver<usize>,
    ids: Range<usize>,
    shape: Shape,
) -> Result<(), Failed> {
    let free = Arc::new(Semaphore::new(BATCHES_IN_FLIGHT));
    let mut under_way = JoinSet::new();
    let mut next = ids.start;
    while next < ids.end {
        let permit = Arc::clone(&free).acquire_owned().await?;
        let end = ids.start + *due.wait_for(|due| ids.start + due > next).await?;
        let (batch, submitter) = (next..end, submitter.clone());
        under_way.spawn(async move {
            let submitted = submit_all(submitter, batch, shape).await;
            drop(permit);
            submitted
        });
        next = end;
        while let Some(submitted) = under_way.try_join_next() {
            submitted??;
        }
    }
    while let Some(submitted) = under_way.join_next().await {
        submitted??;
    }
    Ok(())
}

async fn complete(context: &jetstream::Context, body: Bytes) -> Result<(), Failed> {
    let mut headers = HeaderMap::new();
    headers.insert(async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, "0");
    context.publish_with_headers(format!("floor.done.{}", id_of(&body)?), headers, body).await?.await?;
    Ok(())
}

/// One hop: pull, publish on and wait for the acks, then ack the source.
async fn hop<F>(
    url: String,
    stream: &'static str,
    shape: Shape,
    publish_on: impl Fn(jetstream::Context, Bytes) -> F,
) -> Result<(), Failed>
where
    F: Future<Output = Result<(), Failed>>,
{
    let context = context(&async_nats::connect(&url).await?);
    let config = pull::Config { durable_name: Some("hop".into()), max_ack_pending: 10_000, ..Default::default() };
    let consumer = context.create_consumer_on_stream(config, stream).await?;
    let messages = consumer.stream().max_messages_per_batch(shape.messages()).expires(EXPIRES).messages().await?;
    messages
        .map(|message| {
            let hopped = |body| publish_on(context.clone(), body);
            async move {
                let message = message?;
                hopped(message.payload.clone()).await?;
                message.ack().await
            }
        })
        .buffer_unordered(shape.messages())
        .for_each(|hopped| async move {
            hopped.unwrap_or_else(|error| tracing::warn!(%error, "A task was lost on the floor."))
        })
        .await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_begins_with_the_tasks_number_whatever_its_length() {
        for (id, body_bytes) in [(7, 200), (123_456, 200), (12_345_678, 8)] {
            assert_eq!(id_of(format!("{id:<body_bytes$}").as_bytes()).expect("a number"), id.to_string());
        }
    }

    #[test]
    fn messages_in_flight_carry_the_tasks_in_flight() {
        let shape = |bundle| Shape { bundle, ..Shape::default() };
        assert_eq!([1, 8, 128, 5_000].map(|bundle| shape(bundle).messages()), [1_000, 125, 8, 1]);
    }
}
