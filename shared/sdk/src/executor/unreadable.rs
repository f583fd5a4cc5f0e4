//! Messages of a lane that this executor cannot read. One of a later version is left to an executor that reads it;
//! any other is kept whole as a dead letter, and then acked. None is acked away.

use super::attempt::Desk;
use jetlane_bus::{Delivery, Error, clock};
use jetlane_schemas::frame::{self, FrameError};
use jetlane_schemas::{Completion, Failure, Outcome, TaskEvent, TaskId, TaskType};
use std::time::Duration;

/// The first and the longest pause before a message of a later version comes again: another executor may read it.
const LATER_VERSION_PAUSE: Duration = Duration::from_secs(2);
const LATER_VERSION_PAUSE_MAX: Duration = Duration::from_secs(60);

/// Ends a message that cannot be read.
pub(crate) async fn end(desk: &Desk, delivery: &Delivery, error: &FrameError) {
    let (subject, sequence) = (&delivery.subject, delivery.facts.stream_sequence);
    let answered = if frame::is_of_later_version(&delivery.body) {
        tracing::warn!(subject, sequence, %error, "A bundle of a later version is left to an executor that reads it.");
        let delivered = u32::try_from(delivery.facts.delivered).unwrap_or(u32::MAX);
        let pause = LATER_VERSION_PAUSE.saturating_mul(delivered).min(LATER_VERSION_PAUSE_MAX);
        delivery.ack.give_back(pause).await
    } else {
        match dead_letter(desk, delivery, error).await {
            Ok(()) => {
                tracing::error!(subject, sequence, %error, "A bundle cannot be read; it is kept as a dead letter.");
                delivery.ack.settle().await
            }
            Err(error) => {
                tracing::warn!(subject, sequence, %error, "A bundle that cannot be read could not be kept yet; it comes again.");
                Ok(())
            }
        }
    };
    if let Err(error) = answered {
        tracing::debug!(%error, "A message that cannot be read was not answered; it comes again.");
    }
}

/// Keeps the message whole, under a name made of its place in the stream.
async fn dead_letter(desk: &Desk, delivery: &Delivery, error: &FrameError) -> Result<(), Error> {
    let facts = delivery.facts;
    let name = format!("lanes-{}-{}", facts.stream_sequence, facts.stored_at.0);
    let id = TaskId::new(name).expect("two numbers are a valid id");
    let task_type = TaskType::new("jetlane.unreadable").expect("two tokens of letters");
    let task = TaskEvent::new(id, task_type, desk.queue.clone(), facts.stored_at, delivery.body.to_vec());
    let why = Completion::of(&task, Outcome::Rejected, clock::now())
        .with_failure(Failure::new("frame", format!("the message cannot be read: {error}")));
    desk.bus.bury(&task, &why).await
}
