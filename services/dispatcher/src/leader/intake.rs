//! Messages of flows become held tasks.

use super::estimates::Expected;
use super::flows::{self, Opened, Sent, Turn};
use super::output::{Beside, Carried};
use super::sources::{Place, SourceId};
use super::{Held, Leader};
use crate::carry::Joins;
use crate::error::Error;
use crate::read::{Arrived, Fate, Judge};
use jetlane_bus::claims::Hold;
use jetlane_bus::{Delivery, Pulled, clock, trace};
use jetlane_core::duplicates::{Arrival, Arriving, Source};
use jetlane_core::{Entry, EntryId, Event, FlowId, TypeId};
use jetlane_schemas::subject::STREAM_TASKS;
use jetlane_schemas::{Flow, Headers, Micros, TaskEvent, TaskType};
use std::collections::BTreeMap;
use std::time::Duration;

/// A deadline that has always passed: what is not to run leaves the queue by the way of the expired.
pub(super) const NEVER_STARTS: Micros = Micros(0);

/// How long after its delivery a message is decided on that may be a copy of a run under way: longer than the news of
/// an end takes from an executor.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Whether a message may have been dispatched before, by a leader that is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// It was never delivered to anybody else.
    Surely,
    Perhaps,
}

/// A task that has arrived and is not held yet.
pub(super) struct ArrivedTask {
    place: Place,
    held: Held,
    bytes: u32,
    news: News,
    delivered: u64,
}

impl Leader {
    /// Begins to read a flow whose consumer was made.
    ///
    /// # Errors
    /// [`Error::TakeOver`] where an earlier leader's consumer stands in the way: the queue is taken over once more.
    pub(super) fn take_opened(&mut self, opened: Opened) -> Result<(), Error> {
        let failed = |source| Error::TakeOver { queue: self.queue.clone(), source };
        if let Some(flow) = self.flows.opened(opened).map_err(failed)? {
            self.core.on(clock::now(), Event::FlowOpened(flow));
        }
        Ok(())
    }

    /// Takes what a flow brought, and goes on reading it.
    pub(super) async fn take_turn(&mut self, mut turn: Turn) -> Result<(), Error> {
        let flow = turn.flow;
        let mut pause = Duration::ZERO;
        let mut is_gone = false;
        for pulled in std::mem::take(&mut turn.pulled) {
            match pulled {
                Pulled::Delivery(delivery) => self.take_delivery(flow, delivery),
                Pulled::Room => {}
                Pulled::Refused(reason) => {
                    tracing::debug!(flow = %self.flows.reading(flow).flow, reason, "A pull of a flow was refused.");
                    pause = flows::REST;
                }
                Pulled::Gone => is_gone = true,
                // The door's connection alone; it is opened again.
                Pulled::Closed if self.is_raw(flow) => is_gone = true,
                Pulled::Closed => return Err(Error::Closed),
            }
        }
        // What is asked for on our side and not known to the server is sent before the two are compared.
        while let Ok(ask) = turn.asks.try_recv() {
            if flows::send(&mut turn.puller, ask).await == Sent::Closed {
                if !self.is_raw(flow) {
                    return Err(Error::Closed);
                }
                is_gone = true;
            }
        }
        if is_gone || !self.flows.is_read(flow) {
            self.stop_reading(flow);
            return Ok(());
        }
        let waiting = u32::try_from(turn.puller.outstanding()).unwrap_or(u32::MAX);
        let reading = self.flows.reading(flow);
        let missing = reading.asked.saturating_sub(waiting);
        reading.asked -= missing;
        if missing > 0 {
            self.core.on(clock::now(), Event::PullEnded { flow, messages: missing });
        }
        self.flows.read_on(turn, pause);
        Ok(())
    }

    fn is_raw(&mut self, flow: FlowId) -> bool {
        matches!(self.flows.reading(flow).flow, Flow::Raw(_))
    }

    /// The flow's consumer is gone or given up. If the flow is this queue's, it is opened again when it is
    /// next seen; what is held of it is recognised then.
    fn stop_reading(&mut self, flow: FlowId) {
        tracing::debug!(flow = %self.flows.reading(flow).flow, "A flow is read no more.");
        self.flows.close(flow);
        self.core.on(clock::now(), Event::FlowClosed(flow));
    }

