//! What happens in a run: the tasks, and the faults. All of it is drawn from a seed beforehand, so that a run can
//! be repeated and a plan can be made smaller without changing what is left.

use crate::broker::Stream;
use crate::world::{MS, SECOND, Time};
use jetlane_schemas::registry::PolicyName;

/// A run.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What it was drawn from; it also sets the delays of messages.
    pub seed: u64,
    /// The order of dispatch.
    pub policy: PolicyName,
    /// Whether types are short enough to share messages.
    pub sharing: Sharing,
    /// How many executors.
    pub executors: usize,
    /// Handlers that run at once on each.
    pub slots: usize,
    /// Tasks that wait on each beside them.
    pub prefetch: usize,
    /// The submissions.
    pub tasks: Vec<Planned>,
    /// The faults.
    pub faults: Vec<Fault>,
}

/// Whether tasks go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Several in a message.
    Bundles,
    /// Each in its own.
    Alone,
}

/// How a task's handler ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// It succeeds, after so many failures.
    After(u32),
    /// It fails for good.
    ForGood,
    /// It takes its process with it, so many times, and then succeeds.
    Poison(u32),
}

/// How a task is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// By an id that is its own.
    Own,
    /// By a key: the same key is the same task while it waits or runs.
    Key,
}

/// A submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// When it is submitted.
    pub at: Time,
    /// The rank of its priority.
    pub rank: usize,
    /// How long its handler runs.
    pub takes: Time,
    /// Retries after the first attempt.
    pub retries: u32,
    /// How its handler ends.
    pub ends: Ends,
    /// How it is named.
    pub naming: Naming,
    /// How long it is delayed.
    pub delay: Option<Time>,
    /// By when it must begin, from its submission.
    pub deadline: Option<Time>,
    /// When it is cancelled, from its submission.
    pub cancel: Option<Time>,
    /// When it is submitted again, from its submission, without a message id.
    pub again: Option<Time>,
    /// What its completion triggers.
    pub callbacks: usize,
}

/// A message's way through the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hop {
    /// A submission to TASKS.
    Submit,
    /// A dispatch to LANES.
    ToLane,
    /// A next run to TIME.
    ToDue,
    /// A completion to DONE.
    ToDone,
    /// A dead letter.
    ToDead,
    /// A callback to be delivered.
    ToCallbacks,
    /// A look-up in DONE.
    ReadDone,
    /// A begin mark, written or read.
    Mark,
    /// A claim of a key.
    Claim,
    /// A cancelled id that is noted.
    Note,
    /// A lease of a leader.
    Lease,
    /// A request about a consumer.
    Consumer,
    /// A pull.
    Pull,
    /// A delivery.
    Deliver,
    /// An ack of the dispatcher's.
    AckFlow,
    /// An ack of an executor's.
    AckLane,
    /// A sign of life for intake.
    HoldFlow,
    /// A sign of life for a run.
    HoldLane,
    /// An executor's credit.
    Credit,
    /// A cancellation, as it is broadcast.
    Cancel,
    /// A question to executors, and its answers.
    Question,
}

impl Hop {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::Submit,
        Self::ToLane,
        Self::ToDue,
        Self::ToDone,
        Self::ToDead,
        Self::ToCallbacks,
        Self::ReadDone,
        Self::Mark,
        Self::Claim,
        Self::Note,
        Self::Lease,
        Self::Consumer,
        Self::Pull,
        Self::Deliver,
        Self::AckFlow,
        Self::AckLane,
        Self::HoldFlow,
        Self::HoldLane,
        Self::Credit,
        Self::Cancel,
        Self::Question,
    ];
}

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The request is lost.
    LoseRequest,
    /// It is carried out, and the answer is lost.
    LoseAnswer,
    /// It arrives twice.
    Repeat,
    /// It arrives later: others overtake it.
    Delay(Time),
    /// Nobody answers for the stream at that moment.
    NoResponders,
}

