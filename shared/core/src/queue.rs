//! The state machine of one queue: events and the time go in, decisions come out.
//!
//! A task that arrived is waiting, or leaving (a decision on it is being carried out), or gone. The
//! caller stores what was decided and answers; only then is the task gone, or back in its place.

use crate::bundle::Bound;
use crate::credit::{Ledger, Told};
use crate::entry::{Entry, EntryId, FitId, LaneId, Lanes};
use crate::event::{Decision, Event, Stored, Waited};
use crate::fits::FitTable;
use crate::plain::PlainLanes;
use crate::policy::{self, Policy};
use crate::window::{Share, Windows};
use jetlane_schemas::registry::Order;
use jetlane_schemas::subject::LaneKind;
use jetlane_schemas::{Fit, Micros};
use std::collections::{BTreeSet, VecDeque};

/// One queue: what waits, in which order, and how much the executors can take.
pub struct Queue {
    slots: Slots,
    policy: Box<dyn Policy>,
    order: Order,
    running: Running,
    expiries: BTreeSet<(Micros, EntryId)>,
    dropped: VecDeque<EntryId>,
    fits: FitTable,
    ledger: Ledger,
    plain: PlainLanes,
    windows: Windows,
    waiting: usize,
    dispatch: Dispatching,
    starved: Starved,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    entry: Entry,
    place: Place,
    cancelled: Cancelled,
    arrived: Micros,
    /// [`Starved::total`] when it arrived.
    starved_before: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Waiting,
    /// A decision that uses credit is being carried out.
    Dispatched(LaneKind),
    /// One that uses none: an expiry or a drop.
    Ending,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cancelled {
    No,
    /// While it was leaving; it counts if it comes back.
    Yes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dispatching {
    On,
    Paused,
}

/// How long something waited that no executor had room for, since the queue was made.
#[derive(Debug, Default)]
struct Starved {
    total: u64,
    since: Option<Micros>,
    /// Nothing is dispatched before this, since a lane was full.
    rest_until: Micros,
}

impl Starved {
    fn begin(&mut self, now: Micros) {
        self.since.get_or_insert(now);
    }

    fn end(&mut self, now: Micros) {
        if let Some(since) = self.since.take() {
            self.total += now.0.saturating_sub(since.0);
        }
    }

    fn so_far(&self, now: Micros) -> u64 {
        self.total + self.since.map_or(0, |since| now.0.saturating_sub(since.0))
    }
}

impl Queue {
    /// An empty queue with this order of dispatch.
    pub fn new(order: Order) -> Self {
        Self {
            slots: Slots::default(),
            policy: policy::make(order),
            order,
            running: Running::default(),
            expiries: BTreeSet::new(),
            dropped: VecDeque::new(),
            fits: FitTable::default(),
            ledger: Ledger::default(),
            plain: PlainLanes::default(),
            windows: Windows::default(),
            waiting: 0,
            dispatch: Dispatching::On,
            starved: Starved::default(),
        }
    }

    /// The number of a fit, for its tasks; `None` once the queue knows [`crate::entry::FITS_MAX`] others.
    pub fn fit(&mut self, fit: &Fit) -> Option<FitId> {
        self.fits.number(fit.as_str())
    }

    /// The name of a fit.
    pub fn fit_name(&self, fit: FitId) -> Option<&Fit> {
        self.fits.name(fit)
    }

    /// How many tasks wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// How many tasks are held: waiting, or leaving.
    pub fn held(&self) -> usize {
        self.slots.len()
    }

    /// How many tasks were dispatched to bundle lanes and not settled.
    pub fn outstanding(&self) -> u64 {
        self.ledger.outstanding()
    }

    /// What the windows hold or have asked for.
    pub fn committed(&self) -> Share {
        self.windows.committed()
    }

    /// How much one message of this fit's lanes may carry, at most `most` tasks, when so many have just been
    /// decided on for it.
    pub fn bundle_bound(&self, fit: FitId, most: usize, decided: u32) -> Bound {
        let room = self.ledger.room(fit) + u64::from(decided);
        Bound::share(room, self.ledger.slots(fit), self.ledger.executors(fit), most)
    }

    /// Whether something waits that no executor has room for.
    pub fn is_starved(&self) -> bool {
        self.starved.since.is_some()
    }

    /// Takes note of what happened.
    pub fn on(&mut self, now: Micros, event: Event) {
        match event {
            Event::FlowOpened(flow) => self.windows.open(flow),
            Event::FlowClosed(flow) => self.windows.close(flow),
            Event::MessageTaken { flow, tasks } => self.windows.message_taken(flow, tasks),
            Event::PullEnded { flow, messages } => self.windows.pull_ended(flow, messages),
            Event::ShareChanged(share) => self.windows.share(share),
            Event::Arrived(entry) => self.arrived(now, entry),
            Event::Settled(id, stored) => self.settled(id, stored),
            Event::NotStored(id, rest_until) => self.not_stored(now, id, rest_until),
            Event::Cancelled(id) => self.cancelled(id),
            Event::Reinstated(id) => self.reinstated(now, id),
            Event::Credit(credit) => {
                let told = Told::read(&credit, &self.fits);
                self.ledger.told(now, credit.executor, told);
            }
            Event::Ended { entry, cost } => self.ended(entry, cost),
            Event::NotRun(entry) => self.not_run(entry),
            Event::Remaining { entry, remaining, resume } => self.running.told(now, entry, remaining, resume),
            Event::ExecutorLost(name) => self.ledger.lost(&name),
            Event::BundlesCounted { fit, tasks } => self.ledger.counted(fit, tasks),
            Event::PlainPulled { priority, fit, until } => self.plain.pulled(LaneId::new(priority, fit), until),
            Event::PlainSettled { priority, fit, tasks } => self.plain.settled(LaneId::new(priority, fit), tasks),
            Event::PlainCounted { priority, fit, tasks } => self.plain.counted(LaneId::new(priority, fit), tasks),
            Event::Paused => self.dispatch = Dispatching::Paused,
            Event::Resumed => self.dispatch = Dispatching::On,
            Event::OrderChanged(order) => self.change_order(now, order),
        }
    }

    /// The next decision, `None` until something happens or [`Queue::wake_at`] has come.
    ///
    /// Expiries and drops come before dispatches, and pulls last: what is held already goes first.
    pub fn next(&mut self, now: Micros) -> Option<Decision> {
        self.ledger.check(now);
        self.plain.check(now);
        if self.starved.rest_until <= now {
            self.starved.rest_until = Micros(0);
        }
        let decided = self.drop_next().or_else(|| self.expire_next(now)).or_else(|| self.dispatch_next(now));
        decided.or_else(|| self.yield_next(now)).or_else(|| {
            let (flow, room) = self.windows.next_pull()?;
            Some(Decision::Pull { flow, messages: room.messages, bytes: room.bytes })
        })
    }

    /// When [`Queue::next`] may have something although nothing happened.
    pub fn wake_at(&self) -> Option<Micros> {
        let rest_until = self.starved.rest_until;
        let deadline = self.expiries.first().map(|&(deadline, _)| deadline.max(rest_until));
        let rest = (self.waiting > 0 && rest_until > Micros(0)).then_some(rest_until);
        [deadline, rest, self.ledger.check_at()].into_iter().flatten().min()
    }

    fn arrived(&mut self, now: Micros, entry: Entry) {
        if self.slots.get(&entry.id).is_some() {
            return;
        }
        let starved_before = self.starved.so_far(now);
        let slot = Slot { entry, place: Place::Waiting, cancelled: Cancelled::No, arrived: now, starved_before };
        self.slots.insert(entry.id, slot);
        self.windows.held(entry.flow, entry.bytes);
        self.wait(now, &entry);
    }

    fn wait(&mut self, now: Micros, entry: &Entry) {
        self.waiting += 1;
        self.policy.add(now, entry);
        if let Some(expires) = entry.expires {
            self.expiries.insert((expires, entry.id));
        }
    }

    fn leave(&mut self, id: EntryId, place: Place) {
        let slot = self.slots.get_mut(&id).expect("who leaves has waited");
        slot.place = place;
        self.waiting -= 1;
        if let Some(expires) = slot.entry.expires {
            self.expiries.remove(&(expires, id));
        }
    }

    fn settled(&mut self, id: EntryId, stored: Stored) {
        let Some(slot) = self.slots.get(&id).copied() else { return };
        match slot.place {
            Place::Waiting => return,
            Place::Dispatched(kind) if stored == Stored::Before => self.give_back_credit(kind, &slot.entry),
            Place::Dispatched(_) | Place::Ending => {}
        }
        self.slots.remove(&id);
        self.windows.released(slot.entry.flow, slot.entry.bytes);
    }

    fn not_stored(&mut self, now: Micros, id: EntryId, rest_until: Micros) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let was = *slot;
        if was.place == Place::Waiting {
            return;
        }
        slot.place = if was.cancelled == Cancelled::Yes { Place::Ending } else { Place::Waiting };
        if let Place::Dispatched(kind) = was.place {
            self.give_back_credit(kind, &was.entry);
            if self.running.remove(id).is_some() {
                self.policy.not_stored(&was.entry);
            }
        }
        self.starved.rest_until = self.starved.rest_until.max(rest_until);
        if was.cancelled == Cancelled::Yes {
            self.dropped.push_back(id);
        } else {
            self.wait(now, &was.entry);
        }
    }

    fn give_back_credit(&mut self, kind: LaneKind, entry: &Entry) {
        match kind {
            LaneKind::Bundle => self.ledger.undone(entry.fit),
            LaneKind::Plain => self.plain.settled(entry.lane(), 1),
        }
    }

    fn cancelled(&mut self, id: EntryId) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        slot.cancelled = Cancelled::Yes;
        let slot = *slot;
        if slot.place == Place::Waiting {
            self.policy.remove(&slot.entry);
            self.leave(id, Place::Ending);
            self.dropped.push_back(id);
        }
    }