    fn take_delivery(&mut self, flow: FlowId, mut delivery: Delivery) {
        let now = clock::now();
        let reading = self.flows.reading(flow);
        reading.asked = reading.asked.saturating_sub(1);
        let place: Place = (reading.flow.stream(), delivery.facts.stream_sequence);
        if matches!(reading.flow, Flow::Raw(_)) {
            // The door's connection may be another one by the time this is answered.
            delivery.ack = delivery.ack.over(&self.world.bus);
        }
        if self.sources.is_held(place, &delivery.ack) {
            self.core.on(now, Event::MessageTaken { flow, tasks: 1 });
            return;
        }
        let headers = match reading.flow {
            Flow::Raw(_) => delivery.headers(),
            Flow::Task(..) | Flow::Due(..) => Headers::new(),
        };
        let tasks = {
            let registry = self.world.registry.borrow();
            let (fits, body_bytes_max) = (self.fits.declared.as_slice(), self.world.bus.body_bytes_max());
            let unserved_kept = self.world.config.unserved_kept();
            let judge = Judge { registry: &registry, queue: &self.queue, fits, now, body_bytes_max, unserved_kept };
            judge.read(Arrived {
                flow: &reading.flow,
                facts: delivery.facts,
                headers: &headers,
                body: &delivery.body,
                suspect_until: reading.suspect_until,
            })
        };
        let joins = match (&reading.flow, trace::propagation()) {
            (Flow::Raw(_), trace::Propagation::Link) => Joins::Link,
            _ => Joins::Child,
        };
        let is_first = delivery.facts.delivered == 1 && delivery.facts.stream_sequence > reading.suspect_until;
        let news = if is_first { News::Surely } else { News::Perhaps };
        let count = tasks.len();
        let taken = u32::try_from(count).unwrap_or(u32::MAX);
        self.core.on(now, Event::MessageTaken { flow, tasks: taken });
        let bytes = u32::try_from(delivery.body.len() / count.max(1)).unwrap_or(u32::MAX);
        let source = self.sources.hold(place, delivery.ack, count);
        for (task, fate) in tasks {
            let (stored_at, expected) = (delivery.facts.stored_at, Expected::default());
            let held = Held { task, fate, flow, source, stored_at, read_at: now, expected, joins };
            let arrived = ArrivedTask { place, held, bytes, news, delivered: delivery.facts.delivered };
            if arrived.held.task.run == 1 && arrived.held.task.key.is_some() {
                self.claim(arrived);
            } else {
                self.hold(arrived);
            }
        }
    }

    /// Holds the key of a task for this message before anything else is done with it: a second message of the key is
    /// recognised by it, whoever read the first and wherever it lies.
    fn claim(&mut self, arrived: ArrivedTask) {
        let (bus, task) = (self.world.bus.clone(), arrived.held.task.clone());
        let (place, stored_at) = (arrived.place, arrived.held.stored_at);
        self.works.push(Box::pin(async move {
            let held = bus.hold_claim(&task, place, stored_at).await;
            Carried::Beside(Beside::Claimed(Box::new(arrived), held))
        }));
    }

    /// Goes on with a task whose key was asked for.
    pub(super) fn claimed(&mut self, arrived: ArrivedTask, held: Result<Hold, jetlane_bus::Error>) {
        let (task, source) = (&arrived.held.task, arrived.held.source);
        match held {
            Ok(Hold::Held) => self.hold(arrived),
            Ok(Hold::Duplicate) => {
                tracing::debug!(task_id = %task.id, task_type = %task.task_type, "The key of a task is taken; the copy is acknowledged.");
                self.acks.extend(self.sources.settle(source));
            }
            Err(error) => {
                tracing::warn!(task_id = %task.id, %error, "The key of a task could not be claimed; its message comes again.");
                let _comes_again = self.sources.leave(source);
            }
        }
    }

    fn hold(&mut self, arrived: ArrivedTask) {
        let ArrivedTask { place, mut held, bytes, news, delivered } = arrived;
        let (now, flow) = (held.read_at, held.flow);
        self.entries += 1;
        let id = EntryId(self.entries);
        let origin = u32::from(place.0 != STREAM_TASKS);
        let source = Source { origin, sequence: place.1 };
        let task = &held.task;
        if task.run == 1 && task.key.is_some() {
            // A message that holds its key is a copy of no other message, and never acknowledged as one.
            if let Some(earlier) = self.runs.claimed(&task.task_type, &task.id, source) {
                self.supersede(earlier);
                return self.look_again(held.source);
            }
        }
        let message = Arriving { task_type: &task.task_type, id: &task.id, run: task.run, source, entry: id };
        match self
            .runs
            .arrived(now, message, || task.key.is_none() && self.dispatched.contains(&task.task_type, &task.id))
        {
            Arrival::New => {}
            // Submitted again: whoever runs it looks for its completion first.
            Arrival::Repeated => held.task.suspect = true,
            Arrival::UnderWay if delivered == 1 => return self.look_again(held.source),
            Arrival::UnderWay | Arrival::Copy => {
                // The first of its run is stored, in its stream or in its lane.
                tracing::debug!(task_id = %held.task.id, run = held.task.run, "A task arrived twice; the copy is acknowledged.");
                self.acks.extend(self.sources.settle(held.source));
                return;
            }
        }
        match self.flows.flow(flow) {
            Flow::Task(..) => self.note_tenant(now, &held.task.tenant),
            // The queue's hash, where it is not the contract's any more.
            Flow::Raw(_) => held.task.shard = self.shards.place(&held.task.tenant, held.task.shard),
            Flow::Due(..) => {}
        }
        let mut entry = self.entry_of(id, &mut held, bytes);
        if news == News::Surely {
            self.admit(&mut held, &mut entry);
        }
        let is_cancelled = self.world.cancelled.contains(&held.task);
        self.held.insert(id, held);
        self.core.on(now, Event::Arrived(entry));
        if is_cancelled {
            self.core.on(now, Event::Cancelled(id));
        }
    }

