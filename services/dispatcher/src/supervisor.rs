//! Asks for the lead of every queue that is announced, and leads while it holds.

use crate::World;
use crate::error::Error;
use crate::keeper::Keeper;
use crate::leader::Leader;
use jetlane_schemas::QueueName;
use jetlane_service::frame::one_line;
use jetlane_service::health::BEAT_EVERY;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How often the lead of a queue is asked for while another has it.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// How many queues are taken over at once. Each makes or looks at a consumer a lane and lists those of two streams: with
/// 300 queues at once the server's answers came after the client's limit, and all began anew.
const TAKE_OVERS_MAX: usize = 8;
/// The pause after a lead that ended by a fault.
const PAUSE_AFTER_FAULT: Duration = Duration::from_millis(500);

/// Leads every queue that this dispatcher may, until it is told to drain.
pub(crate) async fn lead_all(world: &World, drain: &CancellationToken) -> Result<(), Error> {
    let mut registry = world.registry.clone();
    let mut asked: BTreeMap<QueueName, CancellationToken> = BTreeMap::new();
    let turns = Arc::new(Semaphore::new(TAKE_OVERS_MAX));
    let mut leads = JoinSet::new();
    let beat = world.readiness.heartbeat("supervisor");
    let mut beats = tokio::time::interval(BEAT_EVERY);
    world.readiness.begun();
    loop {
        let queues = registry.borrow_and_update().queues();
        // A queue that nobody announces any more is led no more: its leader gives back what it holds.
        asked.retain(|queue, lead| {
            let is_there = queues.contains(queue);
            if !is_there {
                tracing::info!(%queue, "A queue is announced no more; its lead is given up.");
                lead.cancel();
            }
            is_there
        });
        for queue in queues.into_iter().filter(|queue| world.config.serves(queue)) {
            if let Entry::Vacant(place) = asked.entry(queue.clone()) {
                let lead = place.insert(drain.child_token()).clone();
                leads.spawn(lead_one(world.clone(), queue, Arc::clone(&turns), lead));
            }
        }
        tokio::select! {
            () = drain.cancelled() => break,
            _ = beats.tick() => beat.beat(),
            changed = registry.changed() => if changed.is_err() {
                return Err(Error::Closed);
            },
            Some(ended) = leads.join_next(), if !leads.is_empty() => if let Err(panicked) = ended {
                // A bug in a leader must not pass unseen: the process ends and another takes over.
                std::panic::resume_unwind(panicked.into_panic());
            },
        }
    }
    while leads.join_next().await.is_some() {}
    Ok(())
}

async fn lead_one(world: World, queue: QueueName, turns: Arc<Semaphore>, drain: CancellationToken) {
    while !drain.is_cancelled() {
        let pause = match lead_once(&world, &queue, &turns, &drain).await {
            Ok(()) => {
                world.readiness.lease(&queue, Ok(()));
                ASK_EVERY
            }
            Err(error) => {
                let error = one_line(&error);
                world.readiness.lease(&queue, Err(error.clone()));
                tracing::warn!(%queue, error, "The lead of a queue ended; asking for it again.");
                PAUSE_AFTER_FAULT
            }
        };
        tokio::select! {
            () = drain.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
    // Nobody asks for its lease any more, so it cannot fail.
    world.readiness.lease(&queue, Ok(()));
}

async fn lead_once(
    world: &World,
    queue: &QueueName,
    turns: &Semaphore,
    drain: &CancellationToken,
) -> Result<(), Error> {
    // Before the lease: one that waits for its turn leaves the queue to whoever has time for it.
    let Some(Ok(turn)) = drain.run_until_cancelled(turns.acquire()).await else { return Ok(()) };
    let asked = world.bus.lead(queue, &world.holder).await;
    let Some(lease) = asked.map_err(|source| Error::Lead { queue: queue.clone(), source })? else { return Ok(()) };
    let epoch = lease.epoch();
    let keeper = Keeper::keep(lease);
    let led = async {
        let mut leader = Box::pin(Leader::take_over(world, queue, epoch)).await?;
        drop(turn);
        world.readiness.lease(queue, Ok(()));
        tracing::info!(%queue, epoch, "Leading a queue.");
        leader.serve(drain).await
    };
    let led = tokio::select! {
        led = led => led,
        // What is under way is dropped as it stands: whatever it still gets out is harmless.
        () = keeper.lost().cancelled() => {
            tracing::warn!(%queue, epoch, "The lease of a queue is lost.");
            Ok(())
        }
    };
    world.shares.leave(queue);
    keeper.give_up().await;
    led
}
