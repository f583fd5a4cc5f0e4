//! What the queue is told, and what it decides.

use crate::entry::{Entry, EntryId, FitId, FlowId};
use crate::window::Share;
use jetlane_schemas::frame::Credit;
use jetlane_schemas::registry::Order;
use jetlane_schemas::subject::LaneKind;
use jetlane_schemas::{Micros, Priority};

/// What happened. Events that fit no state are late or repeated, and change nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A flow is read from now on.
    FlowOpened(FlowId),
    /// A flow is read no more. What is held of it stays until it is dispatched or removed.
    FlowClosed(FlowId),
    /// A message came in answer to a pull; each of its tasks follows as [`Event::Arrived`].
    MessageTaken {
        /// The flow.
        flow: FlowId,
        /// How many tasks it carries.
        tasks: u32,
    },
    /// A pull is over; so many of its messages never came.
    PullEnded {
        /// The flow.
        flow: FlowId,
        /// Messages asked for that did not come.
        messages: u32,
    },
    /// A task waits.
    Arrived(Entry),
    /// A dispatched task is stored in its lane; or the completion of an expired one is stored; or a
    /// dropped one is acknowledged.
    Settled(EntryId, Stored),
    /// What was decided could not be stored: the task goes back to its place, and nothing is
    /// dispatched before the given time, so that a full lane is not hammered.
    NotStored(EntryId, Micros),
    /// A task is to be dropped before it is dispatched: cancelled, or taken by someone else.
    Cancelled(EntryId),
    /// A task that was to be dropped is not cancelled after all: it goes back to its place.
    Reinstated(EntryId),
    /// An executor told its credit.
    Credit(Credit),
    /// An executor is known to be gone.
    ExecutorLost(String),
    /// A client that announces nothing pulls from a plain lane.
    PlainPulled {
        /// The lane's priority.
        priority: Priority,
        /// The lane's fit.
        fit: FitId,
        /// When its pull expires.
        until: Micros,
    },
    /// Tasks of a plain lane ended or were taken back.
    PlainSettled {
        /// The lane's priority.
        priority: Priority,
        /// The lane's fit.
        fit: FitId,
        /// How many.
        tasks: u32,
    },
    /// A dispatched task was handed back, or ended without a run: nothing was spent on it.
    NotRun(EntryId),
    /// A dispatched task's run is over: done, failed or yielded. What comes after it, if
    /// anything, is another arrival.
    Ended {
        /// The task.
        entry: EntryId,
        /// How long it ran.
        cost: Micros,
    },
    /// A running task that can yield told what is left of it.
    Remaining {
        /// The task.
        entry: EntryId,
        /// How much is left to do.
        remaining: Micros,
        /// What stopping here and going on elsewhere costs.
        resume: Micros,
    },
    /// Nothing moves, and the broker says how many tasks lie unpulled or unacknowledged in the bundle
    /// lanes of a fit.
    BundlesCounted {
        /// The fit.
        fit: FitId,
        /// Tasks.
        tasks: u64,
    },
    /// Nothing moves, and the broker says how many tasks lie in a plain lane.
    PlainCounted {
        /// The lane's priority.
        priority: Priority,
        /// The lane's fit.
        fit: FitId,
        /// Tasks.
        tasks: u32,
    },
    /// Dispatch rests.
    Paused,
    /// Dispatch goes on.
    Resumed,
    /// The order of dispatch is another one.
    OrderChanged(Order),
    /// What the process leaves to this queue changed.
    ShareChanged(Share),
}

/// How a task was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// For the first time.
    New,
    /// It had been stored before, under the same message id: whoever did it has counted it.
    Before,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Publish the task to its lane. Answered by [`Event::Settled`] or [`Event::NotStored`].
    Dispatch {
        /// The task.
        entry: EntryId,
        /// Which of the lane's two forms.
        kind: LaneKind,
        /// What it waited for.
        waited: Waited,
    },
    /// Its deadline passed before it started: store the completion. Answered as a dispatch is.
    Expire(EntryId),
    /// Acknowledge it without running it. Answered as a dispatch is.
    Drop(EntryId),
    /// Ask a running task to yield at its next checkpoint. Answered by [`Event::Ended`], sooner or later.
    Yield(EntryId),
    /// Ask for messages of a flow. Answered by [`Event::MessageTaken`] and [`Event::PullEnded`].
    Pull {
        /// The flow.
        flow: FlowId,
        /// At most so many.
        messages: u32,
        /// At most so many bytes. Never ask for less than one message of the largest size: the flow
        /// would stand still.
        bytes: u64,
    },
}

/// How long a task stood in the window, by cause.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waited {
    /// Microseconds in which others were dispatched before it, or dispatch rested.
    pub window_us: u64,
    /// Microseconds in which no executor had room.
    pub credit_us: u64,
}
