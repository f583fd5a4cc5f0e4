//! A bundle that is delivered a second time is not run: each of its tasks that has not completed goes on
//! as a message of its own, and the bundle is acked. Otherwise one task that kills its executors would
//! take its neighbours with it (design, decision 15).

use super::attempt::Desk;
use super::credit::Tally;
use super::lease::key_of;
use super::owners::inquired;
use futures::stream::{StreamExt, TryStreamExt};
use jetlane_bus::publish::Expect;
use jetlane_bus::{Bus, Delivery, Error, Outgoing};
use jetlane_mutants::mutant;
use jetlane_schemas::inquiry::{Inquiry, InquiryReply};
use jetlane_schemas::{Completion, Headers, Hop, Outcome, TaskEvent, frame};

/// Completions that are looked up at once.
const LOOK_UPS_IN_FLIGHT: usize = 32;

/// Sends on what has not completed of a bundle, each task as a suspect of its own, and acks it. What
/// cannot be done now is done at the next delivery.
pub(crate) async fn unbundle(desk: &Desk, delivery: &Delivery, tally: &Tally, tasks: Vec<TaskEvent>) {
    let count = tasks.len();
    // Whoever runs them goes on, under this delivery.
    let inquiry = Inquiry {
        executor: desk.owners.executor().to_owned(),
        sequence: key_of(delivery).0,
        stored_at: delivery.facts.stored_at,
        delivered: delivery.facts.delivered,
        ack: delivery.ack.subject().to_owned(),
        runs: tasks.iter().map(inquired).collect(),
        mark: None,
    };
    let connection = *desk.bus.connections().borrow();
    match desk.owners.ask(&inquiry).await {
        Ok(None) if *desk.bus.connections().borrow() == connection => {}
        Ok(Some(InquiryReply::Adopted)) => return,
        Ok(_) | Err(_) => {
            tracing::debug!("It is not known whether a bundle that came again still runs elsewhere; it comes again.");
            return;
        }
    }
    match send_on(&desk.bus, &delivery.subject, tasks).await {
        Ok(sent_on) => {
            tracing::info!(
                queue = %desk.queue, tasks = count, sent_on,
                "A bundle came a second time; its tasks go on one by one."
            );
            // Whoever ran the others may have died before it told: the leader would wait for them.
            desk.ledger.found_settled(tally, count - sent_on);
            if let Err(error) = delivery.ack.settle().await {
                tracing::debug!(%error, "An ack was not sent; the bundle comes again and its tasks are recognised.");
            }
        }
        Err(error) => tracing::warn!(%error, "A bundle could not be taken apart yet; it comes again."),
    }
}

/// Publishes those that have not completed; says how many. The ids of the messages name the runs: the
/// next delivery of the same bundle stores none of them again.
async fn send_on(bus: &Bus, subject: &str, tasks: Vec<TaskEvent>) -> Result<usize, Error> {
    let looked_up = futures::stream::iter(tasks)
        .map(|task| async move { bus.read_done(&task.task_type, &task.id).await.map(|done| (task, done)) })
        .buffered(LOOK_UPS_IN_FLIGHT);
    let looked_up: Vec<(TaskEvent, Option<Completion>)> = looked_up.try_collect().await?;
    let mut outs = Vec::new();
    for (task, done) in looked_up {
        match done {
            Some(done) if !mutant!(SuspectsNotLookedUp) => finish(bus, &task, &done).await?,
            Some(_) | None => outs.push(single(subject, task)?),
        }
    }
    let sent_on = outs.len();
    for published in bus.publish_all(outs).await {
        published?.or_refused(subject)?;
    }
    Ok(sent_on)
}

/// Whoever completed a task may have died before what follows from it was stored.
pub(crate) async fn finish(bus: &Bus, task: &TaskEvent, done: &Completion) -> Result<(), Error> {
    if done.outcome == Outcome::Failed {
        bus.bury(task, done).await?;
    }
    bus.trigger_of_task(done, task).await?;
    if let Some(claim) = task.claim() {
        bus.end_claim(&task.task_type, &claim, &task.id).await?;
    }
    bus.tell(std::iter::once(done)).await;
    Ok(())
}

fn single(subject: &str, mut task: TaskEvent) -> Result<Outgoing, Error> {
    task.suspect = true;
    let failed = |source: frame::FrameError| Error::Frame { subject: subject.to_owned(), source: source.into() };
    Ok(Outgoing {
        subject: subject.to_owned(),
        headers: Headers::new(),
        body: frame::encode_bundle([&task]).map_err(failed)?.into(),
        message_id: Some(task.message_id(Hop::Lane)),
        expect: Expect::Anything,
    })
}
