//! Decisions carried out, and their outcomes: the task is gone, or back in its place.

use super::Leader;
use super::bundles::Parcel;
use super::intake::{ArrivedTask, starts_by};
use super::upkeep::Counted;
use crate::carry;
use crate::read::Fate;
use jetlane_bus::claims::Hold;
use jetlane_bus::{Error, Published, clock};
use jetlane_core::duplicates::Departure;
use jetlane_core::{EntryId, Event, Stored};
use jetlane_schemas::subject::Lane;
use jetlane_schemas::{Failure, Micros, Outcome, SharedEntry};

/// Over what is published at once instead of scheduled, by the time that writing it may take.
const SOONEST: Micros = Micros(500_000);
/// The rest after a fault.
const FAULT_REST: Micros = Micros(1_000_000);

/// The outcome of something that was carried out.
pub(crate) enum Carried {
    /// Messages were published to their lanes.
    ToLanes(Vec<(Parcel, Result<Published, Error>)>),
    /// A task that does not run now was ended or stored for later; `false` where there was no room.
    Away { entry: EntryId, departure: Departure, stored: Result<bool, Error> },
    /// It was looked whether a cancelled task has its completion.
    LookedUp { entry: EntryId, done: Result<bool, Error> },
    /// Something beside the tasks was written or counted.
    Beside(Beside),
}

/// What is done beside the tasks.
pub(crate) enum Beside {
    /// A write to the registry, or the making of a lane.
    Written(&'static str, Result<(), Error>),
    /// Tasks of a plain lane were taken back.
    TakenBack(Lane, Result<u32, Error>),
    /// It was written which shards are shared.
    SharedTold(SharedEntry, Result<(), Error>),
    /// It was asked whether the key of a task is free.
    Claimed(Box<ArrivedTask>, Result<Hold, Error>),
    /// Lanes were counted, when so much had moved.
    Counted(u64, Vec<Counted>),
}

impl Leader {
    /// Ends a task that does not run now: expired, refused, or not due yet.
    pub(super) fn end(&mut self, entry: EntryId) {
        let Some(held) = self.held.get(&entry) else { return };
        let waits = matches!(held.fate, Fate::Run | Fate::Later(_) | Fate::Unknown(_) | Fate::NoFit(_));
        let is_late = || starts_by(&held.task).is_some_and(|deadline| deadline <= clock::now());
        if held.task.suspect && waits && is_late() {
            // A copy of it may have begun in time: executors know.
            return self.suspects.doubtful.push(entry);
        }
        self.finish(entry);
    }

    /// The same of a task that no executor runs.
    pub(super) fn finish(&mut self, entry: EntryId) {
        let Some(held) = self.held.get_mut(&entry) else { return };
        let bus = self.world.bus.clone();
        let expired = || (Outcome::Expired, Failure::new("expired", "it had not started by its deadline"));
        let (outcome, failure) = match &held.fate {
            Fate::Later(at) | Fate::Unknown(at) | Fate::NoFit(at)
                if let Some(at) = postponed_to(clock::now(), *at, starts_by(&held.task)) =>
            {
                let task = held.task.clone();
                self.works.push(Box::pin(async move {
                    let stored = carry::postpone(&bus, &task, at).await.map(|()| true);
                    Carried::Away { entry, departure: Departure::GoesOn, stored }
                }));
                return;
            }
            Fate::Leave | Fate::Superseded => return self.drop_entry(entry),
            Fate::Run | Fate::Later(_) | Fate::Unknown(_) | Fate::NoFit(_) => expired(),
            Fate::Reject(failure) => (Outcome::Rejected, failure.clone()),
        };
        let span = carry::end_span(&mut held.task, outcome, held.joins);
        held.joins = carry::Joins::Child;
        let task = held.task.clone();
        self.works.push(Box::pin(async move {
            let stored = carry::end(&bus, &task, outcome, failure, &span).await;
            Carried::Away { entry, departure: Departure::MayEnd, stored }
        }));
    }