/// A role with several processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Leads the queue, or stands by.
    Dispatcher,
    /// Runs tasks.
    Executor,
}

/// A place in the code at which a process may die (facts page on reliability, section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Point {
    /// C0: a submitter, before its publish.
    SubmitterBeforePublish,
    /// C1: a submitter, after its publish and before the answer.
    SubmitterAfterPublish,
    /// C2: an executor, while its completion is on its way.
    ExecutorCompleting,
    /// C3: a dispatcher that has read a task and not published it.
    DispatcherBeforePublish,
    /// C4: a dispatcher that has published a task and not acked its source.
    DispatcherBeforeAck,
    /// C5: a dispatcher that takes over.
    DispatcherTakingOver,
    /// C5: a dispatcher that has deleted the consumers of earlier leaders and made none of its own.
    DispatcherWithoutConsumers,
    /// C6: an executor that has a task and has not begun it.
    ExecutorBeforeBegin,
    /// C7: an executor, in the handler.
    ExecutorRunning,
    /// C9: an executor whose handler has ended.
    ExecutorBeforeDone,
    /// C10: an executor that has stored a completion and not acked its message.
    ExecutorBeforeAck,
    /// C7: an executor that has stored the next run and not acked its message.
    ExecutorBeforeRetryAck,
    /// C10: an executor between a completion and its dead letter or callbacks.
    ExecutorBeforeCallbacks,
    /// C6: an executor that has stored a begin mark and not begun.
    ExecutorAfterMark,
    /// C11: a submitter in the middle of a cancellation.
    SubmitterCancelling,
}

impl Point {
    /// All of them. C8 is a poison task, C12 and C13 are the callback service's, C14 is an election, C15 (disk full)
    /// and C16 (DONE's age) need a real broker.
    pub const ALL: [Self; 15] = [
        Self::SubmitterBeforePublish,
        Self::SubmitterAfterPublish,
        Self::ExecutorCompleting,
        Self::DispatcherBeforePublish,
        Self::DispatcherBeforeAck,
        Self::DispatcherTakingOver,
        Self::DispatcherWithoutConsumers,
        Self::ExecutorBeforeBegin,
        Self::ExecutorRunning,
        Self::ExecutorBeforeDone,
        Self::ExecutorBeforeAck,
        Self::ExecutorBeforeRetryAck,
        Self::ExecutorBeforeCallbacks,
        Self::ExecutorAfterMark,
        Self::SubmitterCancelling,
    ];
}

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `count` messages of a hop, from the one with this number on.
    Message {
        /// Of which hop.
        hop: Hop,
        /// The first.
        first: u32,
        /// How many.
        count: u32,
        /// What becomes of them.
        effect: Effect,
    },
    /// Whoever comes to a point as the one with this number dies there.
    Crash {
        /// The point.
        point: Point,
        /// The number.
        nth: u32,
        /// After how long the process is started again.
        down: Time,
    },
    /// A process is killed.
    Kill {
        /// Its role.
        role: Role,
        /// Its number.
        index: usize,
        /// When.
        at: Time,
        /// After how long it is started again.
        down: Time,
    },
    /// A process is frozen.
    Freeze {
        /// Its role.
        role: Role,
        /// Its number.
        index: usize,
        /// When.
        at: Time,
        /// For how long.
        time: Time,
    },
    /// A process has no connection.
    Cut {
        /// Its role.
        role: Role,
        /// Its number.
        index: usize,
        /// When.
        at: Time,
        /// For how long.
        time: Time,
    },
    /// A stream has no leader; all of them where none is named.
    Election {
        /// Which.
        stream: Option<Stream>,
        /// When.
        at: Time,
        /// For how long.
        time: Time,
    },
    /// A message in somebody's hands is delivered again.
    Redeliver {
        /// Of which stream.
        stream: Stream,
        /// When.
        at: Time,
    },
}

