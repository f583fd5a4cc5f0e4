//! Ends what the server gave up: a message that used up its deliveries, because its executors died
//! each time or a plain client kept failing it. The advisories are stored; one reader at a time has each.

use crate::carry::{self, Joins};
use crate::error::Error;
use crate::plain;
use crate::read::unreadable;
use jetlane_bus::flows::{Durable, From};
use jetlane_bus::pull::REFUSED_PAUSE;
use jetlane_bus::{Bus, Delivery, Pulled, Puller};
use jetlane_schemas::subject::{Lane, LaneKind, STREAM_ADVISORIES, STREAM_LANES};
use jetlane_schemas::{Failure, Headers, Outcome, TaskEvent, frame};
use serde::Deserialize;
use std::time::Duration;

/// The consumer that all dispatchers share.
const CONSUMER: &str = "dispatcher-sweeper";
/// Advisories in hand at once: they are rare.
const HELD_MAX: usize = 16;
/// How long one advisory may take before another dispatcher gets it.
const ACK_WAIT: Duration = Duration::from_secs(60);
/// The pause after a fault, and before an advisory that could not be worked off comes again.
const PAUSE_AFTER_FAULT: Duration = Duration::from_secs(5);

/// What the server says of a message that it gave up.
#[derive(Debug, Deserialize)]
struct Advisory {
    stream_seq: u64,
    #[serde(default)]
    deliveries: u64,
    #[serde(default)]
    reason: String,
}

/// Sweeps for as long as the dispatcher runs.
pub(crate) async fn sweep(bus: Bus) -> Result<(), Error> {
    loop {
        match open(&bus).await {
            Ok(puller) => sweep_by(&bus, puller).await?,
            Err(error) => tracing::warn!(%error, "Advisories cannot be read yet; trying again."),
        }
        tokio::time::sleep(PAUSE_AFTER_FAULT).await;
    }
}

/// Sweeps until the consumer is gone.
async fn sweep_by(bus: &Bus, mut puller: Puller) -> Result<(), Error> {
    loop {
        if puller.outstanding() == 0 {
            puller.ask(HELD_MAX, None).await.map_err(|_closed| Error::Closed)?;
        }
        match puller.next().await {
            Pulled::Delivery(delivery) => sweep_one(bus, &delivery).await,
            Pulled::Room => {}
            Pulled::Refused(reason) => {
                tracing::debug!(reason, "A pull of advisories was refused.");
                tokio::time::sleep(REFUSED_PAUSE).await;
            }
            Pulled::Gone => return Ok(()),
            Pulled::Closed => return Err(Error::Closed),
        }
    }
}

async fn open(bus: &Bus) -> Result<Puller, jetlane_bus::Error> {
    let held_max = i64::try_from(HELD_MAX).expect("a small number");
    let durable = Durable {
        name: CONSUMER.into(),
        filters: Vec::new(),
        from: From::Beginning,
        ack_wait: ACK_WAIT,
        held_max,
        forgotten_after: None,
    };
    bus.ensure_durable(STREAM_ADVISORIES, &durable).await?;
    bus.puller(STREAM_ADVISORIES, CONSUMER).await
}

async fn sweep_one(bus: &Bus, delivery: &Delivery) {
    let settled = match serde_json::from_slice::<Advisory>(&delivery.body) {
        Ok(advisory) => match end_message(bus, &advisory).await {
            Ok(()) => delivery.ack.settle().await,
            Err(error) => {
                tracing::warn!(sequence = advisory.stream_seq, %error, "A message that the server gave up could not be ended yet.");
                delivery.ack.give_back(PAUSE_AFTER_FAULT).await
            }
        },
        Err(error) => {
            tracing::warn!(subject = delivery.subject, %error, "An advisory cannot be read and is passed over.");
            delivery.ack.settle().await
        }
    };
    if let Err(error) = settled {
        tracing::debug!(%error, "An advisory was not answered; it comes again.");
    }
}

async fn end_message(bus: &Bus, advisory: &Advisory) -> Result<(), jetlane_bus::Error> {
    let sequence = advisory.stream_seq;
    let Some((subject, headers, body)) = bus.read_sequence(STREAM_LANES, sequence).await? else { return Ok(()) };
    let Some(lane) = Lane::parse(&subject) else { return Ok(()) };
    let failure = if advisory.reason.is_empty() {
        let times = advisory.deliveries;
        Failure::new("deliveries", format!("it was delivered {times} times and nobody completed it"))
    } else {
        Failure::new("terminated", advisory.reason.clone())
    };
    for mut task in tasks_of(&lane, sequence, &headers, &body) {
        task.attempts = task.attempts.max(u32::try_from(advisory.deliveries).unwrap_or(u32::MAX));
        let span = carry::end_span(&mut task, Outcome::Failed, Joins::Child);
        if !carry::end(bus, &task, Outcome::Failed, failure.clone(), &span).await? {
            // DONE is full: it comes again.
            return Err(jetlane_bus::Error::Refused { subject, source: "no room for a completion".into() });
        }
        tracing::warn!(task_id = %task.id, task_type = %task.task_type, %failure, "The server gave a task up; it is a dead letter now.");
    }
    bus.delete_sequence(STREAM_LANES, sequence).await.map(|_| ())
}

fn tasks_of(lane: &Lane, sequence: u64, headers: &Headers, body: &[u8]) -> Vec<TaskEvent> {
    let tasks = match lane.kind {
        LaneKind::Plain => plain::read(lane, headers, body).map(|task| vec![task]).ok_or_else(|| "no task".into()),
        LaneKind::Bundle => frame::decode_bundle(body).map_err(|error| error.to_string()),
    };
    tasks.unwrap_or_else(|error| {
        tracing::error!(
            error,
            sequence,
            "A message that the server gave up cannot be read; it is kept whole as a dead letter."
        );
        vec![unreadable(lane, sequence, body)]
    })
}