    /// Drops a task that was cancelled, once it is known that its completion is stored. One that is another
    /// queue's now is left in the stream.
    pub(super) fn drop_entry(&mut self, entry: EntryId) {
        let Some(held) = self.held.get(&entry) else { return };
        if held.fate == Fate::Superseded {
            return self.gone(entry, Stored::New, Departure::MayEnd);
        }
        if held.fate != Fate::Leave {
            // The note may be of an earlier task of the same id, whose completion is forgotten.
            let (bus, task) = (self.world.bus.clone(), held.task.clone());
            self.works.push(Box::pin(async move { Carried::LookedUp { entry, done: carry::drop(&bus, &task).await } }));
            return;
        }
        self.core.on(clock::now(), Event::Settled(entry, Stored::New));
        if let Some(held) = self.held.remove(&entry) {
            self.tenants.leave(&held.task.tenant);
            self.runs.forget(&held.task.task_type, &held.task.id, held.task.run);
            let _redelivered_later = self.sources.leave(held.source);
        }
    }

    pub(super) fn carried(&mut self, carried: Carried) {
        match carried {
            Carried::ToLanes(all) => {
                all.into_iter().for_each(|(parcel, published)| self.sent_to_lane(parcel, published));
            }
            Carried::LookedUp { entry, done } => match done {
                Ok(true) => self.gone(entry, Stored::New, Departure::MayEnd),
                Ok(false) | Err(_) => self.reinstate(entry),
            },
            Carried::Away { entry, departure, stored } => match stored {
                // No lane has it: credit that was meant for it is free again.
                Ok(true) => self.gone(entry, Stored::Before, departure),
                Ok(false) => self.back(entry, FAULT_REST, "DONE is full"),
                Err(error) => self.back(entry, FAULT_REST, &error),
            },
            Carried::Beside(beside) => self.take_beside(beside),
        }
    }

    /// The task is stored elsewhere, or ended: its message owes nothing for it any more.
    pub(super) fn gone(&mut self, entry: EntryId, stored: Stored, departure: Departure) {
        let now = clock::now();
        self.core.on(now, Event::Settled(entry, stored));
        if let Some(held) = self.held.remove(&entry) {
            self.tenants.leave(&held.task.tenant);
            self.runs.left(now, &held.task.task_type, &held.task.id, held.task.run, departure);
            self.acks.extend(self.sources.settle(held.source));
        }
        self.upkeep.moved();
    }

    /// A task that was to be dropped goes back to its place: whoever runs it looks for its completion first.
    fn reinstate(&mut self, entry: EntryId) {
        if let Some(held) = self.held.get_mut(&entry) {
            if held.fate == Fate::Superseded {
                return self.gone(entry, Stored::New, Departure::MayEnd);
            }
            held.task.suspect = true;
        }
        self.core.on(clock::now(), Event::Reinstated(entry));
    }

    pub(super) fn back(&mut self, entry: EntryId, rest: Micros, reason: impl std::fmt::Display) {
        if let Some(held) = self.held.get(&entry) {
            tracing::warn!(task_id = %held.task.id, queue = %self.queue, %reason, "A task could not be stored; it goes back to its place.");
        }
        let now = clock::now();
        self.core.on(now, Event::NotStored(entry, Micros(now.0 + rest.0)));
    }
}

/// When a task that would wait until `at` is looked at again; `None` where it is too late by then or now.
/// At its deadline it is looked at to be ended, and no sooner than a schedule can bring it: what is
/// published at once would go round until then.
fn postponed_to(now: Micros, at: Micros, starts_by: Option<Micros>) -> Option<Micros> {
    match starts_by {
        Some(deadline) if deadline <= now => None,
        Some(deadline) => Some(at.min(deadline.max(Micros(now.0.saturating_add(SOONEST.0))))),
        None => Some(at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_that_cannot_run_yet_waits_until_its_deadline_at_most() {
        let to = |now, deadline: Option<u64>| postponed_to(Micros(now), Micros(30_000_000), deadline.map(Micros));
        assert_eq!(to(0, None), Some(Micros(30_000_000)));
        assert_eq!(to(0, Some(40_000_000)), Some(Micros(30_000_000)));
        assert_eq!(to(0, Some(9_000_000)), Some(Micros(9_000_000)));
        assert_eq!(to(8_999_999, Some(9_000_000)), Some(Micros(9_499_999)), "it does not go round until then");
        assert_eq!(to(9_000_000, Some(9_000_000)), None);
    }
}
