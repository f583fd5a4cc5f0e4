//! What executors tell the leader of their queue: room, and what became of runs.

use crate::codec::{self, Bincode, CodecError, Wire};
use crate::id::TaskId;
use crate::token::TaskType;
use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// What an executor tells the leader of its queue. Totals, so that a lost message heals with the next;
/// the runs and what remains of those under way are told once, and a lost one costs a measurement.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(default)]
pub struct Credit {
    /// The executor: a name that is new at every start.
    pub executor: String,
    /// Handlers that run at once, at most; 0 where it did not say.
    pub slots: u32,
    /// Slots plus prefetch, already reduced by its own resource pressure; 0 while it drains.
    pub capacity: u32,
    /// Tasks received from lanes since it started.
    pub taken: u64,
    /// Tasks settled since it started: completed, retried, handed back.
    pub settled: u64,
    /// The fits that it satisfies.
    pub fits: Vec<String>,
    /// The same totals for each of these fits, in their order; empty where it serves one fit by its
    /// capacity alone.
    pub of_fits: Vec<OfFit>,
    /// Runs that ended since it told last; at most [`RUNS_TOLD_MAX`].
    pub runs: Vec<RunEnded>,
    /// What remains of runs under way that can yield, where it was told since.
    pub remaining: Vec<Remaining>,
}

/// What an executor tells of one of its fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct OfFit {
    /// How many more of its tasks processors, memory and custom resources have room for.
    pub room: u32,
    /// Its tasks received since the executor started.
    pub taken: u64,
    /// Its tasks settled since.
    pub settled: u64,
}

/// The most ended runs, and the most remaining times, of one announcement; the rest follows in the next.
pub const RUNS_TOLD_MAX: usize = 512;

impl Wire<'_> for Credit {
    const KIND: u8 = 2;
    const VERSION: u16 = 3;
}

/// A run that ended.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct RunEnded {
    /// The task's type; `None` from an executor whose frames did not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_type: Option<TaskType>,
    /// The task.
    pub id: TaskId,
    /// Which of its runs.
    pub run: u32,
    /// How long the handler ran, in microseconds.
    pub run_us: u64,
    /// How it ended.
    pub end: RunEnd,
}

/// How a run ended, as far as estimates are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub enum RunEnd {
    /// The handler returned its output: the run time is the task's.
    Done,
    /// It failed or its time was up: the task takes at least so long.
    Broken,
    /// It yielded: the rest is to come.
    Yielded,
    /// It was handed back, or the handler did not run.
    NotRun,
}

/// What remains of a run that can yield.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Remaining {
    /// The task's type; `None` from an executor whose frames did not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_type: Option<TaskType>,
    /// The task.
    pub id: TaskId,
    /// Which of its runs.
    pub run: u32,
    /// How much is left to do, in microseconds.
    pub remaining_us: u64,
    /// What stopping here and going on elsewhere costs, in microseconds.
    pub resume_us: u64,
}

/// The second version, in which runs were named by their ids alone. Still read.
#[derive(Debug, Clone, Default, Encode, Decode, Serialize, Deserialize)]
#[serde(default)]
struct CreditV2 {
    executor: String,
    slots: u32,
    capacity: u32,
    taken: u64,
    settled: u64,
    fits: Vec<String>,
    of_fits: Vec<OfFit>,
    runs: Vec<RunEndedV2>,
    remaining: Vec<RemainingV2>,
}

#[derive(Debug, Clone, Encode, Decode, Serialize, Deserialize)]
struct RunEndedV2 {
    id: TaskId,
    run: u32,
    run_us: u64,
    end: RunEnd,
}

#[derive(Debug, Clone, Encode, Decode, Serialize, Deserialize)]
struct RemainingV2 {
    id: TaskId,
    run: u32,
    remaining_us: u64,
    resume_us: u64,
}

impl Wire<'_> for CreditV2 {
    const KIND: u8 = <Credit as Wire<'_>>::KIND;
    const VERSION: u16 = 2;
}

impl From<CreditV2> for Credit {
    fn from(wire: CreditV2) -> Self {
        let CreditV2 { executor, slots, capacity, taken, settled, fits, of_fits, runs, remaining } = wire;
        let runs = runs
            .into_iter()
            .map(|RunEndedV2 { id, run, run_us, end }| RunEnded { task_type: None, id, run, run_us, end })
            .collect();
        let remaining = remaining
            .into_iter()
            .map(|RemainingV2 { id, run, remaining_us, resume_us }| Remaining {
                task_type: None,
                id,
                run,
                remaining_us,
                resume_us,
            })
            .collect();
        Self { executor, slots, capacity, taken, settled, fits, of_fits, runs, remaining }
    }
}

/// The first version, which is still read.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
struct CreditV1 {
    executor: String,
    capacity: u32,
    taken: u64,
    settled: u64,
    fits: Vec<String>,
}

impl Wire<'_> for CreditV1 {
    const KIND: u8 = <Credit as Wire<'_>>::KIND;
    const VERSION: u16 = 1;
}

impl From<CreditV1> for Credit {
    fn from(wire: CreditV1) -> Self {
        let CreditV1 { executor, capacity, taken, settled, fits } = wire;
        Self { executor, capacity, taken, settled, fits, ..Self::default() }
    }
}

impl Credit {
    /// Writes the frame.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode_frame::<Bincode, Self>(self)
    }

    /// Reads the frame, of any version.
    pub fn decode(frame: &[u8]) -> Result<Self, CodecError> {
        match codec::version_of(frame) {
            Some(<CreditV1 as Wire<'_>>::VERSION) => codec::decode_frame::<CreditV1>(frame).map(Self::from),
            Some(<CreditV2 as Wire<'_>>::VERSION) => codec::decode_frame::<CreditV2>(frame).map(Self::from),
            _ => codec::decode_frame(frame),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::encode_frame;

    #[test]
    fn credit_of_the_first_version_is_still_read() {
        let old = CreditV1 { executor: "e".into(), capacity: 4, taken: 9, settled: 7, fits: vec!["any".into()] };
        let frame = encode_frame::<Bincode, _>(&old).expect("encodes");
        let read = Credit::decode(&frame).expect("decodes");
        assert_eq!((read.capacity, read.taken, read.settled, read.runs.len()), (4, 9, 7, 0));
    }
}
