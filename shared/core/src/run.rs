//! Decides what an executor does with a delivered run: begin, adopt, wait for its owner, take apart, end or
//! drop. No I/O: the executor gathers the evidence, this module decides, and the simulation drives the same
//! code (design, decision 19: a delivery is not an attempt).

use jetlane_schemas::Micros;
use jetlane_schemas::inquiry::MarkStage;
use std::time::Duration;

/// How long a run waits for an owner whose connection is gone. Longer than a reconnect: pauses of 2 s at most,
/// connecting 5 s at most, and the elections of a cluster.
pub const RECONNECT_GRACE: Duration = Duration::from_secs(10);
/// How long a finished result is kept for a broker that is away, and how long a run waits for an owner that is
/// connected and silent (frozen, or cut off). The longest outage that costs no finished work.
pub const OUTAGE_MAX: Duration = Duration::from_secs(5 * 60);

/// Whether a message is in the hands of this executor already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Custody {
    /// This executor holds an earlier delivery of the same message.
    Held,
    /// It does not.
    New,
}

/// Whether a delivery may have lain unread for longer than the server waits for its ack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// It was read soon after it was sent.
    Fresh,
    /// It may be older than its ack wait: another executor may have it.
    Stale,
}

/// A delivered message of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrived {
    /// How often it has been delivered, this time included.
    pub delivered: u64,
    /// How many tasks it carries.
    pub tasks: usize,
    /// Whether it was read in time.
    pub freshness: Freshness,
    /// Whether an earlier delivery of it is held here.
    pub custody: Custody,
}

/// What an executor does with a delivered message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reception {
    /// Takes its tasks in hand.
    Open,
    /// Goes on with the runs that it holds, under the lease of this delivery.
    Adopt,
    /// Sends its tasks on one by one: a task that kills its executors takes no neighbour with it.
    TakeApart,
}

/// Decides what happens to a delivered message.
pub fn receive(arrived: Arrived) -> Reception {
    let is_first = arrived.delivered <= 1 && arrived.freshness == Freshness::Fresh;
    match arrived.custody {
        Custody::Held => Reception::Adopt,
        Custody::New if arrived.tasks > 1 && !is_first => Reception::TakeApart,
        Custody::New => Reception::Open,
    }
}

/// A run that was delivered, as its task and its message say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The number of the run.
    pub run: u32,
    /// Attempts spent before it.
    pub attempts: u32,
    /// Retries after the first attempt.
    pub retries: u32,
    /// How often the task has yielded: one that yielded has begun.
    pub yields: u32,
    /// Until when the task must have begun.
    pub deadline: Option<Micros>,
    /// How often its message has been delivered, this time included.
    pub delivered: u64,
    /// Whether its message was read in time.
    pub freshness: Freshness,
    /// Whether its dispatcher, or whoever sent it on, did not know whether it had run.
    pub suspicion: Suspicion,
}

/// What whoever sent a run knew of earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suspicion {
    /// No earlier one can have begun.
    None,
    /// It may have begun, or even ended, elsewhere.
    Suspect,
}

/// The mark that a run left behind before its handler began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The run that began.
    pub run: u32,
    /// How many times it began, as far as is known. 0 for a run that is stored and has not begun.
    pub begun: u32,
    /// How far it came.
    pub stage: MarkStage,
}

impl Mark {
    /// The mark of the run that follows: it is stored and has not begun.
    pub fn next(self) -> Self {
        Self { run: self.run.saturating_add(1), begun: 0, stage: MarkStage::Begun }
    }

    /// The mark of the same run once its handler has answered with a next run.
    pub fn answered(self) -> Self {
        Self { stage: MarkStage::Answered, ..self }
    }
}

/// What those who may run a task answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Nobody was asked, or nobody is known to have begun it.
    Unknown,
    /// An executor runs it, or holds its result.
    Runs,
    /// The executor that began it is connected and does not answer: frozen, or cut off.
    Silent,
    /// The executor that began it has no connection: dead, or about to reconnect.
    Gone,
    /// The executor that began it says that it does not run it any more.
    Disowns,
    /// The executor that stored its mark says that the handler never began.
    NeverBegan,
}

/// What is known of a run from elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evidence {
    /// Whether the task has a completion.
    pub is_done: bool,
    /// Whether the task is known to be cancelled.
    pub is_cancelled: bool,
    /// The mark of another token, if there is one.
    pub mark: Option<Mark>,
    /// What its owner answers.
    pub owner: Owner,
    /// How long this executor has waited for its owner, connected without a break.
    pub waited: Duration,
}

impl Evidence {
    /// Nothing speaks against the run.
    pub const NONE: Self =
        Self { is_done: false, is_cancelled: false, mark: None, owner: Owner::Unknown, waited: Duration::ZERO };
}

/// What an executor does with a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The handler begins.
    Begin(Begin),
    /// It has completed: what follows from that is made sure of, and its message acked.
    Completed,
    /// It was cancelled: the handler never begins.
    Cancelled,
    /// A later run of the task has begun: this one is acked away.
    Superseded,
    /// Another executor runs it: this delivery is left to that one.
    LeaveToOwner,
    /// Another executor may run it and may be back: ask again.
    WaitForOwner,
    /// It had not begun by its deadline.
    Expired,
    /// Each of these runs took its executor with it.
    Crashed {
        /// Runs that began, as far as is known.
        runs: u32,
    },
}

/// How a handler begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begin {
    /// The attempt that counts against the retries.
    pub attempt: u32,
    /// Runs that may have begun and ended with their executors.
    pub crashes: u32,
    /// Whether a mark is stored first.
    pub marking: Marking,
}