    fn reinstated(&mut self, now: Micros, id: EntryId) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if (slot.place, slot.cancelled) == (Place::Ending, Cancelled::Yes) {
            (slot.place, slot.cancelled) = (Place::Waiting, Cancelled::No);
            let entry = slot.entry;
            self.wait(now, &entry);
        }
    }

    fn change_order(&mut self, now: Micros, order: Order) {
        if order == self.order {
            return;
        }
        self.order = order;
        self.policy = policy::make(order);
        for slot in self.slots.values().filter(|slot| slot.place == Place::Waiting) {
            self.policy.add(now, &slot.entry);
        }
    }

    /// A run is over. Late and repeated news of it, and news of what this leader did not dispatch, change nothing.
    fn ended(&mut self, id: EntryId, cost: Micros) {
        if let Some(entry) = self.running.remove(id) {
            self.policy.ended(&entry, cost);
        }
    }

    fn not_run(&mut self, id: EntryId) {
        if let Some(entry) = self.running.remove(id) {
            self.policy.not_stored(&entry);
        }
    }

    fn drop_next(&mut self) -> Option<Decision> {
        self.dropped.pop_front().map(Decision::Drop)
    }

    fn expire_next(&mut self, now: Micros) -> Option<Decision> {
        let &(deadline, id) = self.expiries.first()?;
        if deadline > now || self.rests(now) {
            return None;
        }
        let entry = self.slots.get(&id)?.entry;
        self.policy.remove(&entry);
        self.leave(id, Place::Ending);
        Some(Decision::Expire(id))
    }

    fn dispatch_next(&mut self, now: Micros) -> Option<Decision> {
        if self.waiting == 0 || self.dispatch == Dispatching::Paused || self.rests(now) {
            self.starved.end(now);
            return None;
        }
        let bundles = self.bundles_with_room();
        let lanes = bundles.or(self.plain.open());
        let Some(id) = (if lanes.is_empty() { None } else { self.policy.take(now, lanes) }) else {
            self.starved.begin(now);
            return None;
        };
        self.starved.end(now);
        let slot = *self.slots.get(&id).expect("the policy holds only what waits");
        let lane = slot.entry.lane();
        // Executors that announce credit take bundles and are the cheaper way; plain clients get the rest.
        let kind = if bundles.contains(lane) { LaneKind::Bundle } else { LaneKind::Plain };
        match kind {
            LaneKind::Bundle => self.ledger.dispatched(lane.fit()),
            LaneKind::Plain => self.plain.dispatched(lane),
        }
        self.leave(id, Place::Dispatched(kind));
        self.policy.taken(&slot.entry);
        if let Some(forgotten) = self.running.add(now, slot.entry) {
            self.policy.ended(&forgotten, forgotten.estimate);
        }
        let credit_us = self.starved.total.saturating_sub(slot.starved_before);
        let window_us = now.0.saturating_sub(slot.arrived.0).saturating_sub(credit_us);
        Some(Decision::Dispatch { entry: id, kind, waited: Waited { window_us, credit_us } })
    }

    /// Asks running tasks to yield, when all are busy and something much shorter waits.
    fn yield_next(&mut self, now: Micros) -> Option<Decision> {
        if self.dispatch == Dispatching::Paused || self.starved.since.is_none() {
            self.running.pass_over();
            return None;
        }
        let policy = &self.policy;
        let of = |fit| {
            let mut lanes = Lanes::default();
            lanes.insert_fit(fit);
            lanes
        };
        self.running.ask_next(now, |nth, fit| policy.contender(nth, of(fit))).map(Decision::Yield)
    }

    fn bundles_with_room(&self) -> Lanes {
        let mut lanes = Lanes::default();
        for fit in self.fits.numbers().filter(|fit| self.ledger.room(*fit) > 0) {
            lanes.insert_fit(fit);
        }
        lanes
    }

    fn open_lanes(&self) -> Lanes {
        self.bundles_with_room().or(self.plain.open())
    }

    fn rests(&self, now: Micros) -> bool {
        self.starved.rest_until > now
    }
}

mod forecast;
mod running;
mod slots;

pub use forecast::{Forecast, Standing};
use running::Running;
use slots::Slots;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
