//! Serves a plain lane with a NATS client and nothing else: pull, complete, ack.

use super::Place;
use super::tasks::{PLAIN_QUEUE, PLAIN_TYPE, Work};
use crate::journal::{Event, Journal, Returned};
use async_nats::HeaderMap;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::{self, AckKind, Context, Message};
use futures::StreamExt;
use jetlane_schemas::{header, subject};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The pause after something went wrong.
const PAUSE: Duration = Duration::from_millis(200);
/// How long one pull waits for tasks.
const PULL_TIME: Duration = Duration::from_secs(2);
/// Tasks of one pull.
const PULL_TASKS: usize = 4;

/// Serves until it is told to end.
pub(super) async fn run(place: &Place, journal: &Journal, drain: CancellationToken) -> anyhow::Result<()> {
    let context = jetstream::new(place.plain().await?);
    let serving = async {
        loop {
            // Whatever goes wrong, it begins anew: announce, find the lane, pull.
            if let Err(error) = serve(&context, journal).await {
                eprintln!("{error:#}");
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::select! {
        () = serving => {}
        () = drain.cancelled() => {}
    }
    Ok(())
}

async fn serve(context: &Context, journal: &Journal) -> anyhow::Result<()> {
    announce(context).await?;
    let lane = format!("lane-{PLAIN_QUEUE}-normal-any");
    let lane: PullConsumer = context.get_consumer_from_stream(lane, subject::STREAM_LANES).await?;
    loop {
        // The registry may have been lost.
        announce(context).await?;
        let mut batch = lane.batch().max_messages(PULL_TASKS).expires(PULL_TIME).messages().await?;
        while let Some(task) = batch.next().await {
            let task = task.map_err(|error| anyhow::anyhow!("the pull ended: {error}"))?;
            run_task(context, journal, &task).await?;
        }
    }
}

async fn announce(context: &Context) -> anyhow::Result<()> {
    let registry = context.get_key_value(subject::BUCKET_REGISTRY).await?;
    let key = subject::registry_type(&PLAIN_TYPE.parse()?);
    if registry.get(key.as_str()).await?.is_none() {
        registry.put(key, format!("{{\"queue\":\"{PLAIN_QUEUE}\"}}").into()).await?;
    }
    Ok(())
}

async fn run_task(context: &Context, journal: &Journal, task: &Message) -> anyhow::Result<()> {
    let value = |name: &str| {
        let headers = task.headers.as_ref();
        headers.and_then(|headers| headers.get(name)).map_or(String::new(), |value| value.as_str().to_owned())
    };
    let (id, task_type, pid) = (value(header::TASK_ID), value(header::TASK_TYPE), std::process::id());
    if id.is_empty() || task_type.is_empty() {
        // No task: whoever may publish here can send anything.
        return task.ack_with(AckKind::Term).await.map_err(|error| anyhow::anyhow!("a message stays: {error}"));
    }
    let attempt = value(header::ATTEMPT).parse().unwrap_or(0);
    journal.write(Event::Begin { id: id.clone(), task_type: task_type.clone(), attempt, pid });
    let work: Work = serde_json::from_slice(&task.payload)?;
    tokio::time::sleep(Duration::from_millis(work.ms)).await;
    journal.write(Event::End {
        id: id.clone(),
        task_type: task_type.clone(),
        attempt,
        pid,
        returned: Returned::Output,
    });
    let mut headers = HeaderMap::new();
    headers.insert(header::OUTCOME, "succeeded");
    headers.insert("Nats-Expected-Last-Subject-Sequence", "0");
    let body = format!("{{\"marker\":{:?}}}", work.marker);
    let done = subject::done(&task_type.parse()?, &id.parse()?);
    let stored = context.publish_with_headers(done, headers, body.into()).await?.await;
    match stored {
        Ok(_) => {}
        Err(error) if error.to_string().contains("wrong last sequence") => {}
        // Not known: without an ack the task comes again.
        Err(error) => anyhow::bail!("the completion of {id} is not stored: {error}"),
    }
    task.ack().await.map_err(|error| anyhow::anyhow!("the ack of {id} was not sent: {error}"))
}