    /// Drops a task that has ended while it was held: a later task of its key has the key by now.
    fn supersede(&mut self, entry: EntryId) {
        if let Some(held) = self.held.get_mut(&entry) {
            tracing::debug!(task_id = %held.task.id, "A task that has ended makes way for the next task of its key.");
            held.fate = Fate::Superseded;
            self.core.on(clock::now(), Event::Cancelled(entry));
        }
    }

    /// Gives a message back for a moment: it may be a copy of what is under way, or the end of that is on its way here.
    fn look_again(&mut self, source: SourceId) {
        let Some(ack) = self.sources.leave(source) else { return };
        self.works.push(Box::pin(async move {
            if ack.give_back(LOOK_AGAIN_AFTER).await.is_err() {
                tracing::debug!("A message could not be given back; it comes again after its ack time.");
            }
            Carried::Beside(Beside::Written("give a message back", Ok(())))
        }));
    }

    /// What the core is to know of a task.
    fn entry_of(&mut self, id: EntryId, held: &mut Held, bytes: u32) -> Entry {
        let fit = self.fit_of(held);
        let task = &held.task;
        held.expected = self.learned.expect(task);
        let estimate = held.expected.mean;
        Entry {
            id,
            flow: held.flow,
            priority: task.priority,
            tenant: self.tenants.enter(&task.tenant),
            task_type: if held.fate == Fate::Run { self.types.enter(&task.task_type) } else { TypeId::default() },
            fit,
            first_arrival: first_arrival(task, held.stored_at),
            expires: if held.fate == Fate::Run { starts_by(task) } else { Some(NEVER_STARTS) },
            due: due(task.deadline, estimate),
            estimate,
            yields: task.yields,
            bytes,
        }
    }
}

/// When the task first stood in line: a hand-back or a retry keeps its place, and no clock of a
/// submitter's moves a task before the time at which the broker had it.
fn first_arrival(task: &TaskEvent, stored_at: Micros) -> Micros {
    if task.run <= 1 { stored_at } else { task.due_at.unwrap_or(task.submitted_at).min(stored_at) }
}

/// Until when a task must start. One that has begun has kept its deadline, whatever comes after.
pub(super) fn starts_by(task: &TaskEvent) -> Option<Micros> {
    task.deadline.filter(|_| task.attempts == 0 && task.yields == 0)
}

/// Until when a task should have ended that must start by its deadline.
pub(super) fn due(deadline: Option<Micros>, estimate: Micros) -> Option<Micros> {
    deadline.map(|deadline| Micros(deadline.0.saturating_add(estimate.0)))
}

/// The most types that keep their numbers; beyond it all are numbered anew.
const TYPES_NUMBERED_MAX: usize = 8_192;

/// The numbers of task types, by first sight. Only types that are announced have any.
#[derive(Debug, Default)]
pub(crate) struct Types {
    numbers: BTreeMap<TaskType, TypeId>,
    last: u32,
}

impl Types {
    /// The number of an announced type.
    fn enter(&mut self, task_type: &TaskType) -> TypeId {
        if let Some(number) = self.numbers.get(task_type) {
            return *number;
        }
        if self.numbers.len() >= TYPES_NUMBERED_MAX {
            // Those that still wait keep the numbers that they have.
            self.numbers.clear();
        }
        self.last = self.last.wrapping_add(1);
        self.numbers.insert(task_type.clone(), TypeId(self.last));
        TypeId(self.last)
    }

    /// The number of a type that is asked about.
    pub(super) fn of(&self, task_type: &TaskType) -> TypeId {
        self.numbers.get(task_type).copied().unwrap_or_default()
    }
}