/// A stream of numbers (SplitMix64): the same for a seed in every version.
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next_number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number under `end`.
    pub fn under(&mut self, end: u64) -> u64 {
        self.next_number() % end.max(1)
    }

    /// A number of `from..to`.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.under(to - from)
    }

    /// Whether something happens that happens in so many of a hundred cases.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.under(100) < percent
    }

    /// One of these.
    pub fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        let place = self.under(all.len() as u64);
        all[usize::try_from(place).unwrap_or(0)]
    }

    fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.under(end as u64)).unwrap_or(0)
    }
}

/// Spreads neighbouring numbers over all (the finaliser of SplitMix64).
pub fn mix(number: u64) -> u64 {
    let mut z = number;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// So many of a hundred plans are about a leader that freezes and comes back.
const TAKE_OVER_PERCENT: u64 = 5;
/// Requests about consumers before those of the second leader.
const TAKE_OVER_REQUESTS: u32 = 7;
/// Submissions come within this time, and most faults.
const BUSY: Time = 4 * SECOND;

impl Plan {
    /// The plan of a seed.
    pub fn draw(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        if chance.percent(TAKE_OVER_PERCENT) {
            return Self::draw_take_over(seed, &mut chance);
        }
        let executors = 1 + chance.index(3);
        let slots = 1 + chance.index(3);
        let policy = chance.one_of(&PolicyName::ALL);
        let sharing = if chance.percent(50) { Sharing::Bundles } else { Sharing::Alone };
        let count = 3 + chance.index(18);
        let tasks = (0..count).map(|_| Planned::draw(&mut chance)).collect();
        let faults = match chance.under(10) {
            // Without a fault the strictest rules hold.
            0 => 0,
            1..=3 => 1,
            _ => 2 + chance.index(6),
        };
        let faults = (0..faults).map(|_| Fault::draw(&mut chance, count as u64, executors)).collect();
        Self { seed, policy, sharing, executors, slots, prefetch: chance.index(3), tasks, faults }
    }

    /// A leader that freezes, and a successor whose requests about consumers are slow, while much is submitted.
    fn draw_take_over(seed: u64, chance: &mut Chance) -> Self {
        let task = |chance: &mut Chance| {
            let at = chance.between(800, 5_000) * MS;
            let takes = chance.between(1, 30) * MS;
            let planned = Planned { retries: 3, ends: Ends::After(0), takes, again: None, ..Planned::draw(chance) };
            Planned { at, naming: Naming::Own, delay: None, deadline: None, cancel: None, ..planned }
        };
        let tasks = (0..15).flat_map(|_| {
            let first = task(chance);
            [first, Planned { at: first.at + chance.under(2_000), ..first }]
        });
        let tasks = tasks.collect();
        let index = chance.index(2);
        let time = chance.between(1_500, 12_000) * MS;
        let mut faults =
            vec![Fault::Freeze { role: Role::Dispatcher, index, at: chance.between(300, 1_500) * MS, time }];
        let effect = Effect::Delay(chance.between(300, 4_900) * MS);
        let first = TAKE_OVER_REQUESTS + chance.under(6) as u32;
        faults.push(Fault::Message { hop: Hop::Consumer, first, count: 1, effect });
        let policy = chance.one_of(&PolicyName::ALL);
        Self { seed, policy, sharing: Sharing::Bundles, executors: 2, slots: 2, prefetch: 2, tasks, faults }
    }

    /// Whether nothing fails but handlers: then the strictest rules hold.
    pub fn is_quiet(&self) -> bool {
        self.faults.is_empty() && !self.tasks.iter().any(|task| matches!(task.ends, Ends::Poison(_)))
    }
}

impl Planned {
    fn draw(chance: &mut Chance) -> Self {
        let retries = chance.one_of(&[0, 0, 1, 3]);
        let ends = match chance.under(12) {
            0 => Ends::ForGood,
            1 => Ends::Poison(1 + chance.under(3) as u32),
            2 | 3 => Ends::After(1 + chance.under(2) as u32),
            _ => Ends::After(0),
        };
        let takes = match chance.under(10) {
            0 => chance.between(3_000, 25_000) * MS,
            1..=3 => chance.between(100, 2_000) * MS,
            _ => chance.between(1, 50) * MS,
        };
        let some = |chance: &mut Chance, percent, from: u64, to: u64| {
            chance.percent(percent).then(|| chance.between(from, to) * MS)
        };
        Self {
            // Many at the same moment: they share messages.
            at: if chance.percent(60) { chance.under(3) * 700 * MS } else { chance.under(BUSY) },
            rank: chance.index(2),
            takes,
            retries,
            ends,
            naming: if chance.percent(15) { Naming::Key } else { Naming::Own },
            delay: some(chance, 10, 0, 3_000),
            deadline: some(chance, 8, 1, 4_000),
            cancel: some(chance, 15, 0, 4_000),
            again: some(chance, 15, 0, 9_000),
            callbacks: if chance.percent(25) { 1 + chance.index(2) } else { 0 },
        }
    }
}

impl Fault {
    fn draw(chance: &mut Chance, tasks: u64, executors: usize) -> Self {
        let role = |chance: &mut Chance| {
            if chance.percent(40) {
                (Role::Dispatcher, chance.index(2))
            } else {
                (Role::Executor, chance.index(executors))
            }
        };
        let at = |chance: &mut Chance| chance.under(2 * BUSY);
        match chance.under(10) {
            0..=3 => {
                let hop = chance.one_of(&Hop::ALL);
                // Leases, signs of life and credit come again and again.
                let messages = match hop {
                    Hop::Lease | Hop::Credit | Hop::HoldFlow | Hop::HoldLane | Hop::Pull => 60,
                    Hop::Consumer => 12,
                    _ => tasks + 4,
                };
                let first = chance.under(messages) as u32;
                let count = if chance.percent(75) { 1 } else { 1 + chance.under(6) as u32 };
                let effect = match chance.under(6) {
                    0 => Effect::LoseRequest,
                    1 | 2 => Effect::LoseAnswer,
                    3 => Effect::Repeat,
                    4 => Effect::Delay(chance.between(1, 12_000) * MS),
                    _ => Effect::NoResponders,
                };
                Self::Message { hop, first, count, effect }
            }
            4..=5 => {
                let down = chance.between(50, 4_000) * MS;
                Self::Crash { point: chance.one_of(&Point::ALL), nth: chance.under(tasks / 2 + 2) as u32, down }
            }
            6 => {
                let (role, index) = role(chance);
                Self::Kill { role, index, at: at(chance), down: chance.between(50, 4_000) * MS }
            }
            7 => {
                let (role, index) = role(chance);
                let time = if chance.percent(60) { chance.between(100, 4_000) } else { chance.between(4_000, 30_000) };
                Self::Freeze { role, index, at: at(chance), time: time * MS }
            }
            8 => {
                let (role, index) = role(chance);
                let time = if chance.percent(60) { chance.between(100, 4_000) } else { chance.between(4_000, 30_000) };
                Self::Cut { role, index, at: at(chance), time: time * MS }
            }
            _ => {
                let at = at(chance);
                if chance.percent(50) {
                    let stream = chance.one_of(&[Stream::Tasks, Stream::Time, Stream::Lanes]);
                    return Self::Redeliver { stream, at };
                }
                let stream = if chance.percent(30) { None } else { Some(chance.one_of(&Stream::ALL)) };
                Self::Election { stream, at, time: chance.between(100, 9_000) * MS }
            }
        }
    }

    /// Until when it may do something by itself; `None` for those that wait for a message or a point.
    pub fn ends_at(&self) -> Option<Time> {
        match *self {
            Self::Message { .. } | Self::Crash { .. } => None,
            Self::Kill { at, down, .. } => Some(at + down),
            Self::Freeze { at, time, .. } | Self::Cut { at, time, .. } | Self::Election { at, time, .. } => {
                Some(at + time)
            }
            Self::Redeliver { at, .. } => Some(at),
        }
    }
}