impl Begin {
    /// The number of the attempt as people read it: with the runs that ended with their executors.
    pub fn number(self) -> u32 {
        self.attempt.saturating_add(self.crashes)
    }
}

/// Whether a mark is stored before a handler begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marking {
    /// None: a first delivery that may be repeated costs no request.
    None,
    /// This one, or the run does not begin.
    Store(Mark),
}

/// The most runs of one hand-over that may end with their executors: as many as the task may have attempts.
/// Counted apart from the attempts that failed.
pub fn crashes_max(retries: u32) -> u32 {
    retries.saturating_add(1)
}

/// Whether other executors are asked for a run before it begins: another delivery of its message may have
/// begun, or it must not begin twice and may have begun.
pub fn needs_inquiry(run: &Run) -> bool {
    is_redelivered(run) || (run.retries == 0 && run.suspicion == Suspicion::Suspect)
}

/// Whether everybody is asked who runs it: its message was delivered before, so that an executor may hold it.
/// Of another copy of a task without retries its mark tells who began it.
pub fn is_asked_of_everybody(run: &Run) -> bool {
    is_redelivered(run)
}

/// Whether a mark says that this run, or a copy of it, has begun. A task without retries that was handed back before
/// it began may have a copy with a lower number; of others an earlier run is over.
pub fn counts(run: &Run, mark: Mark) -> bool {
    match mark.run.cmp(&run.run) {
        std::cmp::Ordering::Equal => mark.begun > 0,
        std::cmp::Ordering::Less => run.retries == 0 && mark.begun > 0 && mark.stage == MarkStage::Begun,
        std::cmp::Ordering::Greater => false,
    }
}

/// Whether a mark is stored before the handler of a run begins: the task must not run twice, or an executor
/// may have died of it.
pub fn is_marked(run: &Run) -> bool {
    run.retries == 0 || is_redelivered(run)
}

fn is_redelivered(run: &Run) -> bool {
    run.delivered > 1 || run.freshness == Freshness::Stale
}

/// Decides what happens to a run.
pub fn judge(run: &Run, evidence: &Evidence, now: Micros) -> Verdict {
    if evidence.is_done {
        return Verdict::Completed;
    }
    if evidence.is_cancelled {
        return Verdict::Cancelled;
    }
    if evidence.owner == Owner::Runs {
        return Verdict::LeaveToOwner;
    }
    if evidence.mark.is_some_and(|mark| mark.run > run.run) {
        return Verdict::Superseded;
    }
    let mark = evidence.mark.filter(|mark| counts(run, *mark) && evidence.owner != Owner::NeverBegan);
    if mark.is_some() && evidence.waited < patience(run, evidence.owner) {
        return Verdict::WaitForOwner;
    }
    let crashes = crashes(run, mark);
    // One that yielded had begun, and so had one whose executor died.
    let is_first = run.attempts == 0 && run.yields == 0 && crashes == 0;
    if is_first && run.deadline.is_some_and(|deadline| now > deadline) {
        return Verdict::Expired;
    }
    if crashes >= crashes_max(run.retries) {
        return Verdict::Crashed { runs: crashes };
    }
    if run.attempts > run.retries {
        // Written before a crash was counted apart from an attempt.
        return Verdict::Crashed { runs: run.attempts };
    }
    let begun = Mark { run: run.run, begun: crashes.saturating_add(1), stage: MarkStage::Begun };
    let marking = if is_marked(run) { Marking::Store(begun) } else { Marking::None };
    Verdict::Begin(Begin { attempt: run.attempts.saturating_add(1), crashes, marking })
}

/// How long a run waits for the executor that began it. One that may be repeated waits for nobody who does not
/// answer; one that may not is reported as crashed only when its owner will not be back.
fn patience(run: &Run, owner: Owner) -> Duration {
    match owner {
        _ if run.retries > 0 => Duration::ZERO,
        Owner::Disowns | Owner::NeverBegan => Duration::ZERO,
        Owner::Silent => OUTAGE_MAX,
        Owner::Gone | Owner::Unknown | Owner::Runs => RECONNECT_GRACE,
    }
}

/// How many runs of this hand-over may have begun and ended with their executors. Without a mark only the first
/// delivery can have begun, and not where a mark would have been stored before. A run that has answered did not end with
/// its executor, but one that must not run twice does not begin again.
fn crashes(run: &Run, mark: Option<Mark>) -> u32 {
    match mark {
        Some(mark) if mark.stage == MarkStage::Answered && run.retries > 0 => mark.begun.saturating_sub(1),
        Some(mark) => mark.begun,
        None if run.retries == 0 => 0,
        None => u32::from(run.delivered > 1),
    }
}

/// The lease of a run whose handler has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// It holds.
    Holds,
    /// It is over, and nobody else is known to run the task: it may be won back.
    Lapsed,
    /// Another executor runs the task.
    Lost,
}

/// What a handler answered, as far as its settlement goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// It succeeded: the first completion that is stored wins, whoever holds the task.
    Success,
    /// It failed, yields or is retried: the task's next step belongs to whoever holds it.
    Step,
}

/// What an executor does with what a handler answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// Stores it.
    Store,
    /// Keeps it until the lease is won back or lost.
    Keep,
    /// Leaves it: the task goes on elsewhere.
    Leave,
}

/// Decides what happens to an answer that a handler gave `ago`.
pub fn settle(answered: Answered, hold: Hold, ago: Duration) -> Settlement {
    match (answered, hold) {
        (Answered::Success, _) | (Answered::Step, Hold::Holds) => Settlement::Store,
        (Answered::Step, Hold::Lapsed) if ago < OUTAGE_MAX => Settlement::Keep,
        (Answered::Step, Hold::Lapsed | Hold::Lost) => Settlement::Leave,
    }
}

#[cfg(test)]
mod tests;
