//! What a leader looks after beside the tasks: signs of life, counts of the lanes, its share of the
//! process, and what is announced.

use super::Leader;
use super::flows::Flows;
use super::output::{Beside, Carried};
use crate::error::Error;
use crate::read::Fate;
use jetlane_bus::flows::Backlog;
use jetlane_bus::{Bus, clock};
use jetlane_core::{EntryId, Event, FlowId};
use jetlane_schemas::subject::{Lane, LaneKind, STREAM_LANES};
use jetlane_schemas::{Fit, Flow, Priority};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// The first pause between two counts of lanes from which nothing moves; it doubles.
const COUNT_PAUSE: Duration = Duration::from_secs(1);
/// The longest.
const COUNT_PAUSE_MAX: Duration = Duration::from_secs(30);

/// What is remembered from one look to the next.
#[derive(Debug)]
pub(crate) struct Upkeep {
    /// Grows with everything that moves.
    moves: u64,
    moves_seen: u64,
    count_at: Instant,
    pause: Duration,
    /// The fits whose lanes are there.
    pub(super) fits: BTreeSet<Fit>,
}

impl Upkeep {
    pub(crate) fn new() -> Self {
        let count_at = Instant::now() + COUNT_PAUSE;
        Self { moves: 0, moves_seen: 0, count_at, pause: COUNT_PAUSE, fits: BTreeSet::new() }
    }

    /// Something moved: what was counted before is out of date.
    pub(crate) fn moved(&mut self) {
        self.moves += 1;
    }

    /// Whether nothing has moved for so long that the lanes are worth counting.
    fn is_count_due(&mut self, now: Instant) -> bool {
        if self.moves != self.moves_seen {
            (self.moves_seen, self.pause) = (self.moves, COUNT_PAUSE);
            self.count_at = now + COUNT_PAUSE;
            return false;
        }
        if now < self.count_at {
            return false;
        }
        self.pause = (self.pause * 2).min(COUNT_PAUSE_MAX);
        self.count_at = now + self.pause;
        true
    }
}

impl Leader {
    /// The regular look.
    pub(super) async fn look_after(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        for ack in self.sources.due(now) {
            ack.hold().await.map_err(|_closed| Error::Closed)?;
        }
        let share = self.world.shares.settle(&self.queue, self.core.committed());
        self.core.on(clock::now(), Event::ShareChanged(share));
        // What was dispatched and lost on the way would be missed for ever: the server knows.
        if self.core.is_starved() && self.upkeep.is_count_due(now) {
            let lanes = self.upkeep.fits.iter().flat_map(|fit| lanes_of(&self.queue, fit)).collect();
            self.count(lanes);
        }
        self.take_back_deserted();
        self.take_back_shards();
        self.look_for_floods();
        self.look_for_unfit();
        self.keep_learned();
        Ok(())
    }

    /// Asks the server what lies in these lanes.
    pub(super) fn count(&mut self, lanes: Vec<Lane>) {
        let bus = self.world.bus.clone();
        let moves = self.upkeep.moves;
        self.works.push(Box::pin(async move {
            let counted = count(&bus, lanes).await;
            Carried::Beside(match counted {
                Ok(counted) => Beside::Counted(moves, counted),
                Err(error) => Beside::Written("count the lanes", Err(error)),
            })
        }));
    }

    pub(super) fn take_beside(&mut self, beside: Beside) {
        match beside {
            Beside::Written(_, Ok(())) => {}
            Beside::Written(what, Err(error)) => tracing::warn!(queue = %self.queue, %error, "Could not {what}."),
            Beside::Claimed(arrived, held) => self.claimed(*arrived, held),
            Beside::SharedTold(shared, written) => self.shared_told(shared, written),
            Beside::TakenBack(lane, taken) => self.taken_back(&lane, taken),
            // A count of what moves meanwhile says nothing.
            Beside::Counted(moves, counted)
                if moves == self.upkeep.moves && self.on_the_way == 0 && self.bundles.len() == 0 =>
            {
                self.take_counted(&counted);
            }
            Beside::Counted(..) => {}
        }
    }

    /// Corrects the ledger by what lies in the lanes.
    pub(super) fn take_counted(&mut self, counted: &[Counted]) {
        let mut bundles = BTreeMap::<Fit, u64>::new();
        for Counted { lane, backlog, tasks } in counted {
            match lane.kind {
                LaneKind::Bundle => *bundles.entry(lane.fit.clone()).or_default() += tasks,
                LaneKind::Plain => {
                    if let Some(fit) = self.core.fit(&lane.fit) {
                        self.plain_counted(lane, fit, *backlog);
                    }
                }
            }
        }
        self.take_bundles(bundles);
    }

