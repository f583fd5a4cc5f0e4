//! What the bare broker does: three stored hops a task with the pipeline's own guarantees (message
//! ids, one subject a completion with expected sequence 0, completions received by the submitter),
//! written with async-nats alone, one connection a hop. The ruler of every figure.

use async_nats::jetstream::{self, consumer::pull, context::ContextBuilder, stream};
use async_nats::{Client, HeaderMap};
use futures::StreamExt;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Bytes of a body.
pub const BODY_BYTES: usize = 200;
const EXPIRES: Duration = Duration::from_secs(5);
const STREAMS: [(&str, &str); 3] =
    [("FLOOR_TASKS", "floor.task"), ("FLOOR_LANES", "floor.lane"), ("FLOOR_DONE", "floor.done.*")];

type Failed = Box<dyn std::error::Error + Send + Sync>;
type Next = fn(&str) -> (String, HeaderMap);

/// The loop, set up on a server: three streams, two hops that run, and the submitter's ear. Errors
/// are whatever the broker says.
pub struct Floor {
    submitter: jetstream::Context,
    done: async_nats::Subscriber,
    hops: JoinSet<Result<(), Failed>>,
    submitted: usize,
}

impl Floor {
    /// Makes the streams anew and starts the hops, each with up to `in_flight` publishes in flight.
    pub async fn start(url: &str, in_flight: usize) -> Result<Self, Failed> {
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
                ..Default::default()
            };
            submitter.create_stream(config).await?;
        }
        let done = client.subscribe("floor.done.*").await?;
        let mut hops = JoinSet::new();
        hops.spawn(hop(url.to_owned(), "FLOOR_TASKS", in_flight, |id| {
            ("floor.lane".into(), named(format!("{id}:lane:1")))
        }));
        hops.spawn(hop(url.to_owned(), "FLOOR_LANES", in_flight, |id| {
            let mut headers = HeaderMap::new();
            headers.insert(async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, "0");
            (format!("floor.done.{id}"), headers)
        }));
        client.flush().await?;
        Ok(Self { submitter, done, hops, submitted: 0 })
    }

    /// Submits `tasks` tasks with up to `in_flight` publishes in flight, and waits for all completions.
    /// Returns tasks a second.
    pub async fn throughput(&mut self, tasks: usize, in_flight: usize) -> Result<f64, Failed> {
        let begun = Instant::now();
        let (first, submitter) = (self.submitted, self.submitter.clone());
        self.submitted += tasks;
        let submit = tokio::spawn(async move {
            let mut publishes = futures::stream::iter(first..first + tasks)
                .map(|id| submit(submitter.clone(), id))
                .buffer_unordered(in_flight);
            while let Some(published) = publishes.next().await {
                published?;
            }
            Ok::<_, Failed>(())
        });
        for _ in 0..tasks {
            self.done.next().await.ok_or("the connection was closed")?;
        }
        submit.await??;
        Ok(tasks as f64 / begun.elapsed().as_secs_f64())
    }

    /// Submits `tasks` tasks one at a time; the time of each until its completion is heard.
    pub async fn latencies(&mut self, tasks: usize) -> Result<Vec<Duration>, Failed> {
        let mut latencies = Vec::with_capacity(tasks);
        for id in self.submitted..self.submitted + tasks {
            let begun = Instant::now();
            submit(self.submitter.clone(), id).await?;
            self.done.next().await.ok_or("the connection was closed")?;
            latencies.push(begun.elapsed());
        }
        self.submitted += tasks;
        Ok(latencies)
    }

    /// Ends the hops and removes the streams.
    pub async fn end(mut self) -> Result<(), Failed> {
        self.hops.shutdown().await;
        for (name, _) in STREAMS {
            self.submitter.delete_stream(name).await?;
        }
        Ok(())
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

async fn submit(submitter: jetstream::Context, id: usize) -> Result<(), Failed> {
    let body = format!("{id:<BODY_BYTES$}");
    submitter.publish_with_headers("floor.task", named(format!("{id}:task:1")), body.into()).await?.await?;
    Ok(())
}

/// One hop: pull, publish on and wait for the ack, then ack the source.
async fn hop(url: String, stream: &'static str, in_flight: usize, next: Next) -> Result<(), Failed> {
    let context = context(&async_nats::connect(&url).await?);
    let config = pull::Config { durable_name: Some("hop".into()), max_ack_pending: 10_000, ..Default::default() };
    let consumer = context.create_consumer_on_stream(config, stream).await?;
    let messages = consumer.stream().max_messages_per_batch(in_flight).expires(EXPIRES).messages().await?;
    messages
        .map(|message| {
            let context = context.clone();
            async move {
                let message = message?;
                let id = std::str::from_utf8(&message.payload)?.trim_end().to_owned();
                let (subject, headers) = next(&id);
                context.publish_with_headers(subject, headers, message.payload.clone()).await?.await?;
                message.ack().await
            }
        })
        .buffer_unordered(in_flight)
        .for_each(|hopped| async move {
            hopped.unwrap_or_else(|error| tracing::warn!(%error, "A task was lost on the floor."))
        })
        .await;
    Ok(())
}
