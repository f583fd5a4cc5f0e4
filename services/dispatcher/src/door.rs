//! The open door has a connection of its own. Anyone may publish there, and a header block that is none
//! costs whoever reads it the connection: then only the door is lost. What did it is ended, and the door
//! is opened again.

use crate::carry::{self, Joins};
use crate::error::Error;
use crate::registry::Known;
use jetlane_bus::Bus;
use jetlane_bus::unreadable::Unreadable;
use jetlane_schemas::subject::STREAM_TASKS;
use jetlane_schemas::{Failure, Flow, Outcome, QueueName, TaskEvent, TaskId};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What the door's connection is called, after the dispatcher's own.
const ROLE: &str = "door";
/// The pause between two tries to open the door.
const OPEN_PAUSE: Duration = Duration::from_millis(500);

/// The connection that the open door is read by; another one after it was lost.
pub(crate) type Door = watch::Receiver<Bus>;

/// Opens the door and keeps it open for as long as the dispatcher runs.
pub(crate) async fn open(bus: &Bus, registry: Known, helpers: &mut JoinSet<Result<(), Error>>) -> Result<Door, Error> {
    let (told, door) = watch::channel(bus.another(ROLE).await.map_err(Error::Connect)?);
    helpers.spawn(keep(bus.clone(), registry, told));
    Ok(door)
}

async fn keep(bus: Bus, registry: Known, told: watch::Sender<Bus>) -> Result<(), Error> {
    loop {
        let mut connections = told.borrow().connections();
        connections.mark_unchanged();
        let is_lost = connections.changed().await.is_err();
        // Whatever cut the connection: it has been delivered, and nobody has answered it.
        if let Err(error) = end_unreadable(&bus, &registry).await {
            tracing::warn!(%error, "What cannot be read could not be looked for yet.");
        }
        if is_lost {
            tracing::warn!("The connection of the open door was lost for good; opening it again.");
            told.send_replace(reopen(&bus).await);
        }
    }
}

async fn reopen(bus: &Bus) -> Bus {
    loop {
        match bus.another(ROLE).await {
            Ok(door) => return door,
            Err(error) => {
                tracing::warn!(%error, "The open door cannot be read yet; trying again.");
                tokio::time::sleep(OPEN_PAUSE).await;
            }
        }
    }
}

async fn end_unreadable(bus: &Bus, registry: &Known) -> Result<(), jetlane_bus::Error> {
    for unreadable in bus.unreadable(STREAM_TASKS, |flow| matches!(flow, Flow::Raw(_))).await? {
        end(bus, registry, unreadable).await?;
    }
    Ok(())
}

/// Refuses it under the id that its submitter knows, keeps its body, and takes it out of the stream.
async fn end(bus: &Bus, registry: &Known, unreadable: Unreadable) -> Result<(), jetlane_bus::Error> {
    let Some(Flow::Raw(task_type)) = Flow::parse(&unreadable.subject) else { return Ok(()) };
    let announced = registry.borrow().task_type(&task_type).map(|known| known.entry.queue.clone());
    let queue = announced.unwrap_or_else(QueueName::default_queue);
    let id = TaskId::from_sequence(unreadable.sequence);
    tracing::warn!(task_id = %id, %task_type, "The headers of a message cannot be read; it is refused.");
    let mut task = TaskEvent::new(id, task_type, queue, unreadable.stored_at, unreadable.body);
    let span = carry::end_span(&mut task, Outcome::Rejected, Joins::Child);
    let failure = Failure::new("headers", "the headers of the message cannot be read");
    if carry::end(bus, &task, Outcome::Rejected, failure, &span).await? {
        bus.delete_sequence(STREAM_TASKS, unreadable.sequence).await?;
    }
    Ok(())
}