    /// Takes up what the registry says of this queue.
    pub(super) fn take_announced(&mut self) {
        let registry = self.world.registry.borrow_and_update().clone();
        let now = clock::now();
        let entry = registry.queue(&self.queue);
        if entry.paused != self.entry.paused {
            tracing::info!(queue = %self.queue, paused = entry.paused, "The queue was paused or resumed.");
            self.core.on(now, if entry.paused { Event::Paused } else { Event::Resumed });
        }
        if entry.order != self.entry.order {
            let (was, is) = (self.entry.order.policy, entry.order.policy);
            tracing::info!(queue = %self.queue, %was, %is, "The order of dispatch is another one.");
        }
        self.core.on(now, Event::OrderChanged(entry.order));
        if entry.fits != self.entry.fits {
            self.take_fits(&entry);
        }
        self.entry = entry;
        self.learned.restore(&registry, &self.queue);
        for task_type in registry.types_of(&self.queue) {
            self.flows.open(&Flow::Raw(task_type.clone()));
        }
        for (flow, number) in self.flows.raw() {
            let is_anothers = |known: &crate::registry::KnownType| known.entry.queue != self.queue;
            if let Flow::Raw(task_type) = &flow
                && registry.task_type(task_type).is_some_and(|known| is_anothers(known))
            {
                self.hand_over(&flow, number);
            }
        }
    }

    /// A type belongs to another queue now: its consumer makes room for that queue's leader, and what waits
    /// here of it is left to be delivered there.
    fn hand_over(&mut self, flow: &Flow, number: FlowId) {
        self.flows.close(number);
        self.core.on(clock::now(), Event::FlowClosed(number));
        let its: Vec<EntryId> =
            self.held.iter().filter(|(_, held)| held.flow == number).map(|(entry, _)| *entry).collect();
        for entry in its {
            if let Some(held) = self.held.get_mut(&entry) {
                held.fate = Fate::Leave;
            }
            self.core.on(clock::now(), Event::Cancelled(entry));
        }
        let (stream, consumer) = (flow.stream(), self.flows.consumer(flow));
        self.write("delete a flow's consumer", |bus| async move { bus.delete_durable(stream, &consumer).await });
    }

    /// Takes up which flows have messages.
    pub(super) fn take_found(&mut self) {
        let found = self.world.found.borrow_and_update().clone();
        let registry = self.world.registry.borrow().clone();
        let now = clock::now();
        for flow in found.keys() {
            let queue = match flow {
                Flow::Task(queue, ..) | Flow::Due(queue, ..) => Some(queue),
                Flow::Raw(task_type) => registry.task_type(task_type).map(|known| &known.entry.queue),
            };
            if queue != Some(&self.queue) {
                continue;
            }
            self.flows.open(flow);
            if let Flow::Task(_, _, shard) | Flow::Due(_, _, shard) = flow {
                self.shards.occupied(now, *shard);
            }
        }
        // Subjects of the public intake are not counted here: one that lost its consumer or its connection is opened anew.
        for task_type in registry.types_of(&self.queue) {
            self.flows.open(&Flow::Raw(task_type.clone()));
        }
        // One that lost its consumer and has no messages is made again, or listened to.
        self.open_flows();
    }

    /// Reads what most tasks take, and listens for the first use of what those of tenants may take.
    pub(super) fn open_flows(&mut self) {
        Flows::eager(&self.queue).for_each(|flow| self.flows.open(&flow));
        let shared = self.shards.shared().shards;
        for shard in shared.into_iter().chain(self.shards.owned()) {
            Flows::of_shard(&self.queue, shard).for_each(|flow| self.flows.open_when_used(flow));
        }
    }

    pub(super) fn write<F>(&mut self, what: &'static str, write: impl FnOnce(Bus) -> F)
    where
        F: Future<Output = Result<(), jetlane_bus::Error>> + Send + 'static,
    {
        let written = write(self.world.bus.clone());
        self.works.push(Box::pin(async move { Carried::Beside(Beside::Written(what, written.await)) }));
    }
}

/// All lanes of a fit.
pub(super) fn lanes_of(queue: &jetlane_schemas::QueueName, fit: &Fit) -> Vec<Lane> {
    let kinds = [LaneKind::Bundle, LaneKind::Plain];
    let lane = |kind, priority| Lane { kind, queue: queue.clone(), priority, fit: fit.clone() };
    kinds.into_iter().flat_map(|kind| Priority::ALL.map(|priority| lane(kind, priority))).collect()
}

/// What lies in these lanes. A lane that is missing has nothing.
pub(super) async fn count(bus: &Bus, lanes: Vec<Lane>) -> Result<Vec<Counted>, jetlane_bus::Error> {
    futures::future::try_join_all(lanes.into_iter().map(|lane| async move {
        let backlog = bus.backlog(STREAM_LANES, &lane.consumer()).await?.unwrap_or_default();
        let messages = backlog.pending + backlog.unanswered;
        // A message of a bundle lane has as many tasks as it has.
        let tasks = match lane.kind {
            LaneKind::Bundle if messages > 0 => bus.tasks_in(&lane).await?,
            LaneKind::Bundle | LaneKind::Plain => messages,
        };
        Ok(Counted { lane, backlog, tasks })
    }))
    .await
}

/// What lies in a lane.
#[derive(Debug)]
pub(crate) struct Counted {
    lane: Lane,
    backlog: Backlog,
    tasks: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_are_counted_only_when_nothing_moves_and_ever_more_seldom() {
        let mut upkeep = Upkeep::new();
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        assert!(!upkeep.is_count_due(start));
        assert!(upkeep.is_count_due(at(2)));
        assert!(!upkeep.is_count_due(at(3)));
        assert!(upkeep.is_count_due(at(4)));
        assert!(!upkeep.is_count_due(at(7)));
        upkeep.moved();
        assert!(!upkeep.is_count_due(at(100)));
        assert!(upkeep.is_count_due(at(101)));
    }
}
