//! The order of dispatch, behind one interface.
//!
//! A policy holds the order of what waits and nothing else: credit, deadlines, pausing and windows
//! are the queue's. A new policy is a new file with one type and a line in [`make`]; what it needs to
//! know of a task stands in [`Entry`].
//!
//! # Layout
//! - `arrival`: `fifo` and `strict`
//! - `round`: `rr`
//! - `weighted`: `weighted`
//! - `shortest`: `sjf` and `srtf`
//! - `deadline`: `edf`
//! - `adaptive`: `adaptive`, the default
//! - `sorted`: what waits, by lane and key

mod adaptive;
mod arrival;
mod deadline;
mod round;
mod shortest;
mod sorted;
mod weighted;

use crate::entry::{Entry, EntryId, Lanes};
use jetlane_schemas::Micros;
use jetlane_schemas::registry::{Order, PolicyName};

/// An order of dispatch. Every method is O(log n) in the number of waiting tasks, but [`Policy::copy`].
pub trait Policy: Send {
    /// A task waits from now on, or is back after it could not be stored: its place follows from the
    /// entry, not from `now`.
    fn add(&mut self, now: Micros, entry: &Entry);

    /// A task waits no more, although it was not taken: expired or cancelled.
    fn remove(&mut self, entry: &Entry);

    /// Takes out the task that goes next among those of the given lanes, which have room.
    fn take(&mut self, now: Micros, lanes: Lanes) -> Option<EntryId>;

    /// The task that [`Policy::take`] named, whole: what goes is charged here.
    fn taken(&mut self, _entry: &Entry) {}

    /// A task that was taken could not be stored: nothing was spent on it. It is added again or dropped.
    fn not_stored(&mut self, _entry: &Entry) {}

    /// A task that was taken has ended or yielded, and this run of it took so long. Told at most once
    /// a task, and perhaps of one that another policy took.
    fn ended(&mut self, _entry: &Entry, _cost: Micros) {}

    /// The estimate of the waiting task in these lanes for which the `nth` running one may be asked to yield,
    /// counted from 0; `None` where there is none, and in every policy that leaves running tasks alone.
    fn contender(&self, _nth: usize, _lanes: Lanes) -> Option<Micros> {
        None
    }

    /// Whether the task waits because its tenant has had more than its share.
    fn is_over_share(&self, _entry: &Entry) -> bool {
        false
    }

    /// The same once more, to look ahead with.
    fn copy(&self) -> Box<dyn Policy>;
}

/// The policy of this order, empty.
pub fn make(order: Order) -> Box<dyn Policy> {
    match order.policy {
        PolicyName::Fifo => Box::new(arrival::Fifo::default()),
        PolicyName::Strict => Box::new(arrival::Strict::default()),
        PolicyName::Rr => Box::new(round::RoundRobin::new(order.round)),
        PolicyName::Weighted => Box::new(weighted::Weighted::new(order.weights)),
        PolicyName::Sjf => Box::new(shortest::Shortest::first()),
        PolicyName::Srtf => Box::new(shortest::Shortest::remaining()),
        PolicyName::Edf => Box::new(deadline::EarliestDeadline::default()),
        PolicyName::Adaptive => Box::new(adaptive::Adaptive::new(order)),
    }
}

#[cfg(test)]
mod tests;
